"""A set's result is the same to the bit, wherever it is and whoever computes it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import child
import numpy as np
import pytest
from oracle import (
    ALL_HINGES,
    COLUMNS,
    ENTROPIES,
    GRADIENTS,
    HINGES,
    LAYOUTS,
    ORACLES,
    PLACES,
    ROWS,
    SOFTMAXES,
    WEIGHTED,
    Oracle,
    hinges,
    of_every,
    taken,
)
from oracle.arithmetic import DTYPES, Array, assert_same_bits, silently
from oracle.arrays import OF_ROWS

from fastsoftmax import _cpu

LENGTHS = [*range(1, 132), 200, 255, 256, 257, 511, 1000, 2047, 2048, 2049]
LENGTHS += [4096, 4097, 10_000]
# Losses have one boundary of columns, and vectors.
FOR_LOSSES = [*range(1, 5), *range(8, 11), *range(15, 19), *range(23, 28), 31, 33, 34]
FOR_LOSSES += [40, 64, 65, 66, 100, 128, 129, 130, 200, 2048, 2049, 2050, 5000]
LONG = [65_535, 65_536, 65_537, 131_072, 131_073, 262_145, 300_001]

# FS_NARROW: of fewer columns, several rows may be worked on side by side.
NARROW = 16
# From so many elements on, work is shared between threads.
FOR_THREADS = 32_768

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def lengths(oracle: Oracle) -> list[int]:
    return FOR_LOSSES if "weights" in oracle.takes else LENGTHS


def rows_of(n: int) -> int:
    return 67 if n <= 130 else 5 if n <= 5000 else 2


def in_every_type(
    oracle: Oracle, rows: int, n: int
) -> Iterator[tuple[str, tuple[Array, ...]]]:
    """The same rows, drawn once."""
    drawn = oracle.draw(rows, n)
    for dtype in DTYPES:
        yield f"{np.dtype(dtype)}, n = {n}", oracle.typed(drawn, dtype)


# ---- neighbours ----


def assert_alone_as_in_a_batch(
    oracle: Oracle, given: tuple[Array, ...], step: int, message: str, **options: Any
) -> None:
    batch = oracle.over(given, **options)
    for i in range(0, len(given[0]), step):
        row = tuple(y[i : i + 1] for y in batch)
        assert_same_bits(oracle.over(taken(given, [i]), **options), row, message)


@of_every()
def test_a_row_in_a_batch_equals_the_row_alone(oracle):
    for n in [*lengths(oracle), *LONG[::3]]:
        for message, given in in_every_type(oracle, rows_of(n), n):
            step = 1 if n in (2, 10, 17, 64, 65) else 13
            assert_alone_as_in_a_batch(oracle, given, step, message)


@of_every()
def test_a_row_in_a_batch_with_options(oracle):
    for n, dtype in product((2, 17, 64, 65, 129, 2049, 65_537), (np.float32, np.int16)):
        values = {
            "where": np.arange(n) % 3 < 2,
            "temperature": 0.7,
            "margin": 0.7,
            "dtype": np.float64,
        }
        given = oracle.draw(140 if n == 2049 else rows_of(n), n, dtype)
        for option, value in values.items():
            if option in oracle.takes:
                message = f"{np.dtype(dtype)} {n} {option}"
                options = {option: value}
                assert_alone_as_in_a_batch(oracle, given, 23, message, **options)


PARTS = [(0, 1), (0, 9), (1, 18), (63, 65), (64, 200), (3, 131), (127, 130)]
PARTS += [(5, 5 + w) for w in (16, 17, 31, 33, 64, 65)]


@pytest.mark.parametrize("place", [ROWS, COLUMNS], ids=["rows", "columns"])
@of_every()
def test_a_set_does_not_see_its_neighbours(oracle, place):
    """Nor how many there are, nor where in the batch it stands."""
    # Of one column nothing tells that it is one.
    least = 1 if place is ROWS else 2 if oracle in ALL_HINGES else NARROW
    for n in (2, 3, 10, 25, 33, 64, 65, 300, 2049):
        for message, given in in_every_type(oracle, 200, n):
            results = oracle.over(given, place)
            backwards = oracle.over(taken(given, np.s_[::-1]), place)
            assert_same_bits(backwards, tuple(y[::-1] for y in results), message)
            for first, last in PARTS:
                if last - first >= least:
                    some = np.s_[first:last]
                    part = oracle.over(taken(given, some), place)
                    assert_same_bits(part, tuple(y[some] for y in results), message)


@of_every([*SOFTMAXES, *GRADIENTS, WEIGHTED])
def test_columns_do_not_depend_on_the_width(oracle):
    for n in (2, 3, 64, 300, 2049, 4097):
        columns = 600 if n <= 300 else 300 if n < 4000 else 80
        for message, given in in_every_type(oracle, columns, n):
            results = oracle.over(given, COLUMNS)
            for width in (16, 17, 33, 64, 65, 255, 256, 257, 293, 513):
                part = np.s_[5 : 5 + width]
                if 5 + width > columns:
                    break
                found = oracle.over(taken(given, part), COLUMNS)
                right = tuple(y[part] for y in results)
                assert_same_bits(found, right, f"{message}, {width}")


@of_every([*SOFTMAXES, *GRADIENTS])
def test_narrow_columns_do_not_see_their_neighbours(oracle):
    """Nor where they stand; how many there are, they may."""
    for n, width in product((2, 3, 10, 64, 65, 300, 2049, 4097), range(2, NARROW)):
        for message, given in in_every_type(oracle, width, n):
            message = f"{message}, {width}"
            results = oracle.over(given, COLUMNS)
            backwards = oracle.over(taken(given, np.s_[::-1]), COLUMNS)
            assert_same_bits(backwards, tuple(y[::-1] for y in results), message)
            others = tuple(x.copy() for x in given)
            for x in others:
                x[1:] = 0
            first = tuple(y[:1] for y in oracle.over(others, COLUMNS))
            assert_same_bits(first, tuple(y[:1] for y in results), message)
            if oracle in GRADIENTS:
                continue
            # Between others: [n, 3, width], of which the middle counts.
            many = [np.stack([x.T, x.T[::-1], x.T], axis=1)[:, ::2] for x in given]
            [y] = silently(oracle.call, *many, axis=0)
            assert_same_bits(y[..., 1, :].T, results[0], message)


# ---- memory ----


@of_every_dtype
@of_every()
def test_layouts_of_rows(oracle, dtype):
    """Whatever strides, alignment and byte order, the bits are those of C order."""
    for n in (1, 2, 16, 17, 25, 64, 65, 100, 129, 257, 2049):
        given = oracle.draw(19, n, dtype)
        expected = oracle.over(given)
        for layout in OF_ROWS:
            results = oracle.over(given, lay=LAYOUTS[layout])
            assert_same_bits(results, expected, f"n = {n}, {layout}")


@of_every_dtype
@pytest.mark.parametrize("layout", OF_ROWS)
@of_every([*GRADIENTS, WEIGHTED])
def test_layouts_of_one_operand_beside_those_of_another(oracle, layout, dtype):
    for n in (2, 17, 65, 2049):
        y, dy = oracle.draw(7, n, dtype)
        expected = oracle.over((y, dy))
        for other in LAYOUTS:
            given = LAYOUTS[layout](y), LAYOUTS[other](dy)
            results = silently(oracle.call, *given, axis=-1)
            assert_same_bits(results, expected, f"n = {n}, dy {other}")


@of_every()
def test_shifted_by_one_element(oracle):
    shift = LAYOUTS["one element off"]
    for n in lengths(oracle):
        for message, given in in_every_type(oracle, 6, n):
            for axis, place in PLACES.items():
                expected = oracle.over(given, place)
                shifted = oracle.over(given, place, shift)
                assert_same_bits(shifted, expected, f"{message}, {axis}")


@of_every([*SOFTMAXES[:2], *GRADIENTS])
def test_in_place(oracle):
    """Over whichever operand."""
    for n in [*LENGTHS, *LONG[::3]]:
        for message, given in in_every_type(oracle, 7 if n <= 4097 else 2, n):
            for place, k in product((ROWS, COLUMNS), range(oracle.arrays)):
                expected = oracle.over(given, place)
                laid = [place.lay(x) for x in given]
                [y] = silently(oracle.call, *laid, axis=place.axis, out=laid[k])
                assert y is laid[k]
                found = (place.rows(y, given[0]),)
                assert_same_bits(found, expected, f"{message}, operand {k}")


# ---- ways to say the same ----


class Subclass(np.ndarray):
    """Has no behaviour of its own."""


def ways(oracle: Oracle, given: tuple[Array, ...], axis: int) -> Iterator[Any]:
    """Calls that mean a plain call of `given` over the axis."""
    first = given[0]
    yield "list", [x.tolist() for x in given], {"axis": axis}
    yield "subclass", [x.view(Subclass) for x in given], {"axis": axis}
    yield "memoryview", [memoryview(x) for x in given], {"axis": axis}
    everything = {"where": [True, np.True_, np.ones(first.shape, bool)]}
    rows = np.delete(first.shape, axis)
    if "weights" in oracle.takes:
        ones = np.ones(rows, int), np.ones(rows, np.float32)
        everything["sample_weight"] = [1, 1.0, *ones]
    if oracle in ALL_HINGES:
        everything |= {
            "margin": [np.float64(1), 1, np.array(1)],
            "p": [np.int64(oracle.total.keywords["p"])],
        }
    elif "axes" in oracle.takes:
        yield "tuple", given, {"axis": (axis,)}
        yield "NumPy's axis", given, {"axis": np.int8(axis)}
        yield "axis < 0", given, {"axis": axis - first.ndim}
        everything["dtype"] = [first.dtype, first.dtype.newbyteorder()]
        out = np.full_like(first, 9)
        if oracle.name == "logsumexp":
            out = np.full(rows, 9, first.dtype)
        everything["out"] = [out]
    each = np.ones_like(first.take([0], axis))
    everything["temperature"] = [1, np.float32(1), np.array(1.0), each, each.tolist()]
    for option, values in everything.items():
        if option in oracle.takes | {"sample_weight", "p"}:
            for value in values:
                yield option, given, {"axis": axis, option: value}


@of_every()
def test_ways_to_say_the_same(oracle):
    """Be they decoded by a short way or a long one."""
    for n, axis in product((1, 2, 17, 64, 257, 2049, 70_000), (0, 1)):
        given = oracle.draw(7 if n < 5000 else 2, n, np.float64)
        given = tuple((ROWS if axis else COLUMNS).lay(x) for x in given)
        expected = silently(oracle.call, *given, axis=axis)
        for way, operands, options in ways(oracle, given, axis):
            if n > 5000 and way == "list":
                continue
            if oracle in ALL_HINGES and not isinstance(operands[0], np.ndarray):
                if axis == 0:
                    continue
                operands = [np.asarray(operands[0]), *operands[1:]]
            results = silently(oracle.call, *operands, **options)
            assert_same_bits(results, expected, f"n = {n}, axis {axis}, {way}")


@of_every_dtype
@of_every([*GRADIENTS, WEIGHTED])
def test_dy_that_is_broadcast(oracle, dtype):
    """Over a dimension that is no set's."""
    for n, axis in product((1, 2, 17, 64, 65, 257, 2049), (0, 1)):
        y, dy = (x if axis else x.T.copy() for x in oracle.draw(7, n, dtype))
        expected = silently(oracle.call, y, dy, axis=axis)
        two = np.stack([y, y[::-1]])
        results = silently(oracle.call, two, dy[np.newaxis], axis=axis + 1)
        assert_same_bits(tuple(dx[0] for dx in results), expected, f"n = {n}")


