/* Columns: n rows of `inner` neighbouring elements, each column a line of its own.
 * Every lane is a column with its own maximum, shift and sums; included by
 * loops/rows.h.
 *
 * A tile that fits its cells is copied there on its way in and stays until the results
 * leave. Of a taller one x is read again in every pass, and y keeps the terms. Where
 * columns are folded, maxima are joined between passes 1 and 2, sums between 2 and 3.
 */

/* Room for a tile, and the bytes of a row that tiles are not narrowed below in order to
 * fit. float64 128x4096 takes 0.4 times as long with rows of 256 bytes as with 64,
 * whatever the room; float32 128x4096 1.1 times with 16 KiB, and no cell gains from 64
 * KiB and more (AVX2, Zen 3, L1 32 KiB). */
#define CELLS_BYTES 32768
#define NARROW_BYTES 256

typedef struct {
    fs_line line;    /* IN: where the tile begins */
    REAL *cells;     /* IN: x, then the terms, in rows of `padded`; NULL: no room */
    F(shape) shape;  /* IN */
    F(rows_of) from; /* where the next pass reads */
    int lowers;      /* whether something is to be taken off some column first */
    int care;        /* what results need */
    F(sets) sets;
    REAL off[FS_TILE];                   /* what that is */
    REAL least[FS_TILE], magic[FS_TILE]; /* an F(shift) */
    REAL total[FS_TILE], lost[FS_TILE];  /* an F(sum) over the latest rows */
    double sum[FS_TILE], error[FS_TILE]; /* the sums of those before, as pairs */
} F(tile);

/* The next pass reads plain REALs at `place`. */
static inline void F(read_from)(F(tile) *tile, void *place, ptrdiff_t step_n)
{
    fs_operand source = F(plain)(place, step_n);
    tile->from =
        F(rows_from)(&tile->shape, &source, place, NULL, NULL, (REAL)-INFINITY);
}

static inline void F(read_from_cells)(F(tile) *tile)
{
    F(read_from)(tile, tile->cells, 0);
    tile->from.step = tile->shape.padded * (ptrdiff_t)sizeof(REAL);
    tile->from.whole = tile->shape.rows;
}

/* ---- pass 1 ---- */

/* The ranges over `abreast` rows and those before; the rows go to `to`, if anywhere. */
FS_INLINE void F(range_of_rows)(int op, int abreast, const REAL *const *x,
                                REAL *const *to, ptrdiff_t padded, F(sets) *sets)
{
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        F(range) range = F(range_at)(sets, i);
        EACH
        {
            VEC here = V(load)(x[j] + i);
            if (to[0])
                V(store)(to[j] + i, here);
            F(add_range)(op, here, &range);
        }
        V(store)(sets->max + i, range.max);
        V(store)(sets->min + i, range.min);
    }
}

/* Whether x, which is not plain REALs, is staged into y by pass 1, for the others. */
static inline int F(stages_into_y)(const fs_job *job, const F(tile) *tile)
{
    return !tile->cells && !job->operand[FS_X].direct && F(keeps_terms)(job);
}

/* Columns that are folded: the ranges of each become those of the whole column. */
static void F(join_ranges)(F(tile) *tile)
{
    REAL *max = tile->sets.max, *min = tile->sets.min;
    ptrdiff_t columns = tile->shape.columns;
    for (ptrdiff_t i = columns; i < tile->shape.width; i++) {
        max[i % columns] = max[i] > max[i % columns] ? max[i] : max[i % columns];
        min[i % columns] = min[i] < min[i % columns] ? min[i] : min[i % columns];
    }
    for (ptrdiff_t i = columns; i < tile->shape.width; i++) {
        max[i] = max[i % columns];
        min[i] = min[i % columns];
    }
}

