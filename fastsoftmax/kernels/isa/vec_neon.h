/* The vocabulary for NEON (aarch64, little-endian): 4 floats or 2 doubles. GCC and
 * Clang know +, & and << of vectors, casts keep their bits. vec_scalar.h says what each
 * word means.
 */
#if IS_F32
#include <arm_neon.h>

#define FS_HAS_FMA
#define FS_HAS_32_REGISTERS

/* Q(bsl) is vbslq_f32, QN(dup) vdupq_n_f32. */
#define Q(name) JOIN(PASTE(PASTE(v, name), q), T)
#define QN(name) JOIN(PASTE(PASTE(v, name), q_n), T)

enum { f32_lanes = 4, f64_lanes = 2 };
typedef float32x4_t f32_vec;
typedef float64x2_t f64_vec;
typedef uint32x4_t f32_bits;
typedef uint64x2_t f64_bits;
#endif

static inline VEC V(set)(REAL a)
{
    return QN(dup)(a);
}
static inline VEC V(load)(const REAL *p)
{
    return Q(ld1)(p);
}
static inline void V(store)(REAL *p, VEC a)
{
    Q(st1)(p, a);
}

#if IS_F32
static inline f32_vec f32_load_part(const float *p, ptrdiff_t count, f32_vec others)
{
    if (count == 4)
        return vld1q_f32(p);
    if (count == 1)
        return vld1q_lane_f32(p, others, 0);
    f32_vec two = vcombine_f32(vld1_f32(p), vget_high_f32(others));
    return count == 2 ? two : vld1q_lane_f32(p + 2, two, 2);
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
#else
static inline f64_vec f64_load_part(const double *p, ptrdiff_t count, f64_vec others)
{
    return count == 2 ? vld1q_f64(p) : vld1q_lane_f64(p, others, 0);
}
static inline void f64_store_part(double *p, ptrdiff_t count, f64_vec a)
{
    if (count == 2)
        vst1q_f64(p, a);
    else
        vst1q_lane_f64(p, a, 0);
}
#endif

static inline VEC V(add)(VEC a, VEC b)
{
    return a + b;
}
static inline VEC V(sub)(VEC a, VEC b)
{
    return a - b;
}
static inline VEC V(mul)(VEC a, VEC b)
{
    return a * b;
}
static inline VEC V(div)(VEC a, VEC b)
{
    return a / b;
}

static inline VEC V(if_equal)(VEC a, VEC b, VEC yes, VEC no)
{
    return Q(bsl)(Q(ceq)(a, b), yes, no);
}
static inline VEC V(if_less)(VEC a, VEC b, VEC yes, VEC no)
{
    return Q(bsl)(Q(clt)(a, b), yes, no);
}
static inline int V(any_less)(VEC a, VEC b)
{
    return vmaxvq_u32((uint32x4_t)Q(clt)(a, b)) != 0;
}

/* Not vmaxq, which is NaN where either is. */
static inline VEC V(max)(VEC a, VEC b)
{
    return V(if_less)(b, a, a, b);
}
static inline VEC V(min)(VEC a, VEC b)
{
    return V(if_less)(a, b, a, b);
}
static inline REAL V(largest)(VEC a)
{
    return Q(maxv)(a);
}

static inline VEC V(muladd)(VEC a, VEC b, VEC c)
{
    return Q(fma)(c, a, b);
}

/* The bytes of an entry are found one by one, by their places in the table. */
static inline VEC V(power)(VEC a)
{
    static const BITS entries[8] = {POWERS(FS_WHOLE)};
    const uint8_t *bytes = (const uint8_t *)entries;
    V(bits) n = (V(bits))a, at = n & 7;
#if IS_F32
    uint8x16x2_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
    at = at * 0x04040404 + 0x03020100;
    V(bits) entry = (V(bits))vqtbl2q_u8(table, (uint8x16_t)at);
#else
    static const uint8_t first[16] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8};
    uint8x16x4_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32),
                           vld1q_u8(bytes + 48)}};
    at = (V(bits))vqtbl1q_u8((uint8x16_t)(at << 3), vld1q_u8(first));
    at += 0x0706050403020100;
    V(bits) entry = (V(bits))vqtbl4q_u8(table, (uint8x16_t)at);
#endif
    return (VEC)(entry + (n << (FRACTION - 3)));
}

