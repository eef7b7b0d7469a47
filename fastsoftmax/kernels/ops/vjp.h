/* The vector-Jacobian products: what a gradient dy of a loss with respect to y becomes
 * with respect to x. Included by loops/rows.h.
 *
 *   y = softmax(x / temperature):      dx = y (dy - sum(y dy)) / temperature
 *   y = log_softmax(x / temperature):  dx = (dy - exp(y) sum(dy)) / temperature
 *
 * Two passes over a line: the sum, in double; the result. In a job, x is y here.
 */

FS_INLINE int F(is_gradient)(int op)
{
    return op == FS_SOFTMAX_VJP || op == FS_LOG_SOFTMAX_VJP;
}
static inline int F(is_vjp)(const fs_job *job)
{
    return F(is_gradient)(job->op);
}

/* Whether its sum is that of products, not of dy alone. */
FS_INLINE int F(adds_products)(int op)
{
    return op == FS_SOFTMAX_VJP;
}

/* ---- one vector ---- */

/* What pass 2 needs of a line, or of several in its lanes: hi + lo is the sum; for
 * log_softmax times the one, exp(y) times the other of 1 and 2^-SPARE, the rest. */
typedef F(factor) F(vjp_sum);

FS_INLINE F(vjp_sum) F(vjp_sum_of)(VEC hi, VEC lo, VEC rest)
{
    VEC zero = V(set)(0); /* an infinite sum has no lo */
    lo = V(if_equal)(V(sub)(hi, hi), zero, lo, zero);
    return (F(vjp_sum)){hi, lo, rest, zero, zero};
}

static inline VEC F(softmax_vjp)(VEC y, VEC dy, const F(vjp_sum) *sum)
{
    return V(mul)(y, V(sub)(V(sub)(dy, sum->hi), sum->lo));
}

/* INOUT y: the result. exp(y) comes with a factor of 2^SPARE, and goes up to
 * 2^(SPARE - 1) itself, far above any probability: beyond that it counts as infinite.
 * Below 2^-190 (f64: 2^-1534) it is 0. */
FS_INLINE void F(log_softmax_vjp)(int abreast, VEC *y, const VEC *dy,
                                  const F(vjp_sum) *sum, const F(shift) *shift)
{
    VEC s[ABREAST], q[ABREAST], given[ABREAST], zero = V(set)(0);
    VEC too_large = V(set)((REAL)((SPARE - 1) * 0.69)), largest = too_large;
    fs_pair inverse = fs_pair_divide((fs_pair){1, 0}, (fs_pair){BASE, 0});
    VEC hi = V(mul)(V(set)((REAL)inverse.hi), sum->rest);
    VEC lo = V(set)((REAL)((inverse.hi - (REAL)inverse.hi) + inverse.lo));
    lo = V(mul)(lo, sum->rest);
    F(exp_terms)(1, abreast, y, shift, s, q);
    EACH
    {
        VEC term = F(term)(s[j], q[j]); /* without BASE: of y = 0 exactly 2^SPARE */
        VEC e = V(muladd)(term, hi, V(mul)(term, lo));
        e = V(sub)(zero, V(if_less)(y[j], shift->least, zero, e));
        given[j] = y[j];
        largest = V(max)(y[j], largest);
        y[j] = V(muladd)(e, sum->lo, V(muladd)(e, sum->hi, dy[j]));
    }
    if (V(any_less)(too_large, largest))
        EACH
        {
            VEC infinite = V(muladd)(V(set)((REAL)-INFINITY), sum->hi, dy[j]);
            y[j] = V(if_less)(too_large, given[j], infinite, y[j]);
        }
}

/* INOUT y: the results. */
FS_INLINE void F(vjp_results)(int abreast, fs_op op, VEC *y, const VEC *dy,
                              const F(vjp_sum) *sum, const F(shift) *shift)
{
    if (op == FS_SOFTMAX_VJP)
        EACH y[j] = F(softmax_vjp)(y[j], dy[j], sum);
    else
        F(log_softmax_vjp)(abreast, y, dy, sum, shift);
}

