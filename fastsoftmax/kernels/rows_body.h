/* Every loop over rows and columns, once for every type and ISA. A rows_<isa>.c
 * includes its vocabulary (vec_<isa>.h), defines ISA, and includes this file twice: with
 * T_IS_F32 0, then 1 (in that order: f32 falls back on f64's line_log_sum).
 *
 * A row takes three passes: maximum; sum of the terms (softmax leaves them in y); y.
 * Input that is not plain floats is staged block by block on its way in: into y where
 * y has the computing type (from then on y is the input), else into a buffer, again in
 * every pass.
 */
#include <math.h>

#include "hinge.h"
#include "line_math.h"
#include "rows.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#if T_IS_F32
#define T f32
#define REAL float
#define REAL_TYPE FS_F32
#else
#define T f64
#define REAL double
#define REAL_TYPE FS_F64
#endif
#define V(word) JOIN(T, word)
#define F(name) JOIN(JOIN(name, T), ISA)
#define VEC V(vec)
#define LANES V(lanes)

#include "exp_body.h"

/* Staged, terms and results of this many elements fit the first-level cache. FS_PIECE
 * is a multiple of it. */
#define BLOCK 2048

/* Where memory has nothing else to do, elements are asked for this many ahead: beyond the
 * page at whose end the hardware stops doing so. Hinge losses of rows of 1000 that come
 * from memory take 0.7 times as long, gradients 0.9 times. */
#define AHEAD 1024

/* ---- reading and writing ---- */

#if T_IS_F32
/* Contiguous 16-bit floats in and out; the last lanes go through a full vector. */
#define CONVERSION(WORD)                                                            \
    static void JOIN(load_##WORD, ISA)(const uint16_t *from, ptrdiff_t count,       \
                                       float *to)                                   \
    {                                                                               \
        ptrdiff_t i = 0;                                                            \
        for (; i + LANES <= count; i += LANES)                                      \
            f32_store(to + i, f32_load_##WORD(from + i));                           \
        uint16_t rest[LANES] = {0};                                                 \
        memcpy(rest, from + i, (size_t)(count - i) * sizeof *rest);                 \
        if (i < count)                                                              \
            f32_store_part(to + i, count - i, f32_load_##WORD(rest));               \
    }                                                                               \
    static void JOIN(store_##WORD, ISA)(const float *from, ptrdiff_t count,         \
                                        uint16_t *to)                               \
    {                                                                               \
        ptrdiff_t i = 0;                                                            \
        for (; i + LANES <= count; i += LANES)                                      \
            f32_store_##WORD(to + i, f32_load(from + i));                           \
        uint16_t rest[LANES];                                                       \
        if (i < count) {                                                            \
            f32_store_##WORD(rest, f32_load_part(from + i, count - i, f32_set(0))); \
            memcpy(to + i, rest, (size_t)(count - i) * sizeof *rest);               \
        }                                                                           \
    }
CONVERSION(f16)
CONVERSION(bf16)
#undef CONVERSION
#endif

/* `count` elements at x become plain floats at `out`: converted, divided by the
 * temperature, -inf where masked out. */
static void F(stage)(const fs_source *source, const char *x, ptrdiff_t x_step,
                     const char *mask, ptrdiff_t mask_step, ptrdiff_t count, REAL *out)
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
    for (ptrdiff_t i = 0; source->via_float && i < count; i++)
        out[i] = (float)out[i];
    if (source->temperature != 1.0) {
        REAL temperature = (REAL)source->temperature;
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] /= temperature;
    }
    if (mask && mask_step == 1) { /* a constant step lets the compiler vectorize */
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i] ? out[i] : (REAL)-INFINITY;
    } else if (mask) {
        for (ptrdiff_t i = 0; i < count; i++)
            out[i] = mask[i * mask_step] ? out[i] : (REAL)-INFINITY;
    }
}

/* The elements as plain floats: in place if they are, else staged into `buffer`. */
static inline const REAL *F(read)(const fs_source *source, const char *x,
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
    return job->y_type == REAL_TYPE && job->op != FS_LOGSUMEXP;
}

/* Where passes 2 and 3 read: y, if pass 1 has staged the input there. */
static inline fs_source F(source_after_max)(const fs_job *job, fs_line *line)
{
    if (job->source.direct || !F(keeps_terms)(job))
        return job->source;
    fs_source kept = {1, REAL_TYPE, 0, job->y_n, job->y_inner, 0, 0, 1.0, 0};
    line->x = line->y;
    line->mask = NULL;
    return kept;
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
        if (!line.mask[i * job->source.mask_n])
            F(write)(&outside, 1, line.y + i * job->y_n, job->y_type);
}

/* ---- loops over one block ---- */

