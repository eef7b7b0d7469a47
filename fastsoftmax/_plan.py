"""Decodes what a caller passed: arrays, axis, dtype, where, out; and plans the loops.

Every (shape, strides, axis) is factored into outer dimensions, one reduced dimension n
and, where n is not the contiguous one, a contiguous dimension `inner` behind it. Moving
the axis last is this renaming of dimensions, not a copy.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.exceptions import AxisError
from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray[Any, np.dtype[Any]]
Axis = int | tuple[int, ...] | None

# One dimension: its length, and the bytes between neighbours in each array (in x, in
# the mask, in y).
Dimension = tuple[int, ...]

# Computed in float32 and rounded once; bfloat16 is ml_dtypes', known by its name.
HALVES = ("float16", "bfloat16")
KERNEL_FLOATS = ("float32", "float64", *HALVES)


@functools.lru_cache(maxsize=64)
def type_name(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name without byte order (`dtype.name` costs microseconds)."""
    return dtype.name


class Plan(NamedTuple):
    """What the kernels need to know of one call.

    `x` and `second` (the mask, or dy) are read, `y` is written; the types are those in
    memory, `compute` is that of the arithmetic. `direct` says that x is aligned floats
    of that type, contiguous along the innermost dimension, to be used as they are;
    `second_direct` says it of dy.
    """

    x: Array
    second: Array | None
    y: Array
    x_type: str
    second_type: str
    y_type: str
    compute: str
    temperature: float | np.floating[Any]
    direct: bool
    second_direct: bool
    outer: list[Dimension]  # shared by plans: not to be changed
    n: Dimension
    inner: Dimension


class Call(NamedTuple):
    """A caller's arguments, decoded and checked.

    `second` is the mask, or dy where `is_vjp`. `compute` names the type computed in;
    `has_kernels` tells whether the kernels know it, else the call is `fallback`'s.
    """

    x: Array
    axes: tuple[int, ...]
    second: Array | None
    dtype: np.dtype[Any]
    compute: str
    has_kernels: bool
    temperature: float | np.floating[Any]
    is_scalar: bool
    is_vjp: bool = False


# ---- decoding ----


def gpu_for(*arrays: Any) -> Any:
    """Return the module for CuPy arrays if one of these is one, else None.

    Nobody has a CuPy array without having imported CuPy.
    """
    module = sys.modules.get("cupy")
    if module is None:
        return None
    kind = vars(module).get("ndarray")  # of a stub for documentation, say, anything
    if not (isinstance(kind, type) and kind.__module__.startswith("cupy")):
        return None
    if not any(isinstance(array, kind) for array in arrays):
        return None
    from .cuda import call

    return call


def as_array(x: ArrayLike, name: str, has_where: bool = True) -> Array:
    """Return x as a plain ndarray of numbers; `where` may or may not mask some."""
    if isinstance(x, np.ma.MaskedArray):
        instead = f"its data, and where=~{name}.mask" if has_where else "its data"
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: pass {instead}"
        )
    array = np.asarray(x)
    numeric = array.dtype.kind in "biuc" or array.dtype.char in "efdg"
    if not numeric and type_name(array.dtype) != "bfloat16":
        raise TypeError(
            f"{name} must hold numbers (bool, integer, floating or complex), got dtype "
            f"{array.dtype}"
        )
    return array


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return x as dtype, silently where it overflows; x itself if it is one already."""
    with np.errstate(all="ignore"):
        return x.astype(dtype, copy=False)


def as_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes as sorted non-negative integers; a scalar has axis 0 and -1."""
    if axis is None:
        return tuple(range(max(ndim, 1)))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    given = axis if isinstance(axis, tuple) else (axis,)
    axes = []
    for one in given:
        if isinstance(one, (bool, np.bool_)):
            raise TypeError(f"an integer is required for the axis, got {one!r}")
        try:
            number = operator.index(one)
        except TypeError:
            raise TypeError(
                f"axis must be None, an integer or a tuple of integers, got {axis!r}"
            ) from None
        if not -max(ndim, 1) <= number < max(ndim, 1):
            raise AxisError(number, ndim)
        axes.append(number % max(ndim, 1))
    if len(set(axes)) < len(axes):
        raise ValueError(f"duplicate value in 'axis': {axis!r}")
    return tuple(sorted(axes))


