# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
# cython: binding=False, embedsignature=True, embedsignature.format=clinic
"""Runs the C kernels on NumPy's memory: which kernels, how many threads, in what order.

A. Kernels know nothing of Python, threads or signals; this module knows nothing of
   arithmetic. kernels/job.h is the contract between them.
B. A job never reaches a parallel region where entering one would cost more than it
   saves: below PARALLEL_FROM, and where kernels/process/wake.h has measured so.
C. Work is cut into blocks of rows, tiles of columns, or pieces of one long row. Where
   it is cut never changes a bit of the result, so threads may take blocks as they come
   (kernels/process/shares.h: a busy core delays one block, not half the job).
D. The thread that called polls for signals between blocks, at most every 50 ms. The
   exception is left set and the job abandoned.
E. A call is decoded once (_decode.pxi) into a job over the arrays as they are; the GIL
   is kept while the work is shorter than giving it back.
F. The public functions are built in, as NumPy's are: a Python function around one call
   costs a sixth of softmax of (8, 20). Their types are in _cpu.pyi.
G. Large results of the shape of x live in memory that is kept when they are freed, up
   to a cap, and reused (kernels/process/outputs.h).
"""

import os

from cpython.long cimport PyLong_AsLongAndOverflow
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.float cimport DBL_MAX, FLT_MAX
from libc.math cimport INFINITY, NAN, fabs
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy, memset

cimport numpy as cnp
from numpy cimport PyArray_Check, PyArray_CheckExact, PyArray_DATA

from ._kernels cimport *

import numpy as np

from . import _arguments
from . import _by_numpy
from . import _caches
from . import _threads

cnp.import_array()

openmp = bool(FS_WITH_OPENMP)
openmp_runtime = os.fsdecode(<bytes>fs_openmp_runtime())

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
fs_prepare_places()


cdef inline const fs_kernels *kernels_for(fs_type compute) noexcept nogil:
    return table.f32 if compute == FS_F32 else table.f64


include "_memory.pxi"
include "_run.pxi"
include "_decode.pxi"
include "_family.pxi"
include "_hinge.pxi"
include "_entropy.pxi"
include "_softmax.pxi"
include "_losses.pxi"

# ---- from other Cython code (_cpu.pxd) ----

cdef void one_row(fs_op op, const real *x, real *y, Py_ssize_t n) noexcept nogil:
    cdef fs_job job
    cdef int a
    for a in range(FS_OPERANDS):
        job.operand[a].data = NULL
        job.operand[a].type = FS_F32 if real is float else FS_F64
        job.operand[a].swapped = 0
        job.operand[a].direct = 1
        job.operand[a].n = job.operand[a].inner = sizeof(real)
        job.operand[a].temperature = 1
        job.operand[a].via_float = 0
        job.operand[a].overflow = NULL
    job.op = op
    job.compute = job.operand[FS_X].type
    job.operand[FS_X].data = <char *>x
    job.operand[FS_Y].data = <char *>y
    job.outer = job.inner = 1
    job.n = n
    job.n_outer = 0
    job.threads = 1
    job.cache = largest_cache
    job.watch = fs_unwatched()
    fs_run(kernels_for(job.compute), &job)


cdef void softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_SOFTMAX, x, y, n)


cdef void log_softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil:
    one_row(FS_LOG_SOFTMAX, x, y, n)


cdef real logsumexp_row(const real *x, Py_ssize_t n) noexcept nogil:
    cdef real y
    one_row(FS_LOGSUMEXP, x, &y, n)
    return y
