/* Every loop over rows and columns, once for every type and ISA; isa/begin.h has what
 * it is written in.
 *
 * A row takes three passes: maximum; sum of the terms (softmax leaves them in y); y.
 * Input that is not plain floats is staged block by block on its way in: into y where
 * y has the computing type (from then on y is the input), else into a buffer, again in
 * every pass.
 */
#include "math/log_sum.h"

#include "math/exp.h"

/* Staged, terms and results of this many elements fit the first-level cache. FS_PIECE
 * is a multiple of it. */
#define BLOCK 2048

/* Where memory has nothing else to do, elements are asked for this many ahead: beyond
 * the page at whose end the hardware stops doing so. Hinge losses of rows of 1000 that
 * come from memory take 0.7 times as long, gradients 0.9 times. */
#define AHEAD 1024

/* ---- reading and writing ---- */

#if T_IS_F32
/* Contiguous 16-bit floats in and out; the last lanes go through a full vector. */
#define CONVERSION(WORD)                                                               \
    static void JOIN(load_##WORD, ISA)(const uint16_t *from, ptrdiff_t count,          \
                                       float *to)                                      \
    {                                                                                  \
        ptrdiff_t i = 0;                                                               \
        for (; i + LANES <= count; i += LANES)                                         \
            f32_store(to + i, f32_load_##WORD(from + i));                              \
        uint16_t rest[LANES] = {0};                                                    \
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);                    \
        if (i < count)                                                                 \
            f32_store_part(to + i, count - i, f32_load_##WORD(rest));                  \
    }                                                                                  \
    static void JOIN(store_##WORD, ISA)(const float *from, ptrdiff_t count,            \
                                        uint16_t *to)                                  \
    {                                                                                  \
        ptrdiff_t i = 0;                                                               \
        for (; i + LANES <= count; i += LANES)                                         \
            f32_store_##WORD(to + i, f32_load(from + i));                              \
        uint16_t rest[LANES];                                                          \
        if (i < count) {                                                               \
            f32_store_##WORD(rest, f32_load_part(from + i, count - i, f32_set(0)));    \
            memcpy(to + i, rest, (size_t)(count - i) * sizeof *rest);                  \
        }                                                                              \
    }
CONVERSION(f16)
CONVERSION(bf16)
#undef CONVERSION
#endif

/* Native elements of the computing type, `n` bytes apart along n. */
static inline fs_operand F(plain)(void *data, ptrdiff_t n)
{
    return (fs_operand){data, REAL_TYPE, 0, 1, n, sizeof(REAL), 1, 0};
}

/* Whether elements need no conversion, whatever else is to be done to them. */
static inline int F(are_floats)(const fs_operand *source, const char *x,
                                ptrdiff_t x_step)
{
    return source->type == REAL_TYPE && !source->swapped && x_step == sizeof(REAL) &&
           (uintptr_t)x % sizeof(REAL) == 0;
}

static void F(convert)(const fs_operand *source, const char *x, ptrdiff_t x_step,
                       ptrdiff_t count, REAL *out)
{
#if T_IS_F32
    int halves = x_step == 2 && !source->swapped && (uintptr_t)x % 2 == 0;
    if (halves && source->type == FS_F16)
        JOIN(load_f16, ISA)((const uint16_t *)x, count, out);
    else if (halves && source->type == FS_BF16)
        JOIN(load_bf16, ISA)((const uint16_t *)x, count, out);
    else
#endif
        JOIN(fs_stage, T)(x, x_step, source->type, source->swapped, count, out);
    for (ptrdiff_t i = 0; source->via_float && i < count; i++) out[i] = (float)out[i];
}

/* `count` elements at x become plain floats at `out`: converted, divided by the
 * temperature, -inf where masked out. */
static void F(stage)(const fs_operand *source, const char *x, ptrdiff_t x_step,
                     const char *mask, ptrdiff_t mask_step, ptrdiff_t count, REAL *out)
{
    const REAL *from = out;
    if (F(are_floats)(source, x, x_step) && (source->temperature != 1.0 || mask))
        from = (const REAL *)x;
    else
        F(convert)(source, x, x_step, count, out);
    if (source->temperature != 1.0) {
        REAL temperature = (REAL)source->temperature;
        for (ptrdiff_t i = 0; i < count; i++) out[i] = from[i] / temperature;
        from = out;
    }
    if (mask && mask_step == 1) { /* a constant step lets the compiler vectorize */
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i] ? from[i] : (REAL)-INFINITY;
    } else if (mask) {
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i * mask_step] ? from[i] : (REAL)-INFINITY;
    }
}

