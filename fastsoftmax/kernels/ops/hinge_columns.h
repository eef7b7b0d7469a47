/* Hinge losses where every lane is a row: of columns, and of short rows. Included by
 * ops/hinge.h. */

/* This many scores of a tile's rows fit the L1 cache. */
#define HINGE_CHUNK 16

/* Some scores of all rows of a tile: of each row the first, then of each the second ...
 */
typedef struct {
    REAL x[HINGE_CHUNK * FS_HINGE_TILE], kept[HINGE_CHUNK * FS_HINGE_TILE];
    REAL label[FS_HINGE_TILE]; /* where the positive is among them; or below 0 */
    int masked;                /* whether `kept` says which of them count */
} F(hinge_cells);

/* How many of `width` rows are read, or written, by quads of `count` neighbours. */
static ptrdiff_t F(rows_by_quads)(const fs_operand *a, int plain, ptrdiff_t width,
                                  ptrdiff_t count)
{
    const ptrdiff_t size = sizeof(REAL);
    int quads = plain && count >= 4 && a->n == size && a->inner % size == 0;
    return quads ? width / LANES * LANES : 0;
}

/* Scores [first, first + count) of every row. */
static void F(fill_cells)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                          ptrdiff_t first, ptrdiff_t count, const F(hinge_tile) *tile,
                          F(hinge_cells) *cells)
{
    const fs_operand *x = &job->operand[FS_X], *mask = &job->operand[FS_MASK];
    const char *from = F(score_at)(job, line, FS_X, first, 0);
    const ptrdiff_t some = F(rows_by_quads)(x, x->direct, width, count);
    for (ptrdiff_t j = 0; j < some; j += LANES)
        for (ptrdiff_t i = 0; i < count; i += 4) {
            ptrdiff_t at = fs_least(i, count - 4);
            VEC quad[4];
            V(load_quads)((const REAL *)(from + j * x->inner) + at,
                          x->inner / (ptrdiff_t)sizeof(REAL), quad);
            for (int k = 0; k < 4; k++)
                V(store)(cells->x + (at + k) * FS_HINGE_TILE + j, quad[k]);
        }
    cells->masked = line->at[FS_MASK] != NULL;
    for (ptrdiff_t i = 0; i < count; i++) {
        ptrdiff_t at = i * FS_HINGE_TILE;
        if (some < width)
            F(stage)(x, from + i * x->n + some * x->inner, x->inner, NULL, 0,
                     width - some, cells->x + at + some);
        if (cells->masked)
            F(keep)(line->at[FS_MASK] + (first + i) * mask->n, mask->inner, width,
                    cells->kept + at);
    }
    for (ptrdiff_t j = 0; j < width; j++) {
        ptrdiff_t i = tile->label[j] - first;
        cells->label[j] = i < count ? (REAL)i : -1;
    }
}

/* What fill_cells does, back to the results. */
static void F(put_cells)(const fs_job *job, const fs_line *line, ptrdiff_t width,
                         ptrdiff_t first, ptrdiff_t count, const F(hinge_cells) *cells)
{
    const fs_operand *y = &job->operand[FS_Y];
    char *to = line->at[FS_Y] + first * y->n;
    const ptrdiff_t some = F(rows_by_quads)(y, y->type == REAL_TYPE, width, count);
    for (ptrdiff_t j = 0; j < some; j += LANES)
        for (ptrdiff_t i = 0; i < count; i += 4) {
            ptrdiff_t at = fs_least(i, count - 4);
            VEC quad[4];
            for (int k = 0; k < 4; k++)
                quad[k] = V(load)(cells->x + (at + k) * FS_HINGE_TILE + j);
            V(store_quads)((REAL *)(to + j * y->inner) + at,
                           y->inner / (ptrdiff_t)sizeof(REAL), quad);
        }
    for (ptrdiff_t i = 0; some < width && i < count; i++)
        F(put)(cells->x + i * FS_HINGE_TILE + some, width - some,
               to + i * y->n + some * y->inner, y->inner, y->type);
}

/* `instead` of `a`, for score i of the rows at lanes j, j + 1 ..., where it does not
 * count. */
FS_INLINE VEC F(only_cells)(VEC a, const F(hinge_cells) *cells, ptrdiff_t i,
                            ptrdiff_t j, VEC instead)
{
    if (cells->masked) {
        VEC kept = V(load)(cells->kept + i * FS_HINGE_TILE + j);
        a = V(if_equal)(kept, V(set)(0), instead, a);
    }
    return V(if_equal)(V(load)(cells->label + j), V(set)((REAL)i), instead, a);
}

/* Adds up the terms of `count` scores of the rows at lanes j, j + 1 ...; what is
 * written of them takes the place of the scores. */
