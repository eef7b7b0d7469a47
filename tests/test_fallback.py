"""Complex and long double input, and the weights and sign of logsumexp.

References are loops over mpmath numbers, with 60 digits unless a test says more.
"""

import itertools
import warnings

import numpy as np
import pytest
from mpmath import mp, mpc, mpf

from fastsoftmax import log_softmax, logsumexp, softmax

REAL = [np.float32, np.float64, np.longdouble]
COMPLEX = [np.complex64, np.complex128, np.clongdouble]
INF, NAN = np.inf, np.nan


@pytest.fixture(autouse=True)
def no_warning_and_60_digits():
    """Every test runs with floating-point errors and warnings as exceptions."""
    with np.errstate(all="raise"), warnings.catch_warnings(), mp.workdps(60):
        warnings.simplefilter("error")
        yield


def exact(x):
    """The value of a NumPy number as an mpmath number, not rounded."""
    if np.iscomplexobj(x):
        return mpc(exact(x.real), exact(x.imag))
    if not np.isfinite(x):
        return mpf(float(x))
    total, part = mpf(0), float(x)
    while part:  # a long double is the sum of two or three doubles
        total, x = total + part, x - x.dtype.type(part)
        part = float(x)
    return total


def ulps(result, reference):
    """Error in units of the last place of the reference, or of its modulus."""
    info = np.finfo(result.dtype)
    exponent = max(mp.frexp(abs(reference))[1] - 1, info.minexp)
    return float(abs(exact(result) - reference) / mpf(2) ** (exponent - info.nmant))


def reference_sum(a, b=None):
    weights = [1] * len(a) if b is None else [exact(w) for w in b]
    pairs = zip(weights, a, strict=True)
    return mp.fsum(w * mp.exp(exact(v)) for w, v in pairs)


def random(rng, shape, dtype, low=-30.0, high=30.0):
    x = rng.uniform(low, high, shape).astype(dtype)
    if np.iscomplexobj(x):
        x += (1j * rng.uniform(-20, 20, shape)).astype(dtype)
    else:
        # bits beyond double precision, too
        x += (rng.uniform(-1, 1, shape) * 2.0**-50).astype(dtype)
    return x


def same(result, expected):
    """Equal shapes and values, NaN included, in real and imaginary part."""
    assert np.shape(result) == np.shape(expected)
    np.testing.assert_array_equal(np.real(result), np.real(expected))
    np.testing.assert_array_equal(np.imag(result), np.imag(expected))


# ---------------------------------------------------------------- long double


@pytest.mark.parametrize("n", [2, 7, 130, 1000])
@pytest.mark.parametrize("offset", [0, 700])
def test_long_double_is_within_a_few_ulps(n, offset):
    rng = np.random.default_rng(n)
    x = random(rng, n, np.longdouble, -300, 300) + np.longdouble(offset)
    total = reference_sum(x)
    y, z, s = softmax(x), log_softmax(x), logsumexp(x)
    assert y.dtype == z.dtype == s.dtype == np.longdouble
    assert np.count_nonzero(y) == n > np.count_nonzero(y == 1)
    for i, v in enumerate(x):
        # In 2^-64 of a value, an ULP of one just below a power of two: terms 1.2 off
        # (glibc), their sum as much and what adding rounds, the quotient 1.
        assert ulps(y[i], mp.exp(exact(v)) / total) <= 3.5
        assert ulps(z[i], exact(v) - mp.log(total)) <= 3
    assert ulps(s, mp.log(total)) <= 2


def test_long_double_keeps_its_range():
    if np.finfo(np.longdouble).maxexp <= 1024:
        pytest.skip("long double has the range of double here")
    x = np.array([0, -11000], dtype=np.longdouble)
    assert 0 < softmax(x)[1] < 1e-300
    big = np.array([20000, 20000], dtype=np.longdouble)
    assert ulps(logsumexp(big), 20000 + mp.log(2)) <= 1


@pytest.mark.parametrize("dtype", [np.longdouble, *COMPLEX])
def test_small_remainder_is_not_lost(dtype):
    x = np.array([0, -60], dtype=dtype)
    remainder = mp.log1p(mp.exp(-60))
    assert ulps(log_softmax(x)[0].real, -remainder) <= 1
    assert ulps(logsumexp(x).real, remainder) <= 1


