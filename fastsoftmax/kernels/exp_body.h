/* The exponential, once for every type and ISA: included by rows_body.h, which defines
 * T (f32 or f64), REAL (its C type), V(word) and F(name).
 *
 * A line's terms are exp(x) 2^-K with K = rint(max / ln 2): the shift is a power of two,
 * so no difference x - max is rounded. Each term is held as s + s q: s = 2^(n-K+SPARE),
 * q = exp(r) - 1, n = rint(x / ln 2), r = x - n ln 2. SPARE keeps terms that end as
 * subnormal results normal until the last multiplication; the common factor 2^SPARE
 * cancels in softmax and is taken out of the logarithm's argument.
 *
 * Where |max| >= SUBTRACT_FROM the maximum is subtracted first, and K = 0: by Sterbenz'
 * lemma x - max is exact for every x whose term is not zero anyway.
 */

#if T_IS_F32
#define MAGIC 0x1.8p23f /* adding it rounds to an integer, left in the lowest bits */
#define SPARE 64
#define UNSPARE 0x1p-64
#define EXPONENT_BIAS 127
#define SUBTRACT_FROM 200.0f
#define LOG2_E 0x1.715476p+0f
#define R_HI 0x1.62e4p-1f /* 15 bits: exact times n, |n| <= 491 */
#define R_LO 0x1.7f7d1cp-20f
#else
#define MAGIC 0x1.8p52
#define SPARE 512
#define UNSPARE 0x1p-512
#define EXPONENT_BIAS 1023
#define SUBTRACT_FROM 1500.0
#define LOG2_E 0x1.71547652b82fep+0
#define R_HI LN2_HI
#define R_LO LN2_LO
#endif

/* What a line's maximum decides; lanes differ where lanes are columns. */
typedef struct {
    VEC subtract; /* taken off x first: 0, or the maximum */
    VEC least;    /* x at and below which a term is exactly 0 */
    VEC bias;     /* bit pattern that turns n into 2^(n-K+SPARE) */
} F(shift);

/* 0 where the power of two alone is enough; max where it is large, infinite or NaN. */
static inline VEC F(subtrahend)(VEC max)
{
    VEC if_above = V(if_less)(V(set)(-SUBTRACT_FROM), max, V(set)(0), max);
    return V(if_less)(max, V(set)(SUBTRACT_FROM), if_above, max);
}

/* K, as a floating-point number. */
static inline VEC F(exponent_of_max)(VEC max)
{
    VEC rest = V(sub)(max, F(subtrahend)(max));
    VEC k = V(muladd)(rest, V(set)(LOG2_E), V(set)(MAGIC));
    return V(sub)(k, V(set)(MAGIC));
}

static inline F(shift) F(shift_for)(VEC max)
{
    F(shift) shift;
    VEC k = F(exponent_of_max)(max);
    /* 2^(n-K+SPARE) has the exponent field n - K + SPARE + EXPONENT_BIAS; `least` is
     * where that reaches 0, the field of zero itself. */
    REAL offset = SPARE + EXPONENT_BIAS;
    VEC field = V(exponent_of)(V(set)(MAGIC + offset));
    shift.subtract = F(subtrahend)(max);
    shift.bias = V(sub_bits)(field, V(exponent_of)(V(add)(k, V(set)(MAGIC))));
    shift.least = V(mul)(V(sub)(k, V(set)(offset)), V(set)((REAL)(LN2_HI + LN2_LO)));
    return shift;
}

/* q and *s of each x. A NaN goes through to q: T_max returns its second operand. */
static inline VEC F(exp_terms)(VEC x, const F(shift) *shift, VEC *s)
{
    x = V(max)(shift->least, V(sub)(x, shift->subtract));
    VEC k = V(muladd)(x, V(set)(LOG2_E), V(set)(MAGIC));
    VEC n = V(sub)(k, V(set)(MAGIC));
    *s = V(add_bits)(V(exponent_of)(k), shift->bias);
    /* r = r1 + r2, |r| <= 0.35. r1 is exact: n R_HI is, and agrees with x in its leading
     * bits. |r2| < 2^-10 (f64: 2^-31): its own rounding is nothing. */
    VEC r1 = V(muladd)(n, V(set)(-R_HI), x);
    VEC r2 = V(mul)(n, V(set)(-R_LO));
    VEC r = V(add)(r1, r2);
#if T_IS_F32 /* Remez as in line_math.h, degree 7, relative error 2^-29 */
    VEC t = V(set)(0x1.a7f27cp-13f);
    t = V(muladd)(t, r, V(set)(0x1.6d5a38p-10f));
    t = V(muladd)(t, r, V(set)(0x1.110ce8p-7f));
    t = V(muladd)(t, r, V(set)(0x1.5554c8p-5f));
    t = V(muladd)(t, r, V(set)(0x1.555558p-3f));
    t = V(muladd)(t, r, V(set)(0x1p-1f));
#else
    VEC t = V(set)(E12);
    t = V(muladd)(t, r, V(set)(E11));
    t = V(muladd)(t, r, V(set)(E10));
    t = V(muladd)(t, r, V(set)(E9));
    t = V(muladd)(t, r, V(set)(E8));
    t = V(muladd)(t, r, V(set)(E7));
    t = V(muladd)(t, r, V(set)(E6));
    t = V(muladd)(t, r, V(set)(E5));
    t = V(muladd)(t, r, V(set)(E4));
    t = V(muladd)(t, r, V(set)(E3));
    t = V(muladd)(t, r, V(set)(E2));
#endif
    /* The rounding of r counts for its square only: q is off by half an ulp and a bit. */
    return V(add)(r1, V(muladd)(V(mul)(r, r), t, r2));
}

/* The term itself, rounded once. */
static inline VEC F(term)(VEC s, VEC q)
{
    return V(muladd)(s, q, s);
}

/* A sum of at most BLOCK terms per lane: what rounding takes off `total` is exactly a
 * number, and goes to `lost` with what the term's own rounding cut off. `lost` stays
 * below 2^-12 of `total`; the rounding of its own additions is below 2^-3 ulp.
 *
 * With the largest term among them the sum is needed to a precision relative to that
 * term: `total` starts at ABOVE, above every term, and Fast2Sum applies. Without it the
 * sum may be tiny, and needs full relative precision: it starts at 0, with TwoSum. */
typedef struct {
    VEC total, lost;
} F(sum);

#define ABOVE (SPARE == 64 ? (REAL)0x1p65 : (REAL)0x1p513)

static inline REAL F(start)(int with_largest)
{
    return with_largest ? ABOVE : 0;
}

/* Adds the term s + s q, of which e is the rounded value. */
static inline void F(add_term)(F(sum) *sum, VEC s, VEC q, VEC e, int with_largest)
{
    VEC cut_off = V(muladd)(s, q, V(sub)(s, e)); /* exact, and so is s - e */
    VEC total = V(add)(sum->total, e);
    VEC added = V(sub)(total, sum->total);
    VEC rounded_off = V(sub)(e, added);
    if (!with_largest)
        rounded_off = V(add)(rounded_off, V(sub)(sum->total, V(sub)(total, added)));
    sum->total = total;
    sum->lost = V(add)(sum->lost, V(add)(rounded_off, cut_off));
}

/* All lanes' sum, in the same order whatever the values. */
static inline fs_pair F(all_lanes)(F(sum) sum, int with_largest)
{
    VEC total = V(sub)(sum.total, V(set)(F(start)(with_largest))); /* exact */
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
