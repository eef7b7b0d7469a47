/* Strips: as many neighbouring columns as a vector has lanes, n not too large. Included
 * by loops/columns.h.
 *
 * A strip is copied to a packed buffer while its range is found, has its terms made
 * there, in place, and its results written from there.
 */

/* Whether three strips are worked on in one loop: the range of the next, the terms of
 * this one, the results of the one before. AVX-512 takes 1.2 times as long without it
 * (600x1000); 16 registers are too few. */
enum { F(HAS_STRIPS) = sizeof(VEC) >= 64 };

/* Rows whose sums are added up apart, so that they lose little. */
enum { SETTLED = 128 };

/* What a loop over the rows of strips does; of few rows nothing is settled, nor asked
 * for ahead. */
enum { STRIP_RANGE = 1, STRIP_TERMS = 2, STRIP_RESULTS = 4, STRIP_FEW = 8 };

/* Elements from row to row: of x, of y, of the cells. Bytes: of what is needed soon. */
typedef struct {
    ptrdiff_t x, y, cells, soon_x, soon_y;
    int past_caches; /* where y goes */
    ptrdiff_t ahead;
} F(pitches);

typedef struct {
    ptrdiff_t slab, column, columns; /* of the job */
    const REAL *x;
    REAL *y;
    const char *soon_x, *soon_y; /* asked for meanwhile */
    REAL *cells;                 /* x, then its terms */
    F(range) range;
    VEC count;    /* of elements above -inf */
    VEC top, off; /* what the shift suits: max or second; what is taken off first */
    F(shift) shift;
    F(sum) sum;
    F(factor) factor;
    int careful, exact; /* whether its terms, its results need all care */
} F(strip);

/* `abreast` rows: the results of `before`, the terms of `here`, the range of `next`,
 * whose cells may be those of `before`. */
FS_INLINE void F(do_strip_rows)(int op, int parts, int careful, int abreast,
                                ptrdiff_t row, const F(pitches) *pitch,
                                const F(strip) *before, F(strip) *here, F(strip) *next)
{
    VEC x[ABREAST], s[ABREAST], q[ABREAST], e[ABREAST];
    if (parts & STRIP_TERMS) {
        EACH x[j] = V(load)(here->cells + (row + j) * pitch->cells);
        if (!(parts & STRIP_FEW)) {
            EACH fs_prefetch(here->soon_x, (row + j) * pitch->soon_x);
            EACH fs_prefetch(here->soon_y, (row + j) * pitch->soon_y);
        }
        if (!F(writes_terms)(op)) /* NaN stay */
            EACH x[j] = V(min)(here->top, x[j]);
        if (careful)
            EACH x[j] = V(sub)(x[j], here->off);
        F(exp_terms)(careful || !F(writes_terms)(op), abreast, x, &here->shift, s, q);
        EACH e[j] = F(term)(s[j], q[j]);
        if (F(writes_terms)(op))
            EACH V(store)(here->cells + (row + j) * pitch->cells, e[j]);
    }
    if (parts & STRIP_RESULTS) {
        const int care = careful ? F(EXACT_TOO) : F(PLAIN);
        EACH x[j] = V(load)(before->cells + (row + j) * pitch->cells);
        EACH x[j] = F(result)(op, care, x[j], &before->factor);
        if (pitch->past_caches)
            EACH V(stream)(before->y + (row + j) * pitch->y, x[j]);
        else
            EACH V(store)(before->y + (row + j) * pitch->y, x[j]);
    }
    if (parts & STRIP_RANGE) {
        EACH x[j] = V(load)(next->x + (row + j) * pitch->x);
        EACH V(store)(next->cells + (row + j) * pitch->cells, x[j]);
        EACH F(add_lane_range)(op, x[j], &next->range);
    }
    if (parts & STRIP_TERMS)
        EACH F(add_term)(&here->sum, s[j], q[j], e[j]);
}

