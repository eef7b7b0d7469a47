"""Hinge losses of NaN, infinities, masked and empty rows: documented, and silent."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hinge_reference import (
    DTYPES,
    FORMS,
    Batch,
    assert_gradient,
    assert_loss,
    by_loop,
    draw,
    graded,
)
from references import LAYOUTS, Array, silently

from fastsoftmax import hinge_loss, pair_hinge_loss

INF, NAN = np.inf, np.nan
SPECIAL = [NAN, INF, -INF]
LENGTHS = [1, 2, 3, 16, 17, 24, 25, 40, 129, 2049]
LOSSES = [(1, "sum"), (2, "sum"), (1, "max"), (2, "max")]

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)
of_every_loss = pytest.mark.parametrize(("p", "variant"), LOSSES)
of_every_length = pytest.mark.parametrize("n", LENGTHS)
of_every_form = pytest.mark.parametrize("form", FORMS)


def ordinary(n: int) -> Array:
    """Numbers around the margin that every dtype holds exactly, their squares too."""
    return np.arange(n) * 5 % 8 / 2 - 2.0


def negatives_of(n: int) -> list[Array]:
    """No special entry, all special, and one or two: first, amid and last."""
    rows = [ordinary(n), *(np.full(n, value) for value in SPECIAL)]
    for place, value in itertools.product({0, n // 2, n - 1}, SPECIAL):
        for rest in (ordinary(n), np.full(n, -INF)):
            rest[place] = value
            rows.append(rest)
    for one, other in itertools.permutations(SPECIAL, 2):
        row = ordinary(n)
        row[[0, -1]] = one, other
        rows.append(row)
    return rows


@functools.cache
def special_scores(n: int) -> Array:
    """Every positive with every row of negatives; an ordinary row amid them."""
    rows = [
        [positive, *row]
        for positive, row in itertools.product([0.5, *SPECIAL], negatives_of(n))
    ]
    return np.array(rows)


def masks(n: int) -> dict[str, Any]:
    some = np.arange(n + 1) % 3 != 1
    return {
        "all": True,
        "some": some,
        "others": ~some,
        "nothing": np.zeros(n + 1, bool),
    }


@functools.cache
def expected_of(n: int, p: int, variant: str, mask: str) -> Batch:
    scores = special_scores(n)
    return by_loop(scores, where=masks(n)[mask], p=p, variant=variant)


def assert_special(result: Array, expected: Array) -> None:
    """To the bit: float32 holds sums of numbers this simple; halves round them once."""
    assert result.shape == expected.shape
    with np.errstate(all="ignore"):
        wanted = expected.astype(result.dtype).astype(np.float64)
    np.testing.assert_array_equal(result.astype(np.float64), wanted)


def dtypes_of(n: int) -> list[Any]:
    return DTYPES if n < 200 else [np.float32]


# ---- the table ----


@of_every_length
@of_every_loss
@pytest.mark.parametrize("form", ["column 0", "labels", "pairs"])
def test_table(form, p, variant, n):
    for mask, dtype in itertools.product(masks(n), dtypes_of(n)):
        expected = expected_of(n, p, variant, mask)
        for order in "CF":
            losses, grad = silently(
                FORMS[form],
                special_scores(n).astype(dtype, order=order),
                {
                    "p": p,
                    "variant": variant,
                    "where": masks(n)[mask],
                    "reduction": "none",
                    "return_grad": True,
                },
            )
            assert_special(losses, expected.losses)
            assert_special(grad, as_documented(grad, expected, variant))


def as_documented(grad: Array, expected: Batch, variant: str) -> Array:
    """The gradient; where several terms are infinite any of them may be the largest."""
    wanted = expected.grad.copy()
    if variant == "max":
        tied = (np.isposinf(expected.terms).sum(axis=-1) > 1) & ~np.isnan(
            expected.losses
        )
        picked = grad[tied][:, 1:] != 0
        np.testing.assert_array_equal(picked.sum(axis=-1), 1)
        assert (expected.terms[tied][picked] == INF).all()
        wanted[tied] = grad[tied]
        np.testing.assert_array_equal(
            np.sort(grad[tied].astype(float)), np.sort(expected.grad[tied])
        )
    return wanted


@of_every_length
@pytest.mark.parametrize("p", [1, 2])
def test_pairs_of_the_table(p, n):
    for mask, dtype, form in itertools.product(masks(n), dtypes_of(n), FORMS):
        scores = special_scores(n).astype(dtype)
        terms = expected_of(n, p, "sum", mask).terms
        options = {"p": p, "where": masks(n)[mask], "reduction": "pairs"}
        assert_special(silently(FORMS[form], scores, options), terms)


@of_every_loss
@pytest.mark.parametrize("n", [1, 2, 3, 24, 25, 40, 129])
def test_table_with_the_label_anywhere(p, variant, n):
    """What was the positive is moved to the label's place."""
    scores = special_scores(n)
    labels = np.arange(len(scores)) % (n + 1)
    rows = np.arange(len(scores))
    scores = scores.copy()
    scores[rows, labels], scores[rows, 0] = scores[rows, 0], scores[rows, labels]
    where = np.arange(n + 1) % 3 != 1
    for mask in (True, where):
        options = {"p": p, "variant": variant, "where": mask}
        expected = by_loop(scores, labels, **options)
        for dtype, order in itertools.product((np.float32, np.float64), "CF"):
            x = scores.astype(dtype, order=order)
            losses = silently(hinge_loss, x, labels, **options, reduction="none")
            assert_special(losses, expected.losses)
            if variant == "sum":
                _, grad = silently(hinge_loss, x, labels, **options, return_grad=True)
                assert_special(grad, expected.grad)


