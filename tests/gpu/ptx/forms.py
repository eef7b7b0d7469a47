"""Opcodes taken apart, and what an instruction that only computes is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpu.ptx import numbers
from gpu.ptx.types import Array

Function = Callable[..., Array]
Noise = Callable[[np.random.Generator, Array], Array]


@dataclass(frozen=True)
class Opcode:
    """An opcode taken apart: `mul.rn.ftz.f32` is mul with rn and ftz on f32."""

    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split(".")

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def type(self) -> str:
        return self.words[-1]

    def has(self, word: str) -> bool:
        return word in self.words


@dataclass(frozen=True)
class Form:
    """What an instruction reads and gives, and the function between.

    `wider` allows registers of more bits than the types. `noise` is what an approximate
    instruction may be off by.
    """

    result: str
    sources: tuple[str, ...]
    function: Function
    wider: bool = False
    noise: Noise | None = None


Build = Callable[[Opcode], Form]


def flushing(opcode: Opcode, function: Function) -> Function:
    """Flush what goes in and what comes out, if the opcode says ftz."""
    if not opcode.has("ftz"):
        return function
    flush = numbers.flush
    return lambda *values: flush(function(*map(flush, values)))


def same(opcode: Opcode, count: int, function: Function) -> Form:
    """Return the form of a function from one type to the same."""
    return Form(opcode.type, (opcode.type,) * count, flushing(opcode, function))


def plain(count: int, function: Function) -> Build:
    """Return what builds such a form of any type."""
    return lambda opcode: same(opcode, count, function)
