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

/* Sets that are worth a tile of columns, and the n up to which rows make one: rows of
 * 200 take .78 to .95 of the time of rows one by one so, of 400 1.1 to 1.2 times it. */
enum { LEAST_COLUMNS = 6, MOST_OF_COLUMN = 200 };

#define BUNDLES 64 /* of a block: 16 KiB of entries and weights */

typedef struct {
    fs_line line;
    ptrdiff_t width; /* sets; 0: one, in bundles of its own elements */
    int full;        /* what its sums are: see ops/weights.h */
    F(weighted) whole;
    F(sums) sums[2];                             /* FS_REST and, in full, FS_LEAD */
    double x[BUNDLES * WAYS], b[BUNDLES * WAYS]; /* aligned, behind vectors */
    ptrdiff_t first, count; /* which elements of the sets x and b hold, */
    int holds_x;            /* if x is of these sets, */
    const char *weights;    /* and b of those here */
} F(bundles);

/* ---- reading ---- */

/* An element, as a double. */
FS_INLINE double F(read_one)(const fs_operand *source, const char *from)
{
    double wide;
    if (source->direct && source->type == FS_F32)
        return *(const float *)from;
    if (source->direct && source->type == FS_F64)
        return *(const double *)from;
    fs_stage_f64(from, 0, source->type, source->swapped, 1, &wide);
    return wide;
}

/* Of WAYS rows `step` bytes apart, whose elements are side by side, `lines` of them:
 * as columns. */
static void F(widen_quads)(fs_type type, const char *from, ptrdiff_t step,
                           ptrdiff_t lines, double *to)
{
    for (ptrdiff_t i = 0; i < lines; i += 4) {
        ptrdiff_t at = fs_least(i, lines - 4), pitch = step / fs_size_of(type);
        float cells[4 * WAYS];
        for (int j = 0; type == FS_F32 && j < WAYS; j += f32_lanes) {
            f32_vec quad[4];
            f32_load_quads((const float *)(from + j * step) + at, pitch, quad);
            for (int k = 0; k < 4; k++) f32_store(cells + k * WAYS + j, quad[k]);
        }
        for (int j = 0; type == FS_F64 && j < WAYS; j += LANES) {
            VEC quad[4];
            V(load_quads)((const double *)(from + j * step) + at, pitch, quad);
            for (int k = 0; k < 4; k++) V(store)(to + (at + k) * WAYS + j, quad[k]);
        }
        if (type == FS_F32)
#pragma omp simd
            for (int k = 0; k < 4 * WAYS; k++) to[at * WAYS + k] = cells[k];
    }
}

/* Lines of `count` elements, `step` bytes from one to the next, `pitch` bytes from line
 * to line; to lines of WAYS. */
static void F(widen)(const fs_operand *source, const char *from, ptrdiff_t pitch,
                     ptrdiff_t lines, ptrdiff_t step, ptrdiff_t count, double *to)
{
    const ptrdiff_t size = fs_size_of(source->type);
    const int is_float = source->direct && source->type == FS_F32;
    const int is_double = source->direct && source->type == FS_F64;
    if ((is_float || is_double) && lines >= 4 && count == WAYS && pitch == size &&
        step > size && step % size == 0) {
        F(widen_quads)(source->type, from, step, lines, to);
        return;
    }
    for (ptrdiff_t k = 0; k < lines; k++, from += pitch, to += WAYS) {
        /* What is soon read, also beside it, by the next tiles: 2000 x 2000 along axis
         * 0 take 0.8 times as long (float32, float64; AVX-512, Zen 4). */
        for (ptrdiff_t beside = 0; lines > 1 && step != 0 && beside < 256; beside += 64)
            fs_prefetch(from, 8 * pitch + beside);
        /* One weight for all: 1000x4096 along axis 0 takes .8 of that. */
        if (step == 0) {
            const double same = F(read_one)(source, from);
#pragma omp simd
            for (ptrdiff_t i = 0; i < count; i++) to[i] = same;
        } else if (is_float && step == size)
#pragma omp simd
            for (ptrdiff_t i = 0; i < count; i++) to[i] = ((const float *)from)[i];
        else if (is_float)
#pragma omp simd
            for (ptrdiff_t i = 0; i < count; i++)
                to[i] = *(const float *)(from + i * step);
        else if (is_double)
#pragma omp simd
            for (ptrdiff_t i = 0; i < count; i++)
                to[i] = *(const double *)(from + i * step);
        else
            fs_stage_f64(from, step, source->type, source->swapped, count, to);
    }
}