/* Rounds a sum to a pair of REALs. exp(y) 2^SPARE times a large sum must not overflow,
 * nor a small sum become subnormal: the factor 2^-SPARE goes to one or the other. */
FS_INLINE void F(vjp_norm)(fs_op op, fs_pair sum, REAL *hi, REAL *lo, REAL *rest)
{
    double first = op == FS_SOFTMAX_VJP || fabs(sum.hi) < 1 ? 1 : UNSPARE;
    sum.hi *= first;
    sum.lo *= first;
    *hi = (REAL)(sum.hi + sum.lo);
    *lo = (REAL)((sum.hi - *hi) + sum.lo);
    *rest = (REAL)(op == FS_SOFTMAX_VJP ? 1 : UNSPARE / first);
}

static inline void F(divide)(REAL *x, ptrdiff_t count, double divisor)
{
    REAL by = (REAL)divisor;
    if (divisor != 1.0)
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) x[i] /= by;
}

/* ---- rows ---- */

/* sum + a b, or sum + b, of the vectors there. */
FS_INLINE V(wide) F(add_wide)(int products, V(wide) sum, const REAL *a, const REAL *b)
{
    return products ? V(wide_add_product)(sum, a, b) : V(wide_add)(sum, b);
}

/* Two sums side by side: one addition need not wait for the other. */
typedef struct {
    V(wide) even, odd;
} F(double_sums);

FS_INLINE F(double_sums) F(no_double_sums)(void)
{
    return (F(double_sums)){0};
}

/* Adds `count` products, or elements of b. */
FS_INLINE void F(add_to_sums)(int products, const REAL *a, const REAL *b,
                              ptrdiff_t count, F(double_sums) *sums)
{
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        sums->even = F(add_wide)(products, sums->even, a + i, b + i);
        sums->odd = F(add_wide)(products, sums->odd, a + i + LANES, b + i + LANES);
    }
    if (i + LANES <= count) {
        sums->even = F(add_wide)(products, sums->even, a + i, b + i);
        i += LANES;
    }
    if (i < count) {
        REAL a_last[LANES], b_last[LANES];
        VEC zero = V(set)(0);
        if (products)
            V(store)(a_last, V(load_part)(a + i, count - i, zero));
        V(store)(b_last, V(load_part)(b + i, count - i, zero));
        sums->odd = F(add_wide)(products, sums->odd, a_last, b_last);
    }
}

FS_INLINE double F(total_of)(const F(double_sums) *sums)
{
    return V(wide_total)(sums->even) + V(wide_total)(sums->odd);
}

/* The next `abreast` vectors, of which `count` elements are there. */
FS_INLINE void F(vjp_step)(int abreast, fs_op op, const REAL *y, const REAL *dy,
                           REAL *to, ptrdiff_t count, const F(vjp_sum) *sum,
                           const F(shift) *shift)
{
    VEC a[ABREAST], b[ABREAST], zero = V(set)(0);
    EACH a[j] = F(load_some)(y + j * LANES, count - j * LANES, zero);
    EACH b[j] = F(load_some)(dy + j * LANES, count - j * LANES, zero);
    F(vjp_results)(abreast, op, a, b, sum, shift);
    EACH F(store_some)(to + j * LANES, count - j * LANES, a[j]);
}

FS_INLINE void F(vjp_block)(fs_op op, const REAL *y, const REAL *dy, REAL *to,
                            ptrdiff_t count, fs_pair sum)
{
    const ptrdiff_t step = ABREAST * LANES;
    REAL hi, lo, rest;
    F(vjp_norm)(op, sum, &hi, &lo, &rest);
    F(vjp_sum) all = F(vjp_sum_of)(V(set)(hi), V(set)(lo), V(set)(rest));
    F(shift) shift = F(shift_for)(V(set)(0));
    ptrdiff_t i = 0;
    for (; i + step <= count; i += step)
        F(vjp_step)(ABREAST, op, y + i, dy + i, to + i, step, &all, &shift);
    for (; i < count; i += LANES)
        F(vjp_step)(1, op, y + i, dy + i, to + i, fs_least(LANES, count - i), &all,
                    &shift);
}

