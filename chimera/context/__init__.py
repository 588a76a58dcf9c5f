"""What is put into a context beside the conversation: memory files (agent_memory)."""