@pytest.mark.parametrize("b", [None, [1, 1, 1]])
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0, NAN, 1], NAN),
        ([INF, NAN, 1], NAN),
        ([0, INF, 1], INF),
        ([INF, -INF, INF], INF),
        ([-INF, -INF, -INF], -INF),
        ([-INF, 5, -INF], 5),
    ],
)
def test_special_values_of_logsumexp(row, expected, dtype, b):
    a = np.array(row, dtype=dtype)
    b = None if b is None else np.array(b, dtype=dtype)
    log, sign = logsumexp(a, b=b, return_sign=True)
    same(log, expected)
    same(sign, {-INF: 0}.get(expected, expected if np.isnan(expected) else 1))
    same(logsumexp(a, b=b), expected)


@pytest.mark.parametrize(
    ("row", "expected_softmax", "expected_log_softmax"),
    [
        ([0, NAN, 1], [NAN] * 3, [NAN] * 3),
        ([0, INF, -INF], [NAN] * 3, [-INF, NAN, -INF]),
        ([-INF, -INF, -INF], [NAN] * 3, [NAN] * 3),
        ([-INF, 5, -INF], [0, 1, 0], [-INF, 0, -INF]),
        ([], [], []),
    ],
)
def test_special_values_of_long_double(row, expected_softmax, expected_log_softmax):
    x = np.array(row, dtype=np.longdouble)
    same(softmax(x), expected_softmax)
    same(log_softmax(x), expected_log_softmax)


