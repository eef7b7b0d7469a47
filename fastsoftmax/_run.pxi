"""Runs a job: how many threads, in what order, and when to stop. Included by _cpu.pyx.
"""

# Elements from which a job may be shared between threads: some 8 us of work, of which
# a team that is awake costs 3. kernels/process/wake.h decides which jobs are.
cdef enum:
    PARALLEL_FROM = 32768
# Elements from which the GIL is given back: below, that costs more than the work.
cdef enum:
    NOGIL_FROM = 4096

cdef ptrdiff_t largest_cache = _caches.largest()


def openmp_limit():
    """Threads that OpenMP itself would use now (1 without OpenMP)."""
    return omp_get_max_threads()


def current_threads():
    """Threads that a large job would use now."""
    if not FS_WITH_OPENMP or fs_forked():
        return 1
    return _threads.count(omp_get_max_threads())


cdef fs_flag setting = 0
cdef bint shares_always = False


def set_openmp_limit(int limit):
    """Sets the threads that OpenMP itself would use, in the thread that calls.

    What was looked up before is forgotten.
    """
    omp_set_num_threads(limit)
    FS_COUNT(&setting)


def share_always(bint yes):
    """For tests: every job that is large enough is shared, whether it pays or not."""
    global shares_always
    shares_always = yes


# Seconds for which the number of threads is remembered: to look it up takes 1 us.
cdef double REMEMBERED = 1e-3


cdef int threads_for(fs_wake *own, ptrdiff_t elements) except -1:
    cdef double now = omp_get_wtime()
    cdef int limit = omp_get_max_threads(), now_set = FS_RAISED(&setting)
    if (now - own.looked_up > REMEMBERED or limit != own.openmp_limit
            or now_set != own.setting or fs_forked()):
        own.threads = current_threads()
        own.looked_up, own.openmp_limit, own.setting = now, limit, now_set
    if own.threads == 1:
        return 1
    if not fs_is_worth_a_team(own, elements, now) and not shares_always:
        return 1
    return own.threads if fs_can_start(own.threads) else 1


cdef fs_watch *watch_over(ptrdiff_t elements, fs_listener *listener) noexcept:
    """What stops so much work, if anything: little is not worth a question."""
    return fs_unwatched() if elements < NOGIL_FROM else fs_listen(listener)


cdef double take_units(const fs_kernels *kernels, fs_job *job, int step,
                       fs_shares *shares, int member, int processor) noexcept nogil:
    """What one member of a team does of a step. Returns how long it worked."""
    cdef double began = omp_get_wtime()
    if omp_get_thread_num():
        fs_move_from(processor, job.threads)
    cdef ptrdiff_t unit = fs_take_unit(shares, member)
    while unit >= 0:
        if not fs_poll(job.watch):
            kernels.unit(job, step, unit)
        unit = fs_take_unit(shares, member)
    return omp_get_wtime() - began


cdef int execute(fs_job *job) except -1:
    """Runs a complete job of at least one element."""
    cdef const fs_kernels *kernels = kernels_for(job.compute)
    cdef ptrdiff_t elements = job.outer * job.n * job.inner, units = 0
    cdef fs_listener listener
    cdef fs_wake *own = NULL
    cdef fs_shares shares
    cdef int step = 0, member, processor
    cdef double worked = 0
    job.watch = watch_over(elements, &listener)
    job.threads = 1
    job.cache = largest_cache
    if elements < NOGIL_FROM:
        units = fs_run(kernels, job)
    else:
        if FS_WITH_OPENMP and elements >= PARALLEL_FROM:
            own = fs_own_wake()
            job.threads = threads_for(own, elements)
            own.began = omp_get_wtime()
        with nogil:
            if job.threads == 1:
                units = fs_run(kernels, job)
            else:
                while True:
                    units = kernels.begin(job, step)
                    if units <= 0:
                        break
                    fs_share_out(&shares, units, job.threads)
                    processor = fs_processor()
                    for member in prange(job.threads, num_threads=job.threads,
                                         schedule="static"):
                        worked += take_units(kernels, job, step, &shares, member,
                                             processor)
                    step += 1
            if own:
                fs_learn(own, elements, job.threads, worked, omp_get_wtime())
    if units < 0:
        raise MemoryError("no memory for the partial results of a job")
    if fs_stopped(job.watch):
        raise_pending()
    return 0


cdef int raise_pending() except -1:
    return -1  # asking Python has left the exception set
