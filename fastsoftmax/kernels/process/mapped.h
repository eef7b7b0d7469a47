/* A mapped file that another process cuts short: whoever reads on gets SIGBUS, which
 * ends a process. For programs of our own, which ask for it, zeros take the place of
 * the lost page instead, and whoever works on the file asks whether any were lost.
 */
#ifndef FASTSOFTMAX_MAPPED_H
#define FASTSOFTMAX_MAPPED_H

#ifdef _WIN32 /* where a mapped file cannot be cut */

static inline int fs_replace_lost_pages(int from_now_on)
{
    (void)from_now_on;
    return 0;
}
static inline long fs_lost_pages(void)
{
    return 0;
}

#else

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_long fs_lost;
static uintptr_t fs_page;
static struct sigaction fs_bus_before;

static void fs_replace_page(int number, siginfo_t *fault, void *context)
{
    (void)context;
    void *page = (void *)((uintptr_t)fault->si_addr / fs_page * fs_page);
    /* POSIX has no mapping without a file, but every system here does. */
    if (fault->si_code == BUS_ADRERR &&
        mmap(page, fs_page, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == page)
        atomic_fetch_add(&fs_lost, 1);
    else
        signal(number, SIG_DFL); /* on return the fault comes again, and ends it */
}

/* In this process, until it is called with 0: then SIGBUS does what it did before.
 * Returns 0, or -1 with errno. */
static inline int fs_replace_lost_pages(int from_now_on)
{
    struct sigaction action = {0};
    if (!from_now_on)
        return sigaction(SIGBUS, &fs_bus_before, NULL);
    fs_page = (uintptr_t)sysconf(_SC_PAGESIZE);
    action.sa_sigaction = fs_replace_page;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &fs_bus_before);
}

static inline long fs_lost_pages(void)
{
    return atomic_load(&fs_lost);
}

#endif
#endif
