/* The loop of what is computed in double from two arrays, entries and weights: bundle
 * by bundle, in blocks that are converted on their way in; included by loops/rows.h in
 * the units of float64.
 *
 * A tile is one set, whose neighbouring elements fill a bundle (row), or up to WAYS
 * neighbouring sets, of which a bundle has one element each (columns): of any strides,
 * so that it is the lengths that choose, and a tile of columns reads whole lines of
 * memory. Both add the same numbers in the same order: no bit depends on the choice.
 *
 * A set is cut into chunks, by n alone. Where there are too few tiles for the threads,
 * a unit is a chunk of a tile; else it is some tiles.
 */
#include "ops/weights.h"

enum { CHUNK_OF_BUNDLES = 65536 }; /* elements of a set, a multiple of WAYS */

/* Sets that are worth a tile of columns, and the n up to which rows make one. */
enum { LEAST_COLUMNS = 6, MOST_OF_COLUMN = 96 };

#define BUNDLES 64 /* of a block: 16 KiB of entries and weights */

typedef struct {
    fs_line line;
    ptrdiff_t width; /* sets; 0: one, in bundles of its own elements */
    F(weighted) whole;
    F(sums) lead, rest;
    double x[BUNDLES * WAYS], b[BUNDLES * WAYS];
    ptrdiff_t first, count; /* which elements of the sets x and b hold */
} F(bundles);

/* ---- reading ---- */

/* Inline: rows of 50 that are read as columns take half as long as by the call. */
FS_INLINE void F(widen)(const fs_operand *source, const char *from, ptrdiff_t step,
                        ptrdiff_t count, double *to)
{
    if (source->type == FS_F32 && source->direct && step == sizeof(float))
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) to[i] = ((const float *)from)[i];
    else if (source->type == FS_F32 && source->direct)
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) to[i] = *(const float *)(from + i * step);
    else if (source->type == FS_F64 && source->direct && step == sizeof(double))
        memcpy(to, from, (size_t)count * sizeof(double));
    else if (source->type == FS_F64 && source->direct)
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++)
            to[i] = *(const double *)(from + i * step);
    else
        fs_stage_f64(from, step, source->type, source->swapped, count, to);
}

/* Asks for rows that are soon read, and what the next tiles will read beside them: 2000
 * x 2000 along axis 0 take 0.8 times as long (float32, float64; AVX-512, Zen 4). */
static inline void F(expect)(const fs_operand *source, const char *line, ptrdiff_t row)
{
    for (ptrdiff_t beside = 0; beside < 256; beside += 64)
        fs_prefetch(line, (row + 8) * source->n + beside);
}

/* `count` entries and weights from element `first` of the line on, along n or inner;
 * where masked out, the weight is 0. */
FS_INLINE void F(take_bundle)(const fs_job *job, fs_line line, ptrdiff_t first,
                              ptrdiff_t count, int along_inner, double *x, double *b)
{
    const fs_operand *entry = &job->operand[FS_X], *mask = &job->operand[FS_MASK];
    const fs_operand *weight = &job->operand[FS_WEIGHTS];
    F(widen)(entry, line.at[FS_X] + first * entry->n,
             along_inner ? entry->inner : entry->n, count, x);
    F(widen)(weight, line.at[FS_WEIGHTS] + first * weight->n,
             along_inner ? weight->inner : weight->n, count, b);
    if (!line.at[FS_MASK])
        return;
    const char *in_set = line.at[FS_MASK] + first * mask->n;
    ptrdiff_t step = along_inner ? mask->inner : mask->n;
#pragma omp simd
    for (ptrdiff_t i = 0; i < count; i++) b[i] = in_set[i * step] ? b[i] : 0;
}

/* Elements first to first + count of a set whose axes are walked run by run. */
static void F(take_row)(const fs_job *job, fs_line line, ptrdiff_t first,
                        ptrdiff_t count, double *x, double *b)
{
    for (ptrdiff_t done = 0, here; done < count; done += here) {
        ptrdiff_t run = (first + done) / job->run, at = (first + done) % job->run;
        here = fs_least(job->run - at, count - done);
        F(take_bundle)(job, fs_along_runs(job, line, run), at, here, 0, x + done,
                       b + done);
    }
}

/* The block of a tile from element `first` on, its last bundle filled up with weights
 * of 0; returns how many elements of each set it holds. */
