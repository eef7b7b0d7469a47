"""What is read: arrays in .npy files, and in the members of .npz archives."""

from __future__ import annotations

import importlib
import mmap
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from math import prod
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .._cpu import lost_pages
from .blocks import Array, FileArray, TruncatedError

__all__ = ["FileError", "Source", "opened", "unchanged"]

VERSIONS = ((1, 0), (2, 0), (3, 0))


class FileError(Exception):
    """A file cannot be read, worked on or written; the message says which and why."""


@dataclass(frozen=True)
class Source:
    """An array in an open file; `offset` is in bytes."""

    path: str
    file: FileIO
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def end(self) -> int:
        """The position just after the data, in bytes."""
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def mapped(self) -> FileArray:
        """Map the array, which is not empty, for reading."""
        shape = self.shape[::-1] if self.fortran else self.shape
        array = FileArray.mapped(
            self.file, self.offset, shape, self.dtype, mmap.ACCESS_READ
        )
        order = range(len(shape))
        return array.transpose(order[::-1] if self.fortran else order)

    def load(self) -> Array:
        """Return the array, mapped where it is not empty; not to be written to."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype, "F" if self.fortran else "C")
        return self.mapped().array


@contextmanager
def opened(path: str, folder: str | None, kind: str | None = None) -> Iterator[Source]:
    """Open an array.

    Parameters
    ----------
    path : str
        Of a .npy file, or ``FILE.npz:MEMBER``.
    folder : str or None
        Where a member is unpacked, into a file without a name; None is where temporary
        files go.
    kind : str, optional
        "bfloat16" where that is what the elements are: NumPy saves it as raw bytes.

    Raises
    ------
    FileError
        Whatever is wrong with the file.
    """
    archive, colon, member = path.rpartition(".npz:")
    packed = bool(colon) and not os.path.exists(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_regular(archive + ".npz" if packed else path))
            if packed:
                scratch = TemporaryFile("w+b", buffering=0, dir=folder)  # noqa: SIM115
                _unpack(path, file, member, stack.enter_context(scratch))
                file = scratch
            source = _read_header(path, file, kind)
        except OSError as error:
            raise FileError(f"cannot read {path!r}: {error.strerror}") from error
        yield source


@contextmanager
def unchanged(*sources: Source) -> Iterator[None]:
    """Make sure that no file gets shorter while it is worked on."""
    before = lost_pages()
    try:
        yield
        if lost_pages() == before:
            return
    except TruncatedError:
        pass
    short = [s.path for s in sources if _size(s.file) < s.end]
    raise FileError(f"cannot read {', '.join(map(repr, short))}: cut short meanwhile")


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _regular(path: str) -> FileIO:
    """Open a file for reading; a pipe would make us wait."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileError(f"cannot read {path!r}: it is not a regular file")
    return FileIO(path)


def _unpack(path: str, archive: FileIO, member: str, target: FileIO) -> None:
    """Copy a member of an .npz archive, which ends in .npy there, to `target`."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = [name.removesuffix(".npy") for name in packed.namelist()]
            if member not in names:
                raise FileError(
                    f"cannot read {path!r}: the archive holds {', '.join(names)}"
                )
            name = packed.namelist()[names.index(member)]
            with packed.open(name) as source:
                shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise FileError(f"cannot read {path!r}: {error}") from error
    target.seek(0)


def _read_header(path: str, file: FileIO, kind: str | None) -> Source:
    """Read the header of a .npy file, and check that its data is there."""
    try:
        version = npy.read_magic(file)
        if version not in VERSIONS:
            raise ValueError(f"its format {version} is none of {VERSIONS}")
        read = npy.read_array_header_2_0
        if version == (1, 0):
            read = npy.read_array_header_1_0
        shape, fortran, dtype = read(file)
    except (OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # NumPy evaluates headers as Python literals
        raise FileError(f"{path!r} is not a .npy file: {error}") from error
    source = Source(
        path, file, shape, fortran, _element(path, dtype, kind), file.tell()
    )
    _check_shape(source)
    return source


def _element(path: str, dtype: np.dtype[Any], kind: str | None) -> np.dtype[Any]:
    """Return the type of elements that a header means."""
    if dtype.hasobject:
        raise FileError(f"{path!r} holds Python objects, not numbers")
    if dtype.subdtype is not None:
        raise FileError(f"{path!r} holds no numbers, but arrays of them ({dtype})")
    raw = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None
    if kind is None:
        if raw:
            raise FileError(
                f"{path!r} holds raw elements of 2 bytes, as bfloat16 is saved: "
                "--as bfloat16 reads them so"
            )
        return dtype
    if not raw:
        raise FileError(f"{path!r} holds {dtype}, not raw elements of 2 bytes")
    try:
        bfloat16: np.dtype[Any] = np.dtype(
            importlib.import_module("ml_dtypes").bfloat16
        )
    except ImportError as error:
        raise FileError("--as bfloat16 needs the package ml_dtypes") from error
    return bfloat16


def _check_shape(source: Source) -> None:
    """Refuse what is no shape, or a file that ends before its array does."""
    shape, path = source.shape, source.path
    counts = all(type(n) is int and n >= 0 for n in shape)
    # Beyond that NumPy refuses even an array without elements.
    size = prod(n for n in shape if n) * source.dtype.itemsize
    if not counts or len(shape) > 64 or (0 in shape and size > sys.maxsize):
        raise FileError(f"{path!r} holds no array: its shape is {shape}")
    if _size(source.file) < source.end:
        raise FileError(
            f"{path!r} is truncated: shape {shape} of {source.dtype} ends at byte "
            f"{source.end}, the file at byte {_size(source.file)}"
        )
