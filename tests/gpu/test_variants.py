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
    elif kernel.loop == "tile":
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
    assert [kernel.loop for kernel in kernels] == names
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


def _layout(question: Question) -> tuple[object, ...]:
    """Say which element goes to which thread. Lanes of columns are independent."""
    answer = question.answer()
    kernels = [take_apart(launch.kernel) for launch in answer.launches]
    return answer.chunk, [
        (k.loop, k.is_column or k.vector, k.packs, k.team, k.blocks) for k in kernels
    ]


@pytest.mark.parametrize("operation", FEW_OPERATIONS, ids=lambda o: o.name)
@pytest.mark.parametrize("arch", [75, 90])
def test_alignment_changes_how_packs_are_read_alone(
    operation: Operation, arch: int
) -> None:
    for dtype in NUMBERS:
        for question in questions(operation, dtype, DEVICES[arch], (3,)):
            other = replace(question, aligned=not question.aligned)
            assert _layout(question) == _layout(other), question


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
    assert _variant(operation, dtype, 1024 * held + 8) == "cluster"
    assert _variant(operation, dtype, 1024 * held + 8, cc=89) == "split"
    longest = _longest_cluster(operation, dtype)
    assert _variant(operation, dtype, longest) == "cluster"
    assert _variant(operation, dtype, longest + 8) == "split"
    assert _variant(operation, dtype, 65535) == "cluster"
    assert _variant(operation, dtype, 65537) == "split"
    assert _variant(operation, dtype, held // 2, 7) == "columns"
    assert _variant(operation, dtype, 32 * held, 7) == "columns"
    assert _variant(operation, dtype, 32 * held + 1, 7) == "column cluster"
    assert _variant(operation, dtype, 32 * held + 1, 7, cc=89) == "split columns"
    longest = 4096 if "float16" in dtype else 256 * held
    assert _variant(operation, dtype, longest, 7) == "column cluster"
    assert _variant(operation, dtype, longest + 1, 7) == "split columns"


def _longest_cluster(operation: Operation, dtype: str) -> int:
    """Of a length that is a multiple of 16 bytes."""
    if operation is variants.LOG_SOFTMAX and "float16" in dtype:
        return 65536
    sizes = NUMBERS[dtype].size, operation.inputs
    return variants.CLUSTERS[sizes][-1][0]


def test_clusters_hold_what_the_table_says() -> None:
    """A thread has 32 numbers of 4 bytes, or the 16 bits of two inputs as they are."""
    for (size, inputs), limits in variants.CLUSTERS.items():
        each = 32 if size == 2 else 128 // size // inputs
        for longest, threads, blocks in limits:
            assert longest == each * threads * blocks


@pytest.mark.parametrize("dtype", NUMBERS)
def test_rows_that_1024_threads_can_hold_and_better_do_not(dtype: str) -> None:
    wide = dtype == "float64"
    n = 12345 if wide else 20001
    better = "rows" if wide else "cluster"
    assert _variant(variants.SOFTMAX, dtype, n) == better
    assert _variant(variants.SOFTMAX, dtype, n, cc=89) == "rows"
    assert _variant(variants.SOFTMAX, dtype, n + 7) == "rows"
    assert _variant(variants.SOFTMAX_VJP, dtype, n // 2) == "rows"
    assert _variant(variants.LOGSUMEXP, dtype, n + 7) == ("split" if wide else better)


@pytest.mark.parametrize("operation", [variants.LOGSUMEXP, variants.HINGE_SUM])
def test_what_takes_no_clusters(operation: Operation) -> None:
    assert _variant(operation, "float32", 32768 + 4) == "split"


def test_sixteen_bits_are_split_earlier() -> None:
    assert _variant(variants.SOFTMAX, "bfloat16", 65536 + 8) == "cluster"
    assert _variant(variants.SOFTMAX, "bfloat16", 65536 + 4) == "split"
    assert _variant(variants.LOG_SOFTMAX, "bfloat16", 65536 + 8) == "split"
    assert _variant(variants.SOFTMAX, "bfloat16", 131072 + 8) == "split"


@pytest.mark.parametrize(
    ("operation", "dtype", "n", "kernel"),
    [
        (variants.SOFTMAX, "float32", 5120, "rows<Softmax<float>,4,5,256,1>"),
        (variants.LOGSUMEXP, "float32", 1024, "rows<LogSumExp<float>,4,8,32,1>"),
        (variants.SOFTMAX_VJP, "float32", 63, "rows<SoftmaxVjp<float>,1,4,16,1>"),
        (variants.SOFTMAX, "bfloat16", 513, "rows<Softmax<bf16_t>,1,18,32,1>"),
        (
            variants.SOFTMAX,
            "bfloat16",
            50304,
            "cluster<Softmax<bf16_t>,8,4,256,1,8>",
        ),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_threads_to_a_row(
    operation: Operation, dtype: str, n: int, kernel: str
) -> None:
    launches = variants.choose(operation, dtype, 3, n, 1, True, Device(90))
    assert launches.launches[0].kernel == kernel


def test_too_many_rows() -> None:
    with pytest.raises(ValueError, match="are too many for one call"):
        variants.choose(variants.SOFTMAX, "float32", 2**31, 5000, 1, True, DEVICES[90])


# ---- what the compiler says of the launch bounds ----


@pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
def test_blocks_are_as_large_as_the_launch_bounds() -> None:
    operation = variants.LOG_SOFTMAX
    named = {
        (kernel.loop, kernel.team, kernel.blocks): launch
        for arch in (80, 90)
        for question in questions(operation, "float32", DEVICES[arch], (1,))
        for launch in question.answer().launches
        for kernel in [take_apart(launch.kernel)]
        if question.aligned and kernel.loop != "tile"
    }
    names = [launch.kernel for launch in named.values()]
    code = nvrtc.compile(execution.source(), names, 90, "ptx", execution.OPTIONS)
    module = execution.ptx.parse(code.code)
    assert len(names) >= 17
    for launch in named.values():
        compiled = module.kernels[code.lowered[launch.kernel]]
        assert compiled.max_threads == launch.block, launch.kernel
