"""Operands, bound once: functions that read or write them for the lanes of a step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpu.ptx.faults import Fault
from gpu.ptx.lanes import Lanes
from gpu.ptx.memory import SHARED_BASE
from gpu.ptx.types import DTYPES, UNSIGNED, Array, is_float, size_of, storage

if TYPE_CHECKING:
    from gpu.ptx.machine import Batch
    from gpu.ptx.parse import Kernel

Source = Callable[["Batch", Lanes], Array]
Target = Callable[["Batch", Lanes, Array], None]

_FLOAT_BITS = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
_INTEGER = re.compile(r"-?(?:0x[0-9a-fA-F]+|0|[1-9]\d*)")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\s*\w+))?\s*\]")
SPECIAL = ("%tid.x", "%ctaid.x", "%ntid.x")


def unknown(text: str) -> Fault:
    return Fault("unknown instruction", text)


class Operands:
    """Binds the operands of the statements of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.names = list(kernel.registers)
        self.types = list(kernel.registers.values())
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def register(self, name: str) -> tuple[int, str]:
        if name not in self.numbers:
            raise unknown(f"{name} is not a register of this kernel")
        number = self.numbers[name]
        return number, self.types[number]

    def source(self, name: str, type_: str, wider: bool = False) -> Source:
        """Bind an operand that is read; `wider` allows a register of more bits."""
        if type_ == "pred":
            return self.predicate(name)
        if name in SPECIAL:
            return self._special(name, type_)
        if name in self.numbers:
            return self._register_source(name, type_, wider)
        constant = np.array([self._constant(name, type_)])
        return lambda batch, lanes: constant

    def _register_source(self, name: str, type_: str, wider: bool) -> Source:
        number, own = self.register(name)
        dtype, have, want = DTYPES[type_], size_of(own), size_of(type_)
        if own == "pred" or have < want or (have > want and not wider):
            raise unknown(f"{name} has type {own}, not {type_}")
        if have == want:
            return lambda batch, lanes: batch.registers.read(number, lanes).view(dtype)
        narrow = UNSIGNED[want]
        return lambda batch, lanes: (
            batch.registers.read(number, lanes).astype(narrow).view(dtype)
        )

    def _special(self, name: str, type_: str) -> Source:
        if size_of(type_) != 4 or is_float(type_):
            raise unknown(f"{name} read as {type_}")
        dtype = DTYPES[type_]

        def read(batch: Batch, lanes: Lanes) -> Array:
            value = batch.special[name]
            return (value if len(value) == 1 else value[lanes.index]).view(dtype)

        return read

    def _constant(self, name: str, type_: str) -> np.generic:
        dtype = DTYPES[type_]
        if name in self.kernel.symbols:
            offset = self.kernel.symbols[name]
            if offset < 0:
                offset = self.kernel.dynamic_offset
            return dtype.type(SHARED_BASE + offset)
        if match := _FLOAT_BITS.fullmatch(name):
            digits = match[1] or match[2]
            if len(digits) != 2 * dtype.itemsize or dtype.kind == "i":
                raise unknown(f"{name} as {type_}")
            bits = np.array([int(digits, 16)], UNSIGNED[dtype.itemsize])
            return bits.view(dtype)[0]
        if is_float(type_) or not _INTEGER.fullmatch(name):
            raise unknown(f"operand {name} as {type_}")
        bits = np.array([int(name, 0) & ((1 << 8 * dtype.itemsize) - 1)], np.uint64)
        return bits.astype(UNSIGNED[dtype.itemsize]).view(dtype)[0]

    def predicate(self, name: str) -> Source:
        if _INTEGER.fullmatch(name):
            constant = np.array([int(name, 0) != 0])
            return lambda batch, lanes: constant
        negated = name.startswith("!")
        number, own = self.register(name.lstrip("!"))
        if own != "pred":
            raise unknown(f"{name} is not a predicate")
        if negated:
            return lambda batch, lanes: ~batch.registers.read(number, lanes)
        return lambda batch, lanes: batch.registers.read(number, lanes)

    def target(self, name: str, type_: str, wider: bool = False) -> Target:
        """Bind an operand that is written; `wider` extends by the type's sign."""
        if name == "_":
            return lambda batch, lanes, values: None
        number, own = self.register(name)
        kept, have, want = storage(own), size_of(own), size_of(type_)
        if (own == "pred") != (type_ == "pred") or have < want:
            raise unknown(f"{name} has type {own}, not {type_}")
        if have == want:
            return lambda batch, lanes, values: batch.registers.write(
                number, lanes, values.view(kept)
            )
        if not wider or is_float(type_):
            raise unknown(f"{name} has type {own}, not {type_}")
        extended = np.dtype(f"{DTYPES[type_].kind}{have}")
        return lambda batch, lanes, values: batch.registers.write(
            number, lanes, values.astype(extended).view(kept)
        )

    def gatherer(self, name: str) -> Callable[[Batch, Array], Array]:
        """Bind an operand that is read of other threads, by slots."""
        if name in self.numbers:
            number, own = self.register(name)
            if size_of(own) != 4 or own == "pred":
                raise unknown(f"{name} has type {own}, not b32")
            return lambda batch, slots: batch.registers.gather(number, slots)
        constant = np.array([self._constant(name, "b32")])
        return lambda batch, slots: constant

    def address(self, text: str) -> Source:
        """Bind `[base+offset]`; the addresses come as int64."""
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise unknown(f"address {text}")
        base, offset = match[1], int((match[2] or "0").replace(" ", ""), 0)
        own = self.types[self.numbers[base]] if base in self.numbers else "u64"
        if size_of(own) not in (4, 8) or own == "pred":
            raise unknown(f"address {text} in a register of type {own}")
        read = self.source(base, f"u{8 * size_of(own)}")
        return lambda batch, lanes: lanes.expand(
            read(batch, lanes).astype(np.int64) + offset
        )

    def parameter(self, text: str) -> int:
        """Return which parameter `[name]` is."""
        names = [name for name, _ in self.kernel.parameters]
        if text.strip("[] ") not in names:
            raise unknown(f"parameter {text}")
        return names.index(text.strip("[] "))


def elements(text: str) -> list[str]:
    """Split `{a, b}`; anything else is one element."""
    if not text.startswith("{"):
        return [text]
    return [part.strip() for part in text.strip("{}").split(",")]
