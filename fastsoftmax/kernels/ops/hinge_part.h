/* What is known of a set of the hinge losses after some of its negatives.
 *
 * A set has one positive score s+ and n others, s_j. Its terms are
 * max(0, margin - s+ + s_j)^p, its loss is their sum or the largest of them. The others
 * that count are its negatives: not those that the mask takes out, nor, where labels
 * say which of the n is the positive, that one. A set counts if its label is not
 * negative (ignored), its weight not 0, and not all of its negatives are masked out.
 */
#ifndef FASTSOFTMAX_HINGE_PART_H
#define FASTSOFTMAX_HINGE_PART_H

#include "job.h"

typedef struct fs_hinge_part {
    double terms;      /* their sum */
    double slopes;     /* the sum of what was written as gradient */
    double best;       /* the largest score; NaN if a term is NaN */
    ptrdiff_t best_at; /* where it was first, if it is above -inf */
} fs_hinge_part;

/* Rows of so many bytes at most are worked on as columns: for float32 of 64 that takes
 * .84 of the time (gradients 1.07), for float64 of 32 .9 and of 40 1.02 (1.0, 1.3). */
enum { FS_HINGE_SHORT = 256 };

/* Rows are started and finished this many at a time. */
enum { FS_HINGE_TILE = 128 };

static inline int fs_is_loss(const fs_job *job)
{
    return job->op == FS_HINGE || job->op == FS_CROSS_ENTROPY;
}

/* Whether what is known of parts of a set can be joined. */
static inline int fs_loss_has_parts(const fs_job *job)
{
    return job->op == FS_HINGE;
}

/* Whether to work on many sets at once, one in each lane: where neighbours in memory
 * belong to different sets, or sets are small. Where results go decides, if anywhere.
 */
static inline int fs_loss_by_columns(const fs_job *job)
{
    const fs_operand *leader = &job->operand[job->operand[FS_Y].data ? FS_Y : FS_X];
    ptrdiff_t n = leader->n < 0 ? -leader->n : leader->n;
    ptrdiff_t inner = leader->inner < 0 ? -leader->inner : leader->inner;
    return job->op == FS_HINGE &&
           (job->n * fs_size_of(job->compute) <= FS_HINGE_SHORT ||
            (job->inner > 1 && inner < n));
}

/* Sets along `inner` to a unit: the order in which losses are added up depends on the
 * shape alone. Columns come in whole tiles. */
static inline ptrdiff_t fs_loss_sets(const fs_job *job)
{
    ptrdiff_t sets = FS_PIECE / 4 / job->n;
    if (job->loop == FS_LOSS_COLUMNS)
        return (sets / FS_HINGE_TILE + 1) * FS_HINGE_TILE;
    return sets < 1 ? 1 : sets;
}

static inline ptrdiff_t fs_loss_units(const fs_job *job)
{
    return job->outer * ((job->inner - 1) / fs_loss_sets(job) + 1);
}

static inline int fs_hinge_has_negatives(const fs_job *job, fs_line set,
                                         ptrdiff_t label)
{
    ptrdiff_t i = 0;
    while (i < job->n && (i == label || !set.at[FS_MASK][i * job->operand[FS_MASK].n]))
        i++;
    return i < job->n;
}

/* How many sets count; of cross-entropies, their weight. Less if the job was stopped.
 */
static inline double fs_loss_count(const fs_job *job)
{
    fs_pair count = {0, 0};
    for (ptrdiff_t outer = 0; outer < job->outer; outer++) {
        fs_line line = fs_locate(job, outer);
        for (ptrdiff_t j = 0; j < job->inner; j++) {
            if ((j % 1024 == 1023 || job->n > FS_PIECE) && fs_poll(job->watch))
                return count.hi;
            fs_line set = fs_along_inner(job, line, j);
            ptrdiff_t label = -1;
            double weight =
                set.at[FS_WEIGHTS] ? *(const double *)set.at[FS_WEIGHTS] : 1;
            int counts = weight != 0;
            if (set.at[FS_LABELS]) {
                label = (ptrdiff_t)(*(const int64_t *)set.at[FS_LABELS]);
                counts &= label >= 0;
            }
            label = job->op == FS_HINGE ? label : -1;
            if (counts && set.at[FS_MASK] && job->n > (label >= 0))
                counts = fs_hinge_has_negatives(job, set, label);
            if (counts)
                count = fs_add_to(count, job->op == FS_HINGE ? 1 : weight);
        }
    }
    return fs_pair_add((fs_pair){0, 0}, count).hi;
}

/* A part before any negative. */
static inline fs_hinge_part fs_hinge_nothing(void)
{
    fs_hinge_part part = {0, 0, -INFINITY, -1};
    return part;
}

/* Joins what is known of a set with what is known of the negatives behind. */
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