/* The maximum of those that are not NaN; -inf if there are none. */
static inline REAL F(largest)(const REAL *x, ptrdiff_t count)
{
    VEC none = V(set)((REAL)-INFINITY);
    VEC max[4] = {none, none, none, none};
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            max[j] = V(max)(V(load)(x + i + j * LANES), max[j]);
    for (; i < count; i += LANES) {
        VEC part = V(load_part)(x + i, fs_least(LANES, count - i), none);
        max[0] = V(max)(part, max[0]);
    }
    max[0] = V(max)(V(max)(max[0], max[1]), V(max)(max[2], max[3]));
    return V(largest)(max[0]);
}

/* The sum of a block's terms, which are written to e (which may be x) unless it is
 * NULL. The vector at `replaced` (-1: none) is read from `replacement`. */
static inline fs_pair F(terms)(const REAL *x, REAL *e, ptrdiff_t count,
                               const F(shift) *shift, int with_largest,
                               ptrdiff_t replaced, const REAL *replacement)
{
    F(sum) sum = {V(set)(F(start)(with_largest)), V(set)(0)};
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        const REAL *from = i == replaced ? replacement : x + i;
        ptrdiff_t part = count - i;
        VEC s, here = part >= LANES
                          ? V(load)(from)
                          : V(load_part)(from, part, V(set)((REAL)-INFINITY));
        VEC q = F(exp_terms)(here, shift, &s);
        VEC term = F(term)(s, q);
        F(add_term)(&sum, s, q, term, with_largest);
        if (e && part >= LANES)
            V(store)(e + i, term);
        else if (e)
            V(store_part)(e + i, part, term);
    }
    return F(all_lanes)(sum, with_largest);
}

/* The terms' sum without the first element that equals max: the vector around it is
 * replaced by a copy that holds -inf there. */
static fs_pair F(terms_but_one)(const REAL *x, ptrdiff_t count, REAL max,
                                const F(shift) *shift)
{
    REAL around[LANES];
    ptrdiff_t skip = 0;
    while (skip < count - 1 && !(x[skip] == max))
        skip++;
    ptrdiff_t first = skip - skip % LANES;
    memcpy(around, x + first, (size_t)fs_least(LANES, count - first) * sizeof *x);
    around[skip - first] = (REAL)-INFINITY;
    return F(terms)(x, NULL, count, shift, 0, first, around);
}

/* softmax: y = e * (hi + lo). */
static inline void F(scale)(const REAL *e, REAL *y, ptrdiff_t count, fs_pair factor)
{
    VEC hi = V(set)((REAL)factor.hi), lo = V(set)((REAL)factor.lo);
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        V(store)(y + i, V(times_pair)(V(load)(e + i), hi, lo));
    if (i < count) {
        VEC last = V(load_part)(e + i, count - i, hi);
        V(store_part)(y + i, count - i, V(times_pair)(last, hi, lo));
    }
}

/* log_softmax: y = (x - hi) - lo. Where x is next to hi the first difference is exact;
 * elsewhere both round by half an ulp of y. */
static inline void F(lower)(const REAL *x, REAL *y, ptrdiff_t count, fs_pair log_sum)
{
    VEC hi = V(set)((REAL)log_sum.hi), lo = V(set)((REAL)log_sum.lo);
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        V(store)(y + i, V(sub)(V(sub)(V(load)(x + i), hi), lo));
    if (i < count) {
        VEC last = V(load_part)(x + i, count - i, hi);
        V(store_part)(y + i, count - i, V(sub)(V(sub)(last, hi), lo));
    }
}

#include "vjp_body.h"

/* ---- between passes 2 and 3: once per line, in double ---- */

/* Rounds a finite number to a pair of REALs; NaN stays. */
static inline fs_pair F(as_real_pair)(fs_pair a)
{
    double hi = (REAL)(a.hi + a.lo);
    return (fs_pair){hi, (a.hi - hi) + a.lo};
}

static int F(any_nan)(const fs_source *source, fs_line line, ptrdiff_t n)
{
    REAL buffer[64];
    for (ptrdiff_t i = 0; i < n; i += 64) {
        ptrdiff_t count = fs_least(64, n - i);
        const char *mask = line.mask ? line.mask + i * source->mask_n : NULL;
        F(stage)(source, line.x + i * source->n, source->n, mask, source->mask_n, count,
                 buffer);
        for (ptrdiff_t j = 0; j < count; j++)
            if (buffer[j] != buffer[j])
                return 1;
    }
    return 0;
}

static inline fs_pair F(reciprocal)(fs_pair sum)
{
#if T_IS_F32
    return F(as_real_pair)((fs_pair){1 / sum.hi, 0});
#else
    return F(as_real_pair)(fs_pair_divide((fs_pair){1, 0}, sum));
#endif
}