/* Columns that hold -inf: their least other element, and how many there are. */
static void F(look_past_holes)(F(tile) *tile)
{
    REAL buffer[FS_TILE], *min = tile->sets.min, *count = tile->sets.count;
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES) {
        V(store)(min + i, V(set)((REAL)INFINITY));
        V(store)(count + i, V(set)(0));
    }
    for (ptrdiff_t row = 0; row < tile->shape.rows; row++) {
        const REAL *x = F(read_row)(&tile->shape, &tile->from, row, buffer);
        for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES) {
            VEC least = V(load)(min + i), kept = V(load)(count + i);
            F(add_finite)(V(load)(x + i), &least, &kept);
            V(store)(min + i, least);
            V(store)(count + i, kept);
        }
    }
    for (ptrdiff_t i = tile->shape.columns; i < tile->shape.width; i++)
        count[i % tile->shape.columns] += count[i];
    F(join_ranges)(tile);
}

static void F(tile_max)(fs_job *job, F(tile) *tile)
{
    REAL buffer[ABREAST][FS_TILE];
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES) {
        V(store)(tile->sets.max + i, F(no_range)().max);
        V(store)(tile->sets.min + i, F(no_range)().min);
    }
    for (ptrdiff_t row = 0; row < tile->shape.rows; row += ABREAST) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(job->watch))
            return;
        int abreast = (int)fs_least(ABREAST, tile->shape.rows - row);
        const REAL *x[ABREAST];
        REAL *to[ABREAST] = {NULL};
        EACH
        {
            if (tile->cells && tile->from.x != (const char *)tile->cells)
                to[j] = tile->cells + (row + j) * tile->shape.padded;
            else if (F(stages_into_y)(job, tile))
                to[j] = F(y_row)(job, &tile->shape, tile->line.at[FS_Y], row + j,
                                 buffer[j]);
            x[j] = F(read_row)(&tile->shape, &tile->from, row + j,
                               to[j] ? to[j] : buffer[j]);
        }
        if (abreast == ABREAST) /* a constant lets the compiler unroll */
            F(range_of_rows)(FS_SOFTMAX, ABREAST, x, to, tile->shape.padded,
                             &tile->sets);
        else
            F(range_of_rows)(FS_SOFTMAX, abreast, x, to, tile->shape.padded,
                             &tile->sets);
        EACH if (F(stages_into_y)(job, tile))
            F(put_row)(job, &tile->shape, tile->line.at[FS_Y], row + j, to[j]);
    }
    if (tile->cells)
        F(read_from_cells)(tile);
    else if (F(stages_into_y)(job, tile))
        F(read_from)(tile, tile->line.at[FS_Y], job->operand[FS_Y].n);
    F(join_ranges)(tile);
}

/* ---- pass 2 ---- */

/* A row less what is to be taken off its columns first: in place where that is nothing.
 */
static inline const REAL *F(lowered_row)(const REAL *x, const F(tile) *tile,
                                         REAL *buffer)
{
    if (!tile->lowers)
        return x;
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES)
        V(store)(buffer + i, V(sub)(V(load)(x + i), V(load)(tile->off + i)));
    return buffer;
}

/* The terms of `abreast` rows at columns i to i + LANES are added to the sums;
 * softmax's go to e. */
FS_INLINE void F(column_terms)(int abreast, const REAL *const *x, REAL *const *e,
                               ptrdiff_t i, int keeps, F(tile) *tile)
{
    F(shift) shift = {V(load)(tile->least + i), V(load)(tile->magic + i)};
    F(sum) sum = {V(load)(tile->total + i), V(load)(tile->lost + i)};
    VEC here[ABREAST], s[ABREAST], q[ABREAST];
    EACH here[j] = V(load)(x[j] + i);
    F(exp_terms)(1, abreast, here, &shift, s, q);
    EACH
    {
        VEC term = F(term)(s[j], q[j]);
        F(add_term)(&sum, s[j], q[j], term);
        if (keeps)
            V(store)(e[j] + i, term);
    }
    V(store)(tile->total + i, sum.total);
    V(store)(tile->lost + i, sum.lost);
}

FS_INLINE void F(terms_of_some)(int abreast, const REAL *const *x, REAL *const *e,
                                int keeps, F(tile) *tile)
{
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES)
        F(column_terms)(abreast, x, e, i, keeps, tile);
}

