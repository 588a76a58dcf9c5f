"""Zstandard: the standard library's own module from Python 3.14 on, before that the same one as a package.

Loaded by whoever compresses, when it does.
"""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["zstd_module"]


def zstd_module() -> ModuleType:
    """The module, whichever it is."""
    if sys.version_info >= (3, 14):  # pragma: no cover - depends on the interpreter
        from compression import zstd
    else:
        from backports import zstd
    module: ModuleType = zstd
    return module
