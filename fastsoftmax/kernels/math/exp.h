/* The exponential, once for every type and ISA: included by loops/rows.h, which defines
 * T (f32 or f64), REAL (its C type), V(word) and F(name).
 *
 * A line's terms are exp(x) 2^-K with K = rint(max / ln 2): the shift is a power of
 * two, so no difference x - max is rounded. Each term is held as s + s q: s =
 * 2^(n-K+SPARE), q = exp(r) - 1, n = rint(x / ln 2), r = x - n ln 2. SPARE keeps terms
 * that end as subnormal results normal until the last multiplication; the common factor
 * 2^SPARE cancels in softmax and is taken out of the logarithm's argument.
 *
 * Where |max| >= SUBTRACT_FROM the maximum is subtracted first, before anything here,
 * and K = 0: x - max is exact for every x whose result is not zero anyway (x - max >
 * -104, f64: -746). Where x is at least half of max that is Sterbenz' lemma; between
 * there and the threshold both are multiples of the same power of two, 2^-17 or more
 * (f64: 2^-43).
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
    VEC least; /* x at and below which a term is exactly 0 */
    VEC magic; /* added to x / ln 2, leaves the exponent field of 2^(n-K+SPARE) in the
                * low bits */
} F(shift);

/* What is to be taken off x first: 0 where the power of two alone is enough; max where
 * that is large, infinite or NaN. */
FS_INLINE VEC F(subtrahend)(VEC max)
{
    VEC if_above = V(if_less)(V(set)(-SUBTRACT_FROM), max, V(set)(0), max);
    return V(if_less)(max, V(set)(SUBTRACT_FROM), if_above, max);
}

/* K, as a floating-point number. */
FS_INLINE VEC F(exponent_of_max)(VEC max)
{
    VEC rest = V(sub)(max, F(subtrahend)(max));
    VEC k = V(muladd)(rest, V(set)(LOG2_E), V(set)(MAGIC));
    return V(sub)(k, V(set)(MAGIC));
}

FS_INLINE F(shift) F(shift_for)(VEC max)
{
    F(shift) shift;
    /* The field is n - K + offset; `least` is where that reaches 0, the field of zero.
     */
    VEC offset = V(sub)(V(set)(SPARE + EXPONENT_BIAS), F(exponent_of_max)(max));
    shift.magic = V(add)(V(set)(MAGIC), offset);
    shift.least = V(mul)(offset, V(set)((REAL) - (LN2_HI + LN2_LO)));
    return shift;
}

/* Vectors worked on side by side. One exponential is a chain of some 16 dependent
 * steps; four chains keep the arithmetic units busy where one waits for itself. */
#define ABREAST 4
#define EACH for (int j = 0; j < abreast; j++)

/* t = (exp(r) - 1 - r) / r^2 of each r[j]. f32: relative error 2^-28.2 of exp(r),
 * minimax as in math/log_sum.h; f64: that polynomial. */
FS_INLINE void F(polynomial)(int abreast, const VEC *r, VEC *t)
{
#if T_IS_F32
    static const REAL c[] = {0x1.6a415ep-10f, 0x1.1239c6p-7f, 0x1.5558bcp-5f,
                             0x1.555492p-3f, 0x1.fffffcp-2f};
#else
    static const REAL c[] = {E12, E11, E10, E9, E8, E7, E6, E5, E4, E3, E2};
#endif
    EACH t[j] = V(set)(c[0]);
    for (size_t i = 1; i < sizeof c / sizeof *c; i++)
        EACH t[j] = V(muladd)(t[j], r[j], V(set)(c[i]));
}

/* q[j] and s[j] of each x[j], j < abreast. f32: the term that they make is within 0.9
 * ULP for every negative x (tests/test_kernels.py). A NaN goes through to q: T_max
 * returns its second operand. `abreast` is a constant, so that the loops dissolve. */
FS_INLINE void F(exp_terms)(int abreast, const VEC *x, const F(shift) *shift, VEC *s,
                            VEC *q)
{
    VEC a[ABREAST], n[ABREAST], r[ABREAST], t[ABREAST];
    EACH a[j] = V(max)(shift->least, x[j]);
    EACH n[j] = V(muladd)(a[j], V(set)(LOG2_E), shift->magic);
    EACH s[j] = V(exponent_of)(n[j]);
    EACH n[j] = V(sub)(n[j], shift->magic);
    /* r = a + n, |r| <= 0.35. From here on a is exact: n R_HI is, and agrees with it in
     * its leading bits. |n| < 2^-10 (f64: 2^-30): its own rounding is nothing. */
    EACH a[j] = V(muladd)(n[j], V(set)(-R_HI), a[j]);
    EACH n[j] = V(mul)(n[j], V(set)(-R_LO));
    EACH r[j] = V(add)(a[j], n[j]);
    F(polynomial)(abreast, r, t);
    /* The rounding of r counts for its square only: q is off by half an ulp and a bit.
     */
    EACH r[j] = V(mul)(r[j], r[j]);
    EACH q[j] = V(add)(a[j], V(muladd)(r[j], t[j], n[j]));
}

/* The term itself, rounded once. */
FS_INLINE VEC F(term)(VEC s, VEC q)
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

/* Adds the term s + s q, of which e is the rounded value. `added` is what of it went
 * into the total, and is s or a multiple of the total's ulp not far from it, or 0: s -
 * added is exact, and what remains of the term is rounded once, relative to itself. */
FS_INLINE void F(add_term)(F(sum) *sum, VEC s, VEC q, VEC e, int with_largest)
{
    VEC total = V(add)(sum->total, e);
    VEC added = V(sub)(total, sum->total);
    VEC left = V(muladd)(s, q, V(sub)(s, added));
    if (!with_largest)
        left = V(add)(left, V(sub)(sum->total, V(sub)(total, added)));
    sum->total = total;
    sum->lost = V(add)(sum->lost, left);
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
