"""Launches kernels on CuPy arrays: compiles them, and keeps what shapes decide.

A. Everything is asynchronous, on the caller's current stream; nothing waits for the
   device. So nothing looks at values: a label outside its row makes a loss NaN, not an
   IndexError.
B. Work goes to the device that holds the arrays, be it the current one or not.
C. Kernels get contiguous arrays. An array that is dense in any order of its axes is
   one, axes renamed; others are copied first, at the cost of one launch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cupy
import numpy as np

from .. import _arguments
from . import choose, source
from .choose import NUMBERS, Device, Operation

Array = Any  # cupy.ndarray: CuPy has no types
Order = tuple[int, ...] | None  # of axes; None: as they are

_current_device = cupy.cuda.runtime.getDevice
_IS_ALONE = cupy.cuda.runtime.getDeviceCount() == 1


# ---- kernels ----


class Prepared(NamedTuple):
    """What shapes and alignment decide: kernels and their launches, numbers to pass."""

    kernels: tuple[
        tuple[Callable[..., None], tuple[int, ...], tuple[int, ...], int], ...
    ]
    numbers: tuple[np.int64, ...]
    state_bytes: int


@functools.cache
def _device(number: int) -> Device:
    return Device(int(cupy.cuda.Device(number).compute_capability))


@functools.cache
def function(name: str, device: int) -> Callable[..., None]:
    """Compile a kernel for the current device; CuPy keeps it on disk."""
    try:
        module = cupy.RawModule(
            code=source.text(), options=source.OPTIONS, name_expressions=(name,)
        )
        compiled: Callable[..., None] = module.get_function(name)
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise RuntimeError(
            "CuPy could not compile the kernels; if it finds no CUDA toolkit, `pip "
            'install "fastsoftmax[cuda13]"` (or [cuda12]) brings what it needs: '
            f"{lines[0]}"
        ) from error
    return compiled


@functools.lru_cache(maxsize=1024)
def prepared(
    operation: Operation,
    dtype: np.dtype[Any],
    shape: tuple[int, int, int],
    aligned: bool,
    device: int,
) -> Prepared:
    """Prepare an operation on [rows, n, inner], none of which is 0.

    `aligned` says that all arrays begin on a boundary of 16 bytes (`places_of`).
    """
    launches = choose.choose(
        operation, _arguments.type_name(dtype), *shape, aligned, _device(device)
    )
    kernels = tuple(
        (
            function(launch.kernel, device),
            (launch.grid,),
            (launch.block,),
            launch.shared_bytes,
        )
        for launch in launches.launches
    )
    numbers = tuple(map(np.int64, (*shape, launches.chunk)))
    return Prepared(kernels, numbers, launches.states * choose.STATE_BYTES)


def launch(
    prepared: Prepared,
    x: Array,
    second: Array | None,
    y: Array | None,
    temperature: np.floating[Any],
    extra: tuple[Any, ...] = (),
) -> None:
    """Launch on the current device; `extra` are the operation's own arguments."""
    states = None
    if prepared.state_bytes:
        states = cupy.empty(prepared.state_bytes, np.uint8)
    arguments = (x, second, y, states, *prepared.numbers, temperature, *extra)
    for kernel, grid, block, shared_bytes in prepared.kernels:
        kernel(grid, block, arguments, shared_mem=shared_bytes)


