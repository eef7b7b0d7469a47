/* Columns: n rows of `inner` neighbouring elements, each column a set; n not too large.
 * Included by loops/rows.h.
 *
 * A tile is some whole columns. It is copied to a packed buffer while its range is
 * found, has its terms made there, in place, and its results written from there.
 */

/* logsumexp: what is written of each of some neighbouring columns. */
static void F(write_sets)(const fs_job *job, fs_line line, ptrdiff_t columns,
                          const F(sets) *sets)
{
    const fs_operand *y = &job->operand[FS_Y];
    ptrdiff_t piece = y->inner == fs_size_of(y->type) ? columns : 1;
    for (ptrdiff_t j = 0; j < columns; j += piece)
        F(write)(sets->hi + j, piece, line.at[FS_Y] + j * y->inner, y->type);
}

/* ---- tiles ---- */

/* Bytes of a tile's cells, and lines to their rows at least: 600x10000 takes .98 ns an
 * element with 2, .68 with 4 and 8; 1333x2500 1.4, .98 and .89. Columns at most: less
 * than FS_TILE by a vector, see put_run. Elements to a unit of threads. */
enum {
    CELLS_BYTES = 65536,
    LEAST_LINES = 8,
    MOST_COLUMNS = 960 / (int)sizeof(REAL),
    UNIT_ELEMENTS = 32768
};

/* Rows whose sums are added up apart, so that they lose little. */
enum { SETTLED = 128 };

typedef struct {
    fs_line line; /* IN: where it begins */
    F(shape) shape;
    REAL *cells; /* x, then the terms, in rows of shape.padded */
    F(run) run;
} F(tile);

static void F(no_ranges)(F(sets) *sets, ptrdiff_t first, ptrdiff_t last)
{
#pragma omp simd
    for (ptrdiff_t i = first; i < last; i++) {
        sets->max[i] = (REAL)-INFINITY;
        sets->min[i] = (REAL)INFINITY;
        sets->second[i] = (REAL)-INFINITY;
        sets->count[i] = 0;
    }
}

/* Up to a vector of `abreast` rows, into the cells and into the range. */
FS_INLINE void F(copy_vectors)(int op, int abreast, const REAL *const *x, ptrdiff_t i,
                               ptrdiff_t count, REAL *cells, ptrdiff_t padded,
                               F(sets) *sets)
{
    F(range) range = F(range_at)(sets, i);
    EACH
    {
        VEC here = F(load_some)(x[j] + i, count, V(set)((REAL)NAN));
        V(store)(cells + j * padded + i, here);
        F(add_lane_range)(op, here, &range);
    }
    F(keep_range)(range, sets, i);
}

FS_INLINE void F(copy_rows)(int op, int abreast, const REAL *const *x, REAL *cells,
                            const F(shape) *shape, F(sets) *sets)
{
    const ptrdiff_t width = shape->width, padded = shape->padded;
    ptrdiff_t i = 0;
    for (; i + LANES <= width; i += LANES)
        F(copy_vectors)(op, abreast, x, i, LANES, cells, padded, sets);
    if (i < width)
        F(copy_vectors)(op, abreast, x, i, width - i, cells, padded, sets);
}

/* What a tile's range decides. */
static void F(tile_depth)(const fs_job *job, F(tile) *tile)
{
    const F(shape) *shape = &tile->shape;
    F(lanes) *lanes = &tile->run.lanes;
    const REAL *x[1];
    int depth = F(find_depth)(job->op, job->n, shape->padded, &lanes->sets);
    if (depth & F(HAS_HOLES)) {
        REAL max[FS_TILE];
        memcpy(max, lanes->sets.max, sizeof max);
        F(no_ranges)(&lanes->sets, 0, shape->padded);
        memcpy(lanes->sets.max, max, sizeof max);
        for (ptrdiff_t row = 0; row < shape->rows; row++) {
            x[0] = tile->cells + row * shape->padded;
            F(finite_of_rows)(1, x, shape->padded, &lanes->sets);
        }
    }
    lanes->clamps = depth & F(IS_DEEP);
    F(sets) *sets = &lanes->sets;
    const int writes = F(writes_terms)(job->op);
    for (ptrdiff_t i = 0; !writes && i < shape->padded; i += LANES)
        V(store)(sets->second + i, F(visible_second)(F(range_at)(sets, i)));
    F(begin_terms)(shape->columns, shape->padded, writes ? sets->max : sets->second,
                   lanes);
}

