"""What is measured: a table of cells, and how cells are named and chosen."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import product

OPS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "weighted_logsumexp",
    "signed_logsumexp",
    "hinge",
    "hinge_grad",
    "softmax_vjp",
    "log_softmax_vjp",
)
WEIGHTED = ("weighted_logsumexp", "signed_logsumexp")
DTYPES = ("float32", "float64")
CALLS = ("default", "out=")
CACHES = ("warm", "cold")
INPUTS = ("normal", "peaked")


@dataclass(frozen=True)
class Case:
    """One cell of the table.

    `out=` calls write into an array that exists, default calls return a new one. Before
    every call of a cold cell the caches are flushed. Peaked inputs have one entry a set
    that leaves next to nothing to the others: their logarithms are as good as 0.
    """

    op: str
    dtype: str
    shape: tuple[int, ...]
    axis: int = -1
    call: str = "default"
    cache: str = "warm"
    threads: int = 1
    inputs: str = "normal"

    @property
    def name(self) -> str:
        """Eight words, all of which can be asked for."""
        shape = "x".join(map(str, self.shape))
        return (
            f"{self.op} {self.dtype} {shape} axis={self.axis} {self.call} {self.cache} "
            f"threads={self.threads} {self.inputs}"
        )

    @property
    def size(self) -> int:
        """Elements of the input."""
        return math.prod(self.shape)

    @property
    def n(self) -> int:
        """Elements of a set."""
        return self.shape[self.axis]

    @property
    def nbytes(self) -> int:
        """Bytes of the input."""
        return self.size * {"float16": 2, "float32": 4, "float64": 8}[self.dtype]

    @property
    def axis_word(self) -> str:
        """Which axis it is: last, first or middle."""
        if self.axis % len(self.shape) == len(self.shape) - 1:
            return "last"
        return "first" if self.axis == 0 else "middle"


def parse(name: str) -> Case:
    """Return the cell of a name whose words after the shape may be missing."""
    words = name.split()
    if len(words) < 3:
        raise ValueError(f"cell {name!r}: expected at least 'op dtype shape'")
    op, dtype, shape, *rest = words
    _expect(op in OPS, name, "op", OPS)
    _expect(dtype in DTYPES, name, "dtype", DTYPES)
    try:
        sizes = tuple(int(part) for part in shape.split("x"))
    except ValueError:
        sizes = ()
    _expect(bool(sizes) and min(sizes) > 0, name, "shape", ("sizes such as 4096x1000",))
    options: dict[str, int | str] = {}
    for word in rest:
        key, sign, value = word.partition("=")
        if sign and key in ("axis", "threads") and value.lstrip("-").isdigit():
            options[key] = int(value)
        elif word in CALLS:
            options["call"] = word
        elif word in CACHES:
            options["cache"] = word
        elif word in INPUTS:
            options["inputs"] = word
        else:
            raise ValueError(
                f"cell {name!r}: unknown word {word!r}; expected axis=, threads=, "
                f"{', '.join(CALLS + CACHES + INPUTS)}"
            )
    case = Case(op, dtype, sizes, **options)  # type: ignore[arg-type]
    axes = tuple(range(-len(sizes), len(sizes)))
    _expect(case.axis in axes, name, "axis", axes)
    _expect(case.threads >= 1, name, "threads", ("1 or more",))
    return case


def _expect(fine: bool, name: str, what: str, expected: Iterable[object]) -> None:
    if not fine:
        listed = ", ".join(map(str, expected))
        raise ValueError(f"cell {name!r}: bad {what}; expected {listed}")


# ---- the table ----

ONE_ROW = "10 1x10 1x100 1x1000 1x10000 1x128256 1x150000"
BATCHES = (
    "32x1000 128x20 4096x10 65536x16 100000x2 100000x3 4096x64 4096x128 1024x256 "
    "4096x1000 64x32000 16384x1000"
)
MIDDLING = "4096x65 4096x100 4096x150 4096x200 4096x300"
FIRST = "1000x32 10x4096 128x4096 1000x4096 32000x64 16x65536 3x100000 100000x3"
TALL = "30011x70 100000x16"
MANY_THREADS = "256x1000 4096x1000 16384x1000 1x150000 64x32000 4096x64 65536x16"
MIDDLE = "64x100x50 32x10x1000"
SHORT_LIST = "1x10 1x1000 1x128256 4096x10 65536x16 4096x128 4096x1000 64x32000"
LOSS_SHAPES = "128x20 4096x10 65536x3 4096x64 4096x1000 64x32000"
VJP_SHAPES = "128x20 4096x10 4096x64 4096x1000 64x32000"


def _cells(
    ops: str,
    shapes: str,
    axis: int = -1,
    dtypes: str = "float32 float64",
    calls: str = "default",
    cache: str = "warm",
    threads: str = "1 2",
    inputs: str = "normal",
) -> Iterator[Case]:
    for op, dtype, shape, call, count in product(
        ops.split(), dtypes.split(), shapes.split(), calls.split(), threads.split()
    ):
        sizes = tuple(map(int, shape.split("x")))
        yield Case(op, dtype, sizes, axis, call, cache, int(count), inputs)


def _many_threads() -> Iterator[Case]:
    """Cells for four and for sixteen threads, where the machine has as many."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    for threads in ("4", "16"):
        if int(threads) <= usable:
            some = partial(_cells, dtypes="float32", calls="out=", threads=threads)
            yield from some("softmax log_softmax", MANY_THREADS)
            yield from some("softmax", "128x4096 1000x4096 100000x16", axis=0)
            yield from some("softmax_vjp", "4096x64 4096x1000")


