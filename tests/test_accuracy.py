"""The promised bounds, in every entry, over hard rows of every length and place.

The judge is long double, which mpmath and fractions judge in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from mpmath import mp
from oracle import (
    ALL_HINGES,
    COLUMNS,
    ENTROPIES,
    FAMILIES,
    GRADIENTS,
    HINGES,
    PLACES,
    ROWS,
    SOFTMAXES,
    WEIGHTED,
    Oracle,
    Place,
    hinges,
    name_of,
    of_every,
    softmaxes,
    taken,
)
from oracle.arithmetic import (
    DTYPES,
    HALVES,
    WIDE,
    WIDE_ENOUGH,
    Array,
    Judge,
    assert_all_right,
    assert_right,
    assert_same_bits,
    dtypes,
    silently,
    unit,
    widened,
)
from oracle.softmaxes import Exact, exact

from fastsoftmax import hinge_loss, log_softmax_vjp, logsumexp, softmax

# Around vectors, chunks of 1024, and what threads share from, 65536.
SHORT = [1, 2, 3, 4, 5, 7, 10, 15, 16, 17, 18, 24, 25, 26, 31, 32, 33, 63, 64, 65, 100]
SHORT += [127, 128, 129, 255, 256, 257]
LONG = [1000, 2047, 2048, 2049, 4097, 5000]
VERY_LONG = [65537, 32000, 65535, 151936]
# Judging costs a hundred times the functions: very long rows are judged in these.
IN_VERY_LONG_ROWS = ("ordinary", "half far below", "one above many")
# Around vectors, tiles of 256 columns, groups of 128 short rows.
WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 256]
WIDTHS += [257, 300, 513]

judged = dtypes(np.float32, np.float64)
of_every_loss = of_every(ALL_HINGES)


def rows_of(n: int) -> int:
    """Rows (or columns) to test: more and less than a vector's or a block's."""
    return 70 if n <= 130 else 18 if n <= 1000 else 4 if n <= 5000 else 2


def lengths(oracle: Oracle, case: str) -> list[int]:
    if case == "awkward":
        return SHORT[:17]
    very_long = VERY_LONG if case in IN_VERY_LONG_ROWS else []
    return [*SHORT, *LONG, *very_long[: 1 if "weights" in oracle.takes else None]]


def places(oracle: Oracle, given: tuple[Array, ...]) -> Iterator[tuple[str, Place]]:
    """Where these rows can lie."""
    for name, place in PLACES.items():
        if not place.split or len(given[0]) % 2 == 0:
            yield f"{oracle} {given[0].shape} {name}", place


def assert_near(
    oracle: Oracle,
    given: tuple[Array, ...],
    judges: tuple[Judge, ...] = (),
    **options: Any,
) -> None:
    """In every place."""
    judges = judges or oracle.judge(*given, **options)
    for where, place in places(oracle, given):
        results = oracle.over(given, place, **options)
        assert_all_right(results, judges, f"{where} {options}")
        types = tuple(y.dtype for y in results)
        assert types == oracle.types(given[0].dtype), where


CASES = [(family, case) for family in FAMILIES for case in family[0].cases]
of_every_family = pytest.mark.parametrize("family", FAMILIES, ids=name_of)


@judged
@pytest.mark.parametrize(("family", "case"), CASES, ids=name_of)
def test_every_entry_is_within_the_bound(family, case, dtype):
    for n in lengths(family[0], case):
        given = family[0].draw(rows_of(n), n, dtype, case)
        for oracle in family:
            assert_near(oracle, given)


@judged
@of_every_family
def test_any_number_of_rows(family, dtype):
    for n in (2, 4, 5, 25, 26, 66, 259):
        given = family[0].draw(max(WIDTHS), n, dtype)
        for oracle in family:
            judges = oracle.judge(*given)
            for rows in WIDTHS:
                first = np.s_[:rows]
                right = tuple(judge.at(first) for judge in judges)
                assert_near(oracle, taken(given, first), right)


@judged
@pytest.mark.parametrize("family", FAMILIES[:3], ids=name_of)
def test_many_rows(family, dtype):
    many = ["uniform", "half far below", "maximum 199.9", "log-probabilities"]
    cases = many if family is SOFTMAXES else ["ordinary"]
    for case, n in itertools.product(cases, (2, 3, 10, 64, 65)):
        given = family[0].draw(60_000 // n, n, dtype, case)
        for oracle in family:
            right = oracle.judge(*given)
            assert_all_right(oracle.over(given), right, f"{oracle} {case} {n}")


@pytest.mark.parametrize("family", FAMILIES[:4], ids=name_of)
def test_a_million_float32(family):
    given = family[0].draw(2, 1_000_000, np.float32)
    for oracle in family:
        judges = oracle.judge(*given)
        for place in (ROWS, COLUMNS):
            assert_all_right(oracle.over(given, place), judges, str(oracle))


@judged
@of_every([*SOFTMAXES, *ALL_HINGES[:12], *ENTROPIES, WEIGHTED])
def test_with_and_without_a_mask(oracle, dtype):
    """Masks that differ from row to row, and leave something of each."""
    for n in (2, 3, 16, 17, 18, 25, 26, 34, 66, 130, 2050, 5001):
        given = oracle.draw(7, n, dtype)
        where = np.random.default_rng(n).random((7, n)) < 0.6
        where[:, -2:] = True
        for options in ({}, {"where": where}):
            assert_near(oracle, given, **options)


def test_the_data_tell_what_is_wrong_from_what_is_right():
    """What double keeps of these rows is lost to the usual formulas in float32."""
    y, dy = GRADIENTS[0].draw(9, 70, np.float32, "nearly certain")
    usual = y * (dy - (y * dy).sum(axis=1, keepdims=True))
    [judge] = GRADIENTS[0].judge(y, dy)
    assert ((abs(usual - judge.value) / judge.allowed).max(axis=1) > 100).all()
    for case, factor in (("ordinary", 5), ("one above many", 2)):
        [x] = SOFTMAXES[1].draw(9, 70, np.float32, case)
        usual = x - np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(1))[:, None]
        usual -= x.max(axis=1, keepdims=True)
        [judge] = SOFTMAXES[1].judge(x)
        assert (abs(usual - judge.value) / judge.allowed).max() > factor, case
    [scores] = HINGES[0].draw(9, 70, np.float32, "close")
    usual = np.maximum(0, np.float32(1) - scores[:, :1] + scores[:, 1:])
    right = hinges.batch(scores).terms
    assert (abs(usual - right) / unit(right, np.float32)).max() > 100


# ---- the judge, judged ----


@pytest.mark.parametrize("case", SOFTMAXES[0].cases)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mpmath_agrees_with_the_functions_and_with_long_double(dtype, case):
    for n in (2, 3, 17, 64, 65):
        [x] = SOFTMAXES[0].draw(1, n, dtype, case)
        theirs = by_mpmath(x)
        for oracle in SOFTMAXES:
            value = getattr(theirs, oracle.name)
            allowed = softmaxes._allowed(
                oracle.name, value, theirs.largest, np.dtype(dtype)
            )
            [y] = oracle.over((x,))
            assert_right(y, softmaxes.Judge(value, allowed), f"{oracle} {n}")
            if WIDE_ENOUGH:
                # Off by less than 16 of its own ULP, 2^-7 of float64's.
                scale = theirs.largest if oracle.name == "logsumexp" else value
                error = abs(getattr(exact(x), oracle.name) - value)
                assert (error < 16 * unit(scale, WIDE)).all(), oracle


@pytest.mark.parametrize("n", [2, 7, 63, 65, 1000])
def test_logsumexp_of_log_probabilities(n):
    """Where the largest entry and the logarithm cancel most."""
    [x] = SOFTMAXES[2].draw(200_000 // n, n, np.float32, "log-probabilities")
    ours = exact(x)
    deepest = np.argsort(abs(ours.logsumexp) / ours.largest)[:5]
    expected = by_mpmath(x[deepest])
    assert (abs(expected.logsumexp) < 1e-7).all()
    allowed = softmaxes._allowed(
        "logsumexp", expected.logsumexp, expected.largest, x.dtype
    )
    for y in (logsumexp(x, axis=-1), logsumexp(x.T.copy(), axis=0)):
        assert_right(y[deepest], softmaxes.Judge(expected.logsumexp, allowed))


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_logsumexp_of_columns_that_cancel_in_part(n):
    """By down to the 20th bit; few floats are told by a plain sum in double."""
    rng = np.random.default_rng(n)
    [x] = SOFTMAXES[2].draw(4000, n, np.float32, "log-probabilities")
    off = rng.choice([-1, 1], (4000, 1)) * 2.0 ** -rng.uniform(0, 24, (4000, 1))
    x = (x + off).astype(np.float32)
    [judge] = SOFTMAXES[2].judge(x)
    assert np.count_nonzero(abs(judge.value) < abs(x.max(axis=1)) / 8) > 2000
    assert_right(logsumexp(x.T.copy(), axis=0), judge)


def by_mpmath(x: Array) -> Exact:
    """`oracle.softmaxes.exact`, by mpmath."""
    with mp.workdps(60):
        rows = [_row_by_mpmath([mp.mpf(float(v)) for v in row]) for row in x]
        return Exact(*(to_wide(np.array(values)) for values in zip(*rows, strict=True)))


def _row_by_mpmath(x: list[mp.mpf]) -> tuple[object, ...]:
    top = max(x)
    first = x.index(top)
    rest = mp.fsum(mp.exp(v - top) for v in x[:first] + x[first + 1 :])
    log_term = mp.log1p(rest)
    return (
        [mp.exp(v - top) / (1 + rest) for v in x],
        [(v - top) - log_term for v in x],
        top + log_term,
        max(abs(top), log_term),
    )


def to_wide(values: Array) -> Array:
    """Long doubles of mpmath's numbers, good to a hundred bits where it has them."""
    with np.errstate(under="ignore"):
        parts = [mp.frexp(v) for v in values.flat]
        highs = np.array([float(part) for part, _ in parts], WIDE)
        lows = np.array([float(part - float(part)) for part, _ in parts], WIDE)
        exponents = np.array([max(int(e), -(2**30)) for _, e in parts])
        return np.ldexp(highs + lows, exponents).reshape(values.shape)


