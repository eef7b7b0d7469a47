"""Decodes what a caller of the hinge losses passed, and plans the loops.

Every layout becomes one form: rows of one positive score and n others. Where labels say
which score is the positive, it is among the others.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _plan
from ._plan import Array, Dimension

VARIANTS = ("sum", "max")
REDUCTIONS = ("sum", "mean", "none", "pairs")

# What the kernels write beside losses: fs_written in kernels/hinge.h.
NOTHING, GRADIENT, PAIRS = 0, 1, 2

# Beyond that NumPy refuses the shape of even an empty array.
MOST_NEGATIVES = 1 << 48

COMPUTED_IN_FLOAT32 = ("float32", *_plan.HALVES)


class Scores(NamedTuple):
    """The scores of a call, decoded: R rows of n, in any number of dimensions.

    Parameters
    ----------
    others : [R, n]
        Views of the caller's array, as all here.
    positives : [R] or None
        None where `labels` say which of the others is the positive.
    labels : int64 [R] or None
    where : bool [R, n] or None
        Which of the others count.
    dtype : dtype
        That of gradients and pairs.
    compute : dtype
        That computed in, and that of losses.
    """

    others: Array
    positives: Array | None
    labels: Array | None
    where: Array | None
    dtype: np.dtype[Any]
    compute: np.dtype[Any]

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of what has one element a row."""
        shape: tuple[int, ...] = self.others.shape
        return shape[:-1]


class Loss(NamedTuple):
    """Which loss: the options of a call, decoded."""

    margin: float
    p: int
    largest: bool
    reduction: str
    weights: Array | None
    return_grad: bool


class Plan(NamedTuple):
    """What the kernels need to know of one call; the fields of fs_hinge."""

    arrays: tuple[Array | None, ...]  # in the order of FS_SCORES ... FS_OUT_POSITIVES
    compute: str
    p: int
    largest: bool
    margin: float
    scale: float
    written: int
    x_type: str
    x_swapped: bool
    direct: bool
    y_type: str
    pos_type: str
    pos_swapped: bool
    outer: list[Dimension]  # shared by plans: not to be changed
    n: Dimension
    inner: Dimension


# ---- scores ----


def as_scores(scores: ArrayLike, name: str) -> Array:
    """Return scores as an array of real numbers that the kernels know."""
    array = _plan.as_array(scores, name)
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
    is_single = _plan.type_name(dtype) in COMPUTED_IN_FLOAT32
    return dtype, np.dtype(np.float32 if is_single else np.float64)


def from_hinge(
    scores: ArrayLike,
    labels: ArrayLike | None,
    negatives: int | None,
    where: ArrayLike | None,
) -> tuple[Array, Scores]:
    """Decode the three layouts of `hinge_loss`; return the scores as rows, too."""
    array = as_scores(scores, "scores")
    mask = _plan.as_mask(where, array.shape, "scores")
    if negatives is not None:
        if labels is not None:
            raise TypeError("give labels or negatives, not both")
        shape = as_groups(array, negatives)
        array = array.reshape(shape)
        mask = None if mask is None else mask.reshape(shape)
    check_has_positive(array, labels is not None)
    dtypes = result_dtypes(array.dtype)
    if labels is not None:
        return array, Scores(array, None, as_labels(labels, array), mask, *dtypes)
    others = None if mask is None else mask[..., 1:]
    return array, Scores(array[..., 1:], array[..., 0], None, others, *dtypes)


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


def check_labels(labels: Array, scores: Array) -> None:
    """Refuse labels that are not one for each row."""
    if labels.shape != scores.shape[:-1]:
        raise ValueError(
            "labels must have one element for each row of scores, got shape "
            f"{labels.shape} for scores of shape {scores.shape}"
        )


def as_labels(labels: ArrayLike, scores: Array) -> Array:
    """Return labels as int64, each an index into its row of scores.

    What is checked is a copy: another thread could change the caller's afterwards.
    """
    if isinstance(labels, np.ma.MaskedArray):
        raise TypeError("labels is a masked array, whose mask would be lost")
    array = np.asarray(labels)
    check_labels(array, scores)
    is_empty_list = array.size == 0 and array.dtype == np.float64
    if array.dtype.kind not in "iu" and not is_empty_list:
        raise TypeError(f"labels must be integers, got dtype {array.dtype}")
    array = array.copy()
    classes = scores.shape[-1]
    bad = (array < 0) | (array >= classes)
    if bad.any():
        row = np.unravel_index(int(bad.argmax()), array.shape)
        place = f"row {', '.join(map(str, row))}" if row else "the row"
        raise IndexError(f"label {array[row]} of {place} is not in [0, {classes})")
    return array.astype(np.int64, copy=False)


def from_pairs(
    pos: ArrayLike, neg: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Scores]:
    """Decode the layout of `pair_hinge_loss`; return pos as an array, too."""
    positives, others = as_scores(pos, "pos"), as_scores(neg, "neg")
    check_pairs(positives, others)
    if positives.dtype == others.dtype:
        dtypes = result_dtypes(others.dtype)
    else:
        dtypes = result_dtypes(_plan.promote((pos, positives), (neg, others)))
    mask = _plan.as_mask(where, others.shape, "neg")
    flat = positives.reshape(others.shape[:-1])
    return positives, Scores(others, flat, None, mask, *dtypes)


