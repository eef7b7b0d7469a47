/* Whether a job is worth its team's time. Included by _cpu.pyx alone.
 *
 * A team takes its part of the time that one thread would take, and then some: its
 * cost. Where it has just worked, and spins, that is a few us. Where it sleeps it must
 * be woken: 20 to 300 us on an idle machine, milliseconds where other processes hold
 * the cores. So the cost is measured in every shared job, and believed until the next.
 * A. A job is shared if that saves more than the cost, and half as much again.
 * B. The time of the jobs that were not is saved up: an eighth of it in a burst,
 *    through which the team would stay awake, else a 64th. What was saved up is added
 *    to what a job saves: so a burst wakes the team, a wrong belief is put to the test,
 *    and what is lost in vain is small beside the time since the last test.
 */
#ifndef FASTSOFTMAX_WAKE_H
#define FASTSOFTMAX_WAKE_H

#include "team.h"

/* Seconds. A team spins for 50 us on Zen 4, 30 on a Xeon of 16 cores, where it comes in
 * .6 to 3 us, and in 9 to 23 after 40 to 100 us (_threads.short_spins). */
#define FS_SPINS 30e-6
/* As long may a scheduler let a woken thread wait: a job that saves half as much again
 * is always shared. */
#define FS_DEAREST 4e-3

enum { FS_ASLEEP, FS_AWAKE };

/* What a calling thread knows of its team; times are in seconds. */
typedef struct {
    double pace;     /* of one thread alone: time by element */
    double cost[2];  /* of a team asleep, awake */
    double last;     /* of the last job, if its team was awake */
    double saved_up; /* by B */
    double ended;    /* when the last job did, */
    int shared;      /* and whether it was */
    double began;    /* when the one that runs did, */
    int state;       /* and its team's state then */
    /* how many threads it may have; when, and by which settings, that was looked up */
    int threads, openmp_limit, setting;
    double looked_up;
} fs_wake;

/* Until something is measured: .3 ns an element, 100 us to make a team. */
#define FS_STRANGERS {.pace = .3e-9, .cost = {100e-6, 0}, .ended = -1, .looked_up = -1}

static inline fs_wake *fs_own_wake(void)
{
    static fs_wake own = FS_STRANGERS;
#if defined(_OPENMP)
#pragma omp threadprivate(own)
#endif
    return &own;
}

static inline int fs_is_worth_a_team(fs_wake *own, double elements, double now)
{
    double saves = elements * own->pace * (1 - 1. / own->threads);
    int awake = own->shared && now - own->ended < FS_SPINS;
    double least = 1.5 * own->cost[awake ? FS_AWAKE : FS_ASLEEP];
    int is_worth = saves + own->saved_up > least;
    own->state = awake ? FS_AWAKE : FS_ASLEEP;
    if (is_worth)
        own->saved_up = 0;
    else if (awake) /* it was woken in vain */
        own->saved_up = -least;
    return is_worth;
}

/* Of a job by so many threads that began at own->began. */
static inline void fs_learn(fs_wake *own, double elements, int threads, double now)
{
    double took = now > own->began ? now - own->began : 0; /* the clock may be set */
    double alone = elements * own->pace, cost = took - alone / threads;
    int in_a_burst = own->began - own->ended < FS_SPINS;
    int is_first = own->ended < 0; /* its memory is fresh: that says nothing */
    own->ended = now;
    own->shared = threads > 1;
    if (!own->shared) {
        own->saved_up += took / (in_a_burst ? 8 : 64);
        /* An interruption is no pace. */
        own->pace += (cost < alone ? cost : alone) / elements / 2;
    } else if (own->state == FS_AWAKE) { /* Nor a cost, unless there are two. */
        own->cost[FS_AWAKE] = cost < own->last ? cost : own->last;
        own->last = cost;
    } else {
        own->cost[FS_AWAKE] = own->last = 0;
        cost = cost < FS_DEAREST ? cost : FS_DEAREST;
        if (!is_first)
            own->cost[FS_ASLEEP] += (cost - own->cost[FS_ASLEEP]) / 2;
    }
}

#endif
