"""The suite looks for rows that round badly, on every instruction set.

Rows of two numbers, where errors of many equal terms add up and nothing averages out;
small results; and a directed search: of rows that are worst so far the neighbours are
tried. Beside it, what is promised to be exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernel_driver import Job, job
from oracle import SOFTMAXES
from oracle.arithmetic import Array
from oracle.softmaxes import exact
from test_kernels import NAMES, do, pytestmark, target

__all__ = ["do", "pytestmark", "target"]

Do = Callable[[list[Job]], list[list[Array]]]

DTYPES = ["float32", "float64"]
# Of rows of one kind of loop, and columns; n > 2048 has several chunks.
LENGTHS = [2, 5, 17, 65, 150, 1000, 2049, 5000]


def two_numbers(a: Array, b: Array, n: int, count: Array, shift: Array) -> Array:
    """Rows of `count` times a, else b; where the first a is differs from row to row."""
    place = (np.arange(n) + shift[:, None]) % n
    return np.where(place < count[:, None], a[:, None], b[:, None])


def errors(do: Do, x: Array, names: tuple[str, ...] = NAMES) -> dict[str, Array]:
    """The largest error of each row, as row or column, in units of what is allowed."""
    jobs = [job(name, a) for name in names for a in (x[..., None], x.T[None])]
    results = iter(do(jobs))
    found = {}
    for name in names:
        single = name == "logsumexp"
        [(value, scale)] = SOFTMAXES[NAMES.index(name)].judge(x)
        rows, columns = next(results)[0], next(results)[0]
        both = [rows if single else rows[..., 0], columns[0].T]
        worst = np.maximum(*(abs(y.reshape(value.shape) - value) / scale for y in both))
        found[name] = worst if single else worst.max(axis=-1)
        assert np.isfinite(found[name]).all()
    return found


def assert_kept(do: Do, x: Array, names: tuple[str, ...] = NAMES) -> None:
    for name, error in errors(do, x, names).items():
        worst = int(error.argmax())
        values = sorted({float(v).hex() for v in x[worst]})
        assert error.max() <= 1, f"{name} of {x.shape[1]} {values}: {error.max():.3f}"


def budget(n: int, rows: int) -> int:
    """Rows that take no longer than so many of 100 elements."""
    return max(8, rows * 100 // max(n, 20))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_rows_of_two_numbers(do, target, dtype, n):
    """One a among many b, and any numbers of both; near each other and not."""
    rng = np.random.default_rng(n)
    rows = budget(n, 60 if target.slow else 1000)
    b = rng.uniform(-1, 1, rows).astype(dtype)
    apart = rng.choice([0.1, 1.0, 10.0, 30.0], rows) * rng.uniform(-1, 1, rows)
    a = (b + apart).astype(dtype)
    count = np.where(rng.random(rows) < 0.7, 1, rng.integers(1, n, rows, endpoint=True))
    assert_kept(do, two_numbers(a, b, n, count, rng.integers(0, n, rows)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 40, 100, 3000])
def test_small_results(do, target, dtype, n):
    """From twice the least normal number on the argument gives more than 2 ULP."""
    rng = np.random.default_rng(n)
    rows = budget(n, 60 if target.slow else 1000)
    least = -126 if dtype == "float32" else -1022
    exponents = least + rng.uniform(-2, 3, rows)
    b = rng.uniform(-1, 1, rows).astype(dtype)
    a = (b + np.log(2.0) * exponents + np.log(n - 1)).astype(dtype)
    ones = np.ones(rows, int)
    x = two_numbers(a, b, n, ones, rng.integers(0, n, rows))
    assert_kept(do, x, ("softmax",))
    share = exact(x).softmax.min(axis=-1)
    assert ((share >= 2.0**least) & (share < 2.0 ** (least + 1))).sum() > rows // 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, *LENGTHS, 40000])
def test_equal_entries_share_alike(do, dtype, n):
    """1/n correctly rounded: beside -inf, and with large numbers too."""
    values = np.array([0, 0.7, -3e-7, 199, 1234.5, -87.3], dtype)
    x = np.repeat(values[:, None], n, axis=1)
    holes = np.full((len(x), 2 * n + 1), -np.inf, dtype)
    holes[:, 1::2] = x
    jobs = [job("softmax", a) for b in (x, holes) for a in (b[..., None], b.T[None])]
    rows, columns, *with_holes = (y[0] for y in do(jobs))
    share = (1 / np.array(n, dtype)).astype(dtype)
    assert (rows == share).all()
    assert (columns == share).all()
    expected = np.where(np.isinf(holes), 0, share)
    np.testing.assert_array_equal(with_holes[0][..., 0], expected)
    np.testing.assert_array_equal(with_holes[1][0].T, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 29, 70, 150, 1000, 5000])
@pytest.mark.parametrize("off", [0.0, 17.25, -300.0, 4e5])
def test_what_rounds_to_one_is_one(do, dtype, n, off):
    """And what does not is less."""
    half_ulp = 2.0 ** -(25 if dtype == "float32" else 54)
    others = half_ulp * np.array([9, 4, 2.5, 1.5, 1.01, 0.99, 0.5, 1e-3, 1e-99])
    b, count = off + np.log(others / (n - 1)), np.ones(len(others), int)
    a = np.full(b.shape, off)
    x = two_numbers(a, b, n, count, 3 * np.arange(len(b))).astype(dtype)
    others = exact(x).softmax.min(axis=1) * (n - 1) / half_ulp
    rows, columns = do([job("softmax", x[..., None]), job("softmax", x.T[None])])
    for y in (rows[0][..., 0], columns[0][0].T):
        assert (y.max(axis=1) <= 1).all()
        assert (y.max(axis=1)[others < 0.995] == 1).all()
        assert (y.max(axis=1)[others > 1.005] < 1).all()


def moved(rng: np.random.Generator, x: Array) -> Array:
    """Neighbours: some floats on, up or down."""
    steps = rng.geometric(0.2, x.shape) * rng.choice([-1, 0, 1], x.shape)
    return (x + steps * np.spacing(x)).astype(x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 9, 70, 2100])
@pytest.mark.parametrize("name", NAMES)
def test_directed_search(do, target, dtype, n, name):
    """Some 10^6 rows in all on an instruction set that is native."""
    rng = np.random.default_rng(n)
    rows = budget(n, 200 if target.slow else 6000)
    b = rng.uniform(-1, 1, rows).astype(dtype)
    a = (b + rng.uniform(-8, 8, rows)).astype(dtype)
    count = np.where(rng.random(rows) < 0.5, 1, rng.integers(1, n, rows, endpoint=True))
    worst = 0.0
    for _ in range(20):
        shift = rng.integers(0, n, rows)
        error = errors(do, two_numbers(a, b, n, count, shift), (name,))[name]
        worst = max(worst, float(error.max()))
        assert worst <= 1, f"{n} {a[error.argmax()]} {b[error.argmax()]}: {worst:.3f}"
        parents = rng.choice(np.argsort(error)[-max(2, rows // 20) :], rows)
        a, b, count = moved(rng, a[parents]), moved(rng, b[parents]), count[parents]
    assert worst > 0.55 or name != "softmax"  # it does find what is bad