/* The sum of the latest rows is added to that of those before. */
FS_INLINE void F(settle)(F(sum) latest, F(sum) *all)
{
    VEC more = V(sub)(latest.total, V(set)(ABOVE)); /* exact */
    VEC before = all->total, both = V(add)(before, more);
    VEC lost = F(sum_rest)(before, more, both);
    all->total = both;
    all->lost = V(add)(all->lost, V(add)(lost, latest.lost));
}

/* All rows, of up to three strips in one loop: what changes stays in registers. */
FS_INLINE void F(do_strips)(int op, int parts, int careful, ptrdiff_t n,
                            const F(pitches) *pitches, F(strip) *const strip[3])
{
    const F(pitches) pitch = *pitches; /* no store changes these */
    F(strip) before, here, next;
    F(sum) sum = {V(set)(0), V(set)(0)};
    if (parts & STRIP_RESULTS)
        before = *strip[0];
    if (parts & STRIP_TERMS)
        here = *strip[1];
    if (parts & STRIP_RANGE)
        next = *strip[2];
    next.range = F(no_range)();
    for (ptrdiff_t row = 0; row < n;) {
        ptrdiff_t end = parts & STRIP_FEW ? n : fs_least(n, row + SETTLED);
        here.sum = F(no_terms)();
        for (; row + ABREAST <= end; row += ABREAST)
            F(do_strip_rows)(op, parts, careful, ABREAST, row, &pitch, &before, &here,
                             &next);
        for (; row < end; row++)
            F(do_strip_rows)(op, parts, careful, 1, row, &pitch, &before, &here, &next);
        if (parts & STRIP_FEW)
            sum = (F(sum)){V(sub)(here.sum.total, V(set)(ABOVE)), here.sum.lost};
        else
            F(settle)(here.sum, &sum);
    }
    if (parts & STRIP_TERMS)
        strip[1]->sum = sum;
    if (parts & STRIP_RANGE)
        strip[2]->range = next.range;
}

/* One part of `count` strips side by side: row by row, as memory has them. */
FS_INLINE void F(do_tile)(int op, int part, int careful, ptrdiff_t n,
                          const F(pitches) *pitches, ptrdiff_t count, F(strip) *strips)
{
    const F(pitches) pitch = *pitches;
    F(sum) all[FS_TILE / LANES];
    for (ptrdiff_t i = 0; i < count; i++) {
        if (part == STRIP_RANGE)
            strips[i].range = F(no_range)();
        strips[i].sum = F(no_terms)();
        all[i] = (F(sum)){V(set)(0), V(set)(0)};
    }
    for (ptrdiff_t row = 0; row < n;) {
        ptrdiff_t abreast = row + ABREAST <= n ? ABREAST : 1;
        for (F(strip) *s = strips; s < strips + count; s++)
            if (abreast == ABREAST) /* constants let the compiler unroll */
                F(do_strip_rows)(op, part, careful, ABREAST, row, &pitch, s, s, s);
            else
                F(do_strip_rows)(op, part, careful, 1, row, &pitch, s, s, s);
        row += abreast;
        for (ptrdiff_t i = 0; part == STRIP_TERMS && i < count; i++)
            if (row % SETTLED == 0 || row == n) {
                F(settle)(strips[i].sum, &all[i]);
                strips[i].sum = row == n ? all[i] : F(no_terms)();
            }
    }
}

/* All parts of an operation that are in one loop. */
enum { STRIP_LOG = STRIP_RANGE | STRIP_TERMS, STRIP_ALL = STRIP_LOG | STRIP_RESULTS };

/* One part of `count` strips side by side. Constants let the compiler leave out what is
 * not needed. */
FS_INLINE void F(do_part)(int op, int part, int careful, ptrdiff_t n,
                          const F(pitches) *pitch, ptrdiff_t count, F(strip) *strips)
{
    F(strip) *const only[3] = {strips, strips, strips};
    const int alone = F(HAS_STRIPS) &&count == 1; /* 1000x16 takes .85 times as long */
#define DO(part, careful)                                                              \
    alone ? F(do_strips)(op, part, careful, n, pitch, only)                            \
          : F(do_tile)(op, part, careful, n, pitch, count, strips)
    if (part == STRIP_RANGE)
        DO(STRIP_RANGE, 0);
    else if (part == STRIP_TERMS && careful)
        DO(STRIP_TERMS, 1);
    else if (part == STRIP_TERMS)
        DO(STRIP_TERMS, 0);
    else if (F(writes_terms)(op) && careful)
        DO(STRIP_RESULTS, 1);
    else
        DO(STRIP_RESULTS, 0);
#undef DO
}

