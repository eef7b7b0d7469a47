/* Weighted logsumexp: log|sum(b exp(x))| of a set, and the sign of that sum. In double,
 * whatever the arrays hold: weights beyond a float's range are none beyond ours.
 * Included by loops/bundles.h in the units of float64.
 *
 * With max the largest x of those whose weight is not 0, and 2^E next to their largest
 * |b|, a term is w exp(x), w = b 2^-E, scaled as everywhere (math/exp.h).
 *
 * In full, for results of double, the terms at max are their weights, and are summed
 * apart (lead) from the others (rest): next to a sum of 1 the others are what the
 * logarithm is made of, next to 0 they are all there is. Both sums are pairs, of
 * unrounded terms, by TwoSum, for terms may have either sign.
 *
 * Narrower results have rough sums first, of terms that are right to 2^-32.3, and the
 * sum of those above 0 beside it. Where too much has cancelled (is_rough), the set is
 * summed again in full.
 *
 * A sum below LEAST is not taken for one: weights were 600 decimal orders apart, or
 * terms have cancelled to nothing and hide others that are too small to be seen beside
 * them. Those sets, and such as hold infinities, are looked at again: fs_look.
 */
#include "math/log_sum.h"

static inline int F(is_weighted)(const fs_job *job)
{
    return job->op == FS_WEIGHTED;
}

enum { FS_REST, FS_LEAD };

/* So many sums of a set are under way: element i adds to sum i % WAYS, wherever it is
 * computed. It is also the number of columns that are worked on together. */
enum { WAYS = 16 };

#define LEAST 0x1p-300

/* ---- one bundle: WAYS elements of a set, or one element each of as many sets ---- */

/* A number for each lane of a bundle. */
typedef struct {
    VEC part[WAYS / LANES];
} F(bundle);

#define EACH_PART for (int i = 0; i < WAYS / LANES; i++)

FS_INLINE F(bundle) F(load_bundle)(const double *from)
{
    F(bundle) a;
    EACH_PART a.part[i] = V(load)(from + i * LANES);
    return a;
}

FS_INLINE void F(store_bundle)(double *to, F(bundle) a)
{
    EACH_PART V(store)(to + i * LANES, a.part[i]);
}

/* The largest x and |b| so far. INOUT max, size. NaN is passed over. */
FS_INLINE void F(raise)(const double *x, const double *b, F(bundle) *max,
                        F(bundle) *size)
{
    VEC zero = V(set)(0), none = V(set)(-INFINITY);
    EACH_PART
    {
        VEC weight = V(load)(b + i * LANES);
        VEC entry = V(if_equal)(weight, zero, none, V(load)(x + i * LANES));
        VEC magnitude = V(max)(weight, V(sub)(zero, weight));
        max->part[i] = V(max)(entry, max->part[i]);
        size->part[i] = V(max)(magnitude, size->part[i]);
    }
}

/* What rounding takes off sum = a + b is exactly a number (Knuth's TwoSum). */
FS_INLINE VEC F(sum_rest)(VEC a, VEC b, VEC sum)
{
    VEC b_part = V(sub)(sum, a);
    return V(add)(V(sub)(a, V(sub)(sum, b_part)), V(sub)(b, b_part));
}

/* Sums under way, as pairs; rough ones, and beside them what was added above 0. Sum i
 * of set j is [i * sets + j], of WAYS sets or of 1. */
typedef struct {
    double hi[WAYS * WAYS], lo[WAYS * WAYS];
} F(sums);

/* Adds a term and what it lacks. */
FS_INLINE void F(add_to)(VEC *hi, VEC *lo, VEC term, VEC lack)
{
    VEC sum = V(add)(*hi, term);
    *lo = V(add)(*lo, V(add)(F(sum_rest)(*hi, term, sum), lack));
    *hi = sum;
}

/* w (s + s q) rounded, and what that lacks, to 2^-57 of it: what is left when it is
 * taken off w s is as large as q, and is rounded. */
