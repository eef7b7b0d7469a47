/* The contract between _cpu.pyx and the kernels: what a job is, and the functions that
 * every instruction set (ISA) exports with the same signatures.
 *
 * Dimensions are always outer, n, inner, counted in elements: `n` is the reduced
 * length, `outer` the product of the dimensions that are walked one by one, `inner`
 * the dimension behind n (1 for rows of the softmax family, whose inner is contiguous;
 * the hinge losses' need not be). Strides are in bytes, as NumPy's. Kernels assume;
 * whoever calls them has checked.
 */
#ifndef FASTSOFTMAX_JOB_H
#define FASTSOFTMAX_JOB_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "math/coefficients.h"
#include "process/watch.h"

#if defined(__x86_64__) || defined(_M_X64)
#define FS_X86 1
#elif defined(__AARCH64EL__)
#define FS_ARM 1
#endif

typedef enum {
    FS_SOFTMAX,
    FS_LOG_SOFTMAX,
    FS_LOGSUMEXP,
    FS_SOFTMAX_VJP,
    FS_LOG_SOFTMAX_VJP,
    FS_HINGE,
    FS_WEIGHTED, /* logsumexp with weights; computed in double, whatever y is */
    FS_CROSS_ENTROPY
} fs_op;

/* Element types that arrays can have in memory. */
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

/* The arrays of a job. The first four have a dimension n (not logsumexp's y), the
 * others one element a set. Any but x may be missing: NULL. */
enum {
    FS_X, /* IN: what is reduced; the VJPs' y; the losses' scores without FS_POSITIVES
           */
    FS_MASK,      /* IN: bytes, 0 where an element is not in the set */
    FS_Y,         /* OUT: may be x or dy, never overlaps them otherwise */
    FS_DY,        /* IN: the VJPs' dy */
    FS_POSITIVES, /* IN: scores of the positives, where no labels say which they are */
    FS_LABELS,    /* IN: int64, which of the n is the positive */
    FS_WEIGHTS,   /* IN: doubles that multiply a set's loss; FS_WEIGHTED: any type, and
                   * a dimension n: they multiply exp(x) */
    FS_LOSSES,    /* OUT: a set's loss, of the type computed in */
    FS_Y_POSITIVES, /* OUT: what y would hold for the positives */
    FS_SIGNS, /* OUT: FS_WEIGHTED: the sums' signs, of y's type; without them y is NaN
               * where a sum is negative */
    FS_OPERANDS
};

typedef struct fs_operand {
    char *data;
    fs_type type;
    int swapped;        /* the bytes of each element are in reverse order */
    int direct;         /* IN: native aligned elements of the type computed in, side by
                         * side along the innermost dimension, used as they are; of
                         * FS_WEIGHTED: native and aligned */
    ptrdiff_t n, inner; /* bytes between neighbours along n, along inner */
    double temperature; /* its elements are divided by it */
    int via_float;      /* read as double, what float would have read */
    fs_flag *overflow;  /* OUT: raised where an element that is finite is read as an
                         * infinite one: too large, or its quotient is; may be NULL */
} fs_operand;

/* The most outer dimensions that a job can have (NumPy's own limit). */
enum { FS_MAX_OUTER = 64 };

/* A row is worked on in pieces of this many elements. The partial sums of a row are
 * those of its pieces, whoever computes them: results do not depend on threads. */
enum { FS_PIECE = 16384 };

/* Columns are worked on in tiles at most this wide: running maxima and sums of a tile
 * stay in the first-level cache. */
enum { FS_TILE = 256 };

/* Fewer columns than these are never cut into tiles, as kernels may work on them
 * together. */
enum { FS_NARROW = 16 };

/* Who takes which elements: decided once a job, in loops/choice.h. */
typedef enum {
    FS_SHORT_ROWS,
    FS_ROWS_IN_FLIGHT,
    FS_ROWS_ONE_BY_ONE,
    FS_LOG_ROWS,
    FS_GRADIENT_ROWS,
    FS_LONG_ROWS,
    FS_SHARED_ROWS, /* long ones, each by some threads */
    FS_TILES,
    FS_STRIPS,
    FS_TALL_COLUMNS,
    FS_PARTS, /* tall columns, some by each unit all by itself */
    FS_GRADIENT_TILES,
    FS_LOSS_ROWS,
    FS_LOSS_COLUMNS,
    FS_SHARED_LOSSES,
    FS_BUNDLES,
    FS_SHARED_BUNDLES
} fs_loop;