def result_dtype(x: Array, dtype: DTypeLike | None) -> np.dtype[Any]:
    """Return the type computed in and returned."""
    if dtype is None:
        if x.dtype.kind in "biu":
            return np.dtype(np.float64)
        return x.dtype.newbyteorder("=")
    wanted = np.dtype(dtype).newbyteorder("=")
    if wanted.kind not in "fc" and type_name(wanted) != "bfloat16":
        raise TypeError(f"dtype must be a floating or complex type, got {wanted}")
    if x.dtype.kind == "c" and wanted.kind != "c":
        raise TypeError(f"dtype {wanted} cannot hold the complex values of {x.dtype}")
    return wanted


def as_mask(
    where: ArrayLike | None, shape: tuple[int, ...], name: str = "x"
) -> Array | None:
    """Return `where` broadcast to the shape of `name`; None if it masks nothing."""
    if where is None or where is True:
        return None
    if isinstance(where, np.ma.MaskedArray):
        raise TypeError("where is a masked array: pass where.filled(False)")
    mask = np.asarray(where)
    if mask.dtype != np.bool_:
        raise TypeError(f"where must be boolean, got dtype {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where of shape {mask.shape} does not broadcast to the shape of {name}, "
            f"{shape}"
        ) from None


def as_real(value: Any, name: str, compute: type[np.floating[Any]]) -> np.floating[Any]:
    """Return a real number in the type computed in, infinite where it is beyond."""
    is_real = type(value) is int or (  # of any size
        np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"
    )
    if not is_real or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    with np.errstate(all="ignore"):
        try:
            return compute(value)
        except OverflowError:
            return compute(math.inf)


def as_temperature(
    temperature: float, dtype: np.dtype[Any]
) -> float | np.floating[Any]:
    """Return the temperature in the type computed in."""
    if type(temperature) is float and temperature == 1.0:
        return temperature
    compute: type[np.floating[Any]] = np.float64
    if type_name(dtype) in (*HALVES, "float32"):
        compute = np.float32
    elif dtype.char in "gG":
        compute = np.longdouble
    value = as_real(temperature, "temperature", compute)
    if not 0 < value < math.inf:
        raise ValueError(
            f"temperature must be finite and > 0 in {np.dtype(compute)}, got "
            f"{temperature!r}"
        )
    return value


def as_call(
    x: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    dtype: DTypeLike | None,
    temperature: float = 1.0,
    name: str = "x",
) -> Call:
    """Decode the arguments that all functions share."""
    array = as_array(x, name)
    wanted = result_dtype(array, dtype)
    wanted_name = type_name(wanted)
    compute = "float32" if wanted_name in HALVES else wanted_name
    has_kernels = wanted_name in KERNEL_FLOATS
    if has_kernels and array.dtype.char == "g":
        array = cast(array, np.dtype(compute))
    return Call(
        x=array.reshape(1) if array.ndim == 0 else array,
        axes=as_axes(axis, array.ndim),
        second=as_mask(where, array.shape or (1,)),
        dtype=wanted,
        compute=compute,
        has_kernels=has_kernels,
        temperature=as_temperature(temperature, wanted),
        is_scalar=array.ndim == 0,
    )


def promote(*pairs: tuple[ArrayLike, Array]) -> np.dtype[Any]:
    """Return NumPy's type for what was given and the arrays it became.

    Python's own numbers take the type of the others, as always in NumPy; beside
    anything else bfloat16, which NumPy does not know, counts as float32.
    """
    sides = [
        given if type(given) in (bool, int, float, complex) else array.dtype
        for given, array in pairs
    ]
    halves = [array.dtype for _, array in pairs if type_name(array.dtype) == "bfloat16"]
    if halves and all(
        side in halves or type(side) in (bool, int, float) for side in sides
    ):
        return halves[0]
    return np.result_type(
        *(np.dtype(np.float32) if side in halves else side for side in sides)
    )


def as_weighted_call(
    a: ArrayLike,
    axis: Axis,
    b: ArrayLike | None,
    where: ArrayLike | None,
    dtype: DTypeLike | None,
) -> tuple[Call, Array | None]:
    """Decode logsumexp's arguments; return its weights in the type computed in.

    Weights broadcast against a, in both directions; `axis` counts in what results.
    """
    if b is None:
        return as_call(a, axis, where, dtype, name="a"), None
    exponents, weights = as_array(a, "a"), as_array(b, "b")
    try:
        shape = np.broadcast_shapes(exponents.shape, weights.shape)
    except ValueError:
        raise ValueError(
            f"b of shape {weights.shape} does not broadcast with a of shape "
            f"{exponents.shape}"
        ) from None
    if dtype is None:
        promoted = promote((a, exponents), (b, weights))
        dtype = np.float64 if promoted.kind in "biu" else promoted
    call = as_call(np.broadcast_to(exponents, shape), axis, where, dtype, name="a")
    if weights.dtype.kind == "c" and call.dtype.kind != "c":
        raise TypeError(f"dtype {call.dtype} cannot hold the complex weights b")
    weights = cast(weights, np.dtype(call.compute))
    return call, np.broadcast_to(weights, call.x.shape)


