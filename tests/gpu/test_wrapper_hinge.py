"""The hinge losses for CuPy arrays, on the stand-in, against a plain loop."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from oracle import FORMS, hinges
from oracle.arithmetic import DTYPES, computed, native
from oracle.hinges import REDUCTIONS, assert_both, assert_gradient, assert_loss
from oracle.inputs import draw_labels
from oracle.inputs import draw_scores as draw

from fastsoftmax import hinge_loss, pair_hinge_loss
from gpu import stand_in
from gpu.judging import HALVES, LAYOUTS, Array, run

INF, NAN = np.inf, np.nan

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)
of_every_form = pytest.mark.parametrize("form", FORMS)
of_both = pytest.mark.parametrize("variant", ["sum", "max"])


def batch(scores: Array, *labels: Any, **options: Any) -> hinges.Batch:
    """CuPy adds up the rows' losses, and rounds each sum."""
    right = hinges.batch(scores, *labels, **options)
    return right._replace(added=right.losses.size)


def call(cupy: Any, form: str, scores: Array, **options: Any) -> Any:
    """Pass the same rows in one of the forms; results as those of "column 0"."""
    for name in ("where", "sample_weight"):
        if isinstance(options.get(name), np.ndarray):
            options[name] = cupy.asarray(options[name])
    whole = cupy.asarray(scores)
    if form == "column 0":
        return run(hinge_loss, whole, **options)
    if form == "flat":
        if "where" in options:
            mask = cupy.broadcast_to(options["where"], scores.shape)
            options["where"] = mask.reshape(-1)
        negatives = scores.shape[-1] - 1
        result = run(hinge_loss, whole.reshape(-1), negatives=negatives, **options)
        if isinstance(result, tuple):
            assert result[1].shape == (scores.size,)
            return result[0], result[1].reshape(scores.shape)
        return result
    if form == "labels":
        labels = cupy.asarray(np.zeros(scores.shape[:-1], int))
        result = run(hinge_loss, whole, labels, **options)
        if options.get("reduction") == "pairs":
            assert not result[..., 0].astype(float).any()
            return result[..., 1:]
        return result
    return pairs(whole, form, options)


def pairs(whole: Any, form: str, options: dict[str, Any]) -> Any:
    if "where" in options:
        options["where"] = options["where"][..., 1:]
    pos = whole[..., :1] if form == "pairs [B, 1]" else whole[..., 0]
    result = run(pair_hinge_loss, pos, whole[..., 1:], **options)
    if not isinstance(result, tuple):
        return result
    loss, (d_pos, d_neg) = result
    assert d_pos.shape == pos.shape
    d_pos = d_pos.reshape(*whole.shape[:-1], 1)
    return loss, np.concatenate([d_pos, d_neg], axis=-1)


# ---- losses and gradients ----


@pytest.mark.parametrize(
    ("form", "dtype"),
    [*itertools.product(FORMS[:-1], DTYPES), (FORMS[-1], np.float32)],
)
def test_every_form(cupy, form, dtype):
    scores = draw((12, 9), dtype)
    for reduction in REDUCTIONS[2:] if dtype in HALVES else REDUCTIONS:
        loss = call(cupy, form, scores, reduction=reduction)
        assert_loss(loss, batch(scores), dtype, reduction)


@of_every_form
@of_both
@pytest.mark.parametrize("p", [1, 2])
def test_gradients(cupy, p, variant, form):
    weights = np.random.default_rng(0).uniform(-1, 3, 12)
    mask = np.random.default_rng(1).random((12, 9)) < 0.7
    scores = draw((12, 9), np.float32)
    options = {"p": p, "variant": variant, "margin": 0.5}
    for reduction, more in (
        ("none", {"where": mask, "sample_weight": weights}),
        ("mean", {"sample_weight": 2.0}),
        ("mean", {"where": mask & (np.arange(12) % 3 > 0)[:, np.newaxis]}),
    ):
        right = batch(scores, **options, **more)
        loss, grad = call(
            cupy,
            form,
            scores,
            reduction=reduction,
            return_grad=True,
            **options,
            **more,
        )
        assert_gradient(grad, right, np.float32, reduction)
        if reduction == "none":
            assert_loss(loss, right, np.float32)


