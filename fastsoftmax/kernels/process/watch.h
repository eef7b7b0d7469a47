/* What tells a running job to stop; shared by all threads that work on it. */
#ifndef FASTSOFTMAX_WATCH_H
#define FASTSOFTMAX_WATCH_H

/* A flag that any thread may raise and read while others do: relaxed atomics. Or a
 * number that each of them counts up, and has as it is then. */
#if defined(_MSC_VER)
#include <intrin.h>
typedef volatile long fs_flag;
#define FS_RAISED(flag) (*(flag))
#define FS_RAISE(flag) (*(flag) = 1)
#define FS_COUNT(flag) (_InterlockedIncrement(flag))
#else
typedef int fs_flag;
#define FS_RAISED(flag) __atomic_load_n(flag, __ATOMIC_RELAXED)
#define FS_RAISE(flag) __atomic_store_n(flag, 1, __ATOMIC_RELAXED)
#define FS_COUNT(flag) __atomic_add_fetch(flag, 1, __ATOMIC_RELAXED)
#endif

typedef struct fs_watch {
    int (*poll)(struct fs_watch *watch); /* nonzero: abandon the job, at once */
    fs_flag stop;                        /* raised by poll */
} fs_watch;

static inline int fs_poll(fs_watch *watch)
{
    return watch->poll(watch);
}

static inline int fs_stopped(fs_watch *watch)
{
    return FS_RAISED(&watch->stop) != 0;
}

static inline void fs_stop(fs_watch *watch)
{
    FS_RAISE(&watch->stop);
}

static inline int fs_never(fs_watch *watch)
{
    (void)watch;
    return 0;
}

/* For jobs that nobody stops. */
static inline fs_watch *fs_unwatched(void)
{
    static fs_watch watch = {fs_never, 0};
    return &watch;
}

#endif
