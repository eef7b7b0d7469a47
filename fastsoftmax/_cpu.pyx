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

cimport numpy as cnp
from numpy cimport PyArray_CheckExact, PyArray_DATA

from ._kernels cimport *

import numpy as np

from . import _caches
from . import _threads

cnp.import_array()

SOFTMAX = <int>FS_SOFTMAX
LOG_SOFTMAX = <int>FS_LOG_SOFTMAX
LOGSUMEXP = <int>FS_LOGSUMEXP
SOFTMAX_VJP = <int>FS_SOFTMAX_VJP
LOG_SOFTMAX_VJP = <int>FS_LOG_SOFTMAX_VJP

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


include "_memory.pxi"
include "_run.pxi"

# ---- from Python ----

cdef int set_outer(fs_job *job, outer, arrays) except -1:
    """The outer dimensions: of each its length, then steps in the order of `arrays`."""
    cdef int d, i
    if len(outer) > FS_MAX_OUTER:
        raise ValueError(f"more than {FS_MAX_OUTER} dimensions: {len(outer)}")
    job.n_outer = len(outer)
    job.outer = 1
    for d, dimension in enumerate(outer):
        job.outer_shape[d] = dimension[0]
        job.outer *= job.outer_shape[d]
        for i, a in enumerate(arrays):
            job.outer_step[d][<int>a] = dimension[1 + i]
    return 0


cdef void clear(fs_job *job) noexcept nogil:
    cdef int a
    for a in range(FS_OPERANDS):
        job.operand[a].data = NULL
        job.operand[a].swapped = 0
        job.operand[a].direct = 0
        job.operand[a].temperature = 1
        job.operand[a].via_float = 0


def run(int op, plan):
    """Runs the kernel `op` over what a `plan.Plan` describes; writes into plan.y."""
    cdef fs_job job
    cdef int a, second = FS_DY if op >= FS_SOFTMAX_VJP else FS_MASK
    clear(&job)
    job.op = <fs_op>op
    job.compute = <fs_type><int>TYPES[plan.compute]
    job.divisor = plan.temperature
    for i, (a, array, name) in enumerate((
        (<int>FS_X, plan.x, plan.x_type), (second, plan.second, plan.second_type),
        (<int>FS_Y, plan.y, plan.y_type),
    )):
        if array is None:
            continue
        job.operand[a].data = <char *>PyArray_DATA(array)
        job.operand[a].type = <fs_type><int>TYPES[name]
        job.operand[a].swapped = not array.dtype.isnative
        job.operand[a].n = plan.n[1 + i]
        job.operand[a].inner = plan.inner[1 + i]
    job.operand[FS_X].direct = plan.direct
    job.operand[FS_DY].direct = plan.second_direct
    if second == FS_MASK:
        job.operand[FS_X].temperature = plan.temperature
    job.n = plan.n[0]
    job.inner = plan.inner[0]
    set_outer(&job, plan.outer, (<int>FS_X, second, <int>FS_Y))
    execute(&job)


# In the order of a hinge plan's arrays.
HINGE_ARRAYS = (
    <int>FS_X, <int>FS_MASK, <int>FS_Y, <int>FS_POSITIVES, <int>FS_LABELS,
    <int>FS_WEIGHTS, <int>FS_LOSSES, <int>FS_Y_POSITIVES,
)


def run_hinge(plan):
    """Runs what a `hinge_plan.Plan` describes; returns the sum of the losses."""
    cdef fs_job job
    cdef int a
    clear(&job)
    job.op = FS_HINGE
    job.compute = <fs_type><int>TYPES[plan.compute]
    job.p = plan.p
    job.largest = plan.largest
    job.margin = plan.margin
    job.scale = plan.scale
    job.written = <fs_written><int>plan.written
    for i, (a, array) in enumerate(zip(HINGE_ARRAYS, plan.arrays)):
        if array is not None:
            job.operand[a].data = <char *>PyArray_DATA(array)
        job.operand[a].n = plan.n[1 + i]
        job.operand[a].inner = plan.inner[1 + i]
    job.operand[FS_X].type = <fs_type><int>TYPES[plan.x_type]
    job.operand[FS_X].swapped = plan.x_swapped
    job.operand[FS_X].direct = plan.direct
    job.operand[FS_Y].type = <fs_type><int>TYPES[plan.y_type]
    job.operand[FS_Y_POSITIVES].type = job.operand[FS_Y].type
    job.operand[FS_POSITIVES].type = <fs_type><int>TYPES[plan.pos_type]
    job.operand[FS_POSITIVES].swapped = plan.pos_swapped
    job.n = plan.n[0]
    job.inner = plan.inner[0]
    set_outer(&job, plan.outer, HINGE_ARRAYS)
    execute(&job)
    return job.total


