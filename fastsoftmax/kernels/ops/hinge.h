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

/* ---- what rows start with ---- */

static void F(read_positives)(const fs_job *job, fs_line line, ptrdiff_t width,
                              const F(hinge_tile) *tile, REAL *positives)
{
    if (!line.at[FS_LABELS]) {
        JOIN(fs_stage, T)(line.at[FS_POSITIVES], job->operand[FS_POSITIVES].inner,
                          job->operand[FS_POSITIVES].type,
                          job->operand[FS_POSITIVES].swapped, width, positives);
        return;
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        const char *at = line.at[FS_X] + tile->label[j] * job->operand[FS_X].n +
                         j * job->operand[FS_X].inner;
        if (job->operand[FS_X].direct)
            positives[j] = *(const REAL *)at;
        else
            JOIN(fs_stage, T)(at, 0, job->operand[FS_X].type,
                              job->operand[FS_X].swapped, 1, positives + j);
    }
}

static void F(start_tile)(const fs_job *job, fs_line line, ptrdiff_t width,
                          F(hinge_tile) *tile)
{
    REAL positives[FS_HINGE_TILE];
    double factor = job->written == FS_GRADIENT ? job->scale * job->p : 1;
    for (ptrdiff_t j = 0; j < width; j++) {
        tile->label[j] = -1;
        tile->weight[j] = 1;
        tile->terms[j] = tile->slopes[j] = 0;
        tile->best[j] = -INFINITY;
        tile->best_at[j] = -1;
    }
    for (ptrdiff_t j = 0; line.at[FS_LABELS] && j < width; j++)
        tile->label[j] = (ptrdiff_t)*(
            const int64_t *)(line.at[FS_LABELS] + j * job->operand[FS_LABELS].inner);
    for (ptrdiff_t j = 0; line.at[FS_WEIGHTS] && j < width; j++)
        tile->weight[j] =
            *(const double *)(line.at[FS_WEIGHTS] + j * job->operand[FS_WEIGHTS].inner);
    for (ptrdiff_t j = 0; line.at[FS_LABELS] && j < width; j++)
        if (tile->label[j] < 0) /* ignored */
            tile->label[j] = 0, tile->weight[j] = 0;
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

/* margin - s+ + s */
static inline VEC F(excess)(VEC s, VEC hi, VEC lo)
{
    return V(add)(V(add)(s, hi), lo);
}

/* 0 where a score is not in the set, whatever it is. */
static inline VEC F(only_kept)(VEC a, VEC kept)
{
    return V(if_equal)(kept, V(set)(0), V(set)(0), a);
}

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

/* Which scores of a block count. */
typedef struct {
    const REAL *kept;   /* 1 and 0; NULL where `skip` says all there is to say */
    ptrdiff_t skip;     /* where the vector with the row's positive begins; or -1 */
    REAL around[LANES]; /* 1 and 0 for that vector */
} F(counted);

/* Whether some of `count` lanes at i may not count. */
static inline int F(has_gaps)(const F(counted) *counted, ptrdiff_t i, ptrdiff_t count)
{
    return counted->kept || i == counted->skip || count < LANES;
}

/* 1 in the lanes that count, of which `count` are in the row. */
static inline VEC F(lanes_kept)(const F(counted) *counted, ptrdiff_t i, ptrdiff_t count)
{
    static const REAL ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const REAL *kept = counted->kept        ? counted->kept + i
                       : i == counted->skip ? counted->around
                                            : ones;
    return V(load_part)(kept, count, V(set)(0));
}

/* ---- one block of a row ---- */

/* A row of a tile. */
typedef struct {
    REAL hi, lo, slope;
} F(row);

/* Terms are added up so many vectors at a time: those to be converted come from memory,
 * see T_wide_add. */
#define HINGE_STEP (T_IS_F32 ? 16 : 1)

/* Adds up `count` terms; writes the gradient or the terms to `out`. */
static inline void F(hinge_terms)(F(row) row, const REAL *x, const F(counted) *counted,
                                  REAL *out, ptrdiff_t count, int p, fs_written written,
                                  fs_hinge_part *part)
{
    VEC hi = V(set)(row.hi), lo = V(set)(row.lo), slope = V(set)(row.slope);
    VEC zero = V(set)(0);
    REAL terms[HINGE_STEP * LANES], slopes[HINGE_STEP * LANES];
    F(double_sums) of_terms = F(no_double_sums)(), of_slopes = F(no_double_sums)();
    for (ptrdiff_t i = 0; i < count;) {
        int k = 0;
        for (; k < HINGE_STEP && i < count; k++, i += LANES) {
            ptrdiff_t here = fs_least(LANES, count - i);
            VEC s = here == LANES ? V(load)(x + i) : V(load_part)(x + i, here, zero);
            VEC t = V(max)(zero, F(excess)(s, hi, lo));
            fs_prefetch(x, (i + AHEAD) * (ptrdiff_t)sizeof *x);
            if (F(has_gaps)(counted, i, here))
                t = F(only_kept)(t, F(lanes_kept)(counted, i, here));
            V(store)(terms + k * LANES, t);
            if (written == FS_NOTHING)
                continue;
            VEC y = written == FS_GRADIENT ? F(slope_of)(t, slope, p)
                                           : F(pair_of)(t, slope, p);
            V(store)(slopes + k * LANES, y);
            if (here == LANES)
                V(store)(out + i, y);
            else
                V(store_part)(out + i, here, y);
        }
        F(add_to_sums)(p == 2, terms, terms, k * LANES, &of_terms);
        if (written != FS_NOTHING)
            F(add_to_sums)(0, NULL, slopes, k * LANES, &of_slopes);
    }
    part->terms += F(total_of)(&of_terms);
    part->slopes += F(total_of)(&of_slopes);
}
#undef HINGE_STEP

/* Where the first NaN among the terms of `count` scores is; there is one. */
static ptrdiff_t F(first_nan)(REAL hi, const REAL *x, const F(counted) *counted,
                              ptrdiff_t count)
{
    ptrdiff_t i = 0;
    for (; i < count - 1; i++) {
        ptrdiff_t lane = i % LANES;
        int out = (counted->kept && !counted->kept[i]) ||
                  (i - lane == counted->skip && !counted->around[lane]);
        if (!out && isnan(x[i] + hi))
            break;
    }
    return i;
}

/* The largest of `count` scores, and where it is first. */
static inline void F(hinge_best)(F(row) row, const REAL *x, const F(counted) *counted,
                                 ptrdiff_t first, ptrdiff_t count, fs_hinge_part *part)
{
    VEC hi = V(set)(row.hi), zero = V(set)(0), one = V(set)(1);
    VEC none = V(set)((REAL)-INFINITY), best = none;
    VEC vector = zero, at = zero, undefined = zero;
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        ptrdiff_t here = fs_least(LANES, count - i);
        VEC s = here == LANES ? V(load)(x + i) : V(load_part)(x + i, here, none);
        VEC z = V(add)(s, hi);
        fs_prefetch(x, (i + AHEAD) * (ptrdiff_t)sizeof *x);
        if (F(has_gaps)(counted, i, here)) {
            VEC in = F(lanes_kept)(counted, i, here);
            z = F(only_kept)(z, in);
            s = V(if_equal)(in, zero, none, s);
        }
        undefined = V(if_equal)(z, z, undefined, one);
        at = V(if_less)(best, s, vector, at);
        best = V(max)(s, best); /* a NaN leaves it as it is */
        vector = V(add)(vector, one);
    }
    fs_hinge_part here = fs_hinge_nothing();
    if (V(largest)(undefined) > 0) {
        here.best = NAN;
        here.best_at = first + F(first_nan)(row.hi, x, counted, count);
    } else {
        REAL lanes[LANES], vectors[LANES];
        V(store)(lanes, best);
        V(store)(vectors, at);
        here.best = V(largest)(best);
        for (ptrdiff_t j = 0; j < LANES && here.best > -INFINITY; j++) {
            ptrdiff_t place = first + (ptrdiff_t)vectors[j] * LANES + j;
            if (lanes[j] == here.best && (here.best_at < 0 || place < here.best_at))
                here.best_at = place;
        }
    }
    *part = fs_hinge_join(*part, here);
}

