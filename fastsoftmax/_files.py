"""Softmax and its siblings from one .npy file to another, through memory maps.

The files may be larger than memory: they are mapped, worked on in blocks of some
32 MiB, and a thread beside the work gives the pages back to the operating system as
they are read and written, so that the resident memory stays small even where the
axis forces a single block (``axis=None``, or the first axis of a tall array).

The result is written to a temporary file beside its destination, which gets its name
when the result is whole; whatever ends the work earlier removes the temporary file.
"""

from __future__ import annotations

import errno
import importlib.util
import mmap
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf, prod
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

__all__ = ["FileError", "steps", "transform"]

Array = npt.NDArray[Any]
Axis = int | tuple[int, ...] | None

BLOCK_BYTES = 32 << 20
# A block cut inside a reduced axis touches one run of bytes per entry of that axis.
# Shorter runs would fault in every page of the file for every block: such arrays are
# left whole.
RUN_BYTES = 8 << 10
TRIM_SECONDS = 0.002
BAR_AFTER_SECONDS = 1.0
BAR_EVERY_SECONDS = 0.1


class FileError(Exception):
    """A file cannot be read, worked on or written; the message says which and why."""


@dataclass(frozen=True)
class _Layout:
    """Where and how an array lies in a .npy file; `offset` is in bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def end(self) -> int:
        """The position just after the data, in bytes."""
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def view(self, memory: mmap.mmap, shape: tuple[int, ...]) -> Array:
        """Return the mapped array, seen in a `shape` of the same size."""
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        return np.ndarray(shape, self.dtype, memory, self.offset, order=order)


def transform(
    function: Callable[..., Any],
    source: str,
    target: str,
    axis: Axis,
    *,
    keepdims: bool | None = None,
    force: bool = False,
) -> None:
    """Write ``function(array in source, axis=axis)`` to `target`.

    Parameters
    ----------
    function : callable
        `softmax`, `log_softmax` or `logsumexp`, other options bound.
    source, target : str
        Paths of .npy files; they may be the same with `force`.
    axis : int, tuple of int or None
        As in `function`.
    keepdims : bool, optional
        None where the result is shaped like the input; else the function reduces
        `axis`, and this says whether it stays with length one.
    force : bool
        Replace `target` where it exists.

    Raises
    ------
    FileError
        Whatever is wrong with the files, or with `axis` for this file, before
        `target` or anything beside it has changed.
    """
    with _reading(source), open(source, "rb") as file:
        layout = _read_layout(file, source)
        dtype = _result_dtype(function, layout, axis, source)
        _check_target(target, force)
        if not layout.shape or 0 in layout.shape:
            # An empty file cannot be mapped, and a scalar needs no map.
            file.seek(0)
            x = npy.read_array(file, allow_pickle=False)
            options = {} if keepdims is None else {"keepdims": keepdims}
            y = np.asarray(function(x, axis=axis, **options))
            with _appearing(target, force) as out:
                npy.write_array(out, y, allow_pickle=False)
            return
        memory = mmap.mmap(file.fileno(), layout.end, access=mmap.ACCESS_READ)
    with _appearing(target, force) as out:
        _stream(function, memory, layout, out, dtype, axis, keepdims)


def _stream(
    function: Callable[..., Any],
    source: mmap.mmap,
    layout: _Layout,
    out: BinaryIO,
    dtype: np.dtype[Any],
    axis: Axis,
    keepdims: bool | None,
) -> None:
    """Write the header and, block by block, the data of the result to `out`."""
    shape = layout.shape
    axes = _axes(axis, len(shape))
    held, written = shape, shape  # the result's shape at work, and in its header
    if keepdims is not None:
        held = tuple(1 if i in axes else n for i, n in enumerate(shape))
        written = held
        if not keepdims:
            written = tuple(n for i, n in enumerate(shape) if i not in axes)
        function = partial(function, keepdims=True)
    result = _write_header(out, written, layout.fortran, dtype)
    _allocate(out, result.end)
    memory = mmap.mmap(out.fileno(), result.end, access=mmap.ACCESS_WRITE)
    x = layout.view(source, shape)
    y = result.view(memory, held)
    itemsize = max(layout.dtype.itemsize, dtype.itemsize)
    step = steps(shape, itemsize, axes, fortran=layout.fortran)
    with _Watcher((source, memory), x.nbytes) as watcher:
        for block in _blocks(shape, step, fortran=layout.fortran):
            piece = x[block]
            if piece.flags.forc:
                function(piece, axis=axis, out=y[block])
            else:
                # Scattered over the file: to be walked over once, not by every pass.
                y[block] = function(piece.copy(order="K"), axis=axis)
            # Written now, the block's pages do not pile up until the end, where
            # neither the progress bar nor Ctrl-C would reach.
            os.fsync(out.fileno())
            watcher.done += piece.nbytes
    memory.flush()


# What lies in the source


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `FileError`."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileError(f"cannot read {path!r}: it is not a regular file")
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot read {path!r}: {error.strerror}") from error


def _read_layout(file: BinaryIO, path: str) -> _Layout:
    """Read the header of a .npy file, and check that its data is there."""
    size = os.fstat(file.fileno()).st_size
    try:
        if npy.read_magic(file) == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = npy.read_array_header_2_0(file)
    except ValueError as error:
        raise FileError(f"{path!r} is not a .npy file: {error}") from error
    if dtype.hasobject:
        raise FileError(f"{path!r} holds Python objects, not numbers")
    layout = _Layout(shape, fortran, dtype, file.tell())
    if min(shape, default=0) < 0 or size < layout.end:
        raise FileError(
            f"{path!r} is truncated: shape {shape} of {dtype} ends at byte "
            f"{layout.end}, the file at byte {size}"
        )
    return layout


def _result_dtype(
    function: Callable[..., Any], layout: _Layout, axis: Axis, path: str
) -> np.dtype[Any]:
    """Let `function` itself judge dtype and axis, on an array of one element."""
    try:
        one = np.zeros((1,) * len(layout.shape), layout.dtype)
        return np.dtype(np.asarray(function(one, axis=axis)).dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise FileError(f"{path!r}: {error}") from error


# Blocks


def _axes(axis: Axis, ndim: int) -> frozenset[int]:
    """Return the reduced axes, counted from zero; `axis` is known to be valid."""
    if axis is None:
        return frozenset(range(ndim))
    if isinstance(axis, int):
        axis = (axis,)
    return frozenset(a % ndim for a in axis)


def steps(
    shape: Sequence[int], itemsize: int, axes: frozenset[int], *, fortran: bool
) -> list[int]:
    """Return how many entries of each axis make a block of some `BLOCK_BYTES`.

    Reduced axes stay whole. The others are cut from the outermost inwards, so that a
    block is one stretch of the file, or runs of at least `RUN_BYTES` in it. What
    cannot be cut so is one block, however large.

    Parameters
    ----------
    shape : sequence of int
        Of the input, no length zero.
    itemsize : int
        Bytes of an element, the larger of input and output.
    axes : frozenset of int
        The reduced axes.
    fortran : bool
        Whether the last axis is the outermost, else the first is.
    """
    step = list(shape)
    inner = itemsize * prod(shape)  # bytes of one entry of the current axis
    block = inner
    scattered = False
    for axis in _outermost_first(len(shape), fortran=fortran):
        if block <= BLOCK_BYTES:
            break
        inner //= shape[axis]
        if axis in axes:
            scattered = True
            continue
        block //= shape[axis]
        entries = max(1, BLOCK_BYTES // block)
        if scattered and entries * inner < RUN_BYTES:
            break
        step[axis] = entries
        if entries > 1:
            break
    return step


def _outermost_first(ndim: int, *, fortran: bool) -> list[int]:
    """Return the axes by their distance in the file, the largest first."""
    return list(range(ndim))[:: -1 if fortran else 1]


def _blocks(
    shape: Sequence[int], step: Sequence[int], *, fortran: bool
) -> Iterator[tuple[slice, ...]]:
    """Yield the index of each block, in the order in which they lie in the file."""
    order = _outermost_first(len(shape), fortran=fortran)
    cuts = [
        [slice(i, i + step[axis]) for i in range(0, shape[axis], step[axis])]
        for axis in order
    ]
    for block in product(*cuts):
        index = dict(zip(order, block, strict=True))
        yield tuple(index[axis] for axis in range(len(shape)))


# The target


def _check_target(path: str, force: bool) -> None:
    """Refuse a `path` that cannot become the result, before any work."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileError(f"cannot write {path!r}: there is no folder {folder!r}")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise FileError(f"cannot write {path!r}: it is not a regular file")
    if not force:
        raise FileError(_exists(path))