@of_both
@of_every_dtype
def test_gradients_of_every_dtype(cupy, dtype, variant):
    scores, labels = draw((10, 20), dtype), draw_labels((10,), 20)
    for p in (1, 2):
        right = batch(scores, labels, p=p, variant=variant)
        loss, grad = run(
            hinge_loss,
            cupy.asarray(scores),
            cupy.asarray(labels),
            p=p,
            variant=variant,
            return_grad=True,
        )
        assert_both((loss, grad), right, dtype, "sum")


@of_both
@pytest.mark.parametrize(
    "shape", [(4, 100), (3, 33), (2, 2000), (2, 6001), (1, 40_000)]
)
def test_long_rows(cupy, shape, variant):
    scores, labels = draw(shape, np.float32), draw_labels(shape[:1], shape[1])
    right = batch(scores, labels, variant=variant)
    loss, grad = run(
        hinge_loss,
        cupy.asarray(scores),
        cupy.asarray(labels),
        variant=variant,
        reduction="none",
        return_grad=True,
    )
    assert_both((loss, grad), right, np.float32)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64])
def test_integers(cupy, dtype):
    scores = draw((6, 9), np.float64, 3).astype(dtype)
    loss, grad = run(hinge_loss, cupy.asarray(scores), return_grad=True)
    assert loss.dtype == grad.dtype == np.float64
    right = batch(scores)
    assert_both((loss, grad), right, dtype, "sum")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(cupy, layout):
    scores, labels = draw((4, 6, 8), np.float32), draw_labels((4, 6), 8)
    mask = np.random.default_rng(0).random((4, 6, 8)) < 0.6
    array, where = LAYOUTS[layout](cupy, scores), LAYOUTS[layout](cupy, mask)
    for on_device, places in ((None, None), (LAYOUTS[layout](cupy, labels), labels)):
        right = batch(scores, places, where=mask)
        loss, grad = run(
            hinge_loss,
            array,
            on_device,
            where=where,
            reduction="none",
            return_grad=True,
        )
        assert_both((loss, grad), right, np.float32)


@pytest.mark.parametrize("where", [True, False, "row", "column"])
def test_where_that_broadcasts(cupy, where):
    scores = draw((5, 9), np.float32)
    kept = {"row": np.arange(9) % 2 == 0, "column": np.arange(5)[:, None] > 1}
    mask = kept.get(where, where)
    on_device = mask if isinstance(mask, bool) else cupy.asarray(mask)
    for reduction in REDUCTIONS:
        loss = run(
            hinge_loss, cupy.asarray(scores), where=on_device, reduction=reduction
        )
        assert_loss(loss, batch(scores, where=mask), np.float32, reduction)