FS_INLINE VEC F(weighted_term)(VEC w, VEC s, VEC q, VEC *lack)
{
    VEC product = V(mul)(w, s), term = V(muladd)(product, q, product);
#if defined(FS_HAS_FMA)
    VEC left = V(muladd)(w, s, V(sub)(V(set)(0), term));
#else /* by Dekker's product, for |w|, s < 2^996 */
    VEC split = V(set)(0x1.0000002p27);
    VEC w_scaled = V(mul)(w, split), s_scaled = V(mul)(s, split);
    VEC w1 = V(sub)(w_scaled, V(sub)(w_scaled, w)), w2 = V(sub)(w, w1);
    VEC s1 = V(sub)(s_scaled, V(sub)(s_scaled, s)), s2 = V(sub)(s, s1);
    VEC left = V(sub)(V(sub)(product, V(mul)(w1, s1)), V(mul)(w1, s2));
    left = V(sub)(V(sub)(left, V(mul)(w2, s1)), V(mul)(w2, s2));
    left = V(sub)(V(sub)(product, term), left);
#endif
    *lack = V(muladd)(product, q, left);
    return term;
}

/* What a bundle's terms are made with: a number for each lane. */
typedef struct {
    double max[WAYS], off[WAYS];     /* see subtrahend */
    double magic[WAYS], least[WAYS]; /* F(shift); below `least`, at 2^-1100 of the set's
                                      * largest exp(x), a term is 0 */
    double scale[WAYS];              /* 2^-E */
} F(bundle_shift);

FS_INLINE void F(shift_bundle)(F(bundle_shift) *with)
{
    for (int i = 0; i < WAYS; i += LANES) {
        VEC max = V(load)(with->max + i), off = F(subtrahend)(max);
        VEC above = V(add)(F(exponent_of_max)(max), V(set)(-1100));
        V(store)(with->off + i, off);
        V(store)(with->magic + i, F(shift_for)(max).magic);
        V(store)(with->least + i, V(mul)(above, V(set)(FS_LN2_HI)));
    }
}

/* exp(x) as s + s q, to 2^-32.3: float's polynomial, and ln 2 rounded to a double,
 * which n < 2^15 times is off by 2^-42. */
FS_INLINE void F(rough_terms)(VEC x, F(shift) shift, VEC *s, VEC *q)
{
    static const double tail[] = {FS_EXP_TAIL_4};
    VEC r = V(max)(shift.least, x);
    VEC n = V(muladd)(r, V(set)(8 * FS_LOG2_E), shift.magic);
    *s = V(power)(n);
    n = V(sub)(n, shift.magic);
    r = V(muladd)(n, V(set)(-(LN2 + LN2_REST) / 8), r);
    VEC t = V(muladd)(V(set)(tail[0]), r, V(set)(tail[1]));
    t = V(muladd)(t, r, V(set)(tail[2]));
    *q = V(muladd)(t, V(mul)(r, r), r);
}

/* Adds the terms of a bundle to the sums `rest`; in full, those at max to `lead` from
 * `at` on, which is rare. */
FS_INLINE void F(add_bundle)(int full, const double *x, const double *b,
                             const F(bundle_shift) *with, F(sums) *lead, ptrdiff_t at,
                             F(bundle) *hi, F(bundle) *lo)
{
    VEC zero = V(set)(0), one = V(set)(1), none = V(set)(-INFINITY);
    EACH_PART
    {
        VEC max = V(load)(with->max + i * LANES), s, q, lack;
        VEC weight = V(load)(b + i * LANES);
        VEC entry = V(if_equal)(weight, zero, none, V(load)(x + i * LANES));
        VEC d = V(sub)(entry, V(load)(with->off + i * LANES));
        F(shift) shift = {V(load)(with->least + i * LANES),
                          V(load)(with->magic + i * LANES)};
        VEC w = V(mul)(weight, V(load)(with->scale + i * LANES));
        if (!full) {
            F(rough_terms)(d, shift, &s, &q);
            VEC product = V(mul)(w, s), term = V(muladd)(product, q, product);
            hi->part[i] = V(add)(hi->part[i], term);
            lo->part[i] = V(add)(lo->part[i], V(max)(term, zero));
            continue;
        }
        F(exp_terms)(1, 1, &d, &shift, &s, &q);
        if (V(any_less)(zero, V(if_equal)(entry, max, one, zero))) {
            double *to_hi = lead->hi + at + i * LANES,
                   *to_lo = lead->lo + at + i * LANES;
            VEC lead_hi = V(load)(to_hi), lead_lo = V(load)(to_lo);
            F(add_to)(&lead_hi, &lead_lo, V(if_equal)(entry, max, w, zero), zero);
            V(store)(to_hi, lead_hi);
            V(store)(to_lo, lead_lo);
            w = V(if_equal)(entry, max, zero, w);
        }
        w = V(if_less)(d, shift.least, V(mul)(w, zero), w); /* NaN stays */
        VEC term = F(weighted_term)(w, s, q, &lack);
        F(add_to)(&hi->part[i], &lo->part[i], term, lack);
    }
}

