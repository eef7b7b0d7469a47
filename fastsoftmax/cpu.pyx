"""Runs the C kernels on NumPy's memory: which kernels, how many threads, in what order.

A. Kernels know nothing of Python, threads or signals; this module knows nothing of
   arithmetic. kernels/rows.h is the contract between them.
B. A job small enough never reaches a parallel region: entering one costs more than
   the work (the threshold is PARALLEL_FROM).
C. Work is cut into blocks of rows, tiles of columns, or pieces of one long row. Where
   it is cut never changes a bit of the result, so threads may take blocks as they come
   (schedule "dynamic": a busy core delays one block, not half the job).
D. The thread that called polls for signals between blocks, at most every 50 ms. The
   exception is left set and the job abandoned.
E. `fast` is the way of the common call (a C-contiguous float array along one axis or
   all, no options): NumPy's C API, no plan, the GIL kept while the work is shorter than
   giving it back.
"""

import os

from cpython.long cimport PyLong_AsLongAndOverflow
from cython.parallel cimport prange
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp
from numpy cimport PyArray_CheckExact, PyArray_DATA

from . import threads as _threads

cnp.import_array()


cdef extern from "Python.h":
    # Without "except -1": the exception is to stay set while the job winds down.
    int PyErr_CheckSignals() noexcept


cdef extern from "kernels/process.h" nogil:
    enum:
        FS_WITH_OPENMP
    int omp_get_max_threads()
    int omp_get_thread_num()
    double fs_now()
    int fs_forked()
    void fs_watch_forks()
    int fs_can_start(int threads)


cdef extern from "kernels/rows.h" nogil:
    ctypedef enum fs_op:
        FS_SOFTMAX
        FS_LOG_SOFTMAX
        FS_LOGSUMEXP
    ctypedef enum fs_type:
        FS_F32
        FS_F64
        FS_F16
        FS_BF16
        FS_BOOL
        FS_I8
        FS_I16
        FS_I32
        FS_I64
        FS_U8
        FS_U16
        FS_U32
        FS_U64
    enum:
        FS_MAX_OUTER
        FS_PIECE
        FS_TILE
    ctypedef struct fs_source:
        int direct
        fs_type type
        int swapped
        ptrdiff_t n, inner, mask_n, mask_inner
        double temperature
        int via_float
    ctypedef struct fs_job:
        fs_op op
        fs_type compute, y_type
        fs_source source
        const char *x
        const char *mask
        char *y
        ptrdiff_t outer, n, inner, y_n, y_inner, tile
        int n_outer
        ptrdiff_t *outer_shape
        ptrdiff_t *outer_x
        ptrdiff_t *outer_mask
        ptrdiff_t *outer_y
        int (*poll)(fs_job *job) noexcept nogil
        int stop
        double polled_at
    ctypedef struct fs_line:
        const char *x
        const char *mask
        char *y
    ctypedef struct fs_pair:
        double hi, lo
    ctypedef struct fs_norm:
        pass
    ctypedef struct fs_kernels:
        double (*row_max)(const fs_job *, fs_line, ptrdiff_t, ptrdiff_t,
                          ptrdiff_t *) noexcept nogil
        fs_pair (*row_sum)(const fs_job *, fs_line, ptrdiff_t, ptrdiff_t, double,
                           ptrdiff_t) noexcept nogil
        void (*row_finish)(const fs_job *, fs_line, ptrdiff_t, ptrdiff_t,
                           const fs_norm *) noexcept nogil
        fs_norm (*row_norm)(fs_job *, fs_line, double, fs_pair) noexcept nogil
        void (*rows)(fs_job *, ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*columns)(fs_job *, ptrdiff_t) noexcept nogil
    ctypedef struct fs_table:
        const char *isa
        const fs_kernels *f32
        const fs_kernels *f64
    int fs_supported(const fs_table **tables, int most)
    fs_line fs_locate(const fs_job *job, ptrdiff_t index)
    fs_pair fs_pair_add(fs_pair a, fs_pair b)


