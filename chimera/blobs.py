"""``BlobStore``: bodies of bytes kept under their own SHA-256, each once, durable before ``put`` returns.

    <folder>/<digest>        the bytes as they are, where compressing them gains nothing
    <folder>/<digest>.zst    one zstd frame of them; ``zstd -d`` reads it

A blob is never changed: whoever reads checks it against its name, and any number of processes may put the same bytes
at once. Knows neither files of a user, nor sessions, nor who still refers to a blob. The compressor is loaded on first
use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re

from chimera import durable
from chimera.errors import ChimeraError, InvalidParams, NoSpace, StorageError, TooLarge
from chimera.zstd import zstd_module

__all__ = ["DIGEST_PATTERN", "MAX_BLOB_BYTES", "BlobStore", "digest_of"]

DIGEST_PATTERN = r"\A[0-9a-f]{64}\Z"
"""What a digest looks like, for the types that carry one."""

MAX_BLOB_BYTES = 256 * 1024 * 1024
"""A compressed file that claims to hold more is damage or malice, and is not unpacked."""

COMPRESSION_LEVEL = 3

_ENDINGS = ("", ".zst")
_DIGEST = re.compile(DIGEST_PATTERN)


def digest_of(body: bytes) -> str:
    """The name of these bytes: their SHA-256 in lower hex."""
    return hashlib.sha256(body).hexdigest()


class BlobStore:
    """The blobs in ``folder``, which is made (0700) at the first ``put``; the folder it lies in must exist."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self._folder_is_durable = False
        self._doubtful: set[str] = set()

    def put(self, body: bytes) -> str:
        """Keep the bytes; on return they are on the disk under the digest that is returned.

        Raises:
            TooLarge: they are more than ``MAX_BLOB_BYTES``.
            NoSpace, StorageError: they are not kept, or it is not known whether they would survive a power cut.
        """
        if len(body) > MAX_BLOB_BYTES:
            raise TooLarge(f"a blob of {len(body)} bytes is over the limit of {MAX_BLOB_BYTES}; keep it elsewhere")
        digest = digest_of(body)
        try:
            self._make_folder()
            if not self._sync_existing(digest):
                self._write(digest, body)
        except OSError as error:
            self._doubtful.add(digest)
            raise _refusal(digest, error) from error
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes with this digest, compared with it.

        Raises:
            InvalidParams: it is no digest.
            StorageError: the blob is missing, damaged, or cannot be read.
        """
        _check_digest(digest)
        damaged = False
        for ending in _ENDINGS:
            try:
                body = self._read(digest, ending)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(
                    f"the blob {digest} in {self.folder!r} cannot be read ({error.strerror})", blob=digest
                ) from error
            if body is not None:
                return body
            damaged = True
        state = "damaged" if damaged else "missing"
        raise StorageError(
            f"the blob {digest} in {self.folder!r} is {state}; restore it from a backup of the session", blob=digest
        )

    def has(self, digest: str) -> bool:
        """Whether there is such a blob; only ``get`` says whether it is whole.

        Raises:
            InvalidParams: it is no digest.
        """
        _check_digest(digest)
        return any(os.path.isfile(self._path(digest, ending)) for ending in _ENDINGS)

    def digests(self) -> list[str]:
        """Every blob that there is, in order of the digests."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted({stem for stem in (name.removesuffix(".zst") for name in names) if _DIGEST.match(stem)})

    def _path(self, digest: str, ending: str) -> str:
        return os.path.join(self.folder, digest + ending)

    def _make_folder(self) -> None:
        """A session's folder that is gone was removed: blobs do not bring it back (store rule 8)."""
        parent = os.path.dirname(self.folder)
        if not os.path.isdir(parent):
            raise StorageError(f"the folder {parent!r} is gone, and what was in it with it; begin another session")
        durable.make_folder(self.folder)
        if not self._folder_is_durable:  # another process may have made it a moment ago
            durable.sync_folder(parent)
            self._folder_is_durable = True

    def _sync_existing(self, digest: str) -> bool:
        """Whether the blob is there already, whole; then its entry is made durable, for who wrote it may not have yet.

        After a failed sync nothing that is seen proves anything (store rule 7): the bytes are written once more.
        """
        if digest in self._doubtful:
            return False
        for ending in _ENDINGS:
            try:
                if self._read(digest, ending) is None:
                    continue
                durable.sync_file(self._path(digest, ending))
            except FileNotFoundError:
                continue
            durable.sync_folder(self.folder)
            return True
        return False

    def _write(self, digest: str, body: bytes) -> None:
        packed: bytes = zstd_module().compress(body, COMPRESSION_LEVEL)
        if len(packed) < len(body):
            durable.replace_file(self._path(digest, ".zst"), packed)
        else:
            durable.replace_file(self._path(digest, ""), body)
        self._doubtful.discard(digest)

    def _read(self, digest: str, ending: str) -> bytes | None:
        """The bytes in this file; None when they are not those of the digest."""
        with open(self._path(digest, ending), "rb") as file:
            stored = file.read()
        body = _unpack(stored) if ending else stored
        return body if body is not None and digest_of(body) == digest else None


def _check_digest(digest: str) -> None:
    if not _DIGEST.match(digest):
        raise InvalidParams(f"{digest[:80]!r} is no digest of a blob; give 64 lower hexadecimal digits")


def _unpack(stored: bytes) -> bytes | None:
    """What one zstd frame holds; None when it is damaged or claims too much."""
    zstd = zstd_module()
    try:
        size = zstd.get_frame_info(stored).decompressed_size
        if size not in range(MAX_BLOB_BYTES + 1) or zstd.get_frame_size(stored) != len(stored):
            return None
        return bytes(zstd.decompress(stored))
    except zstd.ZstdError:
        return None


def _refusal(digest: str, error: OSError) -> ChimeraError:
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StorageError
    return kind(
        f"the disk refused to keep the blob {digest} ({error.strerror or error}); try again when it accepts writes",
        blob=digest,
    )
