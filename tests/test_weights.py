"""Weighted logsumexp: how exact, of which bits, over which layouts."""

from __future__ import annotations

import functools
import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp
from oracle import COLUMNS, LAYOUTS, ROWS, WEIGHTED
from oracle.arithmetic import (
    DTYPES,
    assert_all_right,
    assert_same_bits,
    needs_wide,
    silently,
)

from fastsoftmax import logsumexp

INF, NAN = np.inf, np.nan
LENGTHS = [1, 2, 3, 15, 16, 17, 31, 33, 96, 97, 250, 1023, 1024, 1025, 2100]
CHUNK = 65_536  # CHUNK_OF_BUNDLES

signed = functools.partial(silently, logsumexp, return_sign=True)


# ---- how exact ----


@needs_wide
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_awkward_sets_of_float64(dtype):
    """What cancels may leave anything, but no more than 2^-95 of all terms."""
    cancelled = 0
    for n in (1, 2, 3, 5, 15, 16, 17, 33, 64)[:: 1 if dtype is np.float32 else 2]:
        given = WEIGHTED.draw(60, n, np.float64, "awkward")
        results = WEIGHTED.over(given, dtype=dtype)
        judges = WEIGHTED.judge(*given, dtype=dtype)
        assert_all_right(results, judges)
        free = np.isposinf(judges[0].allowed)
        of_all = judges[0].value[free]  # the logarithm of the terms' absolute sum
        most = of_all - 93 * np.log(2) + abs(of_all) * 2.0**-22
        assert (results[0][free] <= most).all()
        cancelled += np.count_nonzero(free)
    assert cancelled > 20


def test_what_cancels_leaves_no_more_than_2_to_the_minus_95():
    for n, level in itertools.product((3, 17, 64, 2100), (0, 300.5, -1e4)):
        b = np.rint(np.random.default_rng(n).normal(0, 2**20, n))
        b[-1] = -b[:-1].sum()
        log, _ = signed(np.full(n, level), b=b)
        assert log <= level + np.log(abs(b).sum()) - 93 * np.log(2)


