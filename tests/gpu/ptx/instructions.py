"""From statements to bound instructions: the dispatch from opcodes to what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpu.ptx import access, arithmetic, bits, collectives, conversion
from gpu.ptx.collectives import STOP, Control
from gpu.ptx.forms import Build, Opcode
from gpu.ptx.lanes import Lanes
from gpu.ptx.operands import Operands, Source, elements, unknown
from gpu.ptx.subset import is_known
from gpu.ptx.types import DTYPES, UNSIGNED, size_of

if TYPE_CHECKING:
    from gpu.ptx.machine import Batch
    from gpu.ptx.parse import Kernel, Statement

Execute = Callable[["Batch", Lanes], None]


@dataclass
class Instruction:
    """A bound instruction: it either computes, or decides where its lanes go on."""

    statement: Statement
    execute: Execute | None
    control: Control | None
    leader: bool  # a branch leads here: lanes may meet others


def decode(kernel: Kernel) -> list[Instruction]:
    operands = Operands(kernel)
    leaders = set(kernel.labels.values())
    code = []
    for place, statement in enumerate(kernel.statements):
        instruction = _decode(operands, statement)
        instruction.leader = place in leaders
        code.append(instruction)
    return code


def _decode(operands: Operands, statement: Statement) -> Instruction:
    if not is_known(statement.opcode):
        raise unknown(f"{statement.text} in {operands.kernel.name}")
    opcode = Opcode(statement.opcode)
    guard = operands.predicate(statement.guard) if statement.guard else None
    try:
        if opcode.name in CONTROLS:
            control = CONTROLS[opcode.name](operands, statement)
            control = _guarded_control(guard, control) if guard else control
            return Instruction(statement, None, control, False)
        execute = EXECUTES.get(opcode.name, _compute)(operands, statement, opcode)
        execute = _guarded(guard, execute) if guard else execute
    except (ValueError, KeyError) as error:
        raise unknown(f"{statement.text}: {error}") from error
    return Instruction(statement, execute, None, False)


def _guarded(guard: Source, execute: Execute) -> Execute:
    def run(batch: Batch, lanes: Lanes) -> None:
        chosen, _ = lanes.split(lanes.expand(guard(batch, lanes)))
        if chosen is not None:
            execute(batch, chosen)

    return run


def _guarded_control(guard: Source, control: Control) -> Control:
    def run(batch: Batch, lanes: Lanes, here: int) -> int:
        chosen, rest = lanes.split(lanes.expand(guard(batch, lanes)))
        if chosen is None:
            return here + 1
        if rest is None:
            return control(batch, lanes, here)
        batch.move(rest, here + 1)
        to = control(batch, chosen, here)
        if to != STOP:
            batch.move(chosen, to)
        return STOP

    return run


# Computing


FORMS: dict[str, Build] = {**arithmetic.FORMS, **bits.FORMS, **conversion.FORMS}


def _compute(operands: Operands, statement: Statement, opcode: Opcode) -> Execute:
    form = FORMS[opcode.name](opcode)
    target, *sources = statement.operands
    if len(sources) != len(form.sources):
        raise ValueError(f"{len(form.sources)} operands are needed")
    write = operands.target(target, form.result, form.wider)
    reads = [
        operands.source(source, type_, form.wider)
        for source, type_ in zip(sources, form.sources, strict=True)
    ]
    function, noise = form.function, form.noise

    def run(batch: Batch, lanes: Lanes) -> None:
        values = [read(batch, lanes) for read in reads]
        result = function(*values)
        if noise is not None and batch.noise is not None:
            result = noise(batch.noise, result)
        write(batch, lanes, result)

    return run


_HALVES = {"b32": "b16", "b64": "b32"}


def _mov(operands: Operands, statement: Statement, opcode: Opcode) -> Execute:
    """Besides plain copies: packing `{a, b}` into a register and unpacking."""
    target, source = statement.operands
    if source.startswith("{"):
        return _pack(operands, target, elements(source), opcode.type)
    if target.startswith("{"):
        return _unpack(operands, elements(target), source, opcode.type)
    return _compute(operands, statement, opcode)


def _pack(operands: Operands, target: str, parts: list[str], type_: str) -> Execute:
    kind, half = DTYPES[type_].type, _HALVES[type_]
    write = operands.target(target, type_)
    low, high = (operands.source(name, half) for name in parts)
    shift = kind(8 * size_of(half))

    def run(batch: Batch, lanes: Lanes) -> None:
        upper = high(batch, lanes).astype(kind) << shift
        write(batch, lanes, upper | low(batch, lanes))

    return run


def _unpack(operands: Operands, parts: list[str], source: str, type_: str) -> Execute:
    kind, half = DTYPES[type_].type, _HALVES[type_]
    read = operands.source(source, type_)
    low, high = (operands.target(name, half) for name in parts)
    shift = kind(8 * size_of(half))

    def run(batch: Batch, lanes: Lanes) -> None:
        value = read(batch, lanes)
        low(batch, lanes, value.astype(DTYPES[half]))
        high(batch, lanes, (value >> shift).astype(DTYPES[half]))

    return run


# Memory


def _space(opcode: Opcode) -> str:
    spaces = [word for word in opcode.words if word.startswith("shared")]
    return spaces[0] if spaces else "global"


def _vector_size(opcode: Opcode, names: list[str]) -> int:
    """Return the bytes of an access; the operand must have as many elements as it."""
    width = next((word for word in opcode.words if word in ("v2", "v4")), "v1")
    if int(width[1:]) != len(names):
        raise ValueError(f"{len(names)} elements for {width}")
    size = len(names) * size_of(opcode.type)
    if size > 16:
        raise ValueError(f"an access of {size} bytes")
    return size


def _ld(operands: Operands, statement: Statement, opcode: Opcode) -> Execute:
    target, address = statement.operands
    if opcode.has("param"):
        return _ld_param(operands, target, address, opcode.type)
    names = elements(target)
    size, space = _vector_size(opcode, names), _space(opcode)
    dtype, bits = DTYPES[opcode.type], UNSIGNED[size_of(opcode.type)]
    find = operands.address(address)
    writes = [operands.target(name, opcode.type, wider=True) for name in names]

    def run(batch: Batch, lanes: Lanes) -> None:
        columns = access.load(batch, space, lanes, find(batch, lanes), size, bits)
        for column, write in enumerate(writes):
            values = np.ascontiguousarray(columns[:, column])
            write(batch, lanes, values.view(dtype))

    return run


def _ld_param(operands: Operands, target: str, address: str, type_: str) -> Execute:
    number = operands.parameter(address)
    own = operands.kernel.parameters[number][1]
    if size_of(own) != size_of(type_):
        raise ValueError(f"parameter {number} has type {own}")
    write = operands.target(target, type_, wider=True)
    dtype = DTYPES[type_]
    return lambda batch, lanes: write(
        batch, lanes, batch.arguments[number].view(dtype).copy()
    )


def _st(operands: Operands, statement: Statement, opcode: Opcode) -> Execute:
    address, source = statement.operands
    names = elements(source)
    size, space = _vector_size(opcode, names), _space(opcode)
    bits = UNSIGNED[size_of(opcode.type)]
    find = operands.address(address)
    reads = [operands.source(name, opcode.type, wider=True) for name in names]

    def run(batch: Batch, lanes: Lanes) -> None:
        rows = np.empty((lanes.count, len(reads)), bits)
        for column, read in enumerate(reads):
            rows[:, column] = read(batch, lanes).view(bits)
        access.store(batch, space, lanes, find(batch, lanes), size, rows)

    return run


EXECUTES: dict[str, Callable[[Operands, Statement, Opcode], Execute]] = {
    "mov": _mov,
    "ld": _ld,
    "st": _st,
}


# Control


def _bra(operands: Operands, statement: Statement) -> Control:
    (label,) = statement.operands
    if label not in operands.kernel.labels:
        raise unknown(f"{statement.text}: no such label")
    to = operands.kernel.labels[label]
    return lambda batch, lanes, here: to


def _ret(operands: Operands, statement: Statement) -> Control:
    def control(batch: Batch, lanes: Lanes, here: int) -> int:
        batch.exit(lanes)
        return STOP

    return control


CONTROLS: dict[str, Callable[[Operands, Statement], Control]] = {
    "bra": _bra,
    "ret": _ret,
    "bar": collectives.barrier,
    "barrier": collectives.barrier,
    "shfl": collectives.shuffle,
}