def places_of(x: Array, second: Array | None) -> int:
    """Return the addresses of the inputs or-ed: a multiple of 16 if all of them are.

    A mask is read so many bytes at once as x elements, and must be that much rounder.
    """
    places: int = x.data.ptr
    if second is not None:
        places |= second.data.ptr * (x.itemsize // second.itemsize)
    return places


# ---- devices ----


def _device_of(names: tuple[str, ...], arrays: tuple[Any, ...]) -> int:
    """Refuse NumPy arrays and sequences beside CuPy arrays, and a second device."""
    device: int | None = None
    for place, array in enumerate(arrays):
        if array is None:
            continue
        if isinstance(array, cupy.ndarray):
            number: int = array.data.device_id
            if device is not None and number != device:
                raise ValueError(
                    "all arrays must be on one device, got "
                    + ", ".join(
                        f"{name} on device {one.data.device_id}"
                        for name, one in zip(names, arrays, strict=True)
                        if isinstance(one, cupy.ndarray)
                    )
                )
            device = number
        elif not np.isscalar(array):
            raise TypeError(
                f"{names[place]} must be a CuPy array, as the other arguments are, got "
                f"{type(array).__module__}.{type(array).__name__}"
            )
    assert device is not None
    return device


def on_device_of(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a function on the device of its first arguments, the arrays of these names.

    It is given the device's number before them.
    """
    count = len(names)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            device = _device_of(names, arguments[:count])
            if _IS_ALONE or device == _current_device():
                return function(device, *arguments)
            with cupy.cuda.Device(device):
                return function(device, *arguments)

        return run

    return decorate


# ---- arrays ----


def as_array(x: Any, name: str) -> Array:
    """Return x as an array of real numbers, 0-d for a Python number."""
    if x is None:
        raise TypeError(f"{name} must be a CuPy array, got None")
    array = x if isinstance(x, cupy.ndarray) else np.asarray(x)
    check_real(array.dtype, name)
    return array if array is x else cupy.asarray(array)


def check_real(dtype: np.dtype[Any], name: str) -> None:
    """Refuse types that no kernel reads, and that become none that one does."""
    is_real = dtype.kind in "biuf" and dtype.char != "g"
    if not is_real and _arguments.type_name(dtype) not in NUMBERS:
        raise TypeError(
            f"{name} must hold real numbers (bool, integer or floating) in a CuPy "
            f"array, got dtype {dtype}"
        )


def as_mask(where: Any, shape: tuple[int, ...], name: str) -> Array | None:
    """Return `where` broadcast to the shape of `name`; None if it masks nothing."""
    if where is None or where is True:
        return None
    mask = where if isinstance(where, cupy.ndarray) else np.asarray(where)
    _arguments.check_boolean(mask.dtype)
    return broadcast(cupy.asarray(mask), shape, "where", name)


def broadcast(array: Array, shape: tuple[int, ...], name: str, to: str) -> Array:
    """Return an array broadcast to the shape of another argument."""
    if array.shape == shape:
        return array
    return _arguments.broadcast(array, shape, name, to, cupy.broadcast_to)


def in_order(array: Array, order: Order) -> Array:
    """Return an array with its axes in an order, contiguous."""
    if order is not None:
        array = array.transpose(order)
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that is not exactly what the result needs."""
    if not isinstance(out, cupy.ndarray):
        raise TypeError(f"out must be a CuPy array, got {type(out).__name__}")
    _arguments.check_fits(out, shape, dtype)


def writable(out: Array, order: Order, *read: Array | None) -> Array | None:
    """Return `out` as kernels can write it while they read the others, or None."""
    target = out if order is None else out.transpose(order)
    if not target.flags.c_contiguous:
        return None
    for array in read:
        if array is None or _same_memory(array, target):
            continue
        if cupy.may_share_memory(array, target):
            return None
    return target


def _same_memory(a: Array, b: Array) -> bool:
    return bool(
        a.data.ptr == b.data.ptr and a.dtype == b.dtype and a.strides == b.strides
    )


# ---- layouts ----


class Layout(NamedTuple):
    """How an array is [rows, n, inner], contiguous or made so."""

    order: Order  # its axes in that order
    shape: tuple[int, int, int]


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return what takes axes in an order back."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def layout(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...], last: bool
) -> Layout:
    """Take axes in the order of memory, unless others then lie between the reduced.

    `last` says that none may come behind them.
    """
    dims = range(len(shape))
    in_memory = tuple(sorted(dims, key=lambda d: (-abs(strides[d]), d)))
    for order in (in_memory, (*(d for d in dims if d not in axes), *axes)):
        long = [d for d in order if shape[d] != 1]
        places = [place for place, d in enumerate(long) if d in axes]
        first, end = (places[0], places[-1] + 1) if places else (len(long), len(long))
        if end - first == len(places) and (end == len(long) or not last):
            break
    sizes = [shape[d] for d in long]
    factors = (
        math.prod(sizes[:first]),
        math.prod(sizes[first:end]),
        math.prod(sizes[end:]),
    )
    return Layout(None if order == tuple(dims) else order, factors)
