"""Cross-entropy and its gradient against plain formulas in long double."""

from __future__ import annotations

import itertools
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from entropy_reference import assert_within, draw, judge
from references import LAYOUTS, WIDE_ENOUGH, Array, silently

from fastsoftmax import cross_entropy, log_softmax

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int16]


@pytest.mark.skipif(not WIDE_ENOUGH, reason="no wider float to judge by")
@pytest.mark.parametrize("n", [1, 2, 3, 10, 17, 100, 511, 512, 513, 1000, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_losses_and_gradients(kind, dtype, n):
    rng = np.random.default_rng(n)
    x, labels = draw((6, n), dtype), rng.integers(0, n, 6)
    t: Array = (labels[:, None] == np.arange(n)).astype(float)
    given: Any = labels
    if kind == "probabilities":
        t = given = rng.dirichlet(np.ones(n), 6)
    masks = rng.random((6, n)) < 0.8
    masks[np.arange(6), labels] = True
    weights = np.array([1, 2, 0, 0.5, 3, 1])
    wide = dtype in (np.float64, np.int16)
    compute = np.float64 if wide else np.float32
    for smoothing, temperature, masked in itertools.product(
        (0, 0.1), (1.0, 0.3), (False, True)
    ):
        where = masks if masked else np.ones_like(masks)
        options: dict[str, Any] = {
            "label_smoothing": smoothing,
            "temperature": temperature,
            "sample_weight": weights,
        }
        if masked:
            options["where"] = where
        scores = x.astype(compute) / compute(temperature)
        right = judge(scores, t, weights, where, smoothing, kind == "labels")
        by_temperature = np.longdouble(compute(temperature))
        for order, reduction in itertools.product("CF", ("none", "sum", "mean")):
            loss, grad = silently(
                cross_entropy,
                x.copy(order=order),
                given,
                **options,
                reduction=reduction,
                return_grad=True,
            )
            by, losses, allowed = 1, right.losses, right.of_losses
            if reduction == "mean":
                by = weights[right.counts].sum()
            if reduction != "none":
                losses, allowed = losses.sum() / by, allowed.sum() / by
            assert_within(loss, losses, allowed, 0 if reduction == "none" else 1)
            of_grads = right.of_grads / by_temperature / by
            is_half = grad.dtype.itemsize == 2
            grads = right.grads / by_temperature / by
            assert_within(grad, grads, of_grads, 0.5 if is_half else 0)
            assert loss.dtype == compute
            assert grad.dtype == (compute if dtype is np.int16 else dtype)


def test_a_loss_next_to_0_is_accurate():
    loss = cross_entropy(np.float32([[3000, 2990, 0]]), [0])
    np.testing.assert_allclose(loss, 4.539889921686465e-05, rtol=2e-7)
    loss = cross_entropy(np.float16([[12, 3, 0]]), [0])
    exact = np.log1p(np.exp(-9) + np.exp(-12))
    np.testing.assert_allclose(loss, exact, rtol=2e-7)
    x = draw((50, 30), np.float32, 40)
    labels = x.argmax(axis=1)
    losses = cross_entropy(x, labels, reduction="none")
    np.testing.assert_array_equal(losses, -log_softmax(x, axis=1)[range(50), labels])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_every_axis_and_layout(axis):
    x = draw((5, 7, 4), np.float32)
    shape = np.delete(x.shape, axis)
    labels = np.random.default_rng(0).integers(0, x.shape[axis], shape)
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    wanted, slopes = cross_entropy(moved, labels, return_grad=True, reduction="none")
    for layout in LAYOUTS.values():
        loss, grad = cross_entropy(
            layout(x), labels, axis, return_grad=True, reduction="none"
        )
        np.testing.assert_array_equal(loss, wanted)
        np.testing.assert_array_equal(np.moveaxis(grad, axis, -1), slopes)
        t = np.moveaxis(np.eye(x.shape[axis])[labels], -1, axis)
        loss = cross_entropy(layout(x), layout(t), axis, reduction="none")
        np.testing.assert_allclose(loss, wanted, rtol=1e-6)


@pytest.mark.parametrize("n", [3, 40, 600])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_a_row_alone_gives_what_it_gives_among_others(dtype, n):
    """Sets wait for each other: ordinary, peaked or ignored ones, and infinities."""
    x = draw((37, n), dtype, 5)
    x[::5, 0] += 60
    x[7, 1], x[11, 2], x[13] = INF, NAN, -INF
    labels = np.arange(37) % n
    labels[::6] = -1
    options: dict[str, Any] = {"ignore_index": -1, "return_grad": True}
    losses, grads = silently(cross_entropy, x, labels, reduction="none", **options)
    for i in range(37):
        row = slice(i, i + 1)
        loss, grad = silently(
            cross_entropy, x[row], labels[row], reduction="none", **options
        )
        np.testing.assert_array_equal(loss, losses[row])
        np.testing.assert_array_equal(grad.astype(float), grads[row].astype(float))


@pytest.mark.parametrize("n", [3, 40, 600])
@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_rows_that_do_not_count(dtype, n):
    x = draw((5, n), dtype)
    x[1] = NAN
    x[3, 1] = INF
    labels = np.array([0, -100, 1, -100, 2])
    rest = [0, 2, 4]
    every = {"return_grad": True}
    for options in (
        {"labels": labels, "ignore_index": -100},
        {"labels": abs(labels) % 3, "sample_weight": [1, 0, 1, 0, 1]},
        {"labels": abs(labels) % 3, "where": np.arange(5)[:, None] % 2 == 0},
    ):
        for reduction in ("sum", "mean"):
            loss, grad = silently(
                cross_entropy, x, **options, **every, reduction=reduction
            )
            wanted, slopes = cross_entropy(
                x[rest], [0, 1, 2], **every, reduction=reduction
            )
            assert loss == wanted
            np.testing.assert_array_equal(grad[rest], slopes)
            np.testing.assert_array_equal(grad[[1, 3]].astype(float), 0)
    loss, grad = silently(
        cross_entropy, x, np.full(5, 9), ignore_index=9, return_grad=True
    )
    assert np.isnan(loss)
    assert not grad.astype(float).any()


def test_special_values():
    x = np.array([[NAN, 0], [-INF, -INF], [-INF, 0], [INF, 0], [INF, 0]])
    losses = silently(cross_entropy, x, [0, 0, 0, 0, 1], reduction="none")
    np.testing.assert_array_equal(losses, [NAN, NAN, INF, NAN, INF])
    masked = silently(cross_entropy, [[1.0, 2.0]], [0], where=[False, True])
    assert masked == INF
    where = [False, True]
    assert cross_entropy([[1.0, 2.0]], [0], where=where, label_smoothing=0.1) == 0
    assert cross_entropy([[1.0, 2.0]], [[1.0, 0]], where=where) == 0
    dy, where = np.array([[1, NAN]]), np.array([True, False])
    loss, grad = silently(
        cross_entropy, x[2:3, ::-1], dy, where=where, return_grad=True
    )
    assert loss == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("t", [0.9, [[0.9], [2.0]], 1e-39])
def test_temperatures(t):
    x = np.float32([[-3.4e38, -3.4e38, -3.4e38], [1, 2, 3]])
    loss, grad = silently(
        cross_entropy, x, [0, 2], temperature=t, reduction="none", return_grad=True
    )
    np.testing.assert_allclose(loss[0], np.log(3), rtol=1e-6)
    if t == 1e-39:
        assert loss[1] == 0
        return
    each = np.broadcast_to(np.ravel(t), 2)
    for i in range(2):
        alone, slope = cross_entropy(
            x[i], [0, 2][i], temperature=each[i], reduction="none", return_grad=True
        )
        np.testing.assert_allclose(loss[i], alone, rtol=1e-6)
        np.testing.assert_allclose(grad[i], slope, rtol=1e-6, atol=1e-7)


def test_errors():
    x = draw((3, 4), np.float32)
    with pytest.raises(
        IndexError, match=re.escape("label 4 of row 1 is not in [0, 4)")
    ):
        cross_entropy(x, [0, 4, 9])
    for words, error, options in (
        ("ignore_index needs labels", TypeError, {"labels": x, "ignore_index": 1}),
        ("label_smoothing must be", ValueError, {"label_smoothing": 1.5}),
        ("reduction must be one of", ValueError, {"reduction": "pairs"}),
        ("axis must be one integer", TypeError, {"axis": (0, 1)}),
        ("labels must have one", ValueError, {"labels": [0, 1]}),
        (r"shape \(4,\), got shape \(3,\)", ValueError, {"axis": 0}),
        ("labels must be integers", TypeError, {"labels": [0.0, 1, 2]}),
        ("argmax", ValueError, {"temperature": 0}),
        ("broadcast against scores", ValueError, {"temperature": np.ones(4)}),
        ("where", ValueError, {"where": np.ones(3, bool)}),
        ("sample_weight", ValueError, {"sample_weight": [1, 2]}),
    ):
        with pytest.raises(error, match=words):
            cross_entropy(x, **{"labels": [0, 1, 2], **options})


def test_threads_change_nothing(use_threads):
    x = draw((3000, 300), np.float32)
    labels = np.arange(3000) % 300
    results = []
    for threads in (1, 2, 3):
        use_threads(threads)
        results.append(cross_entropy(x, labels, return_grad=True))
    for loss, grad in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(grad, results[0][1])
