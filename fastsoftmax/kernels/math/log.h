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
 * which hi has the leading digits, exactly, and f^3 tail, at most .053 of the result.
 * Off by .38 of half an ulp at most (f32, every f), of which the tail has .06. */
FS_INLINE F(pair) F(log_near_1)(F(pair) f)
{
    static const REAL tail[] = {LOG_TAIL};
    VEC minus_half = V(set)((REAL)-0.5), t = V(set)(tail[0]), odd = V(set)(tail[1]);
    VEC square = V(mul)(f.hi, f.hi), square_lo = F(product_less)(f.hi, f.hi, square);
    /* of even powers and of odd ones: neither waits for the other */
    for (size_t i = 2; i + 1 < sizeof tail / sizeof *tail; i += 2) {
        t = V(muladd)(t, square, V(set)(tail[i]));
        odd = V(muladd)(odd, square, V(set)(tail[i + 1]));
    }
    t = V(muladd)(t, square, V(set)(tail[sizeof tail / sizeof *tail - 1]));
    t = V(muladd)(odd, f.hi, t);
    VEC hi = V(muladd)(minus_half, square, f.hi);
    VEC lo = V(muladd)(minus_half, square, V(sub)(f.hi, hi)); /* exact: Fast2Sum */
    lo = V(muladd)(minus_half, square_lo, lo);
    VEC slope = V(sub)(V(add)(V(set)(1), square), f.hi); /* 1 / (1 + f), to f^3 */
    lo = V(muladd)(f.lo, slope, lo);
    return (F(pair)){hi, V(muladd)(V(mul)(square, f.hi), t, lo)};
}

/* sum = 2^k (1 + f), 1 + f from sqrt(1/2) to sqrt(2). OUT k. */
FS_INLINE F(pair) F(off_power)(F(pair) sum, VEC *k)
{
    VEC above = V(exponent)(V(mul)(sum.hi, V(set)((REAL)1.4142135623730951)));
    *k = V(sub)(above, V(set)((REAL)(MAGIC / 1.5 + BIAS)));
    VEC scale = F(power_of_2)(V(sub)(V(set)(0), *k));
    return F(fast_two_sum)(V(muladd)(sum.hi, scale, V(set)(-1)), V(mul)(sum.lo, scale));
}

/* log(2^k (1 + f)), |k| < 2^14 (f32: 2^9): k LOG_2 is exact. */
FS_INLINE F(pair) F(log_of_product)(VEC k, F(pair) f)
{
    f = F(log_near_1)(f);
    F(pair) log = F(fast_two_sum)(V(mul)(k, V(set)(LOG_2)), f.hi);
    log.lo = V(muladd)(k, V(set)(LOG_2_REST), V(add)(log.lo, f.lo));
    return log;
}

/* log(sum 2^exponent), lo being a few ulp of it; off by 2^-25.8 (f64: 2^-55) of it,
 * also where sum is next to 1. */
FS_INLINE F(pair) F(log_of)(F(pair) sum, VEC exponent)
{
    VEC k;
    F(pair) f = F(off_power)(sum, &k);
    return F(log_of_product)(V(add)(k, exponent), f);
}

/* log(1 + w) for w >= 0; of subnormal w it is w. */
FS_INLINE F(pair) F(log_1_plus)(F(pair) w)
{
    VEC zero = V(set)(0), one = V(set)(1), sum = V(add)(one, w.hi), k;
    VEC more = V(max)(one, w.hi), less = V(min)(one, w.hi);
    VEC lost = V(add)(V(sub)(less, V(sub)(sum, more)), w.lo);
    F(pair) f = F(off_power)((F(pair)){sum, lost}, &k);
    f.hi = V(if_equal)(k, zero, w.hi, f.hi);
    f.lo = V(if_equal)(k, zero, w.lo, f.lo);
    return F(log_of_product)(k, f);
}

/* max + log. */
FS_INLINE F(pair) F(plus_log)(VEC max, F(pair) log)
{
    VEC hi = V(add)(max, log.hi);
    return F(fast_two_sum)(hi, V(add)(F(sum_rest)(max, log.hi, hi), log.lo));
}

/* A sum of terms over a term, each of which may lack 2^-12 of itself. */
FS_INLINE F(pair) F(over)(F(pair) sum, F(sum) term)
{
    VEC inverse = V(div)(V(set)(1), term.total);
    sum = F(fast_two_sum)(sum.hi, sum.lo);
    VEC hi = V(mul)(sum.hi, inverse); /* off by 2 ulp: the rest is exact */
    VEC rest = V(sub)(sum.lo, F(product_less)(hi, term.total, sum.hi));
    rest = V(muladd)(V(sub)(V(set)(0), hi), term.lost, rest);
    return (F(pair)){hi, V(mul)(rest, inverse)};
}

/* max + log(1 + w), where w is `others` over `largest`, the term of max, and 2^down. */
FS_INLINE F(pair)
    F(log_of_sum)(VEC max, F(sum) largest, F(pair) others, VEC down, VEC *share)
{
    F(pair) w = F(scaled_down)(F(over)(others, largest), down);
    *share = w.hi;
    return F(plus_log)(max, F(log_1_plus)(w));
}