/* Constants let the compiler unroll and leave out what is not needed. */
static void F(terms_of_rows)(int abreast, const REAL *const *x, REAL *const *e,
                             int keeps, F(tile) *tile)
{
    switch (keeps ? abreast : -abreast) {
    case 4: F(terms_of_some)(4, x, e, 1, tile); break;
    case 3: F(terms_of_some)(3, x, e, 1, tile); break;
    case 2: F(terms_of_some)(2, x, e, 1, tile); break;
    case 1: F(terms_of_some)(1, x, e, 1, tile); break;
    case -4: F(terms_of_some)(4, x, e, 0, tile); break;
    case -3: F(terms_of_some)(3, x, e, 0, tile); break;
    case -2: F(terms_of_some)(2, x, e, 0, tile); break;
    case -1: F(terms_of_some)(1, x, e, 0, tile); break;
    }
}

static void F(begin_sums)(int op, ptrdiff_t n, F(tile) *tile)
{
    int depth = F(find_depth)(op, n, tile->shape.padded, &tile->sets);
    tile->care = depth & F(IS_DEEP) ? F(DEEP_TOO) : F(PLAIN);
    if (depth & F(HAS_HOLES))
        F(look_past_holes)(tile);
    tile->lowers = 0;
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES) {
        VEC max = V(load)(tile->sets.max + i), off = F(subtrahend)(max);
        F(shift) shift = F(shift_for)(max);
        V(store)(tile->off + i, off);
        V(store)(tile->least + i, shift.least);
        V(store)(tile->magic + i, shift.magic);
        V(store)(tile->total + i, V(set)(ABOVE));
        V(store)(tile->lost + i, V(set)(0));
    }
    for (ptrdiff_t i = 0; i < tile->shape.width; i++) tile->lowers |= tile->off[i] != 0;
}

/* Moves the latest rows' sums to those of the `before` blocks before. */
static void F(settle)(F(tile) *tile, ptrdiff_t before)
{
    for (ptrdiff_t i = 0; i < tile->shape.padded; i++) {
        fs_pair latest = {tile->total[i] - ABOVE, tile->lost[i]};
#if !T_IS_F32 /* f32 adds both up */
        latest = fs_two_sum(latest.hi, latest.lo);
#endif
        if (before > 0)
            latest = fs_pair_add((fs_pair){tile->sum[i], tile->error[i]}, latest);
        tile->sum[i] = latest.hi;
        tile->error[i] = latest.lo;
        tile->total[i] = ABOVE;
        tile->lost[i] = 0;
    }
}

static void F(tile_sum)(fs_job *job, F(tile) *tile)
{
    REAL buffer[ABREAST][FS_TILE];
    int stores = job->op == FS_SOFTMAX, keeps = stores && F(keeps_terms)(job);
    F(begin_sums)(job->op, job->n, tile);
    for (ptrdiff_t row = 0; row < tile->shape.rows; row += ABREAST) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(job->watch))
            return;
        int abreast = (int)fs_least(ABREAST, tile->shape.rows - row);
        const REAL *x[ABREAST];
        REAL *e[ABREAST];
        EACH
        {
            x[j] = F(read_row)(&tile->shape, &tile->from, row + j, buffer[j]);
            x[j] = F(lowered_row)(x[j], tile, buffer[j]);
            e[j] = tile->cells ? tile->cells + (row + j) * tile->shape.padded
                   : keeps ? F(y_row)(job, &tile->shape, tile->line.at[FS_Y], row + j,
                                      buffer[j])
                           : buffer[j];
        }
        F(terms_of_rows)(abreast, x, e, stores, tile);
        EACH if (!tile->cells && keeps)
            F(put_row)(job, &tile->shape, tile->line.at[FS_Y], row + j, e[j]);
        if (row + ABREAST >= tile->shape.rows || row % BLOCK == BLOCK - ABREAST)
            F(settle)(tile, row / BLOCK);
    }
    if (!tile->cells && keeps)
        F(read_from)(tile, tile->line.at[FS_Y], job->operand[FS_Y].n);
}

