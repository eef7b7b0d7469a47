/* The vocabulary for NEON (aarch64, little-endian): 4 floats or 2 doubles.
 * vec_scalar.h says what each word means.
 */
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "math/coefficients.h"
#include "math/halves.h"

#define FS_HAS_FMA
#define FS_HAS_32_REGISTERS

enum { f32_lanes = 4, f64_lanes = 2 };
typedef float32x4_t f32_vec;
typedef float64x2_t f64_vec;

static inline f32_vec f32_set(float a)
{
    return vdupq_n_f32(a);
}
static inline f64_vec f64_set(double a)
{
    return vdupq_n_f64(a);
}
static inline f32_vec f32_load(const float *p)
{
    return vld1q_f32(p);
}
static inline f64_vec f64_load(const double *p)
{
    return vld1q_f64(p);
}
static inline void f32_store(float *p, f32_vec a)
{
    vst1q_f32(p, a);
}
static inline void f64_store(double *p, f64_vec a)
{
    vst1q_f64(p, a);
}

static inline f32_vec f32_load_part(const float *p, ptrdiff_t count, f32_vec rest)
{
    if (count == 4)
        return vld1q_f32(p);
    if (count == 1)
        return vld1q_lane_f32(p, rest, 0);
    f32_vec two = vcombine_f32(vld1_f32(p), vget_high_f32(rest));
    return count == 2 ? two : vld1q_lane_f32(p + 2, two, 2);
}
static inline f64_vec f64_load_part(const double *p, ptrdiff_t count, f64_vec rest)
{
    return count == 2 ? vld1q_f64(p) : vld1q_lane_f64(p, rest, 0);
}
static inline void f32_store_part(float *p, ptrdiff_t count, f32_vec a)
{
    if (count == 4) {
        vst1q_f32(p, a);
    } else if (count == 1) {
        vst1q_lane_f32(p, a, 0);
    } else {
        vst1_f32(p, vget_low_f32(a));
        if (count == 3)
            vst1q_lane_f32(p + 2, a, 2);
    }
}
static inline void f64_store_part(double *p, ptrdiff_t count, f64_vec a)
{
    if (count == 2)
        vst1q_f64(p, a);
    else
        vst1q_lane_f64(p, a, 0);
}

#define BINARY(word)                                                                   \
    static inline f32_vec f32_##word(f32_vec a, f32_vec b)                             \
    {                                                                                  \
        return v##word##q_f32(a, b);                                                   \
    }                                                                                  \
    static inline f64_vec f64_##word(f64_vec a, f64_vec b)                             \
    {                                                                                  \
        return v##word##q_f64(a, b);                                                   \
    }
BINARY(add)
BINARY(sub)
BINARY(mul)
BINARY(div)
#undef BINARY

/* Not vmaxq, which is NaN where either is. */
static inline f32_vec f32_max(f32_vec a, f32_vec b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline f64_vec f64_max(f64_vec a, f64_vec b)
{
    return vbslq_f64(vcgtq_f64(a, b), a, b);
}
static inline f32_vec f32_min(f32_vec a, f32_vec b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
static inline f64_vec f64_min(f64_vec a, f64_vec b)
{
    return vbslq_f64(vcltq_f64(a, b), a, b);
}

static inline f32_vec f32_muladd(f32_vec a, f32_vec b, f32_vec c)
{
    return vfmaq_f32(c, a, b);
}
static inline f64_vec f64_muladd(f64_vec a, f64_vec b, f64_vec c)
{
    return vfmaq_f64(c, a, b);
}
static inline f32_vec f32_times_pair(f32_vec a, f32_vec hi, f32_vec lo)
{
    return vfmaq_f32(vmulq_f32(a, lo), a, hi);
}
static inline f64_vec f64_times_pair(f64_vec a, f64_vec hi, f64_vec lo)
{
    return vfmaq_f64(vmulq_f64(a, lo), a, hi);
}

static inline uint32x4_t f32_bits(f32_vec a)
{
    return vreinterpretq_u32_f32(a);
}
static inline uint64x2_t f64_bits(f64_vec a)
{
    return vreinterpretq_u64_f64(a);
}
static inline f32_vec f32_of_bits(uint32x4_t a)
{
    return vreinterpretq_f32_u32(a);
}
static inline f64_vec f64_of_bits(uint64x2_t a)
{
    return vreinterpretq_f64_u64(a);
}
/* The bytes of an entry are found one by one, by their places in the table. */
static inline f32_vec f32_power(f32_vec a)
{
    static const uint32_t entries[8] = {FS_POWERS_F32(FS_WHOLE)};
    const uint8_t *bytes = (const uint8_t *)entries;
    uint8x16x2_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
    uint32x4_t n = vreinterpretq_u32_f32(a), at = vdupq_n_u32(0x03020100);
    at = vmlaq_n_u32(at, vandq_u32(n, vdupq_n_u32(7)), 0x04040404);
    uint8x16_t entry = vqtbl2q_u8(table, vreinterpretq_u8_u32(at));
    n = vaddq_u32(vreinterpretq_u32_u8(entry), vshlq_n_u32(n, 20));
    return vreinterpretq_f32_u32(n);
}
static inline f64_vec f64_power(f64_vec a)
{
    static const uint64_t entries[8] = {FS_POWERS_F64(FS_WHOLE)};
    static const uint8_t first[16] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8};
    const uint8_t *bytes = (const uint8_t *)entries;
    uint8x16x4_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32),
                           vld1q_u8(bytes + 48)}};
    uint64x2_t n = vreinterpretq_u64_f64(a);
    uint64x2_t at = vshlq_n_u64(vandq_u64(n, vdupq_n_u64(7)), 3);
    at = vreinterpretq_u64_u8(vqtbl1q_u8(vreinterpretq_u8_u64(at), vld1q_u8(first)));
    at = vaddq_u64(at, vdupq_n_u64(0x0706050403020100));
    uint8x16_t entry = vqtbl4q_u8(table, vreinterpretq_u8_u64(at));
    n = vaddq_u64(vreinterpretq_u64_u8(entry), vshlq_n_u64(n, 49));
    return vreinterpretq_f64_u64(n);
}

