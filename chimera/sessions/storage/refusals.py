"""What the disk answers, said as an error of ours. Knows nothing of sessions."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from chimera.errors import NoSpace, ReadOnly, StorageError

__all__ = ["refused_by_disk"]


@contextmanager
def refused_by_disk(path: str) -> Iterator[None]:
    """Whatever the system refuses in here concerns ``path``.

    Raises:
        NoSpace, ReadOnly, StorageError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(f"there is no room for {path} ({why}); free some and save again") from error
        if error.errno == errno.EROFS:
            raise ReadOnly(f"{path} lies on a file system that is read-only; choose another place") from error
        raise StorageError(f"the disk refused {path} ({why}); check its permissions and the disk") from error
