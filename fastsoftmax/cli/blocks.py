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
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from io import RawIOBase
from itertools import product
from math import inf, isqrt, prod
from operator import mul
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _cpu, _threads

__all__ = ["Array", "FileArray", "TruncatedError", "allocate", "apply", "steps", "tile"]

Array = npt.NDArray[Any]

BLOCK_BYTES = 32 << 20
TRIM_SECONDS = 0.002
BAR_AFTER_SECONDS = 1.0
BAR_EVERY_SECONDS = 0.1


class TruncatedError(Exception):
    """Another process has made a file shorter that is being read."""


@dataclass(frozen=True)
class FileArray:
    """An array in a file, in C order but for its axes.

    Parameters
    ----------
    file : file
        Unbuffered, open for reading, or for reading and writing.
    offset : int
        Where the array begins, in bytes.
    memory : mmap
        The shared map of the whole file.
    array : ndarray
        What is seen of it through the map.
    """

    file: RawIOBase
    offset: int
    memory: mmap.mmap
    array: Array

    @classmethod
    def mapped(
        cls,
        file: RawIOBase,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        access: int = mmap.ACCESS_WRITE,
    ) -> FileArray:
        """Map a file up to the end of an array in C order."""
        end = offset + prod(shape) * dtype.itemsize
        memory = mmap.mmap(file.fileno(), end, access=access)
        return cls(file, offset, memory, np.ndarray(shape, dtype, memory, offset))

    def transpose(self, order: Sequence[int]) -> FileArray:
        """Return the same array with its axes in another order."""
        return replace(self, array=self.array.transpose(order))

    def padded(self, ndim: int) -> FileArray:
        """Return the same array with axes of length one in front."""
        array = self.array[(None,) * (ndim - self.array.ndim)]
        return replace(self, array=array)

    def innermost_first(self) -> list[int]:
        """Return the axes by their distance in the file, the smallest first."""
        strides = self.array.strides
        return sorted(range(self.array.ndim), key=lambda axis: strides[axis])

    def read(self, block: tuple[slice, ...]) -> Array:
        """Return a copy of a block, without a page of it in the map.

        A block of many short runs would bring many more pages than it needs: Linux
        maps what it holds around a page that is asked for, up to megabytes.
        """
        order = self.innermost_first()[::-1]
        shape = self.array[block].transpose(order).shape
        buffer = np.empty(shape, self.array.dtype)
        for position, run in self._runs(block, buffer):
            self.file.seek(position)
            while run:
                count = self.file.readinto(run)
                if not count:
                    raise TruncatedError
                run = run[count:]
        return buffer.transpose(np.argsort(order))

    def write(self, block: tuple[slice, ...], values: Array) -> None:
        """Replace a block, without a page of it in the map."""
        order = self.innermost_first()[::-1]
        buffer = np.ascontiguousarray(values.transpose(order), self.array.dtype)
        for position, run in self._runs(block, buffer):
            self.file.seek(position)
            _write(self.file, run)

    def _runs(
        self, block: tuple[slice, ...], buffer: Array
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield where each run of a block begins in the file, and its bytes in RAM."""
        order = self.innermost_first()[::-1]
        strides = [self.array.strides[axis] for axis in order]
        starts = [block[axis].start for axis in order]
        outer, run = buffer.ndim, buffer.itemsize
        while outer > 0 and (buffer.shape[outer - 1] == 1 or strides[outer - 1] == run):
            outer -= 1
            run *= buffer.shape[outer]
        first = self.offset + sum(map(mul, starts, strides))
        positions = np.array([first])
        for size, stride in zip(buffer.shape[:outer], strides, strict=False):
            positions = np.add.outer(positions, np.arange(size) * stride)
        data = buffer.reshape(-1).view(np.uint8).data
        for i, position in enumerate(positions.reshape(-1).tolist()):
            yield position, data[i * run : (i + 1) * run]


def apply(
    function: Callable[..., Any],
    x: FileArray,
    where: FileArray | None,
    y: FileArray,
    axes: frozenset[int],
    *,
    folder: str,
    written: Callable[[], None],
) -> None:
    """Write ``function(x, axis=axes, where=where)`` to `y`, whatever their size.

    Parameters
    ----------
    function : callable
        Takes `axis`, `where` and `out`.
    x : FileArray
        IN, in C order, not empty.
    where : FileArray or None
        Of bool, with as many axes as `x`, each as long or of length one.
    y : FileArray
        OUT, in C order, shaped like `x`, or with length one along `axes`.
    axes : frozenset of int
        The axes of a set, counted from zero.
    folder : str
        Where there is room for scratch files, of the size of `x`, `where` and `y`.
    written : callable
        Called after each block of `y` where blocks are written one after the other.
    """
    maps = [a.memory for a in (x, where, y) if a is not None]
    with _Watcher(maps, x.array.nbytes) as watcher:
        if _is_scattered(x.array, y.array, axes):
            _apply_transposed(function, x, where, y, axes, folder, watcher)
        else:
            mask = None if where is None else where.array
            _apply(function, x.array, mask, y.array, axes, watcher, written)


def _apply(
    function: Callable[..., Any],
    x: Array,
    where: Array | None,
    y: Array,
    axes: frozenset[int],
    watcher: _Watcher,
    written: Callable[[], None] | None = None,
) -> None:
    """Do the work of `apply` in blocks that are stretches of the file."""
    itemsize = max(x.itemsize, y.itemsize)
    step = steps(x.shape, itemsize, axes)
    large = prod(step) * itemsize > BLOCK_BYTES
    with watcher.trimming() if large else nullcontext():
        for block in _blocks(x.shape, step):
            part = None if where is None else where[_within(where.shape, block)]
            function(x[block], axis=tuple(axes), where=part, out=y[block])
            if written is not None:
                written()
            watcher.advance(x[block].nbytes)


def _apply_transposed(
    function: Callable[..., Any],
    x: FileArray,
    where: FileArray | None,
    y: FileArray,
    axes: frozenset[int],
    folder: str,
    watcher: _Watcher,
) -> None:
    """Do the work of `apply` on copies whose last axes are `axes`."""
    kept = [axis for axis in range(x.array.ndim) if axis not in axes]
    order = [*kept, *sorted(axes)]
    last = frozenset(range(len(kept), x.array.ndim))
    x, y = x.transpose(order), y.transpose(order)
    reduces = x.array.shape != y.array.shape
    watcher.total = (2 if reduces else 3) * x.array.nbytes
    with ExitStack() as stack:
        scratch = partial(_scratch, stack, folder, watcher)
        copy = scratch(x.array)
        _copy(copy, x, watcher)
        mask = None
        if where is not None:
            where = where.transpose(order)
            watcher.total += where.array.nbytes
            masks = scratch(where.array)
            _copy(masks, where, watcher)
            mask = masks.array
        result = y
        if not reduces:
            result = copy if copy.array.dtype == y.array.dtype else scratch(y.array)
        _apply(function, copy.array, mask, result.array, last, watcher)
        if not reduces:
            _copy(y, result, watcher)


def _scratch(
    stack: ExitStack, folder: str, watcher: _Watcher, like: Array
) -> FileArray:
    """Open a file without a name, with room for an array in C order."""
    file = TemporaryFile("w+b", buffering=0, dir=folder)  # noqa: SIM115
    stack.enter_context(file)
    allocate(file, like.nbytes)
    scratch = FileArray.mapped(file, 0, like.shape, like.dtype)
    watcher.maps.append(scratch.memory)
    return scratch


def _copy(target: FileArray, source: FileArray, watcher: _Watcher) -> None:
    """Copy between arrays of different layout, tile by tile."""
    shape, itemsize = source.array.shape, source.array.itemsize
    step = tile(shape, itemsize, target.innermost_first(), source.innermost_first())
    for block in _blocks(shape, step):
        values = source.read(block)
        target.write(block, values)
        watcher.advance(values.nbytes)


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
    return step


def tile(
    shape: Sequence[int], itemsize: int, one: Sequence[int], other: Sequence[int]
) -> list[int]:
    """Return how many entries of each axis make a tile of some `BLOCK_BYTES`.

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
    most = BLOCK_BYTES // itemsize
    for axes, limit in ((one, isqrt(most)), (other, most), (one, most)):
        for axis in axes:
            beside = prod(step) // step[axis]
            step[axis] = min(shape[axis], max(step[axis], limit // beside))
    return step


def _within(shape: Sequence[int], block: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the part of an array of this shape that a block sees by broadcasting."""
    return tuple(
        slice(None) if n == 1 else part for n, part in zip(shape, block, strict=True)
    )


def _blocks(shape: Sequence[int], step: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield the index of each block, the last axis running fastest."""
    cuts = [
        [slice(i, min(i + width, size)) for i in range(0, size, width)]
        for size, width in zip(shape, step, strict=True)
    ]
    yield from product(*cuts)


# Room on the disk


def allocate(file: RawIOBase, size: int) -> None:
    """Reserve `size` bytes: on a full disk an error here, not a signal at a write."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    zeros = memoryview(bytes(1 << 20))
    for position in range(file.seek(0, os.SEEK_END), size, len(zeros)):
        _write(file, zeros[: size - position])


def _write(file: RawIOBase, data: memoryview) -> None:
    """Write all of `data`, of which a disk that gets full takes only a part."""
    while data:
        data = data[file.write(data) :]


# Beside the work


class _Watcher:
    """What keeps resident memory small, and a thread that draws the progress bar.

    Parameters
    ----------
    maps : list of mmap
        Shared maps of files, whose pages are given back. The data stays in the page
        cache: nothing is lost, written or not. The list may grow.
    total : int
        The bytes to do.
    """

    def __init__(self, maps: list[mmap.mmap], total: int) -> None:
        self.maps = maps
        self.total = total
        self._trims = False
        self._done = 0
        self._lost = _cpu.lost_pages()
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
        if _cpu.lost_pages() > self._lost:
            raise TruncatedError
        self._done += done
        self._trim()

    @contextmanager
    def trimming(self) -> Iterator[None]:
        """Let the thread give pages back all the time, as a large block needs it.

        Elsewhere that is a waste: pages still in use come back one by one. The kernel
        runs in one thread meanwhile. More would hardly be faster, since they wait for
        the same file, but they would fetch pages faster than these are given back.
        """
        before = _threads._wanted
        _threads.want(1)
        self._trims = True
        try:
            yield
        finally:
            self._trims = False
            _threads.want(before)

    def _watch(self) -> None:
        """Trim and draw until the work is over."""
        due = time.monotonic() + BAR_AFTER_SECONDS if _can_draw() else inf
        while not self._finished.wait(TRIM_SECONDS):
            if self._trims:
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
            for memory in self.maps:
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
