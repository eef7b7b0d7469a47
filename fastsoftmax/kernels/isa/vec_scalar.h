/* The vocabulary in plain C, one lane: what every ISA's header must offer, said once.
 * T stands for f32 and f64. Each word works lane by lane unless it says otherwise.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "math/coefficients.h"
#include "math/halves.h"

enum { f32_lanes = 1, f64_lanes = 1 };
typedef float f32_vec;
typedef double f64_vec;

/* T_set: all lanes the same. T_load, T_store: any alignment. */
static inline f32_vec f32_set(float a)
{
    return a;
}
static inline f64_vec f64_set(double a)
{
    return a;
}
static inline f32_vec f32_load(const float *p)
{
    return *p;
}
static inline f64_vec f64_load(const double *p)
{
    return *p;
}
static inline void f32_store(float *p, f32_vec a)
{
    *p = a;
}
static inline void f64_store(double *p, f64_vec a)
{
    *p = a;
}

/* T_load_part, T_store_part: the first `count` lanes, 1 <= count <= lanes; memory
 * behind them is not touched, the other lanes come from `rest`. */
static inline f32_vec f32_load_part(const float *p, ptrdiff_t count, f32_vec rest)
{
    return count ? *p : rest;
}
static inline f64_vec f64_load_part(const double *p, ptrdiff_t count, f64_vec rest)
{
    return count ? *p : rest;
}
static inline void f32_store_part(float *p, ptrdiff_t count, f32_vec a)
{
    if (count)
        *p = a;
}
static inline void f64_store_part(double *p, ptrdiff_t count, f64_vec a)
{
    if (count)
        *p = a;
}

static inline f32_vec f32_add(f32_vec a, f32_vec b)
{
    return a + b;
}
static inline f64_vec f64_add(f64_vec a, f64_vec b)
{
    return a + b;
}
static inline f32_vec f32_sub(f32_vec a, f32_vec b)
{
    return a - b;
}
static inline f64_vec f64_sub(f64_vec a, f64_vec b)
{
    return a - b;
}
static inline f32_vec f32_mul(f32_vec a, f32_vec b)
{
    return a * b;
}
static inline f64_vec f64_mul(f64_vec a, f64_vec b)
{
    return a * b;
}
static inline f32_vec f32_div(f32_vec a, f32_vec b)
{
    return a / b;
}
static inline f64_vec f64_div(f64_vec a, f64_vec b)
{
    return a / b;
}

/* T_max, T_min: b where either is NaN, as the x86 instructions have it. */
static inline f32_vec f32_max(f32_vec a, f32_vec b)
{
    return a > b ? a : b;
}
static inline f64_vec f64_max(f64_vec a, f64_vec b)
{
    return a > b ? a : b;
}
static inline f32_vec f32_min(f32_vec a, f32_vec b)
{
    return a < b ? a : b;
}
static inline f64_vec f64_min(f64_vec a, f64_vec b)
{
    return a < b ? a : b;
}

/* T_muladd: a * b + c, rounded once where the hardware can, twice elsewhere. */
static inline f32_vec f32_muladd(f32_vec a, f32_vec b, f32_vec c)
{
    return a * b + c;
}
static inline f64_vec f64_muladd(f64_vec a, f64_vec b, f64_vec c)
{
    return a * b + c;
}

/* T_times_pair: a * (hi + lo) rounded once (up to 2^-20 ulp), |lo| <= ulp(hi), where a
 * is a term and hi + lo a factor of ops/softmax.h. On top of that half the least
 * subnormal number, because the product with lo may be one. */
static inline f32_vec f32_times_pair(f32_vec a, f32_vec hi, f32_vec lo)
{
    return (float)((double)a * ((double)hi + (double)lo));
}

/* The upper half of a double's digits; exact for |a| < 2^996 (Veltkamp). */
static inline double upper_half(double a)
{
    double scaled = a * 0x1.0000002p27;
    return scaled - (scaled - a);
}
static inline f64_vec f64_times_pair(f64_vec a, f64_vec hi, f64_vec lo)
{
    double product = a * hi; /* Dekker's, exact */
    double a1 = upper_half(a), a2 = a - a1, h1 = upper_half(hi), h2 = hi - h1;
    double error = ((a1 * h1 - product) + a1 * h2 + a2 * h1) + a2 * h2;
    return product + (error + a * lo);
}

/* T_power: c 2^(n/8) of math/coefficients.h for the integer n in the low bits of a. */
static inline f32_vec f32_power(f32_vec a)
{
    static const uint32_t entries[8] = {FS_POWERS_F32(FS_WHOLE)};
    uint32_t n = float_to_bits(a);
    return bits_to_float(entries[n % 8] + (n << 20));
}
static inline f64_vec f64_power(f64_vec a)
{
    static const uint64_t entries[8] = {FS_POWERS_F64(FS_WHOLE)};
    uint64_t n = double_to_bits(a);
    return bits_to_double(entries[n % 8] + (n << 49));
}

/* T_exponent: 2^23 (f64: 2^52) and the exponent's bits of a > 0, as an integer.
 * T_to_exponent: of an integer in the low bits of a number that has such exponent's
 * bits. */
