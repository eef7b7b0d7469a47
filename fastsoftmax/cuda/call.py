"""CuPy arrays: decodes a call, compiles and launches kernels.

Imported once a CuPy array has arrived, and the only module that imports CuPy.

A. Everything is asynchronous, on the caller's current stream; nothing waits for the
   device. So nothing looks at values: a label outside its row makes a loss NaN, not an
   IndexError.
B. Work goes to the device that holds the arrays, be it the current one or not.
C. What depends on shapes alone is found out once for each, and kept (`_layout`,
   `_prepared`).
D. Kernels get contiguous arrays. An array that is dense in any order of its axes is
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
from .._arguments import Axis
from . import choose, source
from .choose import NUMBERS, Device, Launches, Operation

Array = Any  # cupy.ndarray: CuPy has no types

LEAST_TEMPERATURE = {np.float32: 2.0**-126, np.float64: 2.0**-1022}

NOTHING = np.uint64(0)  # a null pointer: CuPy knows none

# What is written beside hinge losses: the kernels of hinge.cu.
WRITES_NOTHING, GRADIENT, PAIRS = 0, 1, 2


# ---- launching ----


class _Prepared(NamedTuple):
    """What the shapes of a call decide: kernels and launches, numbers to pass."""

    kernels: tuple[
        tuple[Callable[..., None], tuple[int, ...], tuple[int, ...], int], ...
    ]
    numbers: tuple[np.int64, ...]
    state_bytes: int


@functools.cache
def _device(number: int) -> Device:
    return Device(int(cupy.cuda.Device(number).compute_capability))


@functools.cache
def _function(name: str, device: int) -> Callable[..., None]:
    """Compile a kernel for the current device; CuPy keeps it on disk."""
    try:
        module = cupy.RawModule(
            code=source.text(), options=source.OPTIONS, name_expressions=(name,)
        )
        function: Callable[..., None] = module.get_function(name)
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise RuntimeError(
            "CuPy could not compile the kernels; if it finds no CUDA toolkit, `pip "
            'install "fastsoftmax[cuda13]"` (or [cuda12]) brings what it needs: '
            f"{lines[0]}"
        ) from error
    return function


@functools.lru_cache(maxsize=1024)
def _prepared(
    operation: Operation,
    dtype: str,
    rows: int,
    n: int,
    inner: int,
    aligned: bool,
    device: int,
) -> _Prepared:
    launches: Launches = choose.choose(
        operation, dtype, rows, n, inner, aligned, _device(device)
    )
    kernels = tuple(
        (
            _function(launch.kernel, device),
            (launch.grid,),
            (launch.block,),
            launch.shared_bytes,
        )
        for launch in launches.launches
    )
    numbers = tuple(map(np.int64, (rows, n, inner, launches.chunk)))
    return _Prepared(kernels, numbers, launches.states * choose.STATE_BYTES)


def _launch(
    operation: Operation,
    x: Array,
    second: Array | None,
    y: Array | None,
    shape: tuple[int, int, int],
    temperature: np.floating[Any],
    extra: tuple[Any, ...] = (),
) -> None:
    """Run an operation on [rows, n, inner] of the current device; no dimension is 0."""
    device = x.data.device_id
    places = x.data.ptr
    if second is not None:  # a mask is read so many bytes at once as x elements
        places |= second.data.ptr * (x.itemsize // second.itemsize)
    if y is not None:
        places |= y.data.ptr
    else:
        operation = operation._replace(has_results=False)
    dtype = _arguments.type_name(x.dtype)
    prepared = _prepared(operation, dtype, *shape, places % 16 == 0, device)
    states: Any = NOTHING
    if prepared.state_bytes:
        states = cupy.empty(prepared.state_bytes, np.uint8)
    arguments = (
        x,
        NOTHING if second is None else second,
        NOTHING if y is None else y,
        states,
        *prepared.numbers,
        temperature,
        *extra,
    )
    for kernel, grid, block, shared_bytes in prepared.kernels:
        kernel(grid, block, arguments, shared_mem=shared_bytes)


# ---- decoding ----


class _Layout(NamedTuple):
    """How an array is [rows, n, inner], contiguous or made so.

    Its axes in that order are `order`; None if that is theirs.
    """

    order: tuple[int, ...] | None
    inverse: tuple[int, ...] | None
    shape: tuple[int, int, int]


def _inverse(order: tuple[int, ...] | list[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@functools.lru_cache(maxsize=1024)
def _layout(
    shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...]
) -> _Layout:
    """Take axes in the order of memory, unless others then lie between the reduced."""
    dims = range(len(shape))
    order = tuple(sorted(dims, key=lambda d: (-abs(strides[d]), d)))
    long = [d for d in order if shape[d] != 1]
    places = [place for place, d in enumerate(long) if d in axes]
    if places and places[-1] - places[0] >= len(places):
        order = (*(d for d in dims if d not in axes), *axes)
        long = [d for d in order if shape[d] != 1]
        places = [place for place, d in enumerate(long) if d in axes]
    first, last = (places[0], places[-1] + 1) if places else (len(long), len(long))
    sizes = [shape[d] for d in long]
    factors = (
        math.prod(sizes[:first]),
        math.prod(sizes[first:last]),
        math.prod(sizes[last:]),
    )
    if order == tuple(dims):
        return _Layout(None, None, factors)
    return _Layout(order, _inverse(order), factors)


class _Call(NamedTuple):
    """A caller's arguments, decoded and checked, as those of _arguments.Call."""

    x: Array
    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    layout: _Layout
    temperature: np.floating[Any]


