"""What other Cython code can cimport: softmax, log_softmax and logsumexp of one row.

A row is contiguous memory of n >= 1 elements; y may be x. The functions need no GIL,
allocate nothing and use the calling thread only.
"""

ctypedef fused real:
    float
    double


cdef void softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil
cdef void log_softmax_row(const real *x, real *y, Py_ssize_t n) noexcept nogil
cdef real logsumexp_row(const real *x, Py_ssize_t n) noexcept nogil
