"""Functions of arrays larger than memory, which lie in memory-mapped files.

The arrays are worked on in blocks of some 32 MiB, whose pages are given back to the
operating system as soon as they are done. Where the elements of a set (those that sum
to one) lie scattered over the file, as along the first axis of a tall array, the work
is done on a transposed copy of it in a scratch file. A set larger than a block stays
whole, and a thread beside the work gives back its pages while the kernel still runs.
"""

from __future__ import annotations

import errno
import importlib.util
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import inf, isqrt, prod
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "allocate", "apply", "steps", "tile"]

Array = npt.NDArray[Any]

BLOCK_BYTES = 32 << 20
# Each run of bytes in a tile of a transposed copy may bring 64 KiB of pages with it,
# which Linux maps around a page fault: 1254 runs of 1254 floats make 78 MiB.
TILE_BYTES = 6 << 20
TRIM_SECONDS = 0.002
BAR_AFTER_SECONDS = 1.0
BAR_EVERY_SECONDS = 0.1


def apply(
    function: Callable[..., Any],
    x: Array,
    y: Array,
    axes: frozenset[int],
    *,
    maps: tuple[mmap.mmap, ...],
    folder: str,
    written: Callable[[], None],
) -> None:
    """Write ``function(x, axis=axes)`` to `y`, whatever their size.

    Parameters
    ----------
    function : callable
        Takes `axis` and `out`.
    x : ndarray
        IN, in C order, not empty.
    y : ndarray
        OUT, in C order, shaped like `x`, or with length one along `axes`.
    axes : frozenset of int
        The axes of a set, counted from zero.
    maps : tuple of mmap
        What `x` and `y` lie in.
    folder : str
        Where there is room for scratch files, of the size of `x` and of `y`.
    written : callable
        Called after each block of `y`.
    """
    with _Watcher(maps, x.nbytes) as watcher:
        if _is_scattered(x, y, axes):
            _apply_transposed(function, x, y, axes, folder, watcher)
        else:
            _apply(function, x, y, axes, watcher, written)


def _apply(
    function: Callable[..., Any],
    x: Array,
    y: Array,
    axes: frozenset[int],
    watcher: _Watcher,
    written: Callable[[], None] | None = None,
) -> None:
    """Do the work of `apply` in blocks that are stretches of the file."""
    itemsize = max(x.itemsize, y.itemsize)
    step = steps(x.shape, itemsize, axes)
    watcher.trims = prod(step) * itemsize > BLOCK_BYTES
    for block in _blocks(x.shape, step):
        function(x[block], axis=tuple(axes), out=y[block])
        if written is not None:
            written()
        watcher.advance(x[block].nbytes)
    watcher.trims = False


