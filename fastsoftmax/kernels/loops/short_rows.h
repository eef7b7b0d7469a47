/* Short rows: LANES of them, a group, are the lanes of a transposed copy, with no sum
 * or maximum across lanes. Lanes do not see each other, so a row's result is the same
 * bits whatever rows are beside it. Included by loops/rows.h.
 *
 * Each pass goes over some groups, so that no group's sum, division or logarithm is
 * waited for: three groups in one loop over all passes gain nothing on that.
 *
 * Rows are transposed by quads: four neighbours of LANES rows at once. The last quad of
 * a row ends with it, and shares elements with the one before.
 */

/* n up to which rows are done so. Of many rows, times row by row over times so (Zen 4;
 * softmax / log_softmax): float32 of 96 in AVX-512 1.06 / 1.13 and of 112 1.00 / 1.05,
 * in AVX2 1.05 / 1.06 and 1.00 / 1.00; float64 of 72 1.09 / 1.20 and of 96 .94 / .99,
 * in AVX2 1.12 / 1.06 and 1.05 / .97. Of a single row of 96 they are .6. Without lanes
 * they are .86 of 16 already, and none is short: there is no code for them. */
#define MOST_SHORT (T_IS_F32 ? 96 : 72)
#define SHORT (LANES == 1 ? 0 : 20 * LANES < MOST_SHORT ? 20 * LANES : MOST_SHORT)

/* Elements at a time, but one group at least: passes over four times as many leave
 * memory idle meanwhile; rows that come from there take 1.1 to 1.3 times as long. */
enum { F(SHORT_SOME) = 4096 / (int)sizeof(REAL) };
enum { F(SHORT_ROOM) = 2 * F(SHORT_SOME) };
_Static_assert(SHORT *LANES <= F(SHORT_ROOM) &&SHORT_GRADIENT * LANES <=
                   F(SHORT_SOME) / 2,
               "there is room for a group");

/* Some whole groups. */
typedef struct {
    REAL cells[F(SHORT_ROOM)]; /* x, then terms: of each group the first elements, ...;
                                * of VJPs y, and from the middle on dy */
    F(sets) sets;
    VEC divisor;        /* of VJPs' results; aligns the cells, too */
    ptrdiff_t n, count; /* rows, */
    const REAL *x, *dy; /* `pitch` elements apart; */
    REAL *y;            /* their results, which may go where x is */
    ptrdiff_t x_pitch, dy_pitch, y_pitch;
    int far; /* from the caches */
} F(groups);

/* Asks for the lines of a group that is soon needed: where it comes from memory, a call
 * for 70001x24 or 65536x32 floats takes .8 times as long so. */
FS_INLINE void F(ask_for)(const REAL *rows, ptrdiff_t first, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        fs_prefetch(rows, (first + i * LANES) * (ptrdiff_t)sizeof(REAL));
}

/* Rows of less than a quad, one behind the other: constants let the compiler shuffle.
 */
#define FEW(n, TO, FROM)                                                               \
    for (int r = 0; r < LANES; r++)                                                    \
        for (int j = 0; j < (n); j++) TO = FROM;
static void F(read_few)(ptrdiff_t n, const REAL *restrict x, REAL *restrict cells)
{
    if (n == 1)
        FEW(1, cells[j * LANES + r], x[r + j])
    else if (n == 2)
        FEW(2, cells[j * LANES + r], x[2 * r + j])
    else
        FEW(3, cells[j * LANES + r], x[3 * r + j])
}

static void F(write_few)(ptrdiff_t n, const REAL *restrict cells, REAL *restrict y)
{
    if (n == 1)
        FEW(1, y[r + j], cells[j * LANES + r])
    else if (n == 2)
        FEW(2, y[2 * r + j], cells[j * LANES + r])
    else
        FEW(3, y[3 * r + j], cells[j * LANES + r])
}
#undef FEW

/* A group's x into the cells, and their range. */
FS_INLINE F(range)
    F(range_of_group)(int op, const REAL *x, ptrdiff_t pitch, ptrdiff_t n, REAL *cells)
{
    F(range) range = F(no_range)();
    for (ptrdiff_t i = 0; n >= 4 && i < n; i += 4) {
        ptrdiff_t at = fs_least(i, n - 4);
        VEC quad[4];
        V(load_quads)(x + at, pitch, quad);
        for (int k = 0; k < 4; k++) V(store)(cells + (at + k) * LANES, quad[k]);
        for (int k = (int)(i - at); k < 4; k++) F(add_lane_range)(op, quad[k], &range);
    }
    if (n < 4)
        F(read_few)(n, x, cells);
    for (ptrdiff_t i = 0; n < 4 && i < n; i++)
        F(add_lane_range)(op, V(load)(cells + i * LANES), &range);
    return range;
}

