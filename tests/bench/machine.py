"""Where a run takes place: the disk under a folder, the machine, and what a process uses of it (proc(5))."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import sysconfig
from typing import Any

__all__ = ["cpu_seconds", "file_system", "load_average", "machine", "memory_mib"]


def file_system(folder: str) -> dict[str, str]:
    """Type, device and options of the mount that holds ``folder``."""
    found: dict[str, str] = {"type": "unknown", "device": "", "mounted_on": "", "options": ""}
    path = os.path.realpath(folder)
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            device, mounted_on, kind, options = line.split()[:4]
            mounted_on = mounted_on.replace("\\040", " ")
            inside = path == mounted_on or path.startswith(mounted_on.rstrip("/") + "/")
            if inside and len(mounted_on) >= len(found["mounted_on"]):
                found = {"type": kind, "device": device, "mounted_on": mounted_on, "options": options}
    return found


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "build": "optimised by profile" if _built_by_profile() else "built without profile",
        "executable": sys.executable,
        "sqlite": sqlite3.sqlite_version,
    }


def _built_by_profile() -> bool:
    """Such an interpreter runs our code about a fifth faster."""
    return "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")


def load_average() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process over all its threads, in nanosecond steps where the kernel keeps them."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as stat:
                total += int(stat.read().split()[0])
        except FileNotFoundError:
            continue  # a thread that ended between the two calls
    return total / 1e9


def memory_mib(pid: int) -> dict[str, float]:
    """``rss``: resident pages; ``pss``: those shared with others counted in part; both in MiB."""
    names = {"Rss": "rss", "Pss": "pss"}
    found: dict[str, float] = {}
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        for line in lines:
            key = line.split(":")[0]
            if key in names:
                found[names[key]] = int(line.split()[1]) / 1024
    return found


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
