"""The softmax family and its gradients for CuPy arrays: one decode, one launch.

This module and those it imports are imported once a CuPy array has arrived, and alone
import CuPy. What arguments mean, and the words of errors, are in _arguments.py.

What shapes, types and the device decide is found out once, and kept in a plan: a call
like one before looks its plan up, allocates its result, and launches.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cupy
import numpy as np

from .. import _arguments
from .._arguments import Axis
from . import choose, launch, temperatures
from .choose import NUMBERS, Operation
from .launch import Array, Layout, Order, Prepared
from .losses import cross_entropy, hinge_loss, pair_hinge_loss

__all__ = [
    "cross_entropy",
    "hinge_loss",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "pair_hinge_loss",
    "softmax",
    "softmax_vjp",
]


class _Plan:
    """What shapes, types and the device decide of a call.

    Results are those of `shape`, in memory with their axes in an order of their own.
    """

    def __init__(
        self,
        operation: Operation,
        layout: Layout,
        dtype: np.dtype[Any],
        result: np.dtype[Any],
        shape: tuple[int, ...],
        axes: tuple[int, ...],
        keepdims: bool,
        device: int,
    ) -> None:
        self.operation, self.layout, self.device = operation, layout, device
        self.dtype = dtype  # that arrays are given to kernels in
        self.result = result  # what they are rounded to then
        is_double = _arguments.type_name(dtype) == "float64"
        self.compute = np.float64 if is_double else np.float32
        self.one = self.compute(1)
        if not operation.has_results:
            shape = tuple(1 if d in axes else size for d, size in enumerate(shape))
        kept = [
            d
            for d in layout.order or range(len(shape))
            if operation.has_results or keepdims or d not in axes
        ]
        self.in_memory = tuple(shape[d] for d in kept)
        back = launch.inverse(tuple(kept))
        self.shape = tuple(self.in_memory[i] for i in back)
        is_same = kept == sorted(kept)
        self.inverse: Order = None if is_same else back
        self.out_order: Order = None if is_same else launch.inverse(back)
        self._prepared: dict[bool, Prepared] = {}  # where all is aligned, or not

    def prepared(self, aligned: bool) -> Prepared:
        """Return what is launched; it is compiled when first asked for."""
        found = self._prepared.get(aligned)
        if found is None:
            found = self._prepared[aligned] = launch.prepared(
                self.operation, self.dtype, self.layout.shape, aligned, self.device
            )
        return found


@functools.lru_cache(maxsize=1024)
def _plan(
    operation: Operation,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    given: np.dtype[Any],
    axis: Axis,
    dtype: np.dtype[Any] | None,
    keepdims: bool,
    device: int,
    name: str,
) -> _Plan:
    launch.check_real(given, name)
    result = _arguments.result_dtype(given, dtype)
    number = _arguments.type_name(result)
    if number not in NUMBERS:
        raise TypeError(
            f"dtype of CuPy arrays must be one of {list(NUMBERS)}, got {result}"
        )
    is_half = number in _arguments.HALVES and given != result
    axes = _arguments.as_axes(axis, len(shape)) if shape else ()
    if not shape:
        _arguments.as_axes(axis, 0)
    last = operation not in choose.WITH_COLUMNS
    return _Plan(
        operation,
        launch.layout(shape, strides, axes, last),
        np.dtype(np.float32) if is_half else result,
        result,
        shape,
        axes,
        keepdims,
        device,
    )


def _decode(
    operation: Operation,
    device: int,
    x: Any,
    axis: Axis,
    dtype: Any,
    name: str = "x",
    keepdims: bool = False,
) -> tuple[Array, _Plan]:
    """Return x in the type that kernels read, and the plan for it."""
    if not isinstance(x, cupy.ndarray):
        x = launch.as_array(x, name)
    if axis is not None and type(axis) is not int:
        axis = _arguments.as_axes(axis, x.ndim)  # True is 1 for a dictionary
    if dtype is not None:
        dtype = np.dtype(dtype)
    plan = _plan(
        operation, x.shape, x.strides, x.dtype, axis, dtype, keepdims, device, name
    )
    if x.dtype != plan.dtype:
        x = x.astype(plan.dtype)
        dtype = plan.result
        plan = _plan(
            operation, x.shape, x.strides, x.dtype, axis, dtype, keepdims, device, name
        )
    return x, plan


def _compute(
    plan: _Plan,
    x: Array,
    second: Array | None,
    out: Any,
    temperature: np.floating[Any],
    extra: tuple[Any, ...] = (),
) -> Array:
    """Launch on arrays of one shape, and return the result, in `out` if there is one.

    `second` is the mask, dy, or the weights.
    """
    y = None
    order = plan.layout.order
    x = launch.in_order(x, order)
    if second is not None:
        second = launch.in_order(second, order)
    places = launch.places_of(x, second)
    if out is not None:
        launch.check_out(out, plan.shape, plan.result)
        if plan.dtype == plan.result:
            y = launch.writable(out, plan.out_order, x, second)
            places |= 0 if y is None else y.data.ptr
    is_out = y is not None
    if y is None:
        y = cupy.empty(plan.in_memory, plan.dtype)
    if x.size:
        prepared = plan.prepared(places % 16 == 0)
        launch.launch(prepared, x, second, y, temperature, extra)
    else:
        y.fill(-math.inf)
    if is_out:
        return out
    y = _returned(plan, y)
    if out is None:
        return y
    out[...] = y
    return out


def _returned(plan: _Plan, y: Array) -> Array:
    """Return what a kernel has written in the caller's order of axes, and type."""
    if plan.dtype != plan.result:
        y = y.astype(plan.result)
    return y if plan.inverse is None else y.transpose(plan.inverse)