@pytest.mark.parametrize("case", ["ordinary", "close", "far apart"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_terms_of_the_hinge_are_within_one_ulp(dtype, case):
    """Of fractions, which judge long double's, too."""
    for margin, n in itertools.product((0.0, 0.25, 1.0, 1 / 3), (4, 21, 400)):
        margin = float(dtype(margin))
        [x] = HINGES[0].draw(800 // n, n, dtype, case)
        # Where s+ is s + margin nothing but the low part of margin - s+ is left.
        x[:, 1] = x[:, 0] - dtype(margin)
        pairs = hinge_loss(x, margin=margin, reduction="pairs").tolist()
        ours = hinges.batch(x, margin=margin).terms
        for terms, wide, row in zip(pairs, ours, x.tolist(), strict=True):
            least = Fraction(margin) - Fraction(row[0])
            for t, w, s in zip(terms, wide, row[1:], strict=True):
                right = max(least + Fraction(s), Fraction(0))
                ulp = Fraction(float(unit(WIDE(float(right)), dtype)))
                assert abs(Fraction(t) - right) <= ulp
                assert (t > 0) == (right > 0)
                assert abs(w - WIDE(float(right))) <= float(ulp)


# ---- subnormal results, digits that cancel ----


def test_subnormal_results_are_not_flushed():
    [x] = SOFTMAXES[0].draw(100, 70, np.float32, "half far below")
    right, tiny = exact(x).softmax, np.finfo(np.float32).tiny
    subnormal = (right > tiny / 2**20) & (right < tiny)
    assert np.count_nonzero(subnormal) > 100
    assert (softmax(x, axis=-1)[subnormal] > 0).all()
    assert (softmax(np.float32([-95, 0]))[0], softmax([-740.0, 0.0])[0]) > (0, 0)


@pytest.mark.parametrize("n", [3, 64, 2049])
@pytest.mark.parametrize("place", [ROWS, COLUMNS])
def test_a_label_that_is_certain_keeps_the_digits_of_the_others(place, n):
    """There exp(y) is exactly 1, and dy - sum(dy) the sum of the others."""
    rng = np.random.default_rng(n)
    y = np.full((4, n), -90, np.float32)
    y[:, 0] = 0
    dy = rng.uniform(-1e-4, 2e-4, (4, n)).astype(np.float32)
    dy[:, 0] = 1000
    others = -widened(dy)[:, 1:].sum(axis=1)
    [dx] = GRADIENTS[1].over((y, dy), place)
    allowed = 3 * 2.0**-23 * abs(others) + n * 2.0**-53 * abs(dy).sum(axis=1)
    assert (abs(widened(dx[:, 0]) - others) <= allowed).all()


def test_log_probabilities_that_count_as_minus_infinity():
    for dtype, y, total in ((np.float32, -133, 1e30), (np.float64, -1064, 1e300)):
        dx = log_softmax_vjp(np.array([y, 0], dtype), np.array([0, total], dtype))
        np.testing.assert_array_equal(dx, [0, 0])


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 50), (np.float64, 400)])
@pytest.mark.parametrize("place", [ROWS, COLUMNS])
def test_logarithms_that_count_as_infinite(place, dtype, large):
    """Be `lo`, what the sum has beyond its leading digits, 0 or of either sign."""
    for of_dy in ((1.0, 0.0), (1.0, 0.1), (0.1, 0.3), (-1.0, -0.1), (1.0, -1.0)):
        dy = np.array([of_dy] * 9, dtype)
        for value in (large, np.inf):
            y = np.full(dy.shape, -1, dtype)
            y[:, 0] = value
            judges = GRADIENTS[1].judge(np.where(y > 0, np.inf, y), dy)
            assert_all_right(GRADIENTS[1].over((y, dy), place), judges, f"{of_dy}")