def _check_arrays(**arrays: Any) -> None:
    """Refuse NumPy arrays and sequences beside CuPy arrays, and a second device."""
    devices = {}
    for name, array in arrays.items():
        if isinstance(array, cupy.ndarray):
            devices[name] = array.data.device_id
        elif array is not None and not np.isscalar(array):
            raise TypeError(
                f"{name} must be a CuPy array, as the other arguments are, got "
                f"{type(array).__module__}.{type(array).__name__}"
            )
    if len(set(devices.values())) > 1:
        raise ValueError(
            "all arrays must be on one device, got "
            + ", ".join(
                f"{name} on device {number}" for name, number in devices.items()
            )
        )


def _as_array(x: Any, name: str) -> Array:
    """Return x as an array of real numbers, 0-d for a Python number."""
    if x is None:
        raise TypeError(f"{name} must be a CuPy array, got None")
    array = x if isinstance(x, cupy.ndarray) else np.asarray(x)
    is_real = array.dtype.kind in "biuf" and array.dtype.char != "g"
    if not is_real and _arguments.type_name(array.dtype) not in NUMBERS:
        raise TypeError(
            f"{name} must hold real numbers (bool, integer or floating) in a CuPy "
            f"array, got dtype {array.dtype}"
        )
    return cupy.asarray(array)


def _result_dtype(x: Array, dtype: Any) -> np.dtype[Any]:
    wanted = _arguments.result_dtype(x, dtype)
    if _arguments.type_name(wanted) not in NUMBERS:
        raise TypeError(
            f"dtype of CuPy arrays must be one of {list(NUMBERS)}, got {wanted}"
        )
    return wanted


