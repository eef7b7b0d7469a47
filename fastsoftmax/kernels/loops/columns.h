/* Columns: n rows of `inner` neighbouring elements, each column a set; n not too large.
 * Included by loops/rows.h.
 *
 * A tile is some whole columns. It is copied to a packed buffer while its range is
 * found, has its terms made there, in place, and its results written from there. Tiles
 * of a vector's width, strips, are worked on three at a time, in one loop.
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
FS_INLINE void F(copy_vectors)(int abreast, const REAL *const *x, ptrdiff_t i,
                               ptrdiff_t count, REAL *cells, ptrdiff_t padded,
                               F(sets) *sets)
{
    F(range) range = F(range_at)(sets, i);
    EACH
    {
        VEC here = F(load_some)(x[j] + i, count, V(set)((REAL)NAN));
        V(store)(cells + j * padded + i, here);
        F(add_lane_range)(here, &range);
    }
    F(keep_range)(range, sets, i);
}

FS_INLINE void F(copy_rows)(int abreast, const REAL *const *x, REAL *cells,
                            const F(shape) *shape, F(sets) *sets)
{
    const ptrdiff_t width = shape->width, padded = shape->padded;
    ptrdiff_t i = 0;
    for (; i + LANES <= width; i += LANES)
        F(copy_vectors)(abreast, x, i, LANES, cells, padded, sets);
    if (i < width)
        F(copy_vectors)(abreast, x, i, width - i, cells, padded, sets);
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
static void F(tile_range)(const fs_job *job, F(tile) *tile)
{
    const F(shape) *shape = &tile->shape;
    F(lanes) *lanes = &tile->run.lanes;
    F(rows_of) from =
        F(rows_from)(shape, &job->operand[FS_X], tile->line.at[FS_X],
                     tile->line.at[FS_MASK], &job->operand[FS_MASK], (REAL)NAN);
    F(no_ranges)(&lanes->sets, 0, shape->padded);
    const REAL *x[ABREAST];
    for (ptrdiff_t row = 0; row < shape->rows; row += ABREAST) {
        int abreast = (int)fs_least(ABREAST, shape->rows - row);
        REAL *cells = tile->cells + row * shape->padded;
        EACH x[j] = F(row_at)(shape, &from, row + j, cells + j * shape->padded);
        switch (abreast) { /* constants let the compiler unroll */
        case 4: F(copy_rows)(4, x, cells, shape, &lanes->sets); break;
        case 3: F(copy_rows)(3, x, cells, shape, &lanes->sets); break;
        case 2: F(copy_rows)(2, x, cells, shape, &lanes->sets); break;
        default: F(copy_rows)(1, x, cells, shape, &lanes->sets); break;
        }
    }
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
        int abreast = (int)fs_least(ABREAST, shape->rows - row);
        if (careful && abreast < ABREAST)
            abreast = 1;
        REAL *cells = tile->cells + row * shape->padded;
#define MAKE(careful, abreast)                                                         \
    F(make_terms)(writes, careful, abreast, cells, shape->padded, soon, row, lanes)
        switch (careful ? -abreast : abreast) { /* constants let the compiler unroll */
        case 4: MAKE(0, 4); break;
        case 3: MAKE(0, 3); break;
        case 2: MAKE(0, 2); break;
        case 1: MAKE(0, 1); break;
        case -4: MAKE(1, 4); break;
        default: MAKE(1, 1); break;
        }
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
    for (ptrdiff_t j = 0; deep && !exact && j < tile->shape.padded; j++)
        sets->top[j] = (REAL)NAN;
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
    if (job->cut == FS_BY_STRIPS)
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

/* ---- strips ---- */

/* What the rows of three strips are read from and written to. */
typedef struct {
    const REAL *x; /* of the next */
    REAL *y;       /* of the one before */
    REAL *cells;   /* of this one */
    REAL *other;   /* of the one before; row by row they become the next one's */
    ptrdiff_t x_step, y_step;
    ptrdiff_t ahead; /* bytes */
} F(strip_rows);

/* Whether strips are worth their code: AVX-512 takes 1.1 to 1.4 times as long without
 * them, AVX2 with its 16 registers 0.8 to 1.1 times. */
enum { F(HAS_STRIPS) = sizeof(VEC) >= 64 };

/* Strips are asked for so many rows before they are read: two at least, as L1 may hold.
 */
enum { ROWS_AHEAD = 48 };

/* What a loop over the rows of strips does. */
enum { STRIP_RANGE = 1, STRIP_TERMS = 2, STRIP_RESULTS = 4 };

/* `abreast` rows: the terms of this strip, the results of the one before, the range of
 * the next. */