/* Pass 1: x into the cells. */
FS_INLINE void F(tile_range_of)(int op, const fs_job *job, F(tile) *tile)
{
    const F(shape) *shape = &tile->shape;
    F(lanes) *lanes = &tile->run.lanes;
    F(rows_of) from =
        F(rows_from)(shape, &job->operand[FS_X], tile->line.at[FS_X],
                     tile->line.at[FS_MASK], &job->operand[FS_MASK], (REAL)NAN);
    F(no_ranges)(&lanes->sets, 0, shape->padded);
    const REAL *x[ABREAST];
    for (ptrdiff_t row = 0, abreast; row < shape->rows; row += abreast) {
        abreast = row + ABREAST <= shape->rows ? ABREAST : 1;
        REAL *cells = tile->cells + row * shape->padded;
        EACH x[j] = F(row_at)(shape, &from, row + j, cells + j * shape->padded);
        if (abreast == ABREAST) /* constants let the compiler unroll */
            F(copy_rows)(op, ABREAST, x, cells, shape, &lanes->sets);
        else
            F(copy_rows)(op, 1, x, cells, shape, &lanes->sets);
    }
}

static void F(tile_range)(const fs_job *job, F(tile) *tile)
{
    if (F(writes_terms)(job->op))
        F(tile_range_of)(FS_SOFTMAX, job, tile);
    else
        F(tile_range_of)(FS_LOG_SOFTMAX, job, tile);
    F(tile_depth)(job, tile);
}

/* Whether y goes past the caches: rows that begin anywhere in a line would leave too
 * many that are half written. */
static inline int F(goes_past_caches)(const fs_job *job)
{
    const fs_operand *y = &job->operand[FS_Y];
    return job->past_caches && y->type == REAL_TYPE && y->n % 64 == 0;
}

/* Columns of the line that y begins in, before it: tiles end where lines do. */
static inline ptrdiff_t F(columns_before)(const fs_job *job)
{
    uintptr_t y = (uintptr_t)job->operand[FS_Y].data;
    return F(goes_past_caches)(job) ? (ptrdiff_t)(y % 64 / sizeof(REAL)) : 0;
}

/* What is needed soon: x of the next tile, y of this one; bytes from row to row. */
typedef struct {
    const char *x, *y;
    ptrdiff_t x_step, y_step;
} F(soon);

/* The terms of `abreast` rows, in place if results are made of them. */
FS_INLINE void F(make_terms)(int writes, int careful, int abreast, REAL *cells,
                             ptrdiff_t padded, const F(soon) *soon, ptrdiff_t row,
                             F(lanes) *lanes)
{
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        F(shift) shift = {V(load)(lanes->least + i), V(load)(lanes->magic + i)};
        F(sum) sum = F(sum_at)(&lanes->sets, i);
        VEC here[ABREAST], s[ABREAST], q[ABREAST];
        EACH here[j] = V(load)(cells + j * padded + i);
        if (!writes) /* NaN stay */
            EACH here[j] = V(min)(V(load)(lanes->sets.second + i), here[j]);
        EACH fs_prefetch(soon->x,
                         (row + j) * soon->x_step + i * (ptrdiff_t)sizeof(REAL));
        EACH fs_prefetch(soon->y,
                         (row + j) * soon->y_step + i * (ptrdiff_t)sizeof(REAL));
        if (careful)
            EACH here[j] = V(sub)(here[j], V(load)(lanes->off + i));
        F(exp_terms)(careful || !writes, abreast, here, &shift, s, q);
        EACH
        {
            VEC term = F(term)(s[j], q[j]);
            F(add_term)(&sum, s[j], q[j], term);
            if (writes)
                V(store)(cells + j * padded + i, term);
        }
        V(store)(lanes->sets.total + i, sum.total);
        V(store)(lanes->sets.lost + i, sum.lost);
    }
}