typedef struct fs_job {
    fs_op op;
    fs_type compute; /* IN: FS_F32 or FS_F64 */
    fs_operand operand[FS_OPERANDS];
    ptrdiff_t outer, n, inner;
    int n_outer; /* outer is the product of this many dimensions */
    ptrdiff_t outer_shape[FS_MAX_OUTER];
    ptrdiff_t outer_step[FS_MAX_OUTER][FS_OPERANDS];
    /* IN: FS_WEIGHTED: n is walked in runs of this many elements, and around them in so
     * many dimensions, which stand behind those of outer. */
    ptrdiff_t run;
    int n_runs;
    double divisor;     /* IN: the VJPs' result is divided by it */
    int p, largest;     /* IN: hinge: the power; the largest term instead of the sum */
    double margin;      /* IN: hinge: a number of the type computed in */
    double scale;       /* IN: losses: multiplies the gradient */
    double smoothing;   /* IN: cross-entropy: the part of targets that is spread */
    fs_written written; /* IN: hinge */
    ptrdiff_t cache;    /* IN: bytes of the largest */
    int threads;        /* IN: so many will take units */
    fs_watch *watch;    /* IN */
    double total;       /* OUT: the sum of the losses */
    fs_flag overflow;   /* OUT: what an operand's may point at */
    fs_loop loop;       /* these six are the kernels' own */
    int past_caches;    /* no cache will hold y until it is read */
    ptrdiff_t step;     /* rows or columns to a unit; no result depends on it */
    ptrdiff_t chunk;    /* elements of a chunk of a tall column */
    void *partial;      /* what units of one step leave for the next */
    fs_flag lacks_memory; /* raised by a unit that found none */
} fs_job;

typedef struct fs_kernels {
    /* A job is done in steps. Before each, one thread calls `begin`: it joins what the
     * step before has left and returns the number of units of this one; 0 when the job
     * is done, or was stopped; -1 without memory. The units of a step are independent:
     * any thread may do any of them, in any order. */
    ptrdiff_t (*begin)(fs_job *job, int step);
    void (*unit)(fs_job *job, int step, ptrdiff_t unit);
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

/* All of a job, by the thread that calls; -1 without memory. */
static inline int fs_run(const fs_kernels *kernels, fs_job *job)
{
    ptrdiff_t units;
    for (int step = 0; (units = kernels->begin(job, step)) > 0; step++)
        for (ptrdiff_t unit = 0; unit < units; unit++)
            if (unit == 0 || !fs_poll(job->watch))
                kernels->unit(job, step, unit);
    return (int)units;
}

/* convert.c: `count` elements of any type, `step` bytes apart, as contiguous floats. */
void fs_stage_f32(const char *x, ptrdiff_t step, fs_type type, int swapped,
                  ptrdiff_t count, float *out);
void fs_stage_f64(const char *x, ptrdiff_t step, fs_type type, int swapped,
                  ptrdiff_t count, double *out);

static inline ptrdiff_t fs_size_of(fs_type type)
{
    static const unsigned char sizes[] = {4, 8, 2, 2, 1, 1, 2, 4, 8, 1, 2, 4, 8};
    return sizes[type];
}

/* Where the operands of one line begin: of a row, or of the same columns of n rows. */
typedef struct fs_line {
    char *at[FS_OPERANDS];
} fs_line;

/* job.c: line `index` of the outer dimensions; the line `j` elements along inner; a run
 * of the line. */
fs_line fs_locate(const fs_job *job, ptrdiff_t index);
fs_line fs_along_inner(const fs_job *job, fs_line line, ptrdiff_t j);
fs_line fs_along_runs(const fs_job *job, fs_line line, ptrdiff_t run);

/* The same of one operand that is there; of one outer dimension without a call. */
static inline char *fs_locate_one(const fs_job *job, int operand, ptrdiff_t index)
{
    if (job->n_outer == 1)
        return job->operand[operand].data + index * job->outer_step[0][operand];
    return fs_locate(job, index).at[operand];
}

/* The sum hi + lo, |lo| at most half an ulp of hi. */
typedef struct fs_pair {
    double hi, lo;
} fs_pair;

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

/* Adds x, and what that cuts off to lo, which grows: an infinite sum has NaN there.
 * fs_pair_add makes a pair of it, and drops that. */
static inline fs_pair fs_add_to(fs_pair sum, double x)
{
    fs_pair next = fs_two_sum(sum.hi, x);
    return (fs_pair){next.hi, sum.lo + next.lo};
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