/* The elements as plain floats: in place if they are, else staged into `buffer`. */
static inline const REAL *F(read)(const fs_operand *source, const char *x,
                                  ptrdiff_t x_step, const char *mask,
                                  ptrdiff_t mask_step, ptrdiff_t count, REAL *buffer)
{
    if (source->direct)
        return (const REAL *)x;
    F(stage)(source, x, x_step, mask, mask_step, count, buffer);
    return buffer;
}

static inline int F(keeps_terms)(const fs_job *job)
{
    return job->operand[FS_Y].type == REAL_TYPE && job->op != FS_LOGSUMEXP;
}

/* Where passes 2 and 3 read: y, if pass 1 has staged the input there. */
static inline fs_operand F(source_after_max)(const fs_job *job, fs_line *line)
{
    if (job->operand[FS_X].direct || !F(keeps_terms)(job))
        return job->operand[FS_X];
    line->at[FS_X] = line->at[FS_Y];
    line->at[FS_MASK] = NULL;
    return F(plain)(NULL, job->operand[FS_Y].n);
}

static inline void F(write)(const REAL *from, ptrdiff_t count, char *y, fs_type type)
{
#if T_IS_F32
    if (type == FS_F16)
        JOIN(store_f16, ISA)(from, count, (uint16_t *)y);
    else if (type == FS_BF16)
        JOIN(store_bf16, ISA)(from, count, (uint16_t *)y);
    else
#endif
        memcpy(y, from, (size_t)count * sizeof *from);
    (void)type;
}

/* After a NaN among those in the set made the whole line NaN: entries that are masked
 * out get what they always get. */
static void F(rewrite_masked)(const fs_job *job, fs_line line, ptrdiff_t first,
                              ptrdiff_t last)
{
    REAL outside = job->op == FS_SOFTMAX ? 0 : (REAL)-INFINITY;
    for (ptrdiff_t i = first; i < last; i++)
        if (!line.at[FS_MASK][i * job->operand[FS_MASK].n])
            F(write)(&outside, 1, line.at[FS_Y] + i * job->operand[FS_Y].n,
                     job->operand[FS_Y].type);
}

/* ---- loops over one block ---- */

/* The maximum of those that are not NaN; -inf if there are none. */
static inline REAL F(largest)(const REAL *x, ptrdiff_t count)
{
    VEC none = V(set)((REAL)-INFINITY);
    VEC max[4] = {none, none, none, none};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++) max[j] = V(max)(V(load)(x + i + j * LANES), max[j]);
    for (; i + LANES <= count; i += LANES) max[0] = V(max)(V(load)(x + i), max[0]);
    if (i < count)
        max[1] = V(max)(V(load_part)(x + i, count - i, none), max[1]);
    max[0] = V(max)(V(max)(max[0], max[1]), V(max)(max[2], max[3]));
    return V(largest)(max[0]);
}

/* The elements less what is to be taken off them first: in place where that is nothing.
 */
static inline const REAL *F(lowered)(const REAL *x, ptrdiff_t count, REAL max,
                                     REAL *buffer)
{
    if (-SUBTRACT_FROM < max && max < SUBTRACT_FROM)
        return x;
    for (ptrdiff_t i = 0; i < count; i++) buffer[i] = x[i] - max;
    return buffer;
}

/* Adds the terms of the next `abreast` vectors, of which `count` elements are there.
 * With the largest term they are written to e, in whole vectors. */
FS_INLINE void F(add_terms)(int abreast, const REAL *x, ptrdiff_t count, REAL *e,
                            int with_largest, const F(shift) *shift, F(sum) *sum)
{
    VEC none = V(set)((REAL)-INFINITY), here[ABREAST], s[ABREAST], q[ABREAST];
    EACH
    {
        ptrdiff_t left = count - j * LANES;
        here[j] = left >= LANES ? V(load)(x + j * LANES)
                  : left > 0    ? V(load_part)(x + j * LANES, left, none)
                                : none;
    }
    F(exp_terms)(abreast, here, shift, s, q);
    EACH
    {
        here[j] = F(term)(s[j], q[j]);
        if (with_largest && j * LANES < count)
            V(store)(e + j * LANES, here[j]);
    }
    EACH F(add_term)(sum, s[j], q[j], here[j], with_largest);
}

