/* The exponential of one unit (-DISA=avx2 -DT_IS_F32=1), argument by argument.
 *
 *   terms MAX FROM TO STRIDE
 *
 * of every STRIDEth float from FROM to TO, which have one sign; float64: of STRIDE
 * random numbers between them. Prints the least and the largest error of the term as it
 * is rounded, then of s + s q, in half-ulps just below a power of two: 2^-24 (2^-53)
 * of the value.
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
    uint64_t state = 88172645463325252;
    for (uint64_t done = 0; done < stride; done += COUNT) {
        for (int i = 0; i < COUNT; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            x[i] = from + (double)(state >> 11) * 0x1p-53 * (to - from);
        }
        measure(x, COUNT, max);
    }
}
#endif

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    measure_all(strtod(argv[1], NULL), strtod(argv[2], NULL), strtod(argv[3], NULL),
                strtoull(argv[4], NULL, 0));
    for (int i = 0; i < 4; i++) printf("%.4f ", windows[i]);
    return 0;
}

#include "isa/end.h"