static void F(join_sums)(F(tile) *tile)
{
    double *sum = tile->sum, *error = tile->error;
    for (ptrdiff_t i = tile->shape.columns; i < tile->shape.width;
         i += tile->shape.columns)
        for (ptrdiff_t c = 0; c < tile->shape.columns; c++) {
            fs_pair all = {sum[c], error[c]}, more = {sum[i + c], error[i + c]};
            all = fs_pair_add(all, more);
            sum[c] = all.hi;
            error[c] = all.lo;
        }
    for (ptrdiff_t c = 0; c < tile->shape.columns; c++) {
        tile->sets.total[c] = (REAL)(sum[c] + error[c]);
        tile->sets.lost[c] = (REAL)((sum[c] - tile->sets.total[c]) + error[c]);
    }
}

/* What column c has becomes that of columns c + columns, c + 2 columns, ... */
static void F(spread_factors)(F(tile) *tile)
{
    F(sets) *sets = &tile->sets;
    ptrdiff_t columns = tile->shape.columns;
    for (ptrdiff_t i = columns; i < tile->shape.width; i++) {
        sets->hi[i] = sets->hi[i - columns];
        sets->lo[i] = sets->lo[i - columns];
        sets->rest[i] = sets->rest[i - columns];
        sets->top[i] = sets->top[i - columns];
        sets->share[i] = sets->share[i - columns];
    }
}

/* What pass 3 multiplies with or subtracts. */
static void F(tile_factors)(fs_job *job, F(tile) *tile)
{
    F(join_sums)(tile);
    if (F(finish_sets)(job->op, tile->shape.columns, &tile->sets))
        tile->care = F(EXACT_TOO);
    ptrdiff_t longest = fs_least(BLOCK, tile->shape.rows);
    double doubt = F(doubt)(job->n, longest);
    int moved = F(stages_into_y)(job, tile); /* to y: x itself may be there no more */
    const fs_operand *source = moved ? &tile->from.source : &job->operand[FS_X];
    for (ptrdiff_t j = 0; job->op != FS_SOFTMAX && j < tile->shape.columns; j++) {
        if (!F(is_special)(job->op, doubt, &tile->sets, j))
            continue;
        fs_line line = fs_along_inner(job, tile->line, j);
        line.at[FS_X] = moved ? line.at[FS_Y] : line.at[FS_X];
        line.at[FS_MASK] = moved ? NULL : line.at[FS_MASK];
        F(special_log_sum)(job->op, job, source, line, &tile->sets, j);
    }
    F(spread_factors)(tile);
}

static void F(write_log_sums)(const fs_job *job, const F(tile) *tile)
{
    ptrdiff_t size = fs_size_of(job->operand[FS_Y].type);
    char *y = tile->line.at[FS_Y];
    if (job->operand[FS_Y].inner == size) {
        F(write)(tile->sets.hi, tile->shape.columns, y, job->operand[FS_Y].type);
        return;
    }
    for (ptrdiff_t j = 0; j < tile->shape.columns; j++)
        F(write)(tile->sets.hi + j, 1, y + j * job->operand[FS_Y].inner,
                 job->operand[FS_Y].type);
}

/* ---- pass 3 ---- */

/* The results of `abreast` rows of x, which holds terms where they are kept. */
FS_INLINE void F(finish_rows)(int abreast, int op, int care, int terms_are_kept,
                              const REAL *const *x, REAL *const *to,
                              const F(tile) *tile)
{
    for (ptrdiff_t i = 0; i < tile->shape.padded; i += LANES) {
        F(factor) factor = F(factor_at)(op, care, &tile->sets, i);
        VEC here[ABREAST], s[ABREAST], q[ABREAST];
        EACH here[j] = V(load)(x[j] + i);
        if (op == FS_SOFTMAX && !terms_are_kept) {
            F(shift) shift = {V(load)(tile->least + i), V(load)(tile->magic + i)};
            F(exp_terms)(1, abreast, here, &shift, s, q);
            EACH here[j] = F(term)(s[j], q[j]);
        }
        EACH V(store)(to[j] + i, F(result)(op, care, here[j], &factor));
    }
}

