"""Dask arrays beside each other, cut alike, and a function run on their chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from .. import _arguments
from .._arguments import Array


def refuse_out(out: Any) -> None:
    """Refuse `out`: nothing is written to."""
    if out is not None:
        raise TypeError("out must be None for Dask arrays, which are not written to")


def check_real(dtype: np.dtype[Any], x: Any) -> None:
    """Refuse what states cannot hold."""
    if dtype.kind == "c" or dtype.char in "gG" or not isinstance(x._meta, np.ndarray):
        raise TypeError(
            "Dask arrays whose sets are split over chunks, and those of logsumexp, "
            "must hold NumPy's real numbers of at most 64 bits, got "
            f"{type(x._meta).__name__} of {dtype}"
        )


def compute_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that elements are rounded to, as the kernels do."""
    narrow = _arguments.type_name(dtype) in _arguments.COMPUTED_IN_FLOAT32
    return np.dtype(np.float32 if narrow else np.float64)


def meta(array: Any) -> Any:
    """Return what a function may be tried on: no elements, all else as given."""
    if array is None or type(array) in (bool, int, float):
        return array
    return da.asarray(array)._meta


Shape = tuple[Any, ...]


def shape_of(array: Any) -> Shape:
    """Return the shape; None for a size that Dask does not know."""
    return tuple(None if math.isnan(size) else size for size in array.shape)


def beside(array: Any, x: Any, name: str, to: str, kept: tuple[int, ...] = ()) -> Any:
    """Return an array that broadcasts to x, with as many axes, and cut as x is.

    It must have length 1 along `kept`. Chunks of unknown sizes are taken to be alike
    where there are equally many: they are, where one selection made both arrays.
    """
    array = da.asarray(array)
    shape = tuple(1 if d in kept else size for d, size in enumerate(shape_of(x)))
    try:
        return _arguments.broadcast(
            array, shape, name, to, partial(_cut_alike, chunks=x.chunks)
        )
    except ValueError as error:
        if None not in shape + shape_of(array):
            raise
        hint = "compute_chunk_sizes() finds sizes that are unknown (None)"
        raise ValueError(f"{error}: {hint}") from None


def _cut_alike(array: Any, shape: Shape, chunks: tuple[Shape, ...]) -> Any:
    array = array[(None,) * (len(shape) - array.ndim)]
    cuts = {}
    for d, (size, whole) in enumerate(zip(shape_of(array), shape, strict=True)):
        if size == 1:
            continue
        if size != whole or (size is None and array.numblocks[d] != len(chunks[d])):
            raise ValueError
        if size is not None:
            cuts[d] = chunks[d]
    return array.rechunk(cuts)


def options(
    x: Any,
    axes: tuple[int, ...],
    dtype: np.dtype[Any],
    temperature: Any,
    where: Any,
    name: str,
) -> dict[str, Any]:
    """Return the mask, if any, and temperatures: a number, or cut as x is."""
    parts: dict[str, Any] = {}
    if where is not None:
        parts["where"] = beside(where, x, "where", name)
    if _arguments.is_dask(temperature):
        _arguments.check_temperatures(shape_of(temperature), shape_of(x), axes, name)
        temperature = temperature.map_blocks(_checked, dtype, dtype=compute_of(dtype))
    elif _arguments.is_one_number(temperature):
        return parts | {"temperature": _arguments.as_temperature(temperature, dtype)}
    else:
        temperature = _arguments.as_temperatures(
            temperature, dtype, shape_of(x), axes, name
        )
    return parts | {"temperature": beside(temperature, x, "temperature", name, axes)}


def _checked(temperature: Array, dtype: np.dtype[Any]) -> Array:
    return _arguments.as_temperatures(
        temperature, dtype, temperature.shape, (), within=" of its chunk"
    )


def holds_sets(x: Any, axes: tuple[int, ...]) -> bool:
    """Tell whether every chunk holds whole sets."""
    return all(x.numblocks[axis] == 1 for axis in axes if x.ndim)


def blockwise(
    function: Callable[..., Any],
    parts: dict[str, Any],
    dtype: np.dtype[Any],
    reduced: tuple[int, ...] = (),
) -> Any:
    """Run a function of named chunks, which leaves length 1 along `reduced`.

    The first array has the chunks of the result; the others are beside it.
    """
    arrays = {name: part for name, part in parts.items() if _arguments.is_dask(part)}
    numbers = {name: part for name, part in parts.items() if name not in arrays}
    first, *_ = arrays.values()
    index = tuple(range(first.ndim))
    return da.blockwise(
        partial(_by_name, partial(function, **numbers), tuple(arrays)),
        index,
        *(item for part in arrays.values() for item in (part, index)),
        adjust_chunks={axis: lambda n: 1 for axis in reduced},
        dtype=dtype,
        meta=np.empty((0,) * first.ndim, dtype),
        align_arrays=False,
    )


def _by_name(
    function: Callable[..., Any], names: tuple[str, ...], *chunks: Array
) -> Any:
    return function(**dict(zip(names, chunks, strict=True)))


def sums(terms: Any, axes: tuple[int, ...]) -> Any:
    """Return float64 sums along axes, which become of length 1; silently."""
    return da.reduction(terms, _sum, _sum, axis=axes, keepdims=True, dtype=np.float64)


def _sum(terms: Array, axis: Any, keepdims: bool) -> Any:
    with np.errstate(all="ignore"):
        return np.sum(terms, axis=axis, keepdims=keepdims, dtype=np.float64)
