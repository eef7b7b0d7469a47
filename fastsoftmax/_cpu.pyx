# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""Runs the C kernels on NumPy's memory: which kernels, how many threads, in what order.

A. Kernels know nothing of Python, threads or signals; this module knows nothing of
   arithmetic. kernels/job.h is the contract between them.
B. A job small enough never reaches a parallel region: entering one costs more than
   the work (the threshold is PARALLEL_FROM).
C. Work is cut into blocks of rows, tiles of columns, or pieces of one long row. Where
   it is cut never changes a bit of the result, so threads may take blocks as they come
   (schedule "dynamic": a busy core delays one block, not half the job).
D. The thread that called polls for signals between blocks, at most every 50 ms. The
   exception is left set and the job abandoned.
E. `fast` is the way of the common call (a C-contiguous float array along one axis or
   all; `where` and `out`, if any, like x): NumPy's C API, no plan, the GIL kept
   while the work is shorter than giving it back.
F. Large results of the shape of x live in memory that is kept when they are freed, up
   to a cap, and reused (kernels/process/outputs.h).
"""

import os

from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp
from numpy cimport PyArray_CheckExact, PyArray_DATA

from ._kernels cimport *

import numpy as np

from . import _caches
from . import _threads

cnp.import_array()

# Elements from which a job is shared between threads: some 100 us of work. Waking a
# worker takes tens of us, and milliseconds where other processes hold the cores.
cdef enum:
    PARALLEL_FROM = 262144
# Elements from which the GIL is given back: below, that costs more than the work.
cdef enum:
    NOGIL_FROM = 4096

# Where a job's arrays fill more than half of it (float32 rows of 1000 from 16 MB on,
# 32 MiB of cache), y goes past the caches: 0.8 times as long.
cdef ptrdiff_t largest_cache = _caches.largest()

cdef double SECONDS_BETWEEN_POLLS = 0.05

SOFTMAX = <int>FS_SOFTMAX
LOG_SOFTMAX = <int>FS_LOG_SOFTMAX
LOGSUMEXP = <int>FS_LOGSUMEXP
SOFTMAX_VJP = <int>FS_SOFTMAX_VJP
LOG_SOFTMAX_VJP = <int>FS_LOG_SOFTMAX_VJP
HINGE_SHORT = <int>FS_HINGE_SHORT

TYPES = {
    "float32": <int>FS_F32, "float64": <int>FS_F64, "float16": <int>FS_F16,
    "bfloat16": <int>FS_BF16, "bool": <int>FS_BOOL, "int8": <int>FS_I8,
    "int16": <int>FS_I16, "int32": <int>FS_I32, "int64": <int>FS_I64,
    "uint8": <int>FS_U8, "uint16": <int>FS_U16, "uint32": <int>FS_U32,
    "uint64": <int>FS_U64,
}

openmp = bool(FS_WITH_OPENMP)

# ---- which kernels: decided once, at import ----

cdef const fs_table *table = NULL


cdef void choose_table() except *:
    global table, isa, supported_isas
    cdef const fs_table *tables[8]
    cdef int i, count = fs_supported(tables, 8)
    names = [tables[i].isa.decode() for i in range(count)]
    wanted = os.environ.get("FASTSOFTMAX_ISA") or names[0]
    if wanted not in names:
        raise ImportError(
            f"FASTSOFTMAX_ISA={wanted!r} is not among the instruction sets that this "
            f"machine and build support: {', '.join(names)}"
        )
    table = tables[names.index(wanted)]
    isa = wanted
    supported_isas = tuple(names)


choose_table()
fs_watch_forks()
fs_prepare_teams(_threads.worker_stack(os.environ))


cdef inline const fs_kernels *kernels_for(fs_type compute) noexcept nogil:
    return table.f32 if compute == FS_F32 else table.f64


# ---- where results live (kernels/process/outputs.h) ----

# Bytes from which results get memory of ours. What malloc does is as fast while one
# result at a time is freed; where two are, it hands them back to the kernel (softmax
# and its gradient in one function: 3.6 times slower at 1 MiB, 2 times at 8).
cdef enum:
    OURS_FROM = 1048576
# MiB: softmax of 512 tokens over a vocabulary of 128256, in float32, just fits.
cdef int KEEP_MIB = 256
cdef int MOST_MIB = 65536

cdef object our_handler = PyCapsule_New(&fs_handler, "mem_handler", NULL)
cdef int keep_mib = 0


cdef void choose_memory() except *:
    global keep_mib
    wanted = os.environ.get("FASTSOFTMAX_KEEP_MIB") or str(KEEP_MIB)
    if not wanted.isascii() or not wanted.isdigit() or len(wanted) > 5 or (
        int(wanted) > MOST_MIB
    ):
        raise ImportError(
            f"FASTSOFTMAX_KEEP_MIB={wanted!r} is not a whole number from 0 to "
            f"{MOST_MIB}"
        )
    if FS_CAN_KEEP:
        keep_mib = int(wanted)
        fs_keep_at_most(<size_t>keep_mib << 20)


choose_memory()


def keeps_mib():
    """MiB of freed results kept at most; 0 where NumPy's allocator serves them."""
    return keep_mib