/* ---- writing ---- */

static inline ptrdiff_t F(size_of)(fs_type type)
{
    return type == FS_F64 ? 8 : type == FS_F32 ? 4 : 2;
}

/* `count` elements to places `step` bytes apart. */
static inline void F(put)(const REAL *from, ptrdiff_t count, char *to, ptrdiff_t step,
                          fs_type type)
{
    if (step == F(size_of)(type)) {
        F(write)(from, count, to, type);
        return;
    }
    if (type ==
        REAL_TYPE) { /* without a choice in it the loop is several times faster */
        for (ptrdiff_t i = 0; i < count; i++) *(REAL *)(to + i * step) = from[i];
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++) F(write)(from + i, 1, to + i * step, type);
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

/* The largest term's loss, without its weight, and its gradient. */
static inline double F(largest_loss)(const fs_job *job, const F(hinge_tile) *tile,
                                     ptrdiff_t j, REAL *slope)
{
    REAL t = 0;
    if (tile->best_at[j] >= 0)
        t = (REAL)tile->best[j] + tile->hi[j] + tile->lo[j];
    t = t < 0 ? 0 : t;
    *slope = !(t > 0) ? t : job->p == 1 ? tile->slope[j] : t * tile->slope[j];
    return job->p == 1 ? (double)t : (double)t * (double)t;
}

/* Turns what is known of largest scores into losses and gradients. */
static void F(finish_largest)(const fs_job *job, fs_line line, ptrdiff_t width,
                              F(hinge_tile) *tile)
{
    for (ptrdiff_t j = 0; j < width; j++) {
        REAL slope;
        tile->terms[j] = F(largest_loss)(job, tile, j, &slope);
        tile->slopes[j] = slope;
        if (job->written == FS_GRADIENT && tile->best_at[j] >= 0)
            F(write)(&slope, 1,
                     line.at[FS_Y] + tile->best_at[j] * job->operand[FS_Y].n +
                         j * job->operand[FS_Y].inner,
                     job->operand[FS_Y].type);
    }
}

/* What is written for the positives: minus the gradient of the others, 0 for pairs. */
static void F(finish_positives)(const fs_job *job, fs_line line, ptrdiff_t width,
                                const F(hinge_tile) *tile)
{
    REAL y[FS_HINGE_TILE];
#pragma omp simd
    for (ptrdiff_t j = 0; j < width; j++)
        y[j] = job->written == FS_GRADIENT ? (REAL)(0 - tile->slopes[j]) : 0;
    if (line.at[FS_Y_POSITIVES])
        F(put)(y, width, line.at[FS_Y_POSITIVES], job->operand[FS_Y_POSITIVES].inner,
               job->operand[FS_Y].type);
    for (ptrdiff_t j = 0; line.at[FS_LABELS] && j < width; j++)
        F(write)(y + j, 1,
                 line.at[FS_Y] + tile->label[j] * job->operand[FS_Y].n +
                     j * job->operand[FS_Y].inner,
                 job->operand[FS_Y].type);
}

/* A row of weight 0 adds nothing. What it was given is 0 already, where no term is NaN,
 * nor infinite and squared. */
static void F(leave_out)(const fs_job *job, fs_line line, ptrdiff_t j,
                         F(hinge_tile) *tile)
{
    const REAL nothing = 0;
    fs_line row = fs_along_inner(job, line, j);
    for (ptrdiff_t i = 0; row.at[FS_Y] && isnan(tile->slopes[j]) && i < job->n; i++)
        F(write)(&nothing, 1, row.at[FS_Y] + i * job->operand[FS_Y].n,
                 job->operand[FS_Y].type);
    tile->terms[j] = tile->slopes[j] = 0;
}

/* Writes what all of a row's negatives decide; returns the sum of the losses. Handed on
 * from tile to tile the sum took 1.2 times as long at n = 4: each would wait for it. */
static fs_pair F(finish_tile)(const fs_job *job, fs_line line, ptrdiff_t width,
                              F(hinge_tile) *tile)
{
    fs_pair sum = {0, 0};
    if (job->largest && job->written != FS_PAIRS)
        F(finish_largest)(job, line, width, tile);
    for (ptrdiff_t j = 0; j < width; j++) {
        if (tile->weight[j] == 0)
            F(leave_out)(job, line, j, tile);
        else if (tile->terms[j] != 0) /* 0 stays 0, whatever the weight */
            tile->terms[j] *= tile->weight[j];
        sum = fs_add_to(sum, tile->terms[j]);
    }
    for (ptrdiff_t j = 0; line.at[FS_LOSSES] && j < width; j++)
        *(REAL *)(line.at[FS_LOSSES] + j * job->operand[FS_LOSSES].inner) =
            (REAL)tile->terms[j];
    if (job->written != FS_NOTHING)
        F(finish_positives)(job, line, width, tile);
    return sum;
}

/* ---- rows ---- */

/* Which of a block's `count` scores from i on count. `kept` has room for them. */
static inline F(counted) F(count_in)(const fs_job *job, const char *mask, ptrdiff_t i,
                                     ptrdiff_t count, ptrdiff_t label, REAL *kept)
{
    F(counted) counted = {NULL, -1, {0}};
    ptrdiff_t place = label - i;
    int has_positive = 0 <= place && place < count;
    if (mask) {
        ptrdiff_t step = job->operand[FS_MASK].n;
        F(keep)(mask + i * step, step, count, kept);
        counted.kept = kept;
        if (has_positive)
            kept[place] = 0;
    } else if (has_positive) {
        counted.skip = place - place % LANES;
        for (ptrdiff_t j = 0; j < LANES; j++) counted.around[j] = j != place % LANES;
    }
    return counted;
}

/* Scores [first, last) of a row. */
static void F(hinge_span)(const fs_job *job, fs_line line, F(row) row, ptrdiff_t label,
                          ptrdiff_t first, ptrdiff_t last, fs_hinge_part *part)
{
    REAL scores[BLOCK], kept[BLOCK], out[BLOCK];
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *from = line.at[FS_X] + i * job->operand[FS_X].n;
        const REAL *x = F(read)(&job->operand[FS_X], from, job->operand[FS_X].n, NULL,
                                0, count, scores);
        F(counted) counted = F(count_in)(job, line.at[FS_MASK], i, count, label, kept);
        char *y = line.at[FS_Y] ? line.at[FS_Y] + i * job->operand[FS_Y].n : NULL;
        int in_place = job->operand[FS_Y].type == REAL_TYPE &&
                       job->operand[FS_Y].n == sizeof(REAL);
        REAL *to = in_place ? (REAL *)y : out;
        if (job->largest && job->written != FS_PAIRS) {
            F(hinge_best)(row, x, &counted, i, count, part);
            if (job->written == FS_GRADIENT)
                memset(to, 0, (size_t)count * sizeof *to);
        } else if (job->written == FS_NOTHING && job->p == 1) {
            /* Constants leave out of the loop what the common calls do not need. */
            F(hinge_terms)(row, x, &counted, NULL, count, 1, FS_NOTHING, part);
        } else if (job->written == FS_GRADIENT && job->p == 1) {
            F(hinge_terms)(row, x, &counted, to, count, 1, FS_GRADIENT, part);
        } else {
            F(hinge_terms)(row, x, &counted, to, count, job->p, job->written, part);
        }
        if (job->written != FS_NOTHING && !in_place)
            F(put)(to, count, y, job->operand[FS_Y].n, job->operand[FS_Y].type);
    }
}

