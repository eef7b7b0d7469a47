"""The kernels alone, for instruction sets that this machine lacks too.

A driver in C (tests/kernels) runs them on memory that ends where a page begins which
must not be touched. NEON runs under qemu, AVX-512 by way of SIMDe.
"""

from __future__ import annotations

import functools
import platform
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from kernel_driver import (
    KERNELS,
    Build,
    Job,
    Target,
    check_tools,
    compile_terms,
    compile_words,
    hinge_job,
    job,
    need,
    targets,
    weighted_job,
)
from oracle import SOFTMAXES, hinges, right
from oracle.arithmetic import (
    WIDE_ENOUGH,
    Array,
    Judge,
    assert_right,
    assert_same_bits,
    finfo,
)
from oracle.inputs import draw_labels, draw_scores, masks, special_rows
from vjp_calls import draw as draw_pair

from fastsoftmax import _cpu, log_softmax_vjp, logsumexp, softmax_vjp

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory as on Linux"),
    pytest.mark.skipif(not KERNELS.exists(), reason="needs the sources"),
    pytest.mark.skipif(not WIDE_ENOUGH, reason="no wider float to judge by"),
]

NAMES = ("softmax", "log_softmax", "logsumexp")
FLOATS = ["float32", "float64", "float16", "bfloat16"]
DTYPES = [*FLOATS, "int8", "int32", "uint16"]

# Around every vector, unrolled loop, tile and block.
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 257]
LENGTHS += [2047, 2048, 2049, 4100]
WIDTHS = [2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 255, 256, 257, 300]

Builder = Callable[[str], Build]


@pytest.fixture(params=targets(), ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.param
    check_tools(found)
    return found


@pytest.fixture
def do(build: Builder, target: Target) -> Callable[[list[Job]], list[list[Array]]]:
    """Run jobs on the target."""
    return functools.partial(build(target.machine).do, target.isa)


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target, str], Build]:
    """Compile the test of an exponential, once for each target and type."""
    return functools.cache(
        lambda *which: compile_terms(tmp_path_factory.mktemp("terms"), *which)
    )


def as_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


# ---- words, exponential, choice ----


def test_every_word_does_what_plain_c_does(tmp_path: Path, target: Target):
    assert compile_words(tmp_path, target).print() == ""


# docs/numerics.md, in half-ulps just below a power of two: how far the terms are off as
# they are rounded, and before. An entry of softmax is off by one of these and one of
# those, and rounded.
ROUNDED, UNROUNDED = 1.09, 0.15
ROUNDED_WITHOUT_FMA = 1.12

# Of float32: the range of x, where max is; every other float of so many at least.
RANGES = [
    (0, -(2.0**-30), -110, 1),
    (0, -(2.0**-149), -(2.0**-30), 1009),
    (100, 28, 100, 11),
    (199.9, 128, 199.9, 11),
    (-100, -100, -172, 11),
    (0, 2.0**-30, 0.34, 11),
]


def windows(program: Build, given: tuple[Any, ...]) -> Array:
    """Return least and largest errors: rounded, then not."""
    errors = np.array(program.print(*given).split(), float)
    assert np.isfinite(errors).all()
    return errors


def assert_terms_are_right(target: Target, found: list[Array]) -> None:
    """Tell whether they are as numerics.md says, and not better than they can be."""
    low, high, low_before, high_before = np.array(found).T
    low, low_before = low.min(), low_before.min()
    high, high_before = high.max(), high_before.max()
    fused = target.isa != "scalar"
    assert 0.9 < max(-low, high) <= (ROUNDED if fused else ROUNDED_WITHOUT_FMA)
    assert max(-low_before, high_before) <= UNROUNDED
    entry = 0.5 + max(high - low_before, high_before - low)
    assert entry <= (1.71 if fused else 1.77)


def test_exp_of_float32(terms, target):
    """Of every float down to -110, below any result; of some on an emulation."""
    program = terms(target, "float32")
    slower = 1 if not target.slow else 257 if target.native else 1031
    given = [(*where, stride * slower) for *where, stride in RANGES]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(functools.partial(windows, program), given))
    assert_terms_are_right(target, found)