static inline f32_vec f32_exponent(f32_vec a)
{
    return bits_to_float(float_to_bits(a) >> 23 | float_to_bits(0x1p23f));
}
static inline f64_vec f64_exponent(f64_vec a)
{
    return bits_to_double(double_to_bits(a) >> 52 | double_to_bits(0x1p52));
}
static inline f32_vec f32_to_exponent(f32_vec a)
{
    return bits_to_float(float_to_bits(a) << 23);
}
static inline f64_vec f64_to_exponent(f64_vec a)
{
    return bits_to_double(double_to_bits(a) << 52);
}

/* T_if_equal: a == b ? yes : no; T_if_less: a < b ? yes : no. NaN answers no. */
static inline f32_vec f32_if_equal(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return a == b ? yes : no;
}
static inline f64_vec f64_if_equal(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return a == b ? yes : no;
}
static inline f32_vec f32_if_less(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return a < b ? yes : no;
}
static inline f64_vec f64_if_less(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return a < b ? yes : no;
}

/* T_any_less: whether a < b in some lane. */
static inline int f32_any_less(f32_vec a, f32_vec b)
{
    return a < b;
}
static inline int f64_any_less(f64_vec a, f64_vec b)
{
    return a < b;
}

/* T_largest: the maximum of all lanes, none of which is NaN. */
static inline float f32_largest(f32_vec a)
{
    return a;
}
static inline double f64_largest(f64_vec a)
{
    return a;
}

/* f32_sum_lanes: all lanes of a and b added up in double, in an order of the ISA's. */
static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    return (double)a + b;
}

/* T_wide: a sum in double for each lane. T_wide_load, T_wide_store: one double a lane.
 * T_wide_add, T_wide_add_product: sum + a and sum + a * b for the lanes of the vectors
 * at a and b, where the product of two floats is exact. T_wide_total: all lanes added
 * up, in an order of the ISA's. */
typedef double f32_wide;
typedef double f64_wide;
static inline f32_wide f32_wide_load(const double *p)
{
    return *p;
}
static inline f64_wide f64_wide_load(const double *p)
{
    return *p;
}
static inline void f32_wide_store(double *p, f32_wide sum)
{
    *p = sum;
}
static inline void f64_wide_store(double *p, f64_wide sum)
{
    *p = sum;
}
static inline f32_wide f32_wide_zero(void)
{
    return 0;
}
static inline f64_wide f64_wide_zero(void)
{
    return 0;
}
static inline f32_wide f32_wide_add(f32_wide sum, const float *a)
{
    return sum + (double)*a;
}
static inline f64_wide f64_wide_add(f64_wide sum, const double *a)
{
    return sum + *a;
}
static inline f32_wide f32_wide_add_product(f32_wide sum, const float *a,
                                            const float *b)
{
    return sum + (double)*a * (double)*b;
}
static inline f64_wide f64_wide_add_product(f64_wide sum, const double *a,
                                            const double *b)
{
    return sum + *a * *b;
}
static inline double f32_wide_total(f32_wide sum)
{
    return sum;
}
static inline double f64_wide_total(f64_wide sum)
{
    return sum;
}

/* f32_load_f16 ...: f32_lanes 16-bit floats; stores round to nearest even, at
 * any address. */
static inline f32_vec f32_load_f16(const uint16_t *p)
{
    return half_to_float(*p);
}
static inline void f32_store_f16(void *p, f32_vec a)
{
    uint16_t half = float_to_half(a);
    memcpy(p, &half, sizeof half);
}
static inline f32_vec f32_load_bf16(const uint16_t *p)
{
    return bfloat_to_float(*p);
}
static inline void f32_store_bf16(void *p, f32_vec a)
{
    uint16_t half = float_to_bfloat(a);
    memcpy(p, &half, sizeof half);
}

/* T_load_quads, T_store_quads: four neighbours of each of `lanes` rows, `pitch`
 * elements apart: lane j of v[i] is p[j * pitch + i]. Row after row: where rows
 * overlap, the last one stored stays. */
static inline void f32_load_quads(const float *p, ptrdiff_t pitch, f32_vec v[4])
{
    memcpy(v, p, 4 * sizeof *p);
    (void)pitch;
}
static inline void f64_load_quads(const double *p, ptrdiff_t pitch, f64_vec v[4])
{
    memcpy(v, p, 4 * sizeof *p);
    (void)pitch;
}
static inline void f32_store_quads(float *p, ptrdiff_t pitch, const f32_vec v[4])
{
    memcpy(p, v, 4 * sizeof *p);
    (void)pitch;
}
static inline void f64_store_quads(double *p, ptrdiff_t pitch, const f64_vec v[4])
{
    memcpy(p, v, 4 * sizeof *p);
    (void)pitch;
}

/* T_stream: stores to an address aligned to the vector, past the caches where the ISA
 * can. stream_fence: before anybody else may read what the thread has streamed. */
static inline void f32_stream(float *p, f32_vec a)
{
    *p = a;
}
static inline void f64_stream(double *p, f64_vec a)
{
    *p = a;
}
static inline void stream_fence(void)
{
}