/* One piece of row j of a tile, which begins at `line`. */
static fs_hinge_part F(hinge_part)(const fs_job *job, fs_line line,
                                   const F(hinge_tile) *tile, ptrdiff_t j,
                                   ptrdiff_t piece)
{
    ptrdiff_t first = piece * FS_PIECE, last = fs_least(job->n, first + FS_PIECE);
    F(row) row = {tile->hi[j], tile->lo[j], tile->slope[j]};
    fs_hinge_part part = fs_hinge_nothing();
    F(hinge_span)(job, line, row, tile->label[j], first, last, &part);
    return part;
}

static inline void F(set_part)(F(hinge_tile) *tile, ptrdiff_t j, fs_hinge_part part)
{
    tile->terms[j] = part.terms;
    tile->slopes[j] = part.slopes;
    tile->best[j] = part.best;
    tile->best_at[j] = part.best_at;
}

/* Rows one after the other. */
static void F(hinge_rows)(fs_job *job, fs_line line, ptrdiff_t width,
                          F(hinge_tile) *tile)
{
    ptrdiff_t pieces = (job->n - 1) / FS_PIECE + 1;
    for (ptrdiff_t j = 0; j < width; j++) {
        fs_line row = fs_along_inner(job, line, j);
        fs_hinge_part part = F(hinge_part)(job, row, tile, j, 0);
        for (ptrdiff_t piece = 1; piece < pieces && !fs_poll(job->watch); piece++)
            part = fs_hinge_join(part, F(hinge_part)(job, row, tile, j, piece));
        F(set_part)(tile, j, part);
    }
}

static fs_line F(find_row)(const fs_job *job, ptrdiff_t index)
{
    fs_line line = fs_locate(job, index / job->inner);
    return fs_along_inner(job, line, index % job->inner);
}

static fs_hinge_part F(hinge_piece)(const fs_job *job, ptrdiff_t index, ptrdiff_t piece)
{
    fs_line line = F(find_row)(job, index);
    F(hinge_tile) tile;
    F(start_tile)(job, line, 1, &tile);
    return F(hinge_part)(job, line, &tile, 0, piece);
}

static fs_pair F(hinge_finish)(const fs_job *job, ptrdiff_t index, fs_hinge_part part,
                               fs_pair total)
{
    fs_line line = F(find_row)(job, index);
    F(hinge_tile) tile;
    F(start_tile)(job, line, 1, &tile);
    F(set_part)(&tile, 0, part);
    return fs_pair_add(total, F(finish_tile)(job, line, 1, &tile));
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
        F(start_tile)(job, here, width, &tile);
        if (job->loop == FS_LOSS_COLUMNS)
            F(hinge_columns)(job, here, width, &tile);
        else
            F(hinge_rows)(job, here, width, &tile);
        total = fs_pair_add(total, F(finish_tile)(job, here, width, &tile));
    }
    return total;
}
