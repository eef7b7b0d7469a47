/* Hinge losses and their gradients, over rows and over columns; included by
 * loops/rows.h.
 *
 * Scores are read once. Every term is formed in the computing type, as (s + hi) + lo
 * with hi + lo = margin - s+ prepared once a row: where s and hi nearly cancel their
 * sum is exact, elsewhere it loses half an ulp, so a term is within 1 ULP. Terms and
 * gradients are added up in double.
 */

#include "ops/hinge_part.h"

/* What is known of some rows, neighbours along `inner`. */
typedef struct {
    REAL hi[FS_HINGE_TILE], lo[FS_HINGE_TILE]; /* margin - s+ */
    REAL slope[FS_HINGE_TILE]; /* the gradient is slope t^(p-1); pairs are slope t^p */
    double weight[FS_HINGE_TILE];
    ptrdiff_t label[FS_HINGE_TILE];                     /* -1 without */
    double terms[FS_HINGE_TILE], slopes[FS_HINGE_TILE]; /* as in fs_hinge_part */
    double best[FS_HINGE_TILE];
    ptrdiff_t best_at[FS_HINGE_TILE];
} F(hinge_tile);

/* Score i of row j of a tile that begins at `line`; NULL where there is no operand. */
FS_INLINE char *F(score_at)(const fs_job *job, const fs_line *line, int operand,
                            ptrdiff_t i, ptrdiff_t j)
{
    const fs_operand *of = &job->operand[operand];
    return line->at[operand] ? line->at[operand] + i * of->n + j * of->inner : NULL;
}

static inline void F(set_part)(F(hinge_tile) *tile, ptrdiff_t j, fs_hinge_part part)
{
    tile->terms[j] = part.terms;
    tile->slopes[j] = part.slopes;
    tile->best[j] = part.best;
    tile->best_at[j] = part.best_at;
}

/* ---- what rows start with ---- */

static void F(read_positives)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                              const F(hinge_tile) *tile, REAL *positives)
{
    const fs_operand *from = &job->operand[line->at[FS_LABELS] ? FS_X : FS_POSITIVES];
    if (!line->at[FS_LABELS])
        JOIN(fs_stage, T)(line->at[FS_POSITIVES], from->inner, from->type,
                          from->swapped, width, positives);
    for (ptrdiff_t j = 0; line->at[FS_LABELS] && j < width; j++) {
        const char *at = F(score_at)(job, line, FS_X, tile->label[j], j);
        if (from->direct)
            positives[j] = *(const REAL *)at;
        else
            JOIN(fs_stage, T)(at, 0, from->type, from->swapped, 1, positives + j);
    }
}

static void F(start_tile)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                          F(hinge_tile) *tile)
{
    REAL positives[FS_HINGE_TILE];
    double factor = job->written == FS_GRADIENT ? job->scale * job->p : 1;
    for (ptrdiff_t j = 0; j < width; j++) {
        const char *weight = F(score_at)(job, line, FS_WEIGHTS, 0, j);
        const char *label = F(score_at)(job, line, FS_LABELS, 0, j);
        tile->weight[j] = weight ? *(const double *)weight : 1;
        tile->label[j] = label ? (ptrdiff_t)*(const int64_t *)label : -1;
        if (label && tile->label[j] < 0) /* ignored */
            tile->label[j] = 0, tile->weight[j] = 0;
        F(set_part)(tile, j, fs_hinge_nothing());
    }
    F(read_positives)(job, line, width, tile, positives);
#pragma omp simd
    for (ptrdiff_t j = 0; j < width; j++) {
        fs_pair difference = fs_two_sum(job->margin, -(double)positives[j]);
        REAL hi = (REAL)difference.hi;
        tile->hi[j] = hi;
        tile->lo[j] = isinf(hi) ? 0 : (REAL)((difference.hi - hi) + difference.lo);
        tile->slope[j] = (REAL)(tile->weight[j] * factor);
    }
}

/* ---- one vector ---- */

/* The gradient for a term t = max(0, ...): NaN where t is, 0 where t is, whatever the
 * weight. */
