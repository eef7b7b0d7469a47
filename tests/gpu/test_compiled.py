"""What ptxas makes of kernels: budgets of registers, accesses of 16 bytes, barriers.

All kernels for all architectures take a quarter of an hour: `-m slow`. Without that,
every kernel is compiled for one, and every architecture has every skeleton.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import NUMBERS, Operation
from gpu import cubin, execution, nvrtc
from gpu.choices import DEVICES, Kernel, kernel_names, take_apart
from gpu.cubin import Usage

pytestmark = pytest.mark.skipif(
    not (nvrtc.available() and cubin.available()), reason=nvrtc.MISSING
)

HAS_PEAK = {"Softmax", "LogSoftmax", "LogSumExp", "WeightedLogSumExp", "HingeLargest"}
HAS_SUM = {operation.name for operation in variants.OPERATIONS} - {"HingeLargest"}
HINGE = {"HingeSum", "HingeLargest"}
OPERATIONS = {operation.name: operation for operation in variants.OPERATIONS}

# At most, by skeleton and whether 16 bytes are read at once. With 64 a processor holds
# a thousand threads, with 96 one block of 512 or five of 128.
REGISTERS = {
    ("tile", True): 72,
    ("tile", False): 72,
    ("team of 32", True): 96,
    ("team of 32", False): 96,
    ("team of 256", True): 64,
    ("shared_row", True): 64,
    ("shared_row", False): 96,
    ("split_states", True): 64,
    ("split_states", False): 96,
    ("split_results", True): 64,
    ("split_results", False): 96,
    ("cluster", True): 72,
    ("columns of 1", False): 56,
    ("columns of 16", False): 90,
    ("column_states", False): 96,
    ("column_results", False): 96,
}
REGISTER_FILE = 64 * 1024
# ptxas spills a word or two for another block to a processor. Arrays would take more:
# the smallest one held in registers has 32 bytes.
STACK_BYTES = 16
# Beside elements and masks, once a row: a label, a positive, a weight.
SPECIAL_LOADS = 4
# From sm_90 on the system's own.
RESERVED_SHARED_BYTES = 1024


# ---- what is compiled ----


def _once() -> Iterator[tuple[Operation, str, int]]:
    """Give every kernel an architecture: those of clusters to those that have them."""
    dtypes = list(NUMBERS)
    for i, operation in enumerate(variants.OPERATIONS):
        has_clusters = operation in variants.WITH_CLUSTERS
        turns = (90, 100, 120) if has_clusters else (75, 80, 86, 89)
        for j, dtype in enumerate(dtypes):
            yield operation, dtype, turns[(i + j) % len(turns)]


def _more() -> Iterator[tuple[Operation, str, int]]:
    """Give the oldest ones a softmax, those with clusters a gradient or a loss."""
    yield variants.SOFTMAX, "float32", 75
    yield variants.LOG_SOFTMAX, "float64", 80
    yield variants.SOFTMAX_VJP, "float32", 90
    yield variants.HINGE_LARGEST, "float32", 90
    yield variants.LOG_SOFTMAX_VJP, "float64", 100
    yield variants.HINGE_SUM, "float32", 120


FEW = list(dict.fromkeys((*_once(), *_more())))
ALL = [
    (operation, dtype, arch)
    for operation in variants.OPERATIONS
    for dtype in NUMBERS
    for arch in DEVICES
]


def _parameters() -> Iterator[object]:
    for operation, dtype, arch in ALL:
        marks = [] if (operation, dtype, arch) in FEW else [pytest.mark.slow]
        name = f"{operation.name}-{dtype}-sm_{arch}"
        yield pytest.param(operation, dtype, arch, id=name, marks=marks)


def test_every_kernel_is_compiled_without_the_slow_tests() -> None:
    few = {name for case in FEW for name in kernel_names(*case)}
    assert few == {name for case in ALL for name in kernel_names(*case)}
    for arch in DEVICES:
        skeletons = {
            take_apart(name).skeleton
            for case in FEW
            if case[2] == arch
            for name in kernel_names(*case)
        }
        assert len(skeletons) == 8 + (arch >= 90)


# ---- the budgets ----


def _reads(kernel: Kernel) -> int:
    """Return how many inputs a kernel reads elements of."""
    operation = OPERATIONS[kernel.operation]
    if kernel.skeleton.endswith("_results"):
        if not operation.has_results or operation is variants.HINGE_LARGEST:
            return 0
    elif kernel.skeleton.endswith("_states") and (
        operation is variants.LOG_SOFTMAX_VJP  # its sum is of dy
    ):
        return 1
    return operation.inputs


def _writes(kernel: Kernel) -> bool:
    return OPERATIONS[kernel.operation].has_results and not kernel.skeleton.endswith(
        "_states"
    )


def _barriers(kernel: Kernel) -> int:
    operation = OPERATIONS[kernel.operation]
    peak_and_sum = (kernel.operation in HAS_PEAK) + (kernel.operation in HAS_SUM)
    if kernel.skeleton == "tile":
        return 2 if operation.has_results else 1
    if kernel.skeleton == "split_results" or kernel.team in (1, 32):
        return 0
    if kernel.skeleton == "column_results":
        return 1
    more = {"shared_row": 1, "cluster": 2}
    return peak_and_sum + more.get(kernel.skeleton, 0)


def _check_registers(kernel: Kernel, usage: Usage) -> None:
    skeleton = kernel.skeleton
    if skeleton in ("team", "columns"):
        skeleton += f" of {kernel.team}"
    assert usage.registers <= REGISTERS[skeleton, kernel.vector > 1]
    assert usage.registers * kernel.threads <= REGISTER_FILE
    assert usage.stack <= STACK_BYTES
    assert usage.local == 0


def _check_accesses(kernel: Kernel, usage: Usage) -> None:
    bits = 8 * NUMBERS[kernel.dtype].size
    width = bits * kernel.vector
    assert usage.loads[width] >= kernel.packs * _reads(kernel)
    if _writes(kernel):
        assert usage.stores[width] >= kernel.packs
    if kernel.vector == 1:
        return
    assert width == 128
    if kernel.skeleton in ("team", "shared_row", "cluster"):
        # With a mask and without, the compiler may make a copy of the code.
        masks = 2 * kernel.packs if 8 * kernel.vector == bits else 0
        assert usage.loads[bits] <= masks + SPECIAL_LOADS
        assert usage.stores[bits] <= SPECIAL_LOADS


def _check_shared(kernel: Kernel, usage: Usage, arch: int) -> None:
    static = usage.shared - (RESERVED_SHARED_BYTES if arch >= 90 else 0)
    dynamic = kernel.skeleton in ("tile", "shared_row")
    limit = variants.STATIC_SHARED_BYTES if dynamic else variants.PLAIN_SHARED_BYTES
    assert static <= limit


def check(kernel: Kernel, usage: Usage, arch: int) -> None:
    _check_registers(kernel, usage)
    _check_accesses(kernel, usage)
    _check_shared(kernel, usage, arch)
    assert usage.barriers == _barriers(kernel)


@pytest.mark.parametrize(("operation", "dtype", "arch"), list(_parameters()))
def test_kernels_keep_their_budgets(
    operation: Operation, dtype: str, arch: int
) -> None:
    names = sorted(kernel_names(operation, dtype, arch))
    compiled = nvrtc.compile(
        execution.source(), names, arch, "cubin", execution.OPTIONS
    )
    assert compiled.log == ""
    usages = cubin.kernels(compiled.code)
    assert len(usages) == len(names)
    for name in names:
        usage = usages[compiled.lowered[name]]
        try:
            check(take_apart(name), usage, arch)
        except AssertionError as error:
            raise AssertionError(f"{name}: {usage}") from error


# ---- the states of chunks ----


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_states_fit_where_they_are_put(dtype: str) -> None:
    checks = "".join(
        f"static_assert(sizeof(State<{operation.name}<{dtype}>>) "
        f'<= {variants.STATE_BYTES}, "{operation.name}");\n'
        for operation in variants.OPERATIONS
    )
    text = execution.source() + checks
    assert nvrtc.compile(text, [], 90, "ptx", execution.OPTIONS).log == ""
    tight = text.replace(f"<= {variants.STATE_BYTES}", "<= 3")
    with pytest.raises(nvrtc.CompileError, match="static assertion failed"):
        nvrtc.compile(tight, [], 90, "ptx", execution.OPTIONS)
