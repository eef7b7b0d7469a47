/* The contract between _cpu.pyx and the kernels: what a job is, and the table of
 * functions that every instruction set (ISA) exports with the same signatures.
 *
 * Dimensions are always outer, n, inner, counted in elements: `n` is the reduced
 * length, `outer` the product of the dimensions that are walked one by one, `inner`
 * the contiguous dimension behind n (1 for rows). Strides are in bytes, as NumPy's.
 * Kernels assume; whoever calls them has checked.
 */
#ifndef FASTSOFTMAX_ROWS_H
#define FASTSOFTMAX_ROWS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    FS_SOFTMAX,
    FS_LOG_SOFTMAX,
    FS_LOGSUMEXP,
    FS_SOFTMAX_VJP,
    FS_LOG_SOFTMAX_VJP
} fs_op;

/* Element types that x and y can have in memory. */
typedef enum {
    FS_F32,
    FS_F64,
    FS_F16,
    FS_BF16,
    FS_BOOL,
    FS_I8,
    FS_I16,
    FS_I32,
    FS_I64,
    FS_U8,
    FS_U16,
    FS_U32,
    FS_U64
} fs_type;

/* The most outer dimensions that a job can have (NumPy's own limit). */
enum { FS_MAX_OUTER = 64 };

/* A row is worked on in pieces of this many elements. The partial sums of a row are
 * those of its pieces, whoever computes them: results do not depend on threads.
 */
enum { FS_PIECE = 65536 };

/* Columns are worked on in tiles at most this wide: running maxima and sums of a tile
 * stay in the first-level cache.
 */
enum { FS_TILE = 256 };

/* Fewer columns than these are never cut into tiles, as kernels may work on them
 * together. */
enum { FS_NARROW = 16 };

/* How the elements of a line are read: the line's address is in fs_line. */
typedef struct fs_source {
    int direct; /* aligned native floats that need no staging */
    fs_type type;
    int swapped;        /* the bytes of each element are in reverse order */
    ptrdiff_t n, inner; /* bytes between neighbours along n, along inner */
    ptrdiff_t mask_n, mask_inner;
    double temperature; /* x is divided by it */
    int via_float;      /* read as double, what float would have read */
} fs_source;

/* What tells a running job to stop. */
typedef struct fs_watch {
    int (*poll)(struct fs_watch *watch); /* nonzero: abandon the job, at once */
    int stop;                            /* owned by poll */
    double polled_at;                    /* owned by poll */
} fs_watch;

static inline int fs_poll(fs_watch *watch)
{
    return watch->poll(watch);
}

typedef struct fs_job {
    fs_op op;
    fs_type compute;      /* IN: FS_F32 or FS_F64 */
    fs_type y_type;       /* IN: what is stored in y */
    fs_source source;     /* IN */
    fs_source dy_source;  /* IN: for the VJPs */
    double divisor;       /* IN: for the VJPs, whose result is divided by it */
    const char *x;        /* IN */
    union {               /* both walk the outer dimensions by outer_mask */
        const char *mask; /* IN: bytes, 0 where x is masked out; NULL without */
        const char *dy;   /* IN: for the VJPs */
    };
    char *y; /* OUT: may be x or dy, never overlaps them otherwise */
    ptrdiff_t outer, n, inner;
    ptrdiff_t y_n, y_inner; /* bytes in y between neighbours along n, along inner */
    ptrdiff_t tile;         /* columns to a tile, at most FS_TILE; no result depends
                             * on it */
    int past_caches;        /* no cache will hold y until it is read */
    int n_outer;            /* outer is the product of this many dimensions */
    ptrdiff_t outer_shape[FS_MAX_OUTER];
    ptrdiff_t outer_x[FS_MAX_OUTER], outer_mask[FS_MAX_OUTER], outer_y[FS_MAX_OUTER];
    fs_watch watch;
} fs_job;

/* Where one line (a row, or the same columns of n rows) begins. */
typedef struct fs_line {
    const char *x;
    union {
        const char *mask, *dy;
    };
    char *y;
} fs_line;

/* The sum hi + lo, |lo| at most half an ulp of hi. */
typedef struct fs_pair {
    double hi, lo;
} fs_pair;

