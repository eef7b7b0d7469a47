/* Rows, once for every type and ISA; isa/begin.h has what it is written in, and
 * everything else is included from here.
 *
 * Of several rows each waits for something: for its max across lanes, its sum across
 * lanes, a division. So loops do something for the next row, and the one before,
 * meanwhile. Where 32 registers allow, that is one loop:
 *
 *     row r + 3: range      row r: terms and sum      row r - 2: results
 *
 * else two: range of r + 3 beside the terms of r, then the results of r - 1. Terms wait
 * in a buffer for their results. Input that is not direct is read into one first.
 */
#include "math/exp.h"
#include "math/log.h"

/* Terms of this many elements fit the first-level cache, three times. Longer rows are
 * loops/long_rows.h's. */
#define BLOCK 2048

/* Where memory has nothing else to do, elements are asked for this many ahead: beyond
 * the page at whose end the hardware stops doing so. Hinge losses of rows of 1000 that
 * come from memory take 0.7 times as long, gradients 0.9 times. */
#define AHEAD 1024

#include "loops/operands.h"

#include "ops/softmax.h"

/* ---- one block ---- */

/* Lanes that a last vector shares with the one before: 0 for these, 1 for the others.
 */
#define EIGHT(a) a, a, a, a, a, a, a, a
static const REAL F(zeros_and_ones)[32] = {EIGHT(0), EIGHT(0), EIGHT(1), EIGHT(1)};
#undef EIGHT

FS_INLINE VEC F(last_lanes)(ptrdiff_t count)
{
    return V(load)(F(zeros_and_ones) + 16 - LANES + count);
}

/* Of n >= LANES elements, as all functions here: the last vector ends with them. */
static F(range) F(range_of)(const REAL *x, ptrdiff_t n)
{
    F(range) a = F(no_range)(), b = a;
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        F(add_range)(FS_SOFTMAX, V(load)(x + i), &a);
        F(add_range)(FS_SOFTMAX, V(load)(x + i + LANES), &b);
    }
    F(add_range)(FS_SOFTMAX, V(load)(x + n - LANES), &a);
    if (i + LANES <= n)
        F(add_range)(FS_SOFTMAX, V(load)(x + i), &a);
    return (F(range)){V(max)(b.max, a.max), V(min)(b.min, a.min)};
}

/* Vectors side by side: four take 1.05 times as long (AVX-512, three rows of 300), as
 * rows end and registers are few. */
enum { F(SIDE_BY_SIDE) = 2 };

/* What one loop does for up to three rows. */
enum { F(TERMS) = 1, F(RANGE) = 2, F(RESULTS) = 4, F(CAPPED) = 8 };
typedef struct {
    const REAL *x;     /* the terms of these are added up, */
    REAL *e;           /* and with TERMS go here; e may be x */
    const REAL *ahead; /* RANGE: of these is found */
    const REAL *old_e; /* RESULTS: from these terms */
    REAL *y;           /* go here; where they are not made of terms, later: log_softmax
                        * of 16384x1000 takes .55 times as long if lines of y are asked
                        * for meanwhile, of 4096x1000 .77 times */
    VEC cap;           /* CAPPED: elements above are taken for it */
} F(work);

/* What is known before, and what becomes known. */
typedef struct {
    F(shift) shift;
    F(factor) factor;
    F(sum) sum;
    F(range) ahead;
} F(knowledge);

/* `abreast` vectors from i on; or the one before n, which was read before terms came to
 * its place, and of which `count` lanes are new. */
FS_INLINE void F(do_some)(int op, int parts, int clamp, int care, int abreast,
                          const F(work) *w, ptrdiff_t i, const VEC *last,
                          ptrdiff_t count, F(knowledge) *known)
{
    VEC x[ABREAST], s[ABREAST], q[ABREAST];
    EACH x[j] = last ? *last : V(load)(w->x + i + j * LANES);
    EACH if (parts & F(CAPPED)) x[j] = V(min)(w->cap, x[j]); /* NaN stay */
    F(exp_terms)(clamp, abreast, x, &known->shift, s, q);
    EACH if (parts & F(RANGE))
        F(add_range)(op, V(load)(w->ahead + i + j * LANES), &known->ahead);
    EACH x[j] = F(term)(s[j], q[j]);
    EACH if (F(writes_all)(op) && !F(writes_terms)(op))
        fs_prefetch(w->y, (i + j * LANES) * (ptrdiff_t)sizeof(REAL));
    EACH if (parts & F(TERMS)) V(store)(w->e + i + j * LANES, x[j]);
    EACH if (parts & F(RESULTS)) V(store)(
        w->y + i + j * LANES,
        F(result)(op, care, V(load)(w->old_e + i + j * LANES), &known->factor));
    EACH if (last) s[j] = V(mul)(s[j], F(last_lanes)(count));
    EACH F(add_term)(&known->sum, s[j], q[j], last ? F(term)(s[j], q[j]) : x[j]);
}

