/* Whether a job is worth its team's time. Included by _cpu.pyx alone.
 *
 * A team takes its part of the time that one thread would take, and then some: its
 * cost, for which its members wait. Where it has just worked, and spins, that is a few
 * us. Where it sleeps it must be woken: 20 to 300 us on an idle machine, milliseconds
 * where other processes hold the cores. So how long members wait, in the mean, is
 * measured in every shared job; the lesser of the last two is believed: one of them may
 * have been interrupted. (What memory holds up works, and does not wait.)
 * A. A job is shared if that saves more than the cost, and half as much again.
 * B. There is an account, of time. It gets what shared jobs have saved, and a 32nd of
 *    what the others took (a 16th in a burst); what shared jobs have lost against all
 *    expectation goes.
 *    It is added to what a job saves; of what decides by that, half is spent. So a
 *    burst wakes the team, a wrong belief is put to the test, at once where sharing
 *    has paid; and where it keeps losing that ends, whatever a cost may be.
 * C. What it may owe is little at first, so that one very bad job is soon forgotten,
 *    twice as much whenever more is lost, and less by what is saved.
 */
#ifndef FASTSOFTMAX_WAKE_H
#define FASTSOFTMAX_WAKE_H

#include <math.h>

#include "team.h"

/* Seconds. A team spins for 50 us on Zen 4, 30 on a Xeon of 16 cores, where it comes in
 * .6 to 3 us, and in 9 to 23 after 40 to 100 us (_threads.short_spins). */
#define FS_SPINS 30e-6
/* As long may a scheduler let a woken thread wait: a job that saves half as much again
 * is always shared. The account holds or owes twice as much at most. */
#define FS_DEAREST 4e-3
#define FS_OWED_AT_FIRST 500e-6 /* by one very bad job: 8 ms of a burst */

enum { FS_ASLEEP, FS_AWAKE };

/* What a calling thread knows of its team; times are in seconds. */
typedef struct {
    double pace;    /* of one thread alone: time by element */
    double cost[2]; /* of a team asleep, awake */
    double last[2]; /* as it was measured last */
    double account; /* by B */
    double may_owe; /* and what it may owe, by C */
    double ended;   /* when the last job did, */
    int shared;     /* and whether it was */
    double began;   /* when the one that runs did, */
    int state;      /* and its team's state then */
    /* how many threads it may have; when, and by which settings, that was looked up */
    int threads, openmp_limit, setting;
    double looked_up;
} fs_wake;

static inline fs_wake *fs_own_wake(void)
{
    /* At first: .3 ns an element, 100 us to wake a team. */
    static fs_wake own = {.pace = .3e-9,
                          .cost = {100e-6, 0},
                          .last = {100e-6, 0},
                          .may_owe = FS_OWED_AT_FIRST,
                          .ended = -1,
                          .looked_up = -1};
#if defined(_OPENMP)
#pragma omp threadprivate(own)
#endif
    return &own;
}

static inline int fs_is_worth_a_team(fs_wake *own, double elements, double now)
{
    double saves = elements * own->pace * (1 - 1. / own->threads);
    own->state = own->shared && now - own->ended < FS_SPINS ? FS_AWAKE : FS_ASLEEP;
    double least = 1.5 * own->cost[own->state];
    if (saves + own->account <= least)
        return 0;
    if (saves <= least)
        own->account -= fmax(least - saves, own->account / 2);
    return 1;
}

/* A shared job teaches what it cost, and adds to the account or takes from it. */
static inline void fs_learn_cost(fs_wake *own, double alone, int threads, double took,
                                 double worked)
{
    double *cost = &own->cost[own->state], *last = &own->last[own->state];
    double part = alone / threads, waited = took - worked / threads;
    /* One that was put aside counts as working; the others have waited for it. */
    double in_vain = (waited - *cost) * threads / (threads - 1);
    double lost = fmin(in_vain, took - 2 * fmax(alone, part + *cost));
    if (took < alone) {
        own->account += alone - took;
        own->may_owe = fmax(FS_OWED_AT_FIRST, own->may_owe - (alone - took) / 8);
    } else {
        own->account -= fmax(0, lost);
    }
    if (own->account < -own->may_owe) {
        own->account = -own->may_owe;
        own->may_owe = fmin(2 * own->may_owe, 2 * FS_DEAREST);
    }
    waited = fmin(waited, FS_DEAREST);
    *cost = fmin(waited, *last);
    *last = waited;
    if (own->state == FS_ASLEEP) /* a busy neighbour may have gone */
        own->cost[FS_AWAKE] = own->last[FS_AWAKE] = 0;
}

/* Of a job by so many threads that began at own->began: they have worked so long, all
 * together. */
static inline void fs_learn(fs_wake *own, double elements, int threads, double worked,
                            double now)
{
    double took = fmax(0, now - own->began); /* the clock may be set */
    double alone = elements * own->pace;
    int in_a_burst = own->began - own->ended < FS_SPINS;
    own->ended = now;
    own->shared = threads > 1;
    if (own->shared) {
        fs_learn_cost(own, alone, threads, took, worked);
    } else {
        took = fmin(took, 2 * alone); /* it may have been interrupted */
        own->account += took / (in_a_burst ? 16 : 32);
        own->pace += (took - alone) / elements / 2;
    }
    own->account = fmin(own->account, 2 * FS_DEAREST);
}

#endif