/* Elements first to first + count of a set (width 0), or of `width` neighbouring ones,
 * run by run of their axes; where masked out, the weight is 0. Without b, x alone. */
static void F(take)(const fs_job *job, fs_line tile, ptrdiff_t width, ptrdiff_t first,
                    ptrdiff_t count, double *x, double *b)
{
    const fs_operand *entry = &job->operand[FS_X], *mask = &job->operand[FS_MASK];
    const fs_operand *weight = &job->operand[FS_WEIGHTS];
    for (ptrdiff_t done = 0, here; done < count; done += here) {
        ptrdiff_t run = (first + done) / job->run, at = (first + done) % job->run;
        here = fs_least(job->run - at, count - done);
        fs_line line = fs_along_runs(job, tile, run);
        ptrdiff_t lines = width ? here : 1, size = width ? width : here;
        ptrdiff_t to = done * (width ? WAYS : 1);
        F(widen)(entry, line.at[FS_X] + at * entry->n, entry->n, lines,
                 width ? entry->inner : entry->n, size, x + to);
        if (b)
            F(widen)(weight, line.at[FS_WEIGHTS] + at * weight->n, weight->n, lines,
                     width ? weight->inner : weight->n, size, b + to);
        const char *in_set = line.at[FS_MASK];
        ptrdiff_t step = width ? mask->inner : mask->n;
        for (ptrdiff_t k = 0; in_set && k < lines; k++)
            for (ptrdiff_t i = 0; i < size; i++)
                if (!in_set[(at + k) * mask->n + i * step])
                    b[to + k * WAYS + i] = 0;
    }
}

/* The block of a tile from element `first` on, its last bundle filled up with weights
 * of 0; returns how many elements of each set it holds. Weights that are those of the
 * tile before are still there. */
static ptrdiff_t F(read_block)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                               ptrdiff_t last)
{
    ptrdiff_t width = tile->width, room = BUNDLES * (width ? 1 : WAYS);
    ptrdiff_t count = fs_least(room, last - first);
    const char *weights = tile->line.at[FS_WEIGHTS];
    int holds = tile->first == first && tile->count == count;
    if (holds && tile->holds_x)
        return count;
    holds = holds && tile->weights == weights && !job->operand[FS_MASK].data;
    F(take)(job, tile->line, width, first, count, tile->x, holds ? NULL : tile->b);
    tile->holds_x = 1;
    tile->weights = weights;
    tile->first = first;
    tile->count = count;
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

/* Both are over elements first to last of a chunk, and go to tile->whole. */
static void F(max_of_chunk)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                            ptrdiff_t last)
{
    F(bundle) max, size;
    EACH_PART max.part[i] = V(set)(-INFINITY);
    EACH_PART size.part[i] = V(set)(0);
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = F(read_block)(job, tile, i, last);
        for (ptrdiff_t k = 0; k < F(bundles_of)(tile, count); k++)
            F(raise)(tile->x + k * WAYS, tile->b + k * WAYS, &max, &size);
    }
    for (ptrdiff_t j = 0, sets = F(sets_of)(tile); j < WAYS; j += sets)
        F(join_maxima)(&tile->whole, (const double *)&max + j,
                       (const double *)&size + j, fs_least(sets, WAYS - j));
}

/* Adds the terms of the block of a tile, each of its sums in registers in turn. */
FS_INLINE void F(add_block)(int full, F(bundles) *tile, ptrdiff_t count,
                            const F(bundle_shift) *with)
{
    ptrdiff_t bundles = F(bundles_of)(tile, count), ways = tile->width ? WAYS : 1;
    F(sums) *rest = &tile->sums[FS_REST], *lead = &tile->sums[FS_LEAD];
    for (ptrdiff_t way = 0; way < fs_least(ways, bundles); way++) {
        F(bundle) hi = rest->hi[way], lo = rest->lo[way];
        for (ptrdiff_t k = way; k < bundles; k += ways)
            F(add_bundle)(full, tile->x + k * WAYS, tile->b + k * WAYS, with,
                          lead->hi + way, lead->lo + way, &hi, &lo);
        rest->hi[way] = hi;
        rest->lo[way] = lo;
    }
}