static void F(do_part_of)(int op, int part, int careful, ptrdiff_t n,
                          const F(pitches) *pitch, ptrdiff_t count, F(strip) *strips)
{
    if (F(writes_terms)(op))
        F(do_part)(FS_SOFTMAX, part, careful, n, pitch, count, strips);
    else
        F(do_part)(FS_LOG_SOFTMAX, part, careful, n, pitch, count, strips);
}

/* Parts of up to three strips: before, here, next. In one loop where nothing is rare:
 * what each waits for is found while the others are worked on. */
static void F(step_of_strips)(int op, int parts, ptrdiff_t n, const F(pitches) *pitch,
                              F(strip) *const strip[3])
{
    int is_rare = (parts & STRIP_TERMS) && strip[1]->careful;
    int were_rare = (parts & STRIP_RESULTS) && strip[0]->exact;
    int in_one = !(is_rare || were_rare) && F(HAS_STRIPS);
    if (in_one && parts == STRIP_ALL && F(writes_terms)(op)) {
        F(do_strips)(FS_SOFTMAX, STRIP_ALL, 0, n, pitch, strip);
    } else if (in_one && parts == STRIP_ALL) {
        F(do_strips)(FS_LOG_SOFTMAX, STRIP_ALL, 0, n, pitch, strip);
    } else if (in_one && parts == STRIP_LOG && !F(writes_all)(op)) {
        F(do_strips)(FS_LOG_SOFTMAX, STRIP_LOG, 0, n, pitch, strip);
    } else {
        if (parts & STRIP_RESULTS)
            F(do_part_of)(op, STRIP_RESULTS, were_rare, n, pitch, 1, strip[0]);
        if (parts & STRIP_TERMS)
            F(do_part_of)(op, STRIP_TERMS, is_rare, n, pitch, 1, strip[1]);
        if (parts & STRIP_RANGE)
            F(do_part_of)(op, STRIP_RANGE, 0, n, pitch, 1, strip[2]);
    }
}

/* Strips are asked for so many rows before they are read: two at least, as L1 may hold.
 */
enum { ROWS_AHEAD = 48 };

/* The next strip of all slabs' one behind the other, from `column` on. The last of a
 * slab overlaps the one before, whose results are written after its x is read. */
typedef struct {
    ptrdiff_t slab, column;
    char *x, *y; /* of the slab */
} F(place);

FS_INLINE F(place) F(place_of_slab)(const fs_job *job, ptrdiff_t slab, ptrdiff_t column)
{
    return (F(place)){slab, column, fs_locate_one(job, FS_X, slab),
                      fs_locate_one(job, FS_Y, slab)};
}

FS_INLINE void F(begin_strip)(const fs_job *job, const F(pitches) *pitch, REAL *cells,
                              F(place) *place, F(strip) *strip)
{
    if (place->column >= job->inner)
        *place = F(place_of_slab)(job, place->slab + 1, 0);
    strip->slab = place->slab;
    strip->column = fs_least(place->column, job->inner - LANES);
    strip->columns = LANES;
    strip->cells = cells;
    strip->x = (const REAL *)place->x + strip->column;
    strip->y = (REAL *)place->y + strip->column;
    strip->soon_x = (const char *)strip->x + pitch->ahead;
    strip->soon_y = (const char *)strip->y + pitch->ahead;
    place->column += LANES;
}

/* Strips of so few rows are done one by one: softmax of 3x100000 takes .6 times as long
 * as in one loop (AVX-512). */
enum { FEW = 15, F(HAS_FEW) = LANES > 1 };