def _computed(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    return np.float64 if _arguments.type_name(dtype) == "float64" else np.float32


def _decode(
    x: Any, axis: Axis, dtype: Any, temperature: float = 1.0, name: str = "x"
) -> _Call:
    array = _as_array(x, name)
    wanted = _result_dtype(array, dtype)
    axes = _arguments.as_axes(axis, array.ndim)
    if array.dtype != wanted:
        array = array.astype(wanted)
    if array.ndim == 0:
        axes = ()
    return _Call(
        array,
        axes,
        wanted,
        _layout(array.shape, array.strides, axes),
        _as_temperature(temperature, wanted),
    )


def _as_temperature(temperature: float, dtype: np.dtype[Any]) -> np.floating[Any]:
    """Return the temperature in the type computed in; its inverse is normal, too."""
    if isinstance(temperature, cupy.ndarray):
        raise TypeError("temperature must be a number of the host, got a CuPy array")
    compute = _computed(dtype)
    value = compute(_arguments.as_temperature(temperature, dtype))
    least = LEAST_TEMPERATURE[compute]
    if not least <= value <= 1 / least:
        raise ValueError(
            f"temperature must be between {least:.1e} and {1 / least:.1e} for CuPy "
            f"arrays in {np.dtype(compute)}, got {temperature!r}"
        )
    return value


def _as_temperatures(
    temperature: Any, dtype: np.dtype[Any], x: Array, axis: Axis
) -> Array:
    """Return one temperature for each set; only those of the host are looked at."""
    axes = _arguments.as_axes(axis, x.ndim)
    if not isinstance(temperature, cupy.ndarray):
        values = _arguments.as_temperatures(temperature, dtype, x.shape, axes)
        return cupy.asarray(values)
    _arguments.check_temperatures(temperature.shape, x.shape, axes)
    return _as_array(temperature, "temperature").astype(_computed(dtype), copy=False)


def _as_mask(where: Any, shape: tuple[int, ...], name: str = "x") -> Array | None:
    if where is None or where is True:
        return None
    mask = where if isinstance(where, cupy.ndarray) else np.asarray(where)
    if mask.dtype != np.bool_:
        raise TypeError(f"where must be boolean, got dtype {mask.dtype}")
    return _broadcast(cupy.asarray(mask), shape, "where", name)


def _broadcast(array: Array, shape: tuple[int, ...], name: str, to: str) -> Array:
    if array.shape == shape:
        return array
    try:
        return cupy.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} of shape {array.shape} does not broadcast to the shape of {to}, "
            f"{shape}"
        ) from None


def _ordered(array: Array, layout: _Layout) -> Array:
    """Return an array with its axes in the order of memory, contiguous."""
    if layout.order is not None:
        array = array.transpose(layout.order)
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if not isinstance(out, cupy.ndarray):
        raise TypeError(f"out must be a CuPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")


def _same_memory(a: Array, b: Array) -> bool:
    return bool(
        a.data.ptr == b.data.ptr and a.dtype == b.dtype and a.strides == b.strides
    )


def _on_device_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function on the device of its first CuPy array, `arrays` checked before."""

    @functools.wraps(function)
    def run(arrays: dict[str, Any], **kwargs: Any) -> Any:
        _check_arrays(**arrays)
        device = next(
            array.data.device_id
            for array in arrays.values()
            if isinstance(array, cupy.ndarray)
        )
        if device == cupy.cuda.runtime.getDevice():
            return function(**arrays, **kwargs)
        with cupy.cuda.Device(device):
            return function(**arrays, **kwargs)

    return run


def _rounded_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in float32 what is wanted in 16 bits and given in another type."""

    @functools.wraps(function)
    def run(*, out: Any, dtype: Any, **given: Any) -> Any:
        half = None if dtype is None else np.dtype(dtype).newbyteorder("=")
        if half is None or _arguments.type_name(half) not in _arguments.HALVES:
            return function(out=out, dtype=dtype, **given)
        result = function(out=None, dtype=np.float32, **given)
        parts = result if isinstance(result, tuple) else (result,)
        rounded = tuple(part.astype(half) for part in parts)
        if out is not None:
            _check_out(out, rounded[0].shape, half)
            out[...] = rounded[0]
            rounded = (out, *rounded[1:])
        return rounded if isinstance(result, tuple) else rounded[0]

    return run


# ---- functions shaped like x ----