def _exists(path: str) -> str:
    """Return what to say of a `path` that is taken."""
    return f"{path!r} exists already; --force would replace it"


@contextmanager
def _appearing(path: str, force: bool) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its name when the block ends well."""
    target = os.path.realpath(path)  # a link's file is replaced, not the link
    name = f".fastsoftmax-{secrets.token_hex(8)}.tmp"
    temporary = os.path.join(os.path.dirname(target), name)
    try:
        with open(temporary, "xb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, target, force)
    except FileExistsError as error:
        raise FileError(_exists(path)) from error
    except OSError as error:
        raise FileError(f"cannot write {path!r}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _rename(temporary: str, target: str, force: bool) -> None:
    """Give the finished file its name; without `force` only if the name is free."""
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike a rename it never replaces a file
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        # No hard links here: leave a moment in which another's file could be lost.
        if os.path.exists(target):
            raise FileExistsError from None
        os.rename(temporary, target)


def _write_header(
    file: BinaryIO, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> _Layout:
    """Write the .npy header as `numpy.save` would; return where the data goes."""
    fortran = fortran and len(shape) > 1
    descr = npy.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": fortran, "shape": shape}
    npy.write_array_header_1_0(file, header)
    file.flush()
    return _Layout(shape, fortran, dtype, file.tell())


def _allocate(file: BinaryIO, size: int) -> None:
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
    """A thread that keeps resident memory small and draws the progress bar.

    Parameters
    ----------
    maps : tuple of mmap
        Shared maps of files; their pages are given back every `TRIM_SECONDS`. The
        data stays in the page cache: nothing is lost, dirty or not.
    total : int
        The value of `done` at the end, in bytes; whoever works keeps it up to date.
    """

    def __init__(self, maps: tuple[mmap.mmap, ...], total: int) -> None:
        self.done = 0
        self._maps = maps
        self._total = total
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

    def _watch(self) -> None:
        """Trim and draw until the work is over."""
        due = time.monotonic() + BAR_AFTER_SECONDS if _can_draw() else inf
        while not self._finished.wait(TRIM_SECONDS):
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
                total=self._total, initial=self.done, unit="B", unit_scale=True
            )
        self._bar.n = self.done
        self._bar.refresh()


def _can_draw() -> bool:
    """Return whether there is a terminal to draw on, and tqdm to draw with."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    return on_terminal and importlib.util.find_spec("tqdm") is not None