/* logsumexp of so few floats is the logarithm of a plain sum in double: of two a fourth
 * cancel (see F(cancels)). 2x100000 takes .16 times as long, 5x100000 .47; where none
 * cancels 1.2 and 1.3 times. */
enum { FEWEST = 5 };

HIDDEN int JOIN(fs_plain_logs_f64, ISA)(ptrdiff_t n, const float *x, ptrdiff_t pitch,
                                        float *lse);

/* INOUT lse, of a strip of x: those that are told. Whether all are. */
static int F(plain_logs)(const fs_job *job, const REAL *x, ptrdiff_t pitch, REAL *lse)
{
    if (!T_IS_F32 || !F(HAS_FEW) || F(writes_all)(job->op) || job->n > FEWEST)
        return 0;
    return JOIN(fs_plain_logs_f64, ISA)(job->n, (const void *)x, pitch, (void *)lse);
}

#if !T_IS_F32
/* With no shift, and all steps rounded: off by 2^-49 together. Not told are logarithms
 * that are next to 0, and of what is large: elements above 320 count as that. */
int F(fs_plain_logs)(ptrdiff_t n, const float *x, ptrdiff_t pitch, float *lse)
{
    enum { abreast = LANES > 1 ? 2 : 1 }; /* vectors of doubles to one of floats */
    static const double tail[] = {LOG_TAIL};
    const F(shift) shift = F(shift_by)(V(set)(0));
    VEC a[ABREAST], s[ABREAST], q[ABREAST], sum[ABREAST];
    const VEC least = V(set)(0x1p-20);
    double log[abreast * LANES];
    int all = 1;
    EACH sum[j] = V(set)(0);
    for (ptrdiff_t row = 0; row < n; row++) {
#pragma omp simd
        for (int k = 0; k < abreast * LANES; k++) log[k] = x[row * pitch + k];
        EACH a[j] = V(min)(V(set)(320), V(load)(log + j * LANES)); /* NaN stay */
        F(exp_terms)(1, abreast, a, &shift, s, q);
        EACH sum[j] = V(add)(sum[j], F(term)(s[j], q[j]));
    }
    EACH
    {
        F(pair) plain = {V(mul)(sum[j], V(set)(UNSPARE / BASE)), V(set)(0)};
        VEC k, f = F(off_power)(plain, &k).hi, square = V(mul)(f, f);
        VEC t = V(set)(tail[0]), odd = V(set)(tail[1]); /* two chains are shorter */
        size_t i = 2;
        for (; i + 2 < sizeof tail / sizeof *tail; i += 2) {
            t = V(muladd)(t, square, V(set)(tail[i]));
            odd = V(muladd)(odd, square, V(set)(tail[i + 1]));
        }
        t = V(muladd)(V(muladd)(t, f, odd), f, V(set)(tail[i]));
        t = V(muladd)(square, V(muladd)(t, f, V(set)(-0.5)), f);
        t = V(muladd)(k, V(set)(LOG_2_REST), t);
        t = V(muladd)(k, V(set)(LOG_2), t);
        VEC size = V(max)(t, V(sub)(V(set)(0), t));
        size = V(if_less)(size, V(set)(300), size, V(set)(0));
        all &= !V(any_less)(size, least);
        V(store)(log + j * LANES, V(if_less)(size, least, V(set)(NAN), t));
    }
#pragma omp simd
    for (int k = 0; k < abreast * LANES; k++)
        lse[k] = log[k] == log[k] ? (float)log[k] : lse[k];
    return all;
}
#endif

/* What a strip's range decides. */
FS_INLINE void F(know_range)(int op, ptrdiff_t n, ptrdiff_t pitch, F(strip) *strip)
{
    const int writes = F(writes_terms)(op);
    VEC zero = V(set)(0), one = V(set)(1);
    strip->factor.rest = F(rest_of)(strip->range);
    strip->count = V(set)((REAL)n);
    strip->off = F(subtrahend)(strip->range.max);
    strip->top = writes ? strip->range.max : F(visible_second)(strip->range);
    strip->shift = F(shift_by)(F(exponent_of)(V(sub)(strip->top, strip->off)));
    strip->exact = writes && V(any_less)(strip->factor.rest, one);
    strip->careful = strip->exact || V(any_less)(zero, V(mul)(strip->off, strip->off));
    if (!writes || !V(any_less)(strip->range.min, V(set)((REAL)LOWEST)))
        return;
    strip->range.min = V(set)((REAL)INFINITY);
    strip->count = zero;
    for (ptrdiff_t row = 0; row < n; row++)
        F(add_finite)(V(load)(strip->cells + row * pitch), &strip->range.min,
                      &strip->count);
}

