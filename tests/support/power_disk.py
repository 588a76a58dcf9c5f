"""A disk that loses power: replays recorded operations and says what may stand there after a cut.

The rules, stricter than any one file system: of what was not synced each 512-byte sector holds its old bytes, any
bytes written since, or zeros (but synced bytes in it that nobody wrote to stay); a file has its old size or any
since; each entry of a folder (create, link, rename, unlink, mkdir, rmdir) is there or not, in any order, a rename never
by half. A sync of a file covers the bytes and the size that it had when the sync began, not its entry; a sync of a
folder covers its entries (a rename belongs to the folder it goes to); ``syncfs`` covers everything. Runs nothing and
judges nothing.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tests.support.power_recorder import Operation

SECTOR = 512
_ZERO = bytes(SECTOR)

Version = tuple[int, bytes, int]
"""When it was written (number of the operation), the 512 bytes, their digest with their place (0 for zeros)."""


@dataclass
class File:
    """An inode: what is durable, and what was written since."""

    base: dict[int, Version] = field(default_factory=dict)
    base_size: int = 0
    base_mark: int = 0
    """XOR of the digests in ``base``: the digest of a variant costs no more than what it changes."""
    pending: dict[int, list[Version]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.sizes[-1][1] if self.sizes else self.base_size

    def sector(self, number: int) -> bytes:
        versions = self.pending.get(number)
        if versions:
            return versions[-1][1]
        return self.base[number][1] if number in self.base else _ZERO

    def write(self, clock: int, offset: int, body: bytes) -> None:
        end = offset + len(body)
        for number in range(offset // SECTOR, (end + SECTOR - 1) // SECTOR):
            start = number * SECTOR
            new = bytearray(self.sector(number))
            low, high = max(offset, start), min(end, start + SECTOR)
            new[low - start : high - start] = body[low - offset : high - offset]
            self._put(clock, number, bytes(new))
        if end > self.size:
            self.sizes.append((clock, end))

    def zero(self, clock: int, offset: int, end: int) -> None:
        """Write zeros; only where something else stood is there anything to lose."""
        for number in sorted(self.base.keys() | self.pending.keys()):
            start = number * SECTOR
            if start < end and start + SECTOR > offset:
                new = bytearray(self.sector(number))
                low, high = max(offset, start) - start, min(end, start + SECTOR) - start
                new[low:high] = bytes(high - low)
                self._put(clock, number, bytes(new))

    def resize(self, clock: int, size: int) -> None:
        if size < self.size:
            self.zero(clock, size, self.size)
        if size != self.size:
            self.sizes.append((clock, size))

    def settle(self, until: int) -> None:
        """A sync that began after operation ``until``: what was written by then is durable."""
        for number in list(self.pending):
            versions = self.pending[number]
            done = [version for version in versions if version[0] <= until]
            if done:
                self._settle_sector(number, done[-1])
                if len(done) == len(versions):
                    del self.pending[number]
                else:
                    self.pending[number] = versions[len(done) :]
        while self.sizes and self.sizes[0][0] <= until:
            self.base_size = self.sizes.pop(0)[1]

    def _put(self, clock: int, number: int, body: bytes) -> None:
        if body != self.sector(number):
            self.pending.setdefault(number, []).append((clock, body, _digest(number, body)))

    def _settle_sector(self, number: int, version: Version) -> None:
        old = self.base.pop(number, None)
        self.base_mark ^= (old[2] if old else 0) ^ version[2]
        if version[2]:
            self.base[number] = version


@dataclass
class Folder:
    base: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)


@dataclass
class Change:
    """One change of folders: ``leaves`` and ``comes`` are (folder, name, inode).

    A durable one is kept while an older one is not: a change counts in its order, whenever it became durable.
    """

    clock: int
    kind: str
    leaves: tuple[int, str, int] | None = None
    comes: tuple[int, str, int] | None = None
    durable: bool = False

    @property
    def home(self) -> int:
        """The folder whose sync makes it durable."""
        place = self.comes or self.leaves
        assert place is not None
        return place[0]


@dataclass(frozen=True)
class State:
    """One choice among what is not durable: changes by position, sectors and sizes by inode; absent means old."""

    label: str
    changes: frozenset[int] = frozenset()
    sectors: dict[tuple[int, int], Version | None] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)


Tree = dict[str, int | None]
"""Path below the root to the file's inode, None for a folder."""


