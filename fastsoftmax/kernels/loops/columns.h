/* Columns: n rows of `inner` neighbouring elements, each column a set; n not too large.
 * Included by loops/rows.h.
 *
 * They are done in strips (strips.h): one by one where x and y are plain and a cache
 * holds them, else some side by side, row by row, as a tile.
 */

/* logsumexp: what is written of each of some neighbouring columns. */
static void F(write_sets)(const fs_job *job, char *to, ptrdiff_t columns,
                          const REAL *sets)
{
    const fs_operand *y = &job->operand[FS_Y];
    ptrdiff_t piece = y->inner == fs_size_of(y->type) ? columns : 1;
    for (ptrdiff_t j = 0; j < columns; j += piece)
        F(write)(sets + j, piece, to + j * y->inner, y->type);
}

/* ---- tiles ---- */

/* Bytes of a tile's cells, and lines to their rows at least: 600x10000 takes .98 ns an
 * element with 2, .68 with 4 and 8; 1333x2500 1.4, .98 and .89. Columns at most.
 * Elements to a unit of threads. */
enum {
    CELLS_BYTES = 65536,
    LEAST_LINES = 8,
    MOST_COLUMNS = 960 / (int)sizeof(REAL),
    UNIT_ELEMENTS = 32768
};

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

#include "loops/strips.h"

/* Some strips side by side, in whole lines. */
typedef struct {
    ptrdiff_t slab, column;
    fs_line line;
    F(shape) shape;
    F(pitches) pitch;
    const char *soon_x, *soon_y; /* of the first column */
    REAL *cells; /* x, then the terms; lanes too many are as the first */
    F(strip) strip[FS_TILE / LANES];
} F(tile);

/* Rows that are not plain, or less than a vector, into the cells; lanes too many are as
 * the first. */
static void F(stage_tile)(const fs_job *job, const F(tile) *tile)
{
    const fs_operand *x = &job->operand[FS_X];
    const F(shape) *shape = &tile->shape;
    F(rows_of) rows =
        F(rows_from)(shape, x, tile->line.at[FS_X], tile->line.at[FS_MASK],
                     &job->operand[FS_MASK], (REAL)NAN);
    for (ptrdiff_t row = 0; row < job->n; row++) {
        REAL *to = tile->cells + row * shape->padded;
        const REAL *from = (const REAL *)(tile->line.at[FS_X] + row * x->n);
        if (x->direct) {
            V(store)(to, V(load_part)(from, shape->columns, V(set)(from[0])));
            continue;
        }
        F(stage_row)(shape, &rows, row, to);
        for (ptrdiff_t i = shape->columns; i < shape->padded; i++) to[i] = to[0];
    }
}

/* Results in the cells go to y. */
static void F(put_tile)(const fs_job *job, const F(tile) *tile)
{
    const fs_operand *y = &job->operand[FS_Y];
    for (ptrdiff_t row = 0; row < job->n; row++) {
        const REAL *from = tile->cells + row * tile->shape.padded;
        if (y->type == REAL_TYPE)
            V(store_part)((REAL *)(tile->line.at[FS_Y] + row * y->n),
                          tile->shape.columns, V(load)(from));
        else
            F(put_row)(job, &tile->shape, tile->line.at[FS_Y], row, from);
    }
}

/* All of a tile. Rows that are plain, and a vector or more, are used where they are.
 * Terms are made while what is needed soon comes from memory. */