/* What pass 3 needs to turn a line's terms into results. */
typedef struct fs_norm {
    double max;   /* the line's maximum, -inf if all is NaN or -inf */
    fs_pair pair; /* softmax: y = e (hi + lo); the others of its family:
                   * log(sum(exp(x))) = hi + lo; VJPs: the sum */
} fs_norm;

typedef struct fs_kernels {
    /* The three passes over elements [first, last) of one row; `first` is a multiple of
     * FS_PIECE and last - first at most FS_PIECE. Pass 1 returns the maximum and says
     * in *block where to look for it; pass 2 returns the sum of the terms, without the
     * first largest unless op is FS_SOFTMAX; pass 3 writes y. The VJPs have no pass 1.
     */
    double (*row_max)(const fs_job *job, fs_line line, ptrdiff_t first, ptrdiff_t last,
                      ptrdiff_t *block);
    fs_pair (*row_sum)(const fs_job *job, fs_line line, ptrdiff_t first, ptrdiff_t last,
                       double max, ptrdiff_t block);
    void (*row_finish)(const fs_job *job, fs_line line, ptrdiff_t first, ptrdiff_t last,
                       const fs_norm *norm);
    /* Between passes 2 and 3: the sum of the pieces' sums becomes the norm. For
     * FS_LOGSUMEXP it also writes the result. */
    fs_norm (*row_norm)(fs_job *job, fs_line line, double max, fs_pair sum);
    /* Whole rows [first, last), all passes. */
    void (*rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last);
    /* One tile of columns, all passes; tiles are numbered along inner, then outer. */
    void (*columns)(fs_job *job, ptrdiff_t tile);
    const struct fs_hinge_kernels *hinge; /* hinge.h */
} fs_kernels;

typedef struct fs_table {
    const char *isa;
    const fs_kernels *f32, *f64;
} fs_table;

/* isa/dispatch.c: every table of this build, best first, then NULL. */
extern const fs_table *const fs_tables[];

/* The tables that this machine can run, best first; returns how many.
 */
int fs_supported(const fs_table *tables[], int most);

/* convert.c: `count` elements of any type, `step` bytes apart, as contiguous floats. */
void fs_stage_f32(const char *x, ptrdiff_t step, fs_type type, int swapped,
                  ptrdiff_t count, float *out);
void fs_stage_f64(const char *x, ptrdiff_t step, fs_type type, int swapped,
                  ptrdiff_t count, double *out);

/* Where line `index` of the outer dimensions begins. */
static inline fs_line fs_locate(const fs_job *job, ptrdiff_t index)
{
    ptrdiff_t x = 0, mask = 0, y = 0;
    for (int d = job->n_outer - 1; d >= 0; d--) {
        ptrdiff_t at = index;
        if (d > 0) {
            at = index % job->outer_shape[d];
            index /= job->outer_shape[d];
        }
        x += at * job->outer_x[d];
        mask += at * job->outer_mask[d];
        y += at * job->outer_y[d];
    }
    fs_line line = {job->x + x, {job->mask ? job->mask + mask : NULL}, job->y + y};
    return line;
}

/* For the steps of a loop: as calls, with vectors passed through memory, they would
 * take several times as long, and compilers shy away from inlining so much. */
#if defined(__GNUC__)
#define FS_INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define FS_INLINE static __forceinline
#else
#define FS_INLINE static inline
#endif

/* Asks for a cache line that is soon needed, `offset` bytes from `base`; any will do.
 */
static inline void fs_prefetch(const void *base, ptrdiff_t offset)
{
#if defined(__GNUC__)
    __builtin_prefetch((const void *)((uintptr_t)base + (size_t)offset));
#else
    (void)base;
    (void)offset;
#endif
}

static inline ptrdiff_t fs_least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

/* a + b = hi + lo exactly (Knuth's TwoSum), any order of magnitudes. */
static inline fs_pair fs_two_sum(double a, double b)
{
    double sum = a + b;
    double b_part = sum - a;
    fs_pair result = {sum, (a - (sum - b_part)) + (b - b_part)};
    return result;
}

/* Adds two pairs; the error is some 2^-105 of the result. An infinite sum has no rest.
 */
static inline fs_pair fs_pair_add(fs_pair a, fs_pair b)
{
    fs_pair sum = fs_two_sum(a.hi, b.hi);
    if (isinf(sum.hi))
        return (fs_pair){sum.hi, 0};
    return fs_two_sum(sum.hi, sum.lo + (a.lo + b.lo));
}

#endif