# ---- functions shaped like x ----


def _softmax_like(
    operation: Operation,
    device: int,
    x: Any,
    where: Any,
    out: Any,
    axis: Axis,
    temperature: Any,
    dtype: Any,
) -> Any:
    x, plan = _decode(operation, device, x, axis, dtype)
    mask = None if where is None else launch.as_mask(where, x.shape, "x")
    if temperatures.are_many(temperature):
        divisors = temperatures.of_sets(temperature, plan.compute, x, axis, "x")
        x = temperatures.quotients(x, divisors, plan.compute, axis, mask)
        x, plan = _decode(operation, device, x, axis, plan.result)
        temperature = 1.0
    divisor = temperatures.number(temperature, plan.compute)
    return _compute(plan, x, mask, out, divisor)


_on_device = launch.on_device_of("x", "where", "out")
softmax = _on_device(functools.partial(_softmax_like, choose.SOFTMAX))
log_softmax = _on_device(functools.partial(_softmax_like, choose.LOG_SOFTMAX))


def _vjp(
    operation: Operation,
    device: int,
    y: Any,
    dy: Any,
    where: Any,
    out: Any,
    axis: Axis,
    temperature: Any,
    dtype: Any,
) -> Any:
    if not (isinstance(y, cupy.ndarray) and isinstance(dy, cupy.ndarray)):
        probabilities, gradient = launch.as_array(y, "y"), launch.as_array(dy, "dy")
    else:
        probabilities, gradient = y, dy
    if gradient.dtype != probabilities.dtype:
        launch.check_real(probabilities.dtype, "y")
        launch.check_real(gradient.dtype, "dy")
        if dtype is None:
            dtype = _arguments.promote((y, probabilities), (dy, gradient))
            dtype = None if dtype.kind in "biu" else dtype
    x, plan = _decode(operation, device, probabilities, axis, dtype, "y")
    gradient = launch.broadcast(gradient, x.shape, "dy", "y")
    result, divisors = plan.result, None
    mask = launch.as_mask(where, x.shape, "y")
    if mask is not None:
        none = -math.inf if operation is choose.LOG_SOFTMAX_VJP else 0.0
        x, gradient = _masked(mask, x, none), _masked(mask, gradient, 0.0)
        x, plan = _decode(operation, device, x, axis, result, "y")
    if temperatures.are_many(temperature):
        divisors = temperatures.of_sets(temperature, plan.compute, x, axis, "y")
        x, plan = _decode(operation, device, x, axis, plan.compute, "y")
        temperature = 1.0
    divisor = temperatures.number(temperature, plan.compute)
    if gradient.dtype != plan.dtype:
        gradient = gradient.astype(plan.dtype)
    if mask is None and divisors is None:
        return _compute(plan, x, gradient, out, divisor)
    dx = _compute(plan, x, gradient, None, divisor)
    if divisors is not None:
        dx = dx / divisors
    if mask is not None:  # a sum that is NaN leaves what is absent alone
        dx = _masked(mask, dx, 0.0)
    dx = dx.astype(result, copy=False)
    if out is None:
        return dx
    launch.check_out(out, dx.shape, result)
    out[...] = dx
    return out


def _masked(mask: Array, array: Array, none: float) -> Array:
    """Put `none` where the mask is False; CuPy chooses among bfloat16 in float32."""
    return cupy.where(mask, array, none).astype(array.dtype, copy=False)


_on_device = launch.on_device_of("y", "dy", "where", "out")
softmax_vjp = _on_device(functools.partial(_vjp, choose.SOFTMAX_VJP))
log_softmax_vjp = _on_device(functools.partial(_vjp, choose.LOG_SOFTMAX_VJP))


# ---- logsumexp ----


@launch.on_device_of("a", "b", "where", "out")
def logsumexp(
    device: int,
    a: Any,
    b: Any,
    where: Any,
    out: Any,
    axis: Axis,
    keepdims: bool,
    return_sign: bool,
    dtype: Any,
) -> Any:
    """Run logsumexp for CuPy arrays."""
    is_kept = bool(keepdims)
    if b is None and not return_sign:
        x, plan = _decode(choose.LOGSUMEXP, device, a, axis, dtype, "a", is_kept)
        mask = None if where is None else launch.as_mask(where, x.shape, "a")
        return _compute(plan, x, mask, out, plan.one)
    b = 1.0 if b is None else b
    x, weights = launch.as_array(a, "a"), launch.as_array(b, "b")
    shape = _arguments.broadcast_shape(x.shape, weights.shape)
    if dtype is None:
        promoted = _arguments.promote((a, x), (b, weights))
        dtype = np.dtype(np.float64) if promoted.kind in "biu" else promoted
    x = cupy.broadcast_to(x, shape)
    x, plan = _decode(choose.WEIGHTED_LOGSUMEXP, device, x, axis, dtype, "a", is_kept)
    mask = launch.as_mask(where, shape, "a")
    weights = cupy.broadcast_to(weights.astype(plan.dtype, copy=False), shape)
    if mask is not None:
        weights = _masked(mask, weights, 0.0)
    if not return_sign:
        return _compute(plan, x, weights, out, plan.one, (None,))
    sign = cupy.empty(plan.in_memory, plan.dtype)
    log = _compute(plan, x, weights, out, plan.one, (sign,))
    if x.size == 0:
        sign.fill(0)
    return log, _returned(plan, sign)
