"""What an argument means, and the words of its error: for NumPy and CuPy arrays alike.

No loops over elements, and no layout: _cpu.pyx and cuda/call.py decode what is common
by themselves, and ask here for everything else. Who asks has the array; what is asked
about is its dtype, its shape, or a number.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.exceptions import AxisError
from numpy.typing import ArrayLike, DTypeLike

Array = np.ndarray[Any, np.dtype[Any]]
Axis = int | tuple[int, ...] | None

# Computed in float32 and rounded once; bfloat16 is ml_dtypes', known by its name.
HALVES = ("float16", "bfloat16")
COMPUTED_IN_FLOAT32 = ("float32", *HALVES)

VARIANTS = ("sum", "max")
REDUCTIONS = ("sum", "mean", "none", "pairs")
ENTROPY_REDUCTIONS = ("mean", "sum", "none")

# Beyond that NumPy refuses the shape of even an empty array.
MOST_NEGATIVES = 1 << 48


@functools.lru_cache(maxsize=64)
def type_name(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name without byte order (`dtype.name` costs microseconds)."""
    return dtype.name


def is_cupy(*arrays: Any) -> bool:
    """Tell whether one of these is a CuPy array.

    Nobody has one without having imported CuPy.
    """
    module = sys.modules.get("cupy")
    if module is None:
        return False
    kind = vars(module).get("ndarray")  # of a stub for documentation, say, anything
    if not (isinstance(kind, type) and kind.__module__.startswith("cupy")):
        return False
    for array in arrays:  # noqa: SIM110 - any() takes three times as long
        if isinstance(array, kind):
            return True
    return False


def is_dask(*arrays: Any) -> bool:
    """Tell whether one of these is a Dask array; nobody has one without its module."""
    module = sys.modules.get("dask.array.core")
    if module is None:
        return False
    kind = vars(module).get("Array")
    return isinstance(kind, type) and any(isinstance(array, kind) for array in arrays)


def backend_of(*arrays: Any) -> Any:
    """Return the module that has the functions for arrays which are not NumPy's."""
    return module_of(".dask.call" if is_dask(*arrays) else ".cuda.call")


@functools.cache
def module_of(name: str) -> Any:
    """Import a module; to find it again takes an import statement a microsecond."""
    return importlib.import_module(name, __package__)


# ---- arrays ----


def as_array(x: ArrayLike, name: str, has_where: bool = True) -> Array:
    """Return x as a plain ndarray of numbers; `where` may or may not mask some."""
    if isinstance(x, np.ma.MaskedArray):
        instead = f"its data, and where=~{name}.mask" if has_where else "its data"
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: pass {instead}"
        )
    array = _as_ndarray(x, name)
    numeric = array.dtype.kind in "biuc" or array.dtype.char in "efdg"
    if not numeric and type_name(array.dtype) != "bfloat16":
        instead = ""
        if array.dtype == object and array.ndim > 0:
            instead = ": if its objects are numbers, .astype(float) makes them floats"
        raise TypeError(
            f"{name} must hold numbers (bool, integer, floating or complex), got dtype "
            f"{array.dtype}{instead}"
        )
    return array


def _as_ndarray(x: Any, name: str) -> Array:
    """Return what NumPy makes of x; of a tensor that it refuses, say what to pass."""
    try:
        return np.asarray(x)
    except (RuntimeError, TypeError) as error:
        kind = getattr(sys.modules.get("torch"), "Tensor", ())
        if not isinstance(x, kind):
            raise
        if x.requires_grad:
            instead = f"{name}.detach(), as softmax_vjp and return_grad give gradients"
        elif "ScalarType" in str(error):
            instead = f"{name}.float(), as NumPy has no {x.dtype}"
        else:
            raise
        raise TypeError(
            f"{name} is a tensor that NumPy does not read: pass {instead}"
        ) from error


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


def result_dtype(given: np.dtype[Any], dtype: DTypeLike | None) -> np.dtype[Any]:
    """Return the type computed in and returned, for arrays of a given one."""
    if dtype is None:
        if given.kind in "biu":
            return np.dtype(np.float64)
        return given.newbyteorder("=")
    wanted = np.dtype(dtype).newbyteorder("=")
    if wanted.kind not in "fc" and type_name(wanted) != "bfloat16":
        raise TypeError(f"dtype must be a floating or complex type, got {wanted}")
    if given.kind == "c" and wanted.kind != "c":
        raise TypeError(f"dtype {wanted} cannot hold the complex values of {given}")
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
    check_boolean(mask.dtype)
    masked: Array = broadcast(mask, shape, "where", name)
    return masked


def check_boolean(dtype: np.dtype[Any]) -> None:
    """Refuse a mask of another type: of its numbers, 0 or 1, who knows the meaning."""
    if dtype != np.bool_:
        instead = ": .astype(bool) makes it so" if dtype.kind in "iu" else ""
        raise TypeError(f"where must be boolean, got dtype {dtype}{instead}")