def as_vjp_call(y: ArrayLike, dy: ArrayLike, axis: Axis, temperature: float) -> Call:
    """Decode the arguments of a vector-Jacobian product; dy broadcasts against y."""
    probabilities = as_array(y, "y", has_where=False)
    gradient = as_array(dy, "dy", has_where=False)
    dtype = promote((y, probabilities), (dy, gradient))
    if dtype.kind == "c":
        raise TypeError(
            f"y and dy must be real, got dtypes {probabilities.dtype} and "
            f"{gradient.dtype}"
        )
    call = as_call(
        probabilities, axis, None, None if dtype.kind in "biu" else dtype, temperature
    )
    if gradient.dtype.char == "g" and call.has_kernels:
        gradient = cast(gradient, np.dtype(call.compute))
    try:
        second = gradient
        if gradient.shape != probabilities.shape:
            second = np.broadcast_to(gradient, probabilities.shape)
    except ValueError:
        raise ValueError(
            f"dy of shape {gradient.shape} does not broadcast to the shape of y, "
            f"{probabilities.shape}"
        ) from None
    return call._replace(second=second.reshape(call.x.shape), is_vjp=True)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that is not exactly what the result needs."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")


def same_memory(a: Array, b: Array) -> bool:
    """Tell whether two arrays are the same elements at the same places."""
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.strides == b.strides
    )


# ---- planning ----


def is_dense(y: Array) -> bool:
    """Tell whether y fills its memory without gaps, in any order of its axes."""
    step = y.itemsize
    for size, stride in sorted(
        zip(y.shape, y.strides, strict=True), key=lambda d: (d[1], d[0])
    ):
        if size != 1 and stride != step:
            return False
        step *= size
    return y.flags.aligned and y.dtype.isnative


def _merge(dimensions: list[Dimension]) -> list[Dimension]:
    """Join neighbours that every array walks with one stride."""
    merged: list[Dimension] = []
    for size, *steps in dimensions:
        if merged and merged[-1][1:] == tuple(size * step for step in steps):
            merged[-1] = (merged[-1][0] * size, *steps)
        else:
            merged.append((size, *steps))
    return merged


@functools.lru_cache(maxsize=256)
def factor(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    strides: tuple[tuple[int, ...], ...],
    leader: int,
) -> tuple[list[Dimension], Dimension, Dimension] | None:
    """Factor an array into outer dimensions, n and inner; None if axes do not join.

    `strides` are those of x, the mask, y (and others) per axis of x. `leader` says the
    layout of which array decides the order of the loops: 0 that of x, 2 that of y; the
    innermost is the one that walks the shortest way. Kept for the shapes met last:
    finding it out costs more than a small call.
    """
    order = sorted(
        (d for d in range(len(shape)) if shape[d] != 1),
        key=lambda d: -abs(strides[leader][d]),
    )
    dimensions = [(d, (shape[d], *(steps[d] for steps in strides))) for d in order]
    reduced = _merge([dimension for d, dimension in dimensions if d in axes])
    kept = _merge([dimension for d, dimension in dimensions if d not in axes])
    if len(reduced) > 1:
        return None
    one = (1, *(0 for _ in strides))
    n = reduced[0] if reduced else one
    inner: Dimension = one
    if kept and (not reduced or abs(kept[-1][1 + leader]) < abs(n[1 + leader])):
        inner = kept.pop()
    return kept, n, inner


def usable_as_it_is(array: Array, compute: str, innermost: tuple[int, int]) -> bool:
    """Tell whether kernels can read an array without staging it.

    `innermost` is the length of the innermost dimension and its stride in bytes.
    """
    size, step = innermost
    return (
        type_name(array.dtype) == compute
        and array.dtype.isnative
        and array.flags.aligned
        and (step == array.itemsize or size == 1)
    )


