"""``config.toml``: defaults, errors that name the key, and that the documentation knows every key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from chimera.config import Config, load_config
from chimera.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def write(tmp_path: Path):
    def write_config(body: str | bytes) -> str:
        body = body.encode() if isinstance(body, str) else body
        (tmp_path / "config.toml").write_bytes(body)
        return str(tmp_path)

    return write_config


def every_key() -> list[tuple[str, str, object]]:
    return [
        (section.name, field.name, field.default)
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(section.type)
    ]


def test_a_home_without_a_file_has_the_defaults(tmp_path: Path) -> None:
    assert load_config(str(tmp_path)) == Config()


def test_given_keys_replace_defaults_and_leave_the_others(write) -> None:
    config = load_config(write("[store]\nflush_interval_ms = 50\n[daemon]\nlog_level = 'debug'\n"))

    assert config.store.flush_interval_ms == 50
    assert config.daemon.log_level == "debug"
    assert config.store.max_unflushed_bytes == 256 << 20


def test_the_share_of_a_rescan_follows_period_and_percent(write) -> None:
    config = load_config(write("[watch]\nrescan_period_ms = 2000\nrescan_cpu_percent = 5\n"))

    assert config.watch.period_seconds == 2.0
    assert config.watch.rescan_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (
            "[store]\nflush_intervall_ms = 1\n[gc]\nx = 1\n",
            ["store.flush_intervall_ms", "gc", "known are", "store.flush_"],
        ),
        ("log_level = 'debug'\n", ["log_level", "daemon.log_level"]),
        ("[store]\nflush_interval_ms = 'soon'\n", ["store.flush_interval_ms", "int"]),
        ("[store]\nflush_interval_ms = 1\n", ["store.flush_interval_ms", "10"]),
        ("[daemon]\nlog_level = 'loud'\n", ["daemon.log_level", "loud"]),
        ("store = 3\n", ["store", "object"]),
        ("[store\n", ["TOML", "line 1"]),
        (b"[store]\n# \xff\n", ["UTF-8"]),
    ],
)
def test_a_mistake_is_refused_with_the_file_and_the_key(write, body: str | bytes, named: list[str]) -> None:
    home = write(body)

    with pytest.raises(ConfigError) as raised:
        load_config(home)

    assert f"{home}/config.toml" in raised.value.message
    for word in named:
        assert word in raised.value.message
    assert "\n" not in raised.value.message


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()

    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path))


@pytest.mark.parametrize(("section", "key", "default"), every_key())
def test_every_key_is_documented_with_its_default(section: str, key: str, default: object) -> None:
    chapter = DOCUMENT.read_text().split(f"## [{section}]\n", 1)[1].split("\n## ", 1)[0]
    shown = msgspec.json.encode(default).decode()

    assert re.search(rf"^\| `{key}` \| `{re.escape(shown)}` \|", chapter, re.MULTILINE), f"{section}.{key} = {shown}"


def test_no_documented_key_is_unknown() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)

    assert sorted(documented) == sorted(key for _, key, _ in every_key())