static inline f32_vec f32_exponent(f32_vec a)
{
    uint32x4_t bits = vshrq_n_u32(vreinterpretq_u32_f32(a), 23);
    return vreinterpretq_f32_u32(
        vorrq_u32(bits, vreinterpretq_u32_f32(f32_set(0x1p23f))));
}
static inline f64_vec f64_exponent(f64_vec a)
{
    uint64x2_t bits = vshrq_n_u64(vreinterpretq_u64_f64(a), 52);
    return vreinterpretq_f64_u64(
        vorrq_u64(bits, vreinterpretq_u64_f64(f64_set(0x1p52))));
}
static inline f32_vec f32_to_exponent(f32_vec a)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a), 23));
}
static inline f64_vec f64_to_exponent(f64_vec a)
{
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a), 52));
}

static inline f32_vec f32_if_equal(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return vbslq_f32(vceqq_f32(a, b), yes, no);
}
static inline f64_vec f64_if_equal(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return vbslq_f64(vceqq_f64(a, b), yes, no);
}
static inline f32_vec f32_if_less(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return vbslq_f32(vcltq_f32(a, b), yes, no);
}
static inline f64_vec f64_if_less(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return vbslq_f64(vcltq_f64(a, b), yes, no);
}
static inline int f32_any_less(f32_vec a, f32_vec b)
{
    return vmaxvq_u32(vcltq_f32(a, b)) != 0;
}
static inline int f64_any_less(f64_vec a, f64_vec b)
{
    return vaddvq_u64(vshrq_n_u64(vcltq_f64(a, b), 63)) != 0;
}

static inline float f32_largest(f32_vec a)
{
    return vmaxvq_f32(a);
}
static inline double f64_largest(f64_vec a)
{
    return vmaxvq_f64(a);
}

typedef struct {
    float64x2_t low, high;
} f32_wide;
typedef float64x2_t f64_wide;
static inline float64x2_t low_half(f32_vec a)
{
    return vcvt_f64_f32(vget_low_f32(a));
}
static inline float64x2_t high_half(f32_vec a)
{
    return vcvt_high_f64_f32(a);
}

static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    float64x2_t low = vaddq_f64(low_half(a), low_half(b));
    float64x2_t high = vaddq_f64(high_half(a), high_half(b));
    return vaddvq_f64(vaddq_f64(low, high));
}