cdef inline void set_contiguous(fs_job *job, fs_op op, fs_type type, const void *x,
                                void *y, ptrdiff_t outer, ptrdiff_t n,
                                ptrdiff_t inner) noexcept nogil:
    """A job over a C-contiguous array [outer, n, inner] of floats."""
    cdef ptrdiff_t size = 4 if type == FS_F32 else 8
    cdef int a
    clear(job)
    job.op = op
    job.compute = type
    job.outer = outer
    job.n = n
    job.inner = inner
    job.n_outer = 1
    job.outer_shape[0] = outer
    for a in range(FS_DY + 1):
        job.operand[a].type = type
        job.operand[a].direct = 1
        job.operand[a].inner = size
        job.operand[a].n = inner * size
        job.outer_step[0][a] = n * inner * size
    if op == FS_LOGSUMEXP:
        job.outer_step[0][FS_Y] = inner * size
    job.operand[FS_X].data = <char *>x
    job.operand[FS_Y].data = <char *>y


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
        job.operand[FS_X].temperature = value
        job.operand[FS_X].direct = 0
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
    job.operand[FS_MASK].data = <char *>begin
    job.operand[FS_X].direct = 0
    job.operand[FS_MASK].inner = 1
    job.operand[FS_MASK].n = job.inner
    job.outer_step[0][FS_MASK] = job.n * job.inner
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
    job.operand[FS_Y].data = <char *>PyArray_DATA(y)
    execute(&job)
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
    job.divisor = job.operand[FS_X].temperature
    job.operand[FS_X].temperature = 1
    job.operand[FS_X].direct = 1
    if out is not None:
        dx = <cnp.ndarray>out
    else:
        dx = empty(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a),
                   outer * n * inner)
    job.operand[FS_Y].data = <char *>PyArray_DATA(dx)
    job.operand[FS_DY].data = <char *>PyArray_DATA(b)
    execute(&job)
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


cdef bint set_options(fs_job *job, margin, p, variant) except -1:
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


cdef void set_scores(fs_job *job, cnp.ndarray scores, ptrdiff_t width,
                     labels) noexcept:
    """Scores [rows, width], the positive in column 0 unless there are labels."""
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(scores)
    cdef char *data = <char *>PyArray_DATA(scores)
    cdef int a
    for a in range(FS_OPERANDS):
        job.operand[a].type = job.compute
    job.outer = 1
    job.n_outer = 0
    job.inner = cnp.PyArray_SIZE(scores) // width
    job.operand[FS_X].direct = 1
    job.operand[FS_X].n = size
    job.operand[FS_X].inner = width * size
    if labels is None:
        job.n = width - 1
        job.operand[FS_X].data = data + size
        job.operand[FS_POSITIVES].data = data
        job.operand[FS_POSITIVES].inner = width * size
    else:
        job.n = width
        job.operand[FS_X].data = data
        job.operand[FS_LABELS].data = <char *>PyArray_DATA(<cnp.ndarray>labels)
        job.operand[FS_LABELS].inner = sizeof(cnp.int64_t)


cdef void set_gradient(fs_job *job, cnp.ndarray grad) noexcept:
    """The gradient, laid out as the scores are."""
    job.written = FS_GRADIENT
    job.operand[FS_Y].n = job.operand[FS_X].n
    job.operand[FS_Y].inner = job.operand[FS_X].inner
    job.operand[FS_Y].data = <char *>PyArray_DATA(grad)
    if job.operand[FS_POSITIVES].data != NULL:
        job.operand[FS_Y].data += job.operand[FS_Y].n
        job.operand[FS_Y_POSITIVES].data = <char *>PyArray_DATA(grad)
        job.operand[FS_Y_POSITIVES].inner = job.operand[FS_Y].inner


def fast_hinge(scores, labels, negatives, margin, p, variant, reduction, weights,
               return_grad):
    """The common call's loss, and gradient or None; or None for `hinge_plan`.

    That is a plain array of scores, labels in int64, weights in float64, no mask.
    """
    cdef fs_job job
    cdef cnp.ndarray x, places = None
    cdef ptrdiff_t width, rows
    if not is_plain(scores) or type(reduction) is not str or (
        reduction not in ("none", "sum", "mean")
    ):
        return None
    x = <cnp.ndarray>scores
    clear(&job)
    job.op = FS_HINGE
    job.compute = type_of(x)
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
        job.operand[FS_WEIGHTS].data = <char *>PyArray_DATA(<cnp.ndarray>weights)
        job.operand[FS_WEIGHTS].inner = sizeof(double)
    return loss_and_gradient(&job, x, negatives is not None, reduction, return_grad)


cdef tuple loss_and_gradient(fs_job *job, cnp.ndarray scores, bint flat, reduction,
                             bint return_grad):
    """Runs a job whose inputs are set."""
    cdef cnp.ndarray grad = None
    cdef int by_row = reduction == "none"
    cdef cnp.ndarray loss = losses_of(scores, flat, by_row, job.inner)
    cdef double total
    job.written = FS_NOTHING
    if by_row:
        job.operand[FS_LOSSES].data = <char *>PyArray_DATA(loss)
        job.operand[FS_LOSSES].inner = cnp.PyArray_ITEMSIZE(loss)
    if reduction == "mean":
        job.scale = 1.0 / job.inner
    if return_grad:
        grad = empty(cnp.PyArray_NDIM(scores), cnp.PyArray_DIMS(scores),
                     cnp.PyArray_TYPE(scores), cnp.PyArray_SIZE(scores))
        set_gradient(job, grad)
    execute(job)
    total = job.total
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
    cdef fs_watch watch
    watch.poll = never
    watch.stop = 0
    set_contiguous(&job, op, FS_F32 if real is float else FS_F64, x, y, 1, n, 1)
    job.threads = 1
    job.past_caches = 0
    job.watch = &watch
    fs_run(kernels_for(job.compute), &job)


cdef void softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_SOFTMAX, x, y, n)


cdef void log_softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_LOG_SOFTMAX, x, y, n)


cdef real logsumexp_row(const real *x, Py_ssize_t n) noexcept nogil:
    cdef real y
    one_row(FS_LOGSUMEXP, x, &y, n)
    return y
