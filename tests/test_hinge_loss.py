"""Hinge losses: equal to a plain loop, in every layout, dtype, option and shape."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import FORMS, LAYOUTS, hinge_as
from oracle.arithmetic import (
    DTYPES,
    INTEGERS,
    Array,
    computed,
    dtypes,
    native,
    silently,
)
from oracle.hinges import (
    LOSSES,
    REDUCTIONS,
    assert_both,
    assert_gradient,
    assert_loss,
    batch,
)
from oracle.inputs import draw_labels
from oracle.inputs import draw_scores as draw

from fastsoftmax import cross_entropy, hinge_loss, pair_hinge_loss

of_every_dtype = dtypes(*DTYPES)
of_every_loss = pytest.mark.parametrize(("p", "variant"), LOSSES)
of_every_form = pytest.mark.parametrize("form", FORMS)
of_every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def assert_equals_loop(scores: Array, labels: Any = None, **options: Any) -> None:
    """Row losses and their gradient; `options` are those of a loss, where, weights."""
    asked = {"reduction": "none", "return_grad": True}
    result = silently(hinge_loss, scores, labels, **options, **asked)
    assert_both(result, batch(scores, labels, **options), scores.dtype)


# ---- the reference case ----


REFERENCE = np.array([[0.5, 0.2, -0.1], [1.0, -0.5, 0.3]])
RESULTS: list[tuple[dict[str, Any], Any]] = [
    ({"reduction": "pairs"}, [[0.7, 0.4], [0, 0.3]]),
    ({}, 1.4),
    ({"reduction": "mean"}, 0.7),
    ({"reduction": "none"}, [1.1, 0.3]),
    ({"reduction": "none", "variant": "max"}, [0.7, 0.3]),
    ({"p": 2}, 0.74),
    ({"p": 2, "reduction": "pairs"}, [[0.49, 0.16], [0, 0.09]]),
]


@of_every_form
@pytest.mark.parametrize(("options", "expected"), RESULTS)
def test_reference_case(options, expected, form):
    asked = {"reduction": "sum", **options, "return_grad": False}
    loss, _ = silently(hinge_as, form, REFERENCE, **asked)
    np.testing.assert_allclose(loss, expected, rtol=1e-15, atol=2e-16)


@of_every_form
def test_gradient_of_the_reference_case(form):
    for options, expected in (
        ({}, [[-2, 1, 1], [-1, 0, 1]]),
        ({"variant": "max"}, [[-1, 1, 0], [-1, 0, 1]]),
        ({"reduction": "mean"}, [[-1, 0.5, 0.5], [-0.5, 0, 0.5]]),
        ({"p": 2}, [[-2.2, 1.4, 0.8], [-0.6, 0, 0.6]]),
    ):
        _, grad = hinge_as(form, REFERENCE, **{"reduction": "sum", **options})
        np.testing.assert_allclose(grad, expected, rtol=1e-15, atol=4e-16)


@pytest.mark.parametrize("call", [hinge_loss, cross_entropy])
@pytest.mark.parametrize("shape", [(924, 3), (5000, 40), (3, 100000)])
def test_the_sum_of_losses_is_rounded_once(call, shape):
    rng = np.random.default_rng(5)
    scores = 3 * rng.standard_normal(shape)
    labels = rng.integers(0, shape[1], shape[0])
    losses = [{"p": p, "variant": v} for p, v in LOSSES if call is hinge_loss]
    for order, options in itertools.product("CF", losses or [{}]):
        given = scores.copy(order=order), labels
        total = math.fsum(call(*given, **options, reduction="none"))
        for reduction, by in (("sum", 1), ("mean", shape[0])):
            asked = {**options, "reduction": reduction}
            assert call(*given, **asked) == total / by
            assert call(*given, **asked, return_grad=True)[0] == total / by


def test_a_label_says_where_the_positive_is():
    scores, labels = [[0.2, 0.5, -0.1], [-0.5, 0.3, 1.0]], [1, 2]
    pairs = hinge_loss(scores, labels, reduction="pairs")
    np.testing.assert_allclose(pairs, [[0.7, 0, 0.4], [0, 0.3, 0]], atol=2e-16)
    _, grad = hinge_loss(scores, labels, return_grad=True)
    np.testing.assert_array_equal(grad, [[1, -2, 1], [0, 1, -1]])


# ---- options ----


@pytest.mark.parametrize("p", [1, 2])
def test_pairs_are_the_same_for_both_variants(p):
    scores = draw((9, 6))
    every_term, of_largest = (
        hinge_loss(scores, p=p, variant=variant, reduction="pairs")
        for variant in ("sum", "max")
    )
    np.testing.assert_array_equal(of_largest, every_term)


def test_where_of_any_layout():
    scores = draw((9, 40), np.float32)
    where = np.random.default_rng(1).random(scores.shape) < 0.6
    for layout in LAYOUTS:
        mask = LAYOUTS[layout](where)
        assert_equals_loop(scores, where=mask)
        assert_equals_loop(scores[:, :5], where=mask[:, :5])
        assert_equals_loop(np.asfortranarray(scores), where=mask)


@of_every_layout
def test_sample_weight_of_any_layout(layout):
    scores = draw((4, 9, 6))
    weights = np.random.default_rng(3).random(scores.shape[:-1])
    for x in (scores, np.asfortranarray(scores)):
        assert_equals_loop(x, sample_weight=LAYOUTS[layout](weights))


@pytest.mark.parametrize("dtype", [int, np.int8, np.uint16, bool, np.float16, ">f4"])
def test_sample_weight_of_any_dtype(dtype):
    weights = np.arange(9).astype(dtype)
    assert_equals_loop(draw((9, 6)), sample_weight=weights)
    assert_equals_loop(draw((9, 6)), sample_weight=weights.tolist())


@pytest.mark.parametrize("dtype", INTEGERS[1:], ids=str)
def test_labels_of_every_integer_type(dtype):
    scores = draw((40, 6))
    labels = draw_labels((40,), 6).astype(dtype)
    for given_labels in (
        labels,
        labels.astype(dtype.newbyteorder()),
        np.repeat(labels, 3)[::3],
        labels.tolist(),
        LAYOUTS["read-only"](labels),
    ):
        assert_equals_loop(scores, given_labels)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 3, 4, 7), (1, 1, 40)])
@of_every_loss
def test_leading_dimensions(p, variant, shape):
    for layout in ("C", "F", "axes rotated"):
        scores = LAYOUTS[layout](draw(shape))
        labels = draw_labels(shape[:-1], shape[-1])
        for places in (None, labels, labels.copy(order="F")):
            assert_equals_loop(scores, places, p=p, variant=variant)
            total = hinge_loss(scores, places, p=p, variant=variant)
            right = batch(scores, places, p=p, variant=variant)
            assert_loss(total, right, np.float64, "sum")


def test_scalars_are_scalars():
    row = draw((5,), np.float32)
    for reduction in ("sum", "mean", "none"):
        assert type(hinge_loss(row, reduction=reduction)) is np.float32
        assert type(hinge_loss(row, 2, reduction=reduction)) is np.float32
        assert type(pair_hinge_loss(row[0], row[1:], reduction=reduction)) is np.float32
        assert type(hinge_loss(row.tolist(), reduction=reduction)) is np.float64


# ---- layouts and dtypes ----


@of_every_layout
@dtypes(*DTYPES, np.int32, np.uint8, np.int64, np.bool_)
def test_layouts(dtype, layout):
    for shape in ((9, 6), (9, 40), (2, 3, 5)):
        scores = LAYOUTS[layout](draw(shape, dtype))
        before = scores.copy()
        labels = draw_labels(shape[:-1], shape[-1])
        for (p, variant), places in itertools.product(LOSSES, (None, labels)):
            assert_equals_loop(scores, places, p=p, variant=variant)
        np.testing.assert_array_equal(scores, before)


@of_every_layout
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_result_is_laid_out_like_the_scores(reduction, layout):
    for shape in ((9, 6), (2, 3, 5), (4, 40)):
        scores = LAYOUTS[layout](draw(shape, np.float32))
        expected = np.positive(scores).strides
        for labels in (None, draw_labels(shape[:-1], shape[-1])):
            if reduction != "pairs":
                _, grad = hinge_loss(
                    scores, labels, reduction=reduction, return_grad=True
                )
                assert grad.strides == expected
                assert grad.flags.writeable
                assert not np.may_share_memory(grad, scores)
        if reduction == "pairs":
            pairs = hinge_loss(scores, np.zeros(shape[:-1], int), reduction="pairs")
            assert pairs.strides == expected


@of_every_layout
def test_layouts_of_flat_scores(layout):
    scores = draw((12, 6), np.float32)
    flat = LAYOUTS[layout](scores.reshape(-1))
    losses, grad = silently(
        hinge_loss, flat, negatives=5, reduction="none", return_grad=True
    )
    assert_both((losses, grad.reshape(12, 6)), batch(scores), np.float32)


@of_every_layout
def test_layouts_of_pairs_of_arrays(layout):
    for shape in ((9, 6), (9, 40), (2, 3, 5)):
        scores = draw(shape, np.float32)
        right = batch(scores)
        for pos, neg in itertools.product(
            (scores[..., 0], LAYOUTS[layout](scores[..., 0])),
            (scores[..., 1:], LAYOUTS[layout](scores[..., 1:])),
        ):
            losses, (d_pos, d_neg) = silently(
                pair_hinge_loss, pos, neg, reduction="none", return_grad=True
            )
            assert_loss(losses, right, np.float32)
            assert_gradient(d_pos, right, np.float32, of=np.s_[..., 0])
            assert_gradient(d_neg, right, np.float32, of=np.s_[..., 1:])
            assert d_pos.strides == np.positive(pos).strides
            assert d_neg.strides == np.positive(neg).strides


@pytest.mark.parametrize("n", [5, 40])
def test_broadcast_scores(n):
    for shape in ((1, n + 1), (7, 1)):
        scores = np.broadcast_to(draw(shape), (7, n + 1))
        assert_equals_loop(scores)
        assert_equals_loop(scores, draw_labels((7,), n + 1))


@pytest.mark.parametrize("ndim", [4, 9, 20, 64])
def test_many_dimensions(ndim):
    shape = (2,) * 4 + (1,) * (ndim - 5) + (3,)
    scores = draw(shape)
    labels = draw_labels(shape[:-1], 3)
    where = np.random.default_rng(1).random(shape) < 0.6
    for order in "CF":
        x = scores.copy(order=order)
        assert_equals_loop(x, where=where)
        assert_equals_loop(x, labels, where=where[:1, :, :1])


def test_overlapping_windows():
    for width in (5, 40):
        scores = np.lib.stride_tricks.sliding_window_view(draw((90,)), width)
        assert_equals_loop(scores)


PROMOTED = [
    (np.float32, np.float64, np.float64),
    (np.float16, np.float32, np.float32),
    (np.float16, np.int8, np.float16),
    (np.int8, np.uint16, np.float64),
    (ml_dtypes.bfloat16, ml_dtypes.bfloat16, ml_dtypes.bfloat16),
    (ml_dtypes.bfloat16, np.float16, np.float32),
    (">f4", np.float32, np.float32),
]


@pytest.mark.parametrize(("one", "other", "wanted"), PROMOTED)
def test_pairs_of_two_dtypes(one, other, wanted):
    for n, (pos_dtype, neg_dtype) in itertools.product(
        (5, 40), ((one, other), (other, one))
    ):
        pos, neg = draw((9,), np.uint8).astype(pos_dtype), draw((9, n), neg_dtype)
        joined = np.concatenate(
            [pos[:, None].astype(float), neg.astype(float)], axis=-1
        )
        for p in (1, 2):
            right = batch(joined.astype(wanted), p=p)
            losses, (d_pos, d_neg) = silently(
                pair_hinge_loss, pos, neg, p=p, reduction="none", return_grad=True
            )
            assert_loss(losses, right, wanted)
            assert_gradient(d_pos, right, wanted, of=np.s_[:, 0])
            assert_gradient(d_neg, right, wanted, of=np.s_[:, 1:])


def test_a_python_number_takes_the_dtype_of_the_negatives():
    loss = pair_hinge_loss(0.5, np.float32([0.25, -2]))
    assert type(loss) is np.float32
    assert loss == 0.75


@pytest.mark.parametrize("dtype", INTEGERS[1:], ids=str)
def test_integers_to_their_ends(dtype):
    """In float64: unsigned ones would wrap, the ends of int64 are rounded once."""
    info = np.iinfo(dtype)
    scores = np.array([[info.max, info.min, 5], [info.min, info.max, 5]], dtype)
    assert_equals_loop(scores)
    assert_equals_loop(scores, [1, 2])


def test_inputs_are_never_changed():
    for dtype, layout in itertools.product((np.float32, np.float64, np.int8), LAYOUTS):
        scores = LAYOUTS[layout](draw((9, 6), dtype))
        labels, weights = draw_labels((9,), 6), np.linspace(0, 1, 9)
        where = scores > 0
        inputs = (scores, labels, weights, where)
        before = [x.copy() for x in inputs]
        for x in inputs:
            x.flags.writeable = False
        for given_labels in (None, labels):
            hinge_loss(
                scores,
                given_labels,
                sample_weight=weights,
                where=where,
                return_grad=True,
            )
        pair_hinge_loss(scores[:, 0], scores[:, 1:], return_grad=True)
        for x, copy in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(x, copy)


# ---- gradients ----


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@of_every_loss
def test_gradient_is_the_slope(p, variant, reduction):
    """Central differences, where no kink and no tie is near."""
    rng = np.random.default_rng(4)
    step = 2.0**-10
    scores = np.arange(24)[rng.permutation(24)].reshape(4, 6) * 0.37 - 4
    labels, weights = draw_labels((4,), 6), np.array([0.5, 1, 2, 3])
    options = {"margin": 1.5, "p": p, "variant": variant, "sample_weight": weights}
    _, grad = hinge_loss(
        scores, labels, **options, reduction=reduction, return_grad=True
    )
    options["reduction"] = "mean" if reduction == "mean" else "sum"
    assert 5 < (grad != 0).sum() < 24
    for place in np.ndindex(scores.shape):
        up, down = scores.copy(), scores.copy()
        up[place] += step
        down[place] -= step
        slope = (
            hinge_loss(up, labels, **options) - hinge_loss(down, labels, **options)
        ) / (2 * step)
        np.testing.assert_allclose(grad[place], slope, rtol=1e-10, atol=1e-10)


@of_every_dtype
@pytest.mark.parametrize("n", [3, 40])
@of_every_loss
def test_gradient_at_the_kink_is_zero(p, variant, n, dtype):
    scores = np.full((5, n + 1), 1.5, dtype)
    scores[:, 0] = 2.5
    for order in "CF":
        x = scores.copy(order=order)
        loss, grad = hinge_loss(x, p=p, variant=variant, return_grad=True)
        assert loss == 0
        np.testing.assert_array_equal(grad.astype(float), 0)


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 40, 129, 2049, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_of_equal_violators_takes_the_gradient_of_max(dtype, n):
    rng = np.random.default_rng(n)
    for first in {1, 2, n // 2 + 1, n}:
        scores = np.zeros((3, n + 1), dtype)
        scores[:, first:] = rng.integers(0, 2, (3, n + 1 - first))
        scores[:, first] = 1
        expected = np.zeros_like(scores)
        expected[:, [0, first]] = [-1, 1]
        for order in "CF":
            x = scores.copy(order=order)
            _, grad = hinge_loss(x, variant="max", return_grad=True)
            np.testing.assert_array_equal(grad, expected)


def test_gradient_of_pairs_does_not_exist():
    for form in FORMS:
        with pytest.raises(ValueError, match=r"return_grad=True.*pairs"):
            hinge_as(form, REFERENCE, reduction="pairs", return_grad=True)


@pytest.mark.parametrize("p", [1, 2])
def test_pairs_with_labels(p):
    scores, labels = draw((9, 6)), draw_labels((9,), 6)
    for where in (True, scores > 0):
        options = {"p": p, "where": where}
        pairs = hinge_loss(scores, labels, **options, reduction="pairs")
        assert_loss(pairs, batch(scores, labels, **options), np.float64, "pairs")
        np.testing.assert_array_equal(pairs[np.arange(9), labels], 0)


# ---- random everything ----

DRAWN = st.sampled_from([*DTYPES, np.int8, np.uint16, np.int64, np.bool_])


@st.composite
def calls(pick) -> tuple[Array, Array | None, dict[str, Any]]:
    """Scores of any shape, dtype and layout, labels or none, and options."""
    lead = tuple(pick(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    shape = (*lead, pick(st.integers(1, 40)))
    layout = pick(st.sampled_from(sorted(LAYOUTS)))
    scores = LAYOUTS[layout](draw(shape, pick(DRAWN)))
    labels = draw_labels(lead, shape[-1]) if pick(st.booleans()) else None
    rng = np.random.default_rng(pick(st.integers(0, 99)))
    mask_shape = [size if pick(st.booleans()) else 1 for size in shape]
    weight_shape = lead if pick(st.booleans()) else ()
    options = {
        "margin": pick(st.sampled_from([0, 0.25, 1.0, 3])),
        "p": pick(st.sampled_from([1, 2])),
        "variant": pick(st.sampled_from(["sum", "max"])),
    }
    if pick(st.booleans()):
        options["where"] = rng.random(mask_shape) < 0.6
    if pick(st.booleans()):
        options["sample_weight"] = rng.integers(0, 3, weight_shape) * 0.3
    return scores, labels, options


@settings(max_examples=200, deadline=None)
@given(call=calls(), reduction=st.sampled_from(REDUCTIONS), ignores=st.booleans())
def test_random_calls(call, reduction, ignores):
    scores, labels, options = call
    if ignores and labels is not None:
        options["ignore_index"] = 1
    right = batch(scores, labels, **options)
    options |= {"reduction": reduction, "return_grad": reduction != "pairs"}
    result = silently(hinge_loss, scores, labels, **options)
    check = assert_both if options["return_grad"] else assert_loss
    check(result, right, scores.dtype, reduction)


@settings(max_examples=100, deadline=None)
@given(
    call=calls(), form=st.sampled_from(sorted(FORMS)), chosen=st.sampled_from("sm-p")
)
def test_random_calls_of_every_form(call, form, chosen):
    scores, _, options = call
    reduction = {"s": "sum", "m": "mean", "-": "none", "p": "pairs"}[chosen]
    if form == "flat":
        if options.get("where") is not None:
            mask = np.broadcast_to(options["where"], scores.shape)
            options["where"] = mask.reshape(-1, scores.shape[-1])
        scores = scores.reshape(-1, scores.shape[-1])
        if np.ndim(options.get("sample_weight", 0)):
            options["sample_weight"] = options["sample_weight"].reshape(-1)
    right = batch(scores, **options)
    options |= {"reduction": reduction, "return_grad": False}
    loss, _ = silently(hinge_as, form, scores, **options)
    assert_loss(loss, right, scores.dtype, reduction)


def test_types_of_results():
    for dtype in (*DTYPES, *INTEGERS):
        loss, grad = hinge_loss(draw((3, 4), dtype), return_grad=True)
        assert type(loss) is computed(dtype).type
        assert grad.dtype == native(dtype)
        assert hinge_loss(draw((3, 4), dtype), reduction="pairs").dtype == native(dtype)
