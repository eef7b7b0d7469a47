"""logsumexp: what its definition says; weights and signs over every layout."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import LAYOUTS, WEIGHTED, right
from oracle.arithmetic import assert_right, dtypes, silently

from fastsoftmax import logsumexp

DTYPES = [np.float32, np.float64]
INF = np.inf


def draw(*shape: int, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(0, 5, shape).astype(dtype)


def test_known_values():
    np.testing.assert_allclose(logsumexp([0.0, 0.0]), np.log(2), rtol=2e-16)
    np.testing.assert_allclose(
        logsumexp([1.0, 2.0, 3.0]), 3.4076059644443806, rtol=3e-16
    )
    np.testing.assert_allclose(logsumexp([1000.0] * 2), 1000 + np.log(2), rtol=3e-16)
    assert logsumexp([0.0, -INF]) == 0
    assert logsumexp([-1e300, 1e300]) == 1e300


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_million_equal_terms(dtype):
    expected = dtype(np.log(np.longdouble(1_000_000)))
    assert logsumexp(np.zeros(1_000_000, dtype)) == expected
    assert (logsumexp(np.zeros((1_000_000, 2), dtype), axis=0) == expected).all()


@dtypes(*DTYPES)
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    "axis", [None, 0, 1, 2, -1, (0, 1), (0, 2), (2, 1), (0, 1, 2), ()]
)
def test_shapes_are_those_of_a_sum(axis, keepdims, dtype):
    x = draw(5, 19, 7, dtype=dtype)
    y = logsumexp(x, axis, keepdims=keepdims)
    expected = right(logsumexp, x, axis=axis)
    assert y.dtype == dtype
    assert np.shape(y) == np.sum(x, axis=axis, keepdims=keepdims).shape
    assert_right(np.reshape(y, expected.value.shape), expected)


def test_is_at_least_the_maximum():
    x = draw(300, 70, dtype=np.float32)
    assert (logsumexp(x, axis=-1) >= x.max(axis=-1)).all()


def test_joins_what_was_split():
    x = draw(1000)
    halves = [logsumexp(x[:300]), logsumexp(x[300:])]
    np.testing.assert_allclose(logsumexp(halves), logsumexp(x), rtol=1e-15)


@pytest.mark.parametrize("n", [2, 64, 65, 2049])
def test_normalises_log_probabilities(n):
    x = draw(n)
    assert abs(logsumexp(x - logsumexp(x))) < 4e-15


def test_where_leaves_the_sum_of_the_rest():
    x = draw(6)
    y = logsumexp(x, where=[True, False, True, True, False, True])
    assert_right(y, right(logsumexp, x[[0, 2, 3, 5]]))


# ---- weights and signs ----


@dtypes(*DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), ()])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_any_layout(layout, axis, dtype):
    a, b = draw(5, 19, 7, dtype=dtype), np.exp(draw(19, 7, dtype=dtype))
    WEIGHTED.check((LAYOUTS[layout](a), LAYOUTS[layout](b)), axis)


def test_signs():
    a, b = [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], [1.0, -1.0]
    log, sign = silently(logsumexp, a, -1, b, return_sign=True)
    np.testing.assert_array_equal(sign, [-1, 1, 0])
    np.testing.assert_allclose(log, [*[np.log(np.e - 1)] * 2, -INF], rtol=1e-15)
    np.testing.assert_array_equal(np.isnan(logsumexp(a, -1, b)), [True, False, False])


def test_return_sign_without_weights():
    log, sign = logsumexp([[1.0, 2.0], [-INF, -INF]], axis=1, return_sign=True)
    np.testing.assert_array_equal(log, logsumexp([[1.0, 2.0], [-INF, -INF]], axis=1))
    np.testing.assert_array_equal(sign, [1, 0])


@pytest.mark.parametrize("entry", [np.nan, INF, -INF, 1e300])
def test_weight_zero_takes_an_entry_out(entry):
    log, sign = silently(logsumexp, [entry, 1.0], b=[0.0, 2.0], return_sign=True)
    assert log == 1 + np.log(2)
    assert sign == 1


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("return_sign", [False, True])
def test_out_with_weights(return_sign, keepdims):
    a, b = draw(4, 6), np.ones(6)
    out = np.empty((4, 1) if keepdims else 4)
    y = logsumexp(a, 1, b, keepdims, return_sign, out=out)
    assert (y[0] if return_sign else y) is out
    assert_right(out.ravel(), right(logsumexp, a, axis=1))


def test_dtype_with_weights():
    a, b = draw(4, 6, dtype=np.float32), np.ones(6, np.float32)
    y = logsumexp(a, 1, b, dtype=np.float64)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, logsumexp(a.astype(np.float64), 1), rtol=1e-15)


def test_weights_have_no_mask_to_lose():
    b = np.ma.array([1.0, 2.0], mask=[True, False])
    with pytest.raises(TypeError, match="b is a masked array"):
        logsumexp([1.0, 2.0], b=b)


@pytest.mark.parametrize("b", [["1", "2"], [None, 1], np.array([1, 2], "m8[s]")])
def test_weights_must_be_numbers(b):
    with pytest.raises(TypeError, match="b must hold numbers"):
        logsumexp([1.0, 2.0], b=b)


def test_weights_must_broadcast():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        logsumexp([1.0, 2.0], b=[1.0, 2.0, 3.0])


def test_where_out_and_dtype_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        logsumexp([1.0, 2.0], None, None, False, False, True)


@pytest.mark.parametrize("n", [63, 65])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_float32_where_the_terms_cancel_is_one_result_in_every_layout(dtype, n):
    x = np.full(2 * n, -np.log(n), dtype)
    row = logsumexp(x[:n].astype(np.float32))
    assert logsumexp(x[:n], dtype=np.float32) == row
    assert logsumexp(x[::2], dtype=np.float32) == row
    assert (logsumexp(x.reshape(n, 2), axis=0, dtype=np.float32) == row).all()


def test_bfloat16_beside_weights_of_other_types():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.arange(6, dtype=ml_dtypes.bfloat16)
    kept = (1, 2.0, True, a)
    assert all(logsumexp(a, b=b).dtype == ml_dtypes.bfloat16 for b in kept)
    assert logsumexp(a, b=np.arange(6)).dtype == np.float64
    assert logsumexp(a, b=np.float16(2)).dtype == np.float32