/* The sum of at most BLOCK terms; see add_terms. e may be x. What is needed after these
 * begins at `next`, and is fetched meanwhile. The vectors at `replaced` (-1: none) are
 * read from `replacement`. */
FS_INLINE fs_pair F(terms)(const REAL *x, ptrdiff_t count, REAL *e, int with_largest,
                           const F(shift) *shift, const char *next, ptrdiff_t replaced,
                           const REAL *replacement)
{
    const ptrdiff_t step = ABREAST * LANES;
    F(sum) sum = {V(set)(F(start)(with_largest)), V(set)(0)};
    ptrdiff_t i = 0;
    for (; i + step <= count; i += step) {
        for (ptrdiff_t line = 0; line < step * (ptrdiff_t)sizeof *x; line += 64)
            fs_prefetch(next, i * (ptrdiff_t)sizeof *x + line);
        F(add_terms)(ABREAST, i == replaced ? replacement : x + i, step,
                     with_largest ? e + i : NULL, with_largest, shift, &sum);
    }
    const REAL *rest = i == replaced ? replacement : x + i;
    REAL *e_rest = with_largest ? e + i : NULL;
    if (count - i > LANES)
        F(add_terms)(ABREAST, rest, count - i, e_rest, with_largest, shift, &sum);
    else if (i < count)
        F(add_terms)(1, rest, count - i, e_rest, with_largest, shift, &sum);
    return F(all_lanes)(sum, with_largest);
}

/* All terms of a block, written to e. */
static fs_pair F(all_terms)(const REAL *x, ptrdiff_t count, REAL *e, REAL max,
                            const char *next)
{
    F(shift) shift = F(shift_for)(V(set)(max));
    return F(terms)(F(lowered)(x, count, max, e), count, e, 1, &shift, next, -1, NULL);
}

/* Where the first ABREAST vectors begin that hold `max`; the rest behind the last whole
 * ones if none do. */
static inline ptrdiff_t F(find_group)(const REAL *x, ptrdiff_t count, REAL max)
{
    const ptrdiff_t step = ABREAST * LANES;
    VEC wanted = V(set)(max), one = V(set)(1);
    ptrdiff_t i = 0;
    for (; i + step <= count; i += step) {
        VEC found = V(set)(0);
        for (int j = 0; j < ABREAST; j++)
            found = V(if_equal)(V(load)(x + i + j * LANES), wanted, one, found);
        if (V(largest)(found) > 0)
            break;
    }
    return i;
}

/* The terms' sum without the first element that equals the line's maximum, if the block
 * holds it: the vectors around it are replaced by a copy that holds -inf there. */
static fs_pair F(other_terms)(const REAL *x, ptrdiff_t count, REAL max, int holds_max,
                              const char *next)
{
    REAL around[ABREAST * LANES], buffer[BLOCK];
    ptrdiff_t skip = 0, first = -1;
    if (holds_max) {
        first = skip = fs_least(F(find_group)(x, count, max),
                                (count - 1) / (ABREAST * LANES) * (ABREAST * LANES));
        while (skip < count - 1 && !(x[skip] == max)) skip++;
    }
    F(shift) shift = F(shift_for)(V(set)(max));
    x = F(lowered)(x, count, max, buffer);
    if (holds_max) {
        ptrdiff_t length = fs_least(ABREAST * LANES, count - first);
        memcpy(around, x + first, (size_t)length * sizeof *x);
        around[skip - first] = (REAL)-INFINITY;
    }
    return F(terms)(x, count, NULL, 0, &shift, next, first, around);
}

/* softmax: y = e * (hi + lo). e is readable in whole vectors: a partial load of what
 * has just been stored waits for the store to leave the core (AMD). */
