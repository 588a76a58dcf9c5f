"""``config.toml``: every setting of the daemon, its default and its limits, as frozen structs.

The file is optional and so is every key in it. ``docs/configuration.md`` describes each one. Whoever uses a setting
is handed its section; nothing else in the tree reads the file.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

import msgspec

from chimera.errors import ConfigError
from chimera.paths import config_path

__all__ = ["Config", "DaemonConfig", "LimitsConfig", "StoreConfig", "WatchConfig", "load_config"]

MIB = 1 << 20


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[daemon]``. SIGHUP takes over ``log_level`` while the daemon runs."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[store]``: when session files are synced, and what may wait for that in the journal."""

    flush_interval_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 1000
    flush_mib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    max_unflushed_mib: Annotated[int, msgspec.Meta(ge=16, le=16_384)] = 256
    idle_close_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 30.0
    allow_network_file_system: bool = False

    @property
    def flush_bytes(self) -> int:
        return self.flush_mib * MIB

    @property
    def max_unflushed_bytes(self) -> int:
        return self.max_unflushed_mib * MIB


class WatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[watch]``: how changes are found that nobody sent through the daemon."""

    enabled: bool = True
    notify: bool = True
    rescan_period_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 1000
    rescan_cpu_percent: Annotated[float, msgspec.Meta(ge=0.1, le=100)] = 0.9

    @property
    def period_seconds(self) -> float:
        return self.rescan_period_ms / 1000

    @property
    def rescan_seconds(self) -> float:
        """CPU time that one rescan may take."""
        return self.period_seconds * self.rescan_cpu_percent / 100


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[limits]``: what one client may make the daemon hold."""

    subscriber_backlog_mib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8

    @property
    def subscriber_backlog_bytes(self) -> int:
        return self.subscriber_backlog_mib * MIB


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    daemon: DaemonConfig = DaemonConfig()
    store: StoreConfig = StoreConfig()
    watch: WatchConfig = WatchConfig()
    limits: LimitsConfig = LimitsConfig()


def load_config(home: str) -> Config:
    """The settings of this home; the defaults where there is no ``config.toml``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has an unknown key or a value that is not allowed. The
            message names the file and the key.
    """
    path = config_path(home)
    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    _refuse_unknown_keys(path, settings)
    try:
        return msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        raise ConfigError(f"{path}: {where.strip('`').removeprefix('$.')}: {what[:1].lower()}{what[1:]}") from None


def _refuse_unknown_keys(path: str, settings: dict[str, Any]) -> None:
    """Every unknown key in one message; msgspec would name the first."""
    sections = {field.name: field.type for field in msgspec.structs.fields(Config)}
    unknown = [section for section in settings if section not in sections]
    for section, kind in sections.items():
        given = settings.get(section)
        if isinstance(given, dict):
            unknown += [f"{section}.{key}" for key in given if key not in kind.__struct_fields__]
    if unknown:
        known = [f"{section}.{key}" for section, kind in sections.items() for key in kind.__struct_fields__]
        raise ConfigError(f"{path}: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
