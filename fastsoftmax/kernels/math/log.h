/* The logarithm of a sum, once for every type and ISA, in the words of isa/begin.h: max
 * + log(1 + w), w the terms of all but the largest over that of the largest. Where max
 * is taken off, log(1 + w) is wanted to 2^-26 (f64: 2^-55) of itself: so w is a pair,
 * and 1 is not added to a small one.
 */

typedef struct {
    VEC hi, lo;
} F(pair);

/* a b - c where that is a number of the type: exactly. */
FS_INLINE VEC F(product_less)(VEC a, VEC b, VEC c)
{
#if defined(FS_HAS_FMA)
    return V(muladd)(a, b, V(sub)(V(set)(0), c));
#elif T_IS_F32
    return (REAL)((double)a * (double)b - (double)c);
#else
    fs_pair product = fs_two_product(a, b);
    return (product.hi - c) + product.lo;
#endif
}

/* What rounding takes off sum = a + b is exactly a number (Knuth's TwoSum). */
FS_INLINE VEC F(sum_rest)(VEC a, VEC b, VEC sum)
{
    VEC b_part = V(sub)(sum, a);
    return V(add)(V(sub)(a, V(sub)(sum, b_part)), V(sub)(b, b_part));
}

/* a + b as a pair, exactly, if |a| >= |b| or a is a multiple of b's last bit. */
FS_INLINE F(pair) F(fast_two_sum)(VEC a, VEC b)
{
    VEC sum = V(add)(a, b);
    return (F(pair)){sum, V(sub)(b, V(sub)(sum, a))};
}

#define BIAS (T_IS_F32 ? (REAL)127 : (REAL)1023)

/* 2^k for an integer k whose power is a normal number. */
FS_INLINE VEC F(power_of_2)(VEC k)
{
    return V(to_exponent)(V(add)(k, V(set)((REAL)(MAGIC + BIAS))));
}

/* a 2^k, k from -252 (f64: -2044) to 0; rounded once, if it is a subnormal number. */
FS_INLINE F(pair) F(scaled_down)(F(pair) a, VEC k)
{
    VEC half = V(sub)(V(muladd)(k, V(set)((REAL)0.5), V(set)(MAGIC)), V(set)(MAGIC));
    VEC one = F(power_of_2)(half), other = F(power_of_2)(V(sub)(k, half));
    return (F(pair)){V(mul)(V(mul)(a.hi, one), other),
                     V(mul)(V(mul)(a.lo, one), other)};
}

/* log(1 + f) for 1 + f from sqrt(1/2) to sqrt(2), |f.lo| <= ulp(f.hi): f - f^2 / 2, of
 * which hi has the leading digits, exactly, and f^3 tail, at most .053 of the result:
 * its rounding is .06 of half an ulp, the tail's error .06 (f64: .1). */
FS_INLINE F(pair) F(log_near_1)(F(pair) f)
{
    static const REAL tail[] = {LOG_TAIL};
    VEC minus_half = V(set)((REAL)-0.5), t = V(set)(tail[0]);
    for (size_t i = 1; i < sizeof tail / sizeof *tail; i++)
        t = V(muladd)(t, f.hi, V(set)(tail[i]));
    VEC square = V(mul)(f.hi, f.hi), square_lo = F(product_less)(f.hi, f.hi, square);
    VEC hi = V(muladd)(minus_half, square, f.hi);
    VEC lo = V(muladd)(minus_half, square, V(sub)(f.hi, hi)); /* exact: Fast2Sum */
    lo = V(muladd)(minus_half, square_lo, lo);
    VEC slope = V(sub)(V(add)(V(set)(1), square), f.hi); /* 1 / (1 + f), to f^3 */
    lo = V(muladd)(f.lo, slope, lo);
    return (F(pair)){hi, V(muladd)(V(mul)(square, f.hi), t, lo)};
}

/* log(1 + w) for w >= 0; of subnormal w it is w. */
FS_INLINE F(pair) F(log_1_plus)(F(pair) w)
{
    VEC zero = V(set)(0), one = V(set)(1), sum = V(add)(one, w.hi);
    VEC more = V(max)(one, w.hi), less = V(min)(one, w.hi);
    VEC lost = V(add)(V(sub)(less, V(sub)(sum, more)), w.lo);
    /* 1 + w = 2^k (1 + f); f is w where k = 0 */
    VEC k = V(exponent)(V(mul)(sum, V(set)((REAL)1.4142135623730951)));
    k = V(sub)(k, V(set)((REAL)(MAGIC / 1.5 + BIAS)));
    VEC scale = F(power_of_2)(V(sub)(zero, k));
    F(pair) f = F(fast_two_sum)(V(muladd)(sum, scale, V(set)(-1)), V(mul)(lost, scale));
    f.hi = V(if_equal)(k, zero, w.hi, f.hi);
    f.lo = V(if_equal)(k, zero, w.lo, f.lo);
    f = F(log_near_1)(f);
    F(pair) log =
        F(fast_two_sum)(V(mul)(k, V(set)(LOG_2)), f.hi); /* k LOG_2 is exact */
    log.lo = V(muladd)(k, V(set)(LOG_2_REST), V(add)(log.lo, f.lo));
    return log;
}

/* max + log(1 + w), where w is `others` over `largest`, and 2^down; largest + what it
 * has `lost` is the term of max. Each pair's lo may be 2^-12 of hi. */
FS_INLINE F(pair)
    F(log_of_sum)(VEC max, F(sum) largest, F(pair) others, VEC down, VEC *share)
{
    VEC zero = V(set)(0), inverse = V(div)(V(set)(1), largest.total);
    others = F(fast_two_sum)(others.hi, others.lo);
    F(pair) w = {V(mul)(others.hi, inverse),
                 zero}; /* off by 2 ulp: the rest is exact */
    VEC rest = V(sub)(others.lo, F(product_less)(w.hi, largest.total, others.hi));
    rest = V(muladd)(V(sub)(zero, w.hi), largest.lost, rest);
    w.lo = V(mul)(rest, inverse);
    w = F(scaled_down)(w, down);
    *share = w.hi;
    F(pair) log = F(log_1_plus)(w);
    VEC hi = V(add)(max, log.hi);
    return F(fast_two_sum)(hi, V(add)(F(sum_rest)(max, log.hi, hi), log.lo));
}
