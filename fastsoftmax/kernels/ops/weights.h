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
 * sum of those above 0 beside it. Where too much has cancelled (fs_state), the set is
 * summed again in full.
 *
 * A sum below LEAST is not taken for one: weights were 600 decimal orders apart, or
 * terms have cancelled to nothing and hide others that are too small to be seen beside
 * them. Those sets, and such as hold infinities, are looked at again: fs_look.
 */
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

FS_INLINE VEC F(magnitude)(VEC a)
{
    return V(max)(a, V(sub)(V(set)(0), a));
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
        max->part[i] = V(max)(entry, max->part[i]);
        size->part[i] = V(max)(F(magnitude)(weight), size->part[i]);
    }
}

/* Sums under way, as pairs; rough ones, and beside them what was added above 0. Sum i
 * of set j is number i * sets + j, of WAYS sets or of 1. */
typedef struct {
    F(bundle) hi[WAYS], lo[WAYS];
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
    VEC left = F(product_less)(w, s, term);
    *lack = V(muladd)(product, q, left);
    return term;
}

/* What a bundle's terms are made with. */
typedef struct {
    F(bundle) max, off;     /* see subtrahend */
    F(bundle) magic, least; /* F(shift); below `least`, at 2^-1100 of the set's largest
                             * exp(x), a term is 0 */
    F(bundle) scale;        /* 2^-E */
} F(bundle_shift);

/* The E of a set's weights: within what 2^-E and sums of weights can be. */
FS_INLINE VEC F(weight_exponent)(VEC size)
{
    VEC exponent = V(sub)(V(exponent)(size), V(set)(MAGIC / 1.5 + BIAS));
    return V(max)(V(set)(-1000), V(min)(V(set)(1000), exponent));
}

FS_INLINE void F(shift_bundle)(const double *max, const double *size,
                               F(bundle_shift) *with)
{
    EACH_PART
    {
        VEC of_max = with->max.part[i] = V(load)(max + i * LANES);
        VEC above = V(add)(F(exponent_of_max)(of_max), V(set)(-1100));
        VEC exponent = F(weight_exponent)(V(load)(size + i * LANES));
        with->off.part[i] = F(subtrahend)(of_max);
        with->magic.part[i] = F(shift_for)(of_max).magic;
        with->least.part[i] = V(mul)(above, V(set)(FS_LN2_HI));
        with->scale.part[i] = F(power_of_2)(V(sub)(V(set)(0), exponent));
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
    r = V(muladd)(V(sub)(n, shift.magic), V(set)(-(LN2 + LN2_REST) / 8), r);
    VEC t = V(muladd)(V(set)(tail[0]), r, V(set)(tail[1]));
    t = V(muladd)(t, r, V(set)(tail[2]));
    *q = V(muladd)(t, V(mul)(r, r), r);
}

/* Adds the terms of a bundle to hi and lo; in full, those at max to `lead`, which is
 * rare. */
FS_INLINE void F(add_bundle)(int full, const double *x, const double *b,
                             const F(bundle_shift) *with, F(bundle) *lead_hi,
                             F(bundle) *lead_lo, F(bundle) *hi, F(bundle) *lo)
{
    VEC zero = V(set)(0), one = V(set)(1), none = V(set)(-INFINITY);
    EACH_PART
    {
        VEC max = with->max.part[i], s, q, lack;
        VEC weight = V(load)(b + i * LANES);
        VEC entry = V(if_equal)(weight, zero, none, V(load)(x + i * LANES));
        VEC d = V(sub)(entry, with->off.part[i]);
        F(shift) shift = {with->least.part[i], with->magic.part[i]};
        VEC w = V(mul)(weight, with->scale.part[i]);
        if (!full) {
            F(rough_terms)(d, shift, &s, &q);
            VEC product = V(mul)(w, s), term = V(muladd)(product, q, product);
            hi->part[i] = V(add)(hi->part[i], term);
            lo->part[i] = V(add)(lo->part[i], V(max)(term, zero));
            continue;
        }
        F(exp_terms)(1, 1, &d, &shift, &s, &q);
        if (V(any_less)(zero, V(if_equal)(entry, max, one, zero))) {
            F(add_to)(&lead_hi->part[i], &lead_lo->part[i],
                      V(if_equal)(entry, max, w, zero), zero);
            w = V(if_equal)(entry, max, zero, w);
        }
        w = V(if_less)(d, shift.least, V(mul)(w, zero), w); /* NaN stays */
        VEC term = F(weighted_term)(w, s, q, &lack);
        F(add_to)(&hi->part[i], &lo->part[i], term, lack);
    }
}

/* Adds more sums to some. */
static inline void F(join_sums)(int full, double *hi, double *lo, const double *more_hi,
                                const double *more_lo, ptrdiff_t count)
{
    if (!full)
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) {
            hi[i] += more_hi[i];
            lo[i] += more_lo[i];
        }
    else
#pragma omp simd
        for (ptrdiff_t i = 0; i < count; i++) {
            fs_pair sum = fs_two_sum(hi[i], more_hi[i]);
            hi[i] = sum.hi;
            lo[i] += more_lo[i] + sum.lo;
        }
}