static inline void F(scale)(const REAL *e, REAL *y, ptrdiff_t count, REAL factor_hi,
                            REAL factor_lo)
{
    VEC hi = V(set)(factor_hi), lo = V(set)(factor_lo);
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (ptrdiff_t j = i; j < i + 4 * LANES; j += LANES)
            V(store)(y + j, V(times_pair)(V(load)(e + j), hi, lo));
    for (; i + LANES <= count; i += LANES)
        V(store)(y + i, V(times_pair)(V(load)(e + i), hi, lo));
    if (i < count)
        V(store_part)(y + i, count - i, V(times_pair)(V(load)(e + i), hi, lo));
}

/* The same past the caches, for results that no cache would hold until they are read:
 * memory need not be read before it is overwritten. */
static inline void F(scale_past_caches)(const REAL *e, REAL *y, ptrdiff_t count,
                                        REAL factor_hi, REAL factor_lo)
{
    VEC hi = V(set)(factor_hi), lo = V(set)(factor_lo);
    ptrdiff_t beyond = (ptrdiff_t)((uintptr_t)y % sizeof hi / sizeof *y);
    ptrdiff_t i = fs_least((LANES - beyond) % LANES, count);
    F(scale)(e, y, i, factor_hi, factor_lo);
    for (; i + LANES <= count; i += LANES)
        V(stream)(y + i, V(times_pair)(V(load)(e + i), hi, lo));
    F(scale)(e + i, y + i, count - i, factor_hi, factor_lo);
}

/* The same in place, in memory that ends behind `count` elements. */
static inline void F(scale_in_place)(REAL *y, ptrdiff_t count, REAL hi, REAL lo)
{
    REAL last[LANES];
    ptrdiff_t rest = count % LANES, whole = count - rest;
    F(scale)(y, y, whole, hi, lo);
    memcpy(last, y + whole, (size_t)rest * sizeof *y);
    for (ptrdiff_t i = rest; i < LANES; i++) last[i] = 0;
    F(scale)(last, y + whole, rest, hi, lo);
}

/* log_softmax: y = (x - hi) - lo. Where x is next to hi the first difference is exact;
 * elsewhere both round by half an ulp of y. */
static inline void F(lower)(const REAL *x, REAL *y, ptrdiff_t count, REAL log_hi,
                            REAL log_lo)
{
    VEC hi = V(set)(log_hi), lo = V(set)(log_lo);
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (ptrdiff_t j = i; j < i + 4 * LANES; j += LANES)
            V(store)(y + j, V(sub)(V(sub)(V(load)(x + j), hi), lo));
    for (; i + LANES <= count; i += LANES)
        V(store)(y + i, V(sub)(V(sub)(V(load)(x + i), hi), lo));
    if (i < count) {
        VEC last = V(load_part)(x + i, count - i, hi);
        V(store_part)(y + i, count - i, V(sub)(V(sub)(last, hi), lo));
    }
}

#include "loops/tile.h"
#include "ops/vjp.h"

/* ---- between passes 2 and 3: once per line, in double ---- */

/* Rounds a finite number to a pair of REALs; NaN stays. */
static inline fs_pair F(as_real_pair)(fs_pair a)
{
    double hi = (REAL)(a.hi + a.lo);
    return (fs_pair){hi, (a.hi - hi) + a.lo};
}

/* Asked between pieces: a row of one piece is not worth the question. */
static inline int F(stopped)(fs_job *job, ptrdiff_t first)
{
    return first > 0 && fs_poll(job->watch);
}

/* No answer if the job was stopped. */
static int F(any_nan)(fs_job *job, const fs_operand *source, fs_line line)
{
    REAL buffer[64];
    for (ptrdiff_t i = 0; i < job->n; i += 64) {
        if (i % BLOCK == 0 && F(stopped)(job, i))
            break;
        ptrdiff_t count = fs_least(64, job->n - i);
        const char *mask =
            line.at[FS_MASK] ? line.at[FS_MASK] + i * job->operand[FS_MASK].n : NULL;
        F(stage)(source, line.at[FS_X] + i * source->n, source->n, mask,
                 job->operand[FS_MASK].n, count, buffer);
        for (ptrdiff_t j = 0; j < count; j++)
            if (buffer[j] != buffer[j])
                return 1;
    }
    return 0;
}