class Disk:
    """All that was recorded up to some operation."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.folders: dict[int, Folder] = {}
        self.changes: list[Change] = []
        self.syncs: dict[Any, tuple[int, int | None]] = {}
        self.root, self.root_path = 0, ""
        self.clock = 0

    def apply(self, operation: Operation, clock: int | None = None) -> None:
        """Replay one operation; ``clock`` is its number in the recording."""
        self.clock = self.clock + 1 if clock is None else clock
        kind, *arguments = operation
        if kind not in ("received", "sent", "mark"):
            getattr(self, f"_do_{kind}")(*arguments)

    # What stood there before

    def _do_folder(self, path: str, inode: int) -> None:
        self.folders[inode] = Folder()
        if not self.root:
            self.root, self.root_path = inode, path
            return
        parent, name = self._place(path)
        self.folders[parent].base[name] = self.folders[parent].now[name] = inode

    def _do_file(self, path: str, inode: int, runs: list[tuple[int, bytes]], size: int) -> None:
        file = self.files[inode] = File()
        for offset, body in runs:
            file.write(0, offset, body)
        file.sizes = [(0, size)]
        file.settle(0)
        parent, name = self._place(path)
        self.folders[parent].base[name] = self.folders[parent].now[name] = inode

    # Names

    def _do_create(self, path: str, inode: int) -> None:
        self.files[inode] = File()
        self._change("create", comes=(*self._place(path), inode))

    def _do_mkdir(self, path: str, inode: int) -> None:
        self.folders[inode] = Folder()
        self._change("mkdir", comes=(*self._place(path), inode))

    def _do_link(self, source: str, path: str) -> None:
        self._change("link", comes=(*self._place(path), self.inode_at(source)))

    def _do_unlink(self, path: str) -> None:
        self._change("unlink", leaves=(*self._place(path), self.inode_at(path)))

    def _do_rmdir(self, path: str) -> None:
        self._change("rmdir", leaves=(*self._place(path), self.inode_at(path)))

    def _do_rename(self, source: str, target: str) -> None:
        inode = self.inode_at(source)
        self._change("rename", leaves=(*self._place(source), inode), comes=(*self._place(target), inode))

    # Contents

    def _do_write(self, inode: int, offset: int, body: bytes) -> None:
        self.files[inode].write(self.clock, offset, body)

    def _do_zeros(self, inode: int, offset: int, length: int) -> None:
        file = self.files[inode]
        file.zero(self.clock, offset, offset + length)
        if offset + length > file.size:
            file.sizes.append((self.clock, offset + length))

    def _do_truncate(self, inode: int, size: int) -> None:
        self.files[inode].resize(self.clock, size)

    def _do_extend(self, inode: int, size: int) -> None:
        if size > self.files[inode].size:
            self.files[inode].resize(self.clock, size)

    # Syncs

    def _do_sync_begin(self, token: Any, inode: int | None) -> None:
        self.syncs[token] = (self.clock, inode)

    def _do_sync_end(self, token: Any) -> None:
        until, inode = self.syncs.pop(token)
        if inode in self.files:
            self.files[inode].settle(until)
        elif inode is None:
            for file in self.files.values():
                file.settle(until)
        for change in self.changes:
            change.durable = change.durable or (change.clock <= until and inode in (None, change.home))
        while self.changes and self.changes[0].durable:
            _apply(self.changes.pop(0), {number: folder.base for number, folder in self.folders.items()})

    def _change(
        self, kind: str, leaves: tuple[int, str, int] | None = None, comes: tuple[int, str, int] | None = None
    ) -> None:
        change = Change(self.clock, kind, leaves, comes)
        _apply(change, {number: folder.now for number, folder in self.folders.items()})
        self.changes.append(change)

    def _place(self, path: str) -> tuple[int, str]:
        """The folder's inode and the name in it."""
        *parents, name = os.path.relpath(path, self.root_path).split("/")
        inode = self.root
        for parent in parents:
            inode = self.folders[inode].now[parent]
        return inode, name

    def inode_at(self, path: str) -> int:
        """What stands at an absolute path now."""
        folder, name = self._place(path)
        return self.folders[folder].now[name]

    # States

    def tree(self, state: State) -> Tree:
        """What a state's folders hold, from the root on."""
        folders = {number: folder.base for number, folder in self.folders.items()}
        for number, change in enumerate(self.changes):
            if not change.durable and number not in state.changes:
                continue
            for place in (change.leaves, change.comes):
                if place and folders[place[0]] is self.folders[place[0]].base:
                    folders[place[0]] = dict(folders[place[0]])
            _apply(change, folders)
        tree: Tree = {}
        waiting = [("", self.root)]
        while waiting:
            path, inode = waiting.pop()
            for name, child in folders[inode].items():
                below = f"{path}{name}"
                if child in self.folders:
                    if below not in tree:
                        tree[below] = None
                        waiting.append((below + "/", child))
                else:
                    tree[below] = child
        return tree

    def digest(self, state: State) -> int:
        """Equal for states that look the same once the power is back."""
        chosen: dict[int, dict[int, Version | None]] = {}
        for (inode, number), version in state.sectors.items():
            chosen.setdefault(inode, {})[number] = version
        total = 0
        for path, inode in self.tree(state).items():
            content = 0
            if inode is not None:
                file = self.files[inode]
                size = state.sizes.get(inode, file.base_size)
                content = hash((_mark(file, chosen.get(inode, {}), size), size))
            total ^= hash((_path_digest(path), content))
        return total

    def materialise(self, state: State, folder: str) -> None:
        """Write a state into a folder that does not exist yet; zeros become holes."""
        os.mkdir(folder, 0o700)
        written: dict[int, str] = {}
        chosen: dict[int, dict[int, Version | None]] = {}
        for (inode, number), version in state.sectors.items():
            chosen.setdefault(inode, {})[number] = version
        for path, inode in sorted(self.tree(state).items()):
            place = os.path.join(folder, path)
            if inode is None:
                os.mkdir(place, 0o700)
            elif inode in written:
                os.link(written[inode], place)
            else:
                written[inode] = place
                file = self.files[inode]
                size = state.sizes.get(inode, file.base_size)
                _write_file(place, {**file.base, **chosen.get(inode, {})}, size)

    def name_of(self, inode: int) -> str:
        """Where an inode stands now, for a reader of a report."""
        everything = State("all", frozenset(range(len(self.changes))))
        return next((path for path, number in self.tree(everything).items() if number == inode), f"inode {inode}")


