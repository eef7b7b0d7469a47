/* Which processor a member of a team works on. Included by _cpu.pyx alone.
 *
 * Where the others have slept for long, Linux in a virtual machine wakes a worker on
 * the caller's processor and leaves it there: every shared job waits some 200 us for
 * it. One that finds itself there moves, once, and stays where it came (64 x 1000
 * float32: 13 us after that; one thread takes 18; two cores of Zen 4).
 * In a service of systemd that filters system calls none is made that its filter may
 * punish by death (~@resources does).
 */
#ifndef FASTSOFTMAX_PLACE_H
#define FASTSOFTMAX_PLACE_H

#if defined(__linux__)
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "watch.h"

static int fs_in_a_service;

/* Once, at import. */
static inline void fs_prepare_places(void)
{
    fs_in_a_service = getenv("INVOCATION_ID") != NULL;
}

static inline int fs_processor(void)
{
    return sched_getcpu();
}

/* Moves the thread that calls away from its caller's processor, if it is there and may
 * work on as many as the team has threads. It may work on the same ones afterwards: on
 * all, by its own wish, of a set of processors that the system may change. */
static inline void fs_move_from(int processor, int threads)
{
    static fs_flag refused;
    cpu_set_t allowed, others;
    if (FS_RAISED(&refused) || processor < 0 || sched_getcpu() != processor ||
        (fs_in_a_service && prctl(PR_GET_SECCOMP) > 0) ||
        sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < threads)
        return;
    others = allowed;
    CPU_CLR(processor, &others);
    if (sched_setaffinity(0, sizeof others, &others)) {
        FS_RAISE(&refused);
        return;
    }
    memset(&others, 0xff, sizeof others);
    if (sched_setaffinity(0, sizeof others, &others) ||
        sched_getaffinity(0, sizeof others, &others) || !CPU_EQUAL(&others, &allowed))
        sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static inline void fs_prepare_places(void)
{
}
static inline int fs_processor(void)
{
    return 0;
}
static inline void fs_move_from(int processor, int threads)
{
    (void)processor;
    (void)threads;
}
#endif

#endif