/* What is known of some lines, side by side. */
typedef struct {
    REAL max[FS_TILE];
    double sum[FS_TILE], error[FS_TILE]; /* of the terms, as pairs */
    REAL hi[FS_TILE], lo[FS_TILE];       /* as in fs_norm */
} F(norms);

/* The logarithms of `count` lines' sums over their largest terms. IN max, with room up
 * to whole vectors. INOUT hi + lo: the sums without the largest term, then the
 * logarithms. */
static inline void F(log_terms)(const REAL *max, double *hi, double *lo,
                                ptrdiff_t count)
{
    REAL left[FS_TILE], k[FS_TILE];
    for (ptrdiff_t j = 0; j < count; j += LANES) {
        VEC here = V(load)(max + j);
        V(store)(left + j, V(sub)(here, F(subtrahend)(here)));
        V(store)(k + j, F(exponent_of_max)(here));
    }
    for (ptrdiff_t j = 0; j < count; j++) {
#if T_IS_F32
        hi[j] = fs_log_term_f32(left[j], k[j], hi[j] + lo[j], BASE, UNSPARE);
        lo[j] = 0;
#else
        fs_pair sum = {hi[j], lo[j]};
        fs_pair log_term = fs_log_term(left[j], k[j], sum, BASE, UNSPARE);
        hi[j] = log_term.hi;
        lo[j] = log_term.lo;
#endif
    }
}

/* softmax: what pass 3 multiplies with, for `count` lines. */
static inline void F(factors)(ptrdiff_t count, F(norms) *norms)
{
    for (ptrdiff_t j = 0; j < count; j++) {
#if T_IS_F32
        fs_pair inverse = {1 / (norms->sum[j] + norms->error[j]), 0};
#else
        fs_pair sum = {norms->sum[j], norms->error[j]};
        fs_pair inverse = fs_pair_divide((fs_pair){1, 0}, sum);
#endif
        fs_pair factor = F(as_real_pair)(inverse);
        norms->hi[j] = (REAL)factor.hi;
        norms->lo[j] = (REAL)factor.lo;
    }
}

/* The others: log(sum(exp(x))), which log_softmax subtracts. */
static inline void F(log_sums)(ptrdiff_t count, F(norms) *norms)
{
    F(log_terms)(norms->max, norms->sum, norms->error, count);
    for (ptrdiff_t j = 0; j < count; j++) {
        fs_pair log_term = {norms->sum[j], norms->error[j]};
        fs_pair pair = F(as_real_pair)(fs_log_total(norms->max[j], log_term));
        norms->hi[j] = (REAL)pair.hi;
        norms->lo[j] = (REAL)pair.lo;
    }
}

/* Whether the norm of line j is not the result yet: the maximum is infinite, or the two
 * terms cancel and what float terms have lost would show. */
static inline int F(is_special)(fs_op op, const F(norms) *norms, ptrdiff_t j)
{
    double max = norms->max[j], log_term = norms->sum[j];
    int cancels = T_IS_F32 && op == FS_LOGSUMEXP && fabs(max + log_term) < log_term;
    return op != FS_SOFTMAX && (isinf(max) || cancels);
}

/* log(sum(exp(x))) in double of a line of float, whatever the job computes in: in the
 * unit of float64. */
HIDDEN fs_pair JOIN(fs_log_sum_of_line_f64, ISA)(fs_job *narrow, fs_line line);

/* Puts log(sum(exp(x))) of such a line, read from `source`, into its norm. */
static void F(special_log_sum)(fs_job *job, const fs_operand *source, fs_line line,
                               F(norms) *norms, ptrdiff_t j)
{
    REAL max = norms->max[j];
    fs_pair pair = {max, 0};
    if (isinf(max) &&
        ((job->op == FS_LOG_SOFTMAX && max < 0) || F(any_nan)(job, source, line)))
        pair.hi = NAN;
#if T_IS_F32
    else if (!isinf(max))
        pair = F(as_real_pair)(JOIN(fs_log_sum_of_line_f64, ISA)(job, line));
#endif
    norms->hi[j] = (REAL)pair.hi;
    norms->lo[j] = (REAL)pair.lo;
}