/* Pass 1. */
FS_INLINE void F(ranges_of_groups)(int op, F(groups) *g)
{
    const ptrdiff_t n = g->n, pitch = g->x_pitch;
    REAL *cells = g->cells;
    for (ptrdiff_t r = 0; r < g->count; r += LANES, cells += n * LANES) {
        if (g->far)
            F(ask_for)(g->y, r * g->y_pitch, n);
        F(keep_range)(F(range_of_group)(op, g->x + r * pitch, pitch, n, cells),
                      &g->sets, r);
    }
}

/* The range once more, of what is above -inf. */
static void F(finite_of_groups)(F(groups) *g)
{
    const REAL *cells = g->cells;
    for (ptrdiff_t r = 0; r < g->count; r += LANES) {
        VEC min = V(set)((REAL)INFINITY), count = V(set)(0);
        for (ptrdiff_t i = 0; i < g->n; i++, cells += LANES)
            F(add_finite)(V(load)(cells), &min, &count);
        V(store)(g->sets.min + r, min);
        V(store)(g->sets.count + r, count);
    }
}

/* Whether something is to be taken off the elements of some set first. */
static int F(some_lowered)(const F(groups) *g)
{
    int some = 0;
    for (ptrdiff_t r = 0; r < g->count; r += LANES) {
        VEC off = F(subtrahend)(V(load)(g->sets.max + r));
        some |= V(any_less)(V(set)(0), V(mul)(off, off));
    }
    return some;
}

/* The terms of `abreast` vectors, in place if results are made of them. */
FS_INLINE void F(terms_of_group)(int writes, int careful, int abreast, REAL *cells,
                                 const F(shift) *shift, VEC top, VEC off, F(sum) *sum)
{
    VEC x[ABREAST], s[ABREAST], q[ABREAST];
    EACH x[j] = V(load)(cells + j * LANES);
    if (!writes) /* NaN stay */
        EACH x[j] = V(min)(top, x[j]);
    if (careful)
        EACH x[j] = V(sub)(x[j], off);
    F(exp_terms)(careful || !writes, abreast, x, shift, s, q);
    EACH
    {
        VEC term = F(term)(s[j], q[j]);
        if (writes)
            V(store)(cells + j * LANES, term);
        F(add_term)(sum, s[j], q[j], term);
    }
}

static inline void F(keep_sum)(F(sum) sum, F(sets) *sets, ptrdiff_t r)
{
    V(store)(sets->total + r, V(sub)(sum.total, V(set)(ABOVE))); /* exact */
    V(store)(sets->lost + r, sum.lost);
}

/* Pass 2. */
FS_INLINE void F(sums_of_groups)(int writes, int careful, F(groups) *g)
{
    REAL *cells = g->cells;
    for (ptrdiff_t r = 0; r < g->count; r += LANES) {
        VEC top = V(load)(g->sets.max + r), off = F(subtrahend)(top);
        if (!writes)
            V(store)(g->sets.second + r,
                     top = F(visible_second)(F(range_at)(&g->sets, r)));
        F(shift) shift = F(shift_by)(F(exponent_of)(V(sub)(top, off)));
        F(sum) sum = F(no_terms)();
        ptrdiff_t i = 0;
        for (; i + ABREAST <= g->n; i += ABREAST, cells += ABREAST * LANES)
            F(terms_of_group)(writes, careful, ABREAST, cells, &shift, top, off, &sum);
        for (; i < g->n; i++, cells += LANES)
            F(terms_of_group)(writes, careful, 1, cells, &shift, top, off, &sum);
        F(keep_sum)(sum, &g->sets, r);
    }
}

/* Passes 1 and 2 of VJPs. */
FS_INLINE void F(add_up_gradients)(int op, F(groups) *g)
{
    const ptrdiff_t n = g->n;
    REAL *y = g->cells, *dy = y + F(SHORT_ROOM) / 2;
    for (ptrdiff_t r = 0; r < g->count; r += LANES, y += n * LANES, dy += n * LANES) {
        F(range_of_group)(op, g->x + r * g->x_pitch, g->x_pitch, n, y);
        F(range_of_group)(op, g->dy + r * g->dy_pitch, g->dy_pitch, n, dy);
        F(vjp_factors)(op, y, dy, n, &g->sets, r);
    }
}