static void F(tile_finish)(fs_job *job, F(tile) *tile)
{
    REAL buffer[ABREAST][FS_TILE];
    int are_kept = tile->cells || F(keeps_terms)(job);
    for (ptrdiff_t row = 0; row < tile->shape.rows; row += ABREAST) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(job->watch))
            return;
        int abreast = (int)fs_least(ABREAST, tile->shape.rows - row);
        const REAL *x[ABREAST];
        REAL *to[ABREAST];
        EACH
        {
            x[j] = F(read_row)(&tile->shape, &tile->from, row + j, buffer[j]);
            if (job->op == FS_SOFTMAX && !are_kept)
                x[j] = F(lowered_row)(x[j], tile, buffer[j]);
            to[j] =
                F(y_row)(job, &tile->shape, tile->line.at[FS_Y], row + j, buffer[j]);
        }
        if (abreast == ABREAST && job->op != FS_SOFTMAX)
            F(finish_rows)(ABREAST, FS_LOG_SOFTMAX, F(PLAIN), 1, x, to, tile);
        else if (abreast == ABREAST && are_kept && tile->care == F(PLAIN))
            F(finish_rows)(ABREAST, FS_SOFTMAX, F(PLAIN), 1, x, to, tile);
        else
            F(finish_rows)(abreast, job->op, tile->care, are_kept, x, to, tile);
        EACH F(put_row)(job, &tile->shape, tile->line.at[FS_Y], row + j, to[j]);
    }
}

/* All passes of one tile; `tile` holds the factors then. */
static void F(work_tile)(fs_job *job, F(tile) *tile)
{
    tile->from =
        F(rows_from)(&tile->shape, &job->operand[FS_X], tile->line.at[FS_X],
                     tile->line.at[FS_MASK], &job->operand[FS_MASK], (REAL)-INFINITY);
    F(tile_max)(job, tile);
    F(tile_sum)(job, tile);
    F(tile_factors)(job, tile);
    if (job->op == FS_LOGSUMEXP)
        F(write_log_sums)(job, tile);
    else if (!fs_stopped(job->watch))
        F(tile_finish)(job, tile);
}

/* The tile's width that makes the best of `cells`, at most `width` columns; NULL for no
 * cells where it does not fit. */
static ptrdiff_t F(fit_tile)(const F(shape) *shape, REAL **cells)
{
    ptrdiff_t room = CELLS_BYTES / (ptrdiff_t)sizeof(REAL) / shape->rows;
    ptrdiff_t narrow = NARROW_BYTES / sizeof(REAL);
    if (shape->padded <= room)
        return shape->columns;
    if (room >= narrow && room < shape->columns)
        return room / narrow * narrow;
    *cells = NULL;
    return shape->columns;
}

static void F(rewrite_masked_column)(fs_job *job, fs_line line)
{
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += BLOCK)
        F(rewrite_masked)(job, line, i, fs_least(job->n, i + BLOCK));
}

static void F(columns)(fs_job *job, ptrdiff_t index)
{
    ptrdiff_t tiles = (job->inner + job->step - 1) / job->step;
    ptrdiff_t first = index % tiles * job->step;
    ptrdiff_t width = fs_least(job->step, job->inner - first), fold = F(fold_of)(job);
    fs_line line = fs_along_inner(job, fs_locate(job, index / tiles), first);
    F(shape) shape = F(shape_of)(job->n, width, fold);
    if (F(is_vjp)(job)) {
        F(vjp_columns)(job, line, &shape);
        return;
    }
    F(tile) tile;
    REAL cells[CELLS_BYTES / sizeof(REAL)];
    tile.cells = cells;
    ptrdiff_t step = F(fit_tile)(&shape, &tile.cells);
    for (ptrdiff_t at = 0; at < width && !fs_stopped(job->watch); at += step) {
        tile.line = fs_along_inner(job, line, at);
        tile.shape = F(shape_of)(job->n, fs_least(step, width - at), fold);
        F(work_tile)(job, &tile);
        for (ptrdiff_t j = 0; job->operand[FS_MASK].data && j < tile.shape.columns; j++)
            if (job->op != FS_LOGSUMEXP && isnan(tile.sets.hi[j]))
                F(rewrite_masked_column)(job, fs_along_inner(job, tile.line, j));
    }
}