/* Maxima and sums of `count` lines become hi + lo. */
static inline void F(finish_norms)(fs_op op, ptrdiff_t count, F(norms) *norms)
{
    if (op == FS_SOFTMAX)
        F(factors)(count, norms);
    else
        F(log_sums)(count, norms);
}

static fs_norm F(row_norm)(fs_job *job, fs_line line, double max, fs_pair sum)
{
    if (F(is_vjp)(job))
        return (fs_norm){max, sum};
    F(norms) norms;
    V(store)(norms.max, V(set)((REAL)max));
    norms.sum[0] = sum.hi;
    norms.error[0] = sum.lo;
    F(finish_norms)(job->op, 1, &norms);
    fs_line from = line;
    fs_operand source = F(source_after_max)(job, &from);
    if (F(is_special)(job->op, &norms, 0))
        F(special_log_sum)(job, &source, from, &norms, 0);
    if (job->op == FS_LOGSUMEXP)
        F(write)(norms.hi, 1, line.at[FS_Y], job->operand[FS_Y].type);
    return (fs_norm){max, {norms.hi[0], norms.lo[0]}};
}

/* ---- rows ---- */

static double F(row_max)(const fs_job *job, fs_line line, ptrdiff_t first,
                         ptrdiff_t last, ptrdiff_t *block)
{
    const fs_operand *source = &job->operand[FS_X];
    REAL buffer[BLOCK], max = (REAL)-INFINITY;
    *block = first;
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask =
            line.at[FS_MASK] ? line.at[FS_MASK] + i * job->operand[FS_MASK].n : NULL;
        REAL *to = F(keeps_terms)(job) ? (REAL *)line.at[FS_Y] + i : buffer;
        const REAL *x = F(read)(source, line.at[FS_X] + i * source->n, source->n, mask,
                                job->operand[FS_MASK].n, count, to);
        REAL here = F(largest)(x, count);
        if (here > max) {
            max = here;
            *block = i;
        }
    }
    return max;
}

/* Where x is needed next after it was read at `x`, `rows` rows on; `x` itself where it
 * is staged, or the last. */
static inline const char *F(next_of)(const fs_job *job, const char *x, ptrdiff_t rows)
{
    if (!job->operand[FS_X].direct || job->n_outer == 0)
        return x;
    return (const char *)((uintptr_t)x +
                          (size_t)(rows * job->outer_step[job->n_outer - 1][FS_X]));
}

static fs_pair F(row_sum)(const fs_job *job, fs_line line, ptrdiff_t first,
                          ptrdiff_t last, double max, ptrdiff_t block)
{
    if (F(is_vjp)(job))
        return F(vjp_row_sum)(job, line, first, last);
    fs_operand source = F(source_after_max)(job, &line);
    fs_pair sum = {0, 0};
    REAL buffer[BLOCK];
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask =
            line.at[FS_MASK] ? line.at[FS_MASK] + i * job->operand[FS_MASK].n : NULL;
        const REAL *x = F(read)(&source, line.at[FS_X] + i * source.n, source.n, mask,
                                job->operand[FS_MASK].n, count, buffer);
        fs_pair here;
        const char *next = F(next_of)(job, line.at[FS_X] + i * source.n, 1);
        if (job->op != FS_SOFTMAX) {
            here = F(other_terms)(x, count, (REAL)max, i == block, next);
        } else if (F(keeps_terms)(job) && count == BLOCK) {
            here = F(all_terms)(x, count, (REAL *)line.at[FS_Y] + i, (REAL)max, next);
        } else { /* terms are written in whole vectors */
            here = F(all_terms)(x, count, buffer, (REAL)max, next);
            if (F(keeps_terms)(job))
                memcpy((REAL *)line.at[FS_Y] + i, buffer,
                       (size_t)count * sizeof *buffer);
        }
        sum = i == first ? here : fs_pair_add(sum, here);
    }
    return sum;
}