/* The results of `abreast` vectors of cells. */
FS_INLINE void F(results_abreast)(int op, int care, int abreast, const REAL *cells,
                                  int divides, VEC divisor, const F(factor) *factor,
                                  VEC *to)
{
    VEC dy[ABREAST];
    EACH to[j] = V(load)(cells + j * LANES);
    if (!F(is_gradient)(op)) {
        EACH to[j] = F(result)(op, care, to[j], factor);
        return;
    }
    EACH dy[j] = V(load)(cells + F(SHORT_ROOM) / 2 + j * LANES);
    F(shift) shift = F(shift_for)(V(set)(0));
    F(vjp_results)(abreast, op, to, dy, factor, &shift);
    if (divides)
        EACH to[j] = V(div)(to[j], divisor);
}

/* Pass 3. */
FS_INLINE void F(results_of_groups)(int op, int care, F(groups) *g)
{
    const ptrdiff_t n = g->n;
    const VEC divisor = g->divisor;
    const int divides = F(is_gradient)(op) && (V(any_less)(divisor, V(set)(1)) ||
                                               V(any_less)(V(set)(1), divisor));
    REAL *cells = g->cells, *y = g->y;
    for (ptrdiff_t r = 0; r < g->count; r += LANES, cells += n * LANES) {
        F(factor) by = F(factor_at)(&g->sets, r);
        VEC quad[4];
        if (g->far)
            F(ask_for)(g->x, (g->count + r) * g->x_pitch, n);
        for (ptrdiff_t i = 0; n >= 4 && i < n; i += 4) {
            ptrdiff_t at = fs_least(i, n - 4);
            F(results_abreast)(op, care, 4, cells + at * LANES, divides, divisor, &by,
                               quad);
            V(store_quads)(y + at, g->y_pitch, quad);
        }
        for (ptrdiff_t i = 0; n < 4 && i < n; i++) {
            F(results_abreast)(op, care, 1, cells + i * LANES, divides, divisor, &by,
                               quad);
            V(store)(cells + i * LANES, quad[0]);
        }
        if (n < 4)
            F(write_few)(n, cells, y);
        y += LANES * g->y_pitch;
    }
}

static void F(write_groups)(int op, int careful, F(groups) *g)
{
    if (!F(writes_terms)(op))
        F(results_of_groups)(FS_LOG_SOFTMAX, F(PLAIN), g);
    else if (careful)
        F(results_of_groups)(FS_SOFTMAX, F(EXACT_TOO), g);
    else
        F(results_of_groups)(FS_SOFTMAX, F(PLAIN), g);
}

/* ---- one row ----
 *
 * Where there is no group of rows: elements side by side, to the bits that a lane of a
 * group has. Only sums are made one by one. */

/* Pass 1. */
static void F(range_of_one)(int op, F(groups) *g)
{
    /* Behind the row is what counts neither for min nor for second. */
    const VEC rest = V(set)(F(writes_terms)(op) ? (REAL)NAN : (REAL)-INFINITY);
    F(range) range = F(no_range)();
    for (ptrdiff_t i = 0; i < g->n; i += LANES)
        F(add_lane_range)(op, F(load_some)(g->x + i, g->n - i, rest), &range);
    REAL max = V(largest)(range.max);
    range.second = V(set)(F(second_of_lanes)(range.max, range.second, max));
    range.max = V(set)(max);
    range.min = V(set)(-V(largest)(V(sub)(V(set)(0), range.min)));
    F(keep_range)(range, &g->sets, 0);
}

static void F(finite_of_one)(F(groups) *g)
{
    REAL min = (REAL)INFINITY, count = (REAL)F(finite_of)(g->x, g->n, &min);
    V(store)(g->sets.min, V(set)(min));
    V(store)(g->sets.count, V(set)(count));
}

/* V(muladd) of numbers. */
FS_INLINE REAL F(muladd_one)(REAL a, REAL b, REAL c)
{
#if T_IS_F32 && defined(FS_HAS_FMA)
    return fmaf(a, b, c);
#else
    return (REAL)fs_muladd(a, b, c);
#endif
}

/* Pass 2. */
static void F(sum_of_one)(int writes, F(groups) *g)
{
    REAL s[SHORT + LANES], q[SHORT + LANES], *terms = g->cells;
    F(range) range = F(range_at)(&g->sets, 0);
    VEC top = range.max, off = F(subtrahend)(top);
    if (!writes)
        V(store)(g->sets.second, top = F(visible_second)(range));
    F(shift) shift = F(shift_by)(F(exponent_of)(V(sub)(top, off)));
    for (ptrdiff_t i = 0; i < g->n; i += LANES) {
        VEC x = F(load_some)(g->x + i, g->n - i, off), here_s, here_q;
        if (!writes)
            x = V(min)(top, x);
        x = V(sub)(x, off);
        F(exp_terms)(1, 1, &x, &shift, &here_s, &here_q);
        V(store)(s + i, here_s);
        V(store)(q + i, here_q);
        V(store)(terms + i, F(term)(here_s, here_q));
    }
    REAL total = ABOVE, lost = 0;
    for (ptrdiff_t i = 0; i < g->n; i++) {
        REAL before = total;
        total += terms[i];
        lost += F(muladd_one)(s[i], q[i], s[i] - (total - before));
    }
    F(keep_sum)((F(sum)){V(set)(total), V(set)(lost)}, &g->sets, 0);
}