def test_exp_of_float64(terms, target):
    program = terms(target, "float64")
    count = 4_000_000 // (100 if target.slow else 1)
    given = [(0, -700, 0), (0, -0.7, 0), (1000, 300, 1000), (-1400, -2000, -1400)]
    found = [windows(program, (*where, count)) for where in given]
    assert_terms_are_right(target, found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_of_what_is_far_below(terms, target, dtype):
    """Of -110 to -inf: next to nothing, as the largest float that is clamped is."""
    program = terms(target, dtype)
    far = (0, -110, -np.inf, 1009) if dtype == "float32" else (0, -1064, -2000, 100_000)
    assert abs(windows(program, far)).max() < 2.0


CHOICES = [("SandyBridge", ["scalar"]), ("Haswell", ["avx2", "scalar"])]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of x86-64")
@pytest.mark.parametrize(("processor", "isas"), CHOICES)
def test_what_is_chosen_on_other_processors(build: Builder, processor, isas):
    check_tools(Target("x86_64", "scalar"))
    need(shutil.which("qemu-x86_64"), "needs qemu-x86_64")
    here = build("x86_64")
    launcher = ("qemu-x86_64", "-E", "UNGUARDED=1", "-cpu", processor)
    there = Build(here.program, launcher)
    assert there.print("isas").split() == isas
    x = draw("float32", 70, 33)
    given = (x[..., None], x.reshape(2, 33, 35))
    jobs = [job(name, a) for name in NAMES for a in given]
    for a, b in zip(there.do("best", jobs), here.do(isas[0], jobs), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_the_driver_chooses_as_the_package_does(build: Builder):
    check_tools(Target(platform.machine(), "scalar"))
    printed = build(platform.machine()).print("isas")
    assert tuple(printed.split()) == _cpu.supported_isas


# ---- the softmaxes ----


@functools.lru_cache
def draw(name: str, rows: int, n: int) -> Array:
    """Rows of several kinds in turn: in reach of exp, and not; subnormal results."""
    dtype = as_dtype(name)
    rng = np.random.default_rng([rows, n])
    x = rng.uniform(-30, 30, (rows, n))
    if dtype.kind in "iu":
        return (x * 2 if dtype.kind == "i" else abs(x)).astype(dtype)
    x[1::6] += 800
    x[2::6] -= 800.3
    x[3::6] = rng.uniform(-20, -12, x[3::6].shape)  # one far above many
    x[3::6, n // 2] = 0.3
    low, high = (700, 745) if name == "float64" else (80, 110)
    below = rng.uniform(low, high, x[4::6].shape)
    x[4::6] = np.where(rng.random(below.shape) < 0.5, -below, x[4::6] / 30)
    x[5::6] *= 60
    return x.astype(dtype)


def judges(x: Array, **options: Any) -> dict[str, Judge]:
    """What the functions should make of rows."""
    return {oracle.name: oracle.judges((x,), **options)[0] for oracle in SOFTMAXES}


@functools.lru_cache
def judged(name: str, rows: int, n: int) -> dict[str, Judge]:
    return judges(draw(name, rows, n))


def rows_of(n: int) -> int:
    """More and less than a vector's, or than short rows taken at once."""
    return 70 if n <= 65 else 13


@pytest.mark.parametrize("name", DTYPES)
def test_rows_of_every_length(do, name):
    given = [(rows_of(n), n) for n in LENGTHS]
    jobs = [job(f, draw(name, *shape)[..., None]) for shape in given for f in NAMES]
    results = iter(do(jobs))
    for shape in given:
        for function in NAMES:
            y = next(results)[0]
            y = y[..., 0]
            assert_right(y, judged(name, *shape)[function])


@pytest.mark.parametrize("name", DTYPES)
def test_columns_of_every_length_and_number(do, name):
    given = [(13, n) for n in LENGTHS] + [(w, n) for w in WIDTHS for n in (3, 4, 66)]
    given = [(w, n) for w, n in given if w > 1]
    jobs = [job(f, draw(name, *shape).T[None]) for shape in given for f in NAMES]
    results = iter(do(jobs))
    for shape in given:
        for function in NAMES:
            y = next(results)[0][0]
            assert_right(y.T, judged(name, *shape)[function])


@pytest.mark.parametrize("name", DTYPES)
def test_weights(do, name):
    """As the package has it, which test_weights.py judges; one result in any shape."""
    rng = np.random.default_rng(0)
    shapes = [(1, 7), (70, 3), (70, 33), (13, 97), (5, 1025)]
    for rows, n in [*shapes, *([(2, 65_600)] if name == "float64" else [])]:
        x, b = draw(name, rows, n), draw(name, rows, n)
        b = np.where(rng.random(b.shape) < 0.2, 0, b).astype(x.dtype)
        x[0], b[0] = x[0, 0], (-1.0) ** np.arange(n)
        for mask in (None, rng.random(x.shape) < 0.8):
            shaped = [None if a is None else a[..., None] for a in (x, b, mask)]
            turned = [None if a is None else a.T[None] for a in (x, b, mask)]
            where = True if mask is None else mask
            expected = logsumexp(x, -1, b, return_sign=True, where=where)
            jobs = [weighted_job(*shaped), weighted_job(*turned)]
            first, *others = do([*jobs, weighted_job(*shaped, in_pieces=True)])
            log, sign = (y.ravel().astype(np.float64) for y in first)
            bound = 2 * finfo(first[0].dtype).eps * abs(x.astype(np.float64)).max()
            np.testing.assert_allclose(log, expected[0], rtol=0, atol=float(bound))
            np.testing.assert_array_equal(sign, expected[1])
            assert np.isfinite(log[1:]).any() or rows == 1
            for other in others:
                for y, same in zip(first, other, strict=True):
                    assert_same_bits(y.ravel(), same.ravel())


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_stores_past_the_caches_change_nothing(do, name):
    """At each offset of a row of y from the beginning of a vector."""
    for n in (66, 67, 71, 100, 129, 1001, 2045, 2048):
        x = draw(name, 17, n)[..., None]
        for function in NAMES:
            usual, past = do([job(function, x), job(function, x, past_caches=True)])
            assert_same_bits(usual[0], past[0])


@pytest.mark.parametrize("name", FLOATS)
def test_in_place_and_in_pieces(do, name):
    """The same bits as when y is elsewhere and the row in one piece."""
    n = 2 * 65536 + 2049
    x = draw(name, 2, n)[..., None]
    short = draw(name, 70, 33)
    shapes = [x, short[..., None], short.reshape(2, 33, 35), draw(name, 300, 5).T[None]]
    for function in NAMES[:2]:
        apart = do([job(function, a) for a in shapes])
        within = do([job(function, a, in_place=True) for a in shapes])
        for a, b in zip(apart, within, strict=True):
            assert_same_bits(a[0], b[0])
    for function in NAMES:
        whole, pieces = do([job(function, x), job(function, x, in_pieces=True)])
        assert_same_bits(whole[0], pieces[0])
        assert_right(whole[0][..., 0], judged(name, 2, n)[function])


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_temperature(do, name):
    shapes = [(70, 33), (13, 257)]
    for shape in shapes:
        x = draw(name, *shape)
        judge = judges(x, temperature=0.7)
        for function in NAMES[:2]:
            rows, columns = do(
                [
                    job(function, x[..., None], temperature=0.7),
                    job(function, x.T[None], temperature=0.7),
                ]
            )
            assert_right(rows[0][..., 0], judge[function])
            assert_right(columns[0][0].T, judge[function])


# ---- NaN, infinities, masks ----


@functools.lru_cache
def by_the_table(name: str, n: int) -> list[tuple[Array, Any, dict[str, Judge]]]:
    """Rows, a mask or None, results, for each mask."""
    x = np.array(special_rows(n)).astype(as_dtype(name))
    kept = [None, *masks(n).values()][: 3 if n > 1000 else None]
    return [(x, mask, judges(x, where=mask)) for mask in kept]


@pytest.mark.parametrize("function", NAMES)
@pytest.mark.parametrize("name", FLOATS)
def test_special_values(do, name, function):
    given = [case for n in (3, 17, 65, 2049) for case in by_the_table(name, n)]
    jobs = []
    for x, kept, _ in given:
        mask = None if kept is None else np.broadcast_to(kept, x.shape).view(np.uint8)
        jobs.append(job(function, x[..., None], mask))
        jobs.append(job(function, x.T[None], None if mask is None else mask.T))
    results = iter(do(jobs))
    for x, kept, expected in given:
        rows, columns = next(results)[0], next(results)[0]
        message = f"{x.shape} where {kept}"
        assert_right(rows[..., 0], expected[function], message)
        assert_right(columns[0].T, expected[function], message)


# ---- gradients ----


@pytest.mark.parametrize("function", [softmax_vjp, log_softmax_vjp])
@pytest.mark.parametrize("name", FLOATS)
def test_vjp(do, name, function):
    dtype = as_dtype(name).type
    shapes = [(rows_of(n), n) for n in LENGTHS] + [(w, 5) for w in WIDTHS]
    given = [draw_pair(function, shape, dtype) for shape in shapes]
    jobs = []
    for y, dy in given:
        jobs.append(job(function.__name__, y[..., None], dy))
        jobs.append(job(function.__name__, y.T[None], dy.T, temperature=0.7))
    results = iter(do(jobs))
    for y, dy in given:
        rows, columns = next(results)[0], next(results)[0]
        assert_right(rows[..., 0], right(function, y, dy, axis=-1), f"{y.shape}")
        expected = right(function, y, dy, axis=-1, temperature=0.7)
        assert_right(columns[0].T, expected, f"{y.shape}")


# ---- hinge losses ----


class Scores(NamedTuple):
    """Scores [rows, n], and the losses' expected values: plain, masked, column 0."""

    x: Array
    labels: Array
    kept: Array
    expected: list[hinges.Batch]


@functools.lru_cache
def scores(name: str, rows: int, n: int, variant: str, p: int) -> Scores:
    x = draw_scores((rows, n), as_dtype(name))
    labels = draw_labels((rows,), n)
    kept = np.random.default_rng(n).random((rows, n)) < 0.8
    of = functools.partial(hinges.batch, x, p=p, variant=variant)
    return Scores(x, labels, kept, [of(labels), of(labels, where=kept), of()])


def hinge_jobs(given: Scores, **options: Any) -> list[Job]:
    """Rows and columns of both; rows with their positives apart."""
    x, mask = given.x, given.kept.view(np.uint8)
    return [
        hinge_job(x[..., None], given.labels, **options),
        hinge_job(x.T[None], given.labels, **options),
        hinge_job(x[..., None], given.labels, mask, **options),
        hinge_job(x.T[None], given.labels, mask.T, **options),
        hinge_job(x[:, 1:, None], x[:, 0], **options),
    ]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("variant", ["sum", "max"])
@pytest.mark.parametrize("name", [*FLOATS, "int16"])
def test_hinge(do, name, variant, p):
    dtype = as_dtype(name)
    shapes = [(70, 3), (131, 24), (9, 25), (5, 66), (3, 2050)]
    given = [scores(name, *shape, variant, p) for shape in shapes]
    options = {"p": p, "largest": variant == "max"}
    results = iter(do([one for g in given for one in hinge_jobs(g, **options)]))
    for _, _, _, expected in given:
        for batch in (0, 0, 1, 1, 2):
            loss, grad, *positives = next(results)
            dx = grad[..., 0] if grad.shape[-1] == 1 else grad[0].T
            if positives:
                dx = np.column_stack([positives[0], dx])
            wanted = expected[batch]
            hinges.assert_both((loss, dx), wanted, dtype)
