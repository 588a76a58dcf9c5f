"""One client's connection: order, bounds, back-pressure, and clients that do not behave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from chimera.errors import NotPermitted, OwnerRunning
from chimerad.rpc import connection as connection_module
from chimerad.rpc.framing import LineSplitter
from chimerad.rpc.listener import SocketFile
from chimerad.rpc.replies import MAX_LINE_BYTES
from tests.support.memory_store import Serving, append, request, serving, until


def run(tmp_path: Path, scenario: Callable[[Serving], Awaitable[None]]) -> None:
    async def serve() -> None:
        async with serving(tmp_path) as served:
            await scenario(served)

    asyncio.run(serve())


# Order.


def test_appends_overlap_and_any_other_call_waits_for_them(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        store = served.store
        store.holding = True
        client = await served.connect()
        await client.send(append("a"), append("b"), request("sessions.read", 2, session_id="a"), append("c", 3))
        await until(lambda: len(store.held) == 2)
        bystander = await served.connect()
        await bystander.call("daemon.hello")
        assert store.calls == ["append a", "append b"]
        store.answer()
        await until(lambda: store.held)
        assert store.calls == ["append a", "append b", "read a", "append c"]
        store.answer()
        assert [(await client.read())["id"] for _ in range(4)] == [1, 1, 2, 3]

    run(tmp_path, scenario)


def test_what_follows_a_call_waits_for_it(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        store = served.store
        store.gate.clear()
        client = await served.connect()
        await client.send(request("sessions.read", 1, session_id="a"), append("a", 2))
        await until(lambda: store.calls)
        bystander = await served.connect()
        await bystander.send(append("b"))
        await bystander.read()
        assert store.calls == ["read a", "append b"]
        store.gate.set()
        assert [(await client.read())["id"], (await client.read())["id"]] == [1, 2]

    run(tmp_path, scenario)


def test_a_reply_precedes_the_notification_that_it_causes(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        call = request("sessions.subscribe", 1, session_id="a")
        for line in (call, b"[" + call + b"]"):
            await client.send(line)
            reply, event = await client.read(), await client.read()
            assert (reply[0] if isinstance(reply, list) else reply)["result"]["subscription"] == "sub-1"
            assert event["method"] == "session.event"

    run(tmp_path, scenario)


def test_what_one_turn_of_the_loop_answers_leaves_in_one_write(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        served.store.holding = True
        client = await served.connect()
        await client.send(*(append("a", number) for number in range(50)))
        await until(lambda: len(served.store.held) == 50)
        served.store.answer()
        received = await client.reader.read(1 << 20)
        assert received.count(b"\n") == 50

    run(tmp_path, scenario)


# Bounds.


def test_at_most_1024_appends_of_a_connection_are_in_flight(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        store = served.store
        store.holding = True
        client = await served.connect()
        sending = asyncio.ensure_future(client.send(*(append("a", number) for number in range(3000))))
        await until(lambda: len(store.held) == 1024)
        bystander = await served.connect()
        for _ in range(5):
            await bystander.call("daemon.hello")
        assert len(store.held) == 1024
        answered = 0
        while answered < 3000:
            await until(lambda: store.held)
            assert len(store.held) <= 1024
            count = len(store.held)
            store.answer()
            for _ in range(count):
                await client.read()
            answered += count
        await sending

    run(tmp_path, scenario)


def test_at_most_32_mib_of_appends_of_a_connection_are_in_flight(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        store = served.store
        store.holding = True
        client = await served.connect()
        line = append("a", content="x" * (4 << 20))
        sending = asyncio.ensure_future(client.send(*[line] * 12))
        await until(lambda: len(store.held) == 8)
        bystander = await served.connect()
        for _ in range(5):
            await bystander.call("daemon.hello")
        assert len(store.held) == 8
        store.answer()
        await until(lambda: len(store.held) == 4)
        await sending
        store.answer()

    run(tmp_path, scenario)


def test_large_calls_are_overloaded_while_too_much_is_held_and_small_ones_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_HELD_BYTES", 1 << 20)

    async def scenario(served: Serving) -> None:
        store = served.store
        store.holding = True
        first, second = await served.connect(), await served.connect()
        await first.send(append("a", content="x" * (900 << 10)))
        await until(lambda: store.held)
        await second.send(append("b", 7, content="x" * (200 << 10)))
        refused = await second.read()
        assert refused["id"] == 7
        assert refused["error"]["code"] == -32001
        assert refused["error"]["data"]["kind"] == "overloaded"
        assert "result" in await second.call("daemon.hello")
        store.answer()
        await first.read()
        await second.send(append("b", 8, content="x" * (200 << 10)))
        await until(lambda: store.held)
        store.answer()
        assert "result" in await second.read()
        assert [call for call in store.calls if call == "append b"] == ["append b"]

    run(tmp_path, scenario)


def test_held_bytes_are_given_back_whatever_happens(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        await client.send(append("a"), b"no json", request("sessions.read", 1, session_id="a"), append("a"))
        for _ in range(4):
            await client.read()
        client.writer.write(b"half a line")
        await client.writer.drain()
        await client.close()
        await until(lambda: served.store.dropped)
        await until(lambda: served.server._load.held == 0)

    run(tmp_path, scenario)


def test_a_line_of_16_mib_is_served_and_a_longer_one_refused(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        line = append("a", content="")
        line = append("a", content="x" * (MAX_LINE_BYTES - len(line)))
        assert len(line) == MAX_LINE_BYTES
        await client.send(line)
        assert (await client.read())["result"]["last_seq"] == 1
        await client.send(append("b"), line + b" ", append("c"))
        assert "result" in await client.read()
        refused = await client.read()
        assert refused["id"] is None
        assert refused["error"]["code"] == -32600
        assert await client.reader.read() == b""
        assert served.store.calls == ["append a", "append b"]
        await client.close()
        await (await served.connect()).call("daemon.hello")
        await until(lambda: served.server._load.held == 0)

    run(tmp_path, scenario)


def test_a_client_that_sends_100_mib_without_a_newline_can_read_why_it_is_refused(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        for _ in range(100):
            client.writer.write(b"x" * (1 << 20))
            await client.writer.drain()
        client.writer.write_eof()
        assert (await client.read())["error"]["code"] == -32600
        assert await client.reader.read() == b""

    run(tmp_path, scenario)


def test_lines_come_whole_out_of_any_chunks() -> None:
    lines = [b"a", b"", b"bcd" * 50, "\N{SNOWMAN}".encode(), b"e"]
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    for size in (1, 2, 3, 7, 64, 1000):
        splitter = LineSplitter()
        found = [line for at in range(0, len(stream), size) for line in splitter.feed(stream[at : at + size])]
        assert found == lines
        assert splitter.unfinished_bytes == len(b"rest")


def test_a_client_that_never_reads_is_not_read_and_holds_nobody_up(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        store = served.store
        client = await served.connect()
        await client.send(append("a", content="x" * 100_000))
        await client.read()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        line = request("sessions.read", 1, session_id="a")
        client.writer.write((line + b"\n") * 60_000)
        (connection,) = served.server._connections
        await until(lambda: not connection._writable)
        bystander = await served.connect()
        for _ in range(100):
            await bystander.call("daemon.hello")
        assert len([call for call in store.calls if call == "read a"]) < 100
        assert connection.backlog() < 2 << 20
        assert served.server._load.held < 1 << 20  # of the 6 MiB that the client has to send
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            assert "result" in await client.read()
        client.writer.transport.abort()

    run(tmp_path, scenario)


def test_drained_waits_for_the_client_and_tells_when_it_has_gone(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        await client.call("sessions.subscribe", session_id="a")
        (sink,) = served.store.sinks
        await sink.drained()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while sink.backlog() < 2 << 20:
            sink.write_line(b"x" * 100_000)
        waiting = asyncio.ensure_future(sink.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.read()
        await client.reader.readline()
        while not waiting.done():
            await client.reader.read(1 << 20)
        await waiting
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while sink.backlog() < 2 << 20:
            sink.write_line(b"x" * 100_000)
        waiting = asyncio.ensure_future(sink.drained())
        client.writer.transport.abort()
        with pytest.raises(ConnectionError):
            await waiting

    run(tmp_path, scenario)


# Clients that leave.


def test_half_a_line_of_a_client_that_vanishes_is_not_executed(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        client.writer.write(append("a") + b"\n" + append("b"))
        await client.writer.drain()
        client.writer.transport.abort()
        await until(lambda: served.store.dropped)
        assert served.store.calls == ["append a"]

    run(tmp_path, scenario)


def test_a_client_that_ends_its_side_still_gets_every_answer(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        served.store.holding = True
        client = await served.connect()
        client.writer.write(append("a", 1) + b"\n" + request("sessions.read", 2, session_id="a") + b"\n" + append("b"))
        client.writer.write_eof()
        await until(lambda: served.store.held)
        served.store.answer()
        assert (await client.read())["id"] == 1
        assert (await client.read())["id"] == 2
        assert await client.reader.read() == b""
        assert served.store.calls == ["append a", "read a"]

    run(tmp_path, scenario)


def test_a_client_that_leaves_while_it_subscribes_leaves_no_subscription(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        served.store.gate.clear()
        client = await served.connect()
        await client.send(request("sessions.subscribe", 1, session_id="a"))
        await until(lambda: served.store.calls)
        (connection,) = served.server._connections
        connection.abort()
        await until(lambda: served.store.dropped)
        served.store.dropped.clear()
        served.store.gate.set()
        await until(lambda: served.store.dropped)

    run(tmp_path, scenario)


def test_stop_answers_what_has_begun_and_begins_nothing_more(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        served.store.holding = True
        client = await served.connect()
        await client.send(append("a"), request("sessions.read", 2, session_id="a"))
        await until(lambda: served.store.held)
        stopping = asyncio.ensure_future(served.server.stop())
        await asyncio.sleep(0)
        served.store.answer()
        await stopping
        assert (await client.read())["id"] == 1
        assert await client.reader.read() == b""
        assert served.store.calls == ["append a"]
        assert not os.path.exists(served.path)
        with pytest.raises(FileNotFoundError):
            await served.connect()

    run(tmp_path, scenario)


def test_shutdown_is_asked_for_after_its_answer(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        client = await served.connect()
        assert (await client.call("daemon.shutdown"))["result"] == {"stopping": True}
        assert len(served.shutdowns) == 1

    run(tmp_path, scenario)


# Who may connect, and where.


def test_clients_beyond_the_descriptors_are_turned_away_and_told(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        served.server._most_clients = 2
        first, second, third = [await served.connect() for _ in range(3)]
        await first.call("daemon.hello")
        await second.call("daemon.hello")
        assert (await third.read())["error"]["data"]["kind"] == "overloaded"
        assert await third.reader.read() == b""
        await second.close()
        await until(lambda: len(served.server._connections) == 1)
        fourth = await served.connect()
        assert "result" in await fourth.call("daemon.hello")

    run(tmp_path, scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_turned_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = textwrap.dedent(
        """
        import os, socket, sys
        client = socket.socket(socket.AF_UNIX)
        os.setuid(65534)
        client.connect(sys.argv[1])
        sys.stdout.write(client.makefile().read())
        """
    )

    async def scenario(served: Serving) -> None:
        for folder in (tmp_path.parent.parent, tmp_path.parent, tmp_path, tmp_path / "run"):
            folder.chmod(0o755)
        os.chmod(served.path, 0o666)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", program, served.path, stdout=subprocess.PIPE
        )
        output, _ = await child.communicate()
        assert json.loads(output)["error"]["data"]["kind"] == "not_permitted"
        assert not served.server._connections

    run(tmp_path, scenario)
    assert "of user 65534 was turned away" in caplog.text


def test_the_socket_and_its_folder_are_ours_alone(tmp_path: Path) -> None:
    async def scenario(served: Serving) -> None:
        assert os.stat(served.path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(served.path)).st_mode & 0o777 == 0o700

    run(tmp_path, scenario)


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    folder.chmod(0o750)
    with pytest.raises(NotPermitted, match="0750"):
        SocketFile(str(folder / "s"))


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(NotPermitted, match="symbolic link"):
        SocketFile(str(tmp_path / "run" / "s"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(NotPermitted, match="belongs to user 65534"):
        SocketFile(str(folder / "s"))


def test_a_file_in_the_way_of_the_socket_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "s").write_text("mine")
    with pytest.raises(NotPermitted, match="no socket"):
        SocketFile(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "mine"


def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = str(tmp_path / "s")
    left_behind = SocketFile(path)
    with pytest.raises(OwnerRunning, match="listens"):
        SocketFile(path)
    left_behind.socket.close()
    successor = SocketFile(path)
    assert os.path.exists(path)
    successor.close()
    assert not os.path.exists(path)


def test_a_socket_that_another_put_in_its_place_is_not_removed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = str(tmp_path / "s")
    first = SocketFile(path)
    os.rename(path, path + ".away")
    second = SocketFile(path)
    first.close()
    assert os.path.exists(path)
    second.close()