/* The logarithms of `count` lines' sums over their largest terms. IN max, with room up to
 * whole vectors. INOUT hi + lo: the sums without the largest term, then the logarithms. */
static inline void F(log_terms)(const REAL *max, double *hi, double *lo, ptrdiff_t count)
{
    REAL left[FS_TILE], k[FS_TILE];
    for (ptrdiff_t j = 0; j < count; j += LANES) {
        VEC here = V(load)(max + j);
        V(store)(left + j, V(sub)(here, F(subtrahend)(here)));
        V(store)(k + j, F(exponent_of_max)(here));
    }
    for (ptrdiff_t j = 0; j < count; j++) {
#if T_IS_F32
        hi[j] = fs_log_term_f32(left[j], k[j], hi[j] + lo[j], UNSPARE);
        lo[j] = 0;
#else
        fs_pair sum = {hi[j], lo[j]};
        fs_pair log_term = fs_log_term(left[j], k[j], sum, UNSPARE);
        hi[j] = log_term.hi;
        lo[j] = log_term.lo;
#endif
    }
}

static inline fs_pair F(log_term)(REAL max, fs_pair sum)
{
    REAL lanes[LANES];
    V(store)(lanes, V(set)(max));
    F(log_terms)(lanes, &sum.hi, &sum.lo, 1);
    return sum;
}

/* Whether max + log_term is not the result yet: the maximum is infinite, or the two cancel
 * and what float terms have lost would show. */
static inline int F(is_special)(fs_op op, REAL max, double log_term)
{
    int cancels = T_IS_F32 && op == FS_LOGSUMEXP && fabs(max + log_term) < log_term;
    return isinf(max) || cancels;
}

/* log(sum(exp(x))) of such a line, as a pair of REALs. */
static fs_pair F(special_log_sum)(const fs_job *job, fs_line line, REAL max)
{
#if T_IS_F32
    if (!isinf(max))
        return F(as_real_pair)(JOIN(log_sum_of_line_f64, ISA)(job, line));
#endif
    fs_source source = F(source_after_max)(job, &line);
    int undefined = job->op == FS_LOG_SOFTMAX && max < 0;
    if (undefined || F(any_nan)(&source, line, job->n))
        return (fs_pair){NAN, 0};
    return (fs_pair){max, 0};
}

static fs_norm F(row_norm)(fs_job *job, fs_line line, double max, fs_pair sum)
{
    fs_norm norm = {max, {0, 0}, {0, 0}};
    if (F(is_vjp)(job)) {
        norm.factor = sum;
        return norm;
    }
    if (job->op == FS_SOFTMAX) {
        norm.factor = F(reciprocal)(sum);
        return norm;
    }
    fs_pair log_term = F(log_term)((REAL)max, sum);
    norm.log_sum = F(as_real_pair)(fs_log_total(max, log_term));
    if (F(is_special)(job->op, (REAL)max, log_term.hi))
        norm.log_sum = F(special_log_sum)(job, line, (REAL)max);
    REAL result = (REAL)norm.log_sum.hi;
    if (job->op == FS_LOGSUMEXP)
        F(write)(&result, 1, line.y, job->y_type);
    return norm;
}

/* ---- rows ---- */

static double F(row_max)(const fs_job *job, fs_line line, ptrdiff_t first,
                         ptrdiff_t last, ptrdiff_t *block)
{
    const fs_source *source = &job->source;
    REAL buffer[BLOCK], max = (REAL)-INFINITY;
    *block = first;
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask = line.mask ? line.mask + i * source->mask_n : NULL;
        REAL *to = F(keeps_terms)(job) ? (REAL *)line.y + i : buffer;
        const REAL *x = F(read)(source, line.x + i * source->n, source->n, mask,
                                source->mask_n, count, to);
        REAL here = F(largest)(x, count);
        if (here > max) {
            max = here;
            *block = i;
        }
    }
    return max;
}

static fs_pair F(row_sum)(const fs_job *job, fs_line line, ptrdiff_t first,
                          ptrdiff_t last, double max, ptrdiff_t block)
{
    if (F(is_vjp)(job))
        return F(vjp_row_sum)(job, line, first, last);
    fs_source source = F(source_after_max)(job, &line);
    F(shift) shift = F(shift_for)(V(set)((REAL)max));
    fs_pair sum = {0, 0};
    REAL buffer[BLOCK];
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask = line.mask ? line.mask + i * source.mask_n : NULL;
        const REAL *x = F(read)(&source, line.x + i * source.n, source.n, mask,
                                source.mask_n, count, buffer);
        fs_pair here;
        if (job->op == FS_SOFTMAX) {
            REAL *e = F(keeps_terms)(job) ? (REAL *)line.y + i : buffer;
            here = F(terms)(x, e, count, &shift, 1, -1, NULL);
        } else if (i == block) {
            here = F(terms_but_one)(x, count, (REAL)max, &shift);
        } else {
            here = F(terms)(x, NULL, count, &shift, 0, -1, NULL);
        }
        sum = i == first ? here : fs_pair_add(sum, here);
    }
    return sum;
}