/* Adds more sums to some. (What rounding takes off rough ones goes where it is too
 * little to be seen.) */
static inline void F(join_sums)(double *hi, double *lo, const double *more_hi,
                                const double *more_lo, ptrdiff_t count)
{
#pragma omp simd
    for (ptrdiff_t i = 0; i < count; i++) {
        fs_pair sum = fs_two_sum(hi[i], more_hi[i]);
        hi[i] = sum.hi;
        lo[i] += more_lo[i] + sum.lo;
    }
}

/* The first `ways` sums of each of `sets` sets become one: the first. */
static inline void F(join_ways)(F(sums) *sums, ptrdiff_t ways, ptrdiff_t sets)
{
    for (ptrdiff_t half = ways / 2 * sets; half >= sets; half /= 2)
        F(join_sums)(sums->hi, sums->lo, sums->hi + half, sums->lo + half, half);
}

/* ---- a set whose elements have all been seen ---- */

/* The E of a set's weights: within what 2^-E and sums of weights can be. */
static inline double fs_weight_exponent(double size)
{
    const uint64_t magic = 0x4338000000000000;
    double exponent =
        bits_to_double(magic + (double_to_bits(size) >> 52)) - (0x1.8p52 + 1023);
    return exponent < -1000 ? -1000 : exponent > 1000 ? 1000 : exponent;
}

static inline double fs_weight_scale(double size)
{
    return bits_to_double((uint64_t)(1023 - fs_weight_exponent(size)) << 52);
}

/* What is known of the sets of a tile, over all of it or a chunk. */
typedef struct {
    double max[WAYS], size[WAYS];
    double sums[2][2][WAYS]; /* of FS_REST and FS_LEAD hi and lo, as in F(sums) */
} F(weighted);

static inline void F(join_maxima)(F(weighted) *sets, const double *max,
                                  const double *size, ptrdiff_t count)
{
    for (ptrdiff_t j = 0; j < count; j++) {
        sets->max[j] = max[j] > sets->max[j] ? max[j] : sets->max[j];
        sets->size[j] = size[j] > sets->size[j] ? size[j] : sets->size[j];
    }
}

static inline void F(join_sets)(F(weighted) *sets, const F(weighted) *part,
                                ptrdiff_t count)
{
    F(join_maxima)(sets, part->max, part->size, count);
    for (int l = FS_REST; l <= FS_LEAD; l++)
        F(join_sums)(sets->sums[l][0], sets->sums[l][1], part->sums[l][0],
                     part->sums[l][1], count);
}

/* Sums of b exp(x - max) 2^-E, as pairs, from what the sums of a set's terms are. */
static inline void F(sums_over_max)(int full, const F(weighted) *sets, ptrdiff_t count,
                                    double *hi, double *lo)
{
    const double (*of_rest)[WAYS] = sets->sums[FS_REST],
                 (*lead)[WAYS] = sets->sums[FS_LEAD];
    double left[WAYS], k[WAYS];
    F(split_maxima)(sets->max, count, left, k);
#pragma omp simd
    for (ptrdiff_t j = 0; j < count; j++) {
        fs_pair rest = fs_two_sum(of_rest[0][j], full ? of_rest[1][j] : 0);
        rest = fs_pair_divide(rest, fs_exp_scaled(left[j], k[j], BASE));
        fs_pair sum = fs_two_sum(lead[0][j], rest.hi * UNSPARE);
        sum.lo += lead[1][j] + rest.lo * UNSPARE;
        sum = fs_two_sum(sum.hi, sum.lo);
        hi[j] = sum.hi;
        lo[j] = sum.lo;
    }
}

/* Whether such a sum is one to take a logarithm of: NaN is. */
static inline int fs_is_settled(double max, double size, double sum)
{
    return !isinf(max) && size < INFINITY && !(fabs(sum) < LEAST);
}

/* Whether a rough sum is too rough: it is off by 2^-32.2 of its terms' absolute values,
 * which are 2 above - sum. What rounding to float leaves of an ulp is 2^-25 of the
 * logarithm or more. */