def test_types_of_labels_and_weights(cupy):
    scores, labels = draw((6, 9), np.float32), draw_labels((6,), 9)
    want = hinge_loss(scores, labels)
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        got = run(hinge_loss, cupy.asarray(scores), cupy.asarray(labels.astype(dtype)))
        np.testing.assert_allclose(got, want, rtol=1e-6)
    for dtype in (np.int8, np.float16, np.float32, np.float64):
        weights = np.arange(6).astype(dtype)
        got = run(hinge_loss, cupy.asarray(scores), sample_weight=cupy.asarray(weights))
        want = hinge_loss(scores, sample_weight=weights)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_types_of_positives_and_negatives_together(cupy):
    pos, neg = np.arange(4), np.arange(12).reshape(4, 3)
    for left, right in (
        (np.float32, np.float64),
        (np.int8, np.float32),
        (np.int8, bool),
    ):
        a, b = pos.astype(left), neg.astype(right)
        loss, grads = run(
            pair_hinge_loss, cupy.asarray(a), cupy.asarray(b), return_grad=True
        )
        want, want_grads = pair_hinge_loss(a, b, return_grad=True)
        assert loss.dtype == want.dtype
        np.testing.assert_allclose(loss, want, rtol=1e-6)
        for one, other in zip(grads, want_grads, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


# ---- labels that are wrong ----


@of_both
def test_a_label_outside_its_row_makes_its_loss_nan(cupy, variant):
    scores = draw((6, 9), np.float32)
    labels = np.array([0, 9, 3, -1, 8, 2**40])
    bad = np.array([False, True, False, True, False, True])
    options = {"variant": variant, "reduction": "none"}
    loss, grad = run(
        hinge_loss,
        cupy.asarray(scores),
        cupy.asarray(labels),
        return_grad=True,
        **options,
    )
    want = hinge_loss(scores[~bad], labels[~bad], **options)
    assert np.isnan(loss[bad]).all()
    np.testing.assert_allclose(loss[~bad], want, rtol=1e-6)
    assert np.isfinite(grad[~bad]).all()
    assert np.isnan(grad[bad]).any(axis=-1).all()
    total = run(hinge_loss, cupy.asarray(scores), cupy.asarray(labels), variant=variant)
    assert np.isnan(total)


def test_labels_beyond_int64(cupy):
    scores = draw((2, 9), np.float32)
    labels = cupy.asarray(np.array([3, 2**64 - 1], np.uint64))
    loss = run(hinge_loss, cupy.asarray(scores), labels, reduction="none")
    assert np.isnan(loss[1])
    assert np.isfinite(loss[0])


# ---- special values ----


@of_both
@pytest.mark.parametrize("n", [9, 33])
@pytest.mark.parametrize("p", [1, 2])
def test_special_values_as_on_the_cpu(cupy, p, n, variant):
    rows = [draw((1, n), np.float32)[0] for _ in range(12)]
    for row, places in zip(
        rows,
        [
            {0: NAN},
            {2: NAN},
            {0: INF},
            {2: INF},
            {0: INF, 2: INF},
            {0: -INF},
            {2: -INF},
            {0: -INF, 2: -INF},
            {0: -INF, 2: INF},
            {1: INF, 3: NAN},
            {0: 3e38, 1: -3e38},
        ],
        strict=False,
    ):
        for place, value in places.items():
            row[place] = value
    scores = np.array(rows)
    for where in (None, np.arange(n) != 2, np.arange(n) > 2, np.zeros(n, bool)):
        options = {"p": p, "variant": variant, "reduction": "none", "return_grad": True}
        on_device = None if where is None else cupy.asarray(where)
        loss, grad = run(hinge_loss, cupy.asarray(scores), where=on_device, **options)
        want, want_grad = hinge_loss(scores, where=where, **options)
        np.testing.assert_allclose(loss, want, rtol=1e-6)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-6)
        assert np.isfinite(loss[-1])


def test_ties_go_to_the_first(cupy):
    scores = np.array([[0, 2, 3, 3, 1, 3], [0, -5, -5, -5, -5, -5]], np.float32)
    grad = run(hinge_loss, cupy.asarray(scores), variant="max", return_grad=True)[1]
    np.testing.assert_array_equal(grad, [[-1, 0, 1, 0, 0, 0], [0] * 6])


# ---- nothing ----


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (0, 1), (2, 0, 3)])
@of_every_dtype
def test_nothing_to_add(cupy, dtype, shape):
    scores = np.ones(shape, dtype)
    for reduction in REDUCTIONS:
        got = run(hinge_loss, cupy.asarray(scores), reduction=reduction)
        want = np.asarray(hinge_loss(scores, reduction=reduction))
        assert (
            got.dtype
            == want.dtype
            == (native(dtype) if reduction == "pairs" else computed(dtype))
        )
        assert got.shape == want.shape
        np.testing.assert_array_equal(got.astype(float), want.astype(float))
    loss, grad = run(hinge_loss, cupy.asarray(scores), return_grad=True)
    assert loss == 0
    assert grad.shape == shape
    assert not grad.astype(float).any()


