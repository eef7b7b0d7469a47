/* The exponential, once for every type and ISA: in the words of isa/begin.h.
 *
 * A line's terms are exp(x) 2^-K with K = rint(max / ln 2): the shift is a power of
 * two, so no difference x - max is rounded. Each term is held as s + s q: s = c
 * 2^(n/8 - K + SPARE) by a table of 8, q = exp(r) - 1, n = rint(8 x / ln 2), r = x - n
 * ln(2)/8. SPARE keeps terms that end as subnormal results normal until the last
 * multiplication; the common factor c 2^SPARE cancels in softmax and is taken out of
 * the logarithm's argument.
 *
 * Where |max| >= SUBTRACT_FROM the maximum is subtracted first, before anything here,
 * and K = 0: x - max is exact for every x whose result is not zero anyway (x - max >
 * -104, f64: -746). Where x is at least half of max that is Sterbenz' lemma; between
 * there and the threshold both are multiples of the same power of two, 2^-17 or more
 * (f64: 2^-43).
 */

#include "math/coefficients.h"
#include "math/log_sum.h"

#if T_IS_F32
#define MAGIC 0x1.8p23f /* adding it rounds to an integer, left in the lowest bits */
#define SPARE 64
#define UNSPARE 0x1p-64
#define LOWEST (-FLT_MAX)
#define LEAST_EXPONENT (-126)
#define SUBTRACT_FROM 200.0f
#define BASE FS_BASE_F32
#define LN2 FS_LN2_21_F32
#define LN2_REST FS_LN2_21_REST_F32
#define TAIL FS_EXP_TAIL_4
#define LOG_TAIL FS_LOG_TAIL_11
#define LOG_2 FS_LN2_15_F32
#define LOG_2_REST FS_LN2_15_REST_F32
#else
#define MAGIC 0x1.8p52
#define SPARE 512
#define UNSPARE 0x1p-512
#define LOWEST (-DBL_MAX)
#define LEAST_EXPONENT (-1022)
#define SUBTRACT_FROM 1500.0
#define BASE FS_BASE_F64
#define LN2 FS_LN2_38
#define LN2_REST FS_LN2_38_REST
#define TAIL FS_EXP_TAIL_7
#define LOG_TAIL FS_LOG_TAIL_21
#define LOG_2 FS_LN2_HI
#define LOG_2_REST FS_LN2_LO
#endif

/* What a line's maximum decides; lanes differ where lanes are columns. */
typedef struct {
    VEC least; /* x at and below which a term is some 2^-190 (f64: 2^-1534) of the
                * largest: 0 in any result */
    VEC magic; /* added to 8 x / ln 2, leaves n - 8 K + 8 SPARE in the low bits */
} F(shift);

/* What is to be taken off x first: 0 where the power of two alone is enough; max where
 * that is large, infinite or NaN. */
FS_INLINE VEC F(subtrahend)(VEC max)
{
    VEC if_above = V(if_less)(V(set)(-SUBTRACT_FROM), max, V(set)(0), max);
    return V(if_less)(max, V(set)(SUBTRACT_FROM), if_above, max);
}

/* The integer next to x / ln 2, for |x| < 2^13. */
FS_INLINE VEC F(exponent_of)(VEC x)
{
    VEC k = V(muladd)(x, V(set)((REAL)FS_LOG2_E), V(set)(MAGIC));
    return V(sub)(k, V(set)(MAGIC));
}

/* K, as a floating-point number. */
FS_INLINE VEC F(exponent_of_max)(VEC max)
{
    return F(exponent_of)(V(sub)(max, F(subtrahend)(max)));
}

FS_INLINE F(shift) F(shift_by)(VEC k)
{
    F(shift) shift;
    /* 2^offset exp(x) is at least the least normal number from `least` on. */
    VEC offset = V(sub)(V(set)(SPARE), k);
    VEC above = V(sub)(offset, V(set)(LEAST_EXPONENT));
    shift.magic = V(muladd)(offset, V(set)(8), V(set)(MAGIC));
    shift.least = V(mul)(above, V(set)((REAL) - (FS_LN2_HI + FS_LN2_LO)));
    return shift;
}

FS_INLINE F(shift) F(shift_for)(VEC max)
{
    return F(shift_by)(F(exponent_of_max)(max));
}

/* Vectors worked on side by side. One exponential is a chain of some 14 dependent
 * steps; four chains keep the arithmetic units busy where one waits for itself. */
#define ABREAST 4
#define EACH for (int j = 0; j < abreast; j++)