@pytest.mark.parametrize("place", [ROWS, COLUMNS])
def test_sums_beyond_the_type(place):
    y, dy = np.float32([[1, 1, 0]]), np.float32([[3e38, 3e38, 1]])
    [dx] = GRADIENTS[0].over((y, dy), place)
    np.testing.assert_array_equal(dx, [[-np.inf, -np.inf, np.nan]])
    # The sum is a double, and comes with a factor.
    half, dy = np.log(np.full((1, 2), 0.5, np.float32)), np.full((1, 2), 3e38, "f4")
    [dx] = GRADIENTS[1].over((half, dy), place)
    np.testing.assert_allclose(dx, [[0, 0]], atol=3e38 * 3 * 2.0**-23)


# ---- 16 bits: the float32 result, rounded once ----


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@of_every()
def test_halves_are_rounded_once_from_float32(oracle, dtype):
    for n in (2, 17, 64, 65, 100, 2049, 65537):
        given = oracle.draw(rows_of(n), n, dtype)
        as_float32 = oracle.typed(given, np.float32)
        judges = oracle.judge(*given)
        for place in (ROWS, COLUMNS):
            results = oracle.over(given, place)
            assert_all_right(results, judges, f"{n}")
            wide = oracle.over(as_float32, place)
            for y, z in zip(results, wide, strict=True):
                with np.errstate(all="ignore"):
                    assert_same_bits(y, z.astype(y.dtype), f"{n}")


