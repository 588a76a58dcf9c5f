"""How clients reach the daemon: protocol, blocking and streaming clients, discovery."""