def broadcast(
    array: Array,
    shape: tuple[int, ...],
    name: str,
    to: str,
    broadcast_to: Callable[..., Any] = np.broadcast_to,
) -> Any:
    """Return an array broadcast to the shape of another argument."""
    try:
        return broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} of shape {array.shape} does not broadcast to the shape of {to}, "
            f"{shape}"
        ) from None


def broadcast_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a and b, logsumexp's arguments, together."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise ValueError(
            f"b of shape {b} does not broadcast with a of shape {a}"
        ) from None


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


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that is not exactly what the result needs."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    check_fits(out, shape, dtype)
    if not out.flags.writeable:
        raise ValueError("out is read-only")


def check_fits(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an `out`, whoever's array it is, of another type or shape."""
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")


# ---- numbers ----


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


def is_one_number(value: Any) -> bool:
    """Tell whether something is no array of any library, or one without axes."""
    return bool((value.ndim if hasattr(value, "ndim") else np.ndim(value)) == 0)


def as_temperature(temperature: Any, dtype: np.dtype[Any]) -> float | np.floating[Any]:
    """Return the temperature in the type computed in."""
    if type(temperature) is float and temperature == 1.0:
        return temperature
    compute: type[np.floating[Any]] = np.float64
    if type_name(dtype) in COMPUTED_IN_FLOAT32:
        compute = np.float32
    elif dtype.char in "gG":
        compute = np.longdouble
    value = as_real(temperature, "temperature", compute)
    if not 0 < value < math.inf:
        raise _bad_temperature(repr(temperature), value == 0, np.dtype(compute))
    return value


def as_temperatures(
    temperature: ArrayLike,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    name: str = "x",
    within: str = "",
) -> Array:
    """Return temperatures in the type computed in, one for each set of `name`.

    An error's place lies `within` something smaller than that array.
    """
    given = as_array(temperature, "temperature", has_where=False)
    if given.dtype.kind == "c":
        raise TypeError(f"temperature must be real, got dtype {given.dtype}")
    check_temperatures(given.shape, shape, axes, name)
    compute = np.dtype(np.float32) if type_name(dtype) in COMPUTED_IN_FLOAT32 else dtype
    values = cast(given, np.finfo(compute).dtype)
    bad = np.argwhere(~((values > 0) & (values < math.inf)))
    if len(bad):
        place = tuple(bad[0])
        words = f"{given[place]} at {', '.join(map(str, place))}{within}"
        raise _bad_temperature(words, values[place] == 0, values.dtype)
    return values


def check_temperatures(
    given: tuple[int, ...], shape: tuple[int, ...], axes: tuple[int, ...], name: str
) -> None:
    """Refuse temperatures that are not one for each set of the array `name`."""
    padded = (1,) * (len(shape) - len(given)) + given
    fits = len(padded) == len(shape) and all(
        size == 1 or (size == other and axis not in axes)
        for axis, (size, other) in enumerate(zip(padded, shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"temperature must broadcast against {name}, with length 1 along the "
            f"reduced axes {axes}: got shape {given} for {name} of shape {shape}"
        )


def _bad_temperature(got: str, is_zero: bool, compute: np.dtype[Any]) -> ValueError:
    limit = ": towards 0 softmax becomes 1 at argmax(x), 0 elsewhere" if is_zero else ""
    return ValueError(
        f"temperature must be finite and > 0 in {compute}, got {got}{limit}"
    )


# ---- hinge losses ----


def as_scores(scores: ArrayLike, name: str) -> Array:
    """Return scores as an array of real numbers that the kernels know."""
    array = as_array(scores, name)
    if array.dtype.kind == "c" or array.dtype.char == "g":
        raise TypeError(
            f"{name} must be real numbers of at most 64 bits, got dtype {array.dtype}"
        )
    return array


def result_dtypes(promoted: np.dtype[Any]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the types of gradients, and of losses."""
    if promoted.kind in "biu":
        return np.dtype(np.float64), np.dtype(np.float64)
    dtype = promoted if promoted.isnative else promoted.newbyteorder("=")
    is_single = type_name(dtype) in COMPUTED_IN_FLOAT32
    return dtype, np.dtype(np.float32 if is_single else np.float64)


def check_has_positive(scores: Array, has_labels: bool) -> None:
    """Refuse rows that have no place for a positive."""
    if scores.ndim == 0 or (scores.shape[-1] == 0 and not has_labels):
        raise ValueError(
            "scores must have a positive and its negatives along the last axis, got "
            f"shape {scores.shape}"
        )


def as_groups(flat: Array, negatives: int) -> tuple[int, int]:
    """Return the shape of a flat vector of groups: a positive, then its negatives."""
    if isinstance(negatives, (bool, np.bool_)):
        raise TypeError(f"negatives must be an integer, got {negatives!r}")
    try:
        count = operator.index(negatives)
    except TypeError:
        raise TypeError(f"negatives must be an integer, got {negatives!r}") from None
    if count < 0:
        raise ValueError(f"negatives must be >= 0, got {count}")
    if count >= MOST_NEGATIVES:
        raise ValueError(f"negatives must be below {MOST_NEGATIVES}, got {count}")
    if flat.ndim != 1:
        raise ValueError(
            f"with negatives={count} scores must be a flat vector, got shape "
            f"{flat.shape}"
        )
    if flat.size % (count + 1) != 0:
        raise ValueError(
            f"with negatives={count} the size of scores must be a multiple of "
            f"{count + 1}, got shape {flat.shape}"
        )
    return flat.size // (count + 1), count + 1


def check_labels(labels: tuple[int, ...], rows: tuple[int, ...]) -> None:
    """Refuse a shape of labels that are not one for each row of scores."""
    if labels != rows:
        raise ValueError(
            f"labels must have one element for each row of scores, shape {rows}, got "
            f"shape {labels}"
        )


def as_labels(labels: ArrayLike, rows: tuple[int, ...]) -> Array:
    """Return labels as an array of integers, one for each row."""
    if isinstance(labels, np.ma.MaskedArray):
        raise TypeError("labels is a masked array, whose mask would be lost")
    array = np.asarray(labels)
    check_labels(array.shape, rows)
    if array.size == 0 and array.dtype == np.float64:  # an empty list
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {array.dtype}")
    return array


def as_ignored(ignore_index: int) -> int:
    """Return the label whose rows do not count."""
    try:
        if not isinstance(ignore_index, (bool, np.bool_)):
            return operator.index(ignore_index)
    except TypeError:
        pass
    raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}")


def bad_label(
    labels: Array, row: int, classes: int, starts: Sequence[float] | None = None
) -> IndexError:
    """Return the error for the label of a row, counted in C order.

    These labels may be a chunk of all, which starts there; NaN where nobody knows.
    """
    place = np.unravel_index(row, labels.shape)
    label, chunk = labels[place], ""
    if starts is not None and any(map(math.isnan, starts)):
        chunk = " of its chunk"
    elif starts is not None:
        place = tuple(np.add(place, starts))
    where = f"row {', '.join(map(str, place))}{chunk}" if place else "the row"
    return IndexError(f"label {label} of {where} is not in [0, {classes})")


def check_pairs(positives: Array, others: Array) -> None:
    """Refuse positives that are not one for each row of the others."""
    rows = others.shape[:-1]
    if others.ndim == 0 or positives.shape not in (rows, (*rows, 1)):
        raise ValueError(
            "pos must have one score for each row of neg, got shape "
            f"{positives.shape} for neg of shape {others.shape}"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of these words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def as_options(p: int, variant: str, reduction: str, return_grad: bool) -> int:
    """Check the options that both losses share; return p as an int."""
    is_number = type(p) is int or (
        np.asarray(p).dtype.kind in "iuf" and np.ndim(p) == 0
    )
    if not is_number or p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    check_choice("variant", variant, VARIANTS)
    check_choice("reduction", reduction, REDUCTIONS)
    if reduction == "pairs" and return_grad:
        raise ValueError(
            'return_grad=True needs a loss to differentiate: reduction="pairs" has none'
        )
    return int(p)


def as_one_axis(axis: Any, ndim: int) -> int:
    """Return the axis of the classes."""
    if ndim == 0:
        raise ValueError("scores must have an axis of classes, got a scalar")
    axes = as_axes(axis, ndim)
    if len(axes) != 1:
        raise TypeError(f"axis must be one integer, got {axis!r}")
    return axes[0]


def as_smoothing(label_smoothing: Any) -> float:
    """Return the part of each target that is spread over all entries."""
    value = label_smoothing
    if type(value) is not float:
        value = float(as_real(value, "label_smoothing", np.float64))
    if not 0 <= value <= 1:
        raise ValueError(
            f"label_smoothing must be between 0 and 1, got {label_smoothing!r}"
        )
    return value


def as_margin(margin: float, compute: np.dtype[Any]) -> float:
    """Return the margin, rounded to the type computed in."""
    value = float(as_real(margin, "margin", compute.type))
    if not 0 <= value < math.inf:
        raise ValueError(f"margin must be finite and >= 0 in {compute}, got {margin!r}")
    return abs(value)  # not -0


def check_weights(weights: tuple[int, ...], rows: tuple[int, ...]) -> None:
    """Refuse a shape of weights that are neither one for each row nor one for all."""
    if weights not in ((), rows):
        raise ValueError(
            f"sample_weight must have a weight for each row, shape {rows}, got shape "
            f"{weights}"
        )


def as_weights(sample_weight: ArrayLike, rows: tuple[int, ...]) -> Array:
    """Return weights, one for each row or one for all, in float64."""
    weights = as_array(sample_weight, "sample_weight", has_where=False)
    if weights.dtype.kind == "c":
        raise TypeError(f"sample_weight must be real, got dtype {weights.dtype}")
    check_weights(weights.shape, rows)
    if weights.dtype != np.float64 or not weights.flags.aligned:
        weights = cast(weights, np.dtype(np.float64))
        weights = weights if weights.flags.aligned else weights.copy()
    return weights