/* The sums of the latest rows are added to those before. */
static void F(settle)(ptrdiff_t padded, F(sets) *sets, REAL *sum, REAL *rest)
{
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        VEC more = V(sub)(V(load)(sets->total + i), V(set)(ABOVE)); /* exact */
        VEC before = V(load)(sum + i), both = V(add)(before, more);
        VEC added = V(sub)(both, before); /* TwoSum */
        VEC lost = V(add)(V(sub)(before, V(sub)(both, added)), V(sub)(more, added));
        lost = V(add)(lost, V(load)(sets->lost + i));
        V(store)(sum + i, both);
        V(store)(rest + i, V(add)(V(load)(rest + i), lost));
        V(store)(sets->total + i, V(set)(ABOVE));
        V(store)(sets->lost + i, V(set)(0));
    }
}

/* Pass 2, while what is needed soon comes from memory. */
FS_INLINE void F(tile_sum_of)(int writes, F(tile) *tile, const F(soon) *soon)
{
    const F(shape) *shape = &tile->shape;
    F(lanes) *lanes = &tile->run.lanes;
    REAL sum[FS_TILE], rest[FS_TILE];
#pragma omp simd
    for (ptrdiff_t i = 0; i < shape->padded; i++) {
        sum[i] = rest[i] = lanes->sets.lost[i] = 0;
        lanes->sets.total[i] = ABOVE;
    }
    const int careful = lanes->lowers || (writes && lanes->clamps);
    for (ptrdiff_t row = 0; row < shape->rows;) {
        ptrdiff_t abreast = row + ABREAST <= shape->rows ? ABREAST : 1;
        REAL *cells = tile->cells + row * shape->padded;
#define MAKE(careful, abreast)                                                         \
    F(make_terms)(writes, careful, abreast, cells, shape->padded, soon, row, lanes)
        if (abreast == ABREAST && !careful) /* constants let the compiler unroll */
            MAKE(0, ABREAST);
        else if (abreast == ABREAST)
            MAKE(1, ABREAST);
        else
            MAKE(1, 1);
#undef MAKE
        row += abreast;
        if (row % SETTLED == 0 || row == shape->rows)
            F(settle)(shape->padded, &lanes->sets, sum, rest);
    }
    memcpy(lanes->sets.total, sum, sizeof sum);
    memcpy(lanes->sets.lost, rest, sizeof rest);
}

static void F(tile_sum)(const fs_job *job, F(tile) *tile, const F(soon) *soon)
{
    if (F(writes_terms)(job->op))
        F(tile_sum_of)(1, tile, soon);
    else
        F(tile_sum_of)(0, tile, soon);
}

/* The factors, or logarithms. A set that is looked at again is still in the cells, but
 * for logsumexp, which may need what was not rounded. */
static void F(tile_factors)(fs_job *job, F(tile) *tile)
{
    ptrdiff_t columns = tile->shape.columns;
    F(sets) *sets = &tile->run.lanes.sets;
    int exact = F(finish_sets)(job->op, tile->shape.padded, sets);
    int all = F(writes_all)(job->op);
    fs_operand cells =
        F(plain)(tile->cells, tile->shape.padded * (ptrdiff_t)sizeof(REAL));
    for (ptrdiff_t j = 0; !F(writes_terms)(job->op) && j < columns; j++)
        if (F(is_special)(job->op, 0, sets, j)) {
            fs_line line = fs_along_inner(job, tile->line, j);
            if (all) {
                line.at[FS_X] = (char *)(tile->cells + j);
                line.at[FS_MASK] = NULL;
            }
            F(special_log_sum)(job->op, job, all ? &cells : &job->operand[FS_X], line,
                               sets, j);
        }
    int deep = F(writes_terms)(job->op) && tile->run.lanes.clamps;
    tile->run.careful = exact || deep;
    tile->run.period = columns;
}