# -------------------------------------------------------------------- complex


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("n", [2, 5, 200])
@pytest.mark.parametrize("offset", [0, 1000])
def test_complex(dtype, n, offset):
    rng = np.random.default_rng(n)
    x = random(rng, n, dtype, -5, 5) + dtype(offset)
    total = reference_sum(x)
    # The sum of phases loses digits to cancellation; no formula avoids that.
    condition = float(reference_sum(x.real) / abs(total))
    y, z, s = softmax(x), log_softmax(x), logsumexp(x)
    assert y.dtype == z.dtype == s.dtype == dtype
    assert -np.pi < s.imag <= np.pi
    assert ulps(s, mp.log(total)) <= 2 + condition
    for i, v in enumerate(x):
        assert ulps(y[i], mp.exp(exact(v)) / total) <= 4 + 2 * condition
        branch = mp.nint(
            (exact(z[i]).imag - exact(v).imag + mp.arg(total)) / (2 * mp.pi)
        )
        expected = exact(v) - mp.log(total) + 2j * mp.pi * branch
        assert ulps(z[i], expected) <= 20 + 2 * condition


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_log_softmax_is_on_the_branch_of_scipy(dtype):
    special = pytest.importorskip("scipy.special")
    x = random(np.random.default_rng(2), (50, 6), dtype)
    expected = special.log_softmax(x, axis=1)
    assert np.ptp(expected.imag) > 2 * np.pi
    np.testing.assert_allclose(log_softmax(x, axis=1), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_sign_is_the_phase(dtype):
    x = random(np.random.default_rng(1), 9, dtype, 1000, 1003)
    total = reference_sum(x)
    log, sign = logsumexp(x, return_sign=True)
    assert log.dtype == np.finfo(dtype).dtype
    assert sign.dtype == dtype
    assert ulps(log, mp.log(abs(total))) <= 2
    assert ulps(sign, total / abs(total)) <= 20
    assert abs(sign.imag) > 0.1


@pytest.mark.parametrize("imaginary", [2.0**-60, -(2.0**-60), 1e6, -3.0, np.pi])
def test_imaginary_part_is_accurate_and_principal(imaginary):
    x = np.array([complex(3, imaginary), 1])
    expected = mp.log(reference_sum(x))
    result = logsumexp(x)
    assert ulps(result.real, expected.real) <= 2
    assert ulps(result.imag, expected.imag) <= 4


PHASES = [0.0, -0.0, 0.7533, 2.3562, 3.9270, 5.4978, INF, -INF]
INFINITIES = [complex(r, i) for r in (-INF, INF) for i in PHASES]


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_infinities_follow_exp_and_log(dtype):
    for pair in itertools.product(INFINITIES, repeat=2):
        x = np.array(pair, dtype=dtype)
        with np.errstate(all="ignore"):
            expected = np.log(np.sum(np.exp(x)))
        same(logsumexp(x), expected)


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_infinities_beside_finite_numbers(dtype):
    low = np.array([complex(-INF, 2), 3 + 1j, complex(-INF, NAN)], dtype=dtype)
    same(logsumexp(low), low[1])
    same(softmax(low), [0, 1, 0])
    high = np.array([INF, 1e4 + 1j], dtype=dtype)
    same(logsumexp(high), INF)
    assert np.isnan(softmax(high)).all()
    log, sign = logsumexp(high, return_sign=True)
    assert (log, sign) == (INF, 1)


# ----------------------------------------------------- options of softmax, both


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("dtype", [np.longdouble, *COMPLEX])
class TestOptions:
    @pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (2, 1), ()])
    def test_axis(self, function, dtype, axis):
        x = random(np.random.default_rng(3), (3, 4, 5), dtype)
        result = function(x, axis=axis)
        axes = range(3) if axis is None else np.atleast_1d(axis).astype(int) % 3
        kept = [i for i in range(3) if i not in axes]
        for index in itertools.product(*(range(x.shape[i]) for i in kept)):
            at = [slice(None)] * 3
            for i, k in zip(kept, index, strict=True):
                at[i] = slice(k, k + 1)
            expected = function(x[tuple(at)].ravel())
            same(result[tuple(at)].ravel(), expected)

    def test_temperature_divides_first(self, function, dtype):
        x = random(np.random.default_rng(4), 20, dtype)
        same(function(x, temperature=4.0), function(x / 4))
        assert not np.array_equal(function(x, temperature=4.0), function(x))

    def test_temperature_keeps_infinities(self, function, dtype):
        x = np.array([-INF, 1, 2], dtype=dtype)
        same(function(x, temperature=2.0)[0], function(x)[0])
        assert np.isfinite(function(x, temperature=2.0)[1:]).all()

    def test_where_takes_entries_out_of_the_set(self, function, dtype):
        x = random(np.random.default_rng(5), (4, 9), dtype)
        x[0, 2], x[1, 3], x[2, 4] = NAN, INF, 1e30
        where = np.arange(9) > 4
        result = function(x, axis=1, where=where)
        outside = 0 if function is softmax else -INF
        same(result[:, ~where], np.full((4, 5), outside))
        expected = function(x[:, where], axis=1)
        rtol = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(result[:, where], expected, rtol=rtol)

    def test_all_masked(self, function, dtype):
        x = np.ones((2, 3), dtype=dtype)
        result = function(x, axis=1, where=np.array([[True], [False]]))
        same(result[1], np.full(3, 0 if function is softmax else -INF))
        same(result[0], function(x[0]))

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
    @pytest.mark.parametrize("axis", [None, 0, -1])
    def test_empty(self, function, dtype, shape, axis):
        result = function(np.empty(shape, dtype=dtype), axis=axis)
        assert (result.shape, result.dtype) == (shape, dtype)

    def test_zero_dimensions(self, function, dtype):
        result = function(np.array(7, dtype=dtype))
        assert isinstance(result, dtype)
        assert result == (1 if function is softmax else 0)

    def test_memory_order_and_strides(self, function, dtype):
        x = random(np.random.default_rng(6), (4, 6, 10), dtype)
        for view in (x.T, x[::-1, ::2], np.asfortranarray(x), x.transpose(1, 2, 0)):
            before = view.copy()
            result = function(view, axis=1)
            same(result, function(np.ascontiguousarray(view), axis=1))
            assert result.strides == np.empty_like(view).strides
            same(view, before)


# --------------------------------------------------------- weights of logsumexp


