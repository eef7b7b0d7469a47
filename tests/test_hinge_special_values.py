"""Hinge losses of rows that do not count, and of special pairs and weights."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from oracle import FORMS, LAYOUTS, hinge_as
from oracle.arithmetic import DTYPES, silently
from oracle.hinges import LOSSES, assert_both, batch
from oracle.inputs import draw_scores as draw

from fastsoftmax import hinge_loss, pair_hinge_loss

INF, NAN = np.inf, np.nan
SPECIAL = [NAN, INF, -INF]

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)
of_every_loss = pytest.mark.parametrize(("p", "variant"), LOSSES)
of_every_form = pytest.mark.parametrize("form", FORMS)


# ---- rows that do not count ----

UNWANTED = [0, 2, 3]
LEFT_OUT = {
    "weight": {"sample_weight": np.float64([0, 1, 0, 0, 2])},
    "mask": {"where": ~np.isin(np.arange(5), UNWANTED)[:, np.newaxis]},
    "label": {"ignore_index": -100},
    "label within": {"ignore_index": 2},
}


@of_every_dtype
@of_every_loss
@pytest.mark.parametrize("n", [1, 3, 24, 25, 2049])
@pytest.mark.parametrize("why", LEFT_OUT)
def test_rows_that_do_not_count(why, n, p, variant, dtype):
    """They add 0 whatever they hold, and what is left is as if it were alone."""
    labels = np.array([n, 0, n - 1, 1, n // 2])
    options = {"p": p, "variant": variant, **LEFT_OUT[why]}
    rest = np.delete(np.arange(5), UNWANTED)
    alone = {"p": p, "variant": variant}
    if why == "weight":
        alone["sample_weight"] = [1, 2]
    if "label" in why:
        labels[UNWANTED] = options["ignore_index"]
        labels[rest] = 0, 1
    values = SPECIAL if n in (3, 25) else SPECIAL[:2]
    for order, value, whole in itertools.product("CF", values, (False, True)):
        x = draw((5, n + 1)).astype(dtype, order=order)
        x[UNWANTED, slice(None) if whole else -1] = value
        for reduction in ("sum", "mean", "none"):
            every = {"reduction": reduction, "return_grad": True}
            loss, grad = silently(hinge_loss, x, labels, **options, **every)
            every_loss = hinge_loss(x, labels, **options, reduction=reduction)
            np.testing.assert_array_equal(every_loss, loss)
            left = x[rest].copy(order=order)
            wanted, slopes = hinge_loss(left, labels[rest], **alone, **every)
            if reduction == "none":
                np.testing.assert_array_equal(loss[UNWANTED], 0)
                loss = loss[rest]
            np.testing.assert_array_equal(loss, wanted)
            np.testing.assert_array_equal(grad[rest], slopes)
            np.testing.assert_array_equal(grad[UNWANTED].astype(float), 0)
            assert n == 1 or loss.any()
        pairs = silently(hinge_loss, x, labels, **options, reduction="pairs")
        np.testing.assert_array_equal(pairs[UNWANTED].astype(float), 0)
        wanted = hinge_loss(x[rest], labels[rest], **alone, reduction="pairs")
        np.testing.assert_array_equal(pairs[rest], wanted)


@of_every_loss
@of_every_form
@pytest.mark.parametrize("n", [3, 24, 25])
def test_weight_0_and_masks_in_every_form(n, form, p, variant):
    scores = draw((6, n + 1), np.float32)
    scores[1, -1] = scores[4, 0] = NAN
    scores[2] = INF
    where = np.ones((6, n + 1), bool)
    where[4, 1:] = False
    weights = np.array([1, 0, 0, 1, 3, 1])
    options = {"p": p, "variant": variant, "where": where, "sample_weight": weights}
    right = batch(scores, **options)
    assert right.counting == 3
    for order, reduction in itertools.product("CF", ("sum", "mean", "none")):
        x, every = scores.copy(order=order), {**options, "reduction": reduction}
        result = silently(hinge_as, form, x, **every)
        assert_both(result, right, np.float32, reduction)


def test_the_first_row_that_counts_for_nothing():
    scores = [[NAN, 1.0], [1, 0.5]]
    for dtype in DTYPES:
        x = np.array(scores, dtype)
        assert silently(hinge_loss, x, sample_weight=[0, 1]) == 0.5
        assert silently(hinge_loss, x, [-1, 0], ignore_index=-1) == 0.5


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64, ">i4"])
def test_ignored_labels_of_every_type(dtype):
    """One that the labels' type cannot hold ignores none, whatever its bits are."""
    scores = draw((4, 5), np.float32)
    labels = np.array([1, 4, 2, 4], dtype)
    limits = np.iinfo(dtype)
    expected = hinge_loss(scores[[0, 2]], [1, 2])
    for ignored in {limits.min, limits.max, 4}:
        labels[[1, 3]] = ignored
        given = {"ignore_index": np.int64(ignored) if ignored == 4 else ignored}
        for layout in LAYOUTS.values():
            assert hinge_loss(scores, layout(labels), **given) == expected
        beyond = int(ignored) + (1 << (8 * labels.itemsize))
        if not 0 <= ignored < 5:
            with pytest.raises(IndexError, match=f"label {ignored} of row 1"):
                hinge_loss(scores, labels, ignore_index=beyond)