/* The columns whose logarithms are not results yet. A set that is looked at again is
 * still in the cells, but for logsumexp, which may need what was not rounded. */
static void F(settle_strip)(fs_job *job, ptrdiff_t pitch, F(strip) *strip,
                            fs_line first)
{
    fs_operand source = job->operand[FS_X];
    F(sets) sets;
    F(keep_range)(strip->range, &sets, 0);
    V(store)(sets.hi, strip->factor.hi);
    V(store)(sets.lo, strip->factor.lo);
    V(store)(sets.total, strip->sum.total); /* nothing is in doubt */
    if (F(writes_all)(job->op))
        source = F(plain)(NULL, pitch * (ptrdiff_t)sizeof(REAL));
    for (ptrdiff_t j = 0; j < strip->columns; j++) {
        if (!F(is_special)(job->op, 0, &sets, j))
            continue;
        fs_line line = fs_along_inner(job, first, j);
        if (F(writes_all)(job->op))
            line.at[FS_X] = (char *)(strip->cells + j);
        F(special_log_sum)(job->op, job, &source, line, &sets, j);
    }
    strip->factor.hi = V(load)(sets.hi);
    strip->factor.lo = V(load)(sets.lo);
}

/* What is not a result yet becomes one; logsumexp's are written. */
static void F(finish_log_of_strip)(fs_job *job, ptrdiff_t pitch, F(strip) *strip)
{
    fs_line first = fs_along_inner(job, fs_locate(job, strip->slab), strip->column);
    REAL lse[LANES];
    if (F(may_be_special)(job->op, strip->range.max, strip->factor.hi))
        F(settle_strip)(job, pitch, strip, first);
    V(store)(lse, strip->factor.hi);
    F(plain_logs)(job, strip->cells, pitch, lse);
    if (!F(writes_all)(job->op))
        F(write_sets)(job, first.at[FS_Y], strip->columns, lse);
}

/* What results are made by; whether some are not results yet. */
FS_INLINE int F(know_sum)(int op, int written, F(strip) *strip)
{
    if (!F(writes_terms)(op)) {
        VEC share;
        F(pair) log = F(log_of_terms)(strip->range.max, strip->top, strip->sum, &share);
        strip->factor.hi = log.hi;
        strip->factor.lo = log.lo;
        return F(may_be_special)(written, strip->range.max, log.hi);
    }
    strip->factor = F(factor_of)(strip->sum, strip->factor.rest);
    if (F(may_be_exact)(strip->range, strip->sum)) {
        strip->exact = 1;
        F(set_exact)(strip->range, strip->sum, V(div)(V(set)(1), strip->count),
                     &strip->factor);
    }
    return 0;
}

/* The same of some strips side by side; whether some need all care. */
static int F(know_sums)(fs_job *job, ptrdiff_t pitch, ptrdiff_t count, F(strip) *strips)
{
    int exact = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (F(know_sum)(job->op, job->op, &strips[i]) || !F(writes_all)(job->op))
            F(finish_log_of_strip)(job, pitch, &strips[i]);
        exact |= strips[i].exact;
    }
    return exact;
}

/* Two that overlap would be read and written in turn. */
static inline int F(does_few)(const fs_job *job)
{
    return F(HAS_FEW) &&(job->inner % LANES == 0 ||
                         job->operand[FS_X].data != job->operand[FS_Y].data);
}