/* Pass 3 where y does not hold the terms yet. */
static void F(finish_from_x)(const fs_job *job, fs_line line, ptrdiff_t first,
                             ptrdiff_t last, const fs_norm *norm)
{
    fs_operand source = F(source_after_max)(job, &line);
    REAL buffer[BLOCK], hi = (REAL)norm->pair.hi, lo = (REAL)norm->pair.lo;
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask =
            line.at[FS_MASK] ? line.at[FS_MASK] + i * job->operand[FS_MASK].n : NULL;
        const REAL *x = F(read)(&source, line.at[FS_X] + i * source.n, source.n, mask,
                                job->operand[FS_MASK].n, count, buffer);
        if (job->op == FS_SOFTMAX) {
            F(all_terms)(x, count, buffer, (REAL)norm->max, (const char *)x);
            F(scale)(buffer, buffer, count, hi, lo);
        } else {
            F(lower)(x, F(keeps_terms)(job) ? (REAL *)line.at[FS_Y] + i : buffer, count,
                     hi, lo);
        }
        if (!F(keeps_terms)(job))
            F(write)(buffer, count, line.at[FS_Y] + i * job->operand[FS_Y].n,
                     job->operand[FS_Y].type);
    }
}

static void F(row_finish)(const fs_job *job, fs_line line, ptrdiff_t first,
                          ptrdiff_t last, const fs_norm *norm)
{
    if (F(is_vjp)(job)) {
        F(vjp_row_finish)(job, line, first, last, norm);
        return;
    }
    if (job->op == FS_SOFTMAX && F(keeps_terms)(job)) {
        F(scale_in_place)((REAL *)line.at[FS_Y] + first, last - first,
                          (REAL)norm->pair.hi, (REAL)norm->pair.lo);
    } else {
        F(finish_from_x)(job, line, first, last, norm);
    }
    if (job->operand[FS_MASK].data && isnan(norm->pair.hi))
        F(rewrite_masked)(job, line, first, last);
}

/* Passes 1 and 2 of a whole row; zero sum if the job was stopped. */
static fs_pair F(sum_of_row)(fs_job *job, fs_line line, double *max)
{
    ptrdiff_t block = 0, n = job->n;
    *max = -INFINITY;
    for (ptrdiff_t i = 0; i < n && !F(stopped)(job, i); i += FS_PIECE) {
        ptrdiff_t here;
        double m = F(row_max)(job, line, i, fs_least(n, i + FS_PIECE), &here);
        block = m > *max ? here : block;
        *max = m > *max ? m : *max;
    }
    fs_pair sum = {0, 0};
    for (ptrdiff_t i = 0; i < n && !F(stopped)(job, i); i += FS_PIECE) {
        ptrdiff_t last = fs_least(n, i + FS_PIECE);
        fs_pair here = F(row_sum)(job, line, i, last, *max, block);
        sum = i == 0 ? here : fs_pair_add(sum, here);
    }
    return sum;
}

#if !T_IS_F32
fs_pair F(fs_log_sum_of_line)(fs_job *narrow, fs_line line)
{
    fs_job job = *narrow;
    job.compute = FS_F64;
    job.operand[FS_X].direct = 0;
    job.operand[FS_X].via_float = 1;
    double max;
    fs_pair sum = F(sum_of_row)(&job, line, &max);
    F(norms) norms;
    V(store)(norms.max, V(set)(max));
    norms.sum[0] = sum.hi;
    norms.error[0] = sum.lo;
    F(log_terms)(norms.max, norms.sum, norms.error, 1);
    return fs_log_total(max, (fs_pair){norms.sum[0], norms.error[0]});
}
#endif

/* ---- rows of one block, several at once ----
 *
 * Phase by phase: what one row waits for, its maximum and its sum across lanes and the
 * division by it, is found while the others are worked on. The terms of all rows of a
 * group stay in the first-level cache. */

#define GROUP 16
#define GROUP_BYTES 16384

typedef struct {
    fs_line line[GROUP];
    const REAL *x[GROUP]; /* the row's elements, or where they have been staged */
    ptrdiff_t pitch;      /* elements from row to row in `terms`: whole vectors */
    F(norms) norms;
    REAL terms[GROUP_BYTES / sizeof(REAL) + LANES]; /* readable in whole vectors from
                                                     * anywhere in a row */
} F(group);

static inline void F(group_max)(const fs_job *job, ptrdiff_t count, F(group) *group)
{
    for (ptrdiff_t r = 0; r < count; r++) {
        fs_line line = group->line[r];
        group->x[r] = F(read)(&job->operand[FS_X], line.at[FS_X], job->operand[FS_X].n,
                              line.at[FS_MASK], job->operand[FS_MASK].n, job->n,
                              group->terms + r * group->pitch);
        group->norms.max[r] = F(largest)(group->x[r], job->n);
    }
}

