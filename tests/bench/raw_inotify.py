"""Raw inotify on a folder and each folder in it: ``python raw_inotify.py ROOT`` prints the seconds until it watches.

The baseline of the watcher's start; ctypes alone, and nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

_MASK = 0x100 | 0x200 | 0x40 | 0x80 | 0x8
"""CREATE, DELETE, MOVED_FROM, MOVED_TO, CLOSE_WRITE."""


def watch(root: str) -> int:
    """Watch everything until the process ends; how many watches that took."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    folders = [root, *(entry.path for entry in os.scandir(root) if entry.is_dir())]
    for folder in folders:
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _MASK) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    return len(folders)


if __name__ == "__main__":
    began = time.perf_counter()
    watch(sys.argv[1])
    print(time.perf_counter() - began)
