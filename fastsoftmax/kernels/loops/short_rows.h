/* Short rows: worked on as columns of a transposed copy, with no sum or maximum across
 * lanes and one norm a lane. Lanes do not see each other, so a row's result is the same
 * bits whatever rows are beside it. Included by loops/rows.h.
 *
 * Rows are transposed by quads: four neighbours of LANES rows at once. The last quad of
 * a row may reach into the next one; so the last rows go through a copy, and quads are
 * stored from the last to the first, rows in ascending order. */
/* n up to which this is faster than row by row: float32 rows of 48 take 0.9 times as
 * long, rows of 64 1.15 times (AVX2, Zen 3). */
#define SHORT (6 * LANES)
#define SHORT_BYTES 16384 /* of rows at once: they fit the L1 cache */

typedef struct {
    ptrdiff_t first, count; /* the rows */
    ptrdiff_t n;            /* elements to a row */
    ptrdiff_t padded;       /* rows up to whole vectors: the length of a row of cells */
    REAL cells[SHORT_BYTES /
               sizeof(REAL)]; /* of whole quads: the last may hold anything */
    REAL rows[SHORT_BYTES / sizeof(REAL) + 3]; /* those not transposed in place */
} F(short_tile);

/* How many rows are transposed in place: whole vectors with at least one row behind
 * them, if all are `pitch` bytes apart, whole elements, and at least n. The last quad
 * reaches at most n elements behind its row, unless n is 1. */
static inline ptrdiff_t F(in_place)(const fs_job *job, const F(short_tile) *tile,
                                    ptrdiff_t pitch)
{
    ptrdiff_t size = sizeof(REAL);
    int regular = job->n_outer == 1 && pitch % size == 0 && pitch >= tile->n * size &&
                  tile->n > 1;
    return regular ? (tile->count - 1) / LANES * LANES : 0;
}

/* Copies the rows from `from` on, up to whole vectors of them. */
static void F(copy_short_rows)(const fs_job *job, ptrdiff_t from, F(short_tile) *tile)
{
    const fs_operand *source = &job->operand[FS_X];
    ptrdiff_t n = tile->n, row = from;
    int contiguous = job->n_outer == 1 && job->outer_step[0][FS_X] == n * source->n &&
                     (!job->operand[FS_MASK].data ||
                      job->outer_step[0][FS_MASK] == n * job->operand[FS_MASK].n);
    fs_line line = fs_locate(job, tile->first + from);
    if (contiguous) { /* as if it were one row */
        F(stage)(source, line.at[FS_X], source->n, line.at[FS_MASK],
                 job->operand[FS_MASK].n, (tile->count - from) * n, tile->rows);
        row = tile->count;
    }
    for (; row < tile->count; row++) {
        line = fs_locate(job, tile->first + row);
        F(stage)(source, line.at[FS_X], source->n, line.at[FS_MASK],
                 job->operand[FS_MASK].n, n, tile->rows + (row - from) * n);
    }
    for (ptrdiff_t i = (tile->count - from) * n; i < (tile->padded - from) * n; i++)
        tile->rows[i] = 0;
}

/* Pass 1: transposes the rows, and finds their ranges. */
static void F(gather)(const fs_job *job, F(short_tile) *tile, F(sets) *sets)
{
    ptrdiff_t in_place = job->operand[FS_X].direct
                             ? F(in_place)(job, tile, job->outer_step[0][FS_X])
                             : 0;
    const REAL *rows = (const REAL *)fs_locate(job, tile->first).at[FS_X];
    ptrdiff_t pitch =
        in_place ? job->outer_step[0][FS_X] / (ptrdiff_t)sizeof(REAL) : tile->n;
    F(copy_short_rows)(job, in_place, tile);
    for (ptrdiff_t j = 0; j < tile->padded; j += LANES, rows += LANES * pitch) {
        if (j == in_place) {
            rows = tile->rows;
            pitch = tile->n;
        }
        F(range) range = F(no_range)();
        VEC quad[4];
        for (ptrdiff_t i = 0; i < tile->n; i += 4) {
            V(load_quads)(rows + i, pitch, quad);
            for (int k = 0; k < 4 && i + k < tile->n; k++) {
                V(store)(tile->cells + (i + k) * tile->padded + j, quad[k]);
                F(add_lane_range)(quad[k], &range);
            }
        }
        F(keep_range)(range, sets, j);
    }
}

