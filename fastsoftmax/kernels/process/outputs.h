/* The memory of large results, which outlives them: the next one is written into what
 * an earlier one has left. Included by _cpu.pyx alone.
 *
 * Writing memory that is fresh from the kernel costs .25 ns for 4 bytes in huge pages
 * and 2 ns in 4 KiB pages, where softmax itself takes .2; memory used before costs
 * nothing.
 *
 * A. NumPy asks an array's own PyDataMem_Handler to free it (NEP 49), so that these
 *    arrays are like any others: they own their data, can be resized, are traced by
 *    tracemalloc.
 * B. The latest of what is kept stays as it is, hot, up to 64 MiB: to let the kernel
 *    take it costs .3 of a softmax of 1 MiB, .6 with two threads, .9 of one of 16 MiB
 *    with 16. A process that stops calling keeps it, as it keeps what malloc has not
 *    trimmed (glibc: up to 64 MiB, too): to give it back later takes a thread, a
 *    signal, or a hook in somebody else's code.
 * C. The rest of what is kept is the kernel's for the asking (MADV_FREE): it counts as
 *    available, and goes under pressure as cached files do. What was not taken is
 *    reused without a page fault. Until then it shows in the process's RSS, hence the
 *    cap.
 * D. No locks: a slot is a word, changed by one atomic exchange. So free may come from
 *    any thread, and a fork at any moment leaves nothing locked.
 * E. Memory shared with a child by fork is not kept: each first write to one of its
 *    pages copies 4 KiB, 8 times slower than fresh huge pages.
 * F. Nothing is kept where the address space is limited (RLIMIT_AS, RLIMIT_DATA): there
 *    others' allocations would fail for it.
 */
#ifndef FASTSOFTMAX_OUTPUTS_H
#define FASTSOFTMAX_OUTPUTS_H

#include <numpy/arrayobject.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(MADV_FREE) && defined(MADV_HUGEPAGE)
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

enum { FS_CAN_KEEP = 1 };

#define FS_HUGE ((size_t)1 << 21) /* data begins at a multiple of it */
#define FS_UNIT ((size_t)1 << 17) /* lengths are multiples of it: of any page size */
#define FS_COLD ((size_t)1 << 20) /* in a block: the kernel may take it */
enum { FS_SLOTS = 8 };
/* Each block is a mapping, of which the kernel grants a process 65530 in all. */
enum { FS_MOST_BLOCKS = 8192 };

/* In a unit of its own before the data. */
typedef struct {
    size_t bytes;   /* of the data */
    unsigned forks; /* of this process, before the data was last given out */
} fs_head;

/* A block is the address of its data plus its length in units, up to 2^19 of them, and
 * FS_COLD; 0 is none. */
typedef uintptr_t fs_block;

static _Atomic fs_block fs_kept[FS_SLOTS]; /* the latest first */
static _Atomic int fs_blocks;              /* in use or kept */
static _Atomic unsigned fs_forks;
static size_t fs_most; /* bytes kept at most */
static size_t fs_hot;  /* bytes of the latest blocks that stay as they are */

static inline fs_head *fs_head_of(void *data)
{
    return (fs_head *)((char *)data - FS_UNIT);
}

static inline char *fs_data(fs_block block)
{
    return (char *)(block & ~(fs_block)(FS_HUGE - 1));
}

static inline size_t fs_bytes(fs_block block)
{
    return (block & (FS_COLD - 1)) * FS_UNIT;
}

static void fs_unmap(void *data, size_t bytes)
{
    munmap(fs_head_of(data), FS_UNIT + bytes);
    atomic_fetch_sub(&fs_blocks, 1);
}

/* Huge pages fit between the head and the end: a last one could double the memory. */
static char *fs_map(size_t bytes)
{
    size_t all = FS_UNIT + bytes + FS_HUGE;
    if (atomic_load(&fs_blocks) >= FS_MOST_BLOCKS)
        return NULL;
    char *start = (char *)mmap(NULL, all, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == (char *)MAP_FAILED)
        return NULL;
    char *data = fs_data((fs_block)(start + FS_UNIT + FS_HUGE - 1));
    size_t before = (size_t)(data - FS_UNIT - start);
    if (before > 0)
        munmap(start, before);
    munmap(data + bytes, FS_HUGE - before); /* before < FS_HUGE */
    madvise(fs_head_of(data), FS_UNIT + bytes, MADV_HUGEPAGE);
    fs_head_of(data)->bytes = bytes;
    atomic_fetch_add(&fs_blocks, 1);
    return data;
}

static void fs_drop(int slot)
{
    fs_block block = atomic_exchange(&fs_kept[slot], 0);
    if (block)
        fs_unmap(fs_data(block), fs_bytes(block));
}

static void fs_drop_all(void)
{
    for (int slot = 0; slot < FS_SLOTS; slot++) fs_drop(slot);
}

