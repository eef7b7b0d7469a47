"""log_softmax: what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import right
from oracle.arithmetic import WIDE, assert_right

from fastsoftmax import log_softmax, logsumexp, softmax

DTYPES = [np.float32, np.float64]


def draw(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(0, 5, shape).astype(dtype)


def test_known_values():
    np.testing.assert_allclose(
        log_softmax([1.0, 2.0, 3.0]),
        [-2.4076059644443806, -1.4076059644443804, -0.4076059644443804],
        rtol=4e-16,
    )
    np.testing.assert_allclose(log_softmax([1000.0, 1000.0]), -np.log(2), rtol=2e-16)
    np.testing.assert_array_equal(log_softmax([-1000.0, 1000.0]), [-2000, 0])


def test_the_default_axis_is_the_whole_array():
    x = draw(4, 6)
    np.testing.assert_array_equal(log_softmax(x), log_softmax(x, axis=(0, 1)))
    assert not np.allclose(log_softmax(x), log_softmax(x, axis=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1), (0, 2), (1, 2)])
def test_is_the_logarithm_of_softmax(axis, dtype):
    x = draw(5, 19, 7, dtype=dtype)
    y = log_softmax(x, axis=axis)
    assert (y < 0).all()
    rtol = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.exp(y.astype(WIDE)), softmax(x, axis), rtol=40 * rtol)
    total = logsumexp(x, axis, keepdims=True)
    np.testing.assert_allclose(y, x - total, rtol=rtol, atol=40 * rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_never_above_zero(dtype):
    x = np.random.default_rng(1).uniform(-90, 90, (4000, 3)).astype(dtype)
    assert log_softmax(x, axis=-1).max() <= 0
    assert log_softmax(x.T.copy(), axis=0).max() <= 0


@pytest.mark.parametrize("gap", [20, 40, 80, 100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 17, 64, 65, 130, 1000, 2049])
def test_the_dominant_entry_keeps_what_it_leaves_to_others(n, dtype, gap):
    x = np.full(n, -gap, dtype)
    x[n // 3] = 0
    y = log_softmax(x)
    assert -1e-2 < y.max() < 0
    assert_right(y, right(log_softmax, x))


@pytest.mark.parametrize("places", [(0, 1), (0, 32), (3, 129), (113, 129), (128, 129)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_dominant_entries_share_the_sum(dtype, places):
    """In one lane of a vector or in two, and where the last vector begins anew."""
    x = np.full(130, -60, dtype)
    x[list(places)] = 0
    assert_right(log_softmax(x), right(log_softmax, x))


def test_entries_far_below_do_not_underflow():
    y = log_softmax(np.float32([0, -1e4, -3e38]))
    np.testing.assert_array_equal(y, np.float32([0, -1e4, -3e38]))


@pytest.mark.parametrize("axis", [0, 1])
def test_cross_entropy_of_a_batch(axis):
    x = draw(50, 10)
    labels = np.random.default_rng(2).integers(0, x.shape[axis], x.shape[1 - axis])
    logs = np.moveaxis(log_softmax(x, axis=axis), axis, -1)
    rows = np.moveaxis(x, axis, -1)
    picked = logs[np.arange(len(labels)), labels]
    by_hand = rows[np.arange(len(labels)), labels] - logsumexp(rows, axis=-1)
    np.testing.assert_allclose(picked, by_hand, rtol=1e-13, atol=1e-14)


def test_where_leaves_the_log_softmax_of_the_rest():
    x = draw(6)
    y = log_softmax(x, where=[True, False, True, True, False, True])
    np.testing.assert_array_equal(y[[1, 4]], -np.inf)
    assert_right(y[[0, 2, 3, 5]], right(log_softmax, x[[0, 2, 3, 5]]))


def test_temperature():
    x = draw(40)
    np.testing.assert_array_equal(log_softmax(x, temperature=2.0), log_softmax(x / 2))


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        log_softmax([1.0, 2.0], -1, 2.0)