/* All of one block; known->sum and ->ahead are new. The order of additions is the same
 * however many vectors are side by side. */
FS_INLINE void F(do_block)(int op, int parts, int clamp, int care, F(work) w,
                           ptrdiff_t n, F(knowledge) *known)
{
    const int abreast = F(SIDE_BY_SIDE);
    F(knowledge) k = *known;
    ptrdiff_t i = 0, end = n - LANES;
    const VEC last = V(load)(w.x + end);
    k.sum = F(no_terms)();
    k.ahead = F(no_range)();
    for (; i + abreast * LANES <= n; i += abreast * LANES)
        F(do_some)(op, parts, clamp, care, abreast, &w, i, NULL, 0, &k);
    for (; i + LANES <= n; i += LANES)
        F(do_some)(op, parts, clamp, care, 1, &w, i, NULL, 0, &k);
    if (i < n)
        F(do_some)(op, parts, clamp, care, 1, &w, end, &last, n - i, &k);
    known->sum = k.sum;
    known->ahead = k.ahead;
}

/* Results alone. y may be what they are made of. Vectors between the first and the last
 * begin where lines of y do: where they would not, rows of 32000 take .92 of the time
 * so, their logarithms of 100 to 300 .96. */
FS_INLINE void F(finish_block)(int op, int care, const REAL *from, REAL *y, ptrdiff_t n,
                               const F(factor) *by)
{
    F(factor) factor = *by;
    ptrdiff_t i = (ptrdiff_t)((0 - (uintptr_t)y) % sizeof(VEC) / sizeof *y);
    VEC first = V(load)(from), last = V(load)(from + n - LANES);
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (ptrdiff_t j = i; j < i + 4 * LANES; j += LANES)
            V(store)(y + j, F(result)(op, care, V(load)(from + j), &factor));
    for (; i + LANES <= n; i += LANES)
        V(store)(y + i, F(result)(op, care, V(load)(from + i), &factor));
    V(store)(y, F(result)(op, care, first, &factor));
    V(store)(y + n - LANES, F(result)(op, care, last, &factor));
}

static void F(results)(int op, int care, const REAL *from, REAL *y, ptrdiff_t n,
                       const F(factor) *factor)
{
    if (!F(writes_terms)(op))
        F(finish_block)(FS_LOG_SOFTMAX, F(PLAIN), from, y, n, factor);
    else if (care == F(PLAIN))
        F(finish_block)(FS_SOFTMAX, F(PLAIN), from, y, n, factor);
    else
        F(finish_block)(FS_SOFTMAX, F(EXACT_TOO), from, y, n, factor);
}

/* F(subtrahend) of one max. */
static inline REAL F(off_of)(REAL max)
{
    return -SUBTRACT_FROM < max && max < SUBTRACT_FROM ? 0 : max;
}

/* The elements less `off`: in place where that is nothing. */
static inline const REAL *F(lowered)(const REAL *x, ptrdiff_t n, REAL off, REAL *buffer)
{
    if (off == 0)
        return x;
#pragma omp simd
    for (ptrdiff_t i = 0; i < n; i++) buffer[i] = x[i] - off;
    return buffer;
}

/* The least element above -inf, and how many there are, of a block that holds -inf. */
static ptrdiff_t F(finite_of)(const REAL *x, ptrdiff_t n, REAL *min)
{
    VEC none = V(set)((REAL)-INFINITY), least = V(set)(*min), many = V(set)(0);
    REAL count[LANES];
    for (ptrdiff_t i = 0; i < n; i += LANES)
        F(add_finite)(F(load_some)(x + i, n - i, none), &least, &many);
    V(store)(count, many);
    for (int j = 1; j < LANES; j++) count[0] += count[j];
    *min = -V(largest)(V(sub)(V(set)(0), least));
    return (ptrdiff_t)count[0];
}

