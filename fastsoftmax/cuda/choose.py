"""Chooses the CUDA kernel for an array: which variant, and how it is launched.

A pure function of numbers: no CuPy, no device. The kernels are in rows.cu and
columns.cu. A thread holds at most `held` elements in registers: 32 of float32 and of 16
bits, 16 of float64; half as many where there are two inputs (the gradients) or an
operation needs the room (hinge losses).

==============  ================================================  =============  ======
variant         when (n: the length of a row)                     reads, writes  share
==============  ================================================  =============  ======
tile            a thread can hold the row                         1, 1            92-100
rows            1024 threads can hold it (float32 n <= 32768)     1, 1            91-100
cluster         8 blocks of 512 or 1024 can (float32 n <=         1, 1            67-93
                262144), from sm_90 on, if there are results
split           all others: a block to a chunk, two launches      2, 1            59-62
columns         axis not last, 32 warps can hold n (1024)         1, 1            55-99
column cluster  axis not last, 8 blocks can (8192), sm_90 on      1, 1            40-65
split columns   axis not last, all others, two launches           2, 1            35-51
==============  ================================================  =============  ======

`share` is what softmax reached of the speed of a copy, in percent, on an H100 80GB HBM3
with arrays of 128 MiB and more: the lower end is that of 16 bits, long or odd rows.
16-bit types from 131072 to 262144 elements are split: their arithmetic is not hidden
behind a cluster's barrier (53 percent, split 60).

Elements are read in packs of the largest power of two that divides n, 16 bytes at most;
as words where the arrays begin on a boundary of 16 bytes, else one by one: the same
elements go to the same threads, and the bits are the same. Nothing depends on the
number of rows: a row's result does not depend on its batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# Shared memory to be had without asking; what of it static variables take.
PLAIN_SHARED_BYTES = 48 * 1024

# Of no operation the state of a chunk takes more.
STATE_BYTES = 40

# Threads.
WARP, BLOCK, LONG_BLOCK, SPLIT_BLOCK, TILE_ROWS = 32, 128, 1024, 256, 128
# Bytes of registers that elements of one thread may take.
HELD_BYTES = 128
MOST_CHUNKS, MOST_COLUMN_CHUNKS = 512, 64
SPLIT_WARPS = 16
MOST_BLOCKS = (1 << 31) - 1
CLUSTERS_FROM = 90


class Number(NamedTuple):
    """A type of elements: its name in the kernels, and its size in bytes."""

    name: str
    size: int
    computed: str
    computed_size: int

    @property
    def vector(self) -> int:
        """Elements in 16 bytes."""
        return 16 // self.size


NUMBERS = {
    "float16": Number("half_t", 2, "float", 4),
    "bfloat16": Number("bf16_t", 2, "float", 4),
    "float32": Number("float", 4, "float", 4),
    "float64": Number("double", 8, "double", 8),
}


class Operation(NamedTuple):
    """What a kernel computes: its name there, the types of its own arguments."""

    name: str
    inputs: int
    has_results: bool  # one for each element
    extra: str = ""  # of T, the type of the elements, and A, the one computed in


SOFTMAX = Operation("Softmax", 1, True)
LOG_SOFTMAX = Operation("LogSoftmax", 1, True)
LOGSUMEXP = Operation("LogSumExp", 1, False)
WEIGHTED_LOGSUMEXP = Operation("WeightedLogSumExp", 2, False, ",{T}*")
SOFTMAX_VJP = Operation("SoftmaxVjp", 2, True)
LOG_SOFTMAX_VJP = Operation("LogSoftmaxVjp", 2, True)
_HINGE = (
    ",const {T}*,const i64*,const double*,{A}*,double*,{T}*,const double*,{A},double,"
    "int,int"
)
HINGE_SUM = Operation("HingeSum", 1, True, _HINGE)
HINGE_LARGEST = Operation("HingeLargest", 1, True, _HINGE)
_ENTROPY = (
    ",const u8*,const i64*,const double*,const i64*,const double*,{A}*,double*,double,"
    "double"
)
CROSS_ENTROPY = Operation("CrossEntropy", 2, True, _ENTROPY)

OPERATIONS = (
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    SOFTMAX_VJP,
    LOG_SOFTMAX_VJP,
    HINGE_SUM,
    HINGE_LARGEST,
    CROSS_ENTROPY,
)
WITH_COLUMNS = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX_VJP, LOG_SOFTMAX_VJP)
WITH_CLUSTERS = (SOFTMAX, LOG_SOFTMAX, SOFTMAX_VJP, LOG_SOFTMAX_VJP, CROSS_ENTROPY)


class Device(NamedTuple):
    """What of a device decides: 90 for compute capability 9.0."""

    compute_capability: int


class Launch(NamedTuple):
    """One kernel, and how to launch it."""

    variant: str
    kernel: str
    grid: int
    block: int
    shared_bytes: int = 0


class Launches(NamedTuple):
    """What a call launches, one after the other; chunks of split rows or columns."""

    launches: tuple[Launch, ...]
    chunk: int = 0
    states: int = 0


def choose(
    operation: Operation,
    dtype: str,
    rows: int,
    n: int,
    inner: int,
    aligned: bool,
    device: Device,
) -> Launches:
    """Choose for an array [rows, n, inner], of which n is reduced; none of them is 0.

    `aligned` says that all arrays begin on a boundary of 16 bytes (masks: of as many as
    belong to 16 bytes of x). ValueError if the array has more rows than a grid has
    blocks for.
    """
    shape = _Shape(operation, NUMBERS[dtype], rows, n, inner, aligned)
    clusters = device.compute_capability >= CLUSTERS_FROM
    launches = shape.columns(clusters) if inner > 1 else shape.as_rows(clusters)
    if max(launch.grid for launch in launches.launches) > MOST_BLOCKS:
        raise ValueError(
            f"{rows * inner} sets of {n} elements are too many for one call: it has "
            f"{MOST_BLOCKS} blocks"
        )
    return launches


class _Shape(NamedTuple):
    """An operation on rows of a length, and every way to launch it."""

    operation: Operation
    number: Number
    rows: int
    n: int
    inner: int
    aligned: bool

    @property
    def held(self) -> int:
        """The most elements of a thread."""
        held = HELD_BYTES // self.number.computed_size
        crowded = self.operation.inputs > 1 or bool(self.operation.extra)
        return held // 2 if crowded else held

    @property
    def pack(self) -> int:
        return math.gcd(self.n, self.number.vector)

    def _kernel(self, skeleton: str, *numbers: int) -> str:
        name = self.number.name
        extra = self.operation.extra.format(T=name, A=self.number.computed)
        values = "".join(f",{number}" for number in numbers)
        return f"{skeleton}<{self.operation.name}<{name}>{values}{extra}>"

    def _one(
        self, kernel: str, variant: str, grid: int, block: int, shared_bytes: int = 0
    ) -> Launches:
        return Launches((Launch(variant, kernel, grid, block, shared_bytes),))

    # ---- rows ----

    def as_rows(self, clusters: bool) -> Launches:
        number, n, held = self.number, self.n, self.held
        # 16-bit pairs are read as well from where they are.
        pairs = number.size == 2 and self.pack == 2 and n <= held // 2
        one = self.operation.inputs == 1
        small = n <= held and (number.size < 8 or self.pack == 1 or one)
        if small and n % (8 * number.vector) and not pairs:
            return self.tile()
        if pairs and one:
            return self.team(1)
        if n <= LONG_BLOCK * held:
            return self.team(self._team())
        can = clusters and self.operation.has_results
        if can and self.operation in WITH_CLUSTERS:
            threads = 512 if held == HELD_BYTES // number.computed_size else LONG_BLOCK
            for blocks in (2, 4, 8):
                if n <= blocks * threads * held:
                    return self.cluster(threads, blocks)
            if number.size == 4 and n <= 8 * LONG_BLOCK * held:
                return self.cluster(LONG_BLOCK, 8)
        return self.split()

    def _team(self) -> int:
        """As few threads as hold the row, not all they can, if there are enough.

        Where packs have less than 16 bytes, more elements to a thread; where they have
        one element, as many threads as read some 32 bytes together. On the H100 rows of
        63 (float32) went from 66 to 99 percent with 8 threads for 4, of 1025 from 81 to
        101 with 17 elements for 9; of 257 (float64) from 61 to 100 with 9 for 5.
        """
        n, size, held = self.n, self.number.size, self.held
        few = held if size == 2 else min(held, 64 // size)
        if size > 2 and self.pack < self.number.vector:
            few = min(held, 25 if size == 4 else 13)
        if size == 8 and not self.operation.has_results:
            few = held
        least = 2 if size == 2 and n <= 48 else 4
        if self.pack == 1:
            least = 4 if n <= 40 else 8 if size > 2 or n <= 96 else 16
        limits = ((few, 512 if size < 8 else 128), (held, LONG_BLOCK))
        for each, most in limits:
            team = least
            while team < most and team * each < n:
                team *= 2
            if team * each >= n:
                break
        return team

    def tile(self) -> Launches:
        n, inputs, size = self.n, self.operation.inputs, self.number.size
        kernel = self._kernel("tile", n, self.pack, int(self.aligned))
        grid = _divide_up(self.rows, TILE_ROWS)
        return self._one(kernel, "tile", grid, TILE_ROWS, TILE_ROWS * n * inputs * size)

    def _held_by(self, threads: int) -> tuple[int, int, int, int]:
        """Return the numbers of a skeleton whose threads hold the row."""
        packs = _coarse(_divide_up(self.n, self.pack * threads))
        whole = int(self.aligned or self.pack == 1)
        return self.pack, packs, threads, whole

    def team(self, threads: int) -> Launches:
        kernel = self._kernel("rows", *self._held_by(threads))
        teams = BLOCK // threads if threads <= WARP else 1
        grid = _divide_up(self.rows, teams)
        return self._one(kernel, "rows", grid, threads * teams)

    def cluster(self, threads: int, blocks: int) -> Launches:
        pack, packs, _, whole = self._held_by(threads * blocks)
        kernel = self._kernel("cluster", pack, packs, threads, whole, blocks)
        return self._one(kernel, "cluster", self.rows * blocks, threads)

    def split(self) -> Launches:
        pack = self.pack
        packs = self.held // pack
        chunk = _chunk(self.n, packs * pack * SPLIT_BLOCK, MOST_CHUNKS)
        chunks = _divide_up(self.n, chunk)
        second = chunks if self.operation.has_results else 1
        numbers = (pack, packs, SPLIT_BLOCK, int(self.aligned or pack == 1))
        launches = tuple(
            Launch(
                "split", self._kernel(name, *numbers), self.rows * blocks, SPLIT_BLOCK
            )
            for name, blocks in (("split_states", chunks), ("split_results", second))
        )
        return Launches(launches, chunk, self.rows * chunks)

    # ---- columns ----

    def columns(self, clusters: bool) -> Launches:
        n, held = self.n, self.held
        two = self.aligned and self.inner % 2 == 0 and self.number.size < 8
        if n <= held * 5 // 8:
            return self._columns(2 if two and n <= held // 2 else 1, 1)
        for warps in (4, 8):
            if n <= warps * held // 2:
                return self._columns(2 if two and self.number.size == 2 else 1, warps)
        for warps in (16, 32):
            if n <= warps * held:
                return self._columns(1, warps)
        if clusters and self.operation.has_results:
            for warps, blocks in ((16, 4), (16, 8), (32, 4), (32, 8)):
                if n <= warps * blocks * held:
                    return self._columns(1, warps, blocks)
        return self.split_columns(2 if two else 1)

    def _columns(self, vector: int, warps: int, blocks: int = 1) -> Launches:
        items = _coarse(_divide_up(self.n, warps * blocks))
        numbers = (vector, items, warps)
        groups = _divide_up(self.rows * self.inner, WARP * vector)
        if warps == 1:
            groups = _divide_up(groups, BLOCK // WARP)
        block = max(BLOCK, WARP * warps)
        if blocks == 1:
            kernel = self._kernel("columns", *numbers)
            return self._one(kernel, "columns", groups, block)
        kernel = self._kernel("column_cluster", *numbers, blocks)
        return self._one(kernel, "column cluster", groups * blocks, block)

    def split_columns(self, vector: int) -> Launches:
        items, block = self.held // 2 // vector, WARP * SPLIT_WARPS
        chunk = _chunk(self.n, items * SPLIT_WARPS, MOST_COLUMN_CHUNKS)
        chunks = _divide_up(self.n, chunk)
        second = chunks if self.operation.has_results else 1
        columns = self.rows * self.inner
        groups = _divide_up(columns, WARP * vector)
        launches = tuple(
            Launch(
                "split columns",
                self._kernel(name, vector, items, SPLIT_WARPS),
                groups * blocks,
                block,
            )
            for name, blocks in (("column_states", chunks), ("column_results", second))
        )
        return Launches(launches, chunk, chunks * columns)


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def _coarse(count: int) -> int:
    """Not a kernel for every n: from 8 on every second count, from 16 every fourth."""
    step = 1 if count <= 8 else 2 if count <= 16 else 4
    return _divide_up(count, step) * step


def _chunk(n: int, part: int, most: int) -> int:
    """Cut n into at most `most` chunks, multiples of `part` all but the last."""
    return _divide_up(_divide_up(n, part), most) * part
