"""Arrays of the stand-in for CuPy in the memory of the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu import ptx
from gpu.ptx.memory import GLOBAL_BASE


class Spans:
    """The arguments of a launch in the interpreter's memory, and back.

    Arrays that share memory do so there. Nothing around an array is within bounds.
    """

    def __init__(self, arrays: list[Any]) -> None:
        self.memory = ptx.Memory()
        self._spans: list[tuple[Any, int, int, int]] = []
        ordered = sorted(
            (a for a in arrays if a.size), key=lambda a: (id(a._buffer), a.data.ptr)
        )
        merged: list[tuple[Any, int, int]] = []
        for array in ordered:
            buffer, start = array._buffer, array._buffer.offset(array._host)
            stop = start + array.nbytes
            if merged and merged[-1][0] is buffer and merged[-1][2] > start:
                _, start, before = merged.pop()
                stop = max(stop, before)
            merged.append((buffer, start, stop))
        for number, (buffer, start, stop) in enumerate(merged):
            place = self.memory.add(
                str(number),
                buffer.bytes[start:stop],
                shift=(buffer.address + start) % 256,
                initialised=bool(buffer.known[start:stop].any()),
            )
            self._spans.append((buffer, start, stop, place))

    def pointer(self, array: Any) -> int:
        at = array._buffer.offset(array._host)
        for buffer, start, stop, place in self._spans:
            if array.size and buffer is array._buffer and start <= at < stop:
                return place + at - start
        return 0

    def bring_back(self) -> None:
        space = self.memory.space
        for number, (buffer, start, stop, place) in enumerate(self._spans):
            buffer.bytes[start:stop] = self.memory.array(str(number))
            offsets = np.arange(stop - start) + (place - GLOBAL_BASE)
            buffer.known[start:stop] = ~space.uninitialised(offsets, 1)
