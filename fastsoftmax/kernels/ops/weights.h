/* Weighted logsumexp: log|sum(b exp(x))| of a set, and the sign of that sum. In double,
 * whatever the arrays hold: weights beyond a float's range are none beyond ours.
 * Included by loops/bundles.h in the units of float64.
 *
 * With max the largest x of those whose weight is not 0, and 2^E next to their largest
 * |b|, a term is w exp(x), w = b 2^-E, scaled as everywhere (math/exp.h). The terms at
 * max are their weights, and are summed apart (lead) from the others (rest): next to a
 * sum of 1 the others are what the logarithm is made of, next to 0 they are all there
 * is. Both sums are pairs, of unrounded terms, by TwoSum, for terms may have either
 * sign.
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

/* Sums under way, as pairs: sum i of set j is [i * sets + j], of WAYS sets or of 1. */
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

/* Adds the terms of a bundle: to the sums `rest`, and to those of `lead` from `at` on,
 * where there is something to add, which is rare. */
FS_INLINE void F(add_bundle)(const double *x, const double *b,
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
        F(exp_terms)(1, 1, &d, &shift, &s, &q);
        VEC w = V(mul)(weight, V(load)(with->scale + i * LANES));
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

/* The first `ways` sums of each of `sets` sets become one: the first. */
static inline void F(join_ways)(F(sums) *sums, ptrdiff_t ways, ptrdiff_t sets)
{
    for (ptrdiff_t half = ways / 2 * sets; half >= sets; half /= 2)
#pragma omp simd
        for (ptrdiff_t i = 0; i < half; i++) {
            fs_pair sum = fs_two_sum(sums->hi[i], sums->hi[i + half]);
            sums->hi[i] = sum.hi;
            sums->lo[i] += sums->lo[i + half] + sum.lo;
        }
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
    double lead[2][WAYS], rest[2][WAYS]; /* pairs: hi, lo */
} F(weighted);

/* Sums of b exp(x - max) 2^-E, as pairs, from what the sums of a set's terms are. */
static inline void F(sums_over_max)(const F(weighted) *sets, ptrdiff_t count,
                                    double *hi, double *lo)
{
    double left[WAYS], k[WAYS];
    F(split_maxima)(sets->max, count, left, k);
#pragma omp simd
    for (ptrdiff_t j = 0; j < count; j++) {
        fs_pair rest = {sets->rest[0][j], sets->rest[1][j]};
        rest = fs_pair_divide(rest, fs_exp_scaled(left[j], k[j], BASE));
        fs_pair sum = fs_two_sum(sets->lead[0][j], rest.hi * UNSPARE);
        sum.lo += sets->lead[1][j] + rest.lo * UNSPARE;
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

/* In rounds of three walks over the set: its largest entry and its infinities; its
 * largest term, as a power of two; the sum of terms down to 2^-1000 of that one, one
 * by one. If the sum is less than LEAST, those from 2^-100 on have cancelled: what they
 * leave else is 2^-259 or more, the last bit of a product of three numbers. The next
 * round is without them. */
typedef struct {
    enum { FS_FIND_MAX, FS_FIND_TERM, FS_ADD_TERMS, FS_LOOKED } walk;
    int plus, minus, nan;    /* infinite terms, and others that are no number */
    double cancelled, limit; /* as the last round's max and 2^limit had it */
    double max, exponent;
    fs_pair lead, rest;
} fs_look;

static inline fs_look fs_look_again(void)
{
    return (fs_look){.cancelled = 0, .limit = INFINITY, .max = -INFINITY};
}

/* The power of two next to b exp(x - max). */
static inline double fs_exponent_of(double x, double b, double max)
{
    return rint((x - max) * FS_LOG2_E) + logb(b);
}

static inline void fs_meet(fs_look *look, double x, double b)
{
    int infinite = x == INFINITY || isinf(b);
    if (isnan(x) || isnan(b) || (x == -INFINITY && isinf(b)))
        look->nan = 1;
    else if (infinite && b > 0)
        look->plus = 1;
    else if (infinite)
        look->minus = 1;
    else if (x > look->max)
        look->max = x;
}

static inline void fs_add_term(fs_look *look, double x, double b)
{
    double exponent = fs_exponent_of(x, b, look->max) - look->exponent;
    if (exponent < -1000)
        return;
    fs_pair d = fs_two_sum(x, -look->max);
    double k = rint(d.hi * FS_LOG2_E), mantissa = scalbn(b, -ilogb(b));
    double scale = scalbn(1, (int)exponent);
    if (d.hi == 0) {
        look->lead = fs_pair_add(look->lead, (fs_pair){mantissa * scale, 0});
        return;
    }
    fs_pair power = fs_exp_scaled(d.hi, k, 1);
    fs_pair term = fs_two_product(mantissa, power.hi);
    term.lo += mantissa * (power.lo + power.hi * d.lo);
    term = fs_two_sum(term.hi * scale, term.lo * scale);
    look->rest = fs_pair_add(look->rest, term);
}

/* The next elements of a walk. */
static void fs_look_at(fs_look *look, const double *x, const double *b, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        if (b[i] == 0 || (look->limit < INFINITY &&
                          fs_exponent_of(x[i], b[i], look->cancelled) >= look->limit))
            continue;
        double exponent;
        if (look->walk == FS_FIND_MAX)
            fs_meet(look, x[i], b[i]);
        else if (look->walk == FS_ADD_TERMS)
            fs_add_term(look, x[i], b[i]);
        else if ((exponent = fs_exponent_of(x[i], b[i], look->max)) > look->exponent)
            look->exponent = exponent;
    }
}

/* What follows a walk; the result, log and sign, after the last. */
static void fs_look_on(fs_look *look, double *log, double *sign)
{
    if (look->walk == FS_FIND_MAX) {
        int infinite = look->plus || look->minus;
        look->walk = FS_LOOKED;
        if (look->nan || (look->plus && look->minus))
            *log = *sign = NAN;
        else if (infinite || look->max == -INFINITY) {
            *log = infinite ? INFINITY : -INFINITY;
            *sign = look->plus - look->minus;
        } else {
            look->walk = FS_FIND_TERM;
            look->exponent = -INFINITY;
        }
    } else if (look->walk == FS_FIND_TERM) {
        look->walk = FS_ADD_TERMS;
        look->lead = look->rest = (fs_pair){0, 0};
    } else {
        fs_pair sum = fs_pair_add(look->lead, look->rest);
        look->walk = FS_LOOKED;
        *log = fs_weighted_log(look->max, look->exponent, sum);
        *sign = fs_sign(sum.hi);
        if (fabs(sum.hi) < LEAST) {
            look->cancelled = look->max;
            look->limit = look->exponent - 100;
            look->max = -INFINITY;
            look->walk = FS_FIND_MAX;
        }
    }
}