static size_t fs_kept_bytes(void)
{
    size_t total = 0;
    for (int slot = 0; slot < FS_SLOTS; slot++)
        total += fs_bytes(atomic_load(&fs_kept[slot]));
    return total;
}

/* A kept block of that many bytes up to twice as many; what is not written of it stays
 * the kernel's. */
static char *fs_take(size_t bytes)
{
    for (int slot = 0; slot < FS_SLOTS; slot++) {
        fs_block block = atomic_load(&fs_kept[slot]);
        if (fs_bytes(block) >= bytes && fs_bytes(block) / 2 <= bytes &&
            atomic_compare_exchange_strong(&fs_kept[slot], &block, 0))
            return fs_data(block);
    }
    return NULL;
}

static int fs_address_space_is_limited(void)
{
    struct rlimit space, data;
    return getrlimit(RLIMIT_AS, &space) || space.rlim_cur != RLIM_INFINITY ||
           getrlimit(RLIMIT_DATA, &data) || data.rlim_cur != RLIM_INFINITY;
}

/* Lets the kernel take what is in a slot, if it may not yet. */
static void fs_cool(int slot)
{
    fs_block block = atomic_load(&fs_kept[slot]), none = 0;
    if (!block || block & FS_COLD)
        return;
    block = atomic_exchange(&fs_kept[slot], 0); /* ours alone; another one, or none */
    if (block &&
        (madvise(fs_data(block), fs_bytes(block), MADV_FREE) ||
         !atomic_compare_exchange_strong(&fs_kept[slot], &none, block | FS_COLD)))
        fs_unmap(fs_data(block), fs_bytes(block));
}

/* Puts a block first; the others move on by one, cool down, and go, the oldest first.
 */
static void fs_keep(fs_block block)
{
    size_t total = 0;
    for (int slot = 0; slot < FS_SLOTS && block; slot++)
        block = atomic_exchange(&fs_kept[slot], block);
    if (block)
        fs_unmap(fs_data(block), fs_bytes(block));
    for (int slot = 0; slot < FS_SLOTS; slot++) {
        total += fs_bytes(atomic_load(&fs_kept[slot]));
        if (total > fs_most)
            fs_drop(slot);
        else if (total > fs_hot)
            fs_cool(slot);
    }
}

/* ---- what NumPy calls ---- */

static void *fs_malloc(void *context, size_t size)
{
    (void)context;
    if (size > SIZE_MAX / 2)
        return NULL;
    size_t bytes = (size + FS_UNIT - 1) & ~(FS_UNIT - 1);
    char *data = fs_take(bytes);
    if (!data)
        data = fs_map(bytes);
    if (!data) {
        fs_drop_all();
        data = fs_map(bytes);
    }
    if (data)
        fs_head_of(data)->forks = atomic_load(&fs_forks);
    return data;
}

static void *fs_calloc(void *context, size_t count, size_t size)
{
    if (size && count > SIZE_MAX / size)
        return NULL;
    void *data = fs_malloc(context, count * size);
    return data ? memset(data, 0, count * size) : NULL;
}

static void fs_free(void *context, void *data, size_t size)
{
    (void)context, (void)size;
    if (!data)
        return;
    fs_head head = *fs_head_of(data);
    if (head.bytes > fs_most || head.forks != atomic_load(&fs_forks) ||
        fs_address_space_is_limited())
        fs_unmap(data, head.bytes);
    else
        fs_keep((fs_block)data | head.bytes / FS_UNIT);
}

static void *fs_realloc(void *context, void *data, size_t size)
{
    if (!data)
        return fs_malloc(context, size);
    size_t bytes = (size + FS_UNIT - 1) & ~(FS_UNIT - 1), had = fs_head_of(data)->bytes;
    if (size <= had) {
        if (bytes < had && !munmap((char *)data + bytes, had - bytes))
            fs_head_of(data)->bytes = bytes;
        return data;
    }
    void *moved = fs_malloc(context, size);
    if (moved) {
        memcpy(moved, data, had);
        fs_free(context, data, had);
    }
    return moved;
}

static PyDataMem_Handler fs_handler = {
    "fastsoftmax", 1, {NULL, fs_malloc, fs_calloc, fs_realloc, fs_free}};

static void fs_before_fork(void)
{
    atomic_fetch_add(&fs_forks, 1);
    fs_drop_all();
}

static void fs_keep_at_most(size_t bytes, size_t hot)
{
    fs_most = bytes;
    fs_hot = hot;
    pthread_atfork(fs_before_fork, NULL, NULL);
}

#else
enum { FS_CAN_KEEP = 0 };
static PyDataMem_Handler fs_handler;
static size_t fs_kept_bytes(void)
{
    return 0;
}
static void fs_keep_at_most(size_t bytes, size_t hot)
{
    (void)bytes, (void)hot;
}
#endif

/* Whether a handler is NumPy's own. */
static inline int fs_is_default(PyObject *handler)
{
    return handler == PyDataMem_DefaultHandler;
}

#endif