static inline f32_wide f32_wide_load(const double *p)
{
    return (f32_wide){vld1q_f64(p), vld1q_f64(p + 2)};
}
static inline f64_wide f64_wide_load(const double *p)
{
    return vld1q_f64(p);
}
static inline void f32_wide_store(double *p, f32_wide sum)
{
    vst1q_f64(p, sum.low);
    vst1q_f64(p + 2, sum.high);
}
static inline void f64_wide_store(double *p, f64_wide sum)
{
    vst1q_f64(p, sum);
}
static inline f32_wide f32_wide_zero(void)
{
    return (f32_wide){vdupq_n_f64(0), vdupq_n_f64(0)};
}
static inline f64_wide f64_wide_zero(void)
{
    return vdupq_n_f64(0);
}
static inline f32_wide f32_wide_add(f32_wide sum, const float *p)
{
    f32_vec a = vld1q_f32(p);
    sum.low = vaddq_f64(sum.low, low_half(a));
    sum.high = vaddq_f64(sum.high, high_half(a));
    return sum;
}
static inline f64_wide f64_wide_add(f64_wide sum, const double *p)
{
    return vaddq_f64(sum, vld1q_f64(p));
}
static inline f32_wide f32_wide_add_product(f32_wide sum, const float *p,
                                            const float *q)
{
    f32_vec a = vld1q_f32(p), b = vld1q_f32(q);
    sum.low = vfmaq_f64(sum.low, low_half(a), low_half(b));
    sum.high = vfmaq_f64(sum.high, high_half(a), high_half(b));
    return sum;
}
static inline f64_wide f64_wide_add_product(f64_wide sum, const double *p,
                                            const double *q)
{
    return vfmaq_f64(sum, vld1q_f64(p), vld1q_f64(q));
}
static inline double f64_wide_total(f64_wide sum)
{
    return vaddvq_f64(sum);
}
static inline double f32_wide_total(f32_wide sum)
{
    return f64_wide_total(vaddq_f64(sum.low, sum.high));
}

static inline f32_vec f32_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline void f32_store_f16(uint16_t *p, f32_vec a)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
static inline f32_vec f32_load_bf16(const uint16_t *p)
{
    return f32_of_bits(vshll_n_u16(vld1_u16(p), 16));
}
static inline void f32_store_bf16(uint16_t *p, f32_vec a)
{
    uint32x4_t bits = f32_bits(a), high = vshrq_n_u32(bits, 16);
    uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    uint32x4_t bias = vaddq_u32(odd, vdupq_n_u32(0x7fff));
    uint16x4_t rounded = vaddhn_u32(bits, bias);
    uint16x4_t number = vmovn_u32(vceqq_f32(a, a));
    uint16x4_t quiet = vmovn_u32(vorrq_u32(high, vdupq_n_u32(0x40)));
    vst1_u16(p, vbsl_u16(number, rounded, quiet));
}

static inline void f32_transpose(const f32_vec from[4], f32_vec to[4])
{
    f64_vec even01 = vreinterpretq_f64_f32(vtrn1q_f32(from[0], from[1]));
    f64_vec odd01 = vreinterpretq_f64_f32(vtrn2q_f32(from[0], from[1]));
    f64_vec even23 = vreinterpretq_f64_f32(vtrn1q_f32(from[2], from[3]));
    f64_vec odd23 = vreinterpretq_f64_f32(vtrn2q_f32(from[2], from[3]));
    to[0] = vreinterpretq_f32_f64(vtrn1q_f64(even01, even23));
    to[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23));
    to[2] = vreinterpretq_f32_f64(vtrn2q_f64(even01, even23));
    to[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23));
}
static inline void f32_load_quads(const float *p, ptrdiff_t pitch, f32_vec v[4])
{
    for (int i = 0; i < 4; i++) v[i] = vld1q_f32(p + i * pitch);
    f32_transpose(v, v);
}
static inline void f32_store_quads(float *p, ptrdiff_t pitch, const f32_vec v[4])
{
    f32_vec rows[4];
    f32_transpose(v, rows);
    for (int i = 0; i < 4; i++) vst1q_f32(p + i * pitch, rows[i]);
}
static inline void f64_load_quads(const double *p, ptrdiff_t pitch, f64_vec v[4])
{
    for (int i = 0; i < 4; i += 2) {
        f64_vec first = vld1q_f64(p + i), second = vld1q_f64(p + pitch + i);
        v[i] = vtrn1q_f64(first, second);
        v[i + 1] = vtrn2q_f64(first, second);
    }
}
static inline void f64_store_quads(double *p, ptrdiff_t pitch, const f64_vec v[4])
{
    vst1q_f64(p, vtrn1q_f64(v[0], v[1]));
    vst1q_f64(p + 2, vtrn1q_f64(v[2], v[3]));
    vst1q_f64(p + pitch, vtrn2q_f64(v[0], v[1]));
    vst1q_f64(p + pitch + 2, vtrn2q_f64(v[2], v[3]));
}

/* Plain stores: nothing measured says that others would be faster. */
static inline void f32_stream(float *p, f32_vec a)
{
    vst1q_f32(p, a);
}
static inline void f64_stream(double *p, f64_vec a)
{
    vst1q_f64(p, a);
}
static inline void stream_fence(void)
{
}
