"""How large the last-level cache is: results that it cannot hold are stored past it."""

from __future__ import annotations

import contextlib
import os

_UNKNOWN = 8 << 20
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_in(folder: str | os.PathLike[str]) -> int:
    """Bytes of the largest cache that Linux describes in `folder`; 0 if it does not.

    sysconf knows less: on AMD it adds up the caches of cores that do not share them.
    """
    largest = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name, "size")
            with contextlib.suppress(OSError, ValueError, LookupError), open(path) as f:
                text = f.read().strip()
                largest = max(largest, int(text[:-1]) * _UNITS[text[-1]])
    return largest


def largest() -> int:
    """Bytes of the largest cache of the first CPU; 8 MiB where nobody tells."""
    return size_in("/sys/devices/system/cpu/cpu0/cache") or _UNKNOWN