@needs_wide
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("level", [0.0, 1000.0, 1e4])
@pytest.mark.parametrize("rest", [0.3, 20, 60, 300, 1000])
def test_what_remains_of_terms_that_cancel(dtype, level, rest):
    """As the maximum, as two of it, as a sum of 1 with little more."""
    a = np.array([level, level, level - rest])
    for b in ([1, -1, 1], [1, -1, -3], [0.25, 0.75, 1e-3], [2, 0, -1], [1, 0, 1e-9]):
        WEIGHTED.check((a, np.array(b, np.float64)), dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "most"),
    [((50_000, 3), 0), ((100, 700), -12), ((7, 70_000), -13), ((1, 70_000), -13)],
)
def test_what_float32_makes_of_terms_that_cancel_in_part(shape, most, use_threads):
    """From all to 2^-14 of the terms is left: around where rough sums will not do."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    b = rng.uniform(0.1, 1, shape).astype(np.float32)
    left = 2 ** rng.uniform(-14, most, len(x))
    powers = np.exp(x.astype(np.float64))
    terms = b * powers
    b[:, -1] *= -(terms[:, :-1].sum(1) / terms[:, -1]) * (1 - left)
    total = np.sum(b * powers, 1)
    for threads, place in itertools.product((1, 8), (ROWS, COLUMNS)):
        use_threads(threads)
        log, sign = WEIGHTED.over((x, b), place)
        error = abs(log - np.log(abs(total))) / np.spacing(abs(log))
        assert (sign == np.sign(total)).all()
        assert error.max() < 1


def test_the_sign_in_float32_where_the_logarithm_is_large():
    """Of m e^-64 - k 2^-92, which are alike to 2^-36: of both signs."""
    m = np.arange(2.0**24 - 2**17, 2**24)
    below = m * float(mp.exp(-64) * 2**92)  # to 2^-28
    k = np.rint(below)
    some = (abs(below - k) < 2.0**-13) & (abs(below - k) > 2.0**-20)
    b = np.stack([-k * 2.0**-92, m], 1)[some].astype(np.float32)
    wanted = np.sign(below - k)[some]
    assert np.unique(wanted).size == 2
    a = np.broadcast_to(np.float32([2**30, 2**30 - 64]), b.shape)
    for place in (ROWS, COLUMNS):
        log, sign = WEIGHTED.over((a, b), place)
        np.testing.assert_array_equal(sign, wanted)
        assert (log == 2**30 - 64).all()  # 73 to 78 less, rounded


def test_an_entry_between_cancelled_ones_and_nothing():
    a = np.array([9e3, 9e3, 9e3 - 500, 9e3 - 500, -9e3, -INF])
    assert signed(a, b=[1.0, -1, 2, -2, -0.5, 1]) == (-9e3 + np.log(0.5), -1)
    assert signed(a[:4], b=[1.0, -1, 2, -2]) == (-INF, 0)
    assert signed([1e308, 1e308, -1e308], b=[1.0, -1, 1]) == (-1e308, 1)


@needs_wide
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0, 800], [1e300, 1e-300]),
        ([0, 1400], [1e300, 1e-300]),
        ([0, -3000, -3000], [1e-300, 1e300, -1e300]),
        ([0] * 20, [1.7e308] * 20),
        ([700] * 3, [1.7e308] * 3),
        ([-700] * 3, [5e-324] * 3),
        ([5, 5], [1e39, -0.5e39]),
        ([3e38, -3e38], [1e300, 1e300]),
    ],
)
def test_weights_beyond_the_range_of_terms(a, b, dtype):
    WEIGHTED.check((np.array(a, dtype), np.array(b, float)), dtype=dtype)


def test_dtype_smaller_than_the_entries():
    assert logsumexp([1e30, 2.0], b=[0.5, 1], dtype=np.float32) == np.float32(1e30)
    assert logsumexp([1e299, 2.0], b=[0.0, 1], dtype=np.float32) == 2


# ---- which bits ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_is_a_weight_of_zero(dtype):
    for n in (3, 17, 250):
        a, b = WEIGHTED.draw(19, n, dtype)
        where = np.random.default_rng(n).random(a.shape) < 0.6
        zero = np.where(where, b, dtype(0))
        expected = WEIGHTED.over((a, zero))
        a[~where] = np.resize([NAN, INF, -INF, 1], np.count_nonzero(~where))
        assert_same_bits(WEIGHTED.over((a, zero)), expected)
        b[~where] = np.resize([NAN, 1, INF], np.count_nonzero(~where))
        for place in (ROWS, COLUMNS):
            assert_same_bits(WEIGHTED.over((a, b), place, where=where), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_and_a_column_give_the_same(dtype):
    """In every layout."""
    for n, rows in itertools.product([*LENGTHS, CHUNK, 2 * CHUNK + 17], (3, 19)):
        given = WEIGHTED.draw(rows if n < CHUNK else 2, n, dtype)
        expected = WEIGHTED.over(given)
        for layout in LAYOUTS.values() if n in (17, 250) else [np.copy]:
            assert_same_bits(WEIGHTED.over(given, COLUMNS, layout), expected)


TYPES = [np.bool_, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float32]


@pytest.mark.parametrize("dtype", [*TYPES, ml_dtypes.bfloat16])
def test_types_are_read_as_they_are(dtype):
    values = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]).astype(dtype)
    wide = values.astype(np.float64)
    a, _ = WEIGHTED.draw(2, 5)
    assert_same_bits(signed(a, -1, values), signed(a, -1, wide))
    assert_same_bits(signed(values, -1, a, dtype="f8"), signed(wide, -1, a))


AXES = [None, 0, 1, 2, (0, 1), (0, 2), (1, 2), (), (0, 1, 2)]
BROADCASTS = [(1, 1, 1), (5,), (3, 1), (4, 1, 1), (4, 1, 5), (3, 5), (2, 4, 3, 1), ()]


@needs_wide
@pytest.mark.parametrize("shape", BROADCASTS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_broadcast_along_any_axes(shape, axis, swap, masked):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 5, (4, 3, 5)), rng.normal(size=shape)
    a, b = (b, a) if swap else (a, b)
    whole = np.broadcast_arrays(a, b)
    where = rng.random(whole[0].shape[1:]) < 0.7 if masked else np.array(True)
    results = signed(a, axis, b, where=where)
    assert_all_right(results, WEIGHTED.judges(whole, axis, where=where))
    assert_same_bits(results, signed(a.copy(), axis, whole[1], where=where))


@needs_wide
@pytest.mark.parametrize("runs", [(70, 5, 90), (5, 70, 3), (3, 2, 200, 4)])
def test_runs_of_several_axes(runs):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=runs), rng.normal(1, 0.7, runs)
    for axis in ((0, 2), None, (0, len(runs) - 1)):
        for view, weights in (
            (a, b),
            (a, b[:1]),
            (a.T, b.T),
            (a[..., ::2], b[..., 1:2]),
        ):
            WEIGHTED.check((view, weights), axis)


def test_out_and_overlap():
    a, b = WEIGHTED.draw(6, 30)
    expected = logsumexp(a, 1, abs(b))
    memory = a.copy()
    assert logsumexp(memory, 1, abs(b), out=memory[:, 4]) is not None
    np.testing.assert_array_equal(memory[:, 4], expected)
    weights = abs(b)
    logsumexp(a, 1, weights, out=weights[:, 4])
    np.testing.assert_array_equal(weights[:, 4], expected)


@pytest.mark.parametrize("cancel", [[3], [3, 9]])
def test_columns_beside_some_that_are_summed_again_keep_their_bits(use_threads, cancel):
    """Sums of 1.009 stand as they are, of 1 they do not; few weights, large errors."""
    rng = np.random.default_rng(7)
    for _ in range(8):
        x, b = np.zeros((CHUNK + 464, 16)), np.zeros((CHUNK + 464, 16), np.float32)
        b[:3], x[:3] = 1, rng.normal(size=(3, 16))
        log = np.full(16, 0.0085)
        log[cancel] = 0
        x[:3] += log - np.log(np.exp(x[:3]).sum(0))
        x = x.astype(np.float32)
        use_threads(1)
        expected = logsumexp(x, 0, b)
        use_threads(2)
        assert_same_bits(logsumexp(x, 0, b), expected)


def test_nothing_as_large_as_the_entries_is_allocated():
    a, b = WEIGHTED.draw(500, 400)
    calls = [
        lambda: logsumexp(a, 1, b),
        lambda: logsumexp(a, 0, b, return_sign=True),
        lambda: logsumexp(a, None, b[0]),
        lambda: logsumexp(a, 0, b[:, :1]),
        lambda: logsumexp(a[:1], 1, b[:, :1]),
        lambda: logsumexp(a.T, 0, b.T[:, :1], dtype=np.float32),
    ]
    for call in calls:
        tracemalloc.start()
        silently(call)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < a.nbytes / 20