# Elements from which a job is shared between threads: some 100 us of work. Waking a
# worker takes tens of us, and milliseconds where other processes hold the cores.
cdef enum:
    PARALLEL_FROM = 262144
# Elements from which the GIL is given back: below, that costs more than the work.
cdef enum:
    NOGIL_FROM = 4096

cdef double SECONDS_BETWEEN_POLLS = 0.05

SOFTMAX = <int>FS_SOFTMAX
LOG_SOFTMAX = <int>FS_LOG_SOFTMAX
LOGSUMEXP = <int>FS_LOGSUMEXP

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


cdef inline const fs_kernels *kernels_for(fs_type compute) noexcept nogil:
    return table.f32 if compute == FS_F32 else table.f64


# ---- how many threads, and when to stop ----

def openmp_limit():
    """Threads that OpenMP itself would use now (1 without OpenMP)."""
    return omp_get_max_threads()


def current_threads():
    """Threads that a large job would use now."""
    if not FS_WITH_OPENMP or fs_forked():
        return 1
    return _threads.count(omp_get_max_threads())


cdef int threads_for(fs_job *job) except -1:
    if job.outer * job.n * job.inner < PARALLEL_FROM:
        return 1
    cdef int count = current_threads()
    return count if fs_can_start(count) else 1


cdef int poll(fs_job *job) noexcept nogil:
    if job.stop or omp_get_thread_num() != 0:
        return job.stop
    cdef double now = fs_now()
    if 0 <= now - job.polled_at < SECONDS_BETWEEN_POLLS:
        return 0
    job.polled_at = now
    with gil:
        if PyErr_CheckSignals() < 0:
            job.stop = 1
    return job.stop


cdef int never(fs_job *job) noexcept nogil:
    return 0


# ---- the loops over blocks ----

