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

/* The rows at lanes j, j + 1 ... of a tile. */
FS_INLINE F(scores)
    F(scores_of_columns)(ptrdiff_t j, ptrdiff_t count, int has_label,
                         F(hinge_cells) *cells, const F(hinge_tile) *tile)
{
    return (F(scores)){cells->x + j,
                       cells->masked ? cells->kept + j : NULL,
                       cells->x + j,
                       FS_HINGE_TILE,
                       count * FS_HINGE_TILE,
                       has_label,
                       V(load)(cells->label + j),
                       V(set)(0),
                       V(set)(1),
                       V(load)(tile->hi + j),
                       V(load)(tile->lo + j),
                       V(load)(tile->slope + j)};
}

FS_INLINE void F(terms_of_columns)(const F(scores) *s, ptrdiff_t j, int p,
                                   fs_written written, F(hinge_tile) *tile)
{
    F(double_sums) terms = F(no_double_sums)(), slopes = terms;
    terms.even = V(wide_load)(tile->terms + j);
    slopes.even = V(wide_load)(tile->slopes + j);
    F(hinge_terms)(1, s, p, written, &terms, &slopes);
    V(wide_store)(tile->terms + j, terms.even);
    V(wide_store)(tile->slopes + j, slopes.even);
}

static void F(hinge_columns)(fs_job *job, const fs_line *line, ptrdiff_t width,
                             F(hinge_tile) *tile)
{
    F(hinge_cells) cells;
    const int largest = job->largest && job->written != FS_PAIRS;
    const int has_label = line->at[FS_LABELS] != NULL;
    for (ptrdiff_t first = 0; first < job->n; first += HINGE_CHUNK) {
        ptrdiff_t count = fs_least(HINGE_CHUNK, job->n - first);
        if (first > 0 && first % BLOCK == 0 && fs_poll(job->watch))
            return;
        F(fill_cells)(job, line, width, first, count, tile, &cells);
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            F(scores) s = F(scores_of_columns)(j, count, has_label, &cells, tile);
            REAL best[LANES], at[LANES];
            VEC place = s.places;
            if (largest)
                V(store)(best, F(largest_scores)(1, &s, &place));
            else if (job->written == FS_NOTHING) /* constants leave out of the loop */
                F(terms_of_columns)(&s, j, job->p, FS_NOTHING, tile);
            else
                F(terms_of_columns)(&s, j, job->p, job->written, tile);
            V(store)(at, place);
            for (ptrdiff_t k = j; largest && k < fs_least(width, j + LANES); k++) {
                fs_hinge_part before = {0, 0, tile->best[k], tile->best_at[k]};
                fs_hinge_part here = {0, 0, best[k - j], first + (ptrdiff_t)at[k - j]};
                here = fs_hinge_join(before, here);
                tile->best[k] = here.best;
                tile->best_at[k] = here.best_at;
            }
        }
        if (largest && job->written != FS_NOTHING) /* zeros, at first */
            memset(cells.x, 0, sizeof cells.x);
        if (job->written != FS_NOTHING)
            F(put_cells)(job, line, width, first, count, &cells);
    }
}
#undef HINGE_CHUNK