def kept_bytes():
    """Bytes of freed results that are kept now."""
    return fs_kept_bytes()


cdef object in_our_memory(make, tuple arguments):
    """make(*arguments), an array in our memory; in NumPy's where ours fails.

    It does beyond some thousand arrays (FS_MOST_BLOCKS). A user's own handler stays.
    """
    cdef object before = PyDataMem_GetHandler()
    if keep_mib > 0 and fs_is_default(before):
        PyDataMem_SetHandler(our_handler)
        try:
            return make(*arguments)
        except MemoryError:
            pass
        finally:
            PyDataMem_SetHandler(before)
    return make(*arguments)


cdef inline cnp.ndarray empty(int ndim, cnp.npy_intp *shape, int type_num,
                              ptrdiff_t size):
    """A C-contiguous array of `size` floats, at most as many as another one has."""
    cdef int d
    if size * (4 if type_num == cnp.NPY_FLOAT else 8) < OURS_FROM:
        return cnp.PyArray_EMPTY(ndim, shape, type_num, 0)
    lengths = tuple([shape[d] for d in range(ndim)])
    return in_our_memory(np.empty, (lengths, cnp.PyArray_DescrFromType(type_num)))


def empty_like(x, dtype):
    """An array shaped and laid out like x."""
    if x.size * dtype.itemsize < OURS_FROM:
        return np.empty_like(x, dtype, "K", False)
    return in_our_memory(np.empty_like, (x, dtype, "K", False))


# ---- how many threads, and when to stop ----

def openmp_limit():
    """Threads that OpenMP itself would use now (1 without OpenMP)."""
    return omp_get_max_threads()


def current_threads():
    """Threads that a large job would use now."""
    if not FS_WITH_OPENMP or fs_forked():
        return 1
    return _threads.count(omp_get_max_threads())


cdef int threads_for(ptrdiff_t elements) except -1:
    if elements < PARALLEL_FROM:
        return 1
    cdef int count = current_threads()
    return count if fs_can_start(count) else 1


cdef int poll(fs_watch *watch) noexcept nogil:
    if watch.stop or omp_get_thread_num() != 0:
        return watch.stop
    cdef double now = fs_now()
    if 0 <= now - watch.polled_at < SECONDS_BETWEEN_POLLS:
        return 0
    watch.polled_at = now
    with gil:
        if PyErr_CheckSignals() < 0:
            watch.stop = 1
    return watch.stop


cdef int never(fs_watch *watch) noexcept nogil:
    return 0


cdef inline fs_watch watched() noexcept nogil:
    """The watch of a job that begins now."""
    cdef fs_watch watch
    watch.poll = poll
    watch.stop = 0
    watch.polled_at = fs_now()
    return watch


# ---- the loops over blocks ----