static inline VEC F(slope_of)(VEC t, VEC slope, int p)
{
    return V(if_less)(V(set)(0), t, p == 1 ? slope : V(mul)(t, slope), t);
}

/* The same for the term itself, with its power and weight: a square that underflows is
 * 0, too, whatever the weight. */
static inline VEC F(pair_of)(VEC t, VEC slope, int p)
{
    VEC power = p == 1 ? t : V(mul)(t, t);
    return V(if_less)(V(set)(0), power, V(mul)(power, slope), power);
}

/* ---- some vectors of scores ---- */

/* Of one row, whose scores are side by side; or of as many rows as there are lanes, in
 * columns, where vectors are `pitch` elements apart. */
typedef struct {
    const REAL *x, *kept; /* 1 and 0; NULL where the mask takes none out */
    REAL *out;            /* for what is written, may be x */
    ptrdiff_t pitch, end; /* elements up to there */
    int has_label;        /* whether the rows' positives are to be left out: */
    VEC label;            /* their places */
    VEC places, step;     /* the first vector's places; from vector to vector */
    VEC hi, lo, slope;    /* of the rows */
} F(scores);

/* `instead` of `a`, for the vector at i, whose `places` these are, where scores do not
 * count, or are behind the end. No branch says where the positive is: labels are at
 * random, and rows of 64 take .6 of the time so. */
FS_INLINE VEC F(only_counted)(VEC a, const F(scores) *s, VEC places, ptrdiff_t i,
                              ptrdiff_t here, VEC instead)
{
    static const REAL ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const VEC zero = V(set)(0);
    if (s->kept || here < LANES) {
        const REAL *kept = s->kept ? s->kept + i : ones;
        a = V(if_equal)(F(load_some)(kept, here, zero), zero, instead, a);
    }
    return s->has_label ? V(if_equal)(places, s->label, instead, a) : a;
}

/* Terms are added up so many vectors at a time: those to be converted come from memory,
 * see T_wide_add. */
#define HINGE_STEP (T_IS_F32 ? 16 : 1)

/* Adds up the terms, of columns in each lane one after the other; puts the gradient or
 * the terms to s->out. */
FS_INLINE void F(hinge_terms)(int columns, const F(scores) *s, int p,
                              fs_written written, F(double_sums) *of_terms,
                              F(double_sums) *of_slopes)
{
    VEC zero = V(set)(0), places = s->places;
    REAL terms[HINGE_STEP * LANES], slopes[HINGE_STEP * LANES];
    for (ptrdiff_t i = 0; i < s->end;) {
        int k = 0;
        for (; k < HINGE_STEP && i < s->end; k++, i += s->pitch) {
            const ptrdiff_t here = columns ? LANES : s->end - i;
            VEC x = F(load_some)(s->x + i, here, zero);
            VEC t = V(max)(zero, V(add)(V(add)(x, s->hi), s->lo));
            if (!columns)
                fs_prefetch(s->x, (i + AHEAD) * (ptrdiff_t)sizeof *s->x);
            t = F(only_counted)(t, s, places, i, here, zero);
            places = V(add)(places, s->step);
            V(store)(terms + k * LANES, t);
            if (written == FS_NOTHING)
                continue;
            VEC y = written == FS_GRADIENT ? F(slope_of)(t, s->slope, p)
                                           : F(pair_of)(t, s->slope, p);
            V(store)(slopes + k * LANES, y);
            F(store_some)(s->out + i, here, y);
        }
        const ptrdiff_t count = k * LANES, some = columns ? LANES : count;
        for (ptrdiff_t j = 0; j < count; j += some) {
            F(add_to_sums)(p == 2, terms + j, terms + j, some, of_terms);
            if (written != FS_NOTHING)
                F(add_to_sums)(0, NULL, slopes + j, some, of_slopes);
        }
    }
}
#undef HINGE_STEP