/* Pass 3: transposes the results back. */
static void F(scatter)(const fs_job *job, F(short_tile) *tile, int care,
                       const F(sets) *sets)
{
    ptrdiff_t n = tile->n,
              size = job->operand[FS_Y].type == REAL_TYPE ? sizeof(REAL) : 2;
    int contiguous = job->n_outer == 1 && job->outer_step[0][FS_Y] == n * size;
    ptrdiff_t in_place = contiguous && job->operand[FS_Y].type == REAL_TYPE
                             ? F(in_place)(job, tile, job->outer_step[0][FS_Y])
                             : 0;
    REAL *rows = (REAL *)fs_locate(job, tile->first).at[FS_Y];
    for (ptrdiff_t j = 0; j < tile->padded; j += LANES, rows += LANES * n) {
        if (j == in_place)
            rows = tile->rows;
        F(factor) factor = F(factor_at)(job->op, care, sets, j);
        VEC quad[4];
        for (ptrdiff_t i = (n - 1) / 4 * 4; i >= 0; i -= 4) {
            for (int k = 0; k < 4; k++)
                quad[k] = F(result)(job->op, care,
                                    V(load)(tile->cells + (i + k) * tile->padded + j),
                                    &factor);
            V(store_quads)(rows + i, n, quad);
        }
    }
    rows = tile->rows;
    ptrdiff_t step = contiguous ? tile->count - in_place : 1;
    for (ptrdiff_t row = in_place; row < tile->count; row += step, rows += step * n)
        F(write)(rows, step * n, fs_locate(job, tile->first + row).at[FS_Y],
                 job->operand[FS_Y].type);
}

static void F(write_short_log_sums)(const fs_job *job, const F(short_tile) *tile,
                                    const REAL *log_sums)
{
    ptrdiff_t size = fs_size_of(job->operand[FS_Y].type);
    int contiguous = job->n_outer == 1 && job->outer_step[0][FS_Y] == size;
    ptrdiff_t step = contiguous ? tile->count : 1;
    for (ptrdiff_t row = 0; row < tile->count; row += step)
        F(write)(log_sums + row, step, fs_locate(job, tile->first + row).at[FS_Y],
                 job->operand[FS_Y].type);
}

/* The job of the transposed copy: only what passes 2 and 3 look at is set. */
static inline void F(transposed)(const fs_job *job, ptrdiff_t padded, fs_job *columns)
{
    ptrdiff_t row = padded * (ptrdiff_t)sizeof(REAL);
    columns->op = job->op;
    columns->n = job->n;
    columns->n_outer = 0;
    columns->past_caches = 0;
    columns->operand[FS_MASK].data = NULL;
    columns->operand[FS_X] = columns->operand[FS_Y] = F(plain)(NULL, row);
    columns->watch = job->watch;
}

static void F(some_short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t count)
{
    F(short_tile) rows; /* large: not initialized as a whole, nor is `tile` */
    rows.first = first;
    rows.count = count;
    rows.n = job->n;
    rows.padded = (count + LANES - 1) / LANES * LANES;
    F(tile) tile;
    tile.line = (fs_line){{(char *)rows.cells}};
    tile.shape = F(shape_of)(job->n, rows.padded, 1);
    tile.cells = rows.cells;
    F(sets) *sets = &tile.run.lanes.sets;
    F(gather)(job, &rows, sets);
    fs_job columns;
    F(transposed)(job, rows.padded, &columns);
    F(tile_depth)(&columns, &tile);
    F(tile_sum)(&columns, &tile,
                &(F(soon)){(char *)rows.cells, (char *)rows.cells, 0, 0});
    F(tile_factors)(&columns, &tile);
    if (job->op == FS_LOGSUMEXP)
        F(write_short_log_sums)(job, &rows, sets->hi);
    else
        F(scatter)(job, &rows, tile.run.careful ? F(EXACT_TOO) : F(PLAIN), sets);
    for (ptrdiff_t j = 0; job->operand[FS_MASK].data && j < count; j++)
        if (job->op != FS_LOGSUMEXP && isnan(sets->hi[j]))
            F(rewrite_masked)(job, fs_locate(job, first + j), 0, job->n);
}

static void F(short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    ptrdiff_t room = SHORT_BYTES / (ptrdiff_t)sizeof(REAL) / ((job->n + 3) / 4 * 4);
    ptrdiff_t step = fs_least(FS_TILE, room / LANES * LANES);
    for (ptrdiff_t row = first; row < last; row += step)
        F(some_short_rows)(job, row, fs_least(step, last - row));
}