def test_pairs_without_negatives(cupy):
    pos, neg = np.ones(3, np.float32), np.ones((3, 0), np.float32)
    loss, (d_pos, d_neg) = run(
        pair_hinge_loss,
        cupy.asarray(pos),
        cupy.asarray(neg),
        reduction="none",
        return_grad=True,
    )
    np.testing.assert_array_equal(loss, np.zeros(3))
    np.testing.assert_array_equal(d_pos, np.zeros(3))
    assert d_neg.shape == (3, 0)


def test_one_row(cupy):
    scores = draw((9,), np.float32)
    loss, grad = run(
        hinge_loss, cupy.asarray(scores), reduction="none", return_grad=True
    )
    assert_both((loss, grad), batch(scores), np.float32)
    assert loss.shape == ()
    for label in (cupy.asarray(3), 3, np.int8(3)):
        _, grad = run(hinge_loss, cupy.asarray(scores), label, return_grad=True)
        assert_gradient(grad, batch(scores, np.array(3)), np.float32)


@of_both
def test_kernels_do_not_touch_what_they_must_not(cupy, variant):
    """With every check of the interpreter."""
    stand_in.machine.checks = True
    for shape in ((130, 9), (5, 33), (1, 40_000)):
        scores, labels = draw(shape, np.float32), draw_labels(shape[:1], shape[1])
        loss = run(
            hinge_loss,
            cupy.asarray(scores),
            cupy.asarray(labels),
            variant=variant,
            where=cupy.asarray(scores > -1),
        )
        want = hinge_loss(scores, labels, variant=variant, where=scores > -1)
        np.testing.assert_allclose(loss, want, rtol=1e-6)


# ---- rows that do not count ----


@of_both
@pytest.mark.parametrize("p", [1, 2])
def test_rows_that_do_not_count(cupy, p, variant):
    scores, labels = draw((9, 20), np.float32), draw_labels((9,), 20)
    weights = np.float64([1, 0, 2, 1, 1, 1, 0, 1, 3])
    mask = np.ones((9, 20), bool)
    mask[3] = False
    labels[4] = labels[7] = -100
    scores[[1, 3]] = NAN
    scores[4] = INF
    scores[6, 3:] = -INF
    scores[7, 5] = NAN
    options = {"p": p, "variant": variant, "ignore_index": -100}
    for reduction, name in itertools.product(REDUCTIONS, ("both", "mask", "weights")):
        more: dict[str, Any] = {}
        if name != "mask":
            more["sample_weight"] = weights
        if name != "weights":
            more["where"] = mask
        right = batch(scores, labels, **options, **more)
        given = {key: cupy.asarray(value) for key, value in more.items()}
        given |= {**options, "reduction": reduction}
        arrays = cupy.asarray(scores), cupy.asarray(labels)
        if reduction == "pairs":
            result = run(hinge_loss, *arrays, **given)
            assert_loss(result, right, np.float32, "pairs")
            continue
        result = run(hinge_loss, *arrays, **given, return_grad=True)
        assert_both(result, right, np.float32, reduction)


def test_a_mean_of_no_row_that_counts(cupy):
    scores, labels = cupy.asarray(np.ones((2, 3), "f4")), cupy.asarray([7, 7])
    for more in (
        {"ignore_index": 7},
        {"ignore_index": 7, "where": cupy.asarray(np.zeros((2, 3), bool))},
    ):
        options = {"reduction": "mean", "return_grad": True, **more}
        loss, grad = run(hinge_loss, scores, labels, **options)
        assert np.isnan(loss)
        assert not grad.any()


def test_labels_that_are_ignored(cupy):
    scores = draw((3, 5), np.float32)
    expected = hinge_loss(scores[:2], [1, 0])
    for dtype, ignored in ((np.uint64, 2**64 - 1), (np.int8, -1), (np.int64, 2)):
        labels = cupy.asarray(np.array([1, 0, ignored], dtype))
        arrays = cupy.asarray(scores), labels
        np.testing.assert_allclose(
            run(hinge_loss, *arrays, ignore_index=ignored), expected, rtol=1e-6
        )
    with pytest.raises(TypeError, match="needs labels"):
        hinge_loss(arrays[0], ignore_index=1)
    with pytest.raises(TypeError, match="must be an integer"):
        hinge_loss(*arrays, ignore_index=1.0)