def make(
    call: Call,
    x: Array,
    axes: tuple[int, ...],
    second: Array | None,
    y: Array,
    y_strides: tuple[int, ...],
    leader: int,
) -> Plan | None:
    """Plan the loops, or return None if the reduced axes do not join into one.

    `leader` is as in `factor`; where it is 2, y is dense.
    """
    strides = (
        x.strides,
        second.strides if second is not None else (0,) * x.ndim,
        y_strides,
    )
    factors = factor(x.shape, axes, strides, leader)
    if factors is None:
        return None
    outer, n, inner = factors
    size, x_step, second_step, _ = inner if inner[0] > 1 else n
    plain = call.is_vjp or (second is None and call.temperature == 1.0)
    return Plan(
        x=x,
        second=second,
        y=y,
        x_type=type_name(x.dtype),
        second_type=type_name(second.dtype) if second is not None else "bool",
        y_type=type_name(y.dtype),
        compute=call.compute,
        temperature=call.temperature,
        direct=plain and usable_as_it_is(x, call.compute, (size, x_step)),
        second_direct=(
            call.is_vjp
            and second is not None
            and usable_as_it_is(second, call.compute, (size, second_step))
        ),
        outer=outer,
        n=n,
        inner=inner,
    )


def _apart_from(out: Array | None, call: Call, may_be_x: bool) -> Call:
    """Copy the inputs that writing to `out` would change while they are needed."""
    if out is None:
        return call
    x, second = call.x, call.second
    if np.may_share_memory(x, out) and not (may_be_x and same_memory(x, out)):
        x = x.copy()
    may_be_second = call.is_vjp and second is not None and same_memory(second, out)
    if second is not None and np.may_share_memory(second, out) and not may_be_second:
        second = second.copy()
    return call._replace(x=x, second=second)


def _copy(to: Array, x: Array) -> None:
    with np.errstate(all="ignore"):
        np.copyto(to, x, casting="unsafe")


def _laid_out(second: Array, like: Array) -> Array:
    """Copy an array into memory that is ordered as that of another one."""
    copy = np.empty_like(like, dtype=second.dtype, order="K", subok=False)
    _copy(copy, second)
    return copy


def _with_axes_last(call: Call) -> tuple[Array, Array | None, tuple[int, ...]]:
    """Copy x and second, the reduced axes moved last; tell where those are then."""
    x = _axes_last(call.x, call.axes, np.dtype(call.compute))
    second = None
    if call.second is not None:
        second = _axes_last(call.second, call.axes, call.second.dtype)
    return x, second, tuple(range(x.ndim - len(call.axes), x.ndim))


def _axes_last(array: Array, axes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    moved = np.moveaxis(array, axes, range(-len(axes), 0))
    copy = np.empty(moved.shape, dtype)
    _copy(copy, moved)
    return copy


def elementwise(call: Call, y: Array, out: Array | None) -> tuple[Plan, Array]:
    """Plan a function whose result has the shape of x.

    `y` is the array to return, `out` the same if it is the caller's. Returned with the
    plan is the array that will hold the result: y, or one to be copied to it.
    """
    call = _apart_from(out, call, may_be_x=True)
    writable = out is None or is_dense(y)
    target = y if writable else np.empty_like(y, order="K", subok=False)
    second = call.second
    plan = make(call, call.x, call.axes, second, target, target.strides, 2)
    if plan is None and second is not None:
        second = _laid_out(second, target)
        plan = make(call, call.x, call.axes, second, target, target.strides, 2)
    if plan is not None:
        return plan, target
    x, compute = target, np.dtype(call.compute)
    if target.dtype != compute:
        x = np.empty_like(target, dtype=compute, order="K", subok=False)
    plan = make(call, x, call.axes, second, target, target.strides, 2)
    if plan is not None:
        _copy(x, call.x)
        return plan, target
    x, second, last = _with_axes_last(call)
    target = x if call.dtype == compute else np.empty(x.shape, call.dtype)
    plan = make(call, x, last, second, target, target.strides, 2)
    assert plan is not None, "contiguous trailing axes join"
    return plan, np.moveaxis(target, last, call.axes)


def reduction(call: Call, y: Array, out: Array | None) -> Plan:
    """Plan a function whose result `y` has one element a line."""
    call = _apart_from(out, call, may_be_x=False)
    steps = iter(y.strides)
    y_strides = tuple(0 if d in call.axes else next(steps) for d in range(call.x.ndim))
    plan = make(call, call.x, call.axes, call.second, y, y_strides, 0)
    if plan is None and call.second is not None:
        laid_out = _laid_out(call.second, call.x)
        plan = make(call, call.x, call.axes, laid_out, y, y_strides, 0)
    if plan is not None:
        return plan
    x, second, last = _with_axes_last(call)
    plan = make(call, x, last, second, y, (*y.strides, *(0 for _ in last)), 0)
    assert plan is not None, "contiguous trailing axes join"
    return plan