static void F(all_of_tile)(fs_job *job, F(tile) *tile)
{
    const fs_operand *x = &job->operand[FS_X], *y = &job->operand[FS_Y];
    const F(shape) *shape = &tile->shape;
    const ptrdiff_t padded = shape->padded, strips = padded / LANES,
                    size = sizeof(REAL);
    const int whole = shape->width >= LANES;
    const int in_place = x->direct && whole, direct = y->type == REAL_TYPE && whole;
    const REAL *from = in_place ? (const REAL *)tile->line.at[FS_X] : tile->cells;
    REAL *to = direct ? (REAL *)tile->line.at[FS_Y] : tile->cells;
    F(pitches) *pitch = &tile->pitch;
    pitch->x = in_place ? x->n / size : padded;
    pitch->y = direct ? y->n / size : padded;
    pitch->past_caches = direct && F(goes_past_caches)(job) && shape->width == padded &&
                         (uintptr_t)to % sizeof(VEC) == 0;
    if (!in_place)
        F(stage_tile)(job, tile);
    int told = 1;
    for (ptrdiff_t i = 0; i < strips; i++) { /* the last two may overlap */
        F(strip) *strip = &tile->strip[i];
        ptrdiff_t j = whole ? fs_least(i * LANES, shape->width - LANES) : 0;
        strip->slab = tile->slab;
        strip->column = tile->column + j;
        strip->columns = fs_least(LANES, shape->width);
        strip->x = from + j;
        strip->y = to + j;
        strip->cells = tile->cells + i * LANES;
        strip->soon_x = tile->soon_x + j * size;
        strip->soon_y = tile->soon_y + j * size;
        REAL lse[LANES] = {0};
        told = told && F(plain_logs)(job, strip->x, pitch->x, lse);
        if (told)
            F(write_sets)(job, tile->line.at[FS_Y] + j * y->inner, strip->columns, lse);
    }
    if (told)
        return;
    F(do_part_of)(job->op, STRIP_RANGE, 0, job->n, pitch, strips, tile->strip);
    int careful = 0;
    for (ptrdiff_t i = 0; i < strips; i++) {
        F(know_range)(job->op, job->n, padded, &tile->strip[i]);
        careful |= tile->strip[i].careful;
    }
    F(do_part_of)(job->op, STRIP_TERMS, careful, job->n, pitch, strips, tile->strip);
    int exact = F(know_sums)(job, padded, strips, tile->strip);
    if (!F(writes_all)(job->op))
        return;
    F(do_part_of)(job->op, STRIP_RESULTS, exact, job->n, pitch, strips, tile->strip);
    if (!direct)
        F(put_tile)(job, tile);
    for (ptrdiff_t j = 0; job->operand[FS_MASK].data && j < shape->columns; j++)
        if (isnan(to[j]))
            F(rewrite_masked)(job, fs_along_inner(job, tile->line, j), 0, job->n);
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
        tile.line = fs_along_inner(job, fs_locate(job, i / tiles), column);
        tile.shape = F(shape_of)(job->n, columns, 1);
        tile.pitch = (F(pitches)){0, 0, tile.shape.padded, 0, 0, 0};
        tile.slab = i / tiles;
        tile.column = column;
        tile.soon_x = tile.soon_y = (const char *)cells;
        if (job->operand[FS_X].direct && i + 1 < last && next < job->inner) {
            tile.soon_x = tile.line.at[FS_X] + columns * (ptrdiff_t)sizeof(REAL);
            tile.pitch.soon_x = job->operand[FS_X].n;
        }
        if (F(keeps_terms)(job) && !F(goes_past_caches)(job)) {
            tile.soon_y = tile.line.at[FS_Y];
            tile.pitch.soon_y = job->operand[FS_Y].n;
        }
        F(all_of_tile)(job, &tile);
    }
    if (job->past_caches)
        stream_fence();
}

/* ---- units ---- */

/* Tiles of some 32 thousand elements to a unit, if there are enough of them. */
static ptrdiff_t F(begin_tiles)(fs_job *job, int step)
{
    if (step > 0)
        return FS_RAISED(&job->lacks_memory) ? -1 : 0;
    job->lacks_memory = 0;
    ptrdiff_t tiles = job->outer * F(tiles_of_slab)(job);
    job->step = UNIT_ELEMENTS * F(tiles_of_slab)(job) / (job->n * job->inner);
    job->step = fs_least(job->step, tiles / (4 * job->threads));
    job->step = job->threads == 1 ? tiles : job->step < 1 ? 1 : job->step;
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
    ptrdiff_t lanes = job->loop == FS_STRIPS ? 2 * LANES : F(columns_of_tile)(job);
    lanes = (lanes + LANES - 1) / LANES * LANES;
    char *room = malloc((size_t)(job->n * lanes) * sizeof(REAL) + 64);
    if (!room) {
        FS_RAISE(&job->lacks_memory);
        return;
    }
    REAL *cells = (REAL *)(((uintptr_t)room + 63) / 64 * 64);
    ptrdiff_t first = F(end_of_unit)(job, unit), last = F(end_of_unit)(job, unit + 1);
    if (F(HAS_FEW) &&job->loop == FS_STRIPS)
        F(all_strips)(job, first, last, cells);
    else
        F(tiles)(job, first, last, cells);
    free(room);
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
