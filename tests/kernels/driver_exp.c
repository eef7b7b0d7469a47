/* The exponential of float32, argument by argument: rounded terms are exp(x) times a
 * power of two, 2^SPARE in math/exp.h, which is that of x = 0. */
#include "driver.h"

#include "math/halves.h"

/* Terms are checked down to exp(LEAST) = 2^-189, far below those that are not zero in
 * any result (2^-150); below that they may be anything up to that, 0 included. */
#define LEAST (-131.0)

/* Next to 0 the series is exact to 2^-62, and takes no time. */
static void exact(const float *x, double *e, ptrdiff_t count)
{
    if (x[count - 1] > -0x1p-20f)
        for (ptrdiff_t i = 0; i < count; i++)
            e[i] = 1 + (double)x[i] * (1 + 0.5 * (double)x[i]);
    else
        for (ptrdiff_t i = 0; i < count; i++) e[i] = exp((double)x[i]);
}

/* In ULP of float at that value; subnormal numbers have that of the smallest normal
 * one. */
static inline double error_in_ulp(float term, double value)
{
    const uint64_t exponent = (uint64_t)0x7ff << 52;
    double ulp = bits_to_double(double_to_bits(value) & exponent) * 0x1p-23;
    return fabs((double)term - value) / (ulp < 0x1p-149 ? 0x1p-149 : ulp);
}

static inline double error_of(float x, float term, double value, double scale)
{
    if (x >= (float)LEAST)
        return error_in_ulp(term, value * scale);
    return term >= 0 && (double)term <= scale * 0x1p-188 ? 0 : INFINITY;
}

void run_exp(const fs_kernels *kernels, uint32_t first, uint32_t last, uint32_t stride)
{
    enum { COUNT = 16384 }; /* what follows fits the second-level cache */
    static float x[COUNT], y[COUNT];
    static double e[COUNT], error[COUNT];
    x[0] = -0.0f;
    kernels->terms(x, 1, y);
    double scale = y[0], worst = 0;
    float where = 0;
    for (uint64_t bits = first; bits <= last;) {
        ptrdiff_t count = 0;
        for (; count < COUNT && bits <= last; bits += stride)
            x[count++] = -bits_to_float((uint32_t)bits);
        kernels->terms(x, count, y);
        exact(x, e, count);
        for (ptrdiff_t i = 0; i < count; i++)
            error[i] = error_of(x[i], y[i], e[i], scale);
        for (ptrdiff_t i = 0; i < count; i++)
            if (!(error[i] <= worst)) {
                worst = isnan(error[i]) ? INFINITY : error[i];
                where = x[i];
            }
    }
    printf("%.6f %a %a\n", worst, (double)where, scale);
}