FS_INLINE void F(do_strip_rows)(int op, int parts, int careful, int abreast,
                                ptrdiff_t row, const F(strip_rows) *rows,
                                const F(shift) *shift, VEC second, VEC off,
                                const F(factor) *factor, F(sum) *sum, F(range) *range)
{
    VEC x[ABREAST], s[ABREAST], q[ABREAST], e[ABREAST];
    if (parts & STRIP_TERMS) {
        EACH x[j] = V(load)(rows->cells + (row + j) * LANES);
        if (!F(writes_terms)(op))
            EACH x[j] = V(min)(second, x[j]);
        if (careful)
            EACH x[j] = V(sub)(x[j], off);
        F(exp_terms)(careful || !F(writes_terms)(op), abreast, x, shift, s, q);
        EACH e[j] = F(term)(s[j], q[j]);
        if (F(writes_terms)(op))
            EACH V(store)(rows->cells + (row + j) * LANES, e[j]);
    }
    if (parts & STRIP_RESULTS)
        EACH
        {
            VEC a = V(load)(rows->other + (row + j) * LANES);
            REAL *y = rows->y + (row + j) * rows->y_step;
            fs_prefetch(y, rows->ahead);
            V(store)(y, F(result)(op, careful ? F(EXACT_TOO) : F(PLAIN), a, factor));
        }
    if (parts & STRIP_RANGE)
        EACH
        {
            const REAL *from = rows->x + (row + j) * rows->x_step;
            fs_prefetch(from, rows->ahead);
            VEC a = V(load)(from);
            V(store)(rows->other + (row + j) * LANES, a);
            F(add_lane_range)(a, range);
        }
    if (parts & STRIP_TERMS)
        EACH F(add_term)(sum, s[j], q[j], e[j]);
}

/* All rows, of up to three strips. */
FS_INLINE void F(do_strips)(int op, int parts, int careful, ptrdiff_t n,
                            const F(strip_rows) *rows, F(tile) *const strip[3])
{
    F(lanes) *here = &strip[1]->run.lanes;
    REAL total[LANES], lost[LANES];
    F(shift) shift;
    F(factor) factor;
    VEC second, off;
    F(sum) sum;
    F(range) range = F(no_range)();
    if (parts & STRIP_RESULTS)
        factor = F(factor_at)(op, careful ? F(EXACT_TOO) : F(PLAIN),
                              &strip[0]->run.lanes.sets, 0);
    if (parts & STRIP_TERMS) {
        shift = (F(shift)){V(load)(here->least), V(load)(here->magic)};
        second = V(load)(here->sets.second);
        off = V(load)(here->off);
        V(store)(total, V(set)(0));
        V(store)(lost, V(set)(0));
    }
    for (ptrdiff_t row = 0; row < n;) {
        ptrdiff_t end = fs_least(n, row + SETTLED);
        sum = F(no_terms)();
        for (; row + ABREAST <= end; row += ABREAST)
            F(do_strip_rows)(op, parts, careful, ABREAST, row, rows, &shift, second,
                             off, &factor, &sum, &range);
        for (; row < end; row++)
            F(do_strip_rows)(op, parts, careful, 1, row, rows, &shift, second, off,
                             &factor, &sum, &range);
        if (parts & STRIP_TERMS) {
            V(store)(here->sets.total, sum.total);
            V(store)(here->sets.lost, sum.lost);
            F(settle)(LANES, &here->sets, total, lost);
        }
    }
    if (parts & STRIP_TERMS) {
        memcpy(here->sets.total, total, sizeof total);
        memcpy(here->sets.lost, lost, sizeof lost);
    }
    if (parts & STRIP_RANGE) {
        if (F(writes_terms)(op))
            range.second = range.max;
        else
            range.min = range.max;
        F(keep_range)(range, &strip[2]->run.lanes.sets, 0);
    }
}

/* All parts of an operation that are in one loop. */
enum { STRIP_LOG = STRIP_RANGE | STRIP_TERMS, STRIP_ALL = STRIP_LOG | STRIP_RESULTS };

FS_INLINE int F(all_parts)(int op)
{
    return F(writes_all)(op) ? STRIP_ALL : STRIP_LOG;
}

/* Constants let the compiler leave out what is not needed. */
FS_INLINE void F(do_parts)(int op, int parts, int careful, ptrdiff_t n,
                           const F(strip_rows) *rows, F(tile) *const strip[3])
{
#define DO(parts, careful) F(do_strips)(op, parts, careful, n, rows, strip)
    if (parts == STRIP_ALL)
        DO(STRIP_ALL, 0);
    else if (!F(writes_terms)(op) && parts == STRIP_LOG)
        DO(STRIP_LOG, 0);
    else if (parts == STRIP_RANGE)
        DO(STRIP_RANGE, 0);
    else if (parts == STRIP_TERMS && careful)
        DO(STRIP_TERMS, 1);
    else if (parts == STRIP_TERMS)
        DO(STRIP_TERMS, 0);
    else if (F(writes_terms)(op) && careful)
        DO(STRIP_RESULTS, 1);
    else
        DO(STRIP_RESULTS, 0);
#undef DO
}