/* Of each lane the largest score, and its first place; NaN if one of its terms is. */
FS_INLINE VEC F(largest_scores)(int columns, const F(scores) *s, VEC *place)
{
    VEC zero = V(set)(0), none = V(set)((REAL)-INFINITY), nowhere = V(sub)(zero, none);
    VEC places = s->places, best = none, at = zero, nan_at = nowhere;
    for (ptrdiff_t i = 0; i < s->end; i += s->pitch) {
        const ptrdiff_t here = columns ? LANES : s->end - i;
        VEC x = F(load_some)(s->x + i, here, none);
        VEC z = F(only_counted)(V(add)(x, s->hi), s, places, i, here, zero);
        if (!columns)
            fs_prefetch(s->x, (i + AHEAD) * (ptrdiff_t)sizeof *s->x);
        x = F(only_counted)(x, s, places, i, here, none);
        nan_at = V(if_equal)(z, z, nan_at, V(min)(nan_at, places));
        at = V(if_less)(best, x, places, at);
        best = V(max)(x, best); /* a NaN leaves it as it is */
        places = V(add)(places, s->step);
    }
    *place = V(if_less)(nan_at, nowhere, nan_at, at);
    return V(if_less)(nan_at, nowhere, V(set)((REAL)NAN), best);
}

/* ---- writing ---- */

/* `count` elements to places `step` bytes apart. */
static inline void F(put)(const REAL *from, ptrdiff_t count, char *to, ptrdiff_t step,
                          fs_type type)
{
    if (step == fs_size_of(type))
        F(write)(from, count, to, type);
    else if (type == REAL_TYPE) /* a choice in the loop makes it several times slower */
        for (ptrdiff_t i = 0; i < count; i++) *(REAL *)(to + i * step) = from[i];
    else
        for (ptrdiff_t i = 0; i < count; i++)
            F(write)(from + i, 1, to + i * step, type);
}

static void F(keep)(const char *mask, ptrdiff_t step, ptrdiff_t count, REAL *kept)
{
    if (step == 1) { /* a constant, as in stage */
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) kept[i] = mask[i] ? (REAL)1 : (REAL)0;
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++) kept[i] = mask[i * step] ? (REAL)1 : (REAL)0;
}

/* ---- what rows end with ---- */

/* Largest scores become losses, without their weights, and gradients. */
static void F(finish_largest)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                              F(hinge_tile) *tile)
{
    for (ptrdiff_t j = 0; j < width; j++) {
        const int some = tile->best[j] != -INFINITY;
        REAL t = some ? (REAL)tile->best[j] + tile->hi[j] + tile->lo[j] : 0, slope;
        t = t < 0 ? 0 : t;
        slope = !(t > 0) ? t : job->p == 1 ? tile->slope[j] : t * tile->slope[j];
        tile->terms[j] = job->p == 1 ? (double)t : (double)t * (double)t;
        tile->slopes[j] = slope;
        if (job->written == FS_GRADIENT && some)
            F(write)(&slope, 1, F(score_at)(job, line, FS_Y, tile->best_at[j], j),
                     job->operand[FS_Y].type);
    }
}

/* What is written for the positives: minus the gradient of the others, 0 for pairs. */
static void F(finish_positives)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                                const F(hinge_tile) *tile)
{
    REAL y[FS_HINGE_TILE];
#pragma omp simd
    for (ptrdiff_t j = 0; j < width; j++)
        y[j] = job->written == FS_GRADIENT ? (REAL)(0 - tile->slopes[j]) : 0;
    if (line->at[FS_Y_POSITIVES])
        F(put)(y, width, line->at[FS_Y_POSITIVES], job->operand[FS_Y_POSITIVES].inner,
               job->operand[FS_Y].type);
    for (ptrdiff_t j = 0; line->at[FS_LABELS] && j < width; j++)
        F(write)(y + j, 1, F(score_at)(job, line, FS_Y, tile->label[j], j),
                 job->operand[FS_Y].type);
}

/* A row of weight 0 adds nothing. What it was given is 0 already, where no term is NaN,
 * nor infinite and squared. */