/* IN tile->whole: max and size of all chunks. */
static void F(sum_of_chunk)(const fs_job *job, F(bundles) *tile, ptrdiff_t first,
                            ptrdiff_t last)
{
    F(bundle_shift) with;
    ptrdiff_t sets = tile->width ? WAYS : 1, ways = WAYS;
    double max[WAYS], size[WAYS];
    for (ptrdiff_t j = 0; j < WAYS; j++) {
        max[j] = tile->whole.max[tile->width ? j : 0];
        size[j] = tile->whole.size[tile->width ? j : 0];
    }
    F(shift_bundle)(max, size, &with);
    if (tile->width)
        ways = fs_least(ways, last - first); /* others would stay 0 */
    for (int l = FS_REST; l <= tile->full; l++) {
        memset(tile->sums[l].hi, 0, (size_t)(ways * sets) * sizeof(double));
        memset(tile->sums[l].lo, 0, (size_t)(ways * sets) * sizeof(double));
    }
    for (ptrdiff_t i = first, count; i < last; i += count) {
        count = F(read_block)(job, tile, i, last);
        if (tile->full)
            F(add_block)(1, tile, count, &with);
        else
            F(add_block)(0, tile, count, &with);
    }
    for (int l = FS_REST; l <= tile->full; l++) {
        F(sums) *sum = &tile->sums[l];
        double (*to)[WAYS] = tile->whole.sums[l];
        F(join_ways)(tile->full, sum, ways, sets);
        F(join_sums)(tile->full, to[0], to[1], (const double *)sum->hi,
                     (const double *)sum->lo, F(sets_of)(tile));
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

static void F(start)(F(bundles) *tile, fs_line line, ptrdiff_t width, int full)
{
    if (tile->width != width) /* what b holds is of another layout */
        tile->first = -1;
    tile->line = line;
    tile->width = width;
    tile->full = full;
    tile->holds_x = 0;
    tile->whole = (F(weighted)){0};
    for (int j = 0; j < WAYS; j++) tile->whole.max[j] = -INFINITY;
}

static void F(start_tile_of_bundles)(const fs_job *job, F(bundles) *tile,
                                     ptrdiff_t index)
{
    ptrdiff_t along = F(tiles_along_inner)(job), width = F(has_columns)(job) ? WAYS : 0;
    ptrdiff_t j = index % along * (width ? width : 1);
    fs_line line = fs_along_inner(job, fs_locate(job, index / along), j);
    F(start)(tile, line, fs_least(width, job->inner - j),
             job->operand[FS_Y].type == FS_F64);
}

/* Of `count` neighbouring sets. */
static void F(put_sets)(const fs_operand *to, char *at, const double *from,
                        ptrdiff_t count)
{
    for (ptrdiff_t j = 0; j < count; j++, at += to->inner) {
        float single = (float)from[j];
        uint16_t half;
        if (to->type == FS_F64)
            memcpy(at, from + j, sizeof *from);
        else if (to->type == FS_F32)
            memcpy(at, &single, sizeof single);
        else {
            half = to->type == FS_F16 ? float_to_half(single) : float_to_bfloat(single);
            memcpy(at, &half, sizeof half);
        }
    }
}

static void F(look_again)(const fs_job *job, F(bundles) *tile, fs_line line,
                          double *log, double *sign)
{
    fs_look look = fs_new_look;
    tile->first = -1;
    while (look.walk != FS_LOOKED) {
        for (ptrdiff_t i = 0; i < job->n; i += BUNDLES * WAYS) {
            if (i % CHUNK_OF_BUNDLES == 0 && i > 0 && fs_poll(job->watch))
                return;
            ptrdiff_t count = fs_least(BUNDLES * WAYS, job->n - i);
            F(take)(job, line, 0, i, count, tile->x, tile->b);
            fs_look_at(&look, tile->x, tile->b, count);
        }
        F(look_on)(&look, log, sign);
    }
}

static void F(sum_bundles)(const fs_job *job, F(bundles) *tile);

/* Writes the results of a tile whose sums are known. Returns whether its set, of one
 * that is `shared`, is to be summed again in full by all threads. */
static int F(finish_bundles)(const fs_job *job, F(bundles) *tile, int shared)
{
    const fs_operand *y = &job->operand[FS_Y], *signs = &job->operand[FS_SIGNS];
    const fs_line line = tile->line;
    const ptrdiff_t sets = F(sets_of)(tile);
    const int full = tile->full;
    double log[WAYS] = {0}, sign[WAYS] = {0}, state[WAYS];
    const int any = F(logs_of_sums)(full, &tile->whole, sets, log, sign, state);
    for (ptrdiff_t j = 0; any && j < sets; j++)
        if (state[j] == FS_UNSETTLED)
            F(look_again)(job, tile, fs_along_inner(job, line, j), log + j, sign + j);
    if (!signs->data)
#pragma omp simd
        for (ptrdiff_t j = 0; j < sets; j++) log[j] = sign[j] < 0 ? NAN : log[j];
    F(put_sets)(y, line.at[FS_Y], log, sets);
    if (signs->data)
        F(put_sets)(signs, line.at[FS_SIGNS], sign, sets);
    for (ptrdiff_t j = 0; any && j < sets; j++)
        if (state[j] == FS_ROUGH) {
            if (shared && sets == 1)
                return 1;
            F(start)(tile, fs_along_inner(job, line, j), 0, 1);
            F(sum_bundles)(job, tile);
        }
    return 0;
}

/* All of a tile that has been started. */
static void F(sum_bundles)(const fs_job *job, F(bundles) *tile)
{
    const ptrdiff_t chunk = CHUNK_OF_BUNDLES, n = job->n;
    for (ptrdiff_t i = 0; i < n; i += chunk)
        if (i == 0 || !fs_poll(job->watch))
            F(max_of_chunk)(job, tile, i, fs_least(n, i + chunk));
    for (ptrdiff_t i = 0; i < n; i += chunk)
        if (i == 0 || !fs_poll(job->watch))
            F(sum_of_chunk)(job, tile, i, fs_least(n, i + chunk));
    F(finish_bundles)(job, tile, 0);
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
    const ptrdiff_t parts = tiles * chunks; /* of maxima, then as many of sums */
    if (step == 0) {
        job->partial = malloc((size_t)(2 * parts) * sizeof(F(weighted)));
        return job->partial ? parts : -1;
    }
    if (step == 1 && !fs_stopped(job->watch))
        return parts;
    F(bundles) tile;
    tile.width = -1; /* nothing is held */
    const F(weighted) *part = job->partial;
    for (ptrdiff_t t = 0; t < tiles && !fs_stopped(job->watch); t++) {
        F(start_tile_of_bundles)(job, &tile, t);
        tile.full |= step == 3;
        for (ptrdiff_t c = 0; c < chunks; c++, part++) {
            F(join_sets)(tile.full, &tile.whole, part, F(sets_of)(&tile));
            F(join_sets)(tile.full, &tile.whole, part + parts, F(sets_of)(&tile));
        }
        if (F(finish_bundles)(job, &tile, tiles == 1))
            return parts;
    }
    free(job->partial);
    return 0;
}

static void F(unit_of_bundles)(fs_job *job, int step, ptrdiff_t unit)
{
    F(bundles) tile;
    tile.width = -1; /* nothing is held */
    const ptrdiff_t chunks = F(chunks_of_set)(job), tiles = F(tiles_of_bundles)(job);
    if (job->loop == FS_BUNDLES) {
        ptrdiff_t t = unit * job->step, last = fs_least(tiles, t + job->step);
        for (; t < last; t++) {
            F(start_tile_of_bundles)(job, &tile, t);
            F(sum_bundles)(job, &tile);
        }
        return;
    }
    const ptrdiff_t first = unit % chunks * CHUNK_OF_BUNDLES,
                    last = fs_least(job->n, first + CHUNK_OF_BUNDLES);
    F(weighted) *part = job->partial;
    F(start_tile_of_bundles)(job, &tile, unit / chunks);
    tile.full |= step == 2;
    if (step == 0) {
        F(max_of_chunk)(job, &tile, first, last);
        part[unit] = tile.whole;
        return;
    }
    for (ptrdiff_t c = unit / chunks * chunks, i = 0; i < chunks; i++)
        F(join_maxima)(&tile.whole, part[c + i].max, part[c + i].size, WAYS);
    F(sum_of_chunk)(job, &tile, first, last);
    part[tiles * chunks + unit] = tile.whole;
}
