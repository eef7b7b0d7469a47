"""Chooses the CUDA kernel for an array: which variant, and how it is launched.

A pure function of numbers: no CuPy, no device. The kernels are in rows.cu and
columns.cu. A thread holds at most `held` elements in registers: 32 of float32 and of 16
bits, 16 of float64; half as many where there are two inputs (the gradients) or an
operation needs the room (hinge losses).

==============  =================================================  ============  ======
variant         when (n: the length of a row)                      reads, wrote  share
==============  =================================================  ============  ======
tile            a thread can hold the row                          1, 1          92-102
rows            1024 threads can hold it (float32 n <= 32768)      1, 1          54-102
cluster         CLUSTERS has the length, from sm_90 on             1, 1          53-107
split           all others: a block to a chunk, two launches       2, 1          53-92
columns         axis not last, 32 warps can hold n (1024)          1, 1          57-99
column cluster  axis not last, 8 blocks can (8192; 16 bits: 4096)  1, 1          40-80
split columns   axis not last, all others, two launches            2, 1          36-87
==============  =================================================  ============  ======

`share` is what softmax reached of the speed of a copy, in percent, on an H100 80GB HBM3
with arrays of 128 MiB: the lower end is that of 16 bits, of short odd rows, of float64
from 40000 on. Beside a choice stands what its kernels reached, old -> new, measured in
turns before they were chosen.

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
LEAST_COLUMN_CHUNK = 512
MOST_BLOCKS = (1 << 31) - 1
CLUSTERS_FROM = 90

# By the size of an element and the inputs: up to which n a cluster has how many threads
# in how many blocks. In percent of a copy, softmax old -> new: 16 bits, n = 20001
# 58 -> 70, 40000 66 -> 79, 50257 71 -> 85; their gradients 20001 54 -> 89, 50304
# 70 -> 80, 151936 61 -> 77, 262144 59 -> 73; float32 20001 77 -> 84, its gradients
# 20001 81 -> 98, 50304 89 -> 94; float64 20001 67 -> 78.
CLUSTERS = {
    (2, 1): ((1 << 15, 256, 4), (1 << 16, 256, 8), (1 << 17, 512, 8)),
    (2, 2): (
        (1 << 15, 256, 4),
        (1 << 16, 256, 8),
        (1 << 17, 512, 8),
        (1 << 18, 1024, 8),
    ),
    (4, 1): ((1 << 15, 256, 4), (1 << 16, 512, 4), (1 << 17, 512, 8)),
    (4, 2): ((1 << 15, 512, 4), (1 << 16, 512, 8), (1 << 17, 1024, 8)),
    (8, 1): ((1 << 15, 256, 8), (1 << 16, 512, 8)),
    (8, 2): ((1 << 14, 1024, 2), (1 << 15, 1024, 4), (1 << 16, 1024, 8)),
}


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
_LOSSES = ",const i64*,const double*,const double*,{A}*,double*,double"
_HINGE = _LOSSES + ",const {T}*,{T}*,{A},int,int"
HINGE_SUM = Operation("HingeSum", 1, True, _HINGE)
HINGE_LARGEST = Operation("HingeLargest", 1, True, _HINGE)
_ENTROPY = _LOSSES + ",const u8*,const i64*,double"
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
WITH_CLUSTERS = (
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX_VJP,
    LOG_SOFTMAX_VJP,
    CROSS_ENTROPY,
)


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

    def _kernel(self, loop: str, *numbers: int) -> str:
        name = self.number.name
        extra = self.operation.extra.format(T=name, A=self.number.computed)
        values = "".join(f",{number}" for number in numbers)
        return f"{loop}<{self.operation.name}<{name}>{values}{extra}>"

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
        if n <= LONG_BLOCK * held and not self._leaves_blocks(clusters):
            return self.team(self._team())
        return self.cluster_or_split(clusters)

    def _leaves_blocks(self, clusters: bool) -> bool:
        """Whether a row that 1024 threads can hold is better off without.

        One element at a time, or without results, 4 blocks of 256 are: of one row of
        32000 logsumexp went from 19 to 27 percent (16 bits 21 -> 28), of 20001 in many
        from 56 to 58. logsumexp of float64: split, 12288 48 -> 54.
        """
        if self.n <= LONG_BLOCK // 2 * self.held:
            return False
        if self.number.size == 8:
            return self.operation == LOGSUMEXP
        odd = self.pack == 1 and self.operation in (SOFTMAX, LOG_SOFTMAX)
        return clusters and (odd or self.operation == LOGSUMEXP)

    def cluster_or_split(self, clusters: bool) -> Launches:
        operation, number, n = self.operation, self.number, self.n
        most = 1 << 18
        if operation == LOGSUMEXP:
            most = LONG_BLOCK * self.held if number.size < 8 else 0
        elif self._splits_early():
            most = 1 << 16
        if clusters and operation in WITH_CLUSTERS and n <= most:
            # What an operation with arguments of its own reads is kept as numbers.
            size = max(number.size, 4) if operation.extra else number.size
            for longest, threads, blocks in CLUSTERS[size, operation.inputs]:
                if n <= longest:
                    return self.cluster(threads, blocks)
        return self.split()

    def _splits_early(self) -> bool:
        """From 65537 elements on, not where clusters end.

        One element at a time softmax of 65537 went from 81 to 89 percent, of 16 bits
        from 54 to 74; log_softmax of 16 bits of 100000 from 62 to 74. softmax of that
        went from 80 to 87, but of one row a cluster takes three quarters of the time.
        """
        if self.pack == 1:
            return True
        if self.number.size > 2 or self.operation.inputs > 1:
            return False
        return self.operation != SOFTMAX or self.pack < self.number.vector

    def _team(self) -> int:
        """As few threads as hold the row, not all they can, if there are enough.

        Where packs have less than 16 bytes, more elements to a thread; where they have
        one element, as many threads as read some 32 bytes together (64 of two inputs).
        On the H100 rows of 63 (float32) went from 66 to 99 percent with 8 threads for 4
        (gradients 68 -> 105 with 16), of 1025 from 81 to 101 with 17 elements for 9; of
        257 (float64) from 61 to 100 with 9 for 5; of 5120 from 83 to 98 with 20 for 12.
        logsumexp has nothing to write: 1024 76 -> 87 with 32 elements for 16.
        """
        n, size, held = self.n, self.number.size, self.held
        few = held if size == 2 else min(held, 64 // size)
        if size == 4 and n > 1024:
            few = min(held, 20)
        if size > 2 and self.pack < self.number.vector:
            few = min(held, 25 if size == 4 else 13)
        if not self.operation.has_results:
            few = held
        least = 2 if size == 2 and n <= 48 else 4
        if self.pack == 1:
            wide = (size < 8 and self.operation.inputs > 1) or (size == 2 and n > 96)
            least = 4 if n <= 40 else 16 if wide else 8
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
        """Return the numbers of a loop whose threads hold the row."""
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

    @property
    def split_items(self) -> int:
        """Elements of a thread of a split row: of float64 fewer pay (42 -> 53)."""
        few = self.number.size == 8 and self.operation in (SOFTMAX, LOG_SOFTMAX)
        return self.held // 2 if few else self.held

    def split(self, parts: int | None = None) -> Launches:
        """Two parts to a chunk where they have few bytes: 16 bits 80 -> 87."""
        pack, items = self.pack, self.split_items
        if parts is None:
            parts = 2 if self.number.size == 2 or items < self.held else 1
        chunk = _chunk(self.n, items * SPLIT_BLOCK, parts, MOST_CHUNKS)
        chunks = _divide_up(self.n, chunk)
        second = chunks if self.operation.has_results else 1
        whole = int(self.aligned or pack == 1)
        numbers = (pack, items // pack, SPLIT_BLOCK, whole)
        launches = tuple(
            Launch(
                "split", self._kernel(name, *numbers), self.rows * blocks, SPLIT_BLOCK
            )
            for name, blocks in (("split_states", chunks), ("split_results", second))
        )
        return Launches(launches, chunk, self.rows * chunks)

    # ---- columns ----

    def columns(self, clusters: bool) -> Launches:
        """Pairs of columns where they are even: float32 of 50 87 -> 96.

        Of 100: 16 bits 51 -> 59 with 4 warps for 8 (logsumexp 36 -> 47), float64
        logsumexp 41 -> 64 with 8 for 16.
        """
        n, held, size = self.n, self.held, self.number.size
        even = self.inner % 2 == 0 and size < 8
        vector = 2 if even and self.aligned else 1
        if n <= held * 5 // 8:
            return self._columns(vector if n <= held // 2 else 1, 1)
        if n <= 2 * held or (n <= 4 * held and size == 2 and not even):
            return self._columns(vector, 4)
        if n <= 4 * held or (n <= 8 * held and size == 8):
            return self._columns(vector if size == 2 else 1, 8)
        for warps in (16, 32):
            if n <= warps * held:
                return self._columns(1, warps)
        longest = 4096 if size == 2 else 256 * held
        if clusters and self.operation.has_results and n <= longest:
            for warps, blocks in ((16, 4), (16, 8), (32, 4), (32, 8)):
                if n <= warps * blocks * held:
                    return self._columns(1, warps, blocks)
        return self.split_columns(vector)

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

    def split_columns(self, vector: int, least: int | None = None) -> Launches:
        """Chunks of several parts: states of columns, a lane's each, are many.

        Of 6000 elements 16 bits 41 -> 65 (in a cluster before; log_softmax 25 -> 42),
        their gradients 41 -> 55, logsumexp 24 -> 33; gradients of float32 69 -> 77.
        """
        size, block = self.number.size, WARP * SPLIT_WARPS
        items = 8 if size == 2 else self.held // (4 if size == 4 else 2)
        part = items * SPLIT_WARPS
        if least is None:
            least = LEAST_COLUMN_CHUNK * (2 if size == 2 else 1)
        chunk = _chunk(self.n, part, least // part, MOST_COLUMN_CHUNKS)
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
    """Not a kernel for every n: from 16 on every second count.

    Softmax of 16 bits of 513 lost 8 percent with 20 for 17, of 50257 5 with 28 for 25.
    """
    return count if count <= 16 else _divide_up(count, 2) * 2


def _chunk(n: int, part: int, parts: int, most: int) -> int:
    """Cut n into at most `most` chunks, all but the last multiples of `part`.

    A chunk has `parts` of them, or more; or the row has one chunk.
    """
    return max(parts, _divide_up(_divide_up(n, part), most)) * part
