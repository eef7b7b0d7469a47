/* Strips: tiles of columns as wide as a vector, three at a time in one loop: the range
 * of the next, the terms of this one, the results of the one before. Included by
 * loops/columns.h.
 */

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
            F(add_lane_range)(op, a, range);
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
    if (parts & STRIP_RANGE)
        F(keep_range)(range, &strip[2]->run.lanes.sets, 0);
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