@pytest.mark.parametrize("loss", hinges.LOSSES, ids=str)
def test_scores_in_other_forms(loss):
    """Flat, as lists, in more dimensions, beside labels of fewer bits."""
    p, variant = loss
    for rows, n in ((9, 2), (300, 4), (7, 17), (5, 65), (70, 40)):
        for oracle in (
            o for o in ALL_HINGES[:12] if o.name.endswith(f"{variant} p={p}")
        ):
            function = oracle.total
            given = oracle.draw(rows, n)
            for reduction in hinges.REDUCTIONS[:3]:
                expected = function(*given, reduction=reduction)
                scores, *labels = given
                if labels:
                    again = function(
                        scores, labels[0].astype(np.int8), reduction=reduction
                    )
                    assert_same_bits(again, expected)
                elif "column" in oracle.name:
                    flat = oracle.total.func
                    for x in (scores, np.repeat(scores, 2, axis=0)[::2]):
                        options = {"p": p, "variant": variant, "reduction": reduction}
                        assert_same_bits(flat("flat", x, **options), expected)
                if rows % 5 == 0:
                    more = scores.reshape(rows // 5, 5, n)
                    labels = [x.reshape(rows // 5, 5) for x in labels]
                    loss_of_more, grad = function(more, *labels, reduction=reduction)
                    assert_same_bits(np.ravel(loss_of_more), np.ravel(expected[0]))
                    assert_same_bits(grad.reshape(scores.shape), expected[1])


@of_every([*ALL_HINGES[:8], *ENTROPIES])
def test_the_loss_does_not_depend_on_the_gradient(oracle):
    function = oracle.total
    for n, dtype, layout in product((4, 40), DTYPES[:2], LAYOUTS):
        scores, *labels = oracle.draw(9, n, dtype)
        scores = LAYOUTS[layout](scores)
        for reduction in hinges.REDUCTIONS[:3]:
            loss, _ = function(scores, *labels, reduction=reduction)
            options = {"reduction": reduction, "return_grad": False}
            alone, _ = function(scores, *labels, **options)
            assert_same_bits(alone, loss, f"{n} {np.dtype(dtype)} {layout}")


# ---- threads ----


COUNT = """
import os
import sys

import numpy as np

import fastsoftmax

fastsoftmax.set_num_threads(3)
fastsoftmax._cpu.share_always(True)
before = len(os.listdir("/proc/self/task"))
fastsoftmax.softmax(np.zeros((int(sys.argv[1]) // 64, 64)), axis=-1)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not _cpu.openmp, reason="built without threads")
def test_threads_share_work_of_the_size_tested_here(tmp_path):
    assert child.python(tmp_path, COUNT, str(FOR_THREADS)) == "2\n"


MANY = [(40_001, 2), (15_001, 3), (2501, 17), (2001, 18), (501, 100)]
SOME = [(20, 2050), (9, 5001), (6, 7001), (3, 70_000)]
FEW = [(1, 300_001), (2, 131_073)]


@of_every()
def test_with_1_2_and_8_threads(oracle, use_threads):
    """Rows and columns, many, some and few; with a mask and a temperature, too."""
    shapes = [*MANY, *SOME, *FEW]
    if "weights" in oracle.takes:
        shapes = shapes[ORACLES.index(oracle) % 2 :: 2]
    options: dict[str, Any] = {}
    if "temperature" in oracle.takes:
        options["temperature"] = 0.7
    for (rows, n), dtype in product(shapes, (np.float64, np.float32, np.float16)):
        assert rows * n > FOR_THREADS
        if dtype is np.float64:
            drawn = oracle.draw(rows, n)
            if "where" in oracle.takes:
                options["where"] = np.arange(n) % 3 < 2
        given = oracle.typed(drawn, dtype)
        for place, asked in ((ROWS, {}), (COLUMNS, {}), (ROWS, options)):
            expected = None
            for threads in (1, 2, 8):
                use_threads(threads)
                results = oracle.over(given, place, **asked)
                expected = results if expected is None else expected
                assert_same_bits(results, expected, f"{(rows, n)} {[*asked]} {threads}")


@of_every([*SOFTMAXES, *GRADIENTS])
def test_the_rows_of_long_batches_with_threads(oracle, use_threads):
    """A long row is cut into pieces that threads share, if rows are few."""
    for n in LONG:
        for message, given in in_every_type(oracle, 2, n):
            use_threads(1)
            expected = oracle.over(taken(given, [0]))
            for threads in (1, 2, 8):
                use_threads(threads)
                one = oracle.over(taken(given, [0]))
                both = oracle.over(given)
                shifted = oracle.over(given, lay=LAYOUTS["one element off"])
                for found in (one, both, shifted):
                    assert_same_bits(tuple(y[:1] for y in found), expected, message)
                if n < 2 * LONG[0]:
                    many = oracle.over(taken(given, [1] * 16 + [0]))
                    assert_same_bits(tuple(y[16:] for y in many), expected, message)


@of_every([*SOFTMAXES, *GRADIENTS, WEIGHTED])
def test_other_axes_with_threads(oracle, use_threads):
    for shape, axis in (
        ((7, 50, 801), 1),
        ((60_000, 5), 0),
        ((70, 80, 50), (0, 1)),
        ((70, 80, 50), (0, 2)),
        ((600, 501), None),
    ):
        given = tuple(
            x.reshape(shape) for x in oracle.draw(1, int(np.prod(shape)), np.float32)
        )
        calls: list[Callable[[], Any]] = [lambda: oracle.call(*given, axis=axis)]  # noqa: B023
        if oracle.arrays > 1:
            calls.append(lambda: oracle.call(given[0], given[1][:1], axis=axis))  # noqa: B023
        for call in calls:
            use_threads(1)
            expected = call()
            for threads in (2, 8):
                use_threads(threads)
                assert_same_bits(call(), expected, f"{shape} {axis}")


@of_every([*HINGES, *ENTROPIES])
def test_totals_with_threads(oracle, use_threads):
    function = oracle.total
    for (rows, n), dtype in product(
        ((15_001, 4), (501, 100), (3, 131_073)), DTYPES[:3]
    ):
        given = oracle.draw(rows, n, dtype)
        rng = np.random.default_rng(n)
        masked = {
            "where": rng.random((rows, n)) < 0.6,
            "sample_weight": rng.random(rows),
        }
        reductions = ("sum", "mean", "pairs") if oracle in HINGES else ("mean",)
        for reduction, options in product(reductions, ({}, masked)):
            expected = None
            for threads in (1, 2, 8):
                use_threads(threads)
                asked = {"reduction": reduction, "return_grad": reduction != "pairs"}
                loss, grad = function(*given, **options, **asked)
                result = (loss,) if grad is None else (loss, grad)
                expected = result if expected is None else expected
                assert_same_bits(result, expected, f"{(rows, n)} {reduction} {threads}")


@of_every([SOFTMAXES[1], GRADIENTS[0], ALL_HINGES[3], ALL_HINGES[4]])
def test_eight_threads_of_python_at_once(oracle):
    cases = [
        (oracle.draw(*shape, np.float32), place)
        for shape in ((300, 9), (90, 70), (3, 100_001))
        for place in (ROWS, COLUMNS)
    ]
    expected = [oracle.over(given, place) for given, place in cases]
    failures: list[str] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        for (given, place), right in zip(cases, expected, strict=True):
            try:
                assert_same_bits(oracle.over(given, place), right)
            except AssertionError as wrong:
                failures.append(str(wrong))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
