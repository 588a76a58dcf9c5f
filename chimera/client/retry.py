"""When an append is sent again, and for how long: the one rule of the blocking and the asynchronous client.

Sending an append again is harmless, because its events carry ids that the client made. Sends nothing itself.
"""

from __future__ import annotations

import time

from chimera.client.protocol import is_uncertain
from chimera.errors import ChimeraError, ConnectionLost, DaemonUnreachable, Overloaded

__all__ = ["RETRY_SECONDS", "AppendRetry"]

RETRY_SECONDS = 15.0
"""How long an append whose answer was lost is tried again, a start of the daemon included."""

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class AppendRetry:
    """The tries of one append."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._uncertain = False

    def pause_after(self, error: ChimeraError) -> float:
        """How many seconds to wait before the next try; raises the error that ends the tries when there is none."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + RETRY_SECONDS
        self._uncertain = self._uncertain or is_uncertain(error)
        if not self._worth_another(error) or now + self._pause > self._deadline:
            raise self._last_word(error)
        pause = self._pause
        self._pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        return pause

    def _worth_another(self, error: ChimeraError) -> bool:
        if isinstance(error, DaemonUnreachable):  # whoever was never reached need not be waited for
            return self._uncertain or isinstance(error, ConnectionLost)
        return isinstance(error, Overloaded) or is_uncertain(error)

    def _last_word(self, error: ChimeraError) -> ChimeraError:
        if not self._uncertain or not isinstance(error, DaemonUnreachable):
            return error
        lost = ConnectionLost(
            f"the answer to an append was lost and no daemon could be asked again ({error.message}); "
            "whether its events are in the log is not known: append them again with the same ids",
            outcome="unknown",
        )
        lost.__cause__ = error
        return lost