/* Pass 3. */
static void F(tile_results)(const fs_job *job, F(tile) *tile)
{
    const F(shape) *shape = &tile->shape;
    if (!F(writes_all)(job->op)) {
        F(write_sets)(job, tile->line, shape->columns, &tile->run.lanes.sets);
        return;
    }
    const fs_operand *y = &job->operand[FS_Y];
    const ptrdiff_t padded = shape->padded, pitch = y->n / (ptrdiff_t)sizeof(REAL);
    const int direct = y->type == REAL_TYPE;
    REAL *to = direct ? (REAL *)tile->line.at[FS_Y] : tile->cells;
    tile->run.past_caches = F(goes_past_caches)(job);
    tile->run.made = MADE;
    F(put_runs)(job->op, shape->rows, tile->cells, padded, to, direct ? pitch : padded,
                shape->width, &tile->run);
    for (ptrdiff_t row = 0; !direct && row < shape->rows; row++)
        F(put_row)(job, shape, tile->line.at[FS_Y], row, to + row * padded);
    for (ptrdiff_t j = 0; job->operand[FS_MASK].data && j < shape->columns; j++)
        if (isnan(tile->run.lanes.sets.hi[j]))
            F(rewrite_masked)(job, fs_along_inner(job, tile->line, j), 0, job->n);
}

/* ---- few rows ---- */

/* A vector of columns whose n is so small is done in registers: softmax of 3x100000
 * takes .6 times as long as by tiles, of 7x5000 .7, of 15x5000 .72 (AVX2: .85). */
enum { FEW_OF_COLUMN = 15 };

/* Terms of `abreast` rows of cells, in place, added to the sum. */
FS_INLINE void F(few_terms)(int abreast, REAL *cells, const F(shift) *shift,
                            F(sum) *sum)
{
    VEC x[ABREAST], s[ABREAST], q[ABREAST];
    EACH x[j] = V(load)(cells + j * LANES);
    F(exp_terms)(0, abreast, x, shift, s, q);
    EACH
    {
        VEC term = F(term)(s[j], q[j]);
        F(add_term)(sum, s[j], q[j], term);
        V(store)(cells + j * LANES, term);
    }
}

/* softmax of up to a vector of columns, as tiles have it; 0 where something is rare,
 * and nothing is done. */
static int F(small_columns)(ptrdiff_t columns, ptrdiff_t n, const REAL *x,
                            ptrdiff_t x_pitch, REAL *y, ptrdiff_t y_pitch)
{
    REAL cells[FEW_OF_COLUMN * LANES];
    F(range) range = F(no_range)();
    for (ptrdiff_t i = 0; i < n; i++) {
        VEC here = F(load_some)(x + i * x_pitch, columns, V(set)(0));
        V(store)(cells + i * LANES, here);
        F(add_range)(FS_SOFTMAX, here, &range);
    }
    VEC one = V(set)(1), off = F(subtrahend)(range.max);
    if (V(any_less)(V(set)(0), V(mul)(off, off)) || V(any_less)(F(rest_of)(range), one))
        return 0;
    F(shift) shift = F(shift_by)(F(exponent_of)(range.max));
    F(sum) sum = F(no_terms)();
    ptrdiff_t i = 0;
    for (; i + ABREAST <= n; i += ABREAST)
        F(few_terms)(ABREAST, cells + i * LANES, &shift, &sum);
    switch (n - i) { /* constants let the compiler unroll */
    case 3: F(few_terms)(3, cells + i * LANES, &shift, &sum); break;
    case 2: F(few_terms)(2, cells + i * LANES, &shift, &sum); break;
    case 1: F(few_terms)(1, cells + i * LANES, &shift, &sum); break;
    }
    sum.total = V(sub)(sum.total, V(set)(ABOVE)); /* exact */
    F(factor) factor = F(factor_of)(sum, one);
    const int exact = F(may_be_exact)(range, sum);
    if (exact)
        F(set_exact)(range, sum, V(div)(one, V(set)((REAL)n)), &factor);
    for (i = 0; i < n; i++) {
        VEC e = V(load)(cells + i * LANES), result;
        if (exact)
            result = F(result)(FS_SOFTMAX, F(EXACT_TOO), e, &factor);
        else
            result = F(result)(FS_SOFTMAX, F(PLAIN), e, &factor);
        F(store_some)(y + i * y_pitch, columns, result);
    }
    return 1;
}