/* ---- rows of one block ---- */

/* A row on its way through the loops. */
typedef struct {
    F(sum) sum;       /* in lanes, */
    F(factor) factor; /* the same in all lanes */
    const REAL *x;    /* where its elements are, or have been read to */
    REAL *y;
    REAL max, min;   /* min above -inf */
    REAL off, top;   /* what is taken off x first, and what is left of its max */
    double count;    /* of elements above -inf */
    int peaked;      /* whether it may be, as far as lanes tell: sums alone do not */
    int clamp, care; /* what its terms and its results need */
} F(flying);

/* Terms, sums and factors of rows on their way. */
typedef struct {
    REAL buffer[3 * (BLOCK + 16)]; /* aligned, as what follows begins with vectors */
    F(flying) row[8];
    ptrdiff_t pitch; /* elements from buffer to buffer */
} F(flight);

static inline F(flying) *F(row_of)(F(flight) *flight, ptrdiff_t r)
{
    return &flight->row[r % 8];
}

static inline REAL *F(buffer_of)(F(flight) *flight, ptrdiff_t r)
{
    return flight->buffer + r % 3 * flight->pitch;
}

static inline void F(lanes_of)(F(range) range, REAL *max, REAL *min)
{
    *max = V(largest)(range.max);
    *min = -V(largest)(V(sub)(V(set)(0), range.min));
}

/* Whether max is `gap` or more above all lanes but its own, if there are any. */
static inline int F(stands_out)(VEC lanes, REAL max, REAL gap)
{
    VEC others = V(if_equal)(lanes, V(set)(max), V(set)((REAL)-INFINITY), lanes);
    return !V(any_less)(V(set)(max - gap), others);
}

/* What the lanes of a range that was found mean. */
static inline void F(set_range)(ptrdiff_t n, F(range) found, F(flying) *row)
{
    F(lanes_of)(found, &row->max, &row->min);
    row->off = F(off_of)(row->max);
    row->top = row->max - row->off;
    row->clamp = !(row->max - DEEP < row->min);
    row->count = (double)n;
    row->peaked = row->min < row->max - FAR && F(stands_out)(found.max, row->max, FAR);
    if (row->clamp && row->min < row->max && isinf(row->min)) {
        row->min = (REAL)INFINITY;
        row->count = (double)F(finite_of)(row->x, n, &row->min);
    }
}

/* A sum in all lanes. */
static inline F(sum) F(as_sum)(fs_pair sum)
{
    REAL total = (REAL)(sum.hi + sum.lo);
    return (F(sum)){V(set)(total), V(set)((REAL)((sum.hi - total) + sum.lo))};
}

/* factor_of, of one row. For floats in double: others wait for it. */
static inline F(factor) F(factor_of_row)(fs_pair sum, int deep)
{
    VEC none = V(set)((REAL)NAN), rest = V(set)(deep ? (REAL)UNSPARE : 1);
#if T_IS_F32
    double inverse = (deep ? 1 / UNSPARE : 1) / (sum.hi + sum.lo);
    float hi = (float)inverse;
    return (F(factor)){V(set)(hi), V(set)((float)(inverse - hi)), rest, none, none};
#else
    (void)none;
    return F(factor_of)(F(as_sum)(sum), rest);
#endif
}

/* The factor of a row whose least element above -inf, of `count`, is `least`, and which
 * may be `peaked`; the care its results need. */
static inline int F(find_factor)(fs_pair sum, REAL max, REAL least, int peaked,
                                 int deep, double count, F(factor) *factor)
{
    *factor = F(factor_of_row)(sum, deep);
    if (least != max && !(peaked && sum.hi < ALONE))
        return deep ? F(DEEP_TOO) : F(PLAIN);
    F(range) range = {V(set)(max), V(set)(least)};
    F(set_exact)(range, F(as_sum)(sum), V(set)((REAL)(1 / count)), factor);
    return F(EXACT_TOO);
}

static inline void F(set_factor)(F(flying) *row)
{
    row->care = F(find_factor)(F(all_lanes)(row->sum), row->max, row->min, row->peaked,
                               row->clamp, row->count, &row->factor);
}

/* Whether the three-row loop has the registers it needs: 0.85 times as long there
 * (AVX-512), 1.1 times with 16 (AVX2). */
#if defined(FS_HAS_32_REGISTERS)
enum { F(FUSES) = 1 };
#else
enum { F(FUSES) = 0 };
#endif