def check_pairs(positives: Array, others: Array) -> None:
    """Refuse positives that are not one for each row of the others."""
    rows = others.shape[:-1]
    if others.ndim == 0 or positives.shape not in (rows, (*rows, 1)):
        raise ValueError(
            "pos must have one score for each row of neg, got shape "
            f"{positives.shape} for neg of shape {others.shape}"
        )


# ---- options ----


def as_loss(
    scores: Scores,
    margin: float,
    p: int,
    variant: str,
    reduction: str,
    sample_weight: ArrayLike | None,
    return_grad: bool,
) -> Loss:
    """Decode the options and the weights that both functions share."""
    loss = as_options(scores.compute, margin, p, variant, reduction, return_grad)
    return loss._replace(weights=as_weights(sample_weight, scores))


def as_options(
    compute: np.dtype[Any],
    margin: float,
    p: int,
    variant: str,
    reduction: str,
    return_grad: bool,
) -> Loss:
    """Decode the options; weights are still to come."""
    is_number = type(p) is int or np.asarray(p).dtype.kind in "iuf"
    if not is_number or np.ndim(p) != 0 or p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    for name, value, choices in (
        ("variant", variant, VARIANTS),
        ("reduction", reduction, REDUCTIONS),
    ):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    if reduction == "pairs" and return_grad:
        raise ValueError(
            'return_grad=True needs a loss to differentiate: reduction="pairs" has none'
        )
    return Loss(
        margin=as_margin(margin, compute),
        p=int(p),
        largest=variant == "max",
        reduction=reduction,
        weights=None,
        return_grad=bool(return_grad),
    )


def as_margin(margin: float, compute: np.dtype[Any]) -> float:
    """Return the margin, rounded to the type computed in."""
    if type(margin) is float and margin == 1.0:
        return margin
    value = float(_plan.as_real(margin, "margin", compute.type))
    if not 0 <= value < math.inf:
        raise ValueError(f"margin must be finite and >= 0 in {compute}, got {margin!r}")
    return abs(value)  # not -0


def check_weights(weights: Array, rows: tuple[int, ...]) -> None:
    """Refuse weights that are neither one for each row nor one for all."""
    if weights.shape not in ((), rows):
        raise ValueError(
            f"sample_weight must have a weight for each row, shape {rows}, got shape "
            f"{weights.shape}"
        )


def as_weights(sample_weight: ArrayLike | None, scores: Scores) -> Array | None:
    """Return the weights of the rows in float64."""
    if sample_weight is None:
        return None
    weights = _plan.as_array(sample_weight, "sample_weight", has_where=False)
    if weights.dtype.kind == "c":
        raise TypeError(f"sample_weight must be real, got dtype {weights.dtype}")
    check_weights(weights, scores.rows)
    if weights.dtype != np.float64 or not weights.flags.aligned:
        with np.errstate(all="ignore"):
            weights = weights.astype(np.float64)
    return np.broadcast_to(weights, scores.rows)


# ---- planning ----


def make(
    scores: Scores,
    loss: Loss,
    losses: Array | None,
    out: Array | None,
    out_positives: Array | None,
) -> Plan:
    """Plan the loops over rows of at least one score.

    `losses` [R], `out` [R, n] and `out_positives` [R] are written; each may be missing.
    """
    others, compute = scores.others, _plan.type_name(scores.compute)
    positives = others if scores.positives is None else scores.positives
    arrays = (
        others,
        scores.where,
        out,
        scores.positives,
        scores.labels,
        loss.weights,
        losses,
        out_positives,
    )
    is_inner, outer, n, inner = _loops(
        others.shape, arrays, leader=0 if out is None else 2
    )
    innermost = inner if is_inner else n
    return Plan(
        arrays=arrays,
        compute=compute,
        p=loss.p,
        largest=loss.largest,
        margin=loss.margin,
        scale=_scale(scores, loss),
        written=NOTHING if out is None else GRADIENT if loss.return_grad else PAIRS,
        x_type=_plan.type_name(others.dtype),
        x_swapped=not others.dtype.isnative,
        direct=_plan.usable_as_it_is(others, compute, (innermost[0], innermost[1])),
        y_type=_plan.type_name(scores.dtype),
        pos_type=_plan.type_name(positives.dtype),
        pos_swapped=not positives.dtype.isnative,
        outer=outer,
        n=n,
        inner=inner,
    )


def _scale(scores: Scores, loss: Loss) -> float:
    rows = math.prod(scores.rows)
    return 1 / rows if loss.reduction == "mean" and rows else 1.0


def _loops(
    shape: tuple[int, ...], arrays: tuple[Array | None, ...], leader: int
) -> tuple[bool, list[Dimension], Dimension, Dimension]:
    """Factor the rows; say whether neighbours in memory belong to different rows."""
    no_strides = (0,) * len(shape)
    strides = tuple(
        no_strides
        if array is None
        else array.strides + (0,) * (len(shape) - array.ndim)
        for array in arrays
    )
    factors = _plan.factor(shape, (len(shape) - 1,), strides, leader)
    assert factors is not None, "one axis joins with itself"
    outer, n, inner = factors
    if inner[0] > 1:
        return True, outer, n, inner
    if outer:
        outer, inner = outer[:-1], outer[-1]
    return False, outer, n, inner