/* How many columns of a tile are done so, from its first on. */
static ptrdiff_t F(small_columns_of_tile)(const fs_job *job, const F(tile) *tile)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    const ptrdiff_t x_pitch = x->n / (ptrdiff_t)sizeof(REAL), n = job->n;
    const ptrdiff_t y_pitch = y->n / (ptrdiff_t)sizeof(REAL);
    const REAL *from = (const REAL *)tile->line.at[FS_X];
    REAL *to = (REAL *)tile->line.at[FS_Y];
    ptrdiff_t c = 0, columns = tile->shape.columns;
    if (LANES == 1 || n > FEW_OF_COLUMN || !x->direct || y->type != REAL_TYPE ||
        job->past_caches || !F(writes_terms)(job->op))
        return 0;
    while (c < columns &&
           F(small_columns)(columns - c, n, from + c, x_pitch, to + c, y_pitch))
        c += LANES;
    return fs_least(c, columns);
}

/* Columns to a tile: as many as suit its cells, in whole lines. */
static ptrdiff_t F(columns_of_tile)(const fs_job *job)
{
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(REAL);
    ptrdiff_t columns = CELLS_BYTES / (ptrdiff_t)sizeof(REAL) / job->n / line * line;
    columns = columns < LEAST_LINES * line ? LEAST_LINES * line
                                           : fs_least(columns, MOST_COLUMNS);
    if (job->threads > 1) {
        ptrdiff_t share = job->outer * job->inner / (2 * job->threads) / line * line;
        columns =
            share < LEAST_LINES * line ? LEAST_LINES * line : fs_least(columns, share);
    }
    return fs_least(columns, job->inner);
}

static inline ptrdiff_t F(tiles_of_slab)(const fs_job *job)
{
    if (job->loop == FS_STRIPS)
        return (job->inner + LANES - 1) / LANES;
    ptrdiff_t columns = F(columns_of_tile)(job);
    return (job->inner + F(columns_before)(job) + columns - 1) / columns;
}

static inline void F(begin_tile)(const fs_job *job, ptrdiff_t slab, ptrdiff_t first,
                                 ptrdiff_t columns, F(tile) *tile)
{
    tile->line = fs_along_inner(job, fs_locate(job, slab), first);
    tile->shape = F(shape_of)(job->n, columns, 1);
}

/* Tiles from `first` to `last`, of all slabs' one behind the other. */
static void F(tiles)(fs_job *job, ptrdiff_t first, ptrdiff_t last, REAL *cells)
{
    const ptrdiff_t most = F(columns_of_tile)(job), tiles = F(tiles_of_slab)(job);
    const ptrdiff_t before = F(columns_before)(job);
    F(tile) tile;
    tile.cells = cells;
    for (ptrdiff_t i = first; i < last && !(i > first && fs_poll(job->watch)); i++) {
        ptrdiff_t next = (i % tiles + 1) * most - before;
        ptrdiff_t column = i % tiles > 0 ? next - most : 0;
        ptrdiff_t columns = fs_least(next, job->inner) - column;
        F(begin_tile)(job, i / tiles, column, columns, &tile);
        ptrdiff_t done = F(small_columns_of_tile)(job, &tile);
        if (done == columns)
            continue;
        columns -= done;
        F(begin_tile)(job, i / tiles, column + done, columns, &tile);
        F(tile_range)(job, &tile);
        int goes_on = job->operand[FS_X].direct && i + 1 < last && next < job->inner;
        const char *here = (const char *)cells;
        F(soon) soon = {here, here, 0, 0};
        if (goes_on) {
            soon.x = tile.line.at[FS_X] + columns * (ptrdiff_t)sizeof(REAL);
            soon.x_step = job->operand[FS_X].n;
        }
        if (F(keeps_terms)(job) && !F(goes_past_caches)(job)) {
            soon.y = tile.line.at[FS_Y];
            soon.y_step = job->operand[FS_Y].n;
        }
        F(tile_sum)(job, &tile, &soon);
        F(tile_factors)(job, &tile);
        F(tile_results)(job, &tile);
    }
    if (job->past_caches)
        stream_fence();
}

