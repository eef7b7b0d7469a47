/* What _cpu.pyx asks of the process around it: did it fork, can it start threads, what
 * time is it. Included by _cpu.pyx alone.
 */
#ifndef FASTSOFTMAX_PROCESS_H
#define FASTSOFTMAX_PROCESS_H

#include <time.h>

#if !defined(_OPENMP)
enum { FS_WITH_OPENMP = 0 };
static inline int omp_get_max_threads(void)
{
    return 1;
}
static inline int omp_get_thread_num(void)
{
    return 0;
}
#else
#include <omp.h>
enum { FS_WITH_OPENMP = 1 };
#endif

/* Wall-clock seconds; a jump of the clock only moves the next look at the signals. */
static inline double fs_now(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#if defined(_WIN32)
static inline int fs_forked(void)
{
    return 0;
}
static inline void fs_watch_forks(void)
{
}
static inline int fs_can_start(int threads)
{
    (void)threads;
    return 1;
}
#else
#include <pthread.h>
#include <stdlib.h>

/* A child of fork inherits an OpenMP runtime that believes in threads which are gone:
 * its first parallel region would wait for them for ever. */
static volatile int fs_fork_seen;

static void fs_note_fork(void)
{
    fs_fork_seen = 1;
}
static inline int fs_forked(void)
{
    return fs_fork_seen;
}
static inline void fs_watch_forks(void)
{
    pthread_atfork(NULL, NULL, fs_note_fork);
}

static void *fs_wait_for(void *gate)
{
    pthread_mutex_lock((pthread_mutex_t *)gate);
    pthread_mutex_unlock((pthread_mutex_t *)gate);
    return NULL;
}

/* libgomp ends the process when it cannot create a thread. So the first region of every
 * calling thread, and any with more threads than the one before (libgomp lets go of
 * what a region does not use), is preceded by a trial: that many threads at once, some
 * 50 us. */
static inline int fs_can_start(int threads)
{
    static _Thread_local int team = 1;
    if (threads <= team) {
        team = threads > 1 ? threads : team;
        return 1;
    }
    pthread_t *trial = (pthread_t *)malloc((size_t)threads * sizeof *trial);
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int count = 1; /* the caller is the first */
    if (!trial)
        return 0;
    pthread_mutex_lock(&gate);
    while (count < threads && !pthread_create(&trial[count], NULL, fs_wait_for, &gate))
        count++;
    pthread_mutex_unlock(&gate);
    for (int i = 1; i < count; i++) pthread_join(trial[i], NULL);
    free(trial);
    if (count < threads)
        return 0;
    team = threads;
    return 1;
}
#endif

#endif