/* The terms of one row, to e; with the range of `ahead`, and the results of `old` made
 * of old_e, if there are any. Returns that range. */
static F(range) F(do_row)(ptrdiff_t n, F(flying) *row, REAL *e, const REAL *ahead,
                          const F(flying) *old, const REAL *old_e)
{
    const int alone = F(TERMS), two = alone | F(RANGE), three = two | F(RESULTS);
    F(work) w = {F(lowered)(row->x, n, row->off, e), e, ahead, old_e, NULL};
    F(knowledge) known;
    known.shift = F(shift_by)(F(exponent_of)(V(set)(row->top)));
    if (old) {
        w.y = old->y;
        known.factor = old->factor;
    }
    if (!ahead)
        F(do_block)(FS_SOFTMAX, alone, 1, F(PLAIN), w, n, &known);
    else if ((!F(FUSES) || !old) && row->clamp)
        F(do_block)(FS_SOFTMAX, two, 1, F(PLAIN), w, n, &known);
    else if (!F(FUSES) || !old)
        F(do_block)(FS_SOFTMAX, two, 0, F(PLAIN), w, n, &known);
    else if (row->clamp || old->care != F(PLAIN))
        F(do_block)(FS_SOFTMAX, three, 1, F(EXACT_TOO), w, n, &known);
    else
        F(do_block)(FS_SOFTMAX, three, 0, F(PLAIN), w, n, &known);
    row->sum = known.sum;
    return known.ahead;
}

/* Row r of those from `first` on, of direct elements and results. */
static inline F(flying) *F(enter)(const fs_job *job, ptrdiff_t first, ptrdiff_t r,
                                  F(flight) *flight)
{
    F(flying) *row = F(row_of)(flight, r);
    row->x = (const REAL *)fs_locate_one(job, FS_X, first + r);
    row->y = (REAL *)fs_locate_one(job, FS_Y, first + r);
    return row;
}

/* softmax in a cache: results leave `lag` rows after the terms; in one loop with those
 * of a later row where F(FUSES). Ranges are found three rows ahead, so that no row's
 * shift waits for them: with two, rows of 100 took 1.02 times as long (AVX2: .985). */
static void F(rows_in_flight)(const fs_job *job, ptrdiff_t first, ptrdiff_t last,
                              F(flight) *flight)
{
    const ptrdiff_t lag = F(FUSES) ? 2 : 1, n = job->n, count = last - first;
    F(flying) *ahead = NULL;
    F(range) next[2];
    for (ptrdiff_t r = 0; r < fs_least(3, count); r++) {
        ahead = F(enter)(job, first, r, flight);
        next[r % 2] = F(range_of)(ahead->x, n);
        if (r < 2)
            F(set_range)(n, next[r], ahead);
    }
    for (ptrdiff_t r = 0; r < count + lag; r++) {
        F(flying) *row = F(row_of)(flight, r), *old = NULL;
        if (r >= lag)
            old = F(row_of)(flight, r - lag);
        int beside = F(FUSES) &&old && r < count;
        if (r + 3 < count)
            ahead = F(enter)(job, first, r + 3, flight);
        if (r < count)
            next[(r + 1) % 2] =
                F(do_row)(n, row, F(buffer_of)(flight, r), ahead->x,
                          beside ? old : NULL, F(buffer_of)(flight, r + 1));
        if (old && !beside)
            F(results)(FS_SOFTMAX, old->care, F(buffer_of)(flight, r - lag), old->y, n,
                       &old->factor);
        if (r + 2 < count)
            F(set_range)(n, next[r % 2], F(row_of)(flight, r + 2));
        if (r + 1 >= lag && r + 1 - lag < count)
            F(set_factor)(F(row_of)(flight, r + 1 - lag));
    }
}

/* Elements from i on, where they are or have been read to. */
static inline const REAL *F(read_chunk)(const fs_job *job, fs_line line, ptrdiff_t i,
                                        ptrdiff_t count, REAL *buffer)
{
    const fs_operand *x = &job->operand[FS_X], *mask = &job->operand[FS_MASK];
    return F(read)(x, line.at[FS_X] + i * x->n, x->n,
                   line.at[FS_MASK] ? line.at[FS_MASK] + i * mask->n : NULL, mask->n,
                   count, buffer);
}