def _apply(change: Change, folders: dict[int, dict[str, int]]) -> None:
    if change.leaves:
        folder, name, inode = change.leaves
        if folders[folder].get(name) == inode:
            del folders[folder][name]
    if change.comes:
        folder, name, inode = change.comes
        folders[folder][name] = inode


def _mark(file: File, chosen: dict[int, Version | None], size: int) -> int:
    """The digest of a file's contents under a choice: only what lies below its size counts."""
    mark, whole = file.base_mark, size // SECTOR
    for number, version in chosen.items():
        old = file.base.get(number)
        mark ^= (old[2] if old else 0) ^ _seen(number, version, size, whole)
    if size < file.base_size:
        for number, version in file.base.items():
            if number >= whole and number not in chosen:
                mark ^= version[2] ^ _seen(number, version, size, whole)
    return mark


def _seen(number: int, version: Version | None, size: int, whole: int) -> int:
    if version is None or number > whole:
        return 0
    if number < whole:
        return version[2]
    visible = version[1][: size % SECTOR]
    return _digest(number, visible + bytes(SECTOR - len(visible)))


def _digest(number: int, body: bytes) -> int:
    if body == _ZERO:
        return 0
    return int.from_bytes(blake2b(body, digest_size=7, salt=number.to_bytes(8, "big")).digest(), "big")


_paths: dict[str, int] = {}


def _path_digest(path: str) -> int:
    if path not in _paths:
        _paths[path] = int.from_bytes(blake2b(path.encode(), digest_size=7).digest(), "big")
    return _paths[path]