def _elementwise(
    operation: Operation, call: _Call, second: Array | None, out: Any
) -> Any:
    x, layout = call.x, call.layout
    if out is not None:
        _check_out(out, x.shape, call.dtype)
    if x.size == 0:
        return cupy.empty(x.shape, call.dtype) if out is None else out
    ready = _ordered(x, layout)
    if second is not None:
        second = _ordered(second, layout)
    target = None if out is None else _writable(out, layout.order, ready, second)
    y = cupy.empty(ready.shape, call.dtype) if target is None else target
    _launch(operation, ready, second, y, layout.shape, call.temperature)
    if target is None and layout.inverse is not None:
        y = y.transpose(layout.inverse)
    if out is None:
        return y
    if target is None:
        out[...] = y
    return out


def _writable(
    out: Array, order: tuple[int, ...] | None, *read: Array | None
) -> Array | None:
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


def _softmax_like(
    operation: Operation,
    x: Any,
    where: Any,
    out: Any,
    *,
    axis: Axis,
    temperature: float,
    dtype: Any,
) -> Any:
    if np.ndim(temperature) == 0:
        call = _decode(x, axis, dtype, temperature)
        return _elementwise(operation, call, _as_mask(where, call.x.shape), out)
    array = _as_array(x, "x")
    wanted = _result_dtype(array, dtype)
    compute = np.dtype(_computed(wanted))
    divisors = _as_temperatures(temperature, wanted, array, axis)
    call = _decode(array.astype(compute, copy=False) / divisors, axis, compute)
    mask = _as_mask(where, call.x.shape)
    if wanted == compute:
        return _elementwise(operation, call, mask, out)
    return _delivered(_elementwise(operation, call, mask, None), wanted, out)


@_on_device_of
@_rounded_last
def softmax(x: Any, where: Any, out: Any, **options: Any) -> Any:
    """Run api.softmax for CuPy arrays."""
    return _softmax_like(choose.SOFTMAX, x, where, out, **options)


@_on_device_of
@_rounded_last
def log_softmax(x: Any, where: Any, out: Any, **options: Any) -> Any:
    """Run api.log_softmax for CuPy arrays."""
    return _softmax_like(choose.LOG_SOFTMAX, x, where, out, **options)


def _vjp(
    operation: Operation, y: Any, dy: Any, out: Any, *, axis: Axis, temperature: float
) -> Any:
    probabilities, gradient = _as_array(y, "y"), _as_array(dy, "dy")
    dtype = _arguments.promote((y, probabilities), (dy, gradient))
    wanted = np.dtype(np.float64) if dtype.kind in "biu" else dtype
    divisors = None
    if np.ndim(temperature) > 0:
        divisors = _as_temperatures(temperature, wanted, probabilities, axis)
        dtype, temperature = np.dtype(_computed(wanted)), 1.0
    call = _decode(
        probabilities, axis, None if dtype.kind in "biu" else dtype, temperature
    )
    second = _broadcast(
        gradient.astype(call.dtype, copy=False), call.x.shape, "dy", "y"
    )
    if divisors is None:
        return _elementwise(operation, call, second, out)
    last = _elementwise(operation, call, second, None)
    return _delivered(last / divisors, wanted, out)


def _delivered(result: Array, dtype: np.dtype[Any], out: Any) -> Any:
    result = result.astype(dtype, copy=False)
    if out is None:
        return result
    _check_out(out, result.shape, dtype)
    out[...] = result
    return out


@_on_device_of
def softmax_vjp(y: Any, dy: Any, out: Any, **options: Any) -> Any:
    """Run api.softmax_vjp for CuPy arrays."""
    return _vjp(choose.SOFTMAX_VJP, y, dy, out, **options)


@_on_device_of
def log_softmax_vjp(y: Any, dy: Any, out: Any, **options: Any) -> Any:
    """Run api.log_softmax_vjp for CuPy arrays."""
    return _vjp(choose.LOG_SOFTMAX_VJP, y, dy, out, **options)


# ---- logsumexp ----


