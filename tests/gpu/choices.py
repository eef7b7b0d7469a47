"""What the chooser may be asked, and the names of kernels taken apart."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import NUMBERS, Device, Launches, Operation

LONGEST = 2**31 - 1

DEVICES = {arch: Device(arch) for arch in (75, 80, 86, 89, 90, 100, 120)}

_NAME = re.compile(r"(\w+)<(\w+)<(\w+)>((?:,\d+)+)((?:,[^,]+)*)>")
_TYPES = {number.name: dtype for dtype, number in NUMBERS.items()}


@dataclass(frozen=True)
class Kernel:
    """A kernel's name, taken apart, and what the header of rows.cu says of it."""

    loop: str
    operation: str
    dtype: str
    numbers: tuple[int, ...]

    @property
    def is_column(self) -> bool:
        return self.loop.startswith("column")

    @property
    def vector(self) -> int:
        """Elements of a pack."""
        return self.numbers[1 if self.loop == "tile" else 0]

    @property
    def packs(self) -> int:
        """Packs of each thread and input, which are under way at once."""
        if self.loop == "tile":
            return self.numbers[0] // self.numbers[1]
        return self.numbers[1]

    @property
    def whole(self) -> bool:
        """Whether packs are read as words."""
        return self.is_column or bool(self.numbers[2 if self.loop == "tile" else 3])

    @property
    def team(self) -> int:
        """Threads to a row of a block, warps to a column."""
        return 1 if self.loop == "tile" else self.numbers[2]

    @property
    def blocks(self) -> int:
        """Blocks of a cluster."""
        if self.loop == "cluster":
            return self.numbers[4]
        return self.numbers[3] if self.loop == "column_cluster" else 1

    @property
    def held(self) -> int:
        """Elements that a team of all blocks holds at once of a row or column."""
        if self.loop == "tile":
            return self.numbers[0]
        items = self.packs if self.is_column else self.vector * self.packs
        return items * self.team * self.blocks

    @property
    def threads_of_block(self) -> int:
        """The launch bound; a block of teams of a warp and less has several."""
        return max(
            128 if self.team <= 32 else 0, self.team * (32 if self.is_column else 1)
        )


@functools.cache
def take_apart(name: str) -> Kernel:
    found = _NAME.fullmatch(name)
    assert found, name
    numbers = tuple(map(int, found[4].split(",")[1:]))
    return Kernel(found[1], found[2], _TYPES[found[3]], numbers)


def lengths(operation: Operation, dtype: str) -> list[int]:
    """Return lengths on both sides of every limit, odd and divisible ones."""
    held = 128 // NUMBERS[dtype].computed_size
    limits = {held * threads for threads in (1, 2, 4, 8, 32, 128, 256, 512, 1024)}
    limits |= {held // 2 * warps for warps in (1, 2, 4, 8, 16, 32)}
    limits |= {4096, *(1 << log for log in range(14, 19))}
    limits |= {held * 256 * 512 * times for times in (1, 2)}
    near = {n + step for n in limits for step in (-8, -1, 0, 1, 2, 4, 8)}
    near |= {1, 2, 3, 10, 12, 1000, 1001, 10**6, 10**7 + 1, LONGEST - 7, LONGEST}
    return sorted(n for n in near if 1 <= n <= LONGEST)


@dataclass(frozen=True)
class Question:
    """Arguments of `choose`."""

    operation: Operation
    dtype: str
    rows: int
    n: int
    inner: int
    aligned: bool
    device: Device

    def answer(self) -> Launches:
        return variants.choose(
            self.operation,
            self.dtype,
            self.rows,
            self.n,
            self.inner,
            self.aligned,
            self.device,
        )


def questions(
    operation: Operation, dtype: str, device: Device, rows: tuple[int, ...]
) -> Iterator[Question]:
    """Ask for rows and for columns."""
    inners = (1, 2, 999) if operation in variants.WITH_COLUMNS else (1,)
    for n in lengths(operation, dtype):
        for count in rows:
            for inner in inners:
                for aligned in (True, False):
                    yield Question(operation, dtype, count, n, inner, aligned, device)


def kernel_names(operation: Operation, dtype: str, arch: int) -> frozenset[str]:
    """Return every kernel that the chooser can name for devices like one."""
    return _kernel_names(operation, dtype, arch >= 90)


@functools.cache
def _kernel_names(operation: Operation, dtype: str, clusters: bool) -> frozenset[str]:
    return frozenset(
        launch.kernel
        for arch, device in DEVICES.items()
        if (arch >= 90) == clusters
        for question in questions(operation, dtype, device, (1,))
        for launch in question.answer().launches
    )
