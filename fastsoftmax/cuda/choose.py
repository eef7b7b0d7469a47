"""Chooses the CUDA kernel for an array: which variant, and how it is launched.

A pure function of numbers: no CuPy, no device. The kernels are in rows.cu and
columns.cu. What one thread holds of a row in registers is at most 32 words, in
`team` of one warp and in `cluster`, else 16.

================  ==============================================  ======================
variant           when (n: the length of a row)                   reads, writes
================  ==============================================  ======================
tile              n <= 32, 128 rows to a block of 128 threads      1, 1
team of 32        a warp holds the row: float32 n <= 1024          1, 1
team of 256       a block holds it: float32 n <= 4096              1, 1
shared_row        shared memory holds it, and rows are many (*)    1, 1
cluster           sm_90 on, a cluster of blocks holds it; off      1, 1
split             all others: a block to a chunk, two launches     2, 1
columns of 1      axis not last, a thread holds n <= 16            1, 1
columns of 16     axis not last, 16 threads hold n <= 256          1, 1
split columns     axis not last, all others, two launches          2, 1
================  ==============================================  ======================

float64 halves these n, 2 inputs (the gradients) halve them, too; 16-bit types count as
float32, which they are computed in. Only tiles stay as long, but end at 23 for 2 inputs
of float64. Elements are read 16 bytes at a time where n is a multiple of so many and
the arrays begin on such a boundary, else one by one: then a warp holds half of that n,
and a block no row. Tiles need the boundary only, for speed.

(*) What has one result a row keeps nothing: float32 n <= 131072. Rows are few that take
less than half of the processors, if cut into chunks they would take more.

Which of shared_row and split is taken does not change a bit of a result, and nothing
else depends on the number of rows: a row's result does not depend on its batch.
"""

from __future__ import annotations

from typing import NamedTuple

# Shared memory to be had without asking; what of it static variables take.
PLAIN_SHARED_BYTES = 48 * 1024
STATIC_SHARED_BYTES = 2 * 1024

# Of no operation the state of a chunk takes more.
STATE_BYTES = 40

# Threads. Blocks of long rows may be alone on a processor, and must keep it busy.
WARP, BLOCK, LONG_BLOCK = 32, 256, 512
TILE_LENGTH, TILE_ROWS = 32, 128
COLUMN_WARPS = 16
SHARED_CHUNKS, MOST_CHUNKS, MOST_COLUMN_CHUNKS = 16, 512, 64
MOST_BLOCKS = (1 << 31) - 1


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
_HINGE = ",const {T}*,const i64*,const double*,{A}*,double*,{T}*,{A},double,int,int"
HINGE_SUM = Operation("HingeSum", 1, True, _HINGE)
HINGE_LARGEST = Operation("HingeLargest", 1, True, _HINGE)

OPERATIONS = (
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    WEIGHTED_LOGSUMEXP,
    SOFTMAX_VJP,
    LOG_SOFTMAX_VJP,
    HINGE_SUM,
    HINGE_LARGEST,
)
WITH_COLUMNS = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX_VJP, LOG_SOFTMAX_VJP)
WITH_CLUSTERS = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP)


class Device(NamedTuple):
    """What of a device decides: 90 for compute capability 9.0, bytes, a number."""

    compute_capability: int
    shared_memory_limit: int
    processors: int


class Launch(NamedTuple):
    """One kernel, and how to launch it."""

    variant: str
    kernel: str
    grid: int
    block: tuple[int, ...]
    shared_bytes: int = 0

    @property
    def is_large(self) -> bool:
        """Whether it may need more shared memory than there is without asking."""
        return self.shared_bytes + STATIC_SHARED_BYTES > PLAIN_SHARED_BYTES


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
    clusters: bool = False,
) -> Launches:
    """Choose for an array [rows, n, inner], of which n is reduced; none of them is 0.

    `aligned` says that all arrays begin on a boundary of 16 bytes (masks: of as many as
    belong to 16 bytes of x); `clusters` allows the variant of that name. ValueError if
    the array has more rows than a grid has blocks for.
    """
    launches = _choose(operation, dtype, rows, n, inner, aligned, device, clusters)
    if max(launch.grid for launch in launches.launches) > MOST_BLOCKS:
        raise ValueError(
            f"{rows * inner} sets of {n} elements are too many for one call: it has "
            f"{MOST_BLOCKS} blocks"
        )
    return launches


def _choose(
    operation: Operation,
    dtype: str,
    rows: int,
    n: int,
    inner: int,
    aligned: bool,
    device: Device,
    clusters: bool,
) -> Launches:
    shape = _Shape(operation, NUMBERS[dtype], rows, n, inner)
    if inner > 1:
        return shape.columns()
    vector = shape.number.vector if aligned and n % shape.number.vector == 0 else 1
    if n <= TILE_LENGTH and shape.tile_bytes <= PLAIN_SHARED_BYTES:
        return shape.tile(aligned)
    # One at a time, a thread has half as many elements under way.
    if n <= WARP * shape.held * (2 if vector > 1 else 1):
        return shape.team(WARP, vector)
    if n <= BLOCK * shape.held and vector > 1:
        return shape.team(BLOCK, vector)
    fits = shape.shared_bytes <= device.shared_memory_limit - STATIC_SHARED_BYTES
    if fits and n <= SHARED_CHUNKS * shape.chunk:
        few = 2 * rows <= device.processors and n >= 2 * shape.chunk
        return shape.split(vector) if few else shape.shared_row(vector)
    if clusters and device.compute_capability >= 90 and vector > 1:
        for blocks in (2, 4, 8):
            if operation in WITH_CLUSTERS and n <= blocks * shape.cluster_part:
                return shape.cluster(blocks)
    return shape.split(vector)