# ---- NaN ----


@of_every_dtype
@of_every_loss
@pytest.mark.parametrize("n", [1, 3, 24, 25, 40, 129, 2049])
def test_nan_stays_in_its_row(n, p, variant, dtype):
    plain = draw((7, n + 1)).astype(dtype)
    options = {"p": p, "variant": variant, "reduction": "none", "return_grad": True}
    for order, place in itertools.product("CF", {0, 1, n // 2 + 1, n}):
        x = plain.copy(order=order)
        x[3, place] = NAN
        losses, grad = silently(hinge_loss, x, **options)
        untouched, plain_grad = hinge_loss(plain.copy(order=order), **options)
        assert np.isnan(losses[3])
        others = np.arange(7) != 3
        np.testing.assert_array_equal(losses[others], untouched[others])
        np.testing.assert_array_equal(grad[others], plain_grad[others])
        total = silently(hinge_loss, x, p=p, variant=variant)
        assert np.isnan(total)
        assert np.isnan(silently(hinge_loss, x, variant=variant, reduction="mean"))


@of_every_form
@pytest.mark.parametrize("n", [3, 24, 25, 129])
def test_gradient_of_a_row_with_nan(n, form):
    scores = np.zeros((2, n + 1))
    scores[1, [2, 3]] = NAN
    for variant, nans in (("sum", [0, 2, 3]), ("max", [0, 2])):
        options = {"variant": variant, "return_grad": True}
        _, grad = silently(FORMS[form], scores, options)
        assert np.flatnonzero(np.isnan(grad[1])).tolist() == nans
        assert not np.isnan(grad[0]).any()
        np.testing.assert_array_equal(
            grad[1][~np.isnan(grad[1])], 1 if variant == "sum" else 0
        )


def test_a_masked_nan_does_not_matter():
    for n, dtype, order in itertools.product((3, 24, 25, 129), DTYPES, "CF"):
        scores = np.zeros((3, n + 1), dtype, order=order)
        scores[:, 2] = NAN
        where = np.arange(n + 1) != 2
        for variant in ("sum", "max"):
            losses, grad = silently(
                hinge_loss,
                scores,
                where=where,
                variant=variant,
                reduction="none",
                return_grad=True,
            )
            np.testing.assert_array_equal(losses, n - 1 if variant == "sum" else 1)
            np.testing.assert_array_equal(grad[:, 2].astype(float), 0)
            assert not np.isnan(grad.astype(float)).any()


@of_every_length
def test_masked_and_missing_entries_beside_an_infinite_positive(n):
    """margin - s+ is infinite; nothing may multiply it by 0, nor add -inf to it."""
    for positive, dtype, order in itertools.product((-INF, INF, NAN), DTYPES, "CF"):
        scores = np.full((3, n + 1), -INF, dtype, order=order)
        scores[:, 0] = positive
        scores[:, 1] = 1
        where = np.arange(n + 1) == 1
        one = {INF: 0, -INF: INF}.get(positive, NAN)
        for variant, kept in itertools.product(("sum", "max"), (where, where & False)):
            options = {"where": kept, "variant": variant}
            expected = one if kept.any() else 0
            losses = silently(hinge_loss, scores, **options, reduction="none")
            np.testing.assert_array_equal(losses, expected)
            _, grad = silently(hinge_loss, scores, **options, return_grad=True)
            np.testing.assert_array_equal(grad[:, 2:].astype(float), 0)
            if not kept.any():
                np.testing.assert_array_equal(grad.astype(float), 0)


# ---- rows without negatives, no rows ----


@of_every_loss
@of_every_dtype
def test_no_negative_costs_nothing(dtype, p, variant):
    positives = np.array([1, NAN, INF, -INF]).astype(dtype)[:, np.newaxis]
    labels = np.zeros(4, int)
    options = {"p": p, "variant": variant}
    nothing = positives[:, 1:]
    for call, args in (
        (hinge_loss, (positives,)),
        (hinge_loss, (positives, labels)),
        (functools.partial(hinge_loss, negatives=0), (positives[:, 0],)),
        (pair_hinge_loss, (positives, nothing)),
        (pair_hinge_loss, (positives[:, 0], nothing)),
    ):
        for reduction in ("sum", "mean", "none"):
            loss, grad = silently(
                call, *args, **options, reduction=reduction, return_grad=True
            )
            assert np.shape(loss) == ((4,) if reduction == "none" else ())
            np.testing.assert_array_equal(loss, 0)
            d_pos = grad[0] if isinstance(grad, tuple) else grad
            assert d_pos.shape == args[0].shape
            assert d_pos.dtype == dtype
            np.testing.assert_array_equal(d_pos.astype(float), 0)
        pairs = silently(call, *args, **options, reduction="pairs")
        assert pairs.shape == ((4, 1) if args[-1] is labels else (4, 0))
        np.testing.assert_array_equal(pairs.astype(float), 0)


@of_every_form
@of_every_loss
@pytest.mark.parametrize("n", [3, 24, 25, 129])
def test_everything_masked_costs_nothing(n, p, variant, form):
    scores = draw((5, n + 1), np.float32)
    scores[1:4, ::2] = np.array([[NAN], [INF], [-INF]])
    for order, where in itertools.product("CF", (np.False_, np.zeros((5, 1), bool))):
        options = {"p": p, "variant": variant, "where": where}
        x = scores.copy(order=order)
        for reduction in ("sum", "mean", "none"):
            loss, grad = silently(
                FORMS[form], x, {**options, "reduction": reduction, "return_grad": True}
            )
            np.testing.assert_array_equal(loss, NAN if reduction == "mean" else 0)
            np.testing.assert_array_equal(grad, 0)
        pairs = silently(FORMS[form], x, {**options, "reduction": "pairs"})
        np.testing.assert_array_equal(pairs, 0)


EMPTY: dict[str, tuple[Any, tuple[Array, ...], dict[str, Any]]] = {
    "[0, 4]": (hinge_loss, (np.empty((0, 4), np.float32),), {}),
    "[0, 1]": (hinge_loss, (np.empty((0, 1), np.float32),), {}),
    "[2, 0, 4]": (hinge_loss, (np.empty((2, 0, 4), np.float32),), {}),
    "flat": (hinge_loss, (np.empty(0, np.float32),), {"negatives": 3}),
    "flat, none": (hinge_loss, (np.empty(0, np.float32),), {"negatives": 0}),
    "labels": (hinge_loss, (np.empty((0, 4), np.float32), np.empty(0, int)), {}),
    "list of labels": (hinge_loss, (np.empty((0, 4), np.float32), []), {}),
    "no class": (hinge_loss, (np.empty((0, 0), np.float32), np.empty(0, int)), {}),
    "pairs": (
        pair_hinge_loss,
        (np.empty(0, np.float32), np.empty((0, 4), np.float32)),
        {},
    ),
    "pairs [0, 1]": (
        pair_hinge_loss,
        (np.empty((0, 1), np.float32), np.empty((0, 0), np.float32)),
        {},
    ),
}


@pytest.mark.parametrize("case", EMPTY)
@of_every_loss
def test_no_rows(p, variant, case):
    call, args, options = EMPTY[case]
    options = {**options, "p": p, "variant": variant}
    for more in ({}, {"sample_weight": 2.0}, {"where": True}):
        for reduction, expected in (("sum", 0), ("mean", NAN)):
            every = {**options, **more, "reduction": reduction}
            loss = silently(call, *args, **every)
            assert type(loss) is np.float32
            np.testing.assert_array_equal(loss, expected)
            assert_no_gradient(silently(call, *args, **every, return_grad=True), args)
        losses = silently(call, *args, **options, **more, reduction="none")
        assert losses.dtype == np.float32
        assert losses.size == 0
        lead = args[-1].shape[:-1] if call is pair_hinge_loss else None
        assert losses.shape == (lead or leading(args[0]))
        assert silently(call, *args, **options, **more, reduction="pairs").size == 0


def leading(scores: Array) -> tuple[int, ...]:
    return scores.shape[:-1] if scores.ndim > 1 else (0,)


def assert_no_gradient(result: Any, args: tuple[Array, ...]) -> None:
    grads = result[1] if isinstance(result[1], tuple) else (result[1],)
    for grad, scores in zip(grads, args, strict=False):
        assert grad.shape == scores.shape
        assert grad.dtype == np.float32


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
@pytest.mark.parametrize("n", [1, 3, 24, 25, 129, 2049])
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
    for order, value, whole in itertools.product("CF", SPECIAL, (False, True)):
        x = draw((5, n + 1)).astype(dtype, order=order)
        x[UNWANTED, slice(None) if whole else -1] = value
        for reduction in ("sum", "mean", "none"):
            every = {"reduction": reduction, "return_grad": True}
            loss, grad = silently(hinge_loss, x, labels, **options, **every)
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
    batch = by_loop(scores, **options)
    assert batch.count == 3
    for order, reduction in itertools.product("CF", ("sum", "mean", "none")):
        every = {**options, "reduction": reduction, "return_grad": True}
        loss, grad = silently(FORMS[form], scores.copy(order=order), every)
        assert_loss(loss, batch, np.float32, reduction, p)
        scale = 3 if reduction == "mean" else 1
        assert_gradient(grad, batch.grad / scale, np.float32, p)


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


# ---- large and small ----


@of_every_form
@pytest.mark.parametrize("n", [3, 40])
def test_a_sum_that_overflows_is_infinite(n, form):
    for dtype, large in ((np.float32, 3e38), (np.float64, 1.7e308)):
        scores = np.full((2, n + 1), large, dtype)
        scores[:, 0] = -large / 4
        for order, p in itertools.product("CF", (1, 2)):
            x = scores.copy(order=order)
            for reduction, grad in itertools.product(
                ("sum", "mean", "none"), (False, True)
            ):
                options = {"p": p, "reduction": reduction, "return_grad": grad}
                result = silently(FORMS[form], x, options)
                np.testing.assert_array_equal(result[0] if grad else result, INF)


@of_every_form
@pytest.mark.parametrize("options", [{}, {"where": True}, {"sample_weight": 1.0}])
def test_a_sum_that_underflows_is_silent(options, form):
    """A square of 1e-60 is nothing in float32; the float64 total knows it."""
    for scale, reduction in itertools.product((1e-30, 1e-20), ("sum", "mean", "none")):
        for shape in ((2, 4), (2, 40)):
            scores = np.full(shape, scale, np.float32)
            scores[:, 0] = 0
            every = {"margin": 0.0, "p": 2, "reduction": reduction, **options}
            for order in "CF":
                loss = silently(FORMS[form], scores.copy(order=order), every)
                rows = 2 if reduction == "sum" else 1
                exact = rows * (shape[1] - 1) * float(np.float32(scale)) ** 2
                np.testing.assert_allclose(
                    np.asarray(loss, float), exact, rtol=0, atol=2.0**-149
                )


def test_halves_beyond_their_range():
    """The gradient of a positive is beyond float16 where there are many negatives."""
    scores = np.zeros((2, 70_001), np.float16)
    loss, grad = silently(hinge_loss, scores, return_grad=True)
    assert loss == 140_000
    np.testing.assert_array_equal(grad[:, 0].astype(float), -INF)
    np.testing.assert_array_equal(grad[:, 1:].astype(float), 1)
    pairs = silently(hinge_loss, scores, margin=300.0, p=2, reduction="pairs")
    np.testing.assert_array_equal(pairs.astype(float), INF)


@pytest.mark.parametrize("weight", [0.0, NAN, INF, -1.0, 1e300])
def test_special_weights(weight):
    """A row's loss is the product, whatever it is."""
    for n, dtype, order in itertools.product((3, 40), (np.float32, np.float64), "CF"):
        scores = np.zeros((4, n + 1), dtype, order=order)
        for variant, loss in (("sum", n), ("max", 1)):
            losses, grad = silently(
                hinge_loss,
                scores,
                sample_weight=[1, weight, 1, 1],
                variant=variant,
                reduction="none",
                return_grad=True,
            )
            with np.errstate(all="ignore"):
                product = dtype(loss * weight)
                slope = dtype(weight)
            np.testing.assert_array_equal(losses, [loss, product, loss, loss])
            np.testing.assert_array_equal(grad[1, 1], slope)
            np.testing.assert_array_equal(grad[[0, 2, 3], 1], 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_values_in_every_layout(layout):
    for n, dtype in itertools.product((3, 17, 40), (np.float32, np.float64)):
        scores = LAYOUTS[layout](special_scores(n).astype(dtype))
        for p, variant in LOSSES:
            losses = silently(
                hinge_loss, scores, p=p, variant=variant, reduction="none"
            )
            assert_special(losses, expected_of(n, p, variant, "all").losses)
            _, grad = silently(
                hinge_loss, scores, p=p, variant=variant, return_grad=True
            )
            assert grad.dtype == graded(dtype)
            expected = expected_of(n, p, variant, "all")
            assert_special(grad, as_documented(grad, expected, variant))


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


@pytest.mark.parametrize("weight", [NAN, INF, 1e39, 1e300])
@pytest.mark.parametrize("n", [3, 40])
def test_a_loss_of_0_stays_0_whatever_its_weight(n, weight):
    scores = np.full((2, n + 1), -9, np.float32)
    scores[:, 0] = 0
    for p, variant in ((1, "sum"), (2, "sum"), (2, "max")):
        options = {"p": p, "variant": variant, "sample_weight": [weight, 1]}
        for reduction in ("sum", "none"):
            loss, grad = hinge_loss(
                scores, **options, reduction=reduction, return_grad=True
            )
            assert (loss == 0).all()
            assert (grad == 0).all()
        assert (hinge_loss(scores, **options, reduction="pairs") == 0).all()


@pytest.mark.parametrize("n", [3, 40])
def test_a_weight_beyond_float32_leaves_zeros_alone(n):
    scores = np.full((1, n + 1), -9, np.float32)
    scores[:, :2] = 0
    for p in (1, 2):
        loss, grad = hinge_loss(scores, p=p, sample_weight=1e39, return_grad=True)
        assert loss == np.inf
        np.testing.assert_array_equal(grad[0, :3], [-INF, INF, 0])
        pairs = hinge_loss(scores, p=p, sample_weight=1e39, reduction="pairs")
        np.testing.assert_array_equal(pairs[0, :2], [INF, 0])


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
