/* The threads that work on a calling thread's jobs. Included by _cpu.pyx alone.
 *
 * libgomp keeps a team of workers for every thread that enters parallel regions, makes
 * those that are missing when a region begins, and ends the process when it cannot.
 * Therefore:
 * A. A region is only entered by a thread whose workers are all there. Each member of a
 *    team holds it, and lets go of it when it ends: a count of those that are left. So
 *    it is noticed when a smaller region, ours or another library's, has ended some.
 * B. What is missing is made in a trial first: so many threads at once, with stacks of
 *    libgomp's size, some 50 us. If it fails the job stays in one thread. If not, an
 *    empty region makes the workers. A lock from the trial to the end of that region
 *    keeps our other threads from taking what the trial has found.
 * C. What remains: another library's smaller region in the same thread, less than a
 *    wake-up before ours, where its workers have not ended yet and no more threads can
 *    be had; and someone else who takes the last threads during B. libgomp has no way
 *    to ask.
 * D. Inside somebody's parallel region a job stays in its thread: libgomp would make
 *    and end the workers of a nested region every time.
 */
#ifndef FASTSOFTMAX_TEAM_H
#define FASTSOFTMAX_TEAM_H

#if !defined(_OPENMP)
enum { FS_WITH_OPENMP = 0 };
static inline int omp_get_max_threads(void)
{
    return 1;
}
static inline void omp_set_num_threads(int limit)
{
    (void)limit;
}
static inline int omp_get_thread_num(void)
{
    return 0;
}
static inline double omp_get_wtime(void)
{
    return 0;
}
#else
#include <omp.h>
enum { FS_WITH_OPENMP = 1 };
#endif

#if !defined(_OPENMP) || defined(_WIN32)
static inline void fs_prepare_teams(size_t stack)
{
    (void)stack;
}
static inline int fs_can_start(int threads)
{
    (void)threads;
    return FS_WITH_OPENMP;
}
/* The library that OpenMP's calls reach; "" without one. */
static inline const char *fs_openmp_runtime(void)
{
    return FS_WITH_OPENMP ? "the compiler's" : "";
}
#else
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

typedef struct {
    _Atomic int members; /* alive, the caller included */
    int asked, got;      /* threads of the last region: OpenMP may grant fewer */
} fs_team;

static pthread_key_t fs_team_of_thread;
static int fs_has_key;
static size_t fs_stack; /* bytes of a worker's; 0: as the system has it */
static pthread_mutex_t fs_team_lock = PTHREAD_MUTEX_INITIALIZER;

static void fs_leave_team(void *team)
{
    if (atomic_fetch_sub(&((fs_team *)team)->members, 1) == 1)
        free(team);
}

static inline const char *fs_openmp_runtime(void)
{
    Dl_info found;
    return dladdr((void *)omp_get_max_threads, &found) ? found.dli_fname : "unknown";
}

/* Once, at import. */
static inline void fs_prepare_teams(size_t stack)
{
    fs_stack = stack;
    fs_has_key = !pthread_key_create(&fs_team_of_thread, fs_leave_team);
}

/* 0 where there is no memory to remember it: then nobody will know when it ends. */
static int fs_join_team(fs_team *team)
{
    fs_team *before = (fs_team *)pthread_getspecific(fs_team_of_thread);
    if (before == team)
        return 1;
    if (pthread_setspecific(fs_team_of_thread, team))
        return 0;
    atomic_fetch_add(&team->members, 1);
    if (before)
        fs_leave_team(before);
    return 1;
}

static fs_team *fs_own_team(void)
{
    fs_team *team = (fs_team *)pthread_getspecific(fs_team_of_thread);
    if (team || !(team = (fs_team *)malloc(sizeof *team)))
        return team;
    atomic_init(&team->members, 0);
    team->asked = team->got = 1;
    if (fs_join_team(team))
        return team;
    free(team);
    return NULL;
}

typedef struct {
    pthread_t thread;
    pthread_mutex_t *gate;
    long id; /* the kernel's */
} fs_trial;

static void *fs_wait_at_gate(void *trial)
{
    fs_trial *own = (fs_trial *)trial;
#if defined(__linux__)
    own->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(own->gate);
    pthread_mutex_unlock(own->gate);
    return NULL;
}

/* Waits until a thread has ended and the kernel no longer counts it, some us later (on
 * a busy machine a thread made at once failed 30 times in 100000). */
static void fs_see_off(fs_trial *trial)
{
    pthread_join(trial->thread, NULL);
#if defined(__linux__)
    for (int i = 0; i < 10000 && !syscall(SYS_tgkill, getpid(), trial->id, 0); i++)
        sched_yield();
#endif
}

static int fs_try_threads(int count)
{
    fs_trial *trial = (fs_trial *)malloc((size_t)count * sizeof *trial);
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t stack;
    int made = 0;
    if (!trial)
        return 0;
    pthread_attr_init(&stack);
    if (fs_stack)
        pthread_attr_setstacksize(&stack,
                                  fs_stack); /* libgomp, too, ignores a bad one */
    pthread_mutex_lock(&gate);
    for (; made < count; made++) {
        trial[made].gate = &gate;
        if (pthread_create(&trial[made].thread, &stack, fs_wait_at_gate, &trial[made]))
            break;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < made; i++) fs_see_off(&trial[i]);
    pthread_attr_destroy(&stack);
    free(trial);
    return made == count;
}

static int fs_make_team(fs_team *team, int threads, int missing)
{
    int known = 0;
    pthread_mutex_lock(&fs_team_lock);
    if (fs_try_threads(missing)) {
        known = 1;
#pragma omp parallel num_threads(threads) reduction(&& : known)
        {
            known = fs_join_team(team);
#pragma omp master
            team->got = omp_get_num_threads();
        }
    }
    pthread_mutex_unlock(&fs_team_lock);
    return known;
}

/* Whether a region of that many threads, two or more, can be entered now. */
static inline int fs_can_start(int threads)
{
    fs_team *team = fs_has_key && !omp_in_parallel() ? fs_own_team() : NULL;
    if (!team)
        return 0;
    int members = atomic_load(&team->members);
    int there = members < team->got ? members : team->got; /* others are about to end */
    int needed = threads > team->asked || threads < team->got ? threads : team->got;
    if (there < needed) {
        if (!fs_make_team(team, threads, needed - there))
            return 0;
    } else {
        team->got = needed;
    }
    team->asked = threads;
    return 1;
}
#endif

#endif
