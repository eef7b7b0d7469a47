"""Special values and gradients of CuPy arrays, on the stand-in."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import right
from oracle.arithmetic import assert_right
from oracle.softmaxes import by_table

from fastsoftmax import log_softmax, log_softmax_vjp, logsumexp, softmax, softmax_vjp
from gpu.judging import (
    DTYPES,
    HALVES,
    LAYOUTS,
    Array,
    assert_close,
    computed,
    draw,
    reference,
    run,
)

INF, NAN = np.inf, np.nan
of_all = pytest.mark.parametrize("function", [softmax, log_softmax, logsumexp])
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def special_rows(n: int) -> Array:
    """Rows for each line of the table, the special entry first, amid and last."""
    ordinary = np.arange(n) * 37 % 64 / 8 - 4.0
    rows = [np.full(n, value) for value in (NAN, INF, -INF)]
    for place in {0, n // 2, n - 1}:
        for value in (NAN, INF, -INF):
            rows.append(np.where(np.arange(n) == place, value, ordinary))
        for value in (NAN, INF, 1.5):
            rows.append(np.where(np.arange(n) == place, value, -INF))
    for first, second in ((NAN, INF), (INF, NAN), (NAN, -INF), (INF, INF), (INF, -INF)):
        row = ordinary.copy()
        row[0], row[n // 2] = first, second
        rows.append(row)
    return np.array([*rows, ordinary])


def masks(n: int) -> dict[str, Array | None]:
    some = np.arange(n) % 3 != 1
    return {
        "no where": None,
        "some": some,
        "not the first": np.arange(n) > 0,
        "nothing": np.zeros(n, bool),
    }


CASES = [(10, 1, dtype) for dtype in DTYPES] + [
    (n, axis, dtype)
    for n, axis in ((33, 1), (10, 0))
    for dtype in (np.float32, np.float64)
]


@of_all
@pytest.mark.parametrize(("n", "axis", "dtype"), CASES)
def test_the_table(cupy, axis, n, dtype, function):
    rows = special_rows(n)
    x = rows.astype(dtype) if axis == 1 else rows.T.astype(dtype)
    for kept in masks(n).values():
        where = None
        if kept is not None:
            where = cupy.asarray(kept if axis == 1 else kept[:, None])
        y = run(function, cupy.asarray(x), axis=axis, where=where)
        want = np.array([by_table(function.__name__, row, kept) for row in rows])
        y = y.T if axis == 0 else y
        assert_close(y, want, 8 if function is logsumexp else None)


@of_all
@pytest.mark.parametrize("n", [2000, 9001])
def test_the_table_in_long_rows(cupy, n, function):
    rows = special_rows(n)
    mask = masks(n)["some"]
    where = cupy.asarray(mask)
    y = run(function, cupy.asarray(rows.astype("f4")), axis=1, where=where)
    want = np.array([by_table(function.__name__, row, mask) for row in rows])
    assert_close(y, want, 16 if function is logsumexp else None)


@of_all
def test_special_values_in_a_row_of_several_blocks(cupy, function):
    n = 40_000
    ordinary = np.arange(n) * 37 % 64 / 8 - 4.0
    rows = np.array([ordinary] * 3)
    rows[0, 33_000], rows[1, 17_000], rows[2, :20_000] = NAN, INF, -INF
    y = run(function, cupy.asarray(rows.astype("f4")), axis=1)
    want = np.array([by_table(function.__name__, row) for row in rows])
    assert_close(y, want, 16 if function is logsumexp else None)


@of_all
def test_the_largest_numbers(cupy, function):
    for dtype in (np.float32, np.float64):
        big = np.finfo(dtype).max
        row = np.full(10, -big)
        row[5] = big
        want = {"softmax": row > 0, "log_softmax": np.where(row > 0, 0, -INF)}
        y = run(function, cupy.asarray(row[None].astype(dtype)), axis=1)
        np.testing.assert_array_equal(y[0], want.get(function.__name__, big))


def test_a_term_far_below_the_largest_is_not_lost(cupy):
    x = np.array([[0.0, -40.0], [0.0, -12.0]])
    for dtype in (np.float32, np.float64):
        y = run(log_softmax, cupy.asarray(x.astype(dtype)), axis=-1)
        assert_close(y, reference("log_softmax", x, -1))
        assert (y[:, 0] < 0).all()


def test_weights_and_special_values(cupy):
    a = np.array([[NAN, 1], [INF, 1], [-INF, 1], [INF, -INF], [-INF, -INF], [NAN, NAN]])
    b = np.array([[0.0, 2.0], [1, 1], [0, -2], [1, 0], [-INF, 1], [1.0, NAN]])
    for left, other in ((a, b), (a, b[::-1]), (a[::-1], b)):
        arrays = cupy.asarray(left), cupy.asarray(np.ascontiguousarray(other))
        got = run(logsumexp, arrays[0], -1, b=arrays[1], return_sign=True)
        want = logsumexp(left, -1, b=other, return_sign=True)
        for one, same in zip(got, want, strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-15)


def with_large(n: int, dtype) -> Array:
    """Rows whose quotients overflow, in some or all of their entries."""
    most = np.finfo(dtype).max
    x = np.random.default_rng(0).normal(0, 3, (6, n)).astype(dtype)
    x[0, :3] = most, most * 0.99, -most
    x[1, :2] = x[1, -1] = most
    x[2] = -most
    x[3, ::4], x[3, 1] = most * 0.3, most * 0.29
    x[4, :2] = most * 0.6, most * 0.2
    x[5], x[5, 3] = -most, -most * 0.9
    return x


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "axis"), [(10, 1), (600, 1), (40, 0)])
def test_quotients_that_overflow(cupy, n, axis, dtype, function):
    """What neither a NaN nor an infinity is in gives none."""
    x = with_large(n, dtype) if axis else np.ascontiguousarray(with_large(n, dtype).T)
    where = np.random.default_rng(1).random(x.shape) < 0.7
    each = np.full([1 if d == axis else size for d, size in enumerate(x.shape)], 1e-3)
    for temperature in (0.9999, 1e-3, each):
        for mask in (None, where):
            options = {"axis": axis, "temperature": temperature}
            want = function(x, where=mask, **options)
            given = None if mask is None else cupy.asarray(mask)
            got = run(function, cupy.asarray(x), where=given, **options)
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(got, want, rtol=4 * eps, atol=1e-37)
            assert not np.isnan(got).any()


# ---- gradients ----


@pytest.mark.parametrize(
    ("function", "forward"), [(softmax_vjp, softmax), (log_softmax_vjp, log_softmax)]
)
@of_every_dtype
def test_gradients(cupy, dtype, function, forward):
    cases = [((37, 10), -1), ((3, 10, 6), 1), ((6, 100), 1), ((3, 10, 6), None)]
    for shape, axis in cases[:2] if dtype in HALVES else cases:
        y = forward(draw(shape, np.float64), axis=axis).astype(dtype)
        dy = np.random.default_rng(1).normal(0, 1, shape).astype(dtype)
        dx = run(function, cupy.asarray(y), cupy.asarray(dy), axis=axis)
        assert dx.dtype == dtype
        check_gradient(function, dx, y, dy, axis, 1.0)


def check_gradient(function, dx, y, dy, axis, temperature):
    """What the CPU is allowed, subnormal numbers of float32, and sums of pairs."""
    want = right(function, y, dy, axis=axis, temperature=temperature, dtype=dx.dtype)
    flushed = 2.0**-124 if computed(dx.dtype) is np.float32 else 0
    compute_eps = np.finfo(computed(dx.dtype)).eps
    sums = y.size * compute_eps**2 * np.max(abs(dy.astype(float)), initial=0)
    assert_right(dx, want._replace(allowed=want.allowed + flushed + sums))


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_in_long_rows_and_columns(cupy, function):
    forward = softmax if function is softmax_vjp else log_softmax
    for shape, axis in [
        ((2, 2000), 1),
        ((2, 6001), 1),
        ((1, 30_000), 1),
        ((1, 300, 33), 1),
    ]:
        y = forward(draw(shape), axis=axis)
        dy = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
        dx = run(
            function, cupy.asarray(y), cupy.asarray(dy), axis=axis, temperature=0.5
        )
        check_gradient(function, dx, y, dy, axis, 0.5)


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_that_broadcast_and_promote(cupy, function):
    forward = softmax if function is softmax_vjp else log_softmax
    y = forward(draw((4, 10)), axis=-1)
    for dy in (np.ones((1, 10), np.float64), np.float32([[1]] * 4), np.array(2, "i8")):
        dx = run(function, cupy.asarray(y), cupy.asarray(dy), axis=-1)
        want = function(y, dy, axis=-1)
        assert dx.dtype == want.dtype
        check_gradient(function, dx, y.astype(dx.dtype), dy.astype(dx.dtype), -1, 1.0)
    by_number = run(function, cupy.asarray(y), 2.0, axis=-1)
    assert by_number.dtype == np.float32


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_in_place(cupy, function):
    y, dy = softmax(draw((5, 64)), axis=-1), draw((5, 64), seed=1)
    want = run(function, cupy.asarray(y), cupy.asarray(dy), axis=-1)
    for place in (0, 1):
        arrays = [cupy.asarray(y), cupy.asarray(dy)]
        assert function(*arrays, axis=-1, out=arrays[place]) is arrays[place]
        np.testing.assert_array_equal(arrays[place].get(), want)


@pytest.mark.parametrize("layout", ["F", "backwards"])
@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_of_other_layouts(cupy, function, layout):
    y, dy = softmax(draw((4, 6, 8)), axis=-1), draw((4, 6, 8), seed=1)
    for axis in (-1, 0):
        one = LAYOUTS[layout](cupy, y), LAYOUTS["C"](cupy, dy)
        other = LAYOUTS["C"](cupy, y), LAYOUTS[layout](cupy, dy)
        for arrays in (one, other):
            check_gradient(
                function, run(function, *arrays, axis=axis), y, dy, axis, 1.0
            )


@of_every_dtype
def test_gradients_keep_special_values_in_their_row(cupy, dtype):
    y = softmax(draw((6, 10), np.float64), axis=-1).astype(dtype)
    dy = draw((6, 10), dtype, 1)
    dy[1, 3], dy[2, 4], y[4, 0] = INF, NAN, NAN
    y[3, :2] = 0
    for function in (softmax_vjp, log_softmax_vjp):
        got = run(function, cupy.asarray(y), cupy.asarray(dy), axis=-1).astype(float)
        want = function(y, dy, axis=-1).astype(float)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
        assert np.isfinite(got[0]).all()
        if function is softmax_vjp:
            assert (got[3, :2] == 0).all()


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
@pytest.mark.parametrize("dtype", [np.float32, HALVES[1]])
def test_gradients_of_what_is_masked_out(cupy, dtype, function):
    """Absent: NaN and infinities there say nothing, and a NaN elsewhere neither."""
    forward = softmax if function is softmax_vjp else log_softmax
    where = np.random.default_rng(2).random((5, 12)) < 0.6
    where[1] = False
    y = np.asarray(forward(draw(where.shape, np.float64), -1, where=where), dtype)
    dy = draw(where.shape, dtype, 1)
    dy[~where] = 0
    rubbish = [np.where(where, a, np.array(NAN, dtype)) for a in (y, dy)]
    rubbish[1][2, ~where[2]] = INF
    arrays = tuple(map(cupy.asarray, rubbish))
    mask = cupy.asarray(where)
    each = cupy.asarray(np.full((5, 1), 0.5, np.float32))
    for value, temperature in ((1.0, 1.0), (0.5, 0.5), (0.5, each)):
        options = {"axis": -1, "where": mask, "temperature": temperature}
        dx = run(function, *arrays, **options)
        check_gradient(function, dx, y, dy, -1, value)
        assert not dx[~where].any()
        out = cupy.asarray(rubbish[0])
        assert function(*arrays, out=out, **options) is out
        np.testing.assert_array_equal(out.get(), dx)
    dy[0, where[0]] = NAN
    dx = run(function, cupy.asarray(y), cupy.asarray(dy), axis=-1, where=mask)
    assert np.isnan(dx[0, where[0]].astype(float)).all()
    assert not dx[~where].any()


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
def test_gradients_have_the_dtype_asked_for(cupy, function):
    y, dy = softmax(draw((5, 12)), axis=-1), draw((5, 12), seed=1)
    for given, dtype in ((np.float32, np.float64), (np.float64, np.float16)):
        compute = computed(dtype)
        arrays = [cupy.asarray(a.astype(given)) for a in (y, dy)]
        dx = run(function, *arrays, axis=-1, dtype=dtype)
        arrays = [cupy.asarray(a.astype(given).astype(compute)) for a in (y, dy)]
        want = run(function, *arrays, axis=-1).astype(dtype)
        assert dx.dtype == dtype
        np.testing.assert_array_equal(dx, want)
    with pytest.raises(TypeError, match="dtype of CuPy arrays"):
        function(*arrays, dtype=np.complex64)


# ---- sums that leave the range, or meet numbers that are no more ----


def test_sums_may_leave_the_range_of_float32(cupy):
    big = cupy.asarray(np.float32([2e38, 2e38]))
    zeros = cupy.asarray(np.float32([0, 0]))
    assert_close(run(logsumexp, zeros, b=big), np.log(4e38))
    log, sign = run(
        logsumexp, zeros, b=cupy.asarray(np.float32([3e38, -3e38])), return_sign=True
    )
    assert (log, sign) == (-np.inf, 0)
    halves = cupy.asarray(np.float32([0.5, 0.5]))
    dx = run(log_softmax_vjp, cupy.asarray(np.log(halves.get())), big)
    assert np.abs(dx).max() <= 4 * 2.0**-23 * 3e38


def test_log_of_a_weighted_sum_next_to_one(cupy):
    for dtype in (np.float32, np.float64):
        a = cupy.asarray(np.array([0, -12, -13], dtype))
        want = np.log1p(np.exp(-12.0) + np.exp(-13.0))
        assert_close(run(logsumexp, a, return_sign=True)[0], want)
        where = cupy.asarray(np.array([True, True, False]))
        log, sign = run(logsumexp, a, where=where, return_sign=True)
        assert_close(log, np.log1p(np.exp(-12.0)))
        assert sign == 1


# ---- a temperature for each set ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("is_log", [False, True])
def test_a_temperature_for_each_set(cupy, is_log, dtype):
    """Of the host, or of the device, whose values nobody looks at."""
    forward, vjp = (softmax, softmax_vjp)
    if is_log:
        forward, vjp = log_softmax, log_softmax_vjp
    x = np.random.default_rng(0).normal(0, 3, (4, 20)).astype(dtype)
    t = np.array([[0.3], [1], [2], [5]])
    bound = 2e-3 if dtype is np.float16 else 2e-6
    expected = forward(x, 1, temperature=t)
    slopes = vjp(expected, x, 1, temperature=t)
    for given in (t, t.tolist(), cupy.asarray(t)):
        y = run(forward, cupy.asarray(x), axis=1, temperature=given)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=bound, atol=bound)
        arrays = cupy.asarray(expected), cupy.asarray(x)
        dx = run(vjp, *arrays, axis=1, temperature=given)
        np.testing.assert_allclose(dx, slopes, rtol=bound, atol=10 * bound)
        with pytest.raises(ValueError, match="temperature must broadcast"):
            forward(cupy.asarray(x), axis=0, temperature=given)
    with pytest.raises(ValueError, match="argmax"):
        forward(cupy.asarray(x), axis=1, temperature=0 * t)
