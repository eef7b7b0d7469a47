/* Memory that ends where a page begins which must not be touched. Needs
 * -D_DEFAULT_SOURCE. */
#ifndef GUARDED_H
#define GUARDED_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static inline size_t whole_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

/* qemu 7.2 reads all of what vmaskmovps reads in part: UNGUARDED leaves it room. */
static inline size_t room(void)
{
    return getenv("UNGUARDED") ? 64 : 0;
}

static inline char *guarded(size_t bytes)
{
    size_t used = whole_pages(bytes + room()), guard = whole_pages(1);
    char *start = mmap(NULL, used + guard, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + used, guard, PROT_NONE)) {
        perror("guarded memory");
        exit(2);
    }
    return start + used - room() - bytes;
}

static inline void release(char *memory, size_t bytes)
{
    size_t used = whole_pages(bytes + room());
    munmap(memory + bytes + room() - used, used + whole_pages(1));
}

#endif