/* Pass 3. */
static void F(write_one)(int op, F(groups) *g)
{
    F(factor) factor = F(factor_at)(&g->sets, 0);
    factor.hi = V(set)(g->sets.hi[0]);
    factor.lo = V(set)(g->sets.lo[0]);
    for (ptrdiff_t i = 0; i < g->n; i += LANES) {
        ptrdiff_t left = g->n - i;
        VEC a = F(writes_terms)(op) ? V(load)(g->cells + i)
                                    : F(load_some)(g->x + i, left, factor.hi);
        F(store_some)(g->y + i, left, F(result)(op, F(EXACT_TOO), a, &factor));
    }
}

/* ---- all passes ---- */

FS_INLINE void F(do_gradients)(int op, F(groups) *g)
{
    F(add_up_gradients)(op, g);
    F(results_of_groups)(op, F(DEEP_TOO), g);
}

/* Ranges and sums; whether results need care. */
static int F(add_up_groups)(int op, int one, F(groups) *g)
{
    if (one)
        F(range_of_one)(op, g);
    else if (F(writes_terms)(op))
        F(ranges_of_groups)(FS_SOFTMAX, g);
    else
        F(ranges_of_groups)(FS_LOG_SOFTMAX, g);
    int depth = F(find_depth)(op, g->n, g->count, &g->sets);
    if (depth & F(HAS_HOLES) &&one)
        F(finite_of_one)(g);
    else if (depth & F(HAS_HOLES))
        F(finite_of_groups)(g);
    int deep = depth & F(IS_DEEP);
    if (one)
        F(sum_of_one)(F(writes_terms)(op), g);
    else if (!F(writes_terms)(op))
        F(sums_of_groups)(0, 1, g);
    else if (deep || F(some_lowered)(g))
        F(sums_of_groups)(1, 1, g);
    else
        F(sums_of_groups)(1, 0, g);
    return deep;
}

/* ---- rows in and out ---- */

#define ELSEWHERE PTRDIFF_MIN /* no distance that rows may have: 0 is one */

/* How many elements rows of x, dy or y are apart if they are used where they are. */
static ptrdiff_t F(pitch_of)(const fs_job *job, int operand)
{
    const fs_operand *of = &job->operand[operand];
    ptrdiff_t step = job->outer_step[0][operand], size = sizeof(REAL);
    int direct = operand == FS_Y ? of->type == REAL_TYPE : of->direct;
    int regular = direct && job->n_outer == 1 && step % size == 0;
    return regular && (job->n >= 4 || step == job->n * size) ? step / size : ELSEWHERE;
}

/* `count` rows of x or dy, the first of which is `first`, where they are; without a
 * pitch in `buffer`, with zeros up to a whole group. */
static const REAL *F(read_short_rows)(const fs_job *job, int operand, ptrdiff_t first,
                                      ptrdiff_t count, ptrdiff_t *pitch, REAL *buffer)
{
    const fs_operand *x = &job->operand[operand], *mask = &job->operand[FS_MASK];
    ptrdiff_t n = job->n, some = 1;
    if (*pitch != ELSEWHERE)
        return (const REAL *)fs_locate_one(job, operand, first);
    *pitch = n;
    if (job->n_outer == 1 && job->outer_step[0][operand] == n * x->n &&
        (!mask->data || job->outer_step[0][FS_MASK] == n * mask->n))
        some = count; /* as if they were one row */
    for (ptrdiff_t row = 0; row < count; row += some) {
        fs_line line = fs_locate(job, first + row);
        F(stage)(x, line.at[operand], x->n, line.at[FS_MASK], mask->n, some * n,
                 buffer + row * n);
    }
    for (ptrdiff_t i = count * n, end = (count + LANES - 1) / LANES * LANES * n;
         i < end; i++)
        buffer[i] = 0;
    return buffer;
}