def test_halves_do_not_saturate():
    for dtype in HALVES:
        assert logsumexp(np.zeros(100_000, dtype)) == dtype(np.log(100_000))
        assert (softmax(np.zeros(100_000, dtype)) == dtype(1e-5)).all()
        loss = silently(hinge_loss, np.zeros((3, 70_001), dtype))
        assert type(loss) is np.float32
        assert loss == 210_000


# ---- temperature ----


@dtypes(*DTYPES, np.int32)
@pytest.mark.parametrize(
    "temperature", [0.7, 3, 100.0, 1e-3, np.float32(0.1), "one for each row"]
)
@of_every(taking="temperature")
def test_temperature_divides(oracle, temperature, dtype):
    for n in (3, 64, 65, 2049, *([65537] if temperature == 0.7 else [])):
        divisor = temperature
        if temperature == "one for each row":
            divisor = np.geomspace(0.1, 10, rows_of(n))[:, np.newaxis]
        assert_near(oracle, oracle.draw(rows_of(n), n, dtype), temperature=divisor)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_a_temperature_of_two_halves(dtype):
    for oracle, place in itertools.product(
        [*SOFTMAXES[:2], *GRADIENTS], (ROWS, COLUMNS)
    ):
        *first, last = oracle.draw(9, 70, dtype)
        halved = oracle.over((*first, last / dtype(2)), place)
        assert_same_bits(oracle.over((*first, last), place, temperature=2), halved)


