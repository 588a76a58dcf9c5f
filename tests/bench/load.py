"""The load: clients that keep appends in flight and count the answers by their newlines.

A program of its own (one JSON object in, one out), standard library only, so that it stays light beside the
daemon it measures. Requests are encoded once; nothing of an answer is decoded unless it is an error.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from typing import Any

DRAIN_SECONDS = 20.0
PAUSE_WHEN_REFUSED = 0.002
RECEIVE_BYTES = 1 << 17
"""One buffer for all clients: a fresh object of this size for each answer would cost more than the call itself."""


def request_line(session_id: str, batch: int, metadata_bytes: int) -> bytes:
    """One ``sessions.append`` of ``batch`` events whose metadata is ``metadata_bytes`` of compact JSON."""
    shell = '{"tool":"Read","result":""}'
    metadata = {"tool": "Read", "result": "x" * (metadata_bytes - len(shell))}
    event = {"type": "tool_result", "metadata": metadata}
    params = {"session_id": session_id, "events": [event] * batch}
    message = {"jsonrpc": "2.0", "id": 1, "method": "sessions.append", "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Count:
    """What came back: calls answered, errors among them, times of answers, and a count for each second."""

    def __init__(self, warm_up: float, seconds: float) -> None:
        self.answered = self.errors = self.at_start = self.at_end = 0
        self.first_error = ""
        self.latencies: list[float] = []
        self.slices: list[int] = []
        self.begin = time.perf_counter() + warm_up
        self.seconds = seconds
        self.end = self.begin + seconds
        self.started_at = self.ended_at = 0.0
        self.next_slice = self.begin + 1.0

    def refused(self, chunk: bytes) -> None:
        self.errors += chunk.count(b'"error":')
        if not self.first_error:
            self.first_error = next(line for line in chunk.split(b"\n") if b'"error":' in line).decode()[:400]

    def goes_on(self, now: float) -> bool:
        """Keep the marks of time; False when the measured time is over."""
        if not self.started_at:
            if now >= self.begin:
                self.started_at, self.at_start = now, self.answered - self.errors
                self.end = now + self.seconds  # a slow machine answers late; it is measured as long
        elif now >= self.next_slice:
            self.slices.append(self.answered - self.errors)
            self.next_slice += 1.0
        if now < self.end:
            return True
        self.ended_at, self.at_end = now, self.answered - self.errors
        return False


def one_at_a_time(path: str, request: bytes, count: Count) -> None:
    """One client, one call in flight, blocking: the lightest there is."""
    client = connected(path)
    send, receive, clock = client.sendall, client.recv, time.perf_counter
    latencies = count.latencies
    before = clock()
    while count.goes_on(before):
        send(request)
        chunk = receive(65536)
        if not chunk.endswith(b"\n"):
            chunk += rest_of_line(client)
        now = clock()
        latencies.append(now - before)
        before = now
        count.answered += 1
        if b'"error":' in chunk:
            count.refused(chunk)
            time.sleep(PAUSE_WHEN_REFUSED)
            before = clock()
    client.close()


def many_at_once(path: str, requests: list[bytes], in_flight: int, count: Count) -> None:
    """Many clients in one process by epoll, each with ``in_flight`` calls under way."""
    poll = select.epoll()
    buffer = bytearray(RECEIVE_BYTES)
    clients: dict[int, tuple[Any, Any, memoryview, int]] = {}
    waiting: dict[int, int] = {}
    sent_at: dict[int, float] = {}
    for request in requests:
        client = connected(path)
        poll.register(client.fileno(), select.EPOLLIN)
        window = memoryview(request * in_flight)
        clients[client.fileno()] = (client.recv_into, client.sendall, window, len(request))
        waiting[client.fileno()] = in_flight
    for number, (_, send, window, _) in clients.items():
        sent_at[number] = time.perf_counter()
        send(window)
    going = True
    give_up = count.end + DRAIN_SECONDS
    while going or any(waiting.values()):
        ready = poll.poll(1.0)
        now = time.perf_counter()
        if going:
            going = count.goes_on(now)
        if now > give_up:
            break
        for number, _ in ready:
            receive, send, window, size = clients[number]
            received = receive(buffer)
            if not received:
                raise EOFError("the daemon closed a connection")
            answers = buffer.count(b"\n", 0, received)
            waiting[number] -= answers
            count.answered += answers
            if buffer.find(b'"error":', 0, received) >= 0:
                count.refused(bytes(buffer[:received]))
                time.sleep(PAUSE_WHEN_REFUSED)
            if going and answers:
                if in_flight == 1:
                    count.latencies.append(now - sent_at[number])
                    sent_at[number] = now
                waiting[number] += answers
                send(window[: answers * size])


def connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(path)
    return client


def rest_of_line(client: socket.socket) -> bytes:
    chunk = b""
    while not chunk.endswith(b"\n"):
        part = client.recv(65536)
        if not part:
            raise EOFError("the daemon closed the connection")
        chunk += part
    return chunk


def subscribe(path: str) -> dict[str, Any]:
    """Follow every session and count, until standard input is closed."""
    client = connected(path)
    message = {"jsonrpc": "2.0", "id": 1, "method": "sessions.subscribe", "params": {"session_id": "*"}}
    client.sendall(json.dumps(message).encode() + b"\n")
    answer = rest_of_line(client)
    if b'"error":' in answer:
        raise RuntimeError(answer.decode())
    print("ready", flush=True)
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    buffer = bytearray(RECEIVE_BYTES)
    notifications = lagged = size = 0
    while True:
        ready = dict(poll.poll())
        if client.fileno() in ready:
            received = client.recv_into(buffer)
            if not received:
                break
            notifications += buffer.count(b"\n", 0, received)
            lagged += buffer.count(b'"session.lagged"', 0, received)
            size += received
        elif sys.stdin.fileno() in ready:
            break
    return {"notifications": notifications, "lagged": lagged, "bytes": size}


def append(spec: dict[str, Any]) -> dict[str, Any]:
    sessions, connections = spec["sessions"], spec["connections"]
    requests = [
        request_line(sessions[number % len(sessions)], spec["batch"], spec["metadata_bytes"])
        for number in range(connections)
    ]
    gc.disable()
    count = Count(spec["warm_up"], spec["seconds"])
    if connections == 1 and spec["in_flight"] == 1:
        one_at_a_time(spec["socket"], requests[0], count)
    else:
        many_at_once(spec["socket"], requests, spec["in_flight"], count)
    latencies = sorted(count.latencies)
    return {
        "calls": count.at_end - count.at_start,
        "seconds": count.ended_at - count.started_at,
        "events_in_all": (count.answered - count.errors) * spec["batch"],
        "errors": count.errors,
        "first_error": count.first_error,
        "p50_us": latencies[len(latencies) // 2] * 1e6 if latencies else None,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6 if latencies else None,
        "slices": [
            after - before for before, after in zip([count.at_start, *count.slices], count.slices, strict=False)
        ],
    }


def main() -> None:
    spec = json.loads(sys.stdin.readline())
    found = subscribe(spec["socket"]) if spec["mode"] == "subscribe" else append(spec)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