static void F(leave_out)(const fs_job *job, const fs_line *line, ptrdiff_t j,
                         F(hinge_tile) *tile)
{
    const REAL nothing = 0;
    for (ptrdiff_t i = 0; line->at[FS_Y] && isnan(tile->slopes[j]) && i < job->n; i++)
        F(write)(&nothing, 1, F(score_at)(job, line, FS_Y, i, j),
                 job->operand[FS_Y].type);
    tile->terms[j] = tile->slopes[j] = 0;
}

/* Writes what all of a row's negatives decide; returns the sum of the losses, in
 * as many sums as a vector may have: one addition need not wait for the others. */
static fs_pair F(finish_tile)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                              F(hinge_tile) *tile)
{
    enum { SUMS = 8 };
    double hi[SUMS] = {0}, lo[SUMS] = {0};
    if (job->largest && job->written != FS_PAIRS)
        F(finish_largest)(job, line, width, tile);
    for (ptrdiff_t j = 0; j < width; j++)
        if (tile->weight[j] == 0)
            F(leave_out)(job, line, j, tile);
#pragma omp simd
    for (ptrdiff_t j = 0; j < width; j++) /* 0 stays 0, whatever the weight */
        tile->terms[j] = tile->terms[j] == 0 ? 0 : tile->terms[j] * tile->weight[j];
    for (ptrdiff_t j = 0; line->at[FS_LOSSES] && j < width; j++)
        *(REAL *)F(score_at)(job, line, FS_LOSSES, 0, j) = (REAL)tile->terms[j];
    if (job->written != FS_NOTHING)
        F(finish_positives)(job, line, width, tile);
    for (ptrdiff_t j = width; j % SUMS != 0; j++) tile->terms[j] = 0;
    for (ptrdiff_t j = 0; j < width; j += SUMS)
#pragma omp simd
        for (int k = 0; k < SUMS; k++) {
            fs_pair sum = fs_add_to((fs_pair){hi[k], lo[k]}, tile->terms[j + k]);
            hi[k] = sum.hi;
            lo[k] = sum.lo;
        }
    fs_pair sum = {0, 0};
    for (int k = 0; k < SUMS; k++) {
        sum = fs_add_to(sum, hi[k]);
        sum.lo += lo[k];
    }
    return sum;
}

/* ---- rows ---- */

/* One piece of row j of a tile, which begins at `line`. */
static fs_hinge_part F(hinge_part)(const fs_job *job, const fs_line *line,
                                   const F(hinge_tile) *tile, ptrdiff_t j,
                                   ptrdiff_t piece)
{
    const ptrdiff_t first = piece * FS_PIECE, last = fs_least(job->n, first + FS_PIECE);
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    const int in_place = y->type == REAL_TYPE && y->n == sizeof(REAL);
    static const REAL places[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    REAL scores[BLOCK], kept[BLOCK], out[BLOCK];
    fs_hinge_part part = fs_hinge_nothing();
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i), label = tile->label[j] - i;
        const char *mask = F(score_at)(job, line, FS_MASK, i, j);
        char *place = F(score_at)(job, line, FS_Y, i, j);
        F(double_sums) terms = F(no_double_sums)(), slopes = F(no_double_sums)();
        const REAL *from = F(read)(x, F(score_at)(job, line, FS_X, i, j), x->n, NULL, 0,
                                   count, scores);
        VEC hi = V(set)(tile->hi[j]), lo = V(set)(tile->lo[j]);
        F(scores) s = {from,
                       mask ? kept : NULL,
                       in_place ? (REAL *)place : out,
                       LANES,
                       count,
                       0 <= label && label < count,
                       V(set)((REAL)label),
                       V(load)(places),
                       V(set)(LANES),
                       hi,
                       lo,
                       V(set)(tile->slope[j])};
        if (mask)
            F(keep)(mask, job->operand[FS_MASK].n, count, kept);
        if (job->largest && job->written != FS_PAIRS) {
            VEC zero = V(set)(0), none = V(set)((REAL)INFINITY), place;
            VEC lanes = F(largest_scores)(0, &s, &place);
            REAL best = (REAL)NAN;
            if (V(largest)(V(if_equal)(lanes, lanes, zero, none)) > 0) {
                place = V(if_equal)(lanes, lanes, none, place);
            } else {
                best = V(largest)(lanes);
                place = V(if_equal)(lanes, V(set)(best), place, none);
            }
            ptrdiff_t at = (ptrdiff_t)-V(largest)(V(sub)(zero, place));
            part = fs_hinge_join(part, (fs_hinge_part){0, 0, best, i + at});
            if (job->written == FS_GRADIENT)
                memset(s.out, 0, (size_t)count * sizeof *s.out);
        } else if (job->written == FS_NOTHING && job->p == 1 && !s.has_label) {
            /* Constants leave out of the loop what the common calls do not need. */
            s.has_label = 0;
            F(hinge_terms)(0, &s, 1, FS_NOTHING, &terms, &slopes);
        } else if (job->written == FS_NOTHING && job->p == 1) {
            F(hinge_terms)(0, &s, 1, FS_NOTHING, &terms, &slopes);
        } else if (job->written == FS_GRADIENT && job->p == 1) {
            F(hinge_terms)(0, &s, 1, FS_GRADIENT, &terms, &slopes);
        } else {
            F(hinge_terms)(0, &s, job->p, job->written, &terms, &slopes);
        }
        part.terms += F(total_of)(&terms);
        part.slopes += F(total_of)(&slopes);
        if (job->written != FS_NOTHING && !in_place)
            F(put)(s.out, count, place, y->n, y->type);
    }
    return part;
}