/* Pass 3 where y does not hold the terms yet. */
static void F(finish_from_x)(const fs_job *job, fs_line line, ptrdiff_t first,
                             ptrdiff_t last, const fs_norm *norm)
{
    fs_source source = F(source_after_max)(job, &line);
    F(shift) shift = F(shift_for)(V(set)((REAL)norm->max));
    REAL buffer[BLOCK];
    for (ptrdiff_t i = first; i < last; i += BLOCK) {
        ptrdiff_t count = fs_least(BLOCK, last - i);
        const char *mask = line.mask ? line.mask + i * source.mask_n : NULL;
        const REAL *x = F(read)(&source, line.x + i * source.n, source.n, mask,
                                source.mask_n, count, buffer);
        if (job->op == FS_SOFTMAX) {
            F(terms)(x, buffer, count, &shift, 1, -1, NULL);
            F(scale)(buffer, buffer, count, norm->factor);
        } else {
            REAL *to = F(keeps_terms)(job) ? (REAL *)line.y + i : buffer;
            F(lower)(x, to, count, norm->log_sum);
        }
        if (!F(keeps_terms)(job))
            F(write)(buffer, count, line.y + i * job->y_n, job->y_type);
    }
}

static inline int F(is_nan)(const fs_norm *norm)
{
    return isnan(norm->factor.hi) || isnan(norm->log_sum.hi);
}

static void F(row_finish)(const fs_job *job, fs_line line, ptrdiff_t first,
                          ptrdiff_t last, const fs_norm *norm)
{
    if (F(is_vjp)(job)) {
        F(vjp_row_finish)(job, line, first, last, norm);
        return;
    }
    if (job->op == FS_SOFTMAX && F(keeps_terms)(job)) {
        REAL *y = (REAL *)line.y + first;
        F(scale)(y, y, last - first, norm->factor);
    } else {
        F(finish_from_x)(job, line, first, last, norm);
    }
    if (job->mask && F(is_nan)(norm))
        F(rewrite_masked)(job, line, first, last);
}

/* Asked between pieces: a row of one piece is not worth the question. */
static inline int F(stopped)(fs_job *job, ptrdiff_t first)
{
    return first > 0 && fs_poll(&job->watch);
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
/* log(sum(exp(x))) in double of a line of float, whatever the job computes in. */
static fs_pair JOIN(log_sum_of_line_f64, ISA)(const fs_job *narrow, fs_line line)
{
    fs_job job = *narrow;
    job.compute = FS_F64;
    job.source.direct = 0;
    job.source.via_float = 1;
    double max;
    fs_pair sum = F(sum_of_row)(&job, line, &max);
    return fs_log_total(max, F(log_term)(max, sum));
}
#endif

#include "columns_body.h"

#include "hinge_body.h"

static void F(rows)(fs_job *job, ptrdiff_t first, ptrdiff_t last)
{
    if (F(is_vjp)(job)) {
        F(vjp_rows)(job, first, last);
        return;
    }
    if (job->n <= SHORT) {
        for (ptrdiff_t row = first; row < last; row += SHORT_ROWS)
            F(short_rows)(job, row, fs_least(SHORT_ROWS, last - row));
        return;
    }
    for (ptrdiff_t row = first; row < last; row++) {
        fs_line line = fs_locate(job, row);
        double max;
        fs_pair sum = F(sum_of_row)(job, line, &max);
        fs_norm norm = F(row_norm)(job, line, max, sum);
        if (job->op == FS_LOGSUMEXP)
            continue;
        for (ptrdiff_t i = 0; i < job->n && !F(stopped)(job, i); i += FS_PIECE)
            F(row_finish)(job, line, i, fs_least(job->n, i + FS_PIECE), &norm);
    }
}

static const fs_kernels F(kernels) = {
    F(row_max), F(row_sum), F(row_finish), F(row_norm), F(rows), F(columns),
    &F(hinge_kernels),
};

#undef T
#undef REAL
#undef REAL_TYPE
#undef MAGIC
#undef SPARE
#undef UNSPARE
#undef ABOVE
#undef AHEAD
#undef SHORT
#undef SHORT_ROWS
#undef EXPONENT_BIAS
#undef SUBTRACT_FROM
#undef LOG2_E
#undef R_HI
#undef R_LO