#include "loops/strips.h"

/* ---- units ---- */

/* Elements of a thread's cells. */
static size_t F(room_of)(const fs_job *job)
{
    ptrdiff_t lanes = job->loop == FS_STRIPS ? 2 * LANES : F(columns_of_tile)(job);
    return (size_t)(job->n * ((lanes + LANES - 1) / LANES * LANES));
}

/* Cells for every thread, behind flags that tell which are taken. Tiles of some 32
 * thousand elements to a unit, if there are enough of them. */
static ptrdiff_t F(begin_tiles)(fs_job *job, int step)
{
    if (step > 0) {
        free(job->partial);
        return 0;
    }
    ptrdiff_t tiles = job->outer * F(tiles_of_slab)(job);
    job->step = UNIT_ELEMENTS * F(tiles_of_slab)(job) / (job->n * job->inner);
    job->step = fs_least(job->step, tiles / (4 * job->threads));
    job->step = job->threads == 1 ? tiles : job->step < 1 ? 1 : job->step;
    size_t flags = (size_t)job->threads * sizeof(fs_flag);
    job->partial =
        malloc(flags + (size_t)job->threads * F(room_of)(job) * sizeof(REAL) + 128);
    if (!job->partial)
        return -1;
    memset(job->partial, 0, flags);
    return (tiles + job->step - 1) / job->step;
}

/* No unit ends between the last two strips of a slab, which overlap. */
static inline ptrdiff_t F(end_of_unit)(const fs_job *job, ptrdiff_t unit)
{
    ptrdiff_t tiles = F(tiles_of_slab)(job);
    ptrdiff_t end = fs_least(unit * job->step, job->outer * tiles);
    return end - (job->loop == FS_STRIPS && tiles > 1 && end % tiles == tiles - 1);
}

static void F(unit_of_tiles)(fs_job *job, ptrdiff_t unit)
{
    fs_flag *taken = job->partial;
    uintptr_t rooms = (uintptr_t)(taken + job->threads);
    int room = 0; /* a free one: no more threads than rooms do this */
    while (!FS_TAKE(&taken[room])) room = room + 1 < job->threads ? room + 1 : 0;
    REAL *cells = (REAL *)((rooms + 63) / 64 * 64) + (size_t)room * F(room_of)(job);
    ptrdiff_t first = F(end_of_unit)(job, unit), last = F(end_of_unit)(job, unit + 1);
    if (F(HAS_STRIPS) &&job->loop == FS_STRIPS)
        F(all_strips)(job, first, last, cells);
    else
        F(tiles)(job, first, last, cells);
    FS_GIVE_BACK(&taken[room]);
}

/* The gradients, as yet by tiles of their own. */
static void F(gradients)(fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = (job->inner + job->step - 1) / job->step;
    ptrdiff_t first = index % tiles * job->step;
    ptrdiff_t width = fs_least(job->step, job->inner - first);
    F(shape) shape = F(shape_of)(job->n, width, F(fold_of)(job));
    F(vjp_columns)(job, fs_along_inner(job, fs_locate(job, index / tiles), first),
                   &shape);
}
