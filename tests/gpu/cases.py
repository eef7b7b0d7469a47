"""Which kernels to run, on which shapes, and how rows come to them and back.

A case is an operation on a type by a variant. Its shapes lie around the limits between
which the chooser takes that variant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)
import numpy as np

from fastsoftmax.cuda import choose
from fastsoftmax.cuda.choose import NUMBERS, Device, Launches, Operation
from gpu import execution
from gpu.execution import IN_ORDER, Arguments, Array, Outcome, Way

NO_SHARED = Device(90, 0, 132)
ONE_BY_ONE = " one by one"
VARIANTS = (
    "tile",
    "team of 32",
    "team of 32" + ONE_BY_ONE,
    "team of 256",
    "shared_row",
    "shared_row" + ONE_BY_ONE,
    "split",
    "split" + ONE_BY_ONE,
    "columns of 1",
    "columns of 16",
    "split columns",
    "cluster",
)
COLUMNS = tuple(variant for variant in VARIANTS if "columns" in variant)


class Shape(NamedTuple):
    """[outer, n, inner]; `shift` moves the arrays off a boundary of 16 bytes."""

    outer: int
    n: int
    inner: int = 1
    shift: int = 0

    @property
    def rows(self) -> int:
        return self.outer * self.inner


class Case(NamedTuple):
    operation: Operation
    dtype: str
    variant: str

    def __str__(self) -> str:
        return f"{self.operation.name}-{self.dtype}-{self.variant}".replace(" ", "_")

    @property
    def vector(self) -> int:
        return NUMBERS[self.dtype].vector

    @property
    def held(self) -> int:
        return 64 // self.operation.inputs // NUMBERS[self.dtype].computed_size

    @property
    def chunk(self) -> int:
        return choose.LONG_BLOCK * self.held

    def shapes(self) -> list[Shape]:
        return _SHAPES[self.variant](self)

    def launches(self, shape: Shape, with_y: bool = True) -> Launches:
        operation = self.operation
        if not with_y:
            operation = operation._replace(has_results=False)
        variant = self.variant.removesuffix(ONE_BY_ONE)
        device = NO_SHARED if variant in ("split", "cluster") else execution.CARD
        launches = choose.choose(
            operation,
            self.dtype,
            *shape[:3],
            shape.shift % 16 == 0,
            device,
            variant == "cluster",
        )
        taken = {launch.variant for launch in launches.launches}
        assert taken == {variant}, (self, shape, taken)
        if self.variant not in (*COLUMNS, "tile", "cluster"):
            width = 1 if ONE_BY_ONE in self.variant else self.vector
            for launch in launches.launches:
                assert f">,{width}," in launch.kernel
        return launches


def _tile(case: Case) -> list[Shape]:
    each = 128 * case.operation.inputs * NUMBERS[case.dtype].computed_size
    top = max(n for n in range(1, 33) if (n | 1) * each <= 48 * 1024)
    v, shift = case.vector, NUMBERS[case.dtype].size
    return [
        Shape(127, top),
        Shape(130, 10, 1, shift),
        Shape(1, 1),
        Shape(129, v + 1),
        Shape(128, v),
        Shape(3, v - 1),
        Shape(2, top - 1),
    ]


def _team_of_32(case: Case) -> list[Shape]:
    v, top = case.vector, 64 * case.held
    first = 32 + v
    return [Shape(5, first), Shape(1, first + v), Shape(3, top - v), Shape(4, top)]


def _team_of_32_one_by_one(case: Case) -> list[Shape]:
    top, shift = 32 * case.held, NUMBERS[case.dtype].size
    return [
        Shape(5, 33),
        Shape(4, 40, 1, 3 * shift),
        Shape(3, top - 1),
        Shape(1, top, 1, shift),
    ]


def _team_of_256(case: Case) -> list[Shape]:
    return [Shape(3, 64 * case.held + case.vector), Shape(1, 256 * case.held)]


def _shared_row(case: Case) -> list[Shape]:
    return [Shape(2, case.chunk + case.vector), Shape(1, 2 * case.chunk - case.vector)]


def _one_by_one(case: Case) -> list[Shape]:
    shift = NUMBERS[case.dtype].size
    return [
        Shape(3, 32 * case.held + 1),
        Shape(1, case.chunk, 1, shift),
        Shape(1, case.chunk + 1),
    ]


def _columns_of_1(case: Case) -> list[Shape]:
    held = case.held
    return [
        Shape(3, held, 33),
        Shape(1, 1, 2),
        Shape(3, held - 1, 31),
        Shape(1, 2, 32),
    ]


def _columns_of_16(case: Case) -> list[Shape]:
    held = case.held
    return [
        Shape(1, held + 1, 33),
        Shape(3, 16 * held - 1, 2),
        Shape(1, 16 * held, 31),
        Shape(1, held + 2, 32),
    ]


def _split_columns(case: Case) -> list[Shape]:
    most = 16 * case.held
    return [Shape(1, most + 1, 31), Shape(3, 2 * most, 2), Shape(1, 2 * most + 1, 33)]


def _cluster(case: Case) -> list[Shape]:
    """Two blocks, one of them without an element; two; four."""
    part = 1024 * case.held
    v = case.vector
    return [Shape(2, case.chunk + v), Shape(1, part + v), Shape(1, 2 * part + v)]


_SHAPES = {
    "tile": _tile,
    "team of 32": _team_of_32,
    "team of 32" + ONE_BY_ONE: _team_of_32_one_by_one,
    "team of 256": _team_of_256,
    "shared_row": _shared_row,
    "shared_row" + ONE_BY_ONE: _one_by_one,
    "split": _shared_row,
    "split" + ONE_BY_ONE: _one_by_one,
    "columns of 1": _columns_of_1,
    "columns of 16": _columns_of_16,
    "split columns": _split_columns,
    "cluster": _cluster,
}


# ---- running rows ----


@dataclass
class Input:
    """Rows [rows, n]; `second` is a mask, weights or the gradient."""

    x: Array
    second: Array | None = None
    temperature: float = 1.0
    extra: Sequence[Any] = ()
    reads: dict[str, Array] | None = None
    writes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] | None = None


@dataclass
class Output:
    """Results as rows, or one a row."""

    y: Array
    outcome: Outcome


def run(
    case: Case,
    shape: Shape,
    given: Input,
    way: Way = IN_ORDER,
    in_place: str | None = None,
    with_y: bool = True,
    launches: Launches | None = None,
) -> Output:
    """Lay rows out as the shape says, run the case's kernels, take rows back."""
    x = laid_out(given.x, shape)
    second = None if given.second is None else laid_out(given.second, shape)
    y_shape = x.shape if case.operation.has_results else (shape.rows,)
    y: Any = in_place or ((y_shape, x.dtype) if with_y else None)
    arguments = Arguments(
        x,
        second,
        y,
        given.temperature,
        given.extra,
        given.reads,
        given.writes,
        shape.shift,
    )
    launches = launches or case.launches(shape, with_y)
    outcome = execution.run(case.operation, arguments, way, launches)
    if y is None:
        return Output(np.empty(0, x.dtype), outcome)
    result = outcome[in_place or "y"]
    if case.operation.has_results:
        result = np.moveaxis(result.reshape(shape[:3]), 1, 2).reshape(
            shape.rows, shape.n
        )
    return Output(result, outcome)


def laid_out(rows: Array, shape: Shape) -> Array:
    if shape.inner == 1:
        return rows
    apart = rows.reshape(shape.outer, shape.inner, shape.n)
    return np.ascontiguousarray(np.moveaxis(apart, 2, 1))


def batch_of(case: Case, rows: int, n: int) -> Shape:
    """Lay so many rows out, neighbours of one another."""
    if case.variant in COLUMNS:
        return Shape(1, n, rows)
    return case.shapes()[0]._replace(outer=rows, n=n)