/* Writes n elements of each of `count` rows. */
static void F(write_short_rows)(const fs_job *job, ptrdiff_t first, ptrdiff_t count,
                                ptrdiff_t n, const REAL *from)
{
    const fs_operand *y = &job->operand[FS_Y];
    int contiguous =
        job->n_outer == 1 && job->outer_step[0][FS_Y] == n * fs_size_of(y->type);
    ptrdiff_t some = contiguous ? count : 1;
    for (ptrdiff_t row = 0; row < count; row += some)
        F(write)(from + row * n, some * n, fs_locate_one(job, FS_Y, first + row),
                 y->type);
}

/* `count` rows, the first of which is `first`, in g. */
static void F(do_groups)(fs_job *job, ptrdiff_t first, ptrdiff_t count, F(groups) *g)
{
    const int op = job->op, one = g->count == 1;
    if (F(adds_products)(op)) {
        F(do_gradients)(FS_SOFTMAX_VJP, g);
        return;
    } else if (F(is_gradient)(op)) {
        F(do_gradients)(FS_LOG_SOFTMAX_VJP, g);
        return;
    }
    int careful = F(add_up_groups)(op, one, g);
    careful |= F(finish_sets)(op, g->count, &g->sets);
    for (ptrdiff_t j = 0; j < count; j++)
        if (F(is_special)(op, 0, &g->sets, j))
            F(special_log_sum)(op, job, &job->operand[FS_X], fs_locate(job, first + j),
                               &g->sets, j);
    if (!F(writes_all)(op))
        F(write_short_rows)(job, first, count, 1, g->sets.hi);
    else if (one)
        F(write_one)(op, g);
    else
        F(write_groups)(op, careful, g);
}

HIDDEN void NARROWER(fs_short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last);

HIDDEN void F(fs_short_rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    F(groups) g; /* large: not initialized as a whole */
    REAL buffer[F(SHORT_ROOM)];
    const int gradient = F(is_gradient)(job->op), writes = F(writes_all)(job->op);
    const ptrdiff_t n = job->n, some = (F(SHORT_SOME) >> gradient) / n;
    const ptrdiff_t most =
        some > LANES ? fs_least(some, FS_TILE) / LANES * LANES : LANES;
    const ptrdiff_t x_pitch = F(pitch_of)(job, FS_X);
    const ptrdiff_t dy_pitch = gradient ? F(pitch_of)(job, FS_DY) : ELSEWHERE;
    const ptrdiff_t y_pitch = writes ? F(pitch_of)(job, FS_Y) : ELSEWHERE;
    g.n = n;
    g.divisor = V(set)(gradient ? (REAL)job->divisor : 1);
    g.far = !gradient && x_pitch == n && y_pitch == n &&
            F(bytes_of)(job) > F(cache_of)(job) / 4;
    for (ptrdiff_t count; LANES > 1 && first < last; first += count) {
        /* Two alone each: a call for 2x64 takes .7 times as long so, its logarithm .88.
         */
        const ptrdiff_t rows = last - first;
        if (gradient && rows < LANES / (1 + HAS_NARROWER)) {
            F(vjp_rows)(job, first, last);
            return;
        }
        const int alone = !gradient && (rows == 1 || (rows == 2 && n >= 16));
        /* A call for 8x20 floats takes .77 times as long so, for 8x96 .64. */
        if (HAS_NARROWER && !alone && rows <= LANES / 2) {
            NARROWER(fs_short_rows)(job, first, last);
            return;
        }
        count = rows < LANES ? rows : fs_least(most, rows) / LANES * LANES;
        if (alone)
            count = 1;
        g.count = alone ? 1 : (count + LANES - 1) / LANES * LANES;
        const int whole = count == g.count;
        g.x_pitch = whole ? x_pitch : ELSEWHERE;
        g.x = F(read_short_rows)(job, FS_X, first, count, &g.x_pitch, buffer);
        g.dy_pitch = whole ? dy_pitch : ELSEWHERE;
        if (gradient)
            g.dy = F(read_short_rows)(job, FS_DY, first, count, &g.dy_pitch,
                                      buffer + F(SHORT_ROOM) / 2);
        const int in_y = whole && y_pitch != ELSEWHERE;
        g.y_pitch = in_y ? y_pitch : n;
        g.y = in_y ? (REAL *)fs_locate_one(job, FS_Y, first) : buffer;
        F(do_groups)(job, first, count, &g);
        if (writes && g.y == buffer)
            F(write_short_rows)(job, first, count, n, buffer);
        for (ptrdiff_t j = 0; job->operand[FS_MASK].data && j < count; j++)
            if (writes && isnan(g.sets.hi[j]))
                F(rewrite_masked)(job, fs_locate(job, first + j), 0, n);
    }
}