def weighted(rng, n, dtype):
    a = random(rng, n, dtype, 995, 1005)
    b = rng.uniform(0.5, 2, n) * rng.choice([-1, 1], n, p=[0.2, 0.8])
    if np.issubdtype(dtype, np.complexfloating):
        b = b * np.exp(1j * rng.uniform(-3, 3, n))
    return a, b.astype(dtype)


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("n", [1, 6, 300])
def test_weights(dtype, n):
    for seed in range(10):
        a, b = weighted(np.random.default_rng(seed), n, dtype)
        total = reference_sum(a, b)
        log, sign = logsumexp(a, b=b, return_sign=True)
        assert ulps(log, mp.log(abs(total))) <= 1
        condition = float(reference_sum(a.real, abs(b)) / abs(total))
        assert ulps(sign, total / abs(total)) <= 1 + 2 * condition


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_weights_keep_a_small_remainder(dtype):
    a, b = np.array([0, -60], dtype=dtype), np.array([1, -2], dtype=dtype)
    expected = mp.log1p(-2 * mp.exp(-60))
    assert ulps(logsumexp(a, b=b).real, expected) <= 1


@pytest.mark.parametrize("dtype", REAL)
def test_near_cancellation(dtype):
    # 1 - (1 - eps/2): what is left has no rounding error but that of exp.
    a = np.zeros(2, dtype=dtype)
    b = np.array([1, np.nextafter(dtype(1), dtype(0))], dtype=dtype) * [1, -1]
    b = b.astype(dtype)
    assert ulps(logsumexp(a, b=b), mp.log(exact(b[0]) + exact(b[1]))) <= 1


def test_negative_total_is_nan_but_for_its_sign():
    a, b = [1.0, 2.0], [1.0, -1.0]
    assert np.isnan(logsumexp(a, b=b))
    log, sign = logsumexp(a, b=b, return_sign=True)
    np.testing.assert_allclose(log, np.log(np.e**2 - np.e), rtol=1e-15)
    assert sign == -1


def test_negative_weight_of_the_largest_term():  # scipy gh-22903
    a, b = np.array([3.0, 0.5, 4.0]), np.array([2.0, 3.0, -0.8])
    total = reference_sum(a, b)
    assert total > 0
    assert abs(logsumexp(a, b=b) - float(mp.log(total))) < 1e-14


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("level", [1, 1000, -1000])
def test_full_cancellation(dtype, level):
    a, b = np.full(2, level, dtype=dtype), np.array([1, -1], dtype=dtype)
    log, sign = logsumexp(a, b=b, return_sign=True)
    assert (log, sign) == (-INF, 0)
    assert logsumexp(a, b=b).real == -INF


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_cancelled_terms_hide_nothing(dtype):
    a = np.array([[9000, 9000, 5000, 2, 5000]] * 2, dtype=dtype)
    b = np.array([[1, -1, 1, 1, -1], [1, -1, 1, 1, -2]], dtype=dtype)
    log, sign = logsumexp(a, axis=1, b=b, return_sign=True)
    assert log.tolist() == [2, 5000]
    assert sign.tolist() == [1, -1]


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("entry", [NAN, INF, -INF, 1e30])
def test_zero_weight_removes_anything(dtype, entry):
    a, b = np.array([1, entry], dtype=dtype), np.array([2, 0], dtype=dtype)
    log, sign = logsumexp(a, b=b, return_sign=True)
    assert ulps(log, 1 + mp.log(2)) <= 1
    assert sign == 1
    same(logsumexp(a, b=np.zeros_like(b)).real, -INF)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(
    ("a", "b", "log", "sign"),
    [
        ([INF], [-1], INF, -1),  # scipy gh-23548
        ([INF, 1e4], [1, -1], INF, 1),
        ([INF, 1e4], [-1, 1], INF, -1),
        ([INF, INF], [2, -1], NAN, NAN),
        ([0, 1], [1, INF], INF, 1),
        ([0, 1], [-INF, 1], INF, -1),
        ([0, 1], [NAN, 1], NAN, NAN),
        ([-INF, -INF], [1, -1], -INF, 0),
    ],
)
def test_infinite_terms_and_weights(dtype, a, b, log, sign):
    a, b = np.array(a, dtype=dtype), np.array(b, dtype=dtype)
    result = logsumexp(a, b=b, return_sign=True)
    same(result[0], log)
    same(result[1], sign)
    same(logsumexp(a, b=b), NAN if sign == -1 else log)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, 3), (3, 0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_axis_counts_on_the_broadcast(axis, keepdims):
    rng = np.random.default_rng(7)
    a, b = random(rng, (3, 1, 5), np.float64), rng.uniform(1, 2, (4, 1, 2, 1))
    result = logsumexp(a, axis, b, keepdims)
    expected = np.log(np.sum(b * np.exp(a), axis=axis, keepdims=keepdims))
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match="broadcast"):
        logsumexp(np.ones(3), b=np.ones(2))


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_where_takes_weighted_terms_out(dtype):
    rng = np.random.default_rng(8)
    a, b = random(rng, (3, 8), dtype), np.linspace(1, 3, 8).astype(dtype)
    a[:, 0], b[1] = NAN, INF
    where = np.arange(8) > 1
    for weights in (None, b):
        kept = None if weights is None else weights[where]
        result = logsumexp(a, 1, weights, return_sign=True, where=where)
        expected = logsumexp(a[:, where], 1, kept, return_sign=True)
        np.testing.assert_allclose(result[0], expected[0], rtol=1e-6)
        np.testing.assert_allclose(result[1], expected[1], rtol=1e-5)
        masked = logsumexp(a, 1, weights, return_sign=True, where=np.array(False))
        same(masked[0], [-INF] * 3)
        same(masked[1], [0] * 3)


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("b", [None, 2.0])
@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [((0,), None, ()), ((3, 0), -1, (3,)), ((0, 3), -1, (0,)), ((0, 3), None, ())],
)
def test_empty_sums(dtype, b, shape, axis, expected):
    a = np.empty(shape, dtype=dtype)
    log, sign = logsumexp(a, axis, b, return_sign=True)
    assert sign.dtype == logsumexp(a, axis, b).dtype == dtype
    same(log, np.full(expected, -INF))
    same(sign, np.zeros(expected))