/* The first `ways` sums of each of `sets` sets become one, the first: as if there were
 * WAYS, the others of which are 0. */
static inline void F(join_ways)(int full, F(sums) *sums, ptrdiff_t ways, ptrdiff_t sets)
{
    double *hi = (double *)sums->hi, *lo = (double *)sums->lo;
    for (ptrdiff_t half = WAYS / 2; half > 0; half /= 2) {
        F(join_sums)(full, hi, lo, hi + half * sets, lo + half * sets,
                     (ways - half) * sets);
        ways = fs_least(ways, half);
    }
}

/* ---- a set whose elements have all been seen ---- */

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

static inline void F(join_sets)(int full, F(weighted) *sets, const F(weighted) *part,
                                ptrdiff_t count)
{
    F(join_maxima)(sets, part->max, part->size, count);
    for (int l = FS_REST; l <= full; l++)
        F(join_sums)(full, sets->sums[l][0], sets->sums[l][1], part->sums[l][0],
                     part->sums[l][1], count);
}

/* log|sum 2^exponent exp(max)| */
FS_INLINE VEC F(weighted_log)(VEC max, VEC exponent, F(pair) sum)
{
    VEC sign = V(if_less)(sum.hi, V(set)(0), V(set)(-1), V(set)(1));
    sum = (F(pair)){V(mul)(sign, sum.hi), V(mul)(sign, sum.lo)};
    return F(plus_log)(max, F(log_of)(sum, exponent)).hi;
}

/* The sums in full of sets from j on, over 2^E exp(max); max = off + left. */
FS_INLINE F(pair) F(sum_in_full)(const F(weighted) *sets, ptrdiff_t j, VEC left, VEC k)
{
    const double (*of)[2][WAYS] = sets->sums;
    F(pair) rest = {V(load)(of[FS_REST][0] + j), V(load)(of[FS_REST][1] + j)};
    rest = F(over)(rest, F(term_of)(left, k));
    VEC lead = V(load)(of[FS_LEAD][0] + j), all = V(add)(lead, rest.hi);
    VEC lost = V(add)(V(load)(of[FS_LEAD][1] + j), rest.lo);
    return F(fast_two_sum)(all, V(add)(F(sum_rest)(lead, rest.hi, all), lost));
}

enum { FS_SETTLED, FS_ROUGH, FS_UNSETTLED };

/* Whether logarithms stand (NaN does), as numbers. A rough sum is off by 2^-32.2 of its
 * terms' absolute values, which are 2 above - rest. What rounding to float leaves of an
 * ulp is 2^-25 of the logarithm or more; the sign is right however large that is, as
 * the sum is above 2^-24 of them. */
FS_INLINE VEC F(state_of)(VEC max, VEC size, VEC sum, VEC rest, VEC above, VEC log)
{
    VEC unsettled = V(set)(FS_UNSETTLED), terms = V(sub)(V(add)(above, above), rest);
    VEC product = V(mul)(F(magnitude)(rest), V(min)(V(set)(0x1p17), F(magnitude)(log)));
    VEC state = V(if_less)(product, V(mul)(V(set)(0x1p-7), terms), V(set)(FS_ROUGH),
                           V(set)(FS_SETTLED));
    state = V(if_less)(F(magnitude)(sum), V(set)(LEAST), unsettled, state);
    VEC largest = V(max)(F(magnitude)(max), size);
    return V(if_less)(largest, V(set)(INFINITY), state, unsettled);
}

/* Logarithms and signs of b exp(x)'s sums, from what the sums of terms are, and states;
 * returns whether some do not stand. */
