"""Softmax and its siblings from one .npy file to another, through memory maps.

The result is written to a temporary file beside its destination, which gets its name
when the result is whole; whatever ends the work earlier removes the temporary file.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedRandom, FileIO
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .blocks import Array, FileArray, allocate, apply

__all__ = ["Axis", "FileError", "load", "save", "transform"]

Axis = int | tuple[int, ...] | None


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
    with _reading(source):
        file = FileIO(source)
    with file:
        with _reading(source):
            layout = _read_layout(file, source)
        dtype = _result_dtype(function, layout, axis, source)
        _check_target(target, force)
        with _appearing(target, force) as out:
            if layout.shape and 0 not in layout.shape:
                _stream(function, file, layout, out, dtype, axis, keepdims)
            else:
                _do_at_once(function, file, out, axis, keepdims)


def load(path: str) -> Array:
    """Return the array in a .npy file, mapped rather than read; not to be written to.

    Raises `FileError`.
    """
    with _reading(path), FileIO(path) as file:
        layout = _read_layout(file, path)
        if 0 in layout.shape:
            return np.empty(layout.shape, layout.dtype)
        return np.asarray(
            np.memmap(
                path,
                dtype=layout.dtype,
                mode="r",
                offset=layout.offset,
                shape=layout.shape,
                order="F" if layout.fortran else "C",
            )
        )


def save(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterable[Array],
    force: bool,
) -> None:
    """Write blocks along the first axis to a .npy file, one after the other.

    The file appears whole or not at all. Raises `FileError`.
    """
    _check_target(path, force)
    with _appearing(path, force) as out:
        _write_header(out, shape, False, dtype)
        for block in blocks:
            out.write(np.ascontiguousarray(block, dtype).data)


def _do_at_once(
    function: Callable[..., Any],
    file: FileIO,
    out: BufferedRandom,
    axis: Axis,
    keepdims: bool | None,
) -> None:
    """Do the work for a scalar or an empty array, which cannot be mapped."""
    file.seek(0)
    x = npy.read_array(file, allow_pickle=False)
    options = {} if keepdims is None else {"keepdims": keepdims}
    y = np.asarray(function(x, axis=axis, **options))
    npy.write_array(out, y, allow_pickle=False)


def _stream(
    function: Callable[..., Any],
    file: FileIO,
    layout: _Layout,
    out: BufferedRandom,
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
    offset = _write_header(out, written, layout.fortran, dtype)
    allocate(out.raw, offset + prod(held) * dtype.itemsize)
    if layout.fortran:
        # A file in Fortran order is one in C order of the transposed array.
        shape, held = shape[::-1], held[::-1]
        axes = frozenset(len(shape) - 1 - i for i in axes)
    x = FileArray.mapped(file, layout.offset, shape, layout.dtype, mmap.ACCESS_READ)
    y = FileArray.mapped(out.raw, offset, held, dtype)
    # Written block by block, the pages do not pile up until the end, where neither the
    # progress bar nor Ctrl-C would reach.
    folder = os.path.dirname(os.fsdecode(out.name))
    apply(function, x, y, axes, folder=folder, written=lambda: os.fsync(out.fileno()))
    y.memory.flush()


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


def _read_layout(file: FileIO, path: str) -> _Layout:
    """Read the header of a .npy file, and check that its data is there."""
    size = os.fstat(file.fileno()).st_size
    try:
        if npy.read_magic(file) == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = npy.read_array_header_2_0(file)
    except (OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # NumPy evaluates headers as Python literals
        raise FileError(f"{path!r} is not a .npy file: {error}") from error
    if dtype.hasobject:
        raise FileError(f"{path!r} holds Python objects, not numbers")
    layout = _Layout(shape, fortran, dtype, file.tell())
    counts = all(type(n) is int for n in shape)
    # Beyond that NumPy refuses even an array without elements.
    beyond = 0 in shape and prod(n for n in shape if n) * dtype.itemsize > sys.maxsize
    if not counts or len(shape) > 64 or beyond:
        raise FileError(f"{path!r} holds no array: its shape is {shape}")
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


def _axes(axis: Axis, ndim: int) -> frozenset[int]:
    """Return the reduced axes, counted from zero; `axis` is known to be valid."""
    if axis is None:
        return frozenset(range(ndim))
    if isinstance(axis, int):
        axis = (axis,)
    return frozenset(a % ndim for a in axis)


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
def _appearing(path: str, force: bool) -> Iterator[BufferedRandom]:
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
    file: BufferedRandom, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> int:
    """Write the .npy header as `numpy.save` would; return where the data goes."""
    descr = npy.dtype_to_descr(dtype)
    fortran = fortran and len(shape) > 1
    header = {"descr": descr, "fortran_order": fortran, "shape": shape}
    npy.write_array_header_1_0(file, header)
    file.flush()
    return file.tell()
