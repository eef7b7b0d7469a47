"""The C side, as cpu.pyx sees it: kernels/*.h say what each name means."""

from libc.stddef cimport ptrdiff_t


cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)
    object PyDataMem_GetHandler()


cdef extern from "Python.h":
    # Without "except -1": the exception is to stay set while the job winds down.
    int PyErr_CheckSignals() noexcept


cdef extern from "kernels/process/process.h" nogil:
    double fs_now()
    int fs_forked()
    void fs_watch_forks()


cdef extern from "kernels/process/team.h" nogil:
    enum:
        FS_WITH_OPENMP
    int omp_get_max_threads()
    int omp_get_thread_num()
    void fs_prepare_teams(size_t stack)
    int fs_can_start(int threads)


cdef extern from "kernels/process/outputs.h":
    enum:
        FS_CAN_KEEP
    ctypedef struct PyDataMem_Handler:
        pass
    PyDataMem_Handler fs_handler
    int fs_is_default(object handler)
    size_t fs_kept_bytes()
    void fs_keep_at_most(size_t bytes)


cdef extern from "kernels/job.h" nogil:
    ctypedef enum fs_op:
        FS_SOFTMAX
        FS_LOG_SOFTMAX
        FS_LOGSUMEXP
        FS_SOFTMAX_VJP
        FS_LOG_SOFTMAX_VJP
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
        FS_NARROW
    ctypedef struct fs_source:
        int direct
        fs_type type
        int swapped
        ptrdiff_t n, inner, mask_n, mask_inner
        double temperature
        int via_float
    ctypedef struct fs_watch:
        int (*poll)(fs_watch *watch) noexcept nogil
        int stop
        double polled_at
    int fs_poll(fs_watch *watch)
    ctypedef struct fs_job:
        fs_op op
        fs_type compute, y_type
        fs_source source, dy_source
        double divisor
        const char *x
        const char *mask
        const char *dy
        char *y
        ptrdiff_t outer, n, inner, y_n, y_inner, tile
        int past_caches
        int n_outer
        ptrdiff_t *outer_shape
        ptrdiff_t *outer_x
        ptrdiff_t *outer_mask
        ptrdiff_t *outer_y
        fs_watch watch
    ctypedef struct fs_line:
        const char *x
        const char *mask
        const char *dy
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
        const void *hinge
    ctypedef struct fs_table:
        const char *isa
        const fs_kernels *f32
        const fs_kernels *f64
    int fs_supported(const fs_table **tables, int most)
    fs_line fs_locate(const fs_job *job, ptrdiff_t index)
    fs_pair fs_pair_add(fs_pair a, fs_pair b)


cdef extern from "kernels/hinge.h" nogil:
    ctypedef enum fs_written:
        FS_NOTHING
        FS_GRADIENT
        FS_PAIRS
    enum:
        FS_SCORES
        FS_OUT
        FS_POSITIVES
        FS_LABELS
        FS_WEIGHTS
        FS_LOSSES
        FS_OUT_POSITIVES
        FS_ARRAYS
        FS_HINGE_SHORT
    ctypedef struct fs_hinge:
        fs_type compute
        int p, largest
        double margin, scale
        fs_written written
        fs_type y_type
        fs_source source
        fs_type pos_type
        int pos_swapped
        ptrdiff_t outer, n, inner
        int by_columns
        char *array[8]
        ptrdiff_t step_n[8]
        ptrdiff_t step_inner[8]
        int n_outer
        ptrdiff_t *outer_shape
        ptrdiff_t outer_step[64][8]
        fs_watch watch
    ctypedef struct fs_hinge_part:
        pass
    ctypedef struct fs_hinge_kernels:
        double (*unit)(fs_hinge *, ptrdiff_t) noexcept nogil
        fs_hinge_part (*piece)(const fs_hinge *, ptrdiff_t, ptrdiff_t) noexcept nogil
        double (*finish)(const fs_hinge *, ptrdiff_t, fs_hinge_part) noexcept nogil
    ptrdiff_t fs_hinge_units(const fs_hinge *job)
    fs_hinge_part fs_hinge_nothing()
    fs_hinge_part fs_hinge_join(fs_hinge_part a, fs_hinge_part b)
