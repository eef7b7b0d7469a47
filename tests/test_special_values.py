"""NaN, infinities, zeros, masked and empty sets: as documented, and silently.

One table of rows for each family (oracle/inputs.py), which all functions share: the
judge says what each gives for a row, and its neighbours must not notice.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from oracle import (
    ALL_HINGES,
    COLUMNS,
    ENTROPIES,
    GRADIENTS,
    HINGES,
    LAYOUTS,
    PLACES,
    ROWS,
    SOFTMAXES,
    WEIGHTED,
    Oracle,
    hinges,
    inputs,
    of_every,
    taken,
)
from oracle.arithmetic import (
    DTYPES,
    HALVES,
    assert_all_right,
    assert_right,
    assert_same_bits,
    computed,
    dtypes,
    needs_wide,
    silently,
)

from fastsoftmax import hinge_loss, logsumexp, pair_hinge_loss

INF, NAN = np.inf, np.nan
LENGTHS = [1, 2, 3, 5, 17, 64, 65, 129, 2049, 5000]
FOR_LOSSES = [1, 2, 3, 16, 17, 24, 25, 40, 129, 2049]
# Some beginnings and ends of pieces; long enough to be shared between threads.
VERY_LONG = 140_000

pytestmark = needs_wide
of_every_dtype = dtypes(*DTYPES)
of_every_loss = of_every(ALL_HINGES)


def options_of(oracle: Oracle, n: int) -> dict[str, dict[str, Any]]:
    """What the rows are seen through."""
    options: dict[str, dict[str, Any]] = {"plain": {}}
    if "where" in oracle.takes:
        kept = inputs.masks(n)
        names = kept if n in (3, 17, 65) else ("some", "nothing")
        options |= {f"where {name}": {"where": kept[name]} for name in names}
    if "temperature" in oracle.takes and n in (3, 17, 65):
        options |= {f"temperature {t}": {"temperature": t} for t in (0.5, 3.0)}
    return options


# ---- the table ----


@of_every_dtype
@of_every([*SOFTMAXES, *GRADIENTS, *ALL_HINGES[:12], *ENTROPIES, WEIGHTED])
def test_in_their_own_rows_only(oracle, dtype):
    """Each between two ordinary rows, which must not notice."""
    # Halves are read as float32, which is asked.
    half = dtype in HALVES
    if oracle in HINGES:
        lengths = (1, 3, 24, 25, 129) if half else FOR_LOSSES
    elif oracle in ALL_HINGES:
        lengths = (3, 25) if half else (3, 17, 25, 26, 40)
    elif oracle in ENTROPIES:
        lengths = (1, 3, 17, 65, 513)
    else:
        lengths = (1, 3, 17, 65, 2049) if half else LENGTHS
    for n in lengths:
        special = oracle.typed(oracle.special(n), dtype)
        plain = oracle.draw(2 * len(special[0]), n, dtype)
        mixed = tuple(x.copy() for x in plain)
        for x, rows in zip(mixed, special, strict=True):
            x[1::2] = rows
        for name, options in options_of(oracle, n).items():
            judges = oracle.judges(special, **options)
            for axis, place in PLACES.items():
                if place.split and n > 65:
                    continue
                message = f"n = {n}, {name}, {axis}"
                results = oracle.over(mixed, place, **options)
                assert_all_right([y[1::2] for y in results], judges, message)
                undisturbed = oracle.over(plain, place, **options)
                for y, z in zip(results, undisturbed, strict=True):
                    assert_same_bits(y[::2], z[::2], message)


@of_every_dtype
@of_every([*SOFTMAXES, *GRADIENTS])
def test_in_a_row_alone(oracle, dtype):
    for n in LENGTHS:
        special = oracle.typed(oracle.special(n), dtype)
        rows = range(len(special[0]))
        for name, options in options_of(oracle, n).items():
            alone = [oracle.over(taken(special, [i]), **options) for i in rows]
            results = [np.concatenate(ys) for ys in zip(*alone, strict=True)]
            assert_all_right(results, oracle.judges(special, **options), f"{n} {name}")


@of_every_dtype
@of_every([*SOFTMAXES[:2], *GRADIENTS])
def test_in_place(oracle, dtype):
    for n in (2, 17, 64, 65, 2049):
        for k in range(oracle.arrays):
            given = oracle.typed(oracle.special(n), dtype)
            judges = oracle.judge(*given)
            silently(oracle.call, *given, axis=-1, out=given[k])
            assert_all_right((given[k],), judges, f"n = {n}, out is operand {k}")


@of_every_dtype
@of_every(taking="where")
def test_masks_that_differ_from_row_to_row(oracle, dtype):
    for n in (2, 17, 64, 65, 129, 2049):
        given = oracle.typed(oracle.special(n), dtype)
        where = np.ones((len(given[0]), n), bool)
        where[::3] = False
        where[1::3] = inputs.masks(n)["some"]
        judges = oracle.judge(*given, where=where)
        for place in (ROWS, COLUMNS):
            results = oracle.over(given, place, where=where)
            assert_all_right(results, judges, f"n = {n}")


@of_every_dtype
@of_every([*SOFTMAXES, *GRADIENTS, *ALL_HINGES[:4], *ENTROPIES, WEIGHTED])
def test_in_every_layout(oracle, dtype):
    for n in (3, 17, 40):
        given = oracle.typed(oracle.special(n), dtype)
        judges = oracle.judge(*given)
        for layout, lay in LAYOUTS.items():
            results = oracle.over(given, lay=lay)
            assert_all_right(results, judges, f"n = {n}, {layout}")


@dtypes(np.float32, np.float64, np.float16)
@of_every([*SOFTMAXES, *GRADIENTS, ALL_HINGES[0], ALL_HINGES[7]])
def test_in_a_row_of_several_pieces(oracle, dtype):
    entries = [*itertools.product((0, 65_535, 65_536, VERY_LONG - 1), (NAN, INF, -INF))]
    is_half = np.dtype(dtype).itemsize == 2
    if is_half or oracle not in SOFTMAXES:
        entries = [entries[i] for i in (0, 2, 4, 6, 10)]
    cases = [(k, *entry) for k in range(oracle.arrays) for entry in entries]
    one = oracle.draw(1, VERY_LONG, dtype)
    plain = tuple(np.repeat(x, len(cases) + 1, axis=0) for x in one)
    given = tuple(x.copy() for x in plain)
    for row, (operand, place, value) in enumerate(cases):
        given[operand][row, place] = value
    judges = oracle.judge(*given)
    for place in (ROWS, COLUMNS) if oracle in GRADIENTS and not is_half else (ROWS,):
        results = oracle.over(given, place)
        assert_all_right(results, judges)
        last = tuple(y[-1] for y in oracle.over(plain, place))
        assert_same_bits(tuple(y[-1] for y in results), last)


@of_every_dtype
@of_every(SOFTMAXES)
def test_the_largest_numbers(oracle, dtype):
    """Their differences overflow, and their multiples: silently, and rightly."""
    big = np.finfo(dtype).max if dtype is not DTYPES[-1] else dtype(3.38e38)
    for n in (2, 17, 64, 65, 2049):
        x = np.full((4, n), -big, dtype)
        x[:2, n // 2] = big
        x[3] = big
        for place in (ROWS, COLUMNS):
            assert_all_right(oracle.over((x,), place), oracle.judge(x), f"n = {n}")


# ---- sets of one, empty sets ----


@of_every_dtype
@pytest.mark.parametrize("value", [NAN, INF, -INF, 2.0])
@of_every([*SOFTMAXES, *GRADIENTS])
def test_sets_of_one(oracle, value, dtype):
    given = tuple(np.array([value] * 3, dtype) for _ in range(oracle.arrays))
    oracle.check(tuple(x[:, np.newaxis] for x in given), axis=1)
    oracle.check(given, axis=())
    [y] = oracle.check(tuple(x[0] for x in given), axis=None)
    assert type(y) is np.dtype(dtype).type


@dtypes(*DTYPES, np.longdouble, np.int8)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 3)], ids=str)
@of_every([*SOFTMAXES, *GRADIENTS])
def test_empty(oracle, shape, dtype):
    x = np.empty(shape, dtype)
    given = [(x, x), (x, np.ones(1, dtype))] if oracle in GRADIENTS else [(x,)]
    masks = [None, True, np.ones(1, bool)] if "where" in oracle.takes else [None]
    everything = tuple(range(len(shape)))
    for axis, operands, where in itertools.product(
        (None, 0, -1, (), everything), given, masks
    ):
        options = {} if where is None else {"where": where}
        [y] = silently(oracle.call, *operands, axis=axis, **options)
        reduced = np.empty(shape).sum(axis=axis).shape
        assert np.shape(y) == (reduced if oracle.name == "logsumexp" else shape)
        assert (y.dtype,) == oracle.types(dtype)
        assert oracle.name != "logsumexp" or (np.asarray(y) == -INF).all()


def test_empty_lists():
    for oracle in (*SOFTMAXES, *GRADIENTS):
        [y] = oracle.call(*[[]] * oracle.arrays, axis=None)
        assert y == -INF if oracle.name == "logsumexp" else y.shape == (0,)


# ---- gradients: what where left out, long double ----


@dtypes(*DTYPES, np.longdouble)
@pytest.mark.parametrize("n", [1, 2, 17, 64, 65, 2049, 70_000])
@of_every(GRADIENTS)
def test_what_where_left_out_of_y(oracle, n, dtype):
    """There is no gradient for softmax, and of log_softmax dy remains, to the bit."""
    y, dy = oracle.draw(6 if n < 70_000 else 3, n, dtype, "masked")
    compute = computed(dtype).type
    out = y == (0 if oracle is GRADIENTS[0] else -INF)
    assert out.any()
    for temperature in (1.0, 0.7, 3.0) if n < 70_000 else (1.0, 0.7):
        judges = oracle.judge(y, dy, temperature=temperature)
        quotient = (dy.astype(compute) / compute(temperature)).astype(dtype)
        expected = quotient if oracle is GRADIENTS[1] else dy * 0
        for place in (ROWS, COLUMNS):
            [dx] = oracle.over((y, dy), place, temperature=temperature)
            assert_all_right((dx,), judges, f"temperature {temperature}")
            np.testing.assert_array_equal(dx[out], expected[out])


@of_every(GRADIENTS)
def test_long_double_follows_ieee_too(oracle):
    for n, temperature in itertools.product((2, 17, 65), (1.0, 0.7)):
        given = oracle.typed(oracle.special(n), np.longdouble)
        judges = oracle.judge(*given, temperature=temperature)
        for place in (ROWS, COLUMNS):
            results = oracle.over(given, place, temperature=temperature)
            assert_all_right(results, judges, f"n = {n}")


# ---- losses ----


@of_every_dtype
@of_every_loss
def test_pairs_and_totals_of_the_table(oracle, dtype):
    function = oracle.total
    for n in (1, 3, 17, 24, 25, 129, *([2049] if dtype is DTYPES[0] else [])):
        given = oracle.typed(oracle.special(n), dtype)
        some = inputs.masks(n)["some"]
        for name, kept in (("plain", True), ("some", some), ("others", ~some)):
            batch = oracle.batch(*given, where=kept)
            options = {"where": kept, "return_grad": False}
            pairs, _ = silently(function, *given, **options, reduction="pairs")
            right = batch.loss(dtype, "pairs")
            assert_right(pairs, right, f"n = {n}, {name}")
            for reduction in ("sum", "mean"):
                total, _ = silently(function, *given, **options, reduction=reduction)
                assert_right(total, batch.loss(dtype, reduction), f"n = {n}, {name}")


@of_every_dtype
@pytest.mark.parametrize(
    "oracle", [o for o in ALL_HINGES[:12] if "max" in o.name], ids=str
)
def test_the_largest_of_several_infinite_terms(oracle, dtype):
    """Any of them may be it, but only one."""
    p = oracle.total.keywords["p"]
    for n, (name, place) in itertools.product((3, 17, 40), PLACES.items()):
        x = inputs.special_scores(n)
        for mask, kept in inputs.masks(n).items():
            batch = hinges.batch(x, variant="max", p=p, where=kept)
            tied = (np.isposinf(batch.terms).sum(axis=1) > 1) & ~np.isnan(batch.losses)
            given = x[tied][: 2 * (tied.sum() // 2)].astype(dtype)
            terms = batch.terms[tied][: len(given)]
            labels = (np.zeros(len(given), int),) if "labels" in oracle.name else ()
            losses, grad = oracle.over((given, *labels), place, where=kept)
            assert (losses == INF).all()
            picked = grad[:, 1:] != 0
            assert (picked.sum(axis=1) == 1).all(), f"{n} {name} {mask}"
            assert (terms[picked] == INF).all()
            slope = 1 if p == 1 else INF
            assert (grad[:, 1:][picked] == slope).all()
            assert (grad[:, 0] == -slope).all()


@of_every_loss
def test_no_negative_costs_nothing(oracle):
    """Be there none, or all masked, or no row at all."""
    function = oracle.total
    for dtype, rows, n in itertools.product(DTYPES, (4, 0), (1, 4, 25, 129)):
        x = np.full((rows, n), 1.0)
        x[:, ::2] = np.array([1, NAN, INF, -INF])[:rows, np.newaxis]
        x = x.astype(dtype)
        labels = (np.zeros(rows, int),) if "labels" in oracle.name else ()
        for where, weight in ((np.False_, None), (np.zeros((rows, 1), bool), 2.0)):
            given = {"where": True if n == 1 else where, "sample_weight": weight}
            for reduction in ("sum", "mean", "none"):
                loss, grad = silently(
                    function, x, *labels, **given, reduction=reduction
                )
                counts = rows > 0 and n == 1  # others have negatives, all masked
                expected = NAN if reduction == "mean" and not counts else 0
                np.testing.assert_array_equal(loss, expected)
                assert np.shape(loss) == ((rows,) if reduction == "none" else ())
                assert loss.dtype == computed(dtype)
                assert (grad.shape, grad.dtype) == (x.shape, dtype)
                assert not grad.astype(float).any()
            given |= {"reduction": "pairs", "return_grad": False}
            pairs, _ = silently(function, x, *labels, **given)
            assert pairs.shape == (rows, n if labels else n - 1)
            assert not pairs.astype(float).any()


def test_no_rows_of_other_forms():
    none, float32 = np.empty(0, int), np.float32
    for function, *args, options, shape in (
        (hinge_loss, np.empty((2, 0, 4), float32), {}, (2, 0)),
        (hinge_loss, np.empty(0, float32), {"negatives": 3}, (0,)),
        (hinge_loss, np.empty(0, float32), {"negatives": 0}, (0,)),
        (hinge_loss, np.empty((0, 4), float32), [], {}, (0,)),
        (hinge_loss, np.empty((0, 0), float32), none, {}, (0,)),
        (pair_hinge_loss, np.empty((0, 1), float32), np.empty((0, 0), "f4"), {}, (0,)),
    ):
        for variant, p in itertools.product(("sum", "max"), (1, 2)):
            call = functools.partial(
                silently, function, *args, **options, variant=variant, p=p
            )
            loss, grad = call(return_grad=True)
            assert (type(loss), loss) == (float32, 0)
            grads = grad if isinstance(grad, tuple) else (grad,)
            for one, x in zip(grads, args, strict=False):
                assert (one.shape, one.dtype) == (x.shape, float32)
            assert np.isnan(call(reduction="mean"))
            assert call(reduction="none").shape == shape
            assert call(reduction="pairs").size == 0


@of_every_loss
def test_sums_that_overflow_are_infinite(oracle):
    function = oracle.total
    for n, (dtype, large) in itertools.product(
        (4, 41), ((np.float32, 3e38), (np.float64, 1.7e308))
    ):
        scores = np.full((2, n), large, dtype)
        scores[:, 0] = -large / 4
        labels = (np.zeros(2, int),) if "labels" in oracle.name else ()
        for x, reduction in itertools.product(
            (scores, np.asfortranarray(scores)), ("sum", "mean", "none")
        ):
            for grad in (False, True):
                options = {"reduction": reduction, "return_grad": grad}
                loss, _ = silently(function, x, *labels, **options)
                np.testing.assert_array_equal(loss, INF)


@of_every_loss
@pytest.mark.parametrize("options", [{}, {"where": True}, {"sample_weight": 1.0}])
def test_sums_that_underflow_are_silent(options, oracle):
    """A square of 1e-60 is nothing in float32; the float64 total knows it."""
    function = oracle.total
    for scale, shape in itertools.product((1e-30, 1e-20), ((2, 4), (2, 40))):
        scores = np.full(shape, scale, np.float32)
        scores[:, 0] = 0
        labels = (np.zeros(2, int),) if "labels" in oracle.name else ()
        asked = {"margin": 0.0, **options}
        batch = oracle.batch(scores, *labels, margin=0.0)
        for x, reduction in itertools.product(
            (scores, np.asfortranarray(scores)), ("sum", "mean", "none")
        ):
            loss, _ = silently(function, x, *labels, **asked, reduction=reduction)
            right = batch.loss(np.float32, reduction)
            right = right._replace(allowed=right.allowed + 2.0**-149)
            assert_right(loss, right, f"{scale} {shape} {reduction}")


def test_halves_beyond_their_range():
    """The gradient of a positive is beyond float16 where there are many negatives."""
    scores = np.zeros((2, 70_001), np.float16)
    loss, grad = silently(hinge_loss, scores, return_grad=True)
    assert loss == 140_000
    np.testing.assert_array_equal(grad[:, 0].astype(float), -INF)
    np.testing.assert_array_equal(grad[:, 1:].astype(float), 1)
    pairs = silently(hinge_loss, scores, margin=300.0, p=2, reduction="pairs")
    np.testing.assert_array_equal(pairs.astype(float), INF)
    logits = np.full((2, 9), 65_504, np.float16)
    np.testing.assert_array_equal(silently(logsumexp, logits, axis=1), [65_504] * 2)


# ---- weights ----


@pytest.mark.parametrize("weight", [0.0, NAN, INF, -1.0, 1e300])
def test_special_weights(weight):
    """A row's loss is the product, whatever it is."""
    for n, dtype, order in itertools.product((3, 40), (np.float32, np.float64), "CF"):
        scores = np.zeros((4, n + 1), dtype, order=order)
        for variant, loss in (("sum", n), ("max", 1)):
            options = {"sample_weight": [1, weight, 1, 1], "variant": variant}
            losses, grad = silently(
                hinge_loss, scores, **options, reduction="none", return_grad=True
            )
            with np.errstate(all="ignore"):
                product, slope = dtype(loss * weight), dtype(weight)
            np.testing.assert_array_equal(losses, [loss, product, loss, loss])
            np.testing.assert_array_equal(grad[1, 1], slope)
            np.testing.assert_array_equal(grad[[0, 2, 3], 1], 1)


