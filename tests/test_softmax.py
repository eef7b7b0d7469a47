"""softmax: what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import right
from oracle.arithmetic import assert_right

from fastsoftmax import softmax

DTYPES = [np.float32, np.float64]


def draw(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(0, 5, shape).astype(dtype)


def test_known_values():
    np.testing.assert_allclose(
        softmax([1.0, 2.0, 3.0]),
        [0.09003057317038046, 0.24472847105479764, 0.6652409557748218],
        rtol=4e-16,
    )
    np.testing.assert_array_equal(softmax([5.0] * 4), [0.25] * 4)
    np.testing.assert_array_equal(softmax([1000.0, 1000.0]), [0.5, 0.5])
    np.testing.assert_array_equal(softmax([-1000.0, 1000.0]), [0, 1])


def test_the_default_axis_is_the_whole_array():
    x = draw(4, 6)
    np.testing.assert_allclose(softmax(x).sum(), 1, rtol=1e-15)
    np.testing.assert_array_equal(softmax(x), softmax(x, axis=(0, 1)))
    assert not np.allclose(softmax(x), softmax(x, axis=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 1), (0, 2), (1, 2)])
def test_sums_to_one_over_the_axis(axis, dtype):
    y = softmax(draw(5, 19, 7, dtype=dtype), axis=axis)
    assert ((y > 0) & (y < 1)).all()
    total = y.sum(axis=axis, dtype=np.float64)
    np.testing.assert_allclose(total, 1, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 17, 64, 65, 2049])
def test_is_never_above_one(n, dtype):
    """Else 1 - p is negative, and np.random refuses p."""
    rng = np.random.default_rng(n)
    x = np.full((2000 if n < 100 else 20, n), -200, dtype)
    x[:, 0] = rng.uniform(-300, 300, len(x))
    x[:, -1] = rng.uniform(-300, 300, len(x))
    assert softmax(x, axis=-1).max() <= 1
    assert softmax(x.T.copy(), axis=0).max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_the_order_of_the_input(dtype):
    x = np.sort(draw(2000, dtype=dtype))
    assert (np.diff(softmax(x)) >= 0).all()


@pytest.mark.parametrize("n", [2, 64, 65, 2049])
def test_adding_a_number_that_rounds_nothing_changes_little(n):
    x = np.round(draw(n) * 64) / 64
    y, moved = softmax(x), softmax(x + 512)
    np.testing.assert_allclose(moved, y, rtol=4 * 2.0**-52)


def test_permuting_the_input_permutes_the_result():
    x = draw(1001)
    order = np.random.default_rng(3).permutation(x.size)
    np.testing.assert_allclose(softmax(x[order]), softmax(x)[order], rtol=4 * 2.0**-52)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_term_of_a_million(dtype):
    y = softmax(np.zeros(1_000_000, dtype))
    assert np.unique(y).size == 1
    assert y[0] == dtype(1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_temperature_sharpens_and_flattens(axis):
    x = draw(5, 19, 7)
    cold, hot = softmax(x, axis, temperature=0.1), softmax(x, axis, temperature=10)
    assert cold.max() > softmax(x, axis).max() > hot.max()
    np.testing.assert_array_equal(
        softmax(x, axis, temperature=2.0), softmax(x / 2, axis, temperature=1)
    )


def test_where_leaves_the_softmax_of_the_rest():
    x = draw(6)
    y = softmax(x, where=[True, False, True, True, False, True])
    np.testing.assert_array_equal(y[[1, 4]], 0)
    assert_right(y[[0, 2, 3, 5]], right(softmax, x[[0, 2, 3, 5]]))


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        softmax([1.0, 2.0], -1, 2.0)