# ---- options of the losses ----


def options_of(oracle: Oracle, rows: int, n: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng([rows, n])
    mask, weights = rng.random((rows, n)) < 0.6, rng.random(rows).astype(np.float32)
    weights[-1] = 0
    own: dict[str, list[Any]] = {"margin": [0, 3, 0.25]}
    if oracle in ENTROPIES:
        each = rng.uniform(0.1, 3, (rows, 1))
        own = {"label_smoothing": [1, 0.3], "temperature": [0.3, each]}
    last = {name: values[-1] for name, values in own.items()}
    return {
        "none": {},
        **{f"{k} {v}": {k: v} for k, values in own.items() for v in values},
        "where": {"where": mask},
        "where [1, n]": {"where": mask[:1]},
        "where [rows, 1]": {"where": mask[:, :1]},
        "where ones": {"where": mask | True},
        "where False": {"where": np.False_},
        "weight": {"sample_weight": 0.3},
        "weight 2": {"sample_weight": 2},
        "float32 weight": {"sample_weight": np.float32(0.7)},
        "0-d weight": {"sample_weight": np.array(3.0)},
        "weights": {"sample_weight": weights},
        "all": {"where": mask, "sample_weight": weights, **last},
    }


@dtypes(*DTYPES, np.int16, np.bool_)
@of_every([*ALL_HINGES, *ENTROPIES])
def test_losses_in_every_reduction(oracle, dtype):
    """The loss is the same with and without its gradient."""
    function = oracle.total
    is_long = oracle in ENTROPIES and dtype in (np.float32, np.float64)
    for shape in ((9, 6), (3, 40), *([(3, 600), (2, 5000)] if is_long else [])):
        given = oracle.draw(*shape, dtype)
        for name, options in options_of(oracle, *shape).items():
            batch = oracle.batch(*given, **options)
            for reduction in hinges.REDUCTIONS[: 4 if oracle in ALL_HINGES else 3]:
                asked = {**options, "reduction": reduction}
                loss, _ = silently(function, *given, **asked, return_grad=False)
                right, message = batch.loss(dtype, reduction), f"{reduction} {name}"
                assert_right(loss, right, message)
                types = oracle.types(dtype)
                assert loss.dtype == types[reduction == "pairs"]
                if reduction != "pairs":
                    again, grad = silently(function, *given, **asked)
                    assert_same_bits(again, loss, message)
                    assert_right(grad, batch.gradient(dtype, reduction), message)
                    assert grad.dtype == types[1]


def test_what_where_says_of_the_positive_does_not_matter():
    scores, labels = ALL_HINGES[4].draw(50, 7)
    where = np.random.default_rng(1).random(scores.shape) < 0.6
    for value in (False, True):
        where[np.arange(50), labels] = value
        given = scores, labels
        results = ALL_HINGES[4].over(given, where=where)
        assert_all_right(results, ALL_HINGES[4].judge(*given, where=where))


def test_a_row_is_as_good_as_its_terms():
    """Added up in float32, a million terms would lose three digits."""
    scores = np.full((1, 1_000_001), 0.1, np.float32)
    losses = hinge_loss(scores, reduction="none")
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, 1e6, rtol=2**-24)
    np.testing.assert_allclose(hinge_loss(scores.T.repeat(3, 1).T), 3e6, rtol=2**-24)
