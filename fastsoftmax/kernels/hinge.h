/* The contract for the hinge losses: what a job is; its kernels are in fs_kernels
 * (job.h).
 *
 * A row has one positive score s+ and n others, s_j. Its terms are
 * max(0, margin - s+ + s_j)^p, its loss is their sum or the largest of them. The others
 * that count are its negatives: not those that `mask` takes out, nor, where labels say
 * which of the n is the positive, that one.
 */
#ifndef FASTSOFTMAX_HINGE_H
#define FASTSOFTMAX_HINGE_H

#include <math.h>

#include "job.h"

/* What is written beside the losses, one number for each of the n. */
typedef enum { FS_NOTHING, FS_GRADIENT, FS_PAIRS } fs_written;

/* The arrays of a job. The first three have a dimension n; the others have one element
 * a row. Any of them but the first may be missing (NULL). */
enum {
    FS_SCORES,        /* IN: the n others, any type */
    FS_MASK,          /* IN: bytes, 0 where a score does not count */
    FS_OUT,           /* OUT: gradient or terms, y_type */
    FS_POSITIVES,     /* IN: pos_type; missing where there are labels */
    FS_LABELS,        /* IN: int64, which of the n is the positive */
    FS_WEIGHTS,       /* IN: doubles that multiply the row's loss */
    FS_LOSSES,        /* OUT: the row's loss, of the type computed in */
    FS_OUT_POSITIVES, /* OUT: its gradient, y_type; missing where there are labels */
    FS_ARRAYS
};

typedef struct fs_hinge {
    fs_type compute;    /* IN: FS_F32 or FS_F64 */
    int p;              /* IN: 1 or 2 */
    int largest;        /* IN: the largest term instead of the sum */
    double margin;      /* IN: a number of the type computed in */
    double scale;       /* IN: multiplies the gradient */
    fs_written written; /* IN: what goes to FS_OUT */
    fs_type y_type;     /* IN */
    fs_source source;   /* IN: how scores are read */
    fs_type pos_type;   /* IN: how positives are */
    int pos_swapped;
    ptrdiff_t outer, n, inner; /* rows: outer * inner; inner need not be contiguous */
    int by_columns;            /* IN: work on many rows at once, one in each lane */
    char *array[FS_ARRAYS];
    ptrdiff_t step_n[FS_ARRAYS], step_inner[FS_ARRAYS];
    int n_outer;
    ptrdiff_t outer_shape[FS_MAX_OUTER];
    ptrdiff_t outer_step[FS_MAX_OUTER][FS_ARRAYS];
    fs_watch watch;
} fs_hinge;

/* Where the elements of a row are, or of the first of several along `inner`. */
typedef struct fs_hinge_line {
    char *at[FS_ARRAYS];
} fs_hinge_line;

/* What is known of a row after some of its negatives. */
typedef struct fs_hinge_part {
    double terms;      /* their sum */
    double slopes;     /* the sum of what was written as gradient */
    double best;       /* the largest score; NaN if a term is NaN */
    ptrdiff_t best_at; /* where it was first; -1: nowhere, or at -inf */
} fs_hinge_part;

/* Up to this n all rows are worked on as columns: at 20 that takes 0.6 of the time, at
 * 40 1.3 times as long. */
enum { FS_HINGE_SHORT = 24 };

/* Rows are started and finished this many at a time. */
enum { FS_HINGE_TILE = 128 };

/* Rows along `inner` to a unit, the amount of work that is never shared between
 * threads: the order in which losses are added up depends on the shape alone. Columns
 * come in whole tiles. */
static inline ptrdiff_t fs_hinge_rows(const fs_hinge *job)
{
    ptrdiff_t rows = FS_PIECE / 4 / job->n;
    if (job->by_columns)
        return (rows / FS_HINGE_TILE + 1) * FS_HINGE_TILE;
    return rows < 1 ? 1 : rows;
}

static inline ptrdiff_t fs_hinge_units(const fs_hinge *job)
{
    return job->outer * ((job->inner - 1) / fs_hinge_rows(job) + 1);
}

/* The first row of line `index` of the outer dimensions. */
static inline fs_hinge_line fs_hinge_locate(const fs_hinge *job, ptrdiff_t index)
{
    ptrdiff_t place[FS_MAX_OUTER];
    for (int d = job->n_outer - 1; d >= 0; d--) {
        place[d] = d > 0 ? index % job->outer_shape[d] : index;
        index = d > 0 ? index / job->outer_shape[d] : 0;
    }
    fs_hinge_line line;
    for (int a = 0; a < FS_ARRAYS; a++) {
        ptrdiff_t offset = 0;
        for (int d = 0; d < job->n_outer; d++)
            offset += place[d] * job->outer_step[d][a];
        line.at[a] = job->array[a] ? job->array[a] + offset : NULL;
    }
    return line;
}

static inline fs_hinge_line fs_hinge_row(const fs_hinge *job, fs_hinge_line line,
                                         ptrdiff_t j)
{
    for (int a = 0; a < FS_ARRAYS; a++)
        line.at[a] = line.at[a] ? line.at[a] + j * job->step_inner[a] : NULL;
    return line;
}

/* A part before any negative. */
static inline fs_hinge_part fs_hinge_nothing(void)
{
    fs_hinge_part part = {0, 0, -INFINITY, -1};
    return part;
}

typedef struct fs_hinge_kernels {
    /* One unit; returns the sum of its losses. */
    double (*unit)(fs_hinge *job, ptrdiff_t unit);
    /* A row in pieces of FS_PIECE, then what fs_hinge_join makes of them; `finish`
     * writes the loss and returns it. Not for jobs by columns. */
    fs_hinge_part (*piece)(const fs_hinge *job, ptrdiff_t row, ptrdiff_t piece);
    double (*finish)(const fs_hinge *job, ptrdiff_t row, fs_hinge_part part);
} fs_hinge_kernels;

/* Joins what is known of a row with what is known of the negatives behind. */
static inline fs_hinge_part fs_hinge_join(fs_hinge_part a, fs_hinge_part b)
{
    int b_is_larger = b.best > a.best || (isnan(b.best) && !isnan(a.best));
    fs_hinge_part part = {
        a.terms + b.terms,
        a.slopes + b.slopes,
        b_is_larger ? b.best : a.best,
        b_is_larger ? b.best_at : a.best_at,
    };
    return part;
}

#endif
