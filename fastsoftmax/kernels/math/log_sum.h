/* What is computed once per line, in double and without any library's exp, so that
 * every platform gives the same bits: exp of a maximum with some 60 good bits, as a
 * pair.
 */
#ifndef FASTSOFTMAX_LINE_MATH_H
#define FASTSOFTMAX_LINE_MATH_H

#include <math.h>

#include "math/coefficients.h"
#include "math/halves.h"
#include "job.h"

/* a * b + c, rounded once where the file that includes this has FMA. */
static inline double fs_muladd(double a, double b, double c)
{
#if defined(FS_HAS_FMA)
    return fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* 2^k for an integer k of -1022 to 1023. */
static inline double fs_power(double k)
{
    return bits_to_double(double_to_bits(k + (0x1.8p52 + 1023)) << 52);
}

/* a * b = hi + lo exactly, for |a|, |b| < 2^996 and no underflow: by FMA, or by
 * splitting (Dekker). */
static inline fs_pair fs_two_product(double a, double b)
{
    double product = a * b;
#if defined(FS_HAS_FMA)
    fs_pair result = {product, fma(a, b, -product)};
#else
    double a_scaled = a * 0x1.0000002p27, b_scaled = b * 0x1.0000002p27;
    double a1 = a_scaled - (a_scaled - a), a2 = a - a1;
    double b1 = b_scaled - (b_scaled - b), b2 = b - b1;
    fs_pair result = {product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2};
#endif
    return result;
}

/* a / b, relative error below 2^-100, for 2^-600 < |b| < 2^600. */
static inline fs_pair fs_pair_divide(fs_pair a, fs_pair b)
{
    double inverse = 1 / b.hi;
    double quotient = a.hi * inverse; /* off by 2 ulp at most: the rest is exact */
    fs_pair product = fs_two_product(quotient, b.hi);
    double rest = ((a.hi - product.hi) - product.lo) + (a.lo - quotient * b.lo);
    return fs_two_sum(quotient, rest * inverse);
}

/* (exp(r) - 1 - r) / r^2 for |r| <= 1.002 ln(2)/2. */
static inline double fs_exp_tail(double r)
{
    const double c[] = {FS_EXP_TAIL_12};
    double t = fs_muladd(c[0], r, c[1]);
    t = fs_muladd(t, r, c[2]);
    t = fs_muladd(t, r, c[3]);
    t = fs_muladd(t, r, c[4]);
    t = fs_muladd(t, r, c[5]);
    t = fs_muladd(t, r, c[6]);
    t = fs_muladd(t, r, c[7]);
    t = fs_muladd(t, r, c[8]);
    t = fs_muladd(t, r, c[9]);
    t = fs_muladd(t, r, c[10]);
    return t;
}

/* base exp(max) 2^-k for an integer k next to max / ln 2, |k| < 2^14; relative error
 * below 2^-56: only the terms behind r are rounded, and they add up to at most 0.06. */
static inline fs_pair fs_exp_scaled(double max, double k, double base)
{
    double r1 = max - k * FS_LN2_HI; /* exact: the terms agree in their leading bits */
    double r = r1 - k * FS_LN2_LO;
    double r_rest = (r1 - r) - k * FS_LN2_LO;
    fs_pair one_plus_r = fs_two_sum(1.0, r);
    double rest = one_plus_r.lo + (r_rest + r * r * fs_exp_tail(r));
    fs_pair product = fs_two_product(one_plus_r.hi, base);
    return fs_two_sum(product.hi, product.lo + rest * base);
}

#endif
