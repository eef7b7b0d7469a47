"""The chooser as a function of numbers: launches are legal and cover every element."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import NUMBERS, Device, Launch, Launches, Operation
from gpu import execution, nvrtc
from gpu.choices import DEVICES, LONGEST, Kernel, Question, questions, take_apart

ROWS = (1, 2, 53, 66, 67, 10**6)
FEW_OPERATIONS = (variants.SOFTMAX, variants.LOGSUMEXP, variants.SOFTMAX_VJP)
EVERY_VARIANT = {
    "tile",
    "rows",
    "cluster",
    "split",
    "columns",
    "column cluster",
    "split columns",
}

# Of one thread: elements under way, in registers of 4 bytes.
MOST_WORDS = 32


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _check_legal(question: Question, launch: Launch, kernel: Kernel) -> None:
    number = NUMBERS[question.dtype]
    assert 1 <= launch.grid <= LONGEST
    assert launch.block == kernel.threads_of_block <= 1024
    assert launch.shared_bytes <= variants.PLAIN_SHARED_BYTES
    assert kernel.operation == question.operation.name
    assert kernel.dtype == question.dtype
    assert question.aligned or not kernel.whole or kernel.vector == 1
    if kernel.is_column:
        assert question.inner % kernel.vector == 0
    else:
        assert question.n % kernel.vector == 0
        assert kernel.vector * number.size <= 16
    items = kernel.packs * kernel.vector
    inputs = question.operation.inputs if number.size > 2 else 1
    assert items * inputs * number.computed_size <= MOST_WORDS * 4
    assert kernel.blocks == 1 or question.device.compute_capability >= 90


def _check_one(question: Question, launch: Launch, kernel: Kernel) -> None:
    """Every element is held, every row or column has its threads."""
    assert question.n <= kernel.held
    if kernel.is_column:
        groups = _up(question.rows * question.inner, 32 * kernel.vector)
        each = 4 if kernel.team == 1 else 1
        assert launch.grid == _up(groups, each) * kernel.blocks
    elif kernel.skeleton == "tile":
        assert launch.grid == _up(question.rows, 128)
        assert question.n == kernel.held
        size = question.operation.inputs * NUMBERS[question.dtype].size
        assert launch.shared_bytes == 128 * question.n * size
    else:
        each = launch.block // kernel.team
        assert launch.grid == _up(question.rows, each) * kernel.blocks


def _check_two(question: Question, launches: Launches, kernels: list[Kernel]) -> None:
    """Each chunk is parts, and all make the row."""
    first, second = launches.launches
    names = ["split_states", "split_results"]
    most, groups, rows = variants.MOST_CHUNKS, question.rows, question.rows
    if kernels[0].is_column:
        names, most = ["column_states", "column_results"], variants.MOST_COLUMN_CHUNKS
        rows = question.rows * question.inner
        groups = _up(rows, 32 * kernels[0].vector)
    assert [kernel.skeleton for kernel in kernels] == names
    assert kernels[0].numbers == kernels[1].numbers
    chunk, n = launches.chunk, question.n
    chunks = (n - 1) // chunk + 1
    assert chunk % kernels[0].held == 0
    assert (chunks - 1) * chunk < n <= chunks * chunk
    assert chunks <= most
    assert launches.states == rows * chunks
    assert first.grid == groups * chunks
    assert second.grid == groups * (chunks if question.operation.has_results else 1)


def _check(question: Question, launches: Launches) -> None:
    kernels = [take_apart(launch.kernel) for launch in launches.launches]
    for launch, kernel in zip(launches.launches, kernels, strict=True):
        _check_legal(question, launch, kernel)
        assert kernel.is_column == (question.inner > 1)
    if len(kernels) == 2:
        _check_two(question, launches, kernels)
    else:
        _check_one(question, launches.launches[0], kernels[0])


@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize("operation", variants.OPERATIONS, ids=lambda o: o.name)
def test_every_launch_is_legal_and_covers_every_element(
    operation: Operation, arch: int
) -> None:
    for dtype in NUMBERS:
        for question in questions(operation, dtype, DEVICES[arch], (1, 10**6)):
            try:
                answer = question.answer()
            except ValueError:
                assert question.rows * question.n * question.inner > 2**40
                continue
            try:
                _check(question, answer)
            except AssertionError as error:
                raise AssertionError(f"{question}: {answer}") from error


def test_the_grid_meets_every_variant() -> None:
    seen = {
        launch.variant
        for arch in (75, 90)
        for operation in FEW_OPERATIONS
        for question in questions(operation, "float32", DEVICES[arch], (1, 100))
        for launch in question.answer().launches
    }
    assert seen == EVERY_VARIANT


# ---- a row's result does not depend on its batch ----


@pytest.mark.parametrize("operation", FEW_OPERATIONS, ids=lambda o: o.name)
@pytest.mark.parametrize("arch", [75, 90])
def test_kernels_and_chunks_do_not_depend_on_rows(
    operation: Operation, arch: int
) -> None:
    for dtype in NUMBERS:
        for question in questions(operation, dtype, DEVICES[arch], (1,)):
            answers = [replace(question, rows=rows).answer() for rows in (1, 2, 67)]
            kernels = {
                (tuple(launch.kernel for launch in answer.launches), answer.chunk)
                for answer in answers
            }
            assert len(kernels) == 1, question


def test_alignment_changes_how_packs_are_read_alone() -> None:
    for dtype in NUMBERS:
        for question in questions(variants.SOFTMAX, dtype, DEVICES[90], (3,)):
            if question.inner > 1:
                continue
            other = replace(question, aligned=not question.aligned)
            pairs = zip(
                question.answer().launches, other.answer().launches, strict=True
            )
            for one, two in pairs:
                a, b = take_apart(one.kernel), take_apart(two.kernel)
                assert (a.skeleton, a.vector, a.packs, a.team, a.blocks) == (
                    b.skeleton,
                    b.vector,
                    b.packs,
                    b.team,
                    b.blocks,
                )


# ---- the table ----


def _variant(
    operation: Operation, dtype: str, n: int, inner: int = 1, cc: int = 90
) -> str:
    launches = variants.choose(operation, dtype, 3, n, inner, True, Device(cc))
    return launches.launches[0].variant


@pytest.mark.parametrize(
    ("operation", "dtype", "held"),
    [
        (variants.SOFTMAX, "float32", 32),
        (variants.LOG_SOFTMAX, "bfloat16", 32),
        (variants.LOG_SOFTMAX, "float64", 16),
        (variants.SOFTMAX_VJP, "float32", 16),
        (variants.LOG_SOFTMAX_VJP, "float16", 16),
        (variants.LOG_SOFTMAX_VJP, "float64", 8),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_table_is_true_at_its_edges(
    operation: Operation, dtype: str, held: int
) -> None:
    assert _variant(operation, dtype, held - 1) == "tile"
    assert _variant(operation, dtype, held + 1) == "rows"
    assert _variant(operation, dtype, 1024 * held) == "rows"
    assert _variant(operation, dtype, 1024 * held + 1) == "cluster"
    assert _variant(operation, dtype, 1024 * held + 1, cc=89) == "split"
    assert _variant(operation, dtype, 4096 * held) == "cluster"
    assert _variant(operation, dtype, 8192 * held + 1) == "split"
    assert _variant(operation, dtype, held // 2, 7) == "columns"
    assert _variant(operation, dtype, 32 * held, 7) == "columns"
    assert _variant(operation, dtype, 32 * held + 1, 7) == "column cluster"
    assert _variant(operation, dtype, 32 * held + 1, 7, cc=89) == "split columns"
    assert _variant(operation, dtype, 256 * held, 7) == "column cluster"
    assert _variant(operation, dtype, 256 * held + 1, 7) == "split columns"


@pytest.mark.parametrize("operation", [variants.LOGSUMEXP, variants.HINGE_SUM])
def test_what_takes_no_clusters(operation: Operation) -> None:
    assert _variant(operation, "float32", 32768 + 4) == "split"


def test_sixteen_bits_are_split_earlier() -> None:
    assert _variant(variants.SOFTMAX, "float32", 131072 + 4) == "cluster"
    assert _variant(variants.SOFTMAX, "bfloat16", 131072) == "cluster"
    assert _variant(variants.SOFTMAX, "bfloat16", 131072 + 8) == "split"


def test_too_many_rows() -> None:
    with pytest.raises(ValueError, match="are too many for one call"):
        variants.choose(variants.SOFTMAX, "float32", 2**31, 5000, 1, True, DEVICES[90])


# ---- what the compiler says of the launch bounds ----


@pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
def test_blocks_are_as_large_as_the_launch_bounds() -> None:
    operation = variants.LOG_SOFTMAX
    named = {
        (kernel.skeleton, kernel.team, kernel.blocks): launch
        for arch in (80, 90)
        for question in questions(operation, "float32", DEVICES[arch], (1,))
        for launch in question.answer().launches
        for kernel in [take_apart(launch.kernel)]
        if question.aligned and kernel.skeleton != "tile"
    }
    names = [launch.kernel for launch in named.values()]
    code = nvrtc.compile(execution.source(), names, 90, "ptx", execution.OPTIONS)
    module = execution.ptx.parse(code.code)
    assert len(names) >= 17
    for launch in named.values():
        compiled = module.kernels[code.lowered[launch.kernel]]
        assert compiled.max_threads == launch.block, launch.kernel
