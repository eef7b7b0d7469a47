"""Cross-entropy: what does not count, other types of targets, errors."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from oracle import ENTROPIES
from oracle.arithmetic import DTYPES, Array, assert_all_right, needs_wide, silently

from fastsoftmax import cross_entropy, log_softmax

INF, NAN = np.inf, np.nan


def draw(shape: tuple[int, ...], dtype: Any, spread: float = 3) -> Array:
    return np.random.default_rng([*shape]).normal(0, spread, shape).astype(dtype)


@needs_wide
@pytest.mark.parametrize("dtype", [*DTYPES, np.int8, bool])
@pytest.mark.parametrize("of_scores", [np.float32, np.float16, np.int16])
def test_targets_of_other_types(of_scores, dtype):
    for n in (3, 40):
        x, t = ENTROPIES[1].draw(6, n, of_scores)[0], draw((6, n), dtype)
        results = silently(ENTROPIES[1].call, x, t, axis=1)
        assert_all_right(results, ENTROPIES[1].judge(x, t))
        assert tuple(y.dtype for y in results) == ENTROPIES[1].types(of_scores)


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


@pytest.mark.parametrize("n", [3, 40, 600])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_do_not_count(dtype, n):
    x, labels = draw((37, n), dtype), np.arange(37) % 3
    x[::5] *= dtype(20)  # peaked
    x[1::12] = NAN
    x[7::12, 1] = INF
    rest = np.arange(37) % 6 != 1
    every = {"return_grad": True}
    for options in (
        {"labels": np.where(rest, labels, -100), "ignore_index": -100},
        {"labels": labels, "sample_weight": rest.astype(int)},
        {"labels": labels, "where": rest[:, np.newaxis]},
    ):
        for reduction in ("sum", "mean"):
            loss, grad = silently(
                cross_entropy, x, **options, **every, reduction=reduction
            )
            wanted, slopes = cross_entropy(
                x[rest], labels[rest], **every, reduction=reduction
            )
            assert loss == wanted
            np.testing.assert_array_equal(grad[rest], slopes)
            np.testing.assert_array_equal(grad[~rest].astype(float), 0)
    loss, grad = silently(
        cross_entropy, x, np.full(37, 9), ignore_index=9, return_grad=True
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
def test_quotients_that_overflow(t):
    x = np.float32([[-3.4e38, -3.4e38, -3.4e38], [1, 2, 3]])
    loss = silently(cross_entropy, x, [0, 2], temperature=t, reduction="none")
    np.testing.assert_allclose(loss[0], np.log(3), rtol=1e-6)
    alone = 0 if t == 1e-39 else cross_entropy(x[1] / np.float32(np.ravel(t)[-1]), 2)
    assert loss[1] == alone


@pytest.mark.parametrize(
    ("dtype", "by"),
    [
        (np.float32, 1e-30),
        (np.float32, 1e37),
        (np.float64, 1e-290),
        (np.float64, 1e307),
    ],
)
def test_gradients_near_the_ends_of_the_range(dtype, by):
    x = np.full((1, 3), 3, dtype)
    for options in ({"sample_weight": [by]}, {"temperature": dtype(1 / by)}):
        _, grad = silently(
            cross_entropy, x, [0], **options, reduction="sum", return_grad=True
        )
        wanted = np.array([[-2, 1, 1]]) / 3 * by
        np.testing.assert_allclose(grad, wanted, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dtype", "by", "far"), [(np.float32, 1e30, 140), (np.float64, 1e300, 800)]
)
@pytest.mark.parametrize("n", [2, 40, 5000])
def test_gradients_of_what_is_far_below_a_certain_label(n, dtype, by, far):
    """0, or as large as the factor makes them."""
    for below in (INF, far):
        x = np.full((2, n), -below, dtype)
        x[:, 0] = 0
        t = dtype(1 / by)
        for scores, options in (
            (x, {"sample_weight": [by, by]}),
            (x * t, {"temperature": t}),
            (x.T, {"sample_weight": [by, by], "axis": 0}),
        ):
            _, grad = silently(
                cross_entropy,
                scores,
                [0, 0],
                **options,
                reduction="sum",
                return_grad=True,
            )
            right = np.exp(np.log(by) - below)
            grad = grad.T if "axis" in options else grad
            wanted = np.where(grad == 0, 0, right * np.where(x, 1, 1 - n))
            np.testing.assert_allclose(grad, wanted, rtol=1e-5)


def test_the_divisor_of_a_mean_is_rounded_once():
    scores = np.random.default_rng(3).standard_normal((2112, 3))
    labels, weights = np.zeros(2112, int), np.full(2112, 0.1)
    losses = cross_entropy(scores, labels, sample_weight=weights, reduction="none")
    mean = cross_entropy(scores, labels, sample_weight=weights)
    assert mean == math.fsum(losses) / math.fsum(weights)


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