/* At most BLOCK elements of a line: y and dy as plain floats, where the results go. */
typedef struct {
    const REAL *y, *dy;
    char *place;
    ptrdiff_t count;
} F(vjp_part);

/* Room for y and dy where they are staged. */
typedef struct {
    REAL y[BLOCK], dy[BLOCK];
} F(vjp_room);

FS_INLINE F(vjp_part) F(vjp_part_of)(const fs_job *job, fs_line line, ptrdiff_t i,
                                     ptrdiff_t count, REAL *y, REAL *dy)
{
    const fs_operand *of_y = &job->operand[FS_X], *of_dy = &job->operand[FS_DY];
    F(vjp_part) part = {NULL, NULL, line.at[FS_Y] + i * job->operand[FS_Y].n, count};
    part.y = F(read)(of_y, line.at[FS_X] + i * of_y->n, of_y->n, NULL, 0, count, y);
    part.dy =
        F(read)(of_dy, line.at[FS_DY] + i * of_dy->n, of_dy->n, NULL, 0, count, dy);
    return part;
}

FS_INLINE double F(sum_of_part)(const fs_job *job, const F(vjp_part) *part)
{
    F(double_sums) sums = F(no_double_sums)();
    if (job->op == FS_SOFTMAX_VJP) /* constants take the choice out of the loops */
        F(add_to_sums)(1, part->y, part->dy, part->count, &sums);
    else
        F(add_to_sums)(0, part->y, part->dy, part->count, &sums);
    return F(total_of)(&sums);
}

FS_INLINE void F(finish_part)(const fs_job *job, const F(vjp_part) *part, fs_pair sum)
{
    REAL out[BLOCK];
    fs_type type = job->operand[FS_Y].type;
    REAL *to = type == REAL_TYPE ? (REAL *)part->place : out;
    if (job->op == FS_SOFTMAX_VJP)
        F(vjp_block)(FS_SOFTMAX_VJP, part->y, part->dy, to, part->count, sum);
    else
        F(vjp_block)(FS_LOG_SOFTMAX_VJP, part->y, part->dy, to, part->count, sum);
    F(divide)(to, part->count, job->divisor);
    if (to == out)
        F(write)(out, part->count, part->place, type);
}

/* Over [first, last) of a row: pass 1, which returns the sum; pass 2, if that is known.
 */
static fs_pair F(vjp_pass)(const fs_job *job, fs_line line, ptrdiff_t first,
                           ptrdiff_t last, const fs_pair *sum)
{
    F(vjp_room) room;
    fs_pair found = {0, 0};
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        F(vjp_part) part = F(vjp_part_of)(job, line, i, count, room.y, room.dy);
        if (sum)
            F(finish_part)(job, &part, *sum);
        else
            found.hi += F(sum_of_part)(job, &part);
    }
    return found;
}

/* ---- short rows ----
 *
 * Their even elements are added up, and their odd ones: in lanes (loops/short_rows.h),
 * and row by row, which of many rows takes so many times as long (Zen 4; softmax /
 * log_softmax): float32 of 10 in AVX-512 1.9 / 2.0, of 28 1.03 / 1.2, of 31 .92 / 1.03,
 * in AVX2 1.9 / 1.8, 1.1 / 1.4 and .95 / 1.2; float64 of 10 in both 1.2 / 1.3, of 16 in
 * AVX-512 .8 / 1.0. */
#define SHORT_GRADIENT (LANES == 1 ? 0 : T_IS_F32 ? 28 : 10)

/* Element i of LANES rows is vector i of y, and of dy. What their results need goes to
 * `sets` from j on. */
FS_INLINE void F(vjp_factors)(fs_op op, const REAL *y, const REAL *dy, ptrdiff_t n,
                              F(sets) *sets, ptrdiff_t j)
{
    double even[LANES], odd[LANES];
    REAL *hi = sets->hi + j, *lo = sets->lo + j, *rest = sets->rest + j;
    F(double_sums) sums = F(no_double_sums)();
    F(add_to_sums)(op == FS_SOFTMAX_VJP, y, dy, n * LANES, &sums);
    V(wide_store)(even, sums.even);
    V(wide_store)(odd, sums.odd);
#pragma omp simd
    for (int k = 0; k < LANES; k++)
        F(vjp_norm)(op, (fs_pair){even[k] + odd[k], 0}, hi + k, lo + k, rest + k);
    F(vjp_sum) sum = F(vjp_sum_of)(V(load)(hi), V(load)(lo), V(load)(rest));
    V(store)(lo, sum.lo);
}