FS_INLINE void F(few_rows)(int op, fs_job *job, ptrdiff_t count,
                           const F(pitches) *pitch, F(place) place, REAL *cells)
{
    const int all = F(writes_terms)(op) || F(writes_all)(job->op);
    const int plain = job->operand[FS_Y].inner == sizeof(REAL); /* y of logsumexp */
    for (ptrdiff_t i = 0; i < count && !(i % 64 == 63 && fs_poll(job->watch)); i++) {
        F(strip) strip, rare, *const only[3] = {&strip, &strip, &strip};
        REAL lse[LANES] = {0};
        F(begin_strip)(job, pitch, cells, &place, &strip);
        if (!all && F(plain_logs)(job, strip.x, pitch->x, lse)) {
            F(write_sets)(job, place.y + strip.column * job->operand[FS_Y].inner, LANES,
                          lse);
            continue;
        }
        F(do_strips)(op, STRIP_RANGE | STRIP_FEW, 0, job->n, pitch, only);
        F(know_range)(op, job->n, LANES, &strip);
        if (strip.careful) {
            rare = strip;
            F(do_part_of)(op, STRIP_TERMS, 1, job->n, pitch, 1, &rare);
            strip.sum = rare.sum;
        } else {
            F(do_strips)(op, STRIP_TERMS | STRIP_FEW, 0, job->n, pitch, only);
        }
        if (F(know_sum)(op, job->op, &strip) || !(all || plain)) {
            rare = strip;
            F(finish_log_of_strip)(job, LANES, &rare);
            strip.factor = rare.factor;
        } else if (!all) {
            V(store)(lse, strip.factor.hi); /* y may lie anywhere */
            F(plain_logs)(job, cells, LANES, lse);
            V(store)(strip.y, V(load)(lse));
        }
        if (!all)
            continue;
        if (strip.exact) {
            rare = strip;
            F(do_part_of)(op, STRIP_RESULTS, 1, job->n, pitch, 1, &rare);
        } else {
            F(do_strips)(op, STRIP_RESULTS | STRIP_FEW, 0, job->n, pitch, only);
        }
    }
}

/* Strips from `first` to `last`; `cells` is room for two. */
static void F(all_strips)(fs_job *job, ptrdiff_t first, ptrdiff_t last, REAL *cells)
{
    const ptrdiff_t size = sizeof(REAL), x_step = job->operand[FS_X].n,
                    y_step = job->operand[FS_Y].n,
                    strips = (job->inner + LANES - 1) / LANES;
    const F(pitches) pitch = {x_step / size,
                              y_step / size,
                              LANES,
                              x_step,
                              y_step,
                              0,
                              (ROWS_AHEAD + job->n - 1) / job->n * 64};
    F(place) place = F(place_of_slab)(job, first / strips, first % strips * LANES);
    F(strip) ring[3];
    if (F(HAS_FEW) &&job->n <= FEW) {
        if (F(writes_terms)(job->op))
            F(few_rows)(FS_SOFTMAX, job, last - first, &pitch, place, cells);
        else
            F(few_rows)(FS_LOG_SOFTMAX, job, last - first, &pitch, place, cells);
        return;
    }
    for (ptrdiff_t i = first - 1; i <= last; i++) {
        F(strip) *strip[3]; /* before, here, next; the cells of two are the same */
        for (int j = 0; j < 3; j++) strip[j] = &ring[(i - first + 3 + j) % 3];
        int parts = (i > first && F(writes_all)(job->op) ? STRIP_RESULTS : 0) |
                    (i + 1 < last ? STRIP_RANGE : 0) |
                    (i >= first && i < last ? STRIP_TERMS : 0);
        if (parts & STRIP_RANGE)
            F(begin_strip)(job, &pitch, cells + (i + 1 - first) % 2 * job->n * LANES,
                           &place, strip[2]);
        F(step_of_strips)(job->op, parts, job->n, &pitch, strip);
        if (parts & STRIP_RANGE)
            F(know_range)(job->op, job->n, LANES, strip[2]);
        if (parts & STRIP_TERMS)
            F(know_sums)(job, LANES, 1, strip[1]);
        if (i % 16 == 0 && fs_poll(job->watch))
            return;
    }
}
