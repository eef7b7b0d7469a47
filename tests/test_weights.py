"""Weighted logsumexp: how exact, of which bits, over which layouts."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp, mpf
from references import LAYOUTS, Array, silently

from fastsoftmax import _cpu, logsumexp

INF, NAN = np.inf, np.nan
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
LENGTHS = [1, 2, 3, 15, 16, 17, 31, 33, 96, 97, 250, 1023, 1024, 1025, 2100]
CHUNK = 65_536  # CHUNK_OF_BUNDLES

signed = functools.partial(silently, logsumexp, return_sign=True)


# ---- how exact ----


@pytest.fixture(autouse=True)
def digits():
    with mp.workdps(120):
        yield


def exact_sum(a: Array, b: Array) -> tuple[mpf, mpf, mpf, float]:
    """The sum, that of its terms' absolute values, that of those below the largest
    entry; and M: all three are over exp(M), where M is the largest that is left."""
    pairs = [(x, w) for x, w in zip(a.tolist(), b.tolist(), strict=True) if w]
    pairs = [(x, w) for x, w in pairs if x > -INF]
    groups: dict[float, Fraction] = {}
    for x, w in pairs:
        groups[x] = groups.get(x, Fraction(0)) + Fraction(w)
    left = {x: w for x, w in groups.items() if w}
    top = max(left, default=max(groups, default=0.0))
    power = {
        x: mp.exp(d) if (d := mpf(x) - mpf(top)) > -20_000 else mpf(0) for x in groups
    }
    terms = [mpf(w.numerator) / w.denominator * power[x] for x, w in left.items()]
    sizes = [(x, abs(mpf(w)) * power[x]) for x, w in pairs]
    largest = max(groups, default=0.0)
    below = mp.fsum(size for x, size in sizes if x < largest)
    return mp.fsum(terms), mp.fsum(size for _, size in sizes), below, top


def spacing(x: float, dtype: type) -> mpf:
    return mpf(float(np.spacing(np.abs(np.float64(x)).astype(dtype))))


def check(a: Array, b: Array, dtype: type) -> None:
    """What the docstring of logsumexp promises."""
    log, sign = signed(a, b=b, dtype=dtype)
    a, b = a.astype(np.float64), b.astype(np.float64)
    total, sizes, below, top = exact_sum(a, b)
    case = (dtype, a.tolist(), b.tolist(), float(log))
    if abs(total) <= sizes * mpf(2) ** -95:  # what cancels leaves no more than this
        bound = float(mp.log(sizes) + top - 93 * mp.log(2)) if sizes else -INF
        assert log <= bound + abs(top) * 2**-22, case
        return
    expected = mp.log(abs(total)) + top
    assert sign == (1 if total > 0 else -1), case
    largest = float(a[(b != 0)].max())
    if dtype == np.float64:
        bound = 2 * spacing(max(abs(largest), abs(float(expected - largest))), dtype)
    else:
        bound = spacing(float(expected), dtype) + abs(mpf(largest)) * mpf(2) ** -52
    bound += below / abs(total) * mpf(2) ** -53
    assert abs(mpf(float(log)) - expected) <= bound, case


LEVELS = [0, 1, -3, 100, -250, 1499, 1501, -1499, -1501, 3000, -1e5, 1e10]


def awkward(rng: np.random.Generator) -> tuple[Array, Array]:
    """A set whose weights vary, cancel, vanish, or are far apart."""
    n = int(rng.choice([1, 2, 3, 5, 15, 16, 17, 33, 64]))
    a = rng.choice(LEVELS) + rng.choice([1e-3, 1, 10, 100, 1000]) * rng.normal(size=n)
    kinds = [
        rng.normal(size=n),
        abs(rng.normal(size=n)),
        rng.normal(size=n) * 10.0 ** rng.uniform(-300, 300, n),
        rng.choice([1.0, -1], n),
        rng.choice([1e308, -1e308, 5e-324, 1.0, 0.0], n),
        rng.normal(size=n) * (rng.random(n) < 0.5),
        rng.normal(size=n) * 10.0 ** rng.integers(-320, 308),
    ]
    b = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.3:
        a[rng.random(n) < 0.3] = -INF
    if rng.random() < 0.3:
        a[rng.random(n) < 0.4] = a.max()
    if rng.random() < 0.3:
        order, half = rng.permutation(n), n // 2
        a[order[:half]] = a[order[half : 2 * half]]
        b[order[:half]] = -b[order[half : 2 * half]]
    return a, b


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_awkward_sets(dtype, seed):
    rng = np.random.default_rng([seed, 7])
    for _ in range(150):
        check(*awkward(rng), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("level", [0.0, 1000.0, 1e4])
@pytest.mark.parametrize("rest", [0.3, 20, 60, 300, 1000])
def test_what_remains_of_terms_that_cancel(dtype, level, rest):
    """As the maximum, as two of it, as a sum of 1 with little more."""
    a = np.array([level, level, level - rest])
    for b in ([1, -1, 1], [1, -1, -3], [0.25, 0.75, 1e-3], [2, 0, -1], [1, 0, 1e-9]):
        with mp.workdps(500):
            check(a, np.array(b, np.float64), dtype)


def test_an_entry_between_cancelled_ones_and_nothing():
    a = np.array([9e3, 9e3, 9e3 - 500, 9e3 - 500, -9e3, -INF])
    assert signed(a, b=[1.0, -1, 2, -2, -0.5, 1]) == (-9e3 + np.log(0.5), -1)
    assert signed(a[:4], b=[1.0, -1, 2, -2]) == (-INF, 0)
    assert signed([1e308, 1e308, -1e308], b=[1.0, -1, 1]) == (-1e308, 1)


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
    check(np.array(a, dtype), np.array(b), dtype)


def test_dtype_smaller_than_the_entries():
    assert logsumexp([1e30, 2.0], b=[0.5, 1], dtype=np.float32) == np.float32(1e30)
    assert logsumexp([1e299, 2.0], b=[0.0, 1], dtype=np.float32) == 2


@pytest.mark.parametrize(
    ("a", "b", "log", "sign"),
    [
        ([-1e5, 0], [INF, 1], INF, 1),
        ([-INF, 0], [INF, 1], NAN, NAN),
        ([-INF, 0], [NAN, 1], NAN, NAN),
        ([-1e4, 0], [NAN, 1], NAN, NAN),
        ([NAN, 0], [1, INF], NAN, NAN),
        ([INF, 0], [1, -INF], NAN, NAN),
        ([INF, 0], [-1, -INF], INF, -1),
        ([NAN, INF, 2], [0, 0, -1], 2, -1),
        ([NAN, INF, 2], [0, -0.0, 0], -INF, 0),
        ([-INF, -INF], [2, 3], -INF, 0),
    ],
)
@pytest.mark.parametrize("width", [1, 7, 20])
@pytest.mark.parametrize("axis", [0, 1])
def test_special_values_in_their_own_set(a, b, log, sign, width, axis):
    x, w = np.ones((2, 3, width)), np.ones((2, 3, width))
    x[0, : len(a), width // 2], w[0, : len(a), width // 2] = a, b
    if len(a) < 3:
        w[0, 2, width // 2] = 0
    x, w = (z if axis else np.moveaxis(z, 1, 0) for z in (x, w))
    logs, signs = signed(x, axis, w)
    assert np.array_equal(logs[0, width // 2], log, equal_nan=True)
    assert np.array_equal(signs[0, width // 2], sign, equal_nan=True)
    others = np.ones(logs.shape, bool)
    others[0, width // 2] = False
    assert (logs[others] == logsumexp([1.0] * 3, b=[1.0] * 3)).all()
    assert (signs[others] == 1).all()


# ---- which bits ----


def draw(rows: int, n: int, dtype: type = np.float64) -> tuple[Array, Array]:
    rng = np.random.default_rng([rows, n])
    level = rng.choice([0.0, -20, 300, 2000], (rows, 1))
    a = level + rng.choice([0.01, 1, 20], (rows, 1)) * rng.normal(size=(rows, n))
    b = rng.normal(size=(rows, n))
    b[:, ::3] = 0
    a[rows // 2] = a[rows // 2, 0]  # some sets cancel
    b[rows // 2] = (-1.0) ** np.arange(n)
    return a.astype(dtype), b.astype(dtype)


def same(a: tuple[Array, Array], b: tuple[Array, Array]) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def alone(a: Array, b: Array) -> tuple[Array, Array]:
    pairs = [signed(x.copy(), b=w.copy()) for x, w in zip(a, b, strict=True)]
    logs, signs = zip(*pairs, strict=True)
    return np.array(logs), np.array(signs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_set_alone_in_a_batch_and_as_a_column(dtype):
    for n, rows in itertools.product(LENGTHS, (3, 19)):
        a, b = draw(rows, n, dtype)
        expected = alone(a, b)
        assert np.isfinite(expected[0].astype(np.float64)).any() or n == 1
        same(signed(a, -1, b), expected)
        same(signed(a.T.copy(), 0, b.T.copy()), expected)
        same(
            signed(np.repeat(a, 2, 0).T, 0, np.repeat(b, 2, 0).T)[:1],
            (np.repeat(expected[0], 2),),
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout, dtype):
    for rows, n in ((3, 40), (20, 7), (18, 200)):
        a, b = draw(rows, n, dtype)
        expected = signed(a, -1, b)
        same(signed(LAYOUTS[layout](a), -1, b), expected)
        same(signed(a, -1, LAYOUTS[layout](b)), expected)
        columns = LAYOUTS[layout](a.T), 0, LAYOUTS[layout](b.T)
        same(signed(*columns), expected)


TYPES = [np.bool_, np.int8, np.uint16, np.int32, np.int64, np.float16, np.float32]


@pytest.mark.parametrize("dtype", [*TYPES, ml_dtypes.bfloat16])
def test_types_are_read_as_they_are(dtype):
    values = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]).astype(dtype)
    wide = values.astype(np.float64)
    a = draw(2, 5)[0]
    same(signed(a, -1, values), signed(a, -1, wide))
    same(signed(values, -1, a, dtype="f8"), signed(wide, -1, a))


AXES = [None, 0, 1, 2, (0, 1), (0, 2), (1, 2), (), (0, 1, 2)]
BROADCASTS = [(1, 1, 1), (5,), (3, 1), (4, 1, 1), (4, 1, 5), (3, 5), (2, 4, 3, 1), ()]


@pytest.mark.parametrize("shape", BROADCASTS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_broadcast_along_any_axes(shape, axis, swap, masked):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 5, (4, 3, 5)), rng.normal(size=shape)
    a, b = (b, a) if swap else (a, b)
    whole = np.broadcast_shapes(a.shape, b.shape)
    where = rng.random(whole[1:]) < 0.7 if masked else np.array(True)
    log, sign = signed(a, axis, b, where=where)
    terms = np.where(where, b * np.exp(a.astype(np.longdouble)), 0)
    expected = np.sum(terms, axis=axis)
    np.testing.assert_array_equal(sign, np.sign(expected))
    np.testing.assert_allclose(np.exp(log), abs(expected), rtol=2e-13)
    same((log, sign), signed(a.copy(), axis, np.broadcast_to(b, whole), where=where))


@pytest.mark.parametrize("runs", [(70, 5, 90), (5, 70, 3), (3, 2, 200, 4)])
def test_runs_of_several_axes(runs):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=runs), rng.normal(size=runs)
    for axis in ((0, 2), None, (0, len(runs) - 1)):
        for view, weights in (
            (a, b),
            (a, b[:1]),
            (a.T, b.T),
            (a[..., ::2], b[..., 1:2]),
        ):
            log, sign = signed(view, axis, weights)
            expected = np.sum(weights * np.exp(view.astype(np.longdouble)), axis=axis)
            np.testing.assert_array_equal(sign, np.sign(expected))
            np.testing.assert_allclose(np.exp(log), abs(expected), rtol=1e-12)


def test_where_is_a_weight_of_zero():
    a, b = draw(20, 50)
    a[3, 7], b[4, 8] = NAN, INF
    where = np.random.default_rng(5).random(a.shape) < 0.5
    where[3, 7] = where[4, 8] = False
    same(signed(a, -1, b, where=where), signed(a, -1, np.where(where, b, 0)))


def test_out_and_overlap():
    a, b = draw(6, 30)
    expected = logsumexp(a, 1, abs(b))
    memory = a.copy()
    assert logsumexp(memory, 1, abs(b), out=memory[:, 4]) is not None
    np.testing.assert_array_equal(memory[:, 4], expected)
    weights = abs(b)
    logsumexp(a, 1, weights, out=weights[:, 4])
    np.testing.assert_array_equal(weights[:, 4], expected)


THREADS = """
import sys
import numpy as np
import fastsoftmax

