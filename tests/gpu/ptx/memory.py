"""Global memory with red zones, and the bytes of a space with what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu.ptx.faults import Fault
from gpu.ptx.types import UNSIGNED, Array

GLOBAL_BASE = 0x7F00_0000_0000
SHARED_BASE = 0x400  # nothing lies at address 0
RED_ZONE = 256
ALIGNMENT = 256
SIZES = (1, 2, 4, 8, 16)
_INSIDE, _INITIALISED = 1, 2
_GARBAGE = 0xA5


class Space:
    """Bytes, and for each of them whether it is inside a buffer and initialised."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // 32) * 32
        self.bytes = np.full(self.size, _GARBAGE, np.uint8)
        self.state = np.zeros(self.size, np.uint8)
        self._bytes = {size: _view(self.bytes, size) for size in SIZES}
        self._state = {size: _view(self.state, size) for size in SIZES}

    def open(self, start: int, stop: int, initialised: bool) -> None:
        self.state[start:stop] = _INSIDE | (_INITIALISED if initialised else 0)

    def outside(self, offsets: Array, size: int) -> Array:
        """Say which accesses touch a byte outside of the buffers."""
        beyond = (offsets < 0) | (offsets > self.size - size)
        if beyond.any():
            return beyond
        return self._lacks(offsets, size, _INSIDE)

    def uninitialised(self, offsets: Array, size: int) -> Array:
        return self._lacks(offsets, size, _INITIALISED)

    def _lacks(self, offsets: Array, size: int, flag: int) -> Array:
        view = self._state[size]
        mask = view.dtype.type(int.from_bytes([flag] * view.dtype.itemsize, "little"))
        lacking = (view[offsets // size] & mask) != mask
        return lacking if lacking.ndim == 1 else lacking.any(axis=1)

    def load(
        self, offsets: Array, size: int, dtype: np.dtype[np.unsignedinteger]
    ) -> Array:
        """Return the elements of each access, as columns."""
        values = self._bytes[size][offsets // size]
        return values.view(dtype).reshape(len(offsets), size // dtype.itemsize)

    def store(self, offsets: Array, size: int, values: Array) -> None:
        """Store rows of elements."""
        view, state = self._bytes[size], self._state[size]
        rows = np.ascontiguousarray(values).view(view.dtype)
        view[offsets // size] = rows.reshape(len(offsets), *view.shape[1:])
        both = [_INSIDE | _INITIALISED] * view.dtype.itemsize
        state[offsets // size] = view.dtype.type(int.from_bytes(both, "little"))


def _view(array: Array, size: int) -> Array:
    if size <= 8:
        return array.view(UNSIGNED[size])
    return array.view(np.uint64).reshape(-1, size // 8)


@dataclass(frozen=True)
class _Buffer:
    name: str
    start: int
    stop: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class Memory:
    """Global memory: named buffers, each between red zones."""

    def __init__(self) -> None:
        self.space = Space(0)
        self.buffers: dict[str, _Buffer] = {}
        self.forget()

    def add(
        self, name: str, array: Array, shift: int = 0, initialised: bool = True
    ) -> int:
        """Put in a copy of an array and return its address."""
        if name in self.buffers:
            raise ValueError(f"there is a buffer {name!r} already")
        array = np.asarray(array)
        data = np.frombuffer(array.tobytes(), np.uint8)
        top = max((buffer.stop for buffer in self.buffers.values()), default=0)
        start = -(-(top + RED_ZONE) // ALIGNMENT) * ALIGNMENT + shift
        stop = start + data.size
        old, self.space = self.space, Space(stop + RED_ZONE)
        self.space.bytes[: old.size] = old.bytes
        self.space.state[: old.size] = old.state
        self.space.open(start, stop, initialised)
        if initialised:
            self.space.bytes[start:stop] = data
        self.buffers[name] = _Buffer(name, start, stop, array.dtype, array.shape)
        return GLOBAL_BASE + start

    def array(self, name: str) -> Array:
        """Return a copy of what a buffer holds now."""
        buffer = self.buffers[name]
        data = self.space.bytes[buffer.start : buffer.stop].tobytes()
        return np.frombuffer(data, buffer.dtype).reshape(buffer.shape).copy()

    def forget(self) -> None:
        """Start counting reads and writes anew."""
        self._log: dict[str, dict[int, list[Array]]] = {"load": {}, "store": {}}

    def note(self, kind: str, offsets: Array, size: int) -> None:
        self._log[kind].setdefault(size, []).append(offsets)

    def reads(self, name: str) -> Array:
        """Return how often each byte of a buffer was loaded since `forget`."""
        return self._count("load", name)

    def writes(self, name: str) -> Array:
        return self._count("store", name)

    def _count(self, kind: str, name: str) -> Array:
        counts = np.zeros(self.space.size, np.int64)
        for size, parts in self._log[kind].items():
            units = np.concatenate(parts) // size
            counts += np.repeat(np.bincount(units, minlength=counts.size // size), size)
        buffer = self.buffers[name]
        return counts[buffer.start : buffer.stop]

    def describe(self, offset: int) -> str:
        """Say where an offset lies, by the nearest buffer."""

        def distance(buffer: _Buffer) -> int:
            return max(buffer.start - offset, offset - buffer.stop + 1, 0)

        nearest = min(self.buffers.values(), key=distance, default=None)
        if nearest is None:
            return "there is no buffer"
        size = nearest.stop - nearest.start
        return f"byte {offset - nearest.start} of {nearest.name!r}, which has {size}"


def require_aligned(addresses: Array, size: int) -> None:
    wrong = addresses & (size - 1) != 0
    if wrong.any():
        address = int(addresses[wrong][0])
        raise Fault("alignment", f"{size} bytes at {address:#x}")
