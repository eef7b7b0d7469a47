"""Softmax and its siblings from one .npy file to another, through memory maps.

The result is written to a temporary file beside its destination, which gets its name
when the result is whole; whatever ends the work earlier removes the temporary file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BufferedRandom
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .blocks import Array, FileArray, allocate, apply
from .source import FileError, Source, opened, unchanged

__all__ = ["Axis", "folder_of", "save", "transform"]

Axis = int | tuple[int, ...] | None


def transform(
    function: Callable[..., Any],
    source: str,
    target: str,
    axis: Axis,
    *,
    where: str | None = None,
    kind: str | None = None,
    keepdims: bool | None = None,
    force: bool = False,
) -> None:
    """Write ``function(array in source, axis=axis)`` to `target`.

    Parameters
    ----------
    function : callable
        `softmax`, `log_softmax` or `logsumexp`, other options bound.
    source, target : str
        The array to read, as in `opened`, and the path of a .npy file; they may be the
        same with `force`.
    axis : int, tuple of int or None
        As in `function`.
    where : str, optional
        An array of bool to read: which elements count.
    kind : str, optional
        As in `opened`, for `source`.
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
    _check_target(target, force)
    with ExitStack() as stack:
        x = stack.enter_context(opened(source, folder_of(target), kind))
        dtype = _result_dtype(function, x, axis)
        mask = None
        if where is not None:
            mask = stack.enter_context(opened(where, folder_of(target)))
            _check_mask(mask, x.shape)
        out = stack.enter_context(_appearing(target, force))
        stack.enter_context(unchanged(x, *([] if mask is None else [mask])))
        if x.shape and 0 not in x.shape:
            _stream(function, x, mask, out, dtype, axis, keepdims)
        else:
            options = {} if keepdims is None else {"keepdims": keepdims}
            given = None if mask is None else mask.load()
            y = np.asarray(function(x.load(), axis=axis, where=given, **options))
            npy.write_array(out, y, allow_pickle=False)


def save(
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterable[Array],
    sources: Iterable[Source],
    force: bool,
) -> None:
    """Write blocks along the first axis, made of `sources`, to a .npy file.

    The file appears whole or not at all. Raises `FileError`.
    """
    _check_target(path, force)
    with _appearing(path, force) as out, unchanged(*sources):
        _write_header(out, shape, False, dtype)
        for block in blocks:
            out.write(np.ascontiguousarray(block, dtype).data)


def _stream(
    function: Callable[..., Any],
    source: Source,
    mask: Source | None,
    out: BufferedRandom,
    dtype: np.dtype[Any],
    axis: Axis,
    keepdims: bool | None,
) -> None:
    """Write the header and, block by block, the data of the result to `out`."""
    shape = source.shape
    axes = _axes(axis, len(shape))
    held, written = shape, shape  # the result's shape at work, and in its header
    if keepdims is not None:
        held = tuple(1 if i in axes else n for i, n in enumerate(shape))
        written = held
        if not keepdims:
            written = tuple(n for i, n in enumerate(shape) if i not in axes)
        function = partial(function, keepdims=True)
    offset = _write_header(out, written, source.fortran, dtype)
    allocate(out.raw, offset + prod(held) * dtype.itemsize)
    x = source.mapped()
    where = None if mask is None else mask.mapped().padded(len(shape))
    if source.fortran:
        # A file in Fortran order is one in C order of the transposed array.
        order = range(len(shape))[::-1]
        x, held = x.transpose(order), held[::-1]
        where = None if where is None else where.transpose(order)
        axes = frozenset(len(shape) - 1 - i for i in axes)
    y = FileArray.mapped(out.raw, offset, held, dtype)
    # Written block by block, the pages do not pile up until the end, where neither the
    # progress bar nor Ctrl-C would reach.
    folder = os.path.dirname(os.fsdecode(out.name))
    sync = partial(os.fsync, out.fileno())
    apply(function, x, where, y, axes, folder=folder, written=sync)
    y.memory.flush()


def _check_mask(mask: Source, shape: tuple[int, ...]) -> None:
    """Refuse what says not, for each element, whether it counts."""
    if mask.dtype != bool:
        raise FileError(
            f"{mask.path!r} must hold booleans, and holds {mask.dtype}: "
            ".astype(bool) makes them"
        )
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise FileError(
            f"{mask.path!r} does not broadcast against the input: its shape is "
            f"{mask.shape}, that of the input {shape}"
        )


def _result_dtype(
    function: Callable[..., Any], source: Source, axis: Axis
) -> np.dtype[Any]:
    """Let `function` itself judge dtype and axis, on an array of one element."""
    try:
        one = np.zeros((1,) * len(source.shape), source.dtype)
        return np.dtype(np.asarray(function(one, axis=axis)).dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise FileError(f"{source.path!r}: {error}") from error


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
    if not path:
        raise FileError("cannot write '': OUT is a path")
    if not os.path.isdir(folder_of(path)):
        raise FileError(
            f"cannot write {path!r}: there is no folder {folder_of(path)!r}"
        )
    if os.path.islink(os.path.realpath(path)):
        raise FileError(f"cannot write {path!r}: its links lead in a circle")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise FileError(f"cannot write {path!r}: it is not a regular file")
    if not force:
        raise FileError(_exists(path))


def folder_of(path: str) -> str:
    """Return the folder of the file that `path` leads to."""
    return os.path.dirname(os.path.realpath(path))


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
