/* The exponential of one unit (-DISA=avx2 -DT_IS_F32=1), argument by argument.
 *
 *   terms MAX FROM TO STRIDE
 *
 * of every STRIDEth float from FROM to TO, which have one sign; float64: of STRIDE
 * random numbers between them. Prints the least and the largest error of the term as it
 * is rounded, then of s + s q, in half-ulps just below a power of two: 2^-24 (2^-53)
 * of the value. Fails where F(times_pair) is wrong.
 */
#include "isa/begin.h"
#include "math/exp.h"

#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 4096 };

#if T_IS_F32
typedef double exact;
#define EXP exp
#define UNITS 0x1p24
#else
typedef long double exact;
#define EXP expl
#define UNITS 0x1p53
#endif

static double windows[4] = {INFINITY, -INFINITY, INFINITY, -INFINITY};

static void widen(double *window, exact of, exact value)
{
    double error = (double)((of - value) / value * UNITS);
    window[0] = error < window[0] ? error : window[0];
    window[1] = error > window[1] ? error : window[1];
    if (isnan(error))
        window[0] = window[1] = NAN;
}

static void measure(const REAL *x, ptrdiff_t count, REAL max)
{
    F(shift) shift = F(shift_for)(V(set)(max));
    REAL k[LANES], least[LANES], s[LANES], q[LANES], e[LANES];
    V(store)(k, F(exponent_of_max)(V(set)(max)));
    V(store)(least, shift.least);
    exact scale = ldexpl((exact)BASE, SPARE - (int)k[0]);
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        VEC here = V(load)(x + i), vs, vq;
        F(exp_terms)(1, 1, &here, &shift, &vs, &vq);
        V(store)(s, vs);
        V(store)(q, vq);
        V(store)(e, F(term)(vs, vq));
        for (int j = 0; j < LANES && i + j < count; j++) {
            exact value = EXP((exact)x[i + j]) * scale;
            if (x[i + j] < least[j])
                value = EXP((exact)least[j]) * scale;
            widen(windows, e[j], value);
            widen(windows + 2, s[j] + (exact)s[j] * q[j], value);
        }
    }
}

static uint64_t random_bits(void)
{
    static uint64_t state = 88172645463325252;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* A random number from 0 to 1. */
static double random_part(void)
{
    return (double)(random_bits() >> 11) * 0x1p-53;
}

#if T_IS_F32
static void measure_all(double max, double from, double to, uint64_t stride)
{
    float x[COUNT + LANES] = {0};
    uint64_t bits = float_to_bits((float)from), last = float_to_bits((float)to);
    while (bits <= last) {
        ptrdiff_t count = 0;
        for (; count < COUNT && bits <= last; bits += stride)
            x[count++] = bits_to_float((uint32_t)bits);
        measure(x, count, (float)max);
    }
}
#else
static void measure_all(double max, double from, double to, uint64_t stride)
{
    double x[COUNT + LANES] = {0};
    for (uint64_t done = 0; done < stride; done += COUNT) {
        for (int i = 0; i < COUNT; i++) x[i] = from + random_part() * (to - from);
        measure(x, COUNT, max);
    }
}
#endif

/* a (hi + lo) of a term and a factor as ops/softmax.h has them: half an ulp, what the
 * judge itself may lose, and half the least subnormal number. Of sets that are not deep
 * terms are not as small; of those that are the factor has no 2^-SPARE. */
static int times_pair_is_right(void)
{
    enum { DIGITS = T_IS_F32 ? 23 : 52 };
    const int deep = (int)(random_bits() % 2), depth = T_IS_F32 ? 94 : 982;
    const uint64_t down = (uint64_t)(deep ? 2 * SPARE : depth);
    const long double half_of_least = ldexpl(1, LEAST_EXPONENT - DIGITS - 1);
    REAL a[LANES], hi[LANES], lo[LANES], out[LANES];
    int right = 1;
    for (int j = 0; j < LANES; j++) {
        double fraction = random_part();
        a[j] = (REAL)ldexp(1 + fraction / 3, SPARE - (int)(random_bits() % down));
        hi[j] = (REAL)ldexp(1 + fraction * fraction,
                            (deep ? 0 : -SPARE) - (int)(random_bits() % 31));
        lo[j] = (REAL)ldexp(hi[j] * (2 * fraction - 1), -DIGITS - 1);
    }
    V(store)(out, F(times_pair)(V(load)(a), V(load)(hi), V(load)(lo)));
    for (int j = 0; j < LANES; j++) {
        exact product = (exact)a[j] * hi[j] + (exact)a[j] * lo[j];
        int exponent = ilogb((double)product);
        exponent = exponent < LEAST_EXPONENT ? LEAST_EXPONENT : exponent;
        long double ulp = ldexpl(1, exponent - DIGITS);
        right &= fabsl(out[j] - product) <= ulp * (0.5L + 0x1p-9L) + half_of_least;
    }
    return right;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    measure_all(strtod(argv[1], NULL), strtod(argv[2], NULL), strtod(argv[3], NULL),
                strtoull(argv[4], NULL, 0));
    for (int i = 0; i < 4; i++) printf("%.4f ", windows[i]);
    for (int i = 0; i < 3000; i++)
        if (!times_pair_is_right())
            return 1;
    return 0;
}

#include "isa/end.h"