static void F(do_parts_of)(int op, int parts, int careful, ptrdiff_t n,
                           const F(strip_rows) *rows, F(tile) *const strip[3])
{
    if (F(writes_terms)(op))
        F(do_parts)(FS_SOFTMAX, parts, careful, n, rows, strip);
    else
        F(do_parts)(FS_LOG_SOFTMAX, parts, careful, n, rows, strip);
}

/* Strip `index` of all slabs' one behind the other. The last of a slab overlaps the one
 * before, whose results are written after its x is read. */
static inline void F(begin_strip)(const fs_job *job, ptrdiff_t index, F(tile) *tile)
{
    ptrdiff_t strips = (job->inner + LANES - 1) / LANES;
    ptrdiff_t first = fs_least(index % strips * LANES, job->inner - LANES);
    F(begin_tile)(job, index / strips, first, LANES, tile);
}

/* Parts of up to three strips: before, here, next. In one loop where nothing is rare:
 * what each waits for is found while the others are worked on. */
static void F(step_of_strips)(const fs_job *job, int parts, F(tile) *const strip[3])
{
    const ptrdiff_t size = sizeof(REAL), n = job->n;
    F(strip_rows) rows = {NULL,
                          NULL,
                          strip[1]->cells,
                          strip[2]->cells,
                          job->operand[FS_X].n / size,
                          job->operand[FS_Y].n / size,
                          (ROWS_AHEAD + n - 1) / n * 64};
    const F(lanes) *here = &strip[1]->run.lanes;
    int is_rare = here->lowers || (here->clamps && F(writes_terms)(job->op));
    if (parts & STRIP_RANGE)
        rows.x = (const REAL *)strip[2]->line.at[FS_X];
    if (parts & STRIP_RESULTS)
        rows.y = (REAL *)strip[0]->line.at[FS_Y];
    int were_rare = (parts & STRIP_RESULTS) && strip[0]->run.careful;
    if (parts == F(all_parts)(job->op) && !is_rare && !were_rare) {
        F(do_parts_of)(job->op, parts, 0, n, &rows, strip);
        return;
    }
    if (parts & STRIP_RESULTS)
        F(do_parts_of)(job->op, STRIP_RESULTS, strip[0]->run.careful, n, &rows, strip);
    if (parts & STRIP_TERMS)
        F(do_parts_of)(job->op, STRIP_TERMS, is_rare, n, &rows, strip);
    if (parts & STRIP_RANGE)
        F(do_parts_of)(job->op, STRIP_RANGE, 0, n, &rows, strip);
}

static void F(all_strips)(fs_job *job, ptrdiff_t first, ptrdiff_t last, REAL *cells)
{
    F(tile) ring[3];
    for (int j = 0; j < 3; j++) ring[j].cells = cells;
    for (ptrdiff_t i = first - 1; i <= last; i++) {
        F(tile) *strip[3]; /* before, here, next; the cells of two are the same */
        for (int j = 0; j < 3; j++) strip[j] = &ring[(i - first + 3 + j) % 3];
        strip[2]->cells = cells + (i + 1 - first) % 2 * job->n * LANES;
        int parts = (i > first && F(writes_all)(job->op) ? STRIP_RESULTS : 0) |
                    (i + 1 < last ? STRIP_RANGE : 0) |
                    (i >= first && i < last ? STRIP_TERMS : 0);
        if (parts & STRIP_RANGE)
            F(begin_strip)(job, i + 1, strip[2]);
        F(step_of_strips)(job, parts, strip);
        if (parts & STRIP_RANGE)
            F(tile_depth)(job, strip[2]);
        if (parts & STRIP_TERMS)
            F(tile_factors)(job, strip[1]);
        if ((parts & STRIP_TERMS) && !F(writes_all)(job->op))
            F(write_sets)(job, strip[1]->line, LANES, &strip[1]->run.lanes.sets);
        if (i % 16 == 0 && fs_poll(job->watch))
            return;
    }
}

/* ---- units ---- */

/* Elements of a thread's cells. */
static size_t F(room_of)(const fs_job *job)
{
    ptrdiff_t lanes = job->cut == FS_BY_STRIPS ? 2 * LANES : F(columns_of_tile)(job);
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
    return end - (job->cut == FS_BY_STRIPS && tiles > 1 && end % tiles == tiles - 1);
}

static void F(unit_of_tiles)(fs_job *job, ptrdiff_t unit)
{
    fs_flag *taken = job->partial;
    uintptr_t rooms = (uintptr_t)(taken + job->threads);
    int room = 0; /* a free one: no more threads than rooms do this */
    while (!FS_TAKE(&taken[room])) room = room + 1 < job->threads ? room + 1 : 0;
    REAL *cells = (REAL *)((rooms + 63) / 64 * 64) + (size_t)room * F(room_of)(job);
    ptrdiff_t first = F(end_of_unit)(job, unit), last = F(end_of_unit)(job, unit + 1);
    if (F(HAS_STRIPS) &&job->cut == FS_BY_STRIPS)
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
