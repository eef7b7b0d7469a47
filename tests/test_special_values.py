"""The special-value table: NaN, infinities, masked and empty sets, always silently."""

from __future__ import annotations

import functools
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from references import Array, assert_close, by_table, silently

from fastsoftmax import log_softmax, logsumexp, softmax

INF, NAN = np.inf, np.nan
FUNCTIONS = [softmax, log_softmax, logsumexp]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
LENGTHS = [2, 3, 5, 17, 64, 65, 129, 2049, 5000]

of_all = pytest.mark.parametrize("function", FUNCTIONS)
of_both = pytest.mark.parametrize("function", [softmax, log_softmax])
of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def ordinary(n: int) -> Array:
    """Numbers that every dtype holds exactly."""
    return np.arange(n) * 37 % 64 / 8 - 4.0


def with_entries(n: int, entries: dict[int, float], rest: float | None = None) -> Array:
    row = ordinary(n) if rest is None else np.full(n, rest)
    for place, value in entries.items():
        row[place] = value
    return row


def special_rows(n: int) -> list[Array]:
    """Rows for each line of the table, with the special entry first, amid and last."""
    rows = [np.full(n, value) for value in (NAN, INF, -INF)]
    for place in (0, n // 2, n - 1):
        rows += [with_entries(n, {place: value}) for value in (NAN, INF, -INF)]
        rows += [with_entries(n, {place: value}, -INF) for value in (NAN, INF, 1.5)]
    pairs = ((NAN, INF), (INF, NAN), (NAN, -INF), (INF, INF), (INF, -INF))
    rows += [with_entries(n, {0: first, n // 2: second}) for first, second in pairs]
    return rows


def masks(n: int) -> dict[str, Array | None]:
    """What `where` may leave: all, with and without saying so, some, one, nothing."""
    some = np.arange(n) % 3 != 1
    return {
        "no where": None,
        "all": np.ones(n, bool),
        "some": some,
        "others": ~some,
        "first": np.arange(n) == 0,
        "not the first": np.arange(n) > 0,
        "nothing": np.zeros(n, bool),
    }


def options(kept: Array | None) -> dict[str, Array]:
    return {} if kept is None else {"where": kept}


class Line(NamedTuple):
    """A row, its `where`, and what the table says."""

    row: Array
    label: str
    kept: Array | None
    expected: Array


@functools.cache
def table(name: str, n: int) -> list[Line]:
    labels = masks(n) if n in (3, 17, 65) else ("no where", "some", "nothing")
    return [
        Line(row, label, kept, by_table(name, row, kept))
        for row in special_rows(n)
        for label, kept in masks(n).items()
        if label in labels
    ]


@of_all
@of_every_dtype
@pytest.mark.parametrize("n", LENGTHS)
def test_a_row_alone(n, dtype, function):
    for row, label, kept, expected in table(function.__name__, n):
        y = silently(function, row.astype(dtype), axis=-1, **options(kept))
        assert_close(y, expected, f"{row[:9]} where {label}")


@of_all
@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", LENGTHS)
def test_in_a_batch_among_ordinary_rows(n, axis, dtype, function):
    rows = special_rows(n)
    plain = np.tile(ordinary(n), (2 * len(rows), 1))
    mixed = plain.copy()
    mixed[::2] = rows
    for kept in (None, masks(n)["some"]):
        y = over(function, mixed.astype(dtype), axis, kept)
        expected = [by_table(function.__name__, row, kept) for row in rows]
        assert_close(y[::2], np.array(expected))
        undisturbed = over(function, plain.astype(dtype), axis, kept)
        np.testing.assert_array_equal(y[1::2], undisturbed[1::2])
        assert np.isfinite(y[1::2].astype(np.float64)).any()


def over(function, rows: Array, axis: int, kept: Array | None) -> Array:
    """Result over each row, the rows laid along `axis`."""
    if axis == 1:
        return silently(function, rows, axis=1, **options(kept))
    kept = None if kept is None else kept[:, np.newaxis]
    return silently(function, rows.T.copy(), axis=0, **options(kept)).T


@of_all
@of_every_dtype
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [2, 17, 64, 65, 129, 2049])
def test_masked_out_rows_among_others(n, axis, dtype, function):
    rows = np.array(special_rows(n))
    where = np.ones(rows.shape, bool)
    where[::3] = False
    where[1::3] = masks(n)["some"]
    expected = [
        by_table(function.__name__, row, kept)
        for row, kept in zip(rows, where, strict=True)
    ]
    x, kept = (rows, where) if axis == 1 else (rows.T.copy(), where.T.copy())
    y = silently(function, x.astype(dtype), axis=axis, where=kept)
    assert_close(y if axis == 1 else y.T, np.array(expected))


@of_both
@of_every_dtype
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_with_a_temperature(temperature, dtype, function):
    for row in (row for row in special_rows(33) if not np.isfinite(row).any()):
        y = silently(function, row.astype(dtype), temperature=temperature)
        assert_close(y, by_table(function.__name__, row))
    for place, special in ((0, NAN), (16, INF), (32, NAN)):
        row = with_entries(33, {place: special})
        y = silently(function, row.astype(dtype), temperature=temperature)
        assert_close(y, by_table(function.__name__, row))


@of_both
@of_every_dtype
def test_in_place(dtype, function):
    for n in (2, 17, 64, 65, 2049):
        x = np.array(special_rows(n)).astype(dtype)
        expected = function(x, axis=-1)
        silently(function, x, axis=-1, out=x)
        np.testing.assert_array_equal(x.astype(np.float64), expected.astype(np.float64))


@functools.cache
def in_pieces(name: str, *entries: tuple[int, float]) -> tuple[Array, Array]:
    """A row longer than a piece, and what the table says."""
    row = with_entries(140_000, dict(entries))
    return row, by_table(name, row)


@of_all
@of_every_dtype
@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_in_a_row_of_several_pieces(special, dtype, function):
    plain, of_plain = in_pieces(function.__name__)
    for place in (0, 65535, 65536, len(plain) - 1):
        row, expected = in_pieces(function.__name__, (place, special))
        y = silently(function, np.stack([row, plain]).astype(dtype), axis=-1)
        assert_close(y[0], expected)
        assert_close(y[1], of_plain)


@of_all
@of_every_dtype
@pytest.mark.parametrize("value", [NAN, INF, -INF, 2.0])
def test_sets_of_one(value, dtype, function):
    expected = by_table(function.__name__, np.array([value]))
    x = np.array([value] * 3, dtype)
    y = silently(function, x[:, np.newaxis], axis=1)
    assert_close(y, np.array([expected] * 3))
    assert_close(silently(function, x, axis=()), np.array([expected] * 3).reshape(3))
    assert_close(silently(function, x[0]), np.reshape(expected, ()))


@of_all
@of_every_dtype
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("where", [None, True, np.ones(1, bool)])
def test_empty(shape, where, dtype, function):
    x = np.empty(shape, dtype)
    for axis in (None, 0, -1, ()):
        y = silently(function, x, axis=axis, where=where)
        assert y.dtype == dtype
        if function is logsumexp:
            assert np.shape(y) == np.sum(np.empty(shape), axis=axis).shape
            assert (np.asarray(y) == -INF).all()
        else:
            assert y.shape == shape


@of_all
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_numbers(dtype, function):
    """Their differences overflow, and their multiples: silently, and rightly."""
    big = np.finfo(dtype).max
    for n in (2, 17, 64, 65, 2049):
        row = np.full(n, -big)
        row[n // 2] = big
        expected = {
            "softmax": row > 0,
            "log_softmax": np.where(row > 0, 0, -INF),
            "logsumexp": big,
        }[function.__name__]
        y = silently(function, np.stack([row, row]), axis=-1)
        np.testing.assert_array_equal(y, [expected, expected])
        y = silently(function, np.stack([row, row], axis=-1), axis=0)
        np.testing.assert_array_equal(y.T, [expected, expected])
        assert_close(
            silently(function, np.full(n, big)), equal_entries(function, n, big)
        )


def equal_entries(function, n: int, value: float) -> Array:
    return {
        "softmax": np.full(n, 1 / np.longdouble(n)),
        "log_softmax": np.full(n, -np.log(np.longdouble(n))),
        "logsumexp": np.array(value + np.log(np.longdouble(n))),
    }[function.__name__]