static ptrdiff_t F(read_block)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                               ptrdiff_t last)
{
    ptrdiff_t width = tile->width, room = BUNDLES * (width ? 1 : WAYS);
    ptrdiff_t count = fs_least(room, last - first);
    if (tile->first == first && tile->count == count)
        return count;
    tile->first = first;
    tile->count = count;
    if (!width)
        F(take_row)(job, tile->line, first, count, tile->x, tile->b);
    for (ptrdiff_t i = 0, here; width && i < count; i += here) {
        ptrdiff_t run = (first + i) / job->run, at = (first + i) % job->run;
        fs_line line = fs_along_runs(job, tile->line, run);
        here = fs_least(job->run - at, count - i);
        for (ptrdiff_t k = i; k < i + here; k++) {
            ptrdiff_t on = at + k - i;
            F(expect)(&job->operand[FS_X], line.at[FS_X], on);
            F(expect)(&job->operand[FS_WEIGHTS], line.at[FS_WEIGHTS], on);
            F(take_bundle)(job, line, on, width, 1, tile->x + k * WAYS,
                           tile->b + k * WAYS);
        }
    }
    ptrdiff_t pitch = width ? width : count, bundles = width ? count : 1;
    ptrdiff_t whole = (pitch + WAYS - 1) / WAYS * WAYS;
    for (ptrdiff_t k = 0; whole > pitch && k < bundles; k++)
        for (ptrdiff_t i = k * whole + pitch; i < (k + 1) * whole; i++)
            tile->x[i] = tile->b[i] = 0;
    return count;
}

static inline ptrdiff_t F(bundles_of)(const F(bundles) *tile, ptrdiff_t count)
{
    return tile->width ? count : (count + WAYS - 1) / WAYS;
}

/* ---- a chunk of a tile ---- */

static inline ptrdiff_t F(sets_of)(const F(bundles) *tile)
{
    return tile->width ? tile->width : 1;
}

static void F(chunk_max)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                         ptrdiff_t last, F(weighted) *part)
{
    F(bundle) max, size;
    EACH_PART max.part[i] = V(set)(-INFINITY);
    EACH_PART size.part[i] = V(set)(0);
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = F(read_block)(job, tile, i, last);
        for (ptrdiff_t k = 0; k < F(bundles_of)(tile, count); k++)
            F(raise)(tile->x + k * WAYS, tile->b + k * WAYS, &max, &size);
    }
    F(store_bundle)(part->max, max);
    F(store_bundle)(part->size, size);
    for (ptrdiff_t j = 1; !tile->width && j < WAYS; j++) {
        part->max[0] = part->max[j] > part->max[0] ? part->max[j] : part->max[0];
        part->size[0] = part->size[j] > part->size[0] ? part->size[j] : part->size[0];
    }
}

/* Adds the terms of the block of a tile, its sums in registers if they are a row's. */
static void F(add_block)(F(bundles) *tile, ptrdiff_t count, const F(bundle_shift) *with)
{
    const double *x = tile->x, *b = tile->b;
    double *rest_hi = tile->rest.hi, *rest_lo = tile->rest.lo;
    F(bundle) hi = F(load_bundle)(rest_hi), lo = F(load_bundle)(rest_lo);
    for (ptrdiff_t k = 0; k < F(bundles_of)(tile, count); k++, x += WAYS, b += WAYS) {
        ptrdiff_t at = tile->width ? k % WAYS * WAYS : 0;
        if (tile->width) {
            hi = F(load_bundle)(rest_hi + at);
            lo = F(load_bundle)(rest_lo + at);
        }
        F(add_bundle)(x, b, with, &tile->lead, at, &hi, &lo);
        if (tile->width) {
            F(store_bundle)(rest_hi + at, hi);
            F(store_bundle)(rest_lo + at, lo);
        }
    }
    if (!tile->width) {
        F(store_bundle)(rest_hi, hi);
        F(store_bundle)(rest_lo, lo);
    }
}

/* IN tile->whole: max and size of all chunks. */
static void F(chunk_sum)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                         ptrdiff_t last, F(weighted) *part)
{
    F(bundle_shift) with;
    ptrdiff_t sets = tile->width ? WAYS : 1, ways = WAYS;
    for (ptrdiff_t j = 0; j < WAYS; j++) {
        ptrdiff_t from = tile->width ? j : 0;
        with.max[j] = tile->whole.max[from];
        with.scale[j] = fs_weight_scale(tile->whole.size[from]);
    }
    F(shift_bundle)(&with);
    while (tile->width && ways / 2 >= last - first) ways /= 2; /* others stay 0 */
    for (ptrdiff_t i = 0; i < ways * sets; i++)
        tile->lead.hi[i] = tile->lead.lo[i] = tile->rest.hi[i] = tile->rest.lo[i] = 0;
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = F(read_block)(job, tile, i, last);
        F(add_block)(tile, count, &with);
    }
    F(join_ways)(&tile->lead, ways, sets);
    F(join_ways)(&tile->rest, ways, sets);
    for (ptrdiff_t j = 0; j < F(sets_of)(tile); j++) {
        part->lead[0][j] = tile->lead.hi[j];
        part->lead[1][j] = tile->lead.lo[j];
        part->rest[0][j] = tile->rest.hi[j];
        part->rest[1][j] = tile->rest.lo[j];
    }
}