class _Reduced(NamedTuple):
    """Shapes of what has one element a set, and its axes in the order of memory."""

    kept: tuple[int, ...]
    in_memory: tuple[int, ...]
    order: tuple[int, ...]
    inverse: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def _reduced(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    order: tuple[int, ...] | None,
    keepdims: bool,
) -> _Reduced:
    dims = order or tuple(range(len(shape)))
    kept = [d for d in dims if keepdims or d not in axes]
    in_memory = tuple(1 if d in axes else shape[d] for d in kept)
    inverse = _inverse(kept)
    sizes = tuple(in_memory[i] for i in inverse)
    return _Reduced(sizes, in_memory, _inverse(inverse), inverse)


def _reduce(
    operation: Operation,
    call: _Call,
    second: Array | None,
    keepdims: bool,
    out: Any,
    with_sign: bool = False,
) -> Any:
    """Return the logarithm, or a pair: with the sign."""
    x, layout = call.x, call.layout
    shapes = _reduced(x.shape, call.axes, layout.order, keepdims)
    ready = _ordered(x, layout)
    if second is not None:
        second = _ordered(second, layout)
    target = None
    if out is not None:
        _check_out(out, shapes.kept, call.dtype)
        target = _writable(out, shapes.order, ready, second)
    y = cupy.empty(shapes.in_memory, call.dtype) if target is None else target
    sign = cupy.empty(shapes.in_memory, call.dtype) if with_sign else None
    if x.size == 0:
        y.fill(-math.inf)
        if sign is not None:
            sign.fill(0)
    else:
        extra: tuple[Any, ...] = ()
        if operation is choose.WEIGHTED_LOGSUMEXP:
            extra = (NOTHING if sign is None else sign,)
        _launch(operation, ready, second, y, layout.shape, call.temperature, extra)
    log = y.transpose(shapes.inverse)
    if out is not None:
        if target is None:
            out[...] = log
        log = out
    return log if sign is None else (log, sign.transpose(shapes.inverse))


@_on_device_of
@_rounded_last
def logsumexp(
    a: Any,
    b: Any,
    where: Any,
    out: Any,
    *,
    axis: Axis,
    keepdims: bool,
    return_sign: bool,
    dtype: Any,
) -> Any:
    """Run api.logsumexp for CuPy arrays."""
    if b is None and not return_sign:
        call = _decode(a, axis, dtype, name="a")
        mask = _as_mask(where, call.x.shape, "a")
        return _reduce(choose.LOGSUMEXP, call, mask, bool(keepdims), out)
    exponents = _as_array(a, "a")
    weights = None if b is None else _as_array(b, "b")
    shape = exponents.shape
    if weights is not None:
        try:
            shape = np.broadcast_shapes(shape, weights.shape)
        except ValueError:
            raise ValueError(
                f"b of shape {weights.shape} does not broadcast with a of shape "
                f"{exponents.shape}"
            ) from None
        exponents = cupy.broadcast_to(exponents, shape)
        if dtype is None:
            promoted = _arguments.promote((a, exponents), (b, weights))
            dtype = np.dtype(np.float64) if promoted.kind in "biu" else promoted
    call = _with_axes_last(_decode(exponents, axis, dtype, name="a"))
    mask = _as_mask(where, shape, "a")
    if weights is not None:
        weights = cupy.broadcast_to(weights.astype(call.dtype, copy=False), shape)
    if mask is not None and weights is None:
        weights = mask.astype(call.dtype)
    elif mask is not None:
        # CuPy chooses among bfloat16 in float32.
        weights = cupy.where(mask, weights, 0).astype(call.dtype, copy=False)
    return _reduce(
        choose.WEIGHTED_LOGSUMEXP,
        call,
        weights,
        bool(keepdims),
        out,
        bool(return_sign),
    )


def _with_axes_last(call: _Call) -> _Call:
    """Lay a call out for an operation that has no kernels for columns."""
    layout, ndim = call.layout, call.x.ndim
    if layout.shape[2] == 1:
        return call
    order = (*(d for d in range(ndim) if d not in call.axes), *call.axes)
    rows, n, inner = layout.shape
    return call._replace(layout=_Layout(order, _inverse(order), (rows * inner, n, 1)))


# ---- hinge losses ----