@pytest.mark.parametrize("axis", [None, 0, (0, 2)])
def test_sign_has_the_shape_and_dtype_of_the_log(axis):
    a = np.ones((2, 3, 4), dtype=np.float32)
    log, sign = logsumexp(a, axis, keepdims=True, return_sign=True)
    assert log.shape == sign.shape == np.sum(a, axis=axis, keepdims=True).shape
    assert log.dtype == sign.dtype == np.float32
    assert (sign == 1).all()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.float32, np.float32, np.float32),
        (np.float32, np.float64, np.float64),
        (np.float32, np.int64, np.float64),
        (np.float64, np.float32, np.float64),
        (np.int32, np.int64, np.float64),
        (np.int64, np.float32, np.float64),
        (np.float32, np.complex64, np.complex64),
        (np.complex64, np.float64, np.complex128),
        (np.float32, np.longdouble, np.longdouble),
        (np.complex64, np.longdouble, np.clongdouble),
    ],
)
def test_dtype_of_weighted_sums(a, b, expected):
    result = logsumexp(np.array([2, 1], dtype=a), b=np.array([1, -1], dtype=b))
    assert result.dtype == expected
    reference = mp.log(mp.exp(2) - mp.exp(1))
    assert ulps(result, reference) <= 2


def test_python_number_as_weight_keeps_float32():
    result = logsumexp(np.ones(3, dtype=np.float32), b=2.0)
    assert result.dtype == np.float32
    assert ulps(result, 1 + mp.log(6)) <= 1


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
def test_input_is_not_written_to(dtype):
    a = np.array([[5, 4, NAN, INF]], dtype=dtype)
    b = np.array([[3, -2, 0, 1]], dtype=dtype)
    copies = a.copy(), b.copy()
    a.flags.writeable = b.flags.writeable = False
    where = np.array([True, True, True, False])
    logsumexp(a, b=b, where=where)
    logsumexp(a, b=b, return_sign=True)
    softmax(a, temperature=2.0, where=where)
    log_softmax(a, temperature=2.0, where=where)
    same(a, copies[0])
    same(b, copies[1])


@pytest.mark.parametrize("dtype", [np.longdouble, np.complex128])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_do_not_drift_along_either_axis(dtype, axis):
    # A naive sum of so many equal terms is off by some ten ULP.
    n = 100_000
    x = np.tile(np.array([[0.1], [0.2]], dtype=dtype), (n, 2))
    x = x if axis == 0 else np.ascontiguousarray(x.T)
    reference = mp.log(n * reference_sum(np.array([0.1, 0.2], dtype=dtype)))
    assert ulps(logsumexp(x, axis=axis)[0].real, reference.real) <= 1
