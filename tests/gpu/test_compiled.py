"""What ptxas makes of kernels: budgets of registers, accesses of 16 bytes, barriers.

All types and operations for all architectures take a quarter of an hour: `-m slow`.
Without that, every operation is compiled for some, in turns, of each loop the largest;
with it, everything else: the smallest of those, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import NUMBERS, Operation
from gpu import cubin, execution, nvrtc
from gpu.choices import DEVICES, Kernel, kernel_names, take_apart
from gpu.cubin import Usage

pytestmark = pytest.mark.skipif(
    not (nvrtc.available() and cubin.available()), reason=nvrtc.MISSING
)

OPERATIONS = {operation.name: operation for operation in variants.OPERATIONS}
HINGE = {"HingeSum", "HingeLargest"}

# At most: with 64 a processor holds a thousand threads. A thread of a tile has a row.
REGISTERS = {"tile": 160}
REGISTER_FILE = 64 * 1024
# What ptxas spills where it must leave room for so many; arrays would take more.
STACK_BYTES = {"float64": 512, "others": 384}
# Beside elements and masks, once a row: a label, a positive, a weight, the total.
SPECIAL_LOADS = 5
# From sm_90 on the system's own.
RESERVED_SHARED_BYTES = 1024


# ---- what is compiled ----


def _some(operation: Operation, dtype: str, arch: int, packs: str) -> list[str]:
    """Of each loop and team the kernel with most packs, which takes most registers.

    Or that with least, where it is another.
    """
    groups: dict[object, list[str]] = {}
    for name in sorted(kernel_names(operation, dtype, arch)):
        kernel = take_apart(name)
        key = kernel.loop, kernel.whole, kernel.vector > 1, kernel.team // 256
        groups.setdefault(key, []).append(name)
    for names in groups.values():
        names.sort(key=lambda name: take_apart(name).packs)
    most = {names[-1] for names in groups.values()}
    if packs == "most":
        return sorted(most)
    return sorted({names[0] for names in groups.values()} - most)


def _once() -> Iterator[tuple[Operation, str, int]]:
    """Give every operation one type in turn, and an architecture."""
    turns = (75, 80, 86, 89, 90, 100, 120)
    for i, operation in enumerate(variants.OPERATIONS):
        for j, dtype in enumerate(NUMBERS):
            if (i + j) % 4 == 0:
                yield operation, dtype, turns[(3 * i + j) % len(turns)]


FEW = [*_once(), (variants.SOFTMAX, "float32", 90)]


def _parameters() -> Iterator[object]:
    for operation, dtype, arch, packs in product(
        variants.OPERATIONS, NUMBERS, DEVICES, ("most", "least")
    ):
        is_fast = packs == "most" and (operation, dtype, arch) in FEW
        marks = [] if is_fast else [pytest.mark.slow]
        name = f"{operation.name}-{dtype}-sm_{arch}-{packs}"
        yield pytest.param(operation, dtype, arch, packs, id=name, marks=marks)


# ---- the budgets ----


def _reads(kernel: Kernel) -> int:
    """Return how many inputs a kernel reads elements of."""
    operation = OPERATIONS[kernel.operation]
    if kernel.loop.endswith("_results"):
        if not operation.has_results or operation is variants.HINGE_LARGEST:
            return 0
    elif kernel.loop.endswith("_states") and (
        operation is variants.LOG_SOFTMAX_VJP  # its sum is of dy
    ):
        return 1
    return operation.inputs


def _writes(kernel: Kernel) -> bool:
    return OPERATIONS[kernel.operation].has_results and not kernel.loop.endswith(
        "_states"
    )


def _barriers(kernel: Kernel) -> int:
    """One reduction; columns hand their totals back."""
    if kernel.loop == "tile":
        return 2 if _writes(kernel) else 1
    if kernel.loop == "split_results":
        return 0
    if kernel.loop == "cluster":
        return 2
    if kernel.loop == "column_cluster":
        return 3
    if kernel.is_column:
        return 2 if kernel.team > 1 else 0
    return int(kernel.team > 32)


def _check_registers(kernel: Kernel, usage: Usage) -> None:
    most = REGISTERS.get(kernel.loop, 64)
    assert usage.registers <= most
    assert usage.registers * kernel.threads_of_block <= REGISTER_FILE
    assert usage.stack <= STACK_BYTES.get(kernel.dtype, STACK_BYTES["others"])
    assert usage.local == 0


def _check_accesses(kernel: Kernel, usage: Usage) -> None:
    """All loads of a thread are there, as wide as its packs."""
    bits = 8 * NUMBERS[kernel.dtype].size
    if kernel.loop == "tile":
        return
    width = bits * kernel.vector if kernel.whole else bits
    assert usage.loads[width] >= kernel.packs * _reads(kernel)
    if _writes(kernel):
        assert usage.stores[width] >= kernel.packs
    if width == 128 and kernel.loop in ("rows", "cluster"):
        # A mask is as narrow as the packs of a type have elements.
        masks = 2 * kernel.packs if 8 * kernel.vector == bits else 0
        assert usage.loads[bits] <= masks + SPECIAL_LOADS


def _check_shared(usage: Usage, arch: int) -> None:
    static = usage.shared - (RESERVED_SHARED_BYTES if arch >= 90 else 0)
    assert static <= variants.PLAIN_SHARED_BYTES


def check(kernel: Kernel, usage: Usage, arch: int) -> None:
    _check_registers(kernel, usage)
    _check_accesses(kernel, usage)
    _check_shared(usage, arch)
    assert usage.barriers == _barriers(kernel)


@pytest.mark.parametrize(("operation", "dtype", "arch", "packs"), list(_parameters()))
def test_kernels_keep_their_budgets(
    operation: Operation, dtype: str, arch: int, packs: str
) -> None:
    names = _some(operation, dtype, arch, packs)
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


# ---- instructions an element ----


def _plain_source() -> str:
    """Leave masks and temperatures out, which a plain call passes by."""
    text = execution.source()
    for old, new in (
        (
            "in{(const T *)x}, mask((const u8 *)second)",
            "in{(const T *)x}, mask(nullptr)",
        ),
        ("temperature(temperature)", "temperature(1)"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("kernel", "packs", "budget"),
    [
        ("rows<Softmax<float>,4,{},64,1>", (4, 8), 25),
        ("rows<LogSoftmax<float>,4,{},64,1>", (4, 8), 25),
        ("rows<Softmax<bf16_t>,8,{},64,1>", (2, 4), 20),
        ("rows<Softmax<half_t>,8,{},64,1>", (2, 4), 20),
        ("rows<LogSoftmax<bf16_t>,8,{},64,1>", (2, 4), 20),
    ],
)
def test_instructions_an_element(
    kernel: str, packs: tuple[int, int], budget: float
) -> None:
    names = [kernel.format(count) for count in packs]
    compiled = nvrtc.compile(_plain_source(), names, 90, "cubin", execution.OPTIONS)
    usages = cubin.kernels(compiled.code)
    codes = [usages[compiled.lowered[name]].opcodes for name in names]
    vector = take_apart(names[0]).vector
    each = (len(codes[1]) - len(codes[0])) / ((packs[1] - packs[0]) * vector)
    assert 5 < each <= budget
    for count, code in zip(packs, codes, strict=True):
        loads = [i for i, opcode in enumerate(code) if opcode.startswith("LDG")]
        first_use = next(i for i, op in enumerate(code) if op.startswith("FMNMX"))
        assert len(loads) == count
        assert max(loads) < first_use


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