def full() -> list[Case]:
    """Every cell: softmax in all ways, the other functions in some."""
    both = "default out="
    small = "log_softmax logsumexp"
    losses = "hinge hinge_grad"
    vjps = "softmax_vjp log_softmax_vjp"
    return [
        *_cells("softmax", ONE_ROW, calls=both),
        *_cells("softmax", BATCHES, calls=both),
        *_cells("softmax", FIRST, axis=0, calls=both),
        *_cells("softmax", MIDDLE, axis=1, calls=both),
        *_cells("softmax", MIDDLING),
        *_cells("softmax", TALL, axis=0),
        # The same bytes in both types: every library's process holds them.
        *_cells("softmax", "512x128256", dtypes="float32", calls=both),
        *_cells("softmax", "256x128256", dtypes="float64", calls=both),
        *_cells("softmax", "128256x512", axis=0, dtypes="float32", calls=both),
        *_cells("softmax", "128256x256", axis=0, dtypes="float64", calls=both),
        *_cells(
            "softmax", "1x10000 32x1000 4096x128 1x128256", cache="cold", threads="1"
        ),
        *_cells(small, SHORT_LIST),
        *_cells(small, "128x4096 1000x4096 3x100000 100000x3", axis=0),
        *_cells(small, "64x100x50", axis=1),
        *_cells(small, "4096x128 4096x1000", inputs="peaked"),
        *_cells("weighted_logsumexp signed_logsumexp", "4096x10 4096x1000 64x32000"),
        *_cells("weighted_logsumexp", "1000x4096", axis=0),
        *_cells(losses, LOSS_SHAPES),
        *_cells(vjps, VJP_SHAPES),
        *_cells(vjps, "128x4096", axis=0),
        *_many_threads(),
    ]


def quick() -> list[Case]:
    """Some forty cells, in which every op, axis and target occurs."""
    rest = "log_softmax logsumexp hinge hinge_grad softmax_vjp log_softmax_vjp"
    both = partial(_cells, dtypes="float32")
    one, two = partial(both, threads="1"), partial(both, threads="2")
    double = partial(_cells, dtypes="float64", threads="1")
    return [
        *one("softmax", "10 1x10 1x1000 1x128256 32x1000 4096x10 65536x16 4096x128"),
        *one("softmax", "64x32000"),
        *both("softmax", "4096x1000"),
        *two("softmax", "65536x16 64x32000"),
        *double("softmax", "1x1000 4096x10 4096x1000"),
        *one("softmax", "32x1000 16384x1000", calls="out="),
        *both("softmax", "1024x256", calls="out="),
        *one("softmax", "128x4096 1000x4096 3x100000", axis=0),
        *double("softmax", "128x4096", axis=0),
        *one("softmax", "64x100x50", axis=1),
        *one("softmax", "32x1000", cache="cold"),
        *one("weighted_logsumexp signed_logsumexp", "4096x1000"),
        *one(rest, "4096x10 4096x1000"),
    ]


def matching(cases: Iterable[Case], patterns: list[str]) -> list[Case]:
    """Return the cells that have every word of one of the patterns.

    Words are whole and may have shell wildcards: "softmax float32 4096x*".
    """
    return [
        case
        for case in cases
        if not patterns or any(_has_words(case, pattern) for pattern in patterns)
    ]


def _has_words(case: Case, pattern: str) -> bool:
    words = case.name.split()
    return all(
        any(fnmatchcase(word, wanted) for word in words) for wanted in pattern.split()
    )
