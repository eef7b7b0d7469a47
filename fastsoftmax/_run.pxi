"""Runs a job: how many threads, in what order, and when to stop. Included by _cpu.pyx.
"""

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


cdef bint fills_the_cache(const fs_job *job) noexcept nogil:
    """Whether x and y, of the type that is computed in, leave little of it."""
    cdef ptrdiff_t elements = job.outer * job.n * job.inner
    return job.operand[FS_X].data != job.operand[FS_Y].data and (
        2 * elements * (8 if job.compute == FS_F32 else 16) > largest_cache
    )


cdef fs_watch *watch_over(ptrdiff_t elements, fs_listener *listener) noexcept:
    """What stops so much work, if anything: little is not worth a question."""
    return fs_unwatched() if elements < NOGIL_FROM else fs_listen(listener)


cdef int execute(fs_job *job) except -1:
    """Runs a complete job of at least one element."""
    cdef const fs_kernels *kernels = kernels_for(job.compute)
    cdef ptrdiff_t elements = job.outer * job.n * job.inner, units = 0, unit
    cdef fs_listener listener
    cdef int step = 0
    job.watch = watch_over(elements, &listener)
    job.threads = 1
    job.past_caches = 0
    if elements < NOGIL_FROM:
        units = fs_run(kernels, job)
    else:
        job.threads = threads_for(elements)
        job.past_caches = fills_the_cache(job)
        with nogil:
            if job.threads == 1:
                units = fs_run(kernels, job)
            else:
                while True:
                    units = kernels.begin(job, step)
                    if units <= 0:
                        break
                    for unit in prange(units, num_threads=job.threads,
                                       schedule="dynamic"):
                        if not fs_poll(job.watch):
                            kernels.unit(job, step, unit)
                    step += 1
    if units < 0:
        raise MemoryError("no memory for the partial results of a job")
    if fs_stopped(job.watch):
        raise_pending()
    return 0


cdef int raise_pending() except -1:
    return -1  # asking Python has left the exception set
