"""What the kernel saw of a process, by strace, in the words of tests.support.power_recorder.

Proves that a recording misses nothing: of every file below the watched folder both must tell the same story.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator

from tests.support.power_recorder import EXCLUDED, Operation

CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,sendfile,copy_file_range,splice,"
    "truncate,ftruncate,fallocate,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,"
    "symlink,symlinkat,mknod,mknodat,fsync,fdatasync,syncfs,sync,sync_file_range,mmap,io_uring_setup"
)
AVAILABLE = shutil.which("strace") is not None

Story = dict[str, list[tuple[object, ...]]]
"""Path below the watched folder to what happened to it, in order."""

_CALL = re.compile(r"^(?P<time>\d+\.\d+) (?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)(?P<rest>.*)$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*?)(?: \(deleted\))?>")


def prefix(folder: str) -> tuple[str, ...]:
    """What to put before a command; each thread writes a file of its own into ``folder``."""
    os.makedirs(folder, exist_ok=True)
    return (
        "strace",
        "-ff",
        "--seccomp-bpf",
        "-y",
        "-s",
        "0",
        "-ttt",
        "-qq",
        "-e",
        f"trace={CALLS}",
        "-o",
        f"{folder}/thread",
    )


def kernel_story(folder: str, watch: str) -> Story:
    """All threads together, in order of time."""
    lines = []
    for name in glob.glob(f"{folder}/thread.*"):
        with open(name, errors="surrogateescape") as trace:
            lines += [(float(match["time"]), match) for match in map(_CALL.match, trace) if match]
    story: Story = defaultdict(list)
    for _, match in sorted(lines, key=lambda item: item[0]):
        if int(match["result"]) >= 0:
            for path, *what in _events(match):
                _tell(story, watch, path, *what)
    return dict(story)


def recorded_story(operations: list[Operation]) -> Story:
    """The same from a recording."""
    story: Story = defaultdict(list)
    names: dict[int, str] = {}
    watch, syncs = "", {}
    for kind, *arguments in operations:
        if kind == "folder" and not watch:
            watch = arguments[0]
        if kind in ("folder", "file", "create", "mkdir"):
            names[arguments[1]] = arguments[0]
            if kind in ("create", "mkdir"):
                _tell(story, watch, arguments[0], kind)
        elif kind == "rename":
            _tell(story, watch, arguments[1], "rename", _below(watch, arguments[0]))
            _move(names, *arguments)
        elif kind == "link":
            _tell(story, watch, arguments[1], "link", _below(watch, arguments[0]))
        elif kind in ("unlink", "rmdir"):
            _tell(story, watch, arguments[0], kind)
        elif kind in ("write", "zeros"):
            length = arguments[2] if kind == "zeros" else len(arguments[2])
            _tell(story, watch, names[arguments[0]], "write", length)
        elif kind in ("truncate", "extend"):
            _tell(story, watch, names[arguments[0]], kind, arguments[1])
        elif kind == "sync_begin":
            syncs[arguments[0]] = arguments[1]
        elif kind == "sync_end":
            inode = syncs.pop(arguments[0])
            _tell(story, watch, watch if inode is None else names[inode], "syncfs" if inode is None else "sync")
    return dict(story)


def differences(kernel: Story, recorded: Story) -> list[str]:
    """What one of the two did not see, path by path; empty when the recording is whole."""
    wrong = []
    for path in sorted(kernel.keys() | recorded.keys()):
        ours, theirs = recorded.get(path, []), kernel.get(path, [])
        if ours != theirs:
            at = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(ours), len(theirs)) if at is None else at
            wrong.append(f"{path} at {at}: kernel {theirs[at : at + 3]}, recorded {ours[at : at + 3]}")
    return wrong


def _events(match: re.Match[str]) -> Iterator[tuple[object, ...]]:
    """(absolute path, kind, details) of one call that succeeded."""
    name, arguments, result = match["name"], match["arguments"], int(match["result"])
    descriptor = _DESCRIPTOR.match(arguments)
    path = descriptor.group(1) if descriptor else ""
    if name in ("write", "pwrite64", "writev", "pwritev", "pwritev2") and result:
        yield path, "write", result
    elif name in ("fsync", "fdatasync"):
        yield path, "sync"
    elif name == "syncfs":
        yield "*", "syncfs"
    elif name in ("sendfile", "copy_file_range", "splice"):
        targets = _DESCRIPTOR.findall(arguments)
        yield targets[0 if name == "sendfile" else 1], "write", result
    elif name == "ftruncate":
        yield path, "truncate", int(arguments.rsplit(", ", 1)[1])
    elif name == "truncate":
        yield _paths(arguments)[0], "truncate", int(arguments.rsplit(", ", 1)[1])
    elif name == "fallocate":
        mode, offset, length = arguments.split(", ")[1:]
        yield path, "extend" if mode == "0" else f"fallocate {mode}", int(offset) + int(length)
    elif name == "mmap":
        if "PROT_WRITE" in arguments and "MAP_SHARED" in arguments and (shared := _DESCRIPTOR.search(arguments)):
            yield shared.group(1), "mmap"
    elif name in ("open", "openat", "openat2", "creat"):
        yield from _opened(match)
    elif name in ("io_uring_setup", "sync_file_range", "sync"):
        yield "*", name
    else:
        yield from _named(name, arguments)


def _opened(match: re.Match[str]) -> Iterator[tuple[object, ...]]:
    """Whether an open created the file cannot be read off strace; the caller sees the first of a path as a creation."""
    arguments = match["arguments"]
    opened = _DESCRIPTOR.match(match["result"] + match["rest"])
    if opened and "O_CREAT" in arguments:
        yield opened.group(1), "open", "O_EXCL" in arguments, "O_TRUNC" in arguments
    elif opened and "O_TRUNC" in arguments:
        yield opened.group(1), "truncate", 0


def _named(name: str, arguments: str) -> Iterator[tuple[object, ...]]:
    paths = _paths(arguments)
    if name in ("mkdir", "mkdirat"):
        yield paths[0], "mkdir"
    elif name == "rmdir" or (name == "unlinkat" and "AT_REMOVEDIR" in arguments):
        yield paths[0], "rmdir"
    elif name in ("unlink", "unlinkat"):
        yield paths[0], "unlink"
    elif name in ("rename", "renameat", "renameat2"):
        yield paths[1], "rename", paths[0]
    elif name in ("link", "linkat"):
        yield paths[1], "link", paths[0]
    else:
        yield paths[-1], name


def _paths(arguments: str) -> list[str]:
    """Every quoted path, joined with the folder descriptor that stands before it."""
    found = []
    for match in _QUOTED.finditer(arguments):
        text = match.group(1)
        before = re.search(r"(?:\d+|AT_FDCWD)<([^>]*)>, $", arguments[: match.start()])
        found.append(os.path.normpath(os.path.join(before.group(1) if before else "", text)))
    return found


def _tell(story: Story, watch: str, path: object, kind: str, *details: object) -> None:
    """Add to a path's story, if it is watched; an open that may create is a creation when the path is not there."""
    below = "*" if path in ("*", watch) and kind == "syncfs" else _below(watch, str(path))
    if below is None:
        return
    if kind == "rename" and details:
        source = _below(watch, str(details[0])) if str(details[0]).startswith("/") else details[0]
        details = (source,)
    if kind == "open":
        exclusive, truncates = details
        present = exclusive is False and _stands(story, below)
        if not present:
            story[below].append(("create",))
        elif truncates:
            story[below].append(("truncate", 0))
        return
    if kind == "link" and str(details[0]).startswith("/"):
        details = (_below(watch, str(details[0])),)
    story[below].append((kind, *details))
    if kind == "rename":
        story[str(details[0])].append(("left",))


def _stands(story: Story, path: str) -> bool:
    for kind, *_ in reversed(story.get(path, [])):
        if kind in ("create", "rename", "link", "write"):
            return True
        if kind in ("unlink", "left"):
            return False
    return False


def _below(watch: str, path: str) -> str | None:
    if path != watch and not path.startswith(watch + "/"):
        return None
    below = os.path.relpath(path, watch)
    return None if below.startswith(EXCLUDED) else below


def _move(names: dict[int, str], source: str, target: str) -> None:
    """After a rename everything below has another path; strace tells paths as they are at the time."""
    for inode, path in names.items():
        if path == source or path.startswith(source + "/"):
            names[inode] = target + path[len(source) :]