fastsoftmax.set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
for shape, axis in (((300_000,), 0), ((300_000, 2), 0), ((2, 200_000), 1),
                    ((140_000, 9), 0), ((3000, 400), 1), ((400, 3000), 0)):
    a, b = rng.normal(0, 9, shape), rng.normal(size=shape)
    for y in fastsoftmax.logsumexp(a, axis, b, return_sign=True):
        print(np.asarray(y).tobytes().hex())
"""


@pytest.mark.skipif(not _cpu.openmp, reason="built without threads")
def test_threads_change_nothing(tmp_path):
    def results(threads: int) -> bytes:
        command = [sys.executable, "-c", THREADS, str(threads)]
        return subprocess.check_output(command, cwd=tmp_path)

    expected = results(1)
    assert len(expected) > 10_000
    assert results(2) == results(5) == expected


@pytest.mark.parametrize("n", [CHUNK, CHUNK + 1, 2 * CHUNK + 17])
def test_long_sets_are_one_result_in_every_shape(n):
    a, b = draw(2, n)
    a[:, n // 2] += 40
    expected = alone(a, b)
    same(signed(a, 1, b), expected)
    same(signed(np.asfortranarray(a), 1, np.asfortranarray(b)), expected)
    columns = signed(np.tile(a.T, 4), 0, np.tile(b.T, 4))
    same(columns, tuple(np.tile(y, 4) for y in expected))


def test_nothing_as_large_as_the_entries_is_allocated():
    a, b = draw(500, 400)
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