FS_INLINE double F(sum_of_short)(const fs_job *job, const F(vjp_part) *part)
{
    double sum = 0, other = 0;
    for (ptrdiff_t i = 0; i < part->count; i++) {
        double y = job->op == FS_SOFTMAX_VJP ? part->y[i] : 1;
        double next = fs_muladd(y, part->dy[i], sum);
        sum = other;
        other = next;
    }
    return sum + other;
}

/* Rows of one block each: read once. Up to 2560 bytes, a row's sum is found before the
 * results of the row before it, which need not wait for the lanes' sum then: 300 floats
 * take .87 of the time. Longer ones push each other out of the first-level cache. */
static void F(vjp_rows)(const fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t n = job->n, ahead = n <= 2560 / (ptrdiff_t)sizeof(REAL);
    F(vjp_room) room[2];
    F(vjp_part) part[2];
    fs_pair sum[2] = {{0, 0}, {0, 0}};
    for (ptrdiff_t row = first; row < last + ahead; row++) {
        ptrdiff_t slot = row & ahead, done = slot ^ ahead;
        if (row < last) {
            fs_line line = {{NULL}};
            line.at[FS_X] = fs_locate_one(job, FS_X, row);
            line.at[FS_DY] = fs_locate_one(job, FS_DY, row);
            line.at[FS_Y] = fs_locate_one(job, FS_Y, row);
            part[slot] = F(vjp_part_of)(job, line, 0, n, room[slot].y, room[slot].dy);
            sum[slot].hi = n <= SHORT_GRADIENT ? F(sum_of_short)(job, &part[slot])
                                               : F(sum_of_part)(job, &part[slot]);
        }
        if (row >= first + ahead)
            F(finish_part)(job, &part[done], sum[done]);
    }
}

/* ---- columns ---- */

typedef struct {
    const F(shape) *shape;
    F(rows_of) y, dy;
    double sum[FS_TILE];
    REAL hi[FS_TILE], lo[FS_TILE], rest[FS_TILE];
} F(vjp_tile);

/* Adds the sums over `abreast` rows. */
FS_INLINE void F(column_sums)(int abreast, fs_op op, const REAL *const *y,
                              const REAL *const *dy, ptrdiff_t padded, double *sums)
{
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        V(wide) sum = V(wide_load)(sums + i);
        EACH sum = F(add_wide)(op == FS_SOFTMAX_VJP, sum, y[j] + i, dy[j] + i);
        V(wide_store)(sums + i, sum);
    }
}

static void F(vjp_tile_sum)(fs_job *job, F(vjp_tile) *tile)
{
    REAL y_block[ABREAST][FS_TILE], dy_block[ABREAST][FS_TILE];
    const F(shape) *shape = tile->shape;
    memset(tile->sum, 0, sizeof tile->sum);
    for (ptrdiff_t row = 0; row < shape->rows; row += ABREAST) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(job->watch))
            return;
        const REAL *y[ABREAST], *dy[ABREAST];
        int abreast = (int)fs_least(ABREAST, shape->rows - row);
        EACH
        {
            dy[j] = F(read_row)(shape, &tile->dy, row + j, dy_block[j]);
            y[j] = dy[j];
            if (job->op == FS_SOFTMAX_VJP)
                y[j] = F(read_row)(shape, &tile->y, row + j, y_block[j]);
        }
        if (abreast == ABREAST && job->op == FS_SOFTMAX_VJP) /* constants, to unroll */
            F(column_sums)(ABREAST, FS_SOFTMAX_VJP, y, dy, shape->padded, tile->sum);
        else if (abreast == ABREAST)
            F(column_sums)(ABREAST, FS_LOG_SOFTMAX_VJP, y, dy, shape->padded,
                           tile->sum);
        else
            F(column_sums)(abreast, job->op, y, dy, shape->padded, tile->sum);
    }
    for (ptrdiff_t i = shape->columns; i < shape->width; i++)
        tile->sum[i % shape->columns] += tile->sum[i];
}

