"""What a session's tools do to files: seen, and kept so that it can be taken back."""