/* Rows one after the other. */
static void F(hinge_rows)(fs_job *job, const fs_line *line, ptrdiff_t width,
                          F(hinge_tile) *tile)
{
    ptrdiff_t pieces = (job->n - 1) / FS_PIECE + 1;
    for (ptrdiff_t j = 0; j < width; j++) {
        fs_hinge_part part = F(hinge_part)(job, line, tile, j, 0);
        for (ptrdiff_t piece = 1; piece < pieces && !fs_poll(job->watch); piece++)
            part = fs_hinge_join(part, F(hinge_part)(job, line, tile, j, piece));
        F(set_part)(tile, j, part);
    }
}

/* A tile of one row. */
static fs_line F(start_row)(const fs_job *job, ptrdiff_t index, F(hinge_tile) *tile)
{
    fs_line line = fs_locate(job, index / job->inner);
    line = fs_along_inner(job, line, index % job->inner);
    F(start_tile)(job, &line, 1, tile);
    return line;
}

static fs_hinge_part F(hinge_piece)(const fs_job *job, ptrdiff_t index, ptrdiff_t piece)
{
    F(hinge_tile) tile;
    fs_line line = F(start_row)(job, index, &tile);
    return F(hinge_part)(job, &line, &tile, 0, piece);
}

static fs_pair F(hinge_finish)(const fs_job *job, ptrdiff_t index, fs_hinge_part part,
                               fs_pair total)
{
    F(hinge_tile) tile;
    fs_line line = F(start_row)(job, index, &tile);
    F(set_part)(&tile, 0, part);
    return fs_pair_add(total, F(finish_tile)(job, &line, 1, &tile));
}

#include "ops/hinge_columns.h"

static fs_pair F(hinge_unit)(fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t rows = fs_loss_sets(job), units = (job->inner - 1) / rows + 1;
    ptrdiff_t first = unit % units * rows, last = fs_least(job->inner, first + rows);
    fs_line line = fs_locate(job, unit / units);
    fs_pair total = {0, 0};
    for (ptrdiff_t j = first; j < last && !fs_stopped(job->watch); j += FS_HINGE_TILE) {
        ptrdiff_t width = fs_least(FS_HINGE_TILE, last - j);
        fs_line here = fs_along_inner(job, line, j);
        F(hinge_tile) tile;
        F(start_tile)(job, &here, width, &tile);
        if (job->loop == FS_LOSS_COLUMNS)
            F(hinge_columns)(job, &here, width, &tile);
        else
            F(hinge_rows)(job, &here, width, &tile);
        total = fs_pair_add(total, F(finish_tile)(job, &here, width, &tile));
    }
    return total;
}
