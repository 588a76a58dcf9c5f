"""Load for a daemon that is about to be killed: client threads that append in every way and keep books."""

from __future__ import annotations

import random
import threading
from typing import Any

from tests.support.crash_client import BookkeepingConnection, event
from tests.support.crash_ledger import Ledger
from tests.support.daemon import RpcError

FLAVOURS = ("mink", "otter", "stoat")


class Load:
    """Clients at work until the daemon is gone. ``touched`` are the sessions they used."""

    def __init__(self, socket_path: str, ledger: Ledger, old_sessions: list[str], seed: int) -> None:
        self.socket_path = socket_path
        self.ledger = ledger
        self.touched: set[str] = set()
        self.retry: list[dict[str, Any]] = []
        """Calls whose answer never came: to be sent again."""
        self.failures: list[BaseException] = []
        self.answered = threading.Semaphore(0)
        self._old = old_sessions
        self._threads = [threading.Thread(target=self._run, args=(seed * 10 + number,)) for number in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_answers(self, count: int) -> None:
        """Until so many appends were acknowledged, or a client met what it should not."""
        for _ in range(count):
            assert self.answered.acquire(timeout=30), "the daemon has not answered for 30 s"
            if self.failures:
                return

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        try:
            with BookkeepingConnection(self.socket_path, self.ledger) as connection:
                session_id = connection.call("sessions.create", flavour=dice.choice(FLAVOURS))["session_id"]
                mine = [session_id, *dice.sample(self._old, min(2, len(self._old)))]
                self.touched.update(mine)
                if dice.random() < 0.5:
                    connection.call("sessions.subscribe", session_id=dice.choice(mine))
                while True:
                    self._step(connection, dice, dice.choice(mine))
        except (OSError, EOFError):
            return  # the kill that everybody waits for
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self.failures.append(error)
            self.answered.release()

    def _step(self, connection: BookkeepingConnection, dice: random.Random, session_id: str) -> None:
        chance = dice.random()
        if chance < 0.9:
            self._append(connection, dice, session_id)
        elif chance < 0.94:
            connection.call("sessions.read", session_id=session_id, from_seq=max(1, dice.randint(-50, 50)), limit=20)
        elif chance < 0.97:
            connection.call("sessions.rename", session_id=session_id, title=f"title {dice.randint(0, 9)}")
        else:
            connection.call("sessions.finish", session_id=session_id, summary={"success": dice.random() < 0.5})

    def _append(self, connection: BookkeepingConnection, dice: random.Random, session_id: str) -> None:
        """One to six calls on their way at once, some with ids of their own."""
        waiting: dict[int, dict[str, Any]] = {}
        for _ in range(dice.choice((1, 1, 6))):
            own = f"evt-{dice.getrandbits(64):016x}" if dice.random() < 0.5 else None
            events = [event("x" * dice.choice((1, 30, 900)), event_id=own)]
            events += [event("batch") for _ in range(dice.choice((0, 0, 4)))] if own is None else []
            durability = dice.choice(("durable", "durable", "buffered"))
            call = {"session_id": session_id, "events": events, "durability": durability}
            waiting[connection.send("sessions.append", **call)] = call
        try:
            while waiting:  # a buffered call may be answered before a durable one that came first
                message = connection.read_message()
                if waiting.pop(message.get("id"), None) is not None:
                    if "error" in message:
                        raise RpcError(message["error"])
                    self.answered.release()
        except (OSError, EOFError):
            self.retry.extend(call for call in waiting.values() if "id" in call["events"][0])
            raise