static void F(vjp_tile_norms)(const fs_job *job, F(vjp_tile) *tile)
{
    const F(shape) *shape = tile->shape;
    for (ptrdiff_t i = 0; i < shape->padded; i++)
        F(vjp_norm)(job->op, (fs_pair){tile->sum[i % shape->columns], 0}, &tile->hi[i],
                    &tile->lo[i], &tile->rest[i]);
}

/* The results of `abreast` rows. */
FS_INLINE void F(finish_vjp_rows)(int abreast, fs_op op, const REAL *const *y,
                                  const REAL *const *dy, REAL *const *to,
                                  const F(vjp_tile) *tile)
{
    F(shift) shift = F(shift_for)(V(set)(0));
    for (ptrdiff_t i = 0; i < tile->shape->padded; i += LANES) {
        F(vjp_sum) sum = F(vjp_sum_of)(V(load)(tile->hi + i), V(load)(tile->lo + i),
                                       V(load)(tile->rest + i));
        VEC a[ABREAST], b[ABREAST];
        EACH a[j] = V(load)(y[j] + i);
        EACH b[j] = V(load)(dy[j] + i);
        F(vjp_results)(abreast, op, a, b, &sum, &shift);
        EACH V(store)(to[j] + i, a[j]);
    }
}

/* y, dy and dx of 4 rows would be 12 lines that push each other out of an L1 cache of 8
 * ways where rows are a multiple of 4096 bytes apart: 2 rows take 0.65 times as long
 * there, and up to 1.08 times elsewhere. */
#define FINISHED_ABREAST 2

static void F(vjp_tile_finish)(fs_job *job, char *result, const F(vjp_tile) *tile)
{
    REAL y_block[FINISHED_ABREAST][FS_TILE], dy_block[FINISHED_ABREAST][FS_TILE];
    const F(shape) *shape = tile->shape;
    for (ptrdiff_t row = 0; row < shape->rows; row += FINISHED_ABREAST) {
        if (row > 0 && row % FS_TILE == 0 && fs_poll(job->watch))
            return;
        const REAL *y[FINISHED_ABREAST], *dy[FINISHED_ABREAST];
        REAL *to[FINISHED_ABREAST];
        int abreast = (int)fs_least(FINISHED_ABREAST, shape->rows - row);
        for (int j = 0; j < FINISHED_ABREAST; j++) { /* the last one twice */
            ptrdiff_t here = row + fs_least(j, abreast - 1);
            y[j] = F(read_row)(shape, &tile->y, here, y_block[j]);
            dy[j] = F(read_row)(shape, &tile->dy, here, dy_block[j]);
            to[j] = F(y_row)(job, shape, result, here, y_block[j]);
        }
        if (job->op == FS_SOFTMAX_VJP)
            F(finish_vjp_rows)(FINISHED_ABREAST, FS_SOFTMAX_VJP, y, dy, to, tile);
        else
            F(finish_vjp_rows)(FINISHED_ABREAST, FS_LOG_SOFTMAX_VJP, y, dy, to, tile);
        EACH
        {
            F(divide)(to[j], F(elements_of_row)(shape, row + j), job->divisor);
            F(put_row)(job, shape, result, row + j, to[j]);
        }
    }
}

static void F(vjp_columns)(fs_job *job, fs_line line, const F(shape) *shape)
{
    F(vjp_tile) tile;
    tile.shape = shape;
    tile.y = F(rows_from)(shape, &job->operand[FS_X], line.at[FS_X], NULL, NULL, 0);
    tile.dy = F(rows_from)(shape, &job->operand[FS_DY], line.at[FS_DY], NULL, NULL, 0);
    F(vjp_tile_sum)(job, &tile);
    F(vjp_tile_norms)(job, &tile);
    if (!fs_stopped(job->watch))
        F(vjp_tile_finish)(job, line.at[FS_Y], &tile);
}
#undef FINISHED_ABREAST