/* q[j] and s[j] of each x[j], j < abreast; without `clamp` none may be below the
 * shift's least. A NaN goes through to q: T_max returns its second operand. `clamp` and
 * `abreast` are constants, so that the loops dissolve.
 *
 * docs/numerics.md has the errors; tests/test_kernels.py finds the same. */
FS_INLINE void F(exp_terms)(int clamp, int abreast, const VEC *x, const F(shift) *shift,
                            VEC *s, VEC *q)
{
    static const REAL tail[] = {TAIL};
    VEC n[ABREAST], r[ABREAST], t[ABREAST];
    EACH r[j] = clamp ? V(max)(shift->least, x[j]) : x[j];
    EACH n[j] = V(muladd)(r[j], V(set)(8 * (REAL)FS_LOG2_E), shift->magic);
    EACH s[j] = V(power)(n[j]);
    EACH n[j] = V(sub)(n[j], shift->magic); /* exact, |n| < 2^12 (f64: 2^15) */
    /* The first part of r is exact: the product is, or is not rounded, and agrees with
     * x in its leading bits. |r| <= 0.0434. */
#if T_IS_F32 && !defined(FS_HAS_FMA)
    EACH r[j] = V(muladd)(n[j], V(set)(-FS_LN2_12_F32 / 8), r[j]);
    EACH r[j] = V(muladd)(n[j], V(set)(-FS_LN2_12_TO_21_F32 / 8), r[j]);
#else
    EACH r[j] = V(muladd)(n[j], V(set)(-LN2 / 8), r[j]);
#endif
    EACH r[j] = V(muladd)(n[j], V(set)(-LN2_REST / 8), r[j]);
    EACH t[j] = V(set)(tail[0]);
    for (size_t i = 1; i < sizeof tail / sizeof *tail; i++)
        EACH t[j] = V(muladd)(t[j], r[j], V(set)(tail[i]));
    EACH q[j] = V(muladd)(t[j], V(mul)(r[j], r[j]), r[j]);
}

/* The term itself, rounded once. */
FS_INLINE VEC F(term)(VEC s, VEC q)
{
    return V(muladd)(s, q, s);
}

/* a * (hi + lo), rounded once (up to 2^-20 ulp): a is a term, hi + lo a factor of
 * ops/softmax.h. On top of that half the least subnormal number, because the product
 * with lo may be one. */
FS_INLINE VEC F(times_pair)(VEC a, VEC hi, VEC lo)
{
#if defined(FS_HAS_FMA)
    return V(muladd)(a, hi, V(mul)(a, lo));
#elif T_IS_F32
    return (REAL)((double)a * ((double)hi + (double)lo));
#else
    fs_pair product = fs_two_product(a, hi);
    return product.hi + (product.lo + a * lo);
#endif
}

/* A sum of at most BLOCK terms per lane, the largest of the set among them (or of a
 * part of it that has a shift of its own). `total` starts at ABOVE, above every term:
 * what rounding takes off it is exactly a number (Fast2Sum), and goes to `lost` with
 * what the term's own rounding cut off. `lost` stays below 2^-12 of `total`; the
 * rounding of its own additions is below 2^-3 ulp. */
typedef struct {
    VEC total, lost;
} F(sum);

#define ABOVE (SPARE == 64 ? (REAL)0x1p65 : (REAL)0x1p513)

FS_INLINE F(sum) F(no_terms)(void)
{
    return (F(sum)){V(set)(ABOVE), V(set)(0)};
}

/* Adds the term s + s q, of which e is the rounded value. `added` is what of it went
 * into the total: a number between s/2 and 2 s, or 0, so that s - added is exact and
 * what remains of the term is rounded once. (Or the total's ulp, where e is just above
 * half of it: s - added is rounded by 2^-25 of s then.) */
FS_INLINE void F(add_term)(F(sum) *sum, VEC s, VEC q, VEC e)
{
    VEC total = V(add)(sum->total, e);
    VEC added = V(sub)(total, sum->total);
    sum->total = total;
    sum->lost = V(add)(sum->lost, V(muladd)(s, q, V(sub)(s, added)));
}

/* All lanes' sum, in the same order whatever the values. */
static inline fs_pair F(all_lanes)(F(sum) sum)
{
    VEC total = V(sub)(sum.total, V(set)(ABOVE)); /* exact */
#if T_IS_F32
    return (fs_pair){V(sum_lanes)(total, sum.lost), 0};
#else
    double hi[LANES], lo[LANES];
    V(store)(hi, total);
    V(store)(lo, sum.lost);
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; j++) {
            fs_pair pair = fs_two_sum(hi[j], hi[j + half]);
            hi[j] = pair.hi;
            lo[j] += lo[j + half] + pair.lo;
        }
    }
    return fs_two_sum(hi[0], lo[0]);
#endif
}
