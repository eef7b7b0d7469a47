"""The C side, as cpu.pyx sees it: kernels/*.h say what each name means."""

from libc.stddef cimport ptrdiff_t


cdef extern from "numpy/arrayobject.h":
    object PyDataMem_SetHandler(object handler)
    object PyDataMem_GetHandler()


cdef extern from "kernels/process/process.h" nogil:
    int fs_forked()
    void fs_watch_forks()


cdef extern from "kernels/process/team.h" nogil:
    enum:
        FS_WITH_OPENMP
    int omp_get_max_threads()
    void omp_set_num_threads(int limit)
    int omp_get_thread_num()
    double omp_get_wtime()
    const char *fs_openmp_runtime()
    void fs_prepare_teams(size_t stack)
    int fs_can_start(int threads)


cdef extern from "kernels/process/wake.h" nogil:
    ctypedef struct fs_wake:
        double began
        int threads, openmp_limit, setting
        double looked_up
    fs_wake *fs_own_wake()
    int fs_is_worth_a_team(fs_wake *own, double elements, double now)
    void fs_learn(fs_wake *own, double elements, int threads, double worked, double now)


cdef extern from "kernels/process/place.h" nogil:
    void fs_prepare_places()
    int fs_processor()
    void fs_move_from(int processor, int threads)


cdef extern from "kernels/process/shares.h" nogil:
    ctypedef struct fs_shares:
        pass
    void fs_share_out(fs_shares *all, ptrdiff_t units, int threads)
    ptrdiff_t fs_take_unit(fs_shares *all, int member)


cdef extern from "kernels/process/outputs.h":
    enum:
        FS_CAN_KEEP
    ctypedef struct PyDataMem_Handler:
        pass
    PyDataMem_Handler fs_handler
    int fs_is_default(object handler)
    size_t fs_kept_bytes()
    void fs_keep_at_most(size_t bytes, size_t hot)


cdef extern from "kernels/process/mapped.h":
    int fs_replace_lost_pages(int from_now_on)
    long fs_lost_pages()


cdef extern from "kernels/process/watch.h" nogil:
    ctypedef int fs_flag
    int FS_RAISED(fs_flag *flag)
    int FS_COUNT(fs_flag *flag)
    ctypedef struct fs_watch:
        pass
    int fs_stopped(fs_watch *watch)
    int fs_poll(fs_watch *watch)
    fs_watch *fs_unwatched()


cdef extern from "kernels/process/signals.h":
    ctypedef struct fs_listener:
        pass
    fs_watch *fs_listen(fs_listener *listener)


cdef extern from "kernels/job.h" nogil:
    ctypedef enum fs_op:
        FS_SOFTMAX
        FS_LOG_SOFTMAX
        FS_LOGSUMEXP
        FS_SOFTMAX_VJP
        FS_LOG_SOFTMAX_VJP
        FS_HINGE
        FS_WEIGHTED
        FS_CROSS_ENTROPY
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
        FS_X
        FS_MASK
        FS_Y
        FS_DY
        FS_POSITIVES
        FS_LABELS
        FS_WEIGHTS
        FS_LOSSES
        FS_Y_POSITIVES
        FS_SIGNS
        FS_OPERANDS
        FS_MAX_OUTER
    ctypedef struct fs_operand:
        char *data
        fs_type type
        int swapped, direct
        ptrdiff_t n, inner
        double temperature
        int via_float
        fs_flag *overflow
    ctypedef enum fs_written:
        FS_NOTHING
        FS_GRADIENT
        FS_PAIRS
    ctypedef struct fs_job:
        fs_op op
        fs_type compute
        fs_operand operand[10]
        ptrdiff_t outer, n, inner
        int n_outer
        ptrdiff_t outer_shape[64]
        ptrdiff_t outer_step[64][10]
        ptrdiff_t run
        int n_runs
        double divisor
        int p, largest
        double margin, scale, smoothing
        fs_written written
        ptrdiff_t cache
        int threads
        fs_watch *watch
        double total
        fs_flag overflow
    ctypedef struct fs_kernels:
        ptrdiff_t (*begin)(fs_job *job, int step) noexcept nogil
        void (*unit)(fs_job *job, int step, ptrdiff_t unit) noexcept nogil
    ctypedef struct fs_table:
        const char *isa
        const fs_kernels *f32
        const fs_kernels *f64
    int fs_supported(const fs_table **tables, int most)
    int fs_run(const fs_kernels *kernels, fs_job *job)
    ptrdiff_t fs_size_of(fs_type type)


cdef extern from "kernels/ops/hinge_part.h" nogil:
    double fs_loss_count(const fs_job *job)