def test_all_ignored():
    for n in (3, 40):
        scores = np.full((2, n), NAN, np.float32)
        for reduction, expected in (("sum", 0), ("mean", NAN), ("none", [0, 0])):
            loss, grad = silently(
                hinge_loss,
                scores,
                [-1, -1],
                ignore_index=-1,
                reduction=reduction,
                return_grad=True,
            )
            np.testing.assert_array_equal(loss, expected)
            np.testing.assert_array_equal(grad, 0)
    nothing = np.empty((2, 0))
    assert silently(hinge_loss, nothing, [-1, -1], ignore_index=-1) == 0


def test_long_rows_that_do_not_count():
    """Rows that are shared between threads, in pieces."""
    scores = draw((2, 400_000), np.float32)
    scores[1, 300_000] = NAN
    for variant in ("sum", "max"):
        loss, grad = hinge_loss(scores[:1], variant=variant, return_grad=True)
        options = {"variant": variant, "return_grad": True}
        for more in (
            {"sample_weight": [1, 0]},
            {"labels": [0, 7], "ignore_index": 7},
        ):
            both, grads = silently(hinge_loss, scores, **options, **more)
            assert both == loss
            np.testing.assert_array_equal(grads[0], grad[0])
            assert not grads[1].any()


# ---- pairs, weights ----


def test_infinities_of_two_arrays():
    """IEEE's margin - s+ + s_j, pair by pair."""
    values = np.array([-INF, -1, 0, 2, INF, NAN])
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        pairs = silently(
            pair_hinge_loss,
            values.astype(dtype),
            np.broadcast_to(values, (6, 6)).astype(dtype),
            reduction="pairs",
        )
        with np.errstate(all="ignore"):
            expected = np.maximum(0, 1 - values[:, np.newaxis] + values)
        np.testing.assert_array_equal(pairs.astype(float), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_in_every_layout(layout):
    scores = draw((7, 5))
    weights = np.random.default_rng(0).random(7)
    expected = hinge_loss(scores, sample_weight=weights, reduction="none")
    given = LAYOUTS[layout](np.stack([weights, weights]))[0]
    result = hinge_loss(scores, sample_weight=given, reduction="none")
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("width", [2, 40])
def test_a_pair_whose_square_underflows_is_0_whatever_the_weight(width):
    scores = np.full((3, width), 1e-200)
    scores[:, 0] = 0
    options = {"margin": 0, "p": 2, "sample_weight": np.full(3, np.inf)}
    assert (hinge_loss(scores, reduction="pairs", **options) == 0).all()
    assert hinge_loss(scores, **options) == 0
