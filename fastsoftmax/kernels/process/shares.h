/* Which thread takes which units. Included by _cpu.pyx alone.
 *
 * Each member of a team begins with a share of its own, the same in every job of that
 * size: what is in its core's cache is what it takes. Then it takes what others have
 * left: a busy core delays one unit, not a share. (64 to 256 rows of 1000 float32, over
 * and over, take 0.7 to 0.8 times as long as with schedule="dynamic".)
 */
#ifndef FASTSOFTMAX_SHARES_H
#define FASTSOFTMAX_SHARES_H

#include <stddef.h>

#include "watch.h"

enum { FS_MOST_SHARES = 64 }; /* more threads begin with the same ones */

typedef struct {
    ptrdiff_t units;
    int count;
    struct {
        fs_flag taken; /* or more, once nothing is left */
        char apart[64 - sizeof(fs_flag)];
    } share[FS_MOST_SHARES];
} fs_shares;

static inline void fs_share_out(fs_shares *all, ptrdiff_t units, int threads)
{
    all->units = units;
    all->count = threads < FS_MOST_SHARES ? threads : FS_MOST_SHARES;
    for (int i = 0; i < all->count; i++) all->share[i].taken = 0;
}

/* -1 when all are taken. */
static inline ptrdiff_t fs_take_unit(fs_shares *all, int member)
{
    for (int i = 0; i < all->count; i++) {
        ptrdiff_t share = (member + i) % all->count;
        ptrdiff_t first = all->units * share / all->count;
        ptrdiff_t size = all->units * (share + 1) / all->count - first;
        fs_flag *taken = &all->share[share].taken;
        if (FS_RAISED(taken) < size) {
            ptrdiff_t unit = FS_COUNT(taken) - 1;
            if (unit < size)
                return first + unit;
        }
    }
    return -1;
}

#endif
