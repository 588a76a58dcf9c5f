"""The socket: listener, connections, dispatch, the contract and its methods."""