cdef void each_block_of_rows(const fs_kernels *k, fs_job *job,
                             int threads) noexcept nogil:
    cdef ptrdiff_t step = max(<ptrdiff_t>1, FS_PIECE // job.n)
    if threads > 1:
        step = max(<ptrdiff_t>1, min(step, job.outer // (4 * threads)))
    cdef ptrdiff_t blocks = (job.outer + step - 1) // step, block
    if threads == 1:
        for block in range(blocks):
            if block > 0 and job.poll(job):
                return
            k.rows(job, block * step, min(job.outer, (block + 1) * step))
    else:
        for block in prange(blocks, num_threads=threads, schedule="dynamic"):
            if not job.poll(job):
                k.rows(job, block * step, min(job.outer, (block + 1) * step))


cdef void each_tile(const fs_kernels *k, fs_job *job, int threads) noexcept nogil:
    # A vector's worth of float32 in AVX-512 is the narrowest tile worth having.
    cdef ptrdiff_t share = job.inner * job.outer // (2 * threads)
    job.tile = FS_TILE
    if threads > 1:
        job.tile = max(<ptrdiff_t>16, min(job.tile, share // 16 * 16))
    cdef ptrdiff_t tiles = (job.inner + job.tile - 1) // job.tile * job.outer, tile
    if threads == 1:
        for tile in range(tiles):
            if tile > 0 and job.poll(job):
                return
            k.columns(job, tile)
    else:
        for tile in prange(tiles, num_threads=threads, schedule="dynamic"):
            if not job.poll(job):
                k.columns(job, tile)


cdef struct piece:
    double max
    ptrdiff_t block
    fs_pair sum


cdef void long_row(const fs_kernels *k, fs_job *job, ptrdiff_t row, piece *piece_of,
                   int threads) noexcept nogil:
    """The three passes of one row, each shared between the threads, piece by piece."""
    cdef ptrdiff_t n = job.n, pieces = (n + FS_PIECE - 1) // FS_PIECE, i, block = 0
    cdef fs_line line = fs_locate(job, row)
    cdef double largest
    cdef fs_pair total
    cdef fs_norm norm
    for i in prange(pieces, num_threads=threads, schedule="dynamic"):
        if not job.poll(job):
            piece_of[i].max = k.row_max(job, line, i * FS_PIECE,
                                        min(n, (i + 1) * FS_PIECE), &piece_of[i].block)
    if job.stop:
        return
    largest = piece_of[0].max
    block = piece_of[0].block
    for i in range(1, pieces):
        if piece_of[i].max > largest:
            largest = piece_of[i].max
            block = piece_of[i].block
    for i in prange(pieces, num_threads=threads, schedule="dynamic"):
        if not job.poll(job):
            piece_of[i].sum = k.row_sum(job, line, i * FS_PIECE,
                                        min(n, (i + 1) * FS_PIECE), largest, block)
    if job.stop:
        return
    total.hi = total.lo = 0
    for i in range(pieces):
        total = fs_pair_add(total, piece_of[i].sum)
    norm = k.row_norm(job, line, largest, total)
    if job.op == FS_LOGSUMEXP:
        return
    for i in prange(pieces, num_threads=threads, schedule="dynamic"):
        if not job.poll(job):
            k.row_finish(job, line, i * FS_PIECE, min(n, (i + 1) * FS_PIECE), &norm)


cdef void each_long_row(const fs_kernels *k, fs_job *job, piece *piece_of,
                        int threads) noexcept nogil:
    cdef ptrdiff_t row
    for row in range(job.outer):
        if not job.stop:
            long_row(k, job, row, piece_of, threads)


cdef int execute(fs_job *job) except -1:
    """Runs a complete job."""
    cdef const fs_kernels *k = kernels_for(job.compute)
    cdef int threads = threads_for(job)
    cdef int rows = job.inner == 1
    cdef piece *piece_of = NULL
    job.stop = 0
    job.poll = poll
    job.polled_at = fs_now()
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
    if job.stop:
        raise_pending()
    return 0


cdef int raise_pending() except -1:
    return -1  # poll has left the exception set


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
    if plan.mask is not None:
        job.mask = <const char *>PyArray_DATA(plan.mask)
    job.source.direct = plan.direct
    job.source.type = <fs_type><int>TYPES[plan.x_type]
    job.source.swapped = not plan.x.dtype.isnative
    job.source.temperature = plan.temperature
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
    execute(&job)


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
    job.stop = 0
    job.poll = never


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


def fast(int op, x, axis):
    """The result of the common call, or None where `plan` must look closer."""
    cdef fs_job job
    cdef cnp.ndarray a, y
    cdef cnp.npy_intp shape[FS_MAX_OUTER]
    cdef int ndim, type_num, place, d, y_ndim = 0
    cdef ptrdiff_t outer = 1, n = 1, inner = 1
    if not PyArray_CheckExact(x):
        return None
    a = <cnp.ndarray>x
    ndim = cnp.PyArray_NDIM(a)
    type_num = cnp.PyArray_TYPE(a)
    if (type_num != cnp.NPY_FLOAT and type_num != cnp.NPY_DOUBLE) or ndim == 0 or not (
        cnp.PyArray_ISCARRAY_RO(a)
    ):
        return None
    place = place_of(axis, ndim)
    if place == -2:
        return None
    for d in range(ndim):
        if place == -1 or d == place:
            n *= cnp.PyArray_DIM(a, d)
        elif d < place:
            outer *= cnp.PyArray_DIM(a, d)
        else:
            inner *= cnp.PyArray_DIM(a, d)
        if op != FS_LOGSUMEXP or (place != -1 and d != place):
            shape[y_ndim] = cnp.PyArray_DIM(a, d)
            y_ndim += 1
    if outer * n * inner == 0:
        return None
    y = cnp.PyArray_EMPTY(y_ndim, shape, type_num, 0)
    set_contiguous(&job, <fs_op>op, FS_F32 if type_num == cnp.NPY_FLOAT else FS_F64,
                   PyArray_DATA(a), PyArray_DATA(y), outer, n, inner)
    if inner == 1 and outer * n < NOGIL_FROM:
        kernels_for(job.compute).rows(&job, 0, outer)
    else:
        execute(&job)
    return cnp.PyArray_ToScalar(PyArray_DATA(y), y) if y_ndim == 0 else y


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