static inline VEC V(exponent)(VEC a)
{
    V(bits) one = (V(bits))V(set)((REAL)((BITS)1 << FRACTION));
    return (VEC)(((V(bits))a >> FRACTION) | one);
}
static inline VEC V(to_exponent)(VEC a)
{
    return (VEC)((V(bits))a << FRACTION);
}

typedef struct {
    f64_vec part[LANES / 2];
} V(wide);
#define EACH_PART for (int i = 0; i < LANES / 2; i++)
static inline f64_vec V(widened)(const REAL *p)
{
#if IS_F32
    return vcvt_f64_f32(vld1_f32(p));
#else
    return vld1q_f64(p);
#endif
}
static inline V(wide) V(wide_load)(const double *p)
{
    V(wide) sum;
    EACH_PART sum.part[i] = vld1q_f64(p + 2 * i);
    return sum;
}
static inline void V(wide_store)(double *p, V(wide) sum)
{
    EACH_PART vst1q_f64(p + 2 * i, sum.part[i]);
}
static inline V(wide) V(wide_add)(V(wide) sum, const REAL *a)
{
    EACH_PART sum.part[i] += V(widened)(a + 2 * i);
    return sum;
}
static inline V(wide) V(wide_add_product)(V(wide) sum, const REAL *a, const REAL *b)
{
    EACH_PART sum.part[i] =
        vfmaq_f64(sum.part[i], V(widened)(a + 2 * i), V(widened)(b + 2 * i));
    return sum;
}
static inline double V(wide_total)(V(wide) sum)
{
    return vaddvq_f64(IS_F32 ? sum.part[0] + sum.part[LANES / 2 - 1] : sum.part[0]);
}
#undef EACH_PART

FS_INLINE void V(transpose)(const VEC from[4], VEC to[4])
{
    VEC even01 = Q(trn1)(from[0], from[1]), odd01 = Q(trn2)(from[0], from[1]);
    VEC even23 = Q(trn1)(from[2], from[3]), odd23 = Q(trn2)(from[2], from[3]);
#if IS_F32
    to[0] = (VEC)vtrn1q_f64((float64x2_t)even01, (float64x2_t)even23);
    to[1] = (VEC)vtrn1q_f64((float64x2_t)odd01, (float64x2_t)odd23);
    to[2] = (VEC)vtrn2q_f64((float64x2_t)even01, (float64x2_t)even23);
    to[3] = (VEC)vtrn2q_f64((float64x2_t)odd01, (float64x2_t)odd23);
#else
    to[0] = even01;
    to[1] = odd01;
    to[2] = even23;
    to[3] = odd23;
#endif
}
FS_INLINE void V(load_quads)(const REAL *p, ptrdiff_t pitch, VEC v[4])
{
    for (int i = 0; i < 4; i++)
        v[i] = V(load)(p + i % LANES * pitch + i / LANES * LANES);
    V(transpose)(v, v);
}
FS_INLINE void V(store_quads)(REAL *p, ptrdiff_t pitch, const VEC v[4])
{
    VEC rows[4];
    V(transpose)(v, rows);
    for (int row = 0; row < LANES; row++)
        for (int i = row; i < 4; i += LANES)
            V(store)(p + row * pitch + i / LANES * LANES, rows[i]);
}

/* A plain store: nothing measured says that others would be faster. */
static inline void V(stream)(REAL *p, VEC a)
{
    V(store)(p, a);
}

#if IS_F32
static inline void stream_fence(void)
{
}

static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    f64_vec low = vcvt_f64_f32(vget_low_f32(a)) + vcvt_f64_f32(vget_low_f32(b));
    return vaddvq_f64(low + (vcvt_high_f64_f32(a) + vcvt_high_f64_f32(b)));
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
    return (f32_vec)vshll_n_u16(vld1_u16(p), 16);
}
static inline void f32_store_bf16(uint16_t *p, f32_vec a)
{
    f32_bits bits = (f32_bits)a, high = bits >> 16;
    uint16x4_t rounded = vaddhn_u32(bits, (high & 1) + 0x7fff);
    uint16x4_t number = vmovn_u32(vceqq_f32(a, a)), quiet = vmovn_u32(high | 0x40);
    vst1_u16(p, vbsl_u16(number, rounded, quiet));
}
#endif