@pytest.mark.parametrize("weight", [NAN, INF, 1e39, 1e300])
@pytest.mark.parametrize("n", [3, 40])
def test_a_loss_of_0_stays_0_whatever_its_weight(n, weight):
    scores = np.full((2, n + 1), -9, np.float32)
    scores[:, 0] = 0
    for p, variant, reduction in itertools.product(
        (1, 2), ("sum", "max"), ("sum", "none", "pairs")
    ):
        options = {"p": p, "variant": variant, "sample_weight": [weight, 1]}
        loss = silently(hinge_loss, scores, **options, reduction=reduction)
        assert not np.any(loss)
        _, grad = silently(hinge_loss, scores, **options, return_grad=True)
        assert not grad.any()


@pytest.mark.parametrize("n", [3, 40])
def test_a_weight_beyond_float32_leaves_zeros_alone(n):
    scores = np.full((1, n + 1), -9, np.float32)
    scores[:, :2] = 0
    for p in (1, 2):
        options = {"p": p, "sample_weight": 1e39}
        loss, grad = silently(hinge_loss, scores, **options, return_grad=True)
        assert loss == INF
        np.testing.assert_array_equal(grad[0, :3], [-INF, INF, 0])
        pairs = silently(hinge_loss, scores, **options, reduction="pairs")
        np.testing.assert_array_equal(pairs[0, :2], [INF, 0])