static void F(join_max)(F(bundles) *tile, const F(weighted) *part)
{
    F(weighted) *whole = &tile->whole;
    for (ptrdiff_t j = 0; j < F(sets_of)(tile); j++) {
        whole->max[j] = part->max[j] > whole->max[j] ? part->max[j] : whole->max[j];
        whole->size[j] =
            part->size[j] > whole->size[j] ? part->size[j] : whole->size[j];
    }
}

static inline void F(join_pair)(double (*whole)[WAYS], const double (*part)[WAYS],
                                ptrdiff_t j)
{
    fs_pair sum = fs_pair_add((fs_pair){whole[0][j], whole[1][j]},
                              (fs_pair){part[0][j], part[1][j]});
    whole[0][j] = sum.hi;
    whole[1][j] = sum.lo;
}

static void F(join_sum)(F(bundles) *tile, const F(weighted) *part)
{
    for (ptrdiff_t j = 0; j < F(sets_of)(tile); j++) {
        F(join_pair)(tile->whole.lead, part->lead, j);
        F(join_pair)(tile->whole.rest, part->rest, j);
    }
}

/* ---- a tile ---- */

static inline int F(has_columns)(const fs_job *job)
{
    return job->inner >= LEAST_COLUMNS;
}

static inline ptrdiff_t F(tiles_along_inner)(const fs_job *job)
{
    return F(has_columns)(job) ? (job->inner + WAYS - 1) / WAYS : job->inner;
}

static void F(start_tile_of_bundles)(const fs_job *job, F(bundles) *tile,
                                     ptrdiff_t index)
{
    ptrdiff_t along = F(tiles_along_inner)(job), width = F(has_columns)(job) ? WAYS : 0;
    ptrdiff_t j = index % along * (width ? width : 1);
    tile->line = fs_along_inner(job, fs_locate(job, index / along), j);
    tile->width = fs_least(width, job->inner - j);
    tile->first = -1;
    tile->whole = (F(weighted)){0};
    for (j = 0; j < WAYS; j++) tile->whole.max[j] = -INFINITY;
}

static void F(put_one)(const fs_operand *to, char *at, double value)
{
    float single = (float)value;
    uint16_t half = to->type == FS_F16    ? float_to_half(single)
                    : to->type == FS_BF16 ? float_to_bfloat(single)
                                          : 0;
    if (to->type == FS_F64)
        memcpy(at, &value, sizeof value);
    else if (to->type == FS_F32)
        memcpy(at, &single, sizeof single);
    else
        memcpy(at, &half, sizeof half);
}

static void F(look_again)(const fs_job *job, F(bundles) *tile, fs_line line,
                          double *log, double *sign)
{
    fs_look look = fs_look_again();
    while (look.walk != FS_LOOKED) {
        for (ptrdiff_t i = 0; i < job->n; i += BUNDLES * WAYS) {
            if (i % CHUNK_OF_BUNDLES == 0 && i > 0 && fs_poll(job->watch))
                return;
            ptrdiff_t count = fs_least(BUNDLES * WAYS, job->n - i);
            F(take_row)(job, line, i, count, tile->x, tile->b);
            fs_look_at(&look, tile->x, tile->b, count);
        }
        fs_look_on(&look, log, sign);
    }
}

/* Writes the results of a tile whose sums are known. */
static void F(finish_bundles)(const fs_job *job, F(bundles) *tile)
{
    const fs_operand *y = &job->operand[FS_Y], *signs = &job->operand[FS_SIGNS];
    const F(weighted) *whole = &tile->whole;
    double hi[WAYS], lo[WAYS], logs[WAYS];
    ptrdiff_t sets = F(sets_of)(tile);
    F(sums_over_max)(whole, sets, hi, lo);
#pragma omp simd
    for (ptrdiff_t j = 0; j < sets; j++)
        logs[j] = fs_weighted_log(whole->max[j], fs_weight_exponent(whole->size[j]),
                                  (fs_pair){hi[j], lo[j]});
    for (ptrdiff_t j = 0; j < sets; j++) {
        double log = logs[j], sign = fs_sign(hi[j]);
        if (!fs_is_settled(whole->max[j], whole->size[j], hi[j]))
            F(look_again)(job, tile, fs_along_inner(job, tile->line, j), &log, &sign);
        F(put_one)(y, tile->line.at[FS_Y] + j * y->inner,
                   sign < 0 && !signs->data ? NAN : log);
        if (signs->data)
            F(put_one)(signs, tile->line.at[FS_SIGNS] + j * signs->inner, sign);
    }
}