FS_INLINE void F(terms_of_columns)(ptrdiff_t j, ptrdiff_t count, int p,
                                   fs_written written, F(hinge_cells) *cells,
                                   F(hinge_tile) *tile)
{
    VEC hi = V(load)(tile->hi + j), lo = V(load)(tile->lo + j);
    VEC slope = V(load)(tile->slope + j);
    REAL t[HINGE_CHUNK * LANES];
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL *x = cells->x + i * FS_HINGE_TILE + j;
        VEC here = V(max)(V(set)(0), F(excess)(V(load)(x), hi, lo));
        here = F(only_cells)(here, cells, i, j, V(set)(0));
        V(store)(t + i * LANES, here);
        if (written != FS_NOTHING)
            V(store)(x, written == FS_GRADIENT ? F(slope_of)(here, slope, p)
                                               : F(pair_of)(here, slope, p));
    }
    V(wide) terms = V(wide_load)(tile->terms + j);
    V(wide) slopes = V(wide_load)(tile->slopes + j);
    for (ptrdiff_t i = 0; i < count; i++) {
        terms = F(add_wide)(p == 2, terms, t + i * LANES, t + i * LANES);
        if (written != FS_NOTHING)
            slopes = V(wide_add)(slopes, cells->x + i * FS_HINGE_TILE + j);
    }
    V(wide_store)(tile->terms + j, terms);
    V(wide_store)(tile->slopes + j, slopes);
}

static ptrdiff_t F(first_nan_of_column)(REAL hi, const F(hinge_cells) *cells,
                                        ptrdiff_t count, ptrdiff_t j)
{
    ptrdiff_t i = 0;
    for (; i < count - 1; i++) {
        ptrdiff_t at = i * FS_HINGE_TILE + j;
        int kept = (!cells->masked || cells->kept[at]) && cells->label[j] != (REAL)i;
        if (kept && isnan(cells->x[at] + hi))
            break;
    }
    return i;
}

/* What F(hinge_best) does for a row, for the rows at lanes j, j + 1 ... */
static void F(best_of_columns)(ptrdiff_t j, ptrdiff_t width, ptrdiff_t first,
                               ptrdiff_t count, const F(hinge_cells) *cells,
                               F(hinge_tile) *tile)
{
    VEC zero = V(set)(0), one = V(set)(1), none = V(set)((REAL)-INFINITY);
    VEC best = none, at = zero, undefined = zero, index = zero;
    VEC hi = V(load)(tile->hi + j);
    for (ptrdiff_t i = 0; i < count; i++) {
        VEC s = V(load)(cells->x + i * FS_HINGE_TILE + j);
        VEC z = F(only_cells)(V(add)(s, hi), cells, i, j, zero);
        s = F(only_cells)(s, cells, i, j, none);
        undefined = V(if_equal)(z, z, undefined, one);
        at = V(if_less)(best, s, index, at);
        best = V(max)(s, best);
        index = V(add)(index, one);
    }
    REAL bests[LANES], places[LANES], nans[LANES];
    V(store)(bests, best);
    V(store)(places, at);
    V(store)(nans, undefined);
    for (ptrdiff_t k = 0; k < fs_least(LANES, width - j); k++) {
        fs_hinge_part before = {0, 0, tile->best[j + k], tile->best_at[j + k]};
        fs_hinge_part here = {0, 0, bests[k], -1};
        if (nans[k] > 0) {
            here.best = NAN;
            here.best_at =
                first + F(first_nan_of_column)(tile->hi[j + k], cells, count, j + k);
        } else if (here.best > -INFINITY) {
            here.best_at = first + (ptrdiff_t)places[k];
        }
        here = fs_hinge_join(before, here);
        tile->best[j + k] = here.best;
        tile->best_at[j + k] = here.best_at;
    }
}

static void F(hinge_columns)(fs_job *job, const fs_line *line, ptrdiff_t width,
                             F(hinge_tile) *tile)
{
    F(hinge_cells) cells;
    int best = job->largest && job->written != FS_PAIRS;
    for (ptrdiff_t first = 0; first < job->n; first += HINGE_CHUNK) {
        ptrdiff_t count = fs_least(HINGE_CHUNK, job->n - first);
        if (first > 0 && first % BLOCK == 0 && fs_poll(job->watch))
            return;
        F(fill_cells)(job, line, width, first, count, tile, &cells);
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            if (best)
                F(best_of_columns)(j, width, first, count, &cells, tile);
            else if (job->written == FS_NOTHING) /* constants leave out of the loop */
                F(terms_of_columns)(j, count, job->p, FS_NOTHING, &cells, tile);
            else
                F(terms_of_columns)(j, count, job->p, job->written, &cells, tile);
        }
        if (best && job->written != FS_NOTHING) /* zeros, at first */
            memset(cells.x, 0, sizeof cells.x);
        if (job->written != FS_NOTHING)
            F(put_cells)(job, line, width, first, count, &cells);
    }
}
#undef HINGE_CHUNK