static inline const REAL *F(whole_row)(const fs_job *job, ptrdiff_t index, REAL *buffer)
{
    if (job->operand[FS_X].direct)
        return (const REAL *)fs_locate_one(job, FS_X, index);
    return F(read_chunk)(job, fs_locate(job, index), 0, job->n, buffer);
}

/* softmax beyond the caches, of few rows, or of what is read or written elsewhere:
 * terms go to y if it can hold them, which brings its lines into a cache, and are made
 * results where they are, at once. */
static void F(rows_one_by_one)(const fs_job *job, ptrdiff_t first, ptrdiff_t last,
                               F(flight) *flight)
{
    const ptrdiff_t n = job->n;
    const int keeps = F(keeps_terms)(job);
    const REAL *ahead = F(whole_row)(job, first, F(buffer_of)(flight, first));
    F(range) next = F(range_of)(ahead, n);
    F(flying) row;
    for (ptrdiff_t r = first; r < last; r++) {
        char *y = fs_locate_one(job, FS_Y, r);
        REAL *e = keeps ? (REAL *)y : F(buffer_of)(flight, r);
        row.x = ahead;
        ahead = NULL;
        if (r + 1 < last)
            ahead = F(whole_row)(job, r + 1, F(buffer_of)(flight, r + 1));
        F(set_range)(n, next, &row);
        next = F(do_row)(n, &row, e, ahead, NULL, NULL);
        F(set_factor)(&row);
        F(results)(FS_SOFTMAX, row.care, e, e, n, &row.factor);
        if (!keeps)
            F(write)(e, n, y, job->operand[FS_Y].type);
        if (job->operand[FS_MASK].data && isnan(V(largest)(row.factor.hi)))
            F(rewrite_masked)(job, fs_locate(job, r), 0, n);
    }
}

/* log_softmax and logsumexp: so many rows wait for their logarithms. */
enum { F(WAITING) = 16 };

/* The sum of one row's terms, less `off`, with the shift for `top`, which nothing is
 * above or is capped at. With the range of `ahead`, if there is one, which is returned.
 * y is where results will be, or x: without results nothing is worth asking for. */
FS_INLINE F(range)
    F(add_up_terms)(ptrdiff_t n, const REAL *x, REAL off, REAL top, int capped,
                    const REAL *ahead, const REAL *y, F(sum) *sum)
{
    REAL lowered[BLOCK];
    VEC cap = V(set)(top);
    F(work) w = {F(lowered)(x, n, off, lowered), NULL, ahead, NULL, (REAL *)y, cap};
    F(knowledge) known;
    known.shift = F(shift_by)(F(exponent_of)(cap));
    w.ahead = capped && !ahead ? x : ahead;
    if (capped)
        F(do_block)(FS_LOG_SOFTMAX, F(RANGE) | F(CAPPED), 1, F(PLAIN), w, n, &known);
    else if (ahead)
        F(do_block)(FS_LOG_SOFTMAX, F(RANGE), 1, F(PLAIN), w, n, &known);
    else
        F(do_block)(FS_LOG_SOFTMAX, 0, 1, F(PLAIN), w, n, &known);
    *sum = known.sum;
    return known.ahead;
}

/* The largest element but one, max if there are two of it. */
static REAL F(second_of)(const REAL *x, ptrdiff_t n, REAL max)
{
    const VEC none = V(set)((REAL)-INFINITY);
    VEC second = none, first = none;
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        VEC here = F(load_some)(x + i, n - i, none);
        second = V(max)(V(min)(here, first), second);
        first = V(max)(here, first);
    }
    return F(second_of_lanes)(first, second, max);
}

/* The max, second and sum of row r of those, whose results will be at y. `next` is the
 * range of `x`, and then that of `ahead`, if there is one. Where second may be `gap`
 * below max, the sum is made as where each lane is a set. */
static void F(add_up_row)(ptrdiff_t n, REAL gap, const REAL *x, const REAL *ahead,
                          const REAL *y, ptrdiff_t r, F(range) *next, F(sets) *sets)
{
    REAL max = V(largest)(next->max), off = F(off_of)(max), second = max;
    F(sum) terms;
    /* One lane would always say yes, and second_of takes .3 of a row's time there. */
    int peaked = LANES > 1 && !isinf(max) && F(stands_out)(next->max, max, gap);
    if (peaked) {
        second = F(second_of)(x, n, max);
        second = second < max - UNSEEN ? max - UNSEEN : second;
    }
    *next = F(add_up_terms)(n, x, off, second - off, peaked, ahead, y, &terms);
    fs_pair sum = F(all_lanes)(terms);
    sets->max[r] = max;
    sets->second[r] = second;
    sets->total[r] = (REAL)(sum.hi + sum.lo);
    sets->lost[r] = (REAL)((sum.hi - sets->total[r]) + sum.lo);
}