cdef void each_block_of_rows(const fs_kernels *k, fs_job *job,
                             int threads) noexcept nogil:
    cdef ptrdiff_t step = max(<ptrdiff_t>1, FS_PIECE // job.n)
    if threads > 1:
        step = max(<ptrdiff_t>1, min(step, job.outer // (4 * threads)))
    cdef ptrdiff_t blocks = (job.outer + step - 1) // step, block
    if threads == 1:
        for block in range(blocks):
            if block > 0 and fs_poll(&job.watch):
                return
            k.rows(job, block * step, min(job.outer, (block + 1) * step))
    else:
        for block in prange(blocks, num_threads=threads, schedule="dynamic"):
            if not fs_poll(&job.watch):
                k.rows(job, block * step, min(job.outer, (block + 1) * step))


cdef void each_tile(const fs_kernels *k, fs_job *job, int threads) noexcept nogil:
    # FS_NARROW is a vector's worth of float32 in AVX-512, too: less is a waste.
    cdef ptrdiff_t share = job.inner * job.outer // (2 * threads)
    job.tile = FS_TILE
    if threads > 1:
        share = share // FS_NARROW * FS_NARROW
        job.tile = max(<ptrdiff_t>FS_NARROW, min(job.tile, share))
    cdef ptrdiff_t tiles = (job.inner + job.tile - 1) // job.tile * job.outer, tile
    if threads == 1:
        for tile in range(tiles):
            if tile > 0 and fs_poll(&job.watch):
                return
            k.columns(job, tile)
    else:
        for tile in prange(tiles, num_threads=threads, schedule="dynamic"):
            if not fs_poll(&job.watch):
                k.columns(job, tile)


cdef inline bint is_vjp(fs_op op) noexcept nogil:
    return op == FS_SOFTMAX_VJP or op == FS_LOG_SOFTMAX_VJP


cdef struct piece:
    double max
    ptrdiff_t block
    fs_pair sum


cdef void long_row(const fs_kernels *k, fs_job *job, ptrdiff_t row, piece *piece_of,
                   int threads) noexcept nogil:
    """The passes of one row, each shared between the threads, piece by piece."""
    cdef ptrdiff_t n = job.n, pieces = (n + FS_PIECE - 1) // FS_PIECE, i
    cdef ptrdiff_t block = 0, pieces_with_max = 0 if is_vjp(job.op) else pieces
    cdef fs_line line = fs_locate(job, row)
    cdef double largest = -INFINITY
    cdef fs_pair total
    cdef fs_norm norm
    for i in prange(pieces_with_max, num_threads=threads, schedule="dynamic"):
        if not fs_poll(&job.watch):
            piece_of[i].max = k.row_max(job, line, i * FS_PIECE,
                                        min(n, (i + 1) * FS_PIECE), &piece_of[i].block)
    if job.watch.stop:
        return
    for i in range(pieces_with_max):
        if piece_of[i].max > largest:
            largest = piece_of[i].max
            block = piece_of[i].block
    for i in prange(pieces, num_threads=threads, schedule="dynamic"):
        if not fs_poll(&job.watch):
            piece_of[i].sum = k.row_sum(job, line, i * FS_PIECE,
                                        min(n, (i + 1) * FS_PIECE), largest, block)
    if job.watch.stop:
        return
    total.hi = total.lo = 0
    for i in range(pieces):
        total = fs_pair_add(total, piece_of[i].sum)
    norm = k.row_norm(job, line, largest, total)
    if job.op == FS_LOGSUMEXP:
        return
    for i in prange(pieces, num_threads=threads, schedule="dynamic"):
        if not fs_poll(&job.watch):
            k.row_finish(job, line, i * FS_PIECE, min(n, (i + 1) * FS_PIECE), &norm)


cdef void each_long_row(const fs_kernels *k, fs_job *job, piece *piece_of,
                        int threads) noexcept nogil:
    cdef ptrdiff_t row
    for row in range(job.outer):
        if not job.watch.stop:
            long_row(k, job, row, piece_of, threads)


cdef ptrdiff_t traffic(const fs_job *job) noexcept nogil:
    """Bytes of x and y, of the type that is computed in."""
    return job.outer * job.n * job.inner * (8 if job.compute == FS_F32 else 16)


cdef int execute(fs_job *job) except -1:
    """Runs a complete job."""
    cdef const fs_kernels *k = kernels_for(job.compute)
    cdef int threads = threads_for(job.outer * job.n * job.inner)
    cdef int rows = job.inner == 1
    cdef piece *piece_of = NULL
    job.watch = watched()
    job.past_caches = job.x != job.y and 2 * traffic(job) > largest_cache
    if rows and threads > 1 and job.outer < 2 * threads and job.n >= 2 * FS_PIECE:
        piece_of = <piece *>malloc((job.n // FS_PIECE + 1) * sizeof(piece))
        if piece_of == NULL:
            raise MemoryError("no memory for the partial sums of a long row")
    try:
        with nogil:
            if piece_of != NULL:
                each_long_row(k, job, piece_of, threads)
            elif rows:
                each_block_of_rows(k, job, threads)
            else:
                each_tile(k, job, threads)
    finally:
        free(piece_of)
    if job.watch.stop:
        raise_pending()
    return 0


cdef int raise_pending() except -1:
    return -1  # poll has left the exception set


# ---- hinge losses ----

cdef void each_piece_of_rows(const fs_hinge_kernels *k, fs_hinge *job,
                             fs_hinge_part *part_of, double *losses,
                             int threads) noexcept nogil:
    """Few long rows: the threads share the pieces of all of them."""
    cdef ptrdiff_t rows = job.outer * job.inner, row, i
    cdef ptrdiff_t pieces = (job.n + FS_PIECE - 1) // FS_PIECE
    cdef fs_hinge_part part
    for i in prange(rows * pieces, num_threads=threads, schedule="dynamic"):
        if not fs_poll(&job.watch):
            part_of[i] = k.piece(job, i // pieces, i % pieces)
    if job.watch.stop:
        return
    for row in range(rows):
        part = fs_hinge_nothing()
        for i in range(pieces):
            part = fs_hinge_join(part, part_of[row * pieces + i])
        losses[row] = k.finish(job, row, part)


cdef void each_unit(const fs_hinge_kernels *k, fs_hinge *job, double *losses,
                    int threads) noexcept nogil:
    cdef ptrdiff_t units = fs_hinge_units(job), unit
    if threads == 1:
        for unit in range(units):
            if unit > 0 and fs_poll(&job.watch):
                return
            losses[unit] = k.unit(job, unit)
    else:
        for unit in prange(units, num_threads=threads, schedule="dynamic"):
            if not fs_poll(&job.watch):
                losses[unit] = k.unit(job, unit)


cdef double execute_hinge(fs_hinge *job) except? -1:
    """Runs a complete job; returns the sum of the losses."""
    cdef const fs_hinge_kernels *k = (
        <const fs_hinge_kernels *>kernels_for(job.compute).hinge)
    cdef int threads = threads_for(job.outer * job.n * job.inner)
    cdef ptrdiff_t units = fs_hinge_units(job), pieces = 0, i
    cdef fs_hinge_part *part_of = NULL
    cdef double *losses = NULL
    cdef double total = 0
    job.watch = watched()
    if threads > 1 and not job.by_columns and job.n >= 2 * FS_PIECE and (
        units < 2 * threads
    ):
        pieces = units * ((job.n + FS_PIECE - 1) // FS_PIECE)
        part_of = <fs_hinge_part *>malloc(pieces * sizeof(fs_hinge_part))
    losses = <double *>malloc(units * sizeof(double))
    try:
        if losses == NULL or (pieces > 0 and part_of == NULL):
            raise MemoryError("no memory for the partial sums of the losses")
        with nogil:
            if pieces > 0:
                each_piece_of_rows(k, job, part_of, losses, threads)
            else:
                each_unit(k, job, losses, threads)
        if job.watch.stop:
            raise_pending()
        for i in range(units):
            total += losses[i]
    finally:
        free(part_of)
        free(losses)
    return total


# ---- from Python ----

def run(int op, plan):
    """Runs the kernel `op` over what a `plan.Plan` describes; writes into plan.y."""
    cdef fs_job job
    cdef int d
    if len(plan.outer) > FS_MAX_OUTER:
        raise ValueError(f"more than {FS_MAX_OUTER} dimensions: {len(plan.outer)}")
    job.op = <fs_op>op
    job.compute = <fs_type><int>TYPES[plan.compute]
    job.y_type = <fs_type><int>TYPES[plan.y_type]
    job.x = <const char *>PyArray_DATA(plan.x)
    job.y = <char *>PyArray_DATA(plan.y)
    job.mask = NULL
    if plan.second is not None:
        job.mask = <const char *>PyArray_DATA(plan.second)
    job.source.direct = plan.direct
    job.source.type = <fs_type><int>TYPES[plan.x_type]
    job.source.swapped = not plan.x.dtype.isnative
    job.source.temperature = 1 if is_vjp(job.op) else plan.temperature
    job.source.via_float = 0
    job.n, job.source.n, job.source.mask_n, job.y_n = plan.n
    job.inner, job.source.inner, job.source.mask_inner, job.y_inner = plan.inner
    job.n_outer = len(plan.outer)
    job.outer = 1
    for d, (size, x_step, mask_step, y_step) in enumerate(plan.outer):
        job.outer_shape[d] = size
        job.outer_x[d] = x_step
        job.outer_mask[d] = mask_step
        job.outer_y[d] = y_step
        job.outer *= <ptrdiff_t>size
    if is_vjp(job.op):
        set_dy(&job, plan)
    execute(&job)


cdef int set_dy(fs_job *job, plan) except -1:
    """Tells how to read dy, whose places are those of the mask."""
    job.divisor = plan.temperature
    job.dy_source = job.source
    job.dy_source.direct = plan.second_direct
    job.dy_source.type = <fs_type><int>TYPES[plan.second_type]
    job.dy_source.swapped = not plan.second.dtype.isnative
    job.dy_source.n = job.source.mask_n
    job.dy_source.inner = job.source.mask_inner
    return 0


def run_hinge(plan):
    """Runs what a `hinge_plan.Plan` describes; returns the sum of the losses."""
    cdef fs_hinge job
    cdef int a, d
    if len(plan.outer) > FS_MAX_OUTER:
        raise ValueError(f"more than {FS_MAX_OUTER} dimensions: {len(plan.outer)}")
    job.compute = <fs_type><int>TYPES[plan.compute]
    job.p = plan.p
    job.largest = plan.largest
    job.margin = plan.margin
    job.scale = plan.scale
    job.written = <fs_written><int>plan.written
    job.y_type = <fs_type><int>TYPES[plan.y_type]
    job.pos_type = <fs_type><int>TYPES[plan.pos_type]
    job.pos_swapped = plan.pos_swapped
    job.n_outer = len(plan.outer)
    job.outer = 1
    for a in range(FS_ARRAYS):
        job.array[a] = NULL
        if plan.arrays[a] is not None:
            job.array[a] = <char *>PyArray_DATA(plan.arrays[a])
    job.by_columns = plan.by_columns
    job.n = plan.n[0]
    job.inner = plan.inner[0]
    for a in range(FS_ARRAYS):
        job.step_n[a] = plan.n[1 + a]
        job.step_inner[a] = plan.inner[1 + a]
    for d, dimension in enumerate(plan.outer):
        job.outer_shape[d] = dimension[0]
        job.outer *= job.outer_shape[d]
        for a in range(FS_ARRAYS):
            job.outer_step[d][a] = dimension[1 + a]
    job.source.direct = plan.direct
    job.source.type = <fs_type><int>TYPES[plan.x_type]
    job.source.swapped = plan.x_swapped
    job.source.temperature = 1
    job.source.via_float = 0
    job.source.n = job.step_n[0]
    job.source.inner = job.step_inner[0]
    job.source.mask_n = job.source.mask_inner = 0
    return execute_hinge(&job)


cdef inline void set_contiguous(fs_job *job, fs_op op, fs_type type, const void *x,
                                void *y, ptrdiff_t outer, ptrdiff_t n,
                                ptrdiff_t inner) noexcept nogil:
    """A job over a C-contiguous array [outer, n, inner] of floats."""
    cdef ptrdiff_t size = 4 if type == FS_F32 else 8
    job.op = op
    job.compute = job.y_type = job.source.type = type
    job.source.direct = 1
    job.source.swapped = 0
    job.source.temperature = 1
    job.source.via_float = 0
    job.source.inner = job.y_inner = size
    job.source.n = job.y_n = inner * size
    job.source.mask_n = job.source.mask_inner = 0
    job.x = <const char *>x
    job.mask = NULL
    job.y = <char *>y
    job.outer = outer
    job.n = n
    job.inner = inner
    job.n_outer = 1
    job.outer_shape[0] = outer
    job.outer_x[0] = n * inner * size
    job.outer_mask[0] = 0
    job.outer_y[0] = (1 if op == FS_LOGSUMEXP else n) * inner * size
    job.past_caches = 0
    job.watch.stop = 0
    job.watch.poll = never


cdef inline int place_of(object axis, int ndim) noexcept:
    """The axis as an index, -1 for the whole array, -2 where `plan` must decide."""
    cdef long place
    cdef int overflow
    if axis is None:
        return -1
    if type(axis) is not int:
        return -2
    place = PyLong_AsLongAndOverflow(axis, &overflow)
    if place < 0:
        place += ndim
    return <int>place if 0 <= place < ndim and not overflow else -2


cdef inline bint is_plain(object x) noexcept:
    """Whether x is exactly an ndarray, C-contiguous, of floats in native order."""
    if not PyArray_CheckExact(x):
        return False
    cdef int type_num = cnp.PyArray_TYPE(<cnp.ndarray>x)
    return (
        (type_num == cnp.NPY_FLOAT or type_num == cnp.NPY_DOUBLE)
        and cnp.PyArray_NDIM(<cnp.ndarray>x) > 0
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)
    )


cdef inline fs_type type_of(cnp.ndarray plain) noexcept:
    return FS_F32 if cnp.PyArray_TYPE(plain) == cnp.NPY_FLOAT else FS_F64


cdef inline void factor_around(cnp.ndarray a, int place, ptrdiff_t *outer,
                               ptrdiff_t *n, ptrdiff_t *inner) noexcept:
    """The sizes before, along and behind axis `place`; -1 is the whole array."""
    cdef int d
    outer[0] = n[0] = inner[0] = 1
    for d in range(cnp.PyArray_NDIM(a)):
        if place == -1 or d == place:
            n[0] *= cnp.PyArray_DIM(a, d)
        elif d < place:
            outer[0] *= cnp.PyArray_DIM(a, d)
        else:
            inner[0] *= cnp.PyArray_DIM(a, d)


cdef inline int run_contiguous(fs_job *job) except -1:
    if job.inner == 1 and job.outer * job.n < NOGIL_FROM:
        kernels_for(job.compute).rows(job, 0, job.outer)
        return 0
    return execute(job)


cdef bint may_write(cnp.ndarray out, int ndim, const cnp.npy_intp *shape,
                    cnp.ndarray x) noexcept:
    """Whether out is a plain result for x: itself, or nowhere near it."""
    cdef size_t x_begin = <size_t>PyArray_DATA(x), begin = <size_t>PyArray_DATA(out)
    cdef int d
    if cnp.PyArray_TYPE(out) != cnp.PyArray_TYPE(x) or cnp.PyArray_NDIM(out) != ndim:
        return False
    if not cnp.PyArray_ISCARRAY(out):
        return False
    for d in range(ndim):
        if cnp.PyArray_DIM(out, d) != shape[d]:
            return False
    return (
        begin + cnp.PyArray_NBYTES(out) <= x_begin
        or x_begin + cnp.PyArray_NBYTES(x) <= begin
        or (begin == x_begin and cnp.PyArray_SAMESHAPE(out, x))
    )


cdef bint set_temperature(fs_job *job, temperature) except -1:
    """Says what x is divided by; False where `plan` must look closer."""
    cdef double value
    if type(temperature) is not float:
        return False
    value = <float><double>temperature if job.compute == FS_F32 else temperature
    if value != 1:
        job.source.temperature = value
        job.source.direct = 0
    return 0 < value < INFINITY


cdef bint set_mask(fs_job *job, where, cnp.ndarray x, out) noexcept:
    """Says which elements count; False where `plan` must look closer."""
    cdef size_t begin, out_begin
    cdef cnp.ndarray mask
    if where is None:
        return True
    if not PyArray_CheckExact(where):
        return False
    mask = <cnp.ndarray>where
    begin = <size_t>PyArray_DATA(mask)
    if cnp.PyArray_TYPE(mask) != cnp.NPY_BOOL or not cnp.PyArray_SAMESHAPE(mask, x):
        return False
    if out is not None:
        out_begin = <size_t>PyArray_DATA(<cnp.ndarray>out)
        if begin < out_begin + cnp.PyArray_NBYTES(<cnp.ndarray>out) and (
            out_begin < begin + cnp.PyArray_NBYTES(mask)
        ):
            return False
    job.mask = <const char *>begin
    job.source.direct = 0
    job.source.mask_inner = 1
    job.source.mask_n = job.inner
    job.outer_mask[0] = job.n * job.inner
    return cnp.PyArray_ISCARRAY_RO(mask)


def fast(int op, x, axis, temperature, where, out):
    """The result of the common call, or None where `plan` must look closer."""
    cdef fs_job job
    cdef cnp.ndarray a, y
    cdef cnp.npy_intp shape[FS_MAX_OUTER]
    cdef int place, d, y_ndim = 0
    cdef ptrdiff_t outer, n, inner
    if not is_plain(x):
        return None
    a = <cnp.ndarray>x
    place = place_of(axis, cnp.PyArray_NDIM(a))
    if place == -2:
        return None
    factor_around(a, place, &outer, &n, &inner)
    for d in range(cnp.PyArray_NDIM(a)):
        if op != FS_LOGSUMEXP or (place != -1 and d != place):
            shape[y_ndim] = cnp.PyArray_DIM(a, d)
            y_ndim += 1
    if outer * n * inner == 0:
        return None
    if out is not None and not (
        PyArray_CheckExact(out) and may_write(<cnp.ndarray>out, y_ndim, shape, a)
    ):
        return None
    set_contiguous(&job, <fs_op>op, type_of(a), PyArray_DATA(a), NULL, outer, n, inner)
    if not set_temperature(&job, temperature) or not set_mask(&job, where, a, out):
        return None
    if out is not None:
        y = <cnp.ndarray>out
    else:
        y = empty(y_ndim, shape, cnp.PyArray_TYPE(a),
                  outer * (1 if op == FS_LOGSUMEXP else n) * inner)
    job.y = <char *>PyArray_DATA(y)
    run_contiguous(&job)
    if y_ndim == 0 and out is None:
        return cnp.PyArray_ToScalar(PyArray_DATA(y), y)
    return y


def fast_vjp(int op, y, dy, axis, temperature, out):
    """The same for two arrays of one type and shape."""
    cdef fs_job job
    cdef cnp.ndarray a, b, dx
    cdef ptrdiff_t outer, n, inner
    cdef int place
    if not is_plain(y) or not is_plain(dy):
        return None
    a = <cnp.ndarray>y
    b = <cnp.ndarray>dy
    place = place_of(axis, cnp.PyArray_NDIM(a))
    if place == -2 or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(b) or (
        not cnp.PyArray_SAMESHAPE(a, b)
    ):
        return None
    factor_around(a, place, &outer, &n, &inner)
    if outer * n * inner == 0:
        return None
    if out is not None and not (
        PyArray_CheckExact(out)
        and may_write(<cnp.ndarray>out, cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), a)
        and may_write(<cnp.ndarray>out, cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), b)
    ):
        return None
    set_contiguous(&job, <fs_op>op, type_of(a), PyArray_DATA(a), NULL, outer, n, inner)
    if not set_temperature(&job, temperature):
        return None
    job.divisor = job.source.temperature
    job.source.temperature = 1
    job.source.direct = 1
    if out is not None:
        dx = <cnp.ndarray>out
    else:
        dx = empty(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a),
                   outer * n * inner)
    job.y = <char *>PyArray_DATA(dx)
    job.dy = <const char *>PyArray_DATA(b)
    job.dy_source = job.source
    job.source.mask_n = job.dy_source.n
    job.source.mask_inner = job.dy_source.inner
    job.outer_mask[0] = job.outer_x[0]
    run_contiguous(&job)
    return dx


cdef bint is_one_a_row(a, int type_num, cnp.ndarray scores, bint flat,
                       ptrdiff_t rows) except -1:
    """Whether a is an ndarray, contiguous, of one element for each row of scores."""
    cdef int d, ndim = 1 if flat else cnp.PyArray_NDIM(scores) - 1
    if not PyArray_CheckExact(a):
        return False
    if cnp.PyArray_TYPE(<cnp.ndarray>a) != type_num or not (
        cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>a)
    ):
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray>a) != ndim or (
        cnp.PyArray_SIZE(<cnp.ndarray>a) != rows
    ):
        return False
    for d in range(0 if flat else ndim):
        if cnp.PyArray_DIM(<cnp.ndarray>a, d) != cnp.PyArray_DIM(scores, d):
            return False
    return True


cdef cnp.ndarray indices(labels, cnp.ndarray scores, ptrdiff_t rows, ptrdiff_t classes):
    """A copy of int64 labels, all in [0, classes); None where they are something else.

    A copy, because another thread could change the caller's after they were checked.
    """
    cdef cnp.ndarray copy
    cdef const cnp.int64_t *label
    cdef ptrdiff_t row
    if not is_one_a_row(labels, cnp.NPY_INT64, scores, False, rows):
        return None
    copy = cnp.PyArray_NewCopy(<cnp.ndarray>labels, cnp.NPY_CORDER)
    label = <const cnp.int64_t *>PyArray_DATA(copy)
    for row in range(rows):
        if not 0 <= label[row] < classes:
            return None
    return copy


cdef ptrdiff_t width_of_rows(cnp.ndarray scores, labels, negatives) except -1:
    """Scores to a row, the positive included; 0 where `hinge_plan` must look closer."""
    cdef ptrdiff_t size = cnp.PyArray_SIZE(scores)
    cdef ptrdiff_t width = cnp.PyArray_DIM(scores, cnp.PyArray_NDIM(scores) - 1)
    if negatives is not None:
        if type(negatives) is not int or cnp.PyArray_NDIM(scores) != 1:
            return 0
        if labels is not None or not 0 < negatives < size:
            return 0
        width = <ptrdiff_t>negatives + 1
    return width if width >= 2 and size > 0 and size % width == 0 else 0


cdef bint set_options(fs_hinge *job, margin, p, variant) except -1:
    """Says which loss it is; False where `hinge_plan` must look closer."""
    if type(margin) is not float and (type(margin) is not int or margin != 1):
        return False
    if type(p) is not int or p not in (1, 2):
        return False
    if type(variant) is not str or variant not in ("sum", "max"):
        return False
    job.margin = <float>margin if job.compute == FS_F32 else <double>margin
    job.p = p
    job.largest = variant == "max"
    job.scale = 1
    return 0 < job.margin < INFINITY  # not -0


cdef void set_scores(fs_hinge *job, cnp.ndarray scores, ptrdiff_t width,
                     labels) noexcept:
    """Scores [rows, width], the positive in column 0 unless there are labels."""
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(scores)
    cdef char *data = <char *>PyArray_DATA(scores)
    cdef int a
    for a in range(FS_ARRAYS):
        job.array[a] = NULL
        job.step_n[a] = 0
        job.step_inner[a] = 0
    job.outer = 1
    job.n_outer = 0
    job.inner = cnp.PyArray_SIZE(scores) // width
    job.source.direct = 1
    job.source.type = job.compute
    job.source.swapped = job.pos_swapped = 0
    job.source.temperature = 1
    job.source.via_float = 0
    job.source.n = job.step_n[FS_SCORES] = size
    job.source.inner = job.step_inner[FS_SCORES] = width * size
    if labels is None:
        job.n = width - 1
        job.array[FS_SCORES] = data + size
        job.array[FS_POSITIVES] = data
        job.step_inner[FS_POSITIVES] = width * size
    else:
        job.n = width
        job.array[FS_SCORES] = data
        job.array[FS_LABELS] = <char *>PyArray_DATA(<cnp.ndarray>labels)
        job.step_inner[FS_LABELS] = sizeof(cnp.int64_t)
    job.by_columns = job.n <= FS_HINGE_SHORT


cdef void set_gradient(fs_hinge *job, cnp.ndarray grad) noexcept:
    """The gradient, laid out as the scores are."""
    job.written = FS_GRADIENT
    job.step_n[FS_OUT] = job.step_n[FS_SCORES]
    job.step_inner[FS_OUT] = job.step_inner[FS_SCORES]
    job.array[FS_OUT] = <char *>PyArray_DATA(grad)
    if job.array[FS_POSITIVES] != NULL:
        job.array[FS_OUT] += job.step_n[FS_OUT]
        job.array[FS_OUT_POSITIVES] = <char *>PyArray_DATA(grad)
        job.step_inner[FS_OUT_POSITIVES] = job.step_inner[FS_OUT]


def fast_hinge(scores, labels, negatives, margin, p, variant, reduction, weights,
               return_grad):
    """The common call's loss, and gradient or None; or None for `hinge_plan`.

    That is a plain array of scores, labels in int64, weights in float64, no mask.
    """
    cdef fs_hinge job
    cdef cnp.ndarray x, places = None
    cdef ptrdiff_t width, rows
    if not is_plain(scores) or type(reduction) is not str or (
        reduction not in ("none", "sum", "mean")
    ):
        return None
    x = <cnp.ndarray>scores
    job.compute = job.y_type = job.pos_type = type_of(x)
    width = width_of_rows(x, labels, negatives)
    if width == 0 or not set_options(&job, margin, p, variant):
        return None
    rows = cnp.PyArray_SIZE(x) // width
    if weights is not None and not (
        is_one_a_row(weights, cnp.NPY_DOUBLE, x, negatives is not None, rows)
    ):
        return None
    if labels is not None:
        places = indices(labels, x, rows, width)
        if places is None:
            return None
    set_scores(&job, x, width, places)
    if weights is not None:
        job.array[FS_WEIGHTS] = <char *>PyArray_DATA(<cnp.ndarray>weights)
        job.step_inner[FS_WEIGHTS] = sizeof(double)
    return loss_and_gradient(&job, x, negatives is not None, reduction, return_grad)


cdef tuple loss_and_gradient(fs_hinge *job, cnp.ndarray scores, bint flat, reduction,
                             bint return_grad):
    """Runs a job whose inputs are set."""
    cdef cnp.ndarray grad = None
    cdef int by_row = reduction == "none"
    cdef cnp.ndarray loss = losses_of(scores, flat, by_row, job.inner)
    cdef double total
    job.written = FS_NOTHING
    if by_row:
        job.array[FS_LOSSES] = <char *>PyArray_DATA(loss)
        job.step_inner[FS_LOSSES] = cnp.PyArray_ITEMSIZE(loss)
    if reduction == "mean":
        job.scale = 1.0 / job.inner
    if return_grad:
        grad = empty(cnp.PyArray_NDIM(scores), cnp.PyArray_DIMS(scores),
                     cnp.PyArray_TYPE(scores), cnp.PyArray_SIZE(scores))
        set_gradient(job, grad)
    total = execute_hinge(job)
    if not by_row:
        store(loss, total / job.inner if reduction == "mean" else total)
    if cnp.PyArray_NDIM(loss) == 0:
        return cnp.PyArray_ToScalar(PyArray_DATA(loss), loss), grad
    return loss, grad


cdef cnp.ndarray losses_of(cnp.ndarray scores, bint flat, bint by_row, ptrdiff_t rows):
    """An array for the losses: one a row, or one alone."""
    cdef cnp.npy_intp shape[1]
    shape[0] = rows
    if not by_row:
        return cnp.PyArray_EMPTY(0, shape, cnp.PyArray_TYPE(scores), 0)
    if flat:
        return cnp.PyArray_EMPTY(1, shape, cnp.PyArray_TYPE(scores), 0)
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(scores) - 1, cnp.PyArray_DIMS(scores),
                             cnp.PyArray_TYPE(scores), 0)


cdef inline void store(cnp.ndarray scalar, double value) noexcept:
    if cnp.PyArray_TYPE(scalar) == cnp.NPY_FLOAT:
        (<float *>PyArray_DATA(scalar))[0] = <float>value
    else:
        (<double *>PyArray_DATA(scalar))[0] = value


# ---- from other Cython code (cpu.pxd) ----

cdef void one_row(fs_op op, const real *x, real *y, Py_ssize_t n) noexcept nogil:
    cdef fs_job job
    set_contiguous(&job, op, FS_F32 if real is float else FS_F64, x, y, 1, n, 1)
    kernels_for(job.compute).rows(&job, 0, 1)


cdef void softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_SOFTMAX, x, y, n)


cdef void log_softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_LOG_SOFTMAX, x, y, n)


cdef real logsumexp_row(const real *x, Py_ssize_t n) noexcept nogil:
    cdef real y
    one_row(FS_LOGSUMEXP, x, &y, n)
    return y