def _apply_transposed(
    function: Callable[..., Any],
    x: Array,
    y: Array,
    axes: frozenset[int],
    folder: str,
    watcher: _Watcher,
) -> None:
    """Do the work of `apply` on a copy of `x` whose last axes are `axes`."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    order = [*kept, *sorted(axes)]
    last = frozenset(range(len(kept), x.ndim))
    x, y = x.transpose(order), y.transpose(order)
    reduces = x.shape != y.shape
    watcher.total = (2 if reduces else 3) * x.nbytes
    copy = watcher.scratch(x.shape, x.dtype, folder)
    _copy(copy, x, watcher)
    if reduces:
        _apply(function, copy, y, last, watcher)
        return
    result = copy
    if x.dtype != y.dtype:
        result = watcher.scratch(y.shape, y.dtype, folder)
    _apply(function, copy, result, last, watcher)
    _copy(y, result, watcher)


def _copy(target: Array, source: Array, watcher: _Watcher) -> None:
    """Copy between arrays of different layout, tile by tile."""
    itemsize = max(source.itemsize, target.itemsize)
    step = tile(source.shape, itemsize, _innermost(target), _innermost(source))
    for block in _blocks(source.shape, step):
        target[block] = source[block]
        watcher.advance(source[block].nbytes)


# What makes a block


def _is_scattered(x: Array, y: Array, axes: frozenset[int]) -> bool:
    """Return whether a set is neither one stretch of `x` nor inside a small one."""
    first = min(axes)
    between = [n for axis, n in enumerate(x.shape) if axis > first and axis not in axes]
    stretch = prod(x.shape[first:]) * max(x.itemsize, y.itemsize)
    return prod(between) > 1 and stretch > BLOCK_BYTES


def steps(shape: Sequence[int], itemsize: int, axes: frozenset[int]) -> list[int]:
    """Return how many entries of each axis make a block of some `BLOCK_BYTES`.

    The axes before the first of `axes` are cut, from the outermost inwards, so that a
    block is one stretch of the file. What cannot be cut so is one block, however large.

    Parameters
    ----------
    shape : sequence of int
        Of an array in C order, no length zero.
    itemsize : int
        Bytes of an element, the larger of input and output.
    axes : frozenset of int
        The axes of a set, which stay whole.
    """
    step = list(shape)
    for axis in range(min(axes)):
        entry = itemsize * prod(shape[axis + 1 :])
        step[axis] = min(shape[axis], max(1, BLOCK_BYTES // entry))
        if step[axis] > 1:
            break
    return step


def tile(
    shape: Sequence[int], itemsize: int, one: Sequence[int], other: Sequence[int]
) -> list[int]:
    """Return how many entries of each axis make a tile of some `TILE_BYTES`.

    The tile of a transposed copy, whose runs are long in both arrays.

    Parameters
    ----------
    shape : sequence of int
        Of both arrays.
    itemsize : int
        Bytes of an element.
    one, other : sequence of int
        The axes as they lie in one array and in the other, the innermost first.
    """
    step = [1] * len(shape)
    most = TILE_BYTES // itemsize
    for axes, limit in ((one, isqrt(most)), (other, most), (one, most)):
        for axis in axes:
            beside = prod(step) // step[axis]
            step[axis] = min(shape[axis], max(step[axis], limit // beside))
    return step


def _innermost(array: Array) -> list[int]:
    """Return the axes by their distance in memory, the smallest first."""
    return sorted(range(array.ndim), key=lambda axis: array.strides[axis])


def _blocks(shape: Sequence[int], step: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield the index of each block, the last axis running fastest."""
    cuts = [
        [slice(i, min(i + width, size)) for i in range(0, size, width)]
        for size, width in zip(shape, step, strict=True)
    ]
    yield from product(*cuts)


# Room on the disk


def allocate(file: BinaryIO, size: int) -> None:
    """Reserve `size` bytes: on a full disk an error here, not a signal at a write."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    zeros = bytes(1 << 20)
    for position in range(file.tell(), size, len(zeros)):
        file.write(zeros[: size - position])
    file.flush()


# Beside the work


class _Watcher:
    """What keeps resident memory small, and a thread that draws the progress bar.

    Parameters
    ----------
    maps : tuple of mmap
        Shared maps of files, whose pages are given back. The data stays in the page
        cache: nothing is lost, written or not.
    total : int
        The bytes to do.

    Attributes
    ----------
    trims : bool
        Whether the thread, too, gives pages back: needed where a single block is
        large, a waste elsewhere, since pages still in use come back one by one.
    """

    def __init__(self, maps: tuple[mmap.mmap, ...], total: int) -> None:
        self.total = total
        self.trims = False
        self._done = 0
        self._maps = list(maps)
        self._bar: Any = None
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finished.set()
        self._thread.join()

    def advance(self, done: int) -> None:
        """Note that so many bytes more are done, and give back their pages."""
        self._done += done
        self._trim()

    def scratch(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], folder: str
    ) -> Array:
        """Return an array in a file without a name, which goes when the array goes."""
        size = prod(shape) * dtype.itemsize
        with TemporaryFile(dir=folder) as file:
            allocate(file, size)
            memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_WRITE)
        self._maps.append(memory)
        return np.ndarray(shape, dtype, memory)

    def _watch(self) -> None:
        """Trim and draw until the work is over."""
        due = time.monotonic() + BAR_AFTER_SECONDS if _can_draw() else inf
        while not self._finished.wait(TRIM_SECONDS):
            if self.trims:
                self._trim()
            if time.monotonic() >= due:
                self._draw()
                due = time.monotonic() + BAR_EVERY_SECONDS
        if self._bar is not None:
            self._draw()
            self._bar.close()

    def _trim(self) -> None:
        """Give the pages back, on Linux alone: elsewhere the advice may mean more."""
        if sys.platform == "linux":
            for memory in self._maps:
                memory.madvise(mmap.MADV_DONTNEED)

    def _draw(self) -> None:
        """Bring the bar up to date."""
        if self._bar is None:
            tqdm = importlib.import_module("tqdm").tqdm
            self._bar = tqdm(
                total=self.total, initial=self._done, unit="B", unit_scale=True
            )
        self._bar.n = self._done
        self._bar.refresh()


def _can_draw() -> bool:
    """Return whether there is a terminal to draw on, and tqdm to draw with."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    return on_terminal and importlib.util.find_spec("tqdm") is not None
