"""What each RPC method does: one file a group, thin over the store."""
