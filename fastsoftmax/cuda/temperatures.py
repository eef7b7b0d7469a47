"""Temperatures for CuPy arrays: a number for all sets, or an array of one for each."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from .. import _arguments
from .._arguments import Axis
from . import launch
from .launch import Array

Compute = type[np.floating[Any]]

LEAST = {np.float32: 2.0**-126, np.float64: 2.0**-1022}
ONE: dict[Any, np.floating[Any]] = {
    np.float32: np.float32(1),
    np.float64: np.float64(1),
}


def number(value: Any, compute: Compute) -> np.floating[Any]:
    """Return the temperature in the type computed in; its inverse is normal, too."""
    least = LEAST[compute]
    if type(value) is float and least <= value <= 1 / least:
        return ONE[compute] if value == 1 else compute(value)
    if isinstance(value, cupy.ndarray):
        raise TypeError("temperature of 0 dimensions must be a number of the host")
    given = compute(_arguments.as_temperature(value, np.dtype(compute)))
    if not least <= given <= 1 / least:
        raise ValueError(
            f"temperature must be between {least:.1e} and {1 / least:.1e} for CuPy "
            f"arrays in {np.dtype(compute)}, got {value!r}"
        )
    return given


def are_many(temperature: Any) -> bool:
    """Tell whether there is one for each set."""
    return type(temperature) is not float and not (
        _arguments.is_one_number(temperature)
    )


def of_sets(
    temperature: Any, compute: Compute, x: Array, axis: Axis, name: str
) -> Array:
    """Return one temperature for each set; only those of the host are looked at."""
    axes = _arguments.as_axes(axis, x.ndim)
    if not isinstance(temperature, cupy.ndarray):
        dtype = np.dtype(compute)
        return cupy.asarray(
            _arguments.as_temperatures(temperature, dtype, x.shape, axes, name)
        )
    _arguments.check_temperatures(temperature.shape, x.shape, axes, name)
    temperature = launch.as_array(temperature, "temperature")
    return temperature.astype(compute, copy=False)


def quotients(
    x: Array, divisors: Array, compute: Compute, axis: Axis, mask: Array | None
) -> Array:
    """Return x over the temperatures of sets, in the type computed in.

    Of a set whose largest quotient may leave the range, (x - largest) / temperature, as
    the kernels have it, which has the same softmax. Clipped: of infinity nothing is
    subtracted, or NaN would come of it.
    """
    x = x.astype(compute, copy=False)
    if x.size == 0:
        return x / divisors
    most = float(np.finfo(compute).max)
    counted = x if mask is None else cupy.where(mask, x, -most)
    axes = _arguments.as_axes(axis, x.ndim)
    largest = cupy.clip(counted.max(axis=axes, keepdims=True), -most, most)
    is_far = abs(largest) > divisors * (most / 2)
    return (x - cupy.where(is_far, largest, 0.0)) / divisors