static inline void F(group_sum)(const fs_job *job, ptrdiff_t count, F(group) *group)
{
    for (ptrdiff_t r = 0; r < count; r++) {
        REAL max = group->norms.max[r], *terms = group->terms + r * group->pitch;
        const char *next = F(next_of)(job, group->line[r].at[FS_X], count);
        fs_pair sum = job->op == FS_SOFTMAX
                          ? F(all_terms)(group->x[r], job->n, terms, max, next)
                          : F(other_terms)(group->x[r], job->n, max, 1, next);
        group->norms.sum[r] = sum.hi;
        group->norms.error[r] = sum.lo;
    }
}

/* y of one row, whose norm is known. */
static inline void F(finish_of_group)(const fs_job *job, ptrdiff_t r, F(group) *group)
{
    REAL *terms = group->terms + r * group->pitch;
    REAL *to =
        job->operand[FS_Y].type == REAL_TYPE ? (REAL *)group->line[r].at[FS_Y] : terms;
    REAL hi = group->norms.hi[r], lo = group->norms.lo[r];
    if (job->op == FS_SOFTMAX && job->past_caches && to != terms)
        F(scale_past_caches)(terms, to, job->n, hi, lo);
    else if (job->op == FS_SOFTMAX)
        F(scale)(terms, to, job->n, hi, lo);
    else
        F(lower)(group->x[r], to, job->n, hi, lo);
    if (to == terms)
        F(write)(to, job->n, group->line[r].at[FS_Y], job->operand[FS_Y].type);
    if (job->operand[FS_MASK].data && isnan(hi))
        F(rewrite_masked)(job, group->line[r], 0, job->n);
}

static void F(row_group)(fs_job *job, ptrdiff_t first, ptrdiff_t count, F(group) *group)
{
    for (ptrdiff_t r = 0; r < count; r++) group->line[r] = fs_locate(job, first + r);
    F(group_max)(job, count, group);
    F(group_sum)(job, count, group);
    F(finish_norms)(job->op, count, &group->norms);
    for (ptrdiff_t r = 0; r < count; r++)
        if (F(is_special)(job->op, &group->norms, r))
            F(special_log_sum)(job, &job->operand[FS_X], group->line[r], &group->norms,
                               r);
    for (ptrdiff_t r = 0; r < count; r++) {
        if (job->op == FS_LOGSUMEXP)
            F(write)(group->norms.hi + r, 1, group->line[r].at[FS_Y],
                     job->operand[FS_Y].type);
        else
            F(finish_of_group)(job, r, group);
    }
}

static void F(row_groups)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    F(group) group;
    const ptrdiff_t room = GROUP_BYTES / sizeof(REAL);
    group.pitch = (job->n + LANES - 1) / LANES * LANES;
    ptrdiff_t step = fs_least(GROUP, room / group.pitch);
    for (ptrdiff_t row = first; row < last; row += step)
        F(row_group)(job, row, fs_least(step, last - row), &group);
    if (job->past_caches)
        stream_fence();
}

#include "loops/columns.h"
#include "loops/short_rows.h"

#include "ops/hinge.h"

static void F(long_row)(fs_job *job, fs_line line)
{
    double max;
    fs_pair sum = F(sum_of_row)(job, line, &max);
    fs_norm norm = F(row_norm)(job, line, max, sum);
    if (job->op == FS_LOGSUMEXP)
        return;
    for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += FS_PIECE)
        F(row_finish)(job, line, i, fs_least(job->n, i + FS_PIECE), &norm);
}

static void F(rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    if (F(is_vjp)(job))
        F(vjp_rows)(job, first, last);
    else if (job->n <= SHORT)
        F(short_rows)(job, first, last);
    else if (job->n <= BLOCK)
        F(row_groups)(job, first, last);
    else
        for (ptrdiff_t row = first; row < last; row++)
            F(long_row)(job, fs_locate(job, row));
}

#include "loops/units.h"

HIDDEN const fs_kernels F(fs_kernels) = {F(begin), F(unit)};
