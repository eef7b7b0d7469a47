"""Which kernels to run, on which shapes, and how rows come to them and back.

A case is an operation on a type by a variant. Its shapes lie around the limits between
which the chooser takes that variant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)
import numpy as np

from fastsoftmax.cuda import choose
from fastsoftmax.cuda.choose import NUMBERS, Launches, Operation
from gpu import execution
from gpu.execution import IN_ORDER, Arguments, Array, Outcome, Way

ONE_BY_ONE = " one by one"
VARIANTS = (
    "tile",
    "rows",
    "rows" + ONE_BY_ONE,
    "block",
    "block" + ONE_BY_ONE,
    "cluster",
    "split",
    "split" + ONE_BY_ONE,
    "columns",
    "columns of 8",
    "column cluster",
    "split columns",
)
COLUMNS = tuple(variant for variant in VARIANTS if "column" in variant)


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
        return self.asked(Shape(1, 1), True).held

    @property
    def chunk(self) -> int:
        """What a block holds at once of a split row; here a chunk is no more."""
        return choose.SPLIT_BLOCK * self.asked(Shape(1, 1), True).split_items

    def asked(self, shape: Shape, with_y: bool) -> choose._Shape:
        operation = self.operation
        if not with_y:
            operation = operation._replace(has_results=False)
        number = NUMBERS[self.dtype]
        return choose._Shape(operation, number, *shape[:3], shape.shift % 16 == 0)

    def shapes(self) -> list[Shape]:
        return _SHAPES[self.variant](self)

    def launches(self, shape: Shape, with_y: bool = True) -> Launches:
        """Chosen; of long rows and columns on shapes that are shorter than those."""
        asked = self.asked(shape, with_y)
        variant = self.variant.removesuffix(ONE_BY_ONE)
        if variant in _DIRECT:
            return _DIRECT[variant](asked)
        launches = asked.columns(True) if shape.inner > 1 else asked.as_rows(True)
        (launch,) = launches.launches
        assert launch.variant == _CHOSEN.get(variant, variant), (self, shape, launch)
        if variant in ("rows", "block"):
            assert (launch.block > 128 or f",{launch.block}," in launch.kernel) == (
                variant == "block"
            ), (self, shape, launch)
        return launches


_CHOSEN = {"block": "rows", "columns of 8": "columns"}
_DIRECT: dict[str, Callable[[choose._Shape], Launches]] = {
    "cluster": lambda asked: asked.cluster(128, 2),
    "split": lambda asked: asked.split(1),
    "column cluster": lambda asked: asked._columns(1, 8, 2),
    "split columns": lambda asked: asked.split_columns(
        2 if asked.aligned and asked.inner % 2 == 0 and asked.number.size < 8 else 1, 1
    ),
}


def _tile(case: Case) -> list[Shape]:
    top, shift = case.held - 1, NUMBERS[case.dtype].size
    return [
        Shape(127, top),
        Shape(130, 5, 1, shift),
        Shape(1, 1),
        Shape(129, 3),
        Shape(128, 7),
        Shape(3, top - 2),
    ]


def _rows(case: Case) -> list[Shape]:
    v = case.vector
    return [Shape(5, 32 + v), Shape(1, 64), Shape(19, 72), Shape(4, 248)]


def _rows_one_by_one(case: Case) -> list[Shape]:
    shift = NUMBERS[case.dtype].size
    return [
        Shape(5, 33),
        Shape(4, 40, 1, 3 * shift),
        Shape(3, 255),
        Shape(1, 129, 1, shift),
    ]


def _block(case: Case) -> list[Shape]:
    return [Shape(2, 1024 + case.vector), Shape(1, 4096)]


def _block_one_by_one(case: Case) -> list[Shape]:
    shift = NUMBERS[case.dtype].size
    return [Shape(2, 1033), Shape(1, 1040, 1, shift), Shape(1, 2047)]


def _cluster(case: Case) -> list[Shape]:
    """Whole; one block without an element, one with a pack; one by one."""
    part, v = 128 * case.held, case.vector
    shift = NUMBERS[case.dtype].size
    return [Shape(2, 2 * part), Shape(1, part + v), Shape(1, part + 1, 1, shift)]


def _split(case: Case) -> list[Shape]:
    return [Shape(2, case.chunk + case.vector), Shape(1, 2 * case.chunk)]


def _split_one_by_one(case: Case) -> list[Shape]:
    shift = NUMBERS[case.dtype].size
    return [Shape(2, case.chunk + 1), Shape(1, case.chunk, 1, shift)]


def _columns(case: Case) -> list[Shape]:
    most = case.held * 5 // 8
    shift = NUMBERS[case.dtype].size
    return [
        Shape(3, most, 33),
        Shape(1, 1, 2),
        Shape(3, most // 2, 62),
        Shape(1, 2, 300, shift),
    ]


def _columns_of_8(case: Case) -> list[Shape]:
    held = case.held
    return [
        Shape(1, 2 * held + 1, 33),
        Shape(3, 4 * held - 1, 2),
        Shape(1, 2 * held, 66),
    ]


def _column_cluster(case: Case) -> list[Shape]:
    held = case.held
    return [Shape(1, 16 * held, 33), Shape(3, 8 * held + 1, 2), Shape(1, 8 * held, 31)]


def _split_columns(case: Case) -> list[Shape]:
    most = 8 * case.held
    return [Shape(1, most + 1, 31), Shape(3, 2 * most, 2), Shape(1, 2 * most + 1, 66)]


_SHAPES = {
    "tile": _tile,
    "rows": _rows,
    "rows" + ONE_BY_ONE: _rows_one_by_one,
    "block": _block,
    "block" + ONE_BY_ONE: _block_one_by_one,
    "cluster": _cluster,
    "split": _split,
    "split" + ONE_BY_ONE: _split_one_by_one,
    "columns": _columns,
    "columns of 8": _columns_of_8,
    "column cluster": _column_cluster,
    "split columns": _split_columns,
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