def _write_file(path: str, sectors: dict[int, Version | None], size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for number, version in sectors.items():
            if version is not None and version[2] and number * SECTOR < size:
                os.pwrite(descriptor, version[1][: size - number * SECTOR], number * SECTOR)
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


class States:
    """Every state that is tried for one cut: none, all, each alone, each missing, the last write torn, and random."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        reachable = {
            inode for folder in disk.folders.values() for inode in (*folder.base.values(), *folder.now.values())
        }
        reachable |= {change.comes[2] for change in disk.changes if change.comes}
        self.changes = frozenset(number for number, change in enumerate(disk.changes) if not change.durable)
        self.sectors: dict[tuple[int, int], list[Version]] = {}
        self.sizes: dict[int, list[tuple[int, int]]] = {}
        self.writes: dict[tuple[int, int], dict[tuple[int, int], Version]] = {}
        """(operation, inode) to what it wrote."""
        for inode, file in disk.files.items():
            if inode in reachable:
                if file.sizes:
                    self.sizes[inode] = file.sizes
                for number, versions in file.pending.items():
                    self.sectors[inode, number] = versions
                    for version in versions:
                        self.writes.setdefault((version[0], inode), {})[inode, number] = version

    def systematic(self) -> Iterator[State]:
        yield State("none")
        yield self._everything("all")
        yield from self._torn()
        for number in sorted(self.changes):
            change = self.disk.changes[number]
            yield State(f"{change.kind} alone", frozenset({number}))
            yield self._everything(f"{change.kind} missing", without_change=number)
        for inode in self.sizes:
            yield State(f"size of {self.disk.name_of(inode)} alone", sizes={inode: self.sizes[inode][-1][1]})
            yield self._everything(f"size of {self.disk.name_of(inode)} missing", without_size=inode)
        for (clock, inode), wrote in self.writes.items():
            size = next((size for then, size in self.sizes.get(inode, []) if then >= clock), None)
            yield State(f"write {clock} alone", sectors=dict(wrote), sizes={} if size is None else {inode: size})
            yield self._without_write(f"write {clock} missing", clock, zero=False)
            yield self._without_write(f"write {clock} is zeros", clock, zero=True)

    def seeded(self, seed: int, count: int) -> Iterator[State]:
        """Random combinations; how much survives differs from one to the next."""
        if not self.changes and not self.sectors and not self.sizes:
            return
        for number in range(count):
            dice = random.Random(seed * 1_000_003 + self.disk.clock * 1_009 + number)
            share = dice.choice((0.1, 0.5, 0.9))
            changes = frozenset(change for change in self.changes if dice.random() < share)
            sectors: dict[tuple[int, int], Version | None] = {}
            for place, versions in self.sectors.items():
                if dice.random() < share:
                    sectors[place] = versions[-1]
                elif dice.random() < 0.5:
                    sectors[place] = dice.choice([self._zeroed(place), *versions])
            sizes = {
                inode: sizes[-1][1] if dice.random() < share else dice.choice(sizes)[1]
                for inode, sizes in self.sizes.items()
                if dice.random() < max(share, 0.5)
            }
            yield State(f"random {number}", changes, sectors, sizes)

    def _zeroed(self, place: tuple[int, int]) -> Version | None:
        """The sector with zeros for what was written to it; what it held before and nobody wrote to stays."""
        inode, number = place
        old = self.disk.files[inode].base.get(number)
        if old is None:
            return None
        clock, new, _ = self.sectors[place][-1]
        body = bytes(was if was == now else 0 for was, now in zip(old[1], new, strict=True))
        return clock, body, _digest(number, body)

    def _everything(self, label: str, without_change: int | None = None, without_size: int | None = None) -> State:
        return State(
            label,
            self.changes - {without_change},
            {place: versions[-1] for place, versions in self.sectors.items()},
            {inode: sizes[-1][1] for inode, sizes in self.sizes.items() if inode != without_size},
        )

    def _without_write(self, label: str, clock: int, *, zero: bool) -> State:
        whole = self._everything(label)
        sectors = dict(whole.sectors)
        for place, versions in self.sectors.items():
            if versions[-1][0] == clock:
                if zero:
                    sectors[place] = self._zeroed(place)
                elif len(versions) > 1:
                    sectors[place] = versions[-2]
                else:
                    del sectors[place]
        return State(label, whole.changes, sectors, whole.sizes)

    def _torn(self) -> Iterator[State]:
        if not self.writes:
            return
        last = max(self.writes)
        places = sorted(self.writes[last])
        whole = self._everything("")
        for cut in range(1, len(places)):
            for label, lost in (("head", places[cut:]), ("tail", places[:cut])):
                for zero in (False, True):
                    sectors = dict(whole.sectors)
                    for place in lost:
                        if zero:
                            sectors[place] = self._zeroed(place)
                        elif len(self.sectors[place]) > 1:
                            sectors[place] = self.sectors[place][-2]
                        else:
                            del sectors[place]
                    kept = f"{label} of write {last[0]} at sector {cut}" + (", rest zeros" if zero else "")
                    yield State(kept, whole.changes, sectors, whole.sizes)


def continued(before: Sequence[Operation], after: Sequence[Operation]) -> list[Operation]:
    """Two recordings as one: the second process met what the first left when it was killed, durable or not.

    What the second one noted as standing there is known already, under the first one's inodes.
    """
    disk = Disk()
    for operation in before:
        disk.apply(operation)
    inodes: dict[int, int] = {}
    highest = max([*disk.files, *disk.folders])
    joined = list(before)
    for kind, *arguments in after:
        if kind in ("folder", "file"):
            path = os.path.relpath(arguments[0], disk.root_path)
            inodes[arguments[1]] = disk.root if path == "." else disk.inode_at(arguments[0])
            continue
        if kind in ("create", "mkdir"):
            arguments[1] = inodes.setdefault(arguments[1], highest + arguments[1])
        elif kind in ("write", "zeros", "truncate", "extend"):
            arguments[0] = inodes[arguments[0]]
        elif kind == "sync_begin":
            arguments = [f"later {arguments[0]}", arguments[1] and inodes[arguments[1]]]
        elif kind == "sync_end":
            arguments = [f"later {arguments[0]}"]
        elif kind in ("received", "sent"):
            arguments[0] = f"later {arguments[0]}"
        joined.append((kind, *arguments))
    return joined
