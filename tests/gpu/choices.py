"""What the chooser may be asked, and the names of kernels taken apart."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastsoftmax.cuda import choose as variants
from fastsoftmax.cuda.choose import NUMBERS, Device, Launches, Operation

LONGEST = 2**31 - 1

DEVICES = {
    75: Device(75, 64 * 1024, 40),
    80: Device(80, 163 * 1024, 108),
    86: Device(86, 99 * 1024, 82),
    89: Device(89, 99 * 1024, 128),
    90: Device(90, 227 * 1024, 132),
    100: Device(100, 227 * 1024, 148),
    120: Device(120, 99 * 1024, 170),
}

_NAME = re.compile(r"(\w+)<(\w+)<(\w+)>((?:,\d+)+)((?:,[^,]+)*)>")
_TYPES = {number.name: dtype for dtype, number in NUMBERS.items()}


@dataclass(frozen=True)
class Kernel:
    """A kernel's name, taken apart, and what the header of rows.cu says of it."""

    skeleton: str
    operation: str
    dtype: str
    numbers: tuple[int, ...]

    @property
    def is_column(self) -> bool:
        return self.skeleton.startswith("column")

    @property
    def vector(self) -> int:
        """Elements that are read at once."""
        return 1 if self.is_column else self.numbers[0]

    @property
    def packs(self) -> int:
        """Reads of each thread and input that are under way at once."""
        if self.skeleton == "tile":
            return 1
        return self.numbers[0 if self.is_column else 1]

    @property
    def team(self) -> int:
        """Threads to a row or a column."""
        return (
            1 if self.skeleton == "tile" else self.numbers[1 if self.is_column else 2]
        )

    @property
    def held(self) -> int:
        """Elements that a team holds at once."""
        return self.vector * self.packs * self.team

    @property
    def threads(self) -> int:
        """Threads of a block: the launch bound."""
        if self.skeleton == "tile":
            return self.numbers[1]
        if self.is_column:
            return 128 if self.team == 1 else 32 * self.team
        return 128 if self.team == 32 else self.team

    @property
    def blocks(self) -> int:
        """Blocks of a cluster."""
        return self.numbers[3] if self.skeleton == "cluster" else 1


@functools.cache
def take_apart(name: str) -> Kernel:
    found = _NAME.fullmatch(name)
    assert found, name
    numbers = tuple(map(int, found[4].split(",")[1:]))
    return Kernel(found[1], found[2], _TYPES[found[3]], numbers)


def lengths(operation: Operation, dtype: str, device: Device) -> list[int]:
    """Return lengths on both sides of every limit, odd and divisible ones."""
    number = NUMBERS[dtype]
    held = 64 // (operation.inputs * number.computed_size)
    limits = {16, 23, 32}
    limits |= {held * teams for teams in (1, 16, 32, 64, 256, 512, 2 * 512, 16 * 512)}
    limits |= {held * 2 * 512 * blocks for blocks in (2, 4, 8)}
    for shared in (variants.PLAIN_SHARED_BYTES, device.shared_memory_limit):
        kept = shared - variants.STATIC_SHARED_BYTES
        limits |= {size // (operation.inputs * number.size) for size in (shared, kept)}
    limits |= {held * 512 * 512 * times for times in (1, 2)}
    limits |= {held * 16 * 64 * times for times in (1, 2)}
    near = {n + step for n in limits for step in (-8, -1, 0, 1, 2, 4, 8)}
    near |= {1, 2, 3, 1000, 1001, 10**6, 10**7 + 1, LONGEST - 7, LONGEST}
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
    clusters: bool

    def answer(self) -> Launches:
        return variants.choose(
            self.operation,
            self.dtype,
            self.rows,
            self.n,
            self.inner,
            self.aligned,
            self.device,
            self.clusters,
        )


def questions(
    operation: Operation, dtype: str, device: Device, rows: tuple[int, ...]
) -> Iterator[Question]:
    """Ask for rows, clusters allowed and not, and for columns."""
    has_clusters = operation in variants.WITH_CLUSTERS
    both = (
        (False, True) if has_clusters and device.compute_capability >= 90 else (True,)
    )
    for n in lengths(operation, dtype, device):
        for count in rows:
            for clusters in both:
                for aligned in (True, False):
                    yield Question(
                        operation, dtype, count, n, 1, aligned, device, clusters
                    )
            if operation in variants.WITH_COLUMNS:
                for inner in (2, 1000):
                    yield Question(
                        operation, dtype, count, n, inner, True, device, False
                    )


def kernel_names(operation: Operation, dtype: str, arch: int) -> frozenset[str]:
    """Return every kernel that the chooser can name for devices like one."""
    return _kernel_names(operation, dtype, arch >= 90)


@functools.cache
def _kernel_names(operation: Operation, dtype: str, clusters: bool) -> frozenset[str]:
    return frozenset(
        launch.kernel
        for arch, device in DEVICES.items()
        if (arch >= 90) == clusters
        for question in questions(operation, dtype, device, (1, 10**6))
        for launch in question.answer().launches
    )