static void F(tile_of_bundles)(const fs_job *job, F(bundles) *tile, ptrdiff_t index)
{
    const ptrdiff_t chunk = CHUNK_OF_BUNDLES;
    F(weighted) part;
    F(start_tile_of_bundles)(job, tile, index);
    for (int pass = 0; pass < 2; pass++)
        for (ptrdiff_t i = 0; i < job->n; i += chunk) {
            if (i > 0 && fs_poll(job->watch))
                return;
            ptrdiff_t last = fs_least(job->n, i + chunk);
            if (pass == 0) {
                F(chunk_max)(job, tile, i, last, &part);
                F(join_max)(tile, &part);
            } else {
                F(chunk_sum)(job, tile, i, last, &part);
                F(join_sum)(tile, &part);
            }
        }
    F(finish_bundles)(job, tile);
}

/* ---- units ---- */

/* Short rows become columns: lengths change their places, sets stay what they are. */
static void F(turn)(fs_job *job)
{
    int last = job->n_outer - 1;
    if (last < 0 || job->inner >= LEAST_COLUMNS || job->n > MOST_OF_COLUMN ||
        job->outer_shape[last] < LEAST_COLUMNS)
        return;
    ptrdiff_t inner = job->inner;
    job->outer = job->outer / job->outer_shape[last] * inner;
    job->inner = job->outer_shape[last];
    job->outer_shape[last] = inner;
    for (int a = 0; a < FS_OPERANDS; a++) {
        ptrdiff_t step = job->operand[a].inner;
        job->operand[a].inner = job->outer_step[last][a];
        job->outer_step[last][a] = step;
    }
}

static inline ptrdiff_t F(chunks_of_set)(const fs_job *job)
{
    return (job->n + CHUNK_OF_BUNDLES - 1) / CHUNK_OF_BUNDLES;
}

static inline ptrdiff_t F(tiles_of_bundles)(const fs_job *job)
{
    return job->outer * F(tiles_along_inner)(job);
}

/* Whether threads share a tile: where sets have chunks, and tiles are few. */
static inline int F(are_shared_bundles)(const fs_job *job)
{
    return job->threads > 1 && F(chunks_of_set)(job) > 1 &&
           F(tiles_of_bundles)(job) < 2 * job->threads;
}

static ptrdiff_t F(begin_bundles)(fs_job *job, int step)
{
    if (step == 0)
        F(turn)(job);
    ptrdiff_t chunks = F(chunks_of_set)(job), tiles = F(tiles_of_bundles)(job);
    if (job->loop == FS_BUNDLES) {
        ptrdiff_t size = job->n * (F(has_columns)(job) ? WAYS : 1);
        job->step = size < 16384 ? 16384 / size : 1;
        return step > 0 ? 0 : (tiles + job->step - 1) / job->step;
    }
    if (step == 0) {
        job->partial = malloc((size_t)(tiles * chunks) * sizeof(F(weighted)));
        return job->partial ? tiles * chunks : -1;
    }
    if (step == 1 && !fs_stopped(job->watch))
        return tiles * chunks;
    F(bundles) tile;
    F(weighted) *part = job->partial;
    for (ptrdiff_t t = 0; t < tiles && !fs_stopped(job->watch); t++) {
        F(start_tile_of_bundles)(job, &tile, t);
        for (ptrdiff_t c = 0; c < chunks; c++, part++) {
            F(join_max)(&tile, part);
            F(join_sum)(&tile, part);
        }
        F(finish_bundles)(job, &tile);
    }
    free(job->partial);
    return 0;
}

static void F(unit_of_bundles)(fs_job *job, int step, ptrdiff_t unit)
{
    F(bundles) tile;
    if (job->loop == FS_BUNDLES) {
        ptrdiff_t last = fs_least(F(tiles_of_bundles)(job), (unit + 1) * job->step);
        for (ptrdiff_t t = unit * job->step; t < last; t++)
            F(tile_of_bundles)(job, &tile, t);
        return;
    }
    ptrdiff_t chunks = F(chunks_of_set)(job);
    ptrdiff_t first = unit % chunks * CHUNK_OF_BUNDLES;
    ptrdiff_t last = fs_least(job->n, first + CHUNK_OF_BUNDLES);
    F(weighted) *part = job->partial;
    F(start_tile_of_bundles)(job, &tile, unit / chunks);
    if (step == 0) {
        F(chunk_max)(job, &tile, first, last, part + unit);
        return;
    }
    for (ptrdiff_t c = 0; c < chunks; c++)
        F(join_max)(&tile, part + unit / chunks * chunks + c);
    F(chunk_sum)(job, &tile, first, last, part + unit);
}