class _Shape(NamedTuple):
    """An operation on rows of a length, and every way to launch it."""

    operation: Operation
    number: Number
    rows: int
    n: int
    inner: int

    @property
    def held(self) -> int:
        """Elements in 16 words of registers."""
        return 64 // (self.operation.inputs * self.number.computed_size)

    @property
    def chunk(self) -> int:
        return LONG_BLOCK * self.held

    @property
    def cluster_part(self) -> int:
        return LONG_BLOCK * self.held * 2

    @property
    def tile_bytes(self) -> int:
        number, inputs = self.number, self.operation.inputs
        return TILE_ROWS * (self.n | 1) * inputs * number.computed_size

    @property
    def shared_bytes(self) -> int:
        """What shared_row keeps, to make results of it."""
        if not self.operation.has_results:
            return 0
        return self.operation.inputs * _round_up(self.n, 16) * self.number.size

    def _kernel(self, skeleton: str, *numbers: int) -> str:
        name = self.number.name
        extra = self.operation.extra.format(T=name, A=self.number.computed)
        values = "".join(f",{number}" for number in numbers)
        return f"{skeleton}<{self.operation.name}<{name}>{values}{extra}>"

    def _one(
        self,
        kernel: str,
        variant: str,
        grid: int,
        block: tuple[int, ...],
        shared_bytes: int = 0,
    ) -> Launches:
        return Launches((Launch(variant, kernel, grid, block, shared_bytes),))

    def tile(self, aligned: bool) -> Launches:
        vector = self.number.vector if aligned else 1
        kernel = self._kernel("tile", vector, TILE_ROWS)
        grid = _divide_up(self.rows, TILE_ROWS)
        return self._one(kernel, "tile", grid, (TILE_ROWS,), self.tile_bytes)

    def team(self, threads: int, vector: int) -> Launches:
        held = self.held * (2 if threads == WARP and vector > 1 else 1)
        kernel = self._kernel("team", vector, held // vector, threads)
        teams = 4 if threads == WARP else 1
        grid = _divide_up(self.rows, teams)
        return self._one(kernel, f"team of {threads}", grid, (threads * teams,))

    def shared_row(self, vector: int) -> Launches:
        kernel = self._kernel("shared_row", vector, self.held // vector, LONG_BLOCK)
        block, shared_bytes = (LONG_BLOCK,), self.shared_bytes
        return self._one(kernel, "shared_row", self.rows, block, shared_bytes)

    def cluster(self, blocks: int) -> Launches:
        vector = self.number.vector
        packs = 2 * self.held // vector
        kernel = self._kernel("cluster", vector, packs, LONG_BLOCK, blocks)
        return self._one(kernel, "cluster", self.rows * blocks, (LONG_BLOCK,))

    def split(self, vector: int) -> Launches:
        chunk = _chunk(self.n, self.chunk, MOST_CHUNKS)
        chunks = _divide_up(self.n, chunk)
        second = chunks if self.operation.has_results else 1
        numbers = (vector, self.held // vector, LONG_BLOCK)
        launches = tuple(
            Launch(
                "split", self._kernel(name, *numbers), self.rows * blocks, (LONG_BLOCK,)
            )
            for name, blocks in (("split_states", chunks), ("split_results", second))
        )
        return Launches(launches, chunk, self.rows * chunks)

    def columns(self) -> Launches:
        total, held = self.rows * self.inner, self.held
        if self.n <= held:
            grid = _divide_up(total, 4 * WARP)
            kernel = self._kernel("columns", held, 1)
            return self._one(kernel, "columns of 1", grid, (WARP, 4))
        grid, block = _divide_up(total, WARP), (WARP, COLUMN_WARPS)
        if self.n <= held * COLUMN_WARPS:
            kernel = self._kernel("columns", held, COLUMN_WARPS)
            return self._one(kernel, f"columns of {COLUMN_WARPS}", grid, block)
        chunk = _chunk(self.n, held * COLUMN_WARPS, MOST_COLUMN_CHUNKS)
        chunks = _divide_up(self.n, chunk)
        second = chunks if self.operation.has_results else 1
        launches = tuple(
            Launch(
                "split columns",
                self._kernel(name, held, COLUMN_WARPS),
                grid * blocks,
                block,
            )
            for name, blocks in (("column_states", chunks), ("column_results", second))
        )
        return Launches(launches, chunk, chunks * total)


def _divide_up(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, b: int) -> int:
    return _divide_up(a, b) * b


def _chunk(n: int, part: int, most: int) -> int:
    """Cut n into at most `most` chunks, multiples of `part` all but the last."""
    return _divide_up(_divide_up(n, part), most) * part
