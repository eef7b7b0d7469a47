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

# Of one thread: elements under way, in registers of 4 bytes.
MOST_WORDS = 32
# chunk_states in shared_row.
MOST_SHARED_CHUNKS = 16


def _threads(launch: Launch) -> int:
    x, y = (*launch.block, 1)[:2]
    return x * y


def _up(a: int, b: int) -> int:
    return -(-a // b)


def _check_legal(question: Question, launch: Launch, kernel: Kernel) -> None:
    device, number = question.device, NUMBERS[question.dtype]
    assert 1 <= launch.grid <= LONGEST
    assert _threads(launch) == kernel.threads <= 1024
    assert kernel.operation == question.operation.name
    assert kernel.dtype == question.dtype
    is_large = launch.is_large
    limit = device.shared_memory_limit if is_large else variants.PLAIN_SHARED_BYTES
    if launch.shared_bytes:
        assert launch.shared_bytes + variants.STATIC_SHARED_BYTES <= limit
    assert kernel.vector in (1, number.vector)
    if kernel.vector > 1:
        assert question.aligned
        assert kernel.skeleton == "tile" or question.n % kernel.vector == 0
    words = kernel.held // kernel.team * question.operation.inputs
    assert words * number.computed_size <= MOST_WORDS * 4
    assert kernel.skeleton != "cluster" or question.clusters
    assert kernel.skeleton != "cluster" or device.compute_capability >= 90


def _check_tile(question: Question, launch: Launch, kernel: Kernel) -> None:
    assert _up(question.rows, kernel.threads) == launch.grid
    size = question.operation.inputs * NUMBERS[question.dtype].computed_size
    assert launch.shared_bytes == kernel.threads * (question.n | 1) * size
    assert kernel.threads * question.n < LONGEST


def _check_team(question: Question, launch: Launch, kernel: Kernel) -> None:
    assert _up(question.rows, kernel.threads // kernel.team) == launch.grid
    assert question.n <= kernel.held


def _check_shared_row(question: Question, launch: Launch, kernel: Kernel) -> None:
    assert launch.grid == question.rows
    array = _up(question.n, 16) * 16 * NUMBERS[question.dtype].size
    kept = question.operation.inputs * array if question.operation.has_results else 0
    assert launch.shared_bytes == kept
    assert _up(question.n, kernel.held) <= MOST_SHARED_CHUNKS


def _check_cluster(question: Question, launch: Launch, kernel: Kernel) -> None:
    assert kernel.blocks in (2, 4, 8)
    assert launch.grid == question.rows * kernel.blocks
    assert question.n <= kernel.blocks * kernel.held


def _check_chunks(launches: Launches, n: int, held: int, most: int) -> int:
    """Return the number of chunks, of which each is parts and all make the row."""
    chunk = launches.chunk
    chunks = (n - 1) // chunk + 1
    assert chunk % held == 0
    assert (chunks - 1) * chunk < n <= chunks * chunk
    assert chunks <= most
    return chunks


def _check_split(question: Question, launches: Launches, kernels: list[Kernel]) -> None:
    first, second = launches.launches
    assert [kernel.skeleton for kernel in kernels] == ["split_states", "split_results"]
    assert kernels[0].numbers == kernels[1].numbers
    chunks = _check_chunks(launches, question.n, kernels[0].held, variants.MOST_CHUNKS)
    assert first.grid == launches.states == question.rows * chunks
    wanted = chunks if question.operation.has_results else 1
    assert second.grid == question.rows * wanted


def _check_columns(
    question: Question, launches: Launches, kernels: list[Kernel]
) -> None:
    kernel, total = kernels[0], question.rows * question.inner
    columns = kernel.threads // kernel.team
    blocks = _up(total, columns)
    if kernel.skeleton == "columns":
        assert question.n <= kernel.held
        assert launches.launches[0].grid == blocks
        return
    first, second = launches.launches
    names = [kernel.skeleton for kernel in kernels]
    assert names == ["column_states", "column_results"]
    assert kernels[0].numbers == kernels[1].numbers
    chunks = _check_chunks(
        launches, question.n, kernel.held, variants.MOST_COLUMN_CHUNKS
    )
    assert first.grid == blocks * chunks
    assert launches.states == total * chunks
    assert second.grid == blocks * (chunks if question.operation.has_results else 1)


_CHECKS_OF_ONE = {
    "tile": _check_tile,
    "team": _check_team,
    "shared_row": _check_shared_row,
    "cluster": _check_cluster,
}


def _check(question: Question, launches: Launches) -> None:
    kernels = [take_apart(launch.kernel) for launch in launches.launches]
    for launch, kernel in zip(launches.launches, kernels, strict=True):
        _check_legal(question, launch, kernel)
        x, y = (*launch.block, 1)[:2]
        assert (x == 32) == kernel.is_column
        assert kernel.is_column == (question.inner > 1)
        assert not kernel.is_column or y % kernel.team == 0
    if kernels[0].is_column:
        _check_columns(question, launches, kernels)
    elif len(kernels) == 2:
        _check_split(question, launches, kernels)
    else:
        check = _CHECKS_OF_ONE[kernels[0].skeleton]
        check(question, launches.launches[0], kernels[0])


@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize("operation", variants.OPERATIONS, ids=lambda o: o.name)
def test_every_launch_is_legal_and_covers_every_element(
    operation: Operation, arch: int
) -> None:
    for dtype in NUMBERS:
        for question in questions(operation, dtype, DEVICES[arch], (1, 10**6)):
            try:
                _check(question, question.answer())
            except AssertionError as error:
                raise AssertionError(f"{question}: {question.answer()}") from error


def test_the_grid_meets_every_variant() -> None:
    seen = {
        launch.variant
        for arch in (75, 90)
        for operation in FEW_OPERATIONS
        for question in questions(operation, "float32", DEVICES[arch], (1, 10**6))
        for launch in question.answer().launches
    }
    assert seen == {
        "tile",
        "team of 32",
        "team of 256",
        "shared_row",
        "cluster",
        "split",
        "columns of 1",
        "columns of 16",
        "split columns",
    }


# ---- a row's result does not depend on its batch ----


@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize("operation", variants.OPERATIONS, ids=lambda o: o.name)
def test_rows_decide_between_shared_row_and_split_only(
    operation: Operation, arch: int
) -> None:
    alternatives = 0
    for dtype in NUMBERS:
        for question in questions(operation, dtype, DEVICES[arch], (1,)):
            kinds = set()
            for rows in ROWS:
                launches = replace(question, rows=rows).answer()
                names = tuple(launch.kernel for launch in launches.launches)
                kinds.add((*names, str(launches.chunk)))
            if len(kinds) > 1:
                _check_same_bits(kinds)
                alternatives += 1
    assert alternatives


def _check_same_bits(kinds: set[tuple[str, ...]]) -> None:
    """shared_row's chunks are split's: as long, as wide, each a state of its own."""
    kernels = {take_apart(kind[0]).skeleton: take_apart(kind[0]) for kind in kinds}
    assert set(kernels) == {"shared_row", "split_states"}
    assert kernels["shared_row"].numbers == kernels["split_states"].numbers
    chunk = next(int(kind[-1]) for kind in kinds if len(kind) == 3)
    assert chunk == kernels["shared_row"].held


# ---- the table in the docstring ----


def _variant(
    operation: Operation, dtype: str, n: int, inner: int = 1, **how: bool
) -> str:
    rows = 1 if how.pop("few", False) else 10**4
    device = Device(90, 227 * 1024, 132) if how.get("clusters") else DEVICES[89]
    aligned = how.pop("aligned", True)
    return (
        variants.choose(operation, dtype, rows, n, inner, aligned, device, **how)
        .launches[0]
        .variant
    )


@pytest.mark.parametrize(
    ("operation", "dtype", "parts"),
    [
        (variants.SOFTMAX, "float32", 1),
        (variants.LOGSUMEXP, "float16", 1),
        (variants.HINGE_SUM, "bfloat16", 1),
        (variants.LOG_SOFTMAX, "float64", 2),
        (variants.SOFTMAX_VJP, "float32", 2),
        (variants.WEIGHTED_LOGSUMEXP, "bfloat16", 2),
        (variants.LOG_SOFTMAX_VJP, "float64", 4),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_table_is_true_at_its_edges(
    operation: Operation, dtype: str, parts: int
) -> None:
    step = NUMBERS[dtype].vector
    assert _variant(operation, dtype, 33) == "team of 32"
    assert _variant(operation, dtype, 1024 // parts) == "team of 32"
    assert _variant(operation, dtype, 1024 // parts + step) == "team of 256"
    assert _variant(operation, dtype, 4096 // parts) == "team of 256"
    assert _variant(operation, dtype, 4096 // parts + step) == "shared_row"
    shared = (99 - 2) * 1024 // operation.inputs // NUMBERS[dtype].size
    if not operation.has_results:  # which keeps nothing
        shared = 131072 // parts
    shared -= shared % 16
    assert _variant(operation, dtype, shared) == "shared_row"
    assert _variant(operation, dtype, shared, few=True) == "split"
    assert _variant(operation, dtype, shared + 16) == "split"


@pytest.mark.parametrize(
    ("operation", "dtype", "longest"),
    [
        (variants.SOFTMAX, "float32", 32),
        (variants.LOG_SOFTMAX, "float64", 32),
        (variants.SOFTMAX_VJP, "float16", 32),
        (variants.WEIGHTED_LOGSUMEXP, "float64", 23),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_tiles_end_where_the_table_says(
    operation: Operation, dtype: str, longest: int
) -> None:
    assert {_variant(operation, dtype, n) for n in range(1, longest + 1)} == {"tile"}
    assert _variant(operation, dtype, longest + 1) == "team of 32"
    assert _variant(operation, dtype, longest, aligned=False) == "tile"


def test_one_by_one_a_warp_holds_half_and_a_block_none() -> None:
    assert _variant(variants.SOFTMAX, "float32", 511) == "team of 32"
    assert _variant(variants.SOFTMAX, "float32", 513) == "shared_row"
    assert _variant(variants.SOFTMAX, "float32", 512, aligned=False) == "team of 32"
    assert _variant(variants.SOFTMAX, "float32", 516, aligned=False) == "shared_row"


@pytest.mark.parametrize(
    ("operation", "dtype", "parts"),
    [
        (variants.SOFTMAX, "float32", 1),
        (variants.LOGSUMEXP, "float16", 1),
        (variants.LOG_SOFTMAX, "float64", 2),
        (variants.SOFTMAX_VJP, "float32", 2),
        (variants.LOG_SOFTMAX_VJP, "float64", 4),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_table_is_true_for_columns(
    operation: Operation, dtype: str, parts: int
) -> None:
    assert _variant(operation, dtype, 16 // parts, 7) == "columns of 1"
    assert _variant(operation, dtype, 16 // parts + 1, 7) == "columns of 16"
    assert _variant(operation, dtype, 256 // parts, 7) == "columns of 16"
    assert _variant(operation, dtype, 256 // parts + 1, 7) == "split columns"


@pytest.mark.parametrize(
    ("rows", "n", "variant"),
    [
        (66, 16384, "split"),
        (67, 16384, "shared_row"),
        (66, 16380, "shared_row"),
        (1, 16384, "split"),
    ],
)
def test_rows_are_few_where_they_leave_half_of_the_processors_idle(
    rows: int, n: int, variant: str
) -> None:
    launches = variants.choose(
        variants.SOFTMAX, "float32", rows, n, 1, True, DEVICES[90]
    )
    assert launches.launches[0].variant == variant


def test_clusters_take_what_shared_memory_does_not_hold() -> None:
    for n, variant in (
        (56 * 1024, "shared_row"),
        (58 * 1024, "cluster"),
        (128 * 1024, "cluster"),
        (128 * 1024 + 4, "split"),
        (100_001, "split"),
    ):
        assert _variant(variants.SOFTMAX, "float32", n, clusters=True) == variant
        assert _variant(variants.SOFTMAX_VJP, "float32", n, clusters=True) != "cluster"
    assert _variant(variants.SOFTMAX, "float32", 100_000) == "split"


# ---- what the compiler says of the launch bounds ----


@pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
def test_blocks_are_as_large_as_the_launch_bounds() -> None:
    operation = variants.LOG_SOFTMAX
    named = {
        (kernel.skeleton, *kernel.numbers): launch
        for arch in (90, 120)
        for question in questions(operation, "float32", DEVICES[arch], (1, 10**6))
        for launch in question.answer().launches
        for kernel in [take_apart(launch.kernel)]
    }
    names = [launch.kernel for launch in named.values()]
    code = nvrtc.compile(execution.source(), names, 90, "ptx", execution.OPTIONS)
    module = execution.ptx.parse(code.code)
    assert len(names) >= 17
    for launch in named.values():
        compiled = module.kernels[code.lowered[launch.kernel]]
        assert compiled.max_threads == _threads(launch), launch.kernel
