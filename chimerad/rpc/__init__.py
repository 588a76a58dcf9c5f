"""JSON-RPC 2.0 over a Unix socket, one message a line.

server       the component: start, stop
listener     the socket file, its modes, who may connect
connection   one client: order, bounds, back-pressure; framing: its lines
envelope     is it a JSON-RPC call?   dispatch   from a line to its reply   validation   typed parameters
replies      the bytes of an answer
contract     the table of methods; parameters and results are its types; openrpc and reference describe it
methods      what each method does; context: what it may use
"""

from chimerad.rpc.context import ServiceInfo
from chimerad.rpc.server import RpcServer

__all__ = ["RpcServer", "ServiceInfo"]
