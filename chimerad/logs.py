"""The daemon's log: one line an event on standard error, for a person, a program or the journal of systemd.

On a terminal ``time level logger message key=value``; under systemd the same without the time and with the ``<N>``
priority that journald reads; anywhere else one JSON object a line. Fields beside the message are given as
``extra={"ctx": {...}}``. The values of secret environment variables never appear.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TextIO

__all__ = ["set_level", "set_up"]

SECRET_SUFFIXES = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD")
SHORTEST_SECRET = 6
"""A shorter value is a word that may stand anywhere; masking it would only garble the log."""

MASK = "***"

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""syslog(3) levels, as sd-daemon(3) wants them at the start of a line."""


def set_up(level: str, stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Send every record of ``level`` and above to ``stream`` (standard error), in the form that suits it."""
    stream = sys.stderr if stream is None else stream
    environment = os.environ if environment is None else environment
    handler = _Handler(stream)
    handler.setFormatter(_formatter(stream, environment))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: str) -> None:
    """``debug``, ``info``, ``warning`` or ``error``: for the daemon's own records; libraries stay at ``warning``."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in ("chimera", "chimerad"):
        logging.getLogger(name).setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """A log that cannot be written (a full disk, a closed pipe) must not become an error of its own."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the name is logging's
        return


class _Formatter(logging.Formatter, ABC):
    """What the three forms share: the fields, and that secrets are masked in all of them."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return self.render(record, self.mask(record.getMessage()), self.fields(record))

    @abstractmethod
    def render(self, record: logging.LogRecord, message: str, fields: dict[str, object]) -> str:
        """The line of one record."""

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        given = getattr(record, "ctx", None)
        fields: dict[str, object] = {}
        if isinstance(given, Mapping):
            for name, value in given.items():
                plain = isinstance(value, bool | int | float) or value is None
                fields[str(name)] = value if plain else self.mask(str(value))
        if record.exc_info:
            fields["exception"] = self.mask(self.formatException(record.exc_info))
        return fields

    def mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


class _JsonFormatter(_Formatter):
    def render(self, record: logging.LogRecord, message: str, fields: dict[str, object]) -> str:
        line = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            **{name if name not in _OWN_KEYS else f"{name}_": value for name, value in fields.items()},
        }
        return json.dumps(line)


_OWN_KEYS = {"ts", "level", "logger", "message"}


class _TextFormatter(_Formatter):
    def render(self, record: logging.LogRecord, message: str, fields: dict[str, object]) -> str:
        return f"{_timestamp(record.created)} {_text(record, message, fields)}"


class _JournalFormatter(_Formatter):
    def render(self, record: logging.LogRecord, message: str, fields: dict[str, object]) -> str:
        priority = PRIORITIES.get(record.levelno, 6)
        lines = _text(record, message, fields).split("\n")
        return "\n".join(f"<{priority}>{line}" for line in lines)


def _text(record: logging.LogRecord, message: str, fields: dict[str, object]) -> str:
    exception = fields.pop("exception", None)
    words = [record.levelname.lower(), record.name, _one_line(message)]
    words += [f"{name}={_quoted(value)}" for name, value in fields.items()]
    return " ".join(words) + (f"\n{exception}" if exception else "")


def _one_line(text: str) -> str:
    """No record may look like two, whatever a client made us quote."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _quoted(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _formatter(stream: TextIO, environment: Mapping[str, str]) -> _Formatter:
    secrets = _secrets_of(environment)
    if _is_journal(stream, environment.get("JOURNAL_STREAM", "")):
        return _JournalFormatter(secrets)
    return _TextFormatter(secrets) if stream.isatty() else _JsonFormatter(secrets)


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Longest first: a secret that holds another one is masked whole."""
    found = {
        value
        for name, value in environment.items()
        if name.upper().endswith(SECRET_SUFFIXES) and len(value) >= SHORTEST_SECRET
    }
    return sorted(found, key=len, reverse=True)


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether systemd connected this very stream to its journal; children inherit the variable (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file behind it
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
