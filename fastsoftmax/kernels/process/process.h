/* What _cpu.pyx asks of the process around it: did it fork, what time is it. Included
 * by _cpu.pyx alone.
 */
#ifndef FASTSOFTMAX_PROCESS_H
#define FASTSOFTMAX_PROCESS_H

#include <time.h>

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
#else
#include <pthread.h>

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
#endif

#endif