static inline int F(logs_of_sums)(int full, const F(weighted) *sets, ptrdiff_t count,
                                  double *log, double *sign, double *states)
{
    VEC zero = V(set)(0), one = V(set)(1), minus_one = V(set)(-1), state;
    int any = 0;
    for (ptrdiff_t j = 0; j < count; j += LANES) {
        VEC max = V(load)(sets->max + j), size = V(load)(sets->size + j);
        VEC off = F(subtrahend)(max), left = V(sub)(max, off), k = F(exponent_of)(left);
        VEC exponent = F(weight_exponent)(size), to_log;
        F(pair) sum;
        if (full) {
            sum = F(sum_in_full)(sets, j, left, k);
            to_log = F(weighted_log)(max, exponent, sum);
            state = F(state_of)(max, size, sum.hi, zero, zero, zero);
        } else {
            VEC rest = V(load)(sets->sums[FS_REST][0] + j);
            VEC above = V(load)(sets->sums[FS_REST][1] + j);
            sum = (F(pair)){V(mul)(rest, V(set)(UNSPARE / BASE)), zero};
            to_log = F(weighted_log)(off, V(add)(exponent, k), sum);
            state = F(state_of)(max, size, sum.hi, rest, above, to_log);
        }
        VEC below = V(if_less)(sum.hi, zero, minus_one, sum.hi);
        any |= V(any_less)(zero, state);
        V(store)(log + j, to_log);
        V(store)(sign + j, V(if_less)(zero, sum.hi, one, below));
        V(store)(states + j, state);
    }
    return any;
}

/* ---- the sets that are looked at again ---- */

/* In rounds of two walks over the set: its infinities, and its largest term to within a
 * factor of 4; the sum of terms down to 2^-1000 of that one, one by one. If the sum is
 * less than LEAST, those from 2^-100 on have cancelled: what they leave else is 2^-263
 * or more, the last bit of a product of three numbers. The next round is without them.
 */
typedef struct {
    double x, b, power; /* |b| is from 2^power on */
} fs_term;

typedef struct {
    enum { FS_FIND_TERM, FS_ADD_TERMS, FS_LOOKED } walk;
    int plus, minus, nan;       /* infinite terms, and others that are no number */
    fs_term cancelled, largest; /* of the round before, of this one */
    fs_pair sum;
} fs_look;

static const fs_look fs_new_look = {.cancelled = {INFINITY, 1, 0},
                                    .largest = {-INFINITY, 1, 0}};

/* So many powers of two is a term above another. */
static inline double fs_powers_above(fs_term a, fs_term b)
{
    return rint((a.x - b.x) * FS_LOG2_E) + a.power - b.power;
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
    if (fs_powers_above(term, look->largest) < -1000)
        return;
    fs_pair d = fs_two_sum(term.x, -look->largest.x);
    double k = rint(d.hi * FS_LOG2_E);
    double weight = scalbn(term.b, (int)(k - look->largest.power)); /* exactly */
    fs_pair power = fs_exp_scaled(d.hi, k, 1),
            product = fs_two_product(weight, power.hi);
    product.lo += weight * (power.lo + power.hi * d.lo);
    look->sum = fs_pair_add(look->sum, product);
}

/* The next elements of a walk. */
static void fs_look_at(fs_look *look, const double *x, const double *b, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        if (b[i] == 0)
            continue;
        fs_term term = {x[i], b[i], logb(b[i])};
        if (fs_powers_above(term, look->cancelled) >= -100)
            continue;
        if (look->walk == FS_FIND_TERM)
            fs_meet(look, term);
        else
            fs_add_term(look, term);
    }
}

/* What follows a walk; the result, log and sign, after the last. */
static void F(look_on)(fs_look *look, double *log, double *sign)
{
    int infinite = look->plus || look->minus;
    if (look->walk == FS_ADD_TERMS) {
        F(pair) sum = {V(set)(look->sum.hi), V(set)(look->sum.lo)};
        VEC max = V(set)(look->largest.x), power = V(set)(look->largest.power);
        *log = V(largest)(F(weighted_log)(max, power, sum));
        *sign = (look->sum.hi > 0) - (look->sum.hi < 0);
        look->walk = fabs(look->sum.hi) < LEAST ? FS_FIND_TERM : FS_LOOKED;
        look->cancelled = look->largest;
        look->largest = fs_new_look.largest;
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
