"""How much one run of the bench does: in full, for a look, or just enough to prove that it runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "TINY", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Sizes and repetitions; no row chooses its own."""

    name: str
    rounds: int
    """Rounds of an interleaved comparison."""
    seconds: float
    """One append case of one round."""
    warm_up: float
    sustained_seconds: float
    """One layout of the sustained comparison."""
    corpus_sizes: tuple[int, ...]
    """Sessions in the stores that are listed, smallest first."""
    watched_folders: int
    burst: int
    """Folders added in the burst; half as many are removed, half edited, a quarter appended to."""
    resume_events: int
    process_rounds: int
    """Rounds of everything that is timed as a whole process."""
    list_calls: int
    idle_seconds: float
    disk_sessions: int
    disk_events: int


FULL = Scale(
    name="full",
    rounds=7,
    seconds=2.0,
    warm_up=0.3,
    sustained_seconds=60.0,
    corpus_sizes=(1_000, 10_000, 100_000),
    watched_folders=10_000,
    burst=4_000,
    resume_events=20_000,
    process_rounds=25,
    list_calls=300,
    idle_seconds=5.0,
    disk_sessions=100,
    disk_events=100,
)

QUICK = Scale(
    name="quick",
    rounds=3,
    seconds=0.6,
    warm_up=0.15,
    sustained_seconds=4.0,
    corpus_sizes=(1_000, 10_000),
    watched_folders=10_000,
    burst=1_000,
    resume_events=20_000,
    process_rounds=7,
    list_calls=100,
    idle_seconds=3.0,
    disk_sessions=40,
    disk_events=100,
)

TINY = Scale(
    name="tiny",
    rounds=1,
    seconds=0.05,
    warm_up=0.02,
    sustained_seconds=0.1,
    corpus_sizes=(10, 20),
    watched_folders=20,
    burst=4,
    resume_events=50,
    process_rounds=1,
    list_calls=3,
    idle_seconds=0.05,
    disk_sessions=2,
    disk_events=5,
)