static void F(write_log_softmax)(const fs_job *job, ptrdiff_t index, const REAL *x,
                                 REAL hi, REAL lo)
{
    REAL buffer[BLOCK], *to = (REAL *)fs_locate_one(job, FS_Y, index);
    int converts = job->operand[FS_Y].type != REAL_TYPE;
    F(factor) factor = {V(set)(hi), V(set)(lo), V(set)(1), V(set)(0), V(set)(0)};
    F(results)(FS_LOG_SOFTMAX, F(PLAIN), x, converts ? buffer : to, job->n, &factor);
    if (converts)
        F(write)(buffer, job->n, (char *)to, job->operand[FS_Y].type);
    if (job->operand[FS_MASK].data && hi != hi)
        F(rewrite_masked)(job, fs_locate(job, index), 0, job->n);
}

static void F(log_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last, F(flight) *flight)
{
    const fs_operand *source = &job->operand[FS_X];
    const ptrdiff_t n = job->n, room = 3 * BLOCK / flight->pitch - 1;
    const ptrdiff_t most = source->direct ? F(WAITING) : fs_least(F(WAITING), room);
    /* Elements less than `gap` below max have terms above what is in doubt. */
    const double doubt = F(doubt)(n, (n + LANES - 1) / LANES);
    const REAL gap = (REAL)(-.69 * (ilogb(doubt) + 2));
    REAL *buffer = flight->buffer;
    REAL *end = source->direct ? buffer : buffer + most * flight->pitch;
    const REAL *x[F(WAITING) + 1] = {F(whole_row)(job, first, buffer)};
    F(range) next = F(range_of)(x[0], n);
    F(sets) sets;
    for (ptrdiff_t count; first < last; first += count) {
        count = fs_least(most, last - first);
        for (ptrdiff_t r = 0; r < count; r++) {
            x[r + 1] = NULL;
            buffer = buffer == end ? flight->buffer : buffer + flight->pitch;
            if (first + r + 1 < last)
                x[r + 1] = F(whole_row)(job, first + r + 1, buffer);
            const REAL *y = x[r];
            if (F(writes_all)(job->op))
                y = (const REAL *)fs_locate_one(job, FS_Y, first + r);
            F(add_up_row)(n, gap, x[r], x[r + 1], y, r, &next, &sets);
        }
        F(finish_sets)(job->op, count, &sets);
        for (ptrdiff_t r = 0; r < count; r++) {
            if (F(is_special)(job->op, LANES > 1 ? 0 : doubt, &sets, r))
                F(special_log_sum)(job->op, job, source, fs_locate(job, first + r),
                                   &sets, r);
            if (F(writes_all)(job->op))
                F(write_log_softmax)(job, first + r, x[r], sets.hi[r], sets.lo[r]);
            else
                F(write)(sets.hi + r, 1, fs_locate_one(job, FS_Y, first + r),
                         job->operand[FS_Y].type);
        }
        x[0] = x[count];
    }
}

/* Rows of one block, by any of the loops above. */
static void F(rows_of_a_block)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    F(flight) flight; /* large: not initialized as a whole */
    flight.pitch = (job->n + LANES - 1) / LANES * LANES;
    if (job->loop == FS_LOG_ROWS)
        F(log_rows)(job, first, last, &flight);
    else if (job->loop == FS_ROWS_IN_FLIGHT)
        F(rows_in_flight)(job, first, last, &flight);
    else
        F(rows_one_by_one)(job, first, last, &flight);
}

#include "loops/tile.h"
#include "ops/vjp.h"

#include "loops/lanes.h"
#include "loops/columns.h"
#include "loops/tall_columns.h"
#include "loops/tall_results.h"
#include "loops/long_rows.h"
#include "loops/short_rows.h"

#include "ops/hinge.h"

#include "ops/cross_entropy.h"

#if !T_IS_F32
#include "loops/bundles.h"
#endif
#include "loops/choice.h"
#include "loops/units.h"

HIDDEN const fs_kernels F(fs_kernels) = {F(begin), F(unit)};