static inline int fs_is_rough(double sum, double above, double log)
{
    return fabs(sum * log) < 0x1p-7 * (2 * above - sum);
}

/* log|sum 2^exponent exp(max)| */
static inline double fs_weighted_log(double max, double exponent, fs_pair sum)
{
    double sign = sum.hi < 0 ? -1 : 1;
    sum = (fs_pair){sign * sum.hi, sign * sum.lo};
    return fs_log_total(max, fs_log(sum, exponent)).hi;
}

static inline double fs_sign(double sum)
{
    return sum > 0 ? 1 : sum < 0 ? -1 : sum;
}

/* ---- the sets that are looked at again ---- */

/* In rounds of two walks over the set: its infinities, and its largest term to within a
 * factor of 4; the sum of terms down to 2^-1000 of that one, one by one. If the sum is
 * less than LEAST, those from 2^-100 on have cancelled: what they leave else is 2^-263
 * or more, the last bit of a product of three numbers. The next round is without them.
 */
typedef struct {
    double x, b;
} fs_term;

typedef struct {
    enum { FS_FIND_TERM, FS_ADD_TERMS, FS_LOOKED } walk;
    int plus, minus, nan;       /* infinite terms, and others that are no number */
    fs_term cancelled, largest; /* of the round before, of this one */
    fs_pair sum;
} fs_look;

static inline fs_look fs_look_again(void)
{
    return (fs_look){.cancelled = {INFINITY, 1}, .largest = {-INFINITY, 1}};
}

/* So many powers of two is a term above another. */
static inline double fs_powers_above(fs_term a, fs_term b)
{
    return rint((a.x - b.x) * FS_LOG2_E) + logb(a.b) - logb(b.b);
}

static inline void fs_meet(fs_look *look, fs_term term)
{
    int infinite = term.x == INFINITY || isinf(term.b);
    if (isnan(term.x) || isnan(term.b) || (term.x == -INFINITY && isinf(term.b)))
        look->nan = 1;
    else if (infinite && term.b > 0)
        look->plus = 1;
    else if (infinite)
        look->minus = 1;
    else if (fs_powers_above(term, look->largest) > 0)
        look->largest = term;
}

static inline void fs_add_term(fs_look *look, fs_term term)
{
    double above = fs_powers_above(term, look->largest);
    if (above < -1000)
        return;
    fs_pair d = fs_two_sum(term.x, -look->largest.x);
    fs_pair power = fs_exp_scaled(d.hi, rint(d.hi * FS_LOG2_E), 1);
    double mantissa = scalbn(term.b, -ilogb(term.b)), scale = scalbn(1, (int)above);
    fs_pair product = fs_two_product(mantissa, power.hi);
    product.lo += mantissa * (power.lo + power.hi * d.lo);
    product = fs_two_sum(product.hi * scale, product.lo * scale);
    look->sum = fs_pair_add(look->sum, product);
}

/* The next elements of a walk. */
static void fs_look_at(fs_look *look, const double *x, const double *b, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        fs_term term = {x[i], b[i]};
        if (term.b == 0 || fs_powers_above(term, look->cancelled) >= -100)
            continue;
        if (look->walk == FS_FIND_TERM)
            fs_meet(look, term);
        else
            fs_add_term(look, term);
    }
}

/* What follows a walk; the result, log and sign, after the last. */
static void fs_look_on(fs_look *look, double *log, double *sign)
{
    int infinite = look->plus || look->minus;
    if (look->walk == FS_ADD_TERMS) {
        *log = fs_weighted_log(look->largest.x, logb(look->largest.b), look->sum);
        *sign = fs_sign(look->sum.hi);
        look->walk = fabs(look->sum.hi) < LEAST ? FS_FIND_TERM : FS_LOOKED;
        look->cancelled = look->largest;
        look->largest = fs_look_again().largest;
    } else if (look->nan || infinite || look->largest.x == -INFINITY) {
        *log = infinite ? INFINITY : -INFINITY;
        *sign = look->plus - look->minus;
        if (look->nan || (look->plus && look->minus))
            *log = *sign = NAN;
        look->walk = FS_LOOKED;
    } else {
        look->sum = (fs_pair){0, 0};
        look->walk = FS_ADD_TERMS;
    }
}
