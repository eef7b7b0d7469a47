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

cdef double SECONDS_BETWEEN_POLLS = 0.05


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
    if fs_stopped(watch) or omp_get_thread_num() != 0:
        return fs_stopped(watch)
    cdef double now = fs_now()
    if 0 <= now - watch.polled_at < SECONDS_BETWEEN_POLLS:
        return 0
    watch.polled_at = now
    with gil:
        if PyErr_CheckSignals() < 0:
            fs_stop(watch)
    return fs_stopped(watch)


cdef int never(fs_watch *watch) noexcept nogil:
    return 0


cdef bint fills_the_cache(const fs_job *job) noexcept nogil:
    """Whether x and y, of the type that is computed in, leave little of it."""
    cdef ptrdiff_t elements = job.outer * job.n * job.inner
    return job.operand[FS_X].data != job.operand[FS_Y].data and (
        2 * elements * (8 if job.compute == FS_F32 else 16) > largest_cache
    )


cdef void begin_watch(fs_watch *watch, ptrdiff_t elements) noexcept:
    """A watch over so much work; little is not worth a question."""
    watch.stop = 0
    watch.poll = never
    if elements >= NOGIL_FROM:
        watch.poll = poll
        watch.polled_at = fs_now()


cdef int execute(fs_job *job) except -1:
    """Runs a complete job of at least one element."""
    cdef const fs_kernels *kernels = kernels_for(job.compute)
    cdef ptrdiff_t elements = job.outer * job.n * job.inner, units = 0, unit
    cdef fs_watch watch
    cdef int step = 0
    begin_watch(&watch, elements)
    job.watch = &watch
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
    if fs_stopped(&watch):
        raise_pending()
    return 0


cdef int raise_pending() except -1:
    return -1  # poll has left the exception set