class _Scores(NamedTuple):
    """Rows of scores and where their positives are, as those of _arguments.Scores."""

    scores: Array  # contiguous
    positives: Array | None
    labels: Array | None
    where: Array | None
    dtype: np.dtype[Any]
    compute: np.dtype[Any]

    @property
    def rows(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.scores.shape
        return shape[:-1]


class _Options(NamedTuple):
    """Which loss: the options of a call, decoded."""

    margin: float
    p: int
    largest: bool
    reduction: str
    return_grad: bool


def _as_options(
    compute: np.dtype[Any],
    *,
    margin: float,
    p: int,
    variant: str,
    reduction: str,
    return_grad: bool,
) -> _Options:
    p = _arguments.as_options(p, variant, reduction, return_grad)
    margin = _arguments.as_margin(margin, compute)
    return _Options(margin, p, variant == "max", reduction, bool(return_grad))


def _contiguous(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    if dtype is not None and array.dtype != dtype:
        array = array.astype(dtype)
    return array if array.flags.c_contiguous else cupy.ascontiguousarray(array)


def _as_labels(labels: Any, scores: Array) -> Array:
    labels = _as_array(labels, "labels")
    _arguments.check_labels(labels, scores.shape)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
    return _contiguous(labels, np.dtype(np.int64))


def _ignoring(
    labels: Array, given: Any, ignore_index: int, weights: Array | None
) -> tuple[Array, Array | None]:
    """Give ignored rows the weight 0, and a label that there is."""
    ignored = _arguments.as_ignored(ignore_index)
    limits = np.iinfo(given.dtype)
    if not limits.min <= ignored <= limits.max:
        return labels, weights
    counts = labels != (ignored + 2**63) % 2**64 - 2**63  # uint64's bits
    if weights is None:
        weights = cupy.full(labels.shape, 1.0, np.float64)
    return cupy.where(counts, labels, 0), cupy.where(counts, weights, 0)


def _as_mean(rows: _Scores, weights: Array | None) -> tuple[Array, Array]:
    """Return weights that make a sum the mean of rows that count; whether any do."""
    counts = cupy.full(rows.rows, True, np.bool_)
    if weights is None:
        weights = cupy.full(rows.rows, 1.0, np.float64)
    else:
        counts = weights != 0
    if rows.where is not None and rows.scores.shape[-1] > (rows.positives is None):
        negatives = rows.where
        if rows.labels is not None:
            places = cupy.arange(rows.scores.shape[-1])
            negatives = negatives & (places != rows.labels[..., None])
        elif rows.positives is None:
            negatives = negatives[..., 1:]
        counts = counts & negatives.any(axis=-1)
    count = counts.sum()
    weights = cupy.where(counts, weights / cupy.maximum(count, 1), 0)
    return _contiguous(weights), count > 0


def _as_weights(sample_weight: Any, rows: tuple[int, ...]) -> Array | None:
    if sample_weight is None:
        return None
    weights = _as_array(sample_weight, "sample_weight")
    _arguments.check_weights(weights, rows)
    weights = weights.astype(np.float64, copy=False)
    return _contiguous(cupy.broadcast_to(weights, rows))


@_on_device_of
def hinge_loss(
    scores: Any,
    labels: Any,
    sample_weight: Any,
    where: Any,
    *,
    negatives: int | None,
    ignore_index: int | None,
    **options: Any,
) -> Any:
    """Run hinge.hinge_loss for CuPy arrays."""
    array = _as_array(scores, "scores")
    mask = _as_mask(where, array.shape, "scores")
    flat = array.shape
    if negatives is not None:
        if labels is not None:
            raise TypeError("give labels or negatives, not both")
        shape = _arguments.as_groups(array, negatives)
        array = array.reshape(shape)
        mask = None if mask is None else mask.reshape(shape)
    _arguments.check_has_positive(array, labels is not None)
    dtype, compute = _arguments.result_dtypes(array.dtype)
    places = None if labels is None else _as_labels(labels, array)
    weights = _as_weights(sample_weight, array.shape[:-1])
    if ignore_index is not None:
        if labels is None:
            raise TypeError("ignore_index needs labels")
        places, weights = _ignoring(places, labels, ignore_index, weights)
    rows = _Scores(
        _contiguous(array, dtype),
        None,
        places,
        None if mask is None else _contiguous(mask),
        dtype,
        compute,
    )
    loss = _as_options(compute, **options)
    if loss.reduction == "pairs":
        pairs = cupy.empty(rows.scores.shape, dtype)
        _run_hinge(rows, loss, weights, pairs, None)
        return pairs if labels is not None else _contiguous(pairs[..., 1:])
    grad = cupy.empty(rows.scores.shape, dtype) if loss.return_grad else None
    value = _run_hinge(rows, loss, weights, grad, None)
    return value if grad is None else (value, grad.reshape(flat))


@_on_device_of
def pair_hinge_loss(
    pos: Any, neg: Any, sample_weight: Any, where: Any, **options: Any
) -> Any:
    """Run hinge.pair_hinge_loss for CuPy arrays."""
    positives, others = _as_array(pos, "pos"), _as_array(neg, "neg")
    _arguments.check_pairs(positives, others)
    mask = _as_mask(where, others.shape, "neg")
    dtype, compute = _arguments.result_dtypes(
        _arguments.promote((pos, positives), (neg, others))
    )
    rows = _Scores(
        _contiguous(others, dtype),
        _contiguous(positives, dtype),
        None,
        None if mask is None else _contiguous(mask),
        dtype,
        compute,
    )
    loss = _as_options(compute, **options)
    weights = _as_weights(sample_weight, rows.rows)
    if loss.reduction == "pairs":
        pairs = cupy.empty(others.shape, dtype)
        _run_hinge(rows, loss, weights, pairs, None)
        return pairs
    if not loss.return_grad:
        return _run_hinge(rows, loss, weights, None, None)
    grads = cupy.empty(positives.shape, dtype), cupy.empty(others.shape, dtype)
    return _run_hinge(rows, loss, weights, grads[1], grads[0]), grads


def _run_hinge(
    rows: _Scores,
    loss: _Options,
    weights: Array | None,
    out: Array | None,
    out_positives: Array | None,
) -> Any:
    """Write what is to be written; return the loss as its reduction has it."""
    is_single = loss.reduction == "none"
    losses = cupy.empty(rows.rows, rows.compute) if is_single else None
    parts = None
    if loss.reduction in ("sum", "mean"):
        parts = cupy.empty(rows.rows, np.float64)
    count, some = math.prod(rows.rows), None
    is_mean = loss.reduction == "mean"
    if is_mean and (weights is not None or rows.where is not None):
        weights, some = _as_mean(rows, weights)
    if rows.scores.size > 0:
        largest = loss.largest and loss.reduction != "pairs"
        written = GRADIENT if loss.return_grad else PAIRS
        scale = 1 / count if is_mean and some is None else 1.0
        compute = rows.compute.type
        extra = (
            *(
                NOTHING if array is None else array
                for array in (rows.positives, rows.labels, weights, losses, parts)
            ),
            NOTHING if out_positives is None else out_positives,
            compute(loss.margin),
            np.float64(scale),
            np.int32(loss.p),
            np.int32(WRITES_NOTHING if out is None else written),
        )
        _launch(
            choose.HINGE_LARGEST if largest else choose.HINGE_SUM,
            rows.scores,
            rows.where,
            out,
            (count, rows.scores.shape[-1], 1),
            compute(1),
            extra,
        )
    else:
        nothing = 0 if rows.labels is None else math.nan  # no label is in [0, 0)
        for array in (losses, parts, out_positives):
            if array is not None:
                array.fill(nothing)
    if parts is None:
        return losses
    total = parts.sum()
    if some is not None:
        total = cupy.where(some, total, math.nan)
    elif is_mean:
        total = total / count if count else cupy.full((), math.nan, np.float64)
    return total.astype(rows.compute, copy=False)
