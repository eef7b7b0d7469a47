"""The register file of a batch: an array for each register, a value for each slot.

A value that is the same everywhere is kept as one element. What is written must be a
fresh array, never a view of another register.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu.ptx.faults import Fault
from gpu.ptx.lanes import Lanes
from gpu.ptx.types import Array, storage


class Registers:
    def __init__(self, types: Sequence[str], names: Sequence[str], size: int) -> None:
        self.types = types
        self.names = names
        self.size = size
        self.values: list[Array | None] = [None] * len(types)
        self.written: list[Array | bool] = [False] * len(types)

    def read(self, number: int, lanes: Lanes) -> Array:
        written = self.written[number]
        if written is not True:
            self._check(number, lanes.index)
        value = self.values[number]
        assert value is not None
        return value if len(value) == 1 else value[lanes.index]

    def gather(self, number: int, slots: Array) -> Array:
        """Read the register of other threads."""
        if self.written[number] is not True:
            self._check(number, slots)
        value = self.values[number]
        assert value is not None
        return value if len(value) == 1 else value[slots]

    def write(self, number: int, lanes: Lanes, value: Array) -> None:
        if lanes.all:
            self.values[number] = value
            self.written[number] = True
            return
        current = self.values[number]
        if current is None:
            current = np.zeros(self.size, storage(self.types[number]))
        elif len(current) == 1:
            current = np.repeat(current, self.size)
        elif not current.flags.writeable:
            current = current.copy()
        current[lanes.index] = value
        self.values[number] = current
        self._mark(number, lanes)

    def _mark(self, number: int, lanes: Lanes) -> None:
        written = self.written[number]
        if written is True:
            return
        if written is False:
            written = np.zeros(self.size, np.bool_)
        written[lanes.index] = True
        self.written[number] = True if written.all() else written

    def _check(self, number: int, index: slice | Array) -> None:
        written = self.written[number]
        if written is False or not written[index].all():
            name = self.names[number]
            raise Fault(
                "uninitialised", f"register {name} is read before it is written"
            )
