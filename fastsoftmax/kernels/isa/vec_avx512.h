/* The vocabulary for AVX-512 (F, BW, VL, DQ): 16 floats or 8 doubles.
 * vec_scalar.h says what each word means.
 */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "math/coefficients.h"
#include "math/halves.h"

#define FS_HAS_FMA
#define FS_HAS_32_REGISTERS
#define NARROWER_ISA avx2
#define ISA_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#include "isa/target.h"

enum { f32_lanes = 16, f64_lanes = 8 };
typedef __m512 f32_vec;
typedef __m512d f64_vec;

static inline __mmask16 f32_first(ptrdiff_t count)
{
    return (__mmask16)((1u << count) - 1);
}
static inline __mmask8 f64_first(ptrdiff_t count)
{
    return (__mmask8)((1u << count) - 1);
}

#define M(name) _mm512_##name
#define TO_BITS(t) _mm512_cast##t##_si512
#define OF_BITS(t) _mm512_castsi512_##t
#include "isa/vec_x86.h"
#undef M
#undef TO_BITS
#undef OF_BITS

static inline f32_vec f32_load_part(const float *p, ptrdiff_t count, f32_vec rest)
{
    return _mm512_mask_loadu_ps(rest, f32_first(count), p);
}
static inline f64_vec f64_load_part(const double *p, ptrdiff_t count, f64_vec rest)
{
    return _mm512_mask_loadu_pd(rest, f64_first(count), p);
}
static inline void f32_store_part(float *p, ptrdiff_t count, f32_vec a)
{
    _mm512_mask_storeu_ps(p, f32_first(count), a);
}
static inline void f64_store_part(double *p, ptrdiff_t count, f64_vec a)
{
    _mm512_mask_storeu_pd(p, f64_first(count), a);
}

static inline f32_vec f32_power(f32_vec a)
{
    static const uint32_t entries[16] = {FS_POWERS_F32(FS_WHOLE)
                                             FS_POWERS_F32(FS_WHOLE)};
    __m512i n = _mm512_castps_si512(a);
    __m512i entry = _mm512_permutexvar_epi32(n, _mm512_loadu_si512(entries));
    return _mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32(n, 20)));
}
static inline f64_vec f64_power(f64_vec a)
{
    static const uint64_t entries[8] = {FS_POWERS_F64(FS_WHOLE)};
    __m512i n = _mm512_castpd_si512(a);
    __m512i entry = _mm512_permutexvar_epi64(n, _mm512_loadu_si512(entries));
    return _mm512_castsi512_pd(_mm512_add_epi64(entry, _mm512_slli_epi64(n, 49)));
}

static inline f32_vec f32_if_equal(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), no, yes);
}
static inline f64_vec f64_if_equal(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ), no, yes);
}
static inline f32_vec f32_if_less(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
static inline f64_vec f64_if_less(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
}
static inline int f32_any_less(f32_vec a, f32_vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0;
}
static inline int f64_any_less(f64_vec a, f64_vec b)
{
    return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ) != 0;
}

static inline float f32_largest(f32_vec a)
{
    return _mm512_reduce_max_ps(a);
}
static inline double f64_largest(f64_vec a)
{
    return _mm512_reduce_max_pd(a);
}

static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    __m256 a_high = _mm512_extractf32x8_ps(a, 1), b_high = _mm512_extractf32x8_ps(b, 1);
    __m512d low = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                                _mm512_cvtps_pd(_mm512_castps512_ps256(b)));
    __m512d high = _mm512_add_pd(_mm512_cvtps_pd(a_high), _mm512_cvtps_pd(b_high));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

/* Quarters of a vector, converted on their way from memory: 16 products take half as
 * long as from registers (Zen 4). */
typedef struct {
    __m256d part[4];
} f32_wide;
static inline __m256d f32_quarter(const float *p, int part)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p + 4 * part));
}
static inline f32_wide f32_wide_load(const double *p)
{
    return (f32_wide){{_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4),
                       _mm256_loadu_pd(p + 8), _mm256_loadu_pd(p + 12)}};
}
static inline void f32_wide_store(double *p, f32_wide sum)
{
    for (int i = 0; i < 4; i++) _mm256_storeu_pd(p + 4 * i, sum.part[i]);
}
static inline f32_wide f32_wide_zero(void)
{
    __m256d zero = _mm256_setzero_pd();
    return (f32_wide){{zero, zero, zero, zero}};
}
static inline f32_wide f32_wide_add(f32_wide sum, const float *a)
{
    for (int i = 0; i < 4; i++)
        sum.part[i] = _mm256_add_pd(sum.part[i], f32_quarter(a, i));
    return sum;
}
static inline f32_wide f32_wide_add_product(f32_wide sum, const float *a,
                                            const float *b)
{
    for (int i = 0; i < 4; i++)
        sum.part[i] =
            _mm256_fmadd_pd(f32_quarter(a, i), f32_quarter(b, i), sum.part[i]);
    return sum;
}
static inline double f64_wide_total(f64_wide sum)
{
    return _mm512_reduce_add_pd(sum);
}
static inline double f32_wide_total(f32_wide sum)
{
    __m256d all = _mm256_add_pd(_mm256_add_pd(sum.part[0], sum.part[1]),
                                _mm256_add_pd(sum.part[2], sum.part[3]));
    __m128d half =
        _mm_add_pd(_mm256_castpd256_pd128(all), _mm256_extractf128_pd(all, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

static inline f32_vec f32_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void f32_store_f16(uint16_t *p, f32_vec a)
{
    __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)p, h);
}
static inline f32_vec f32_load_bf16(const uint16_t *p)
{
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
static inline void f32_store_bf16(uint16_t *p, f32_vec a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(rounded));
}

/* A vector is four quarters of 128 bits, loaded and stored one by one: what lanes have
 * to cross, memory does. */
static inline f32_vec f32_quarters(const float *p, ptrdiff_t pitch)
{
    f32_vec a = _mm512_castps128_ps512(_mm_loadu_ps(p));
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + pitch), 1);
    a = _mm512_insertf32x4(a, _mm_loadu_ps(p + 2 * pitch), 2);
    return _mm512_insertf32x4(a, _mm_loadu_ps(p + 3 * pitch), 3);
}
static inline f64_vec f64_quarters(const double *p, ptrdiff_t pitch)
{
    f64_vec a = _mm512_castpd128_pd512(_mm_loadu_pd(p));
    a = _mm512_insertf64x2(a, _mm_loadu_pd(p + pitch), 1);
    a = _mm512_insertf64x2(a, _mm_loadu_pd(p + 2 * pitch), 2);
    return _mm512_insertf64x2(a, _mm_loadu_pd(p + 3 * pitch), 3);
}
/* The 4 x 4 matrix in each quarter of four vectors, transposed. */
static inline void transpose_quarters(const f32_vec from[4], f32_vec to[4])
{
    f64_vec low01 = _mm512_castps_pd(_mm512_unpacklo_ps(from[0], from[1]));
    f64_vec low23 = _mm512_castps_pd(_mm512_unpacklo_ps(from[2], from[3]));
    f64_vec high01 = _mm512_castps_pd(_mm512_unpackhi_ps(from[0], from[1]));
    f64_vec high23 = _mm512_castps_pd(_mm512_unpackhi_ps(from[2], from[3]));
    to[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    to[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    to[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    to[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
}
static inline void f32_load_quads(const float *p, ptrdiff_t pitch, f32_vec v[4])
{
    for (int i = 0; i < 4; i++) v[i] = f32_quarters(p + i * pitch, 4 * pitch);
    transpose_quarters(v, v);
}
static inline void f32_store_quads(float *p, ptrdiff_t pitch, const f32_vec v[4])
{
    f32_vec rows[4];
    transpose_quarters(v, rows);
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + i * pitch, _mm512_castps512_ps128(rows[i]));
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + (4 + i) * pitch, _mm512_extractf32x4_ps(rows[i], 1));
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + (8 + i) * pitch, _mm512_extractf32x4_ps(rows[i], 2));
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + (12 + i) * pitch, _mm512_extractf32x4_ps(rows[i], 3));
}
static inline void f64_load_quads(const double *p, ptrdiff_t pitch, f64_vec v[4])
{
    for (int i = 0; i < 4; i += 2) {
        f64_vec even = f64_quarters(p + i, 2 * pitch);
        f64_vec odd = f64_quarters(p + pitch + i, 2 * pitch);
        v[i] = _mm512_unpacklo_pd(even, odd);
        v[i + 1] = _mm512_unpackhi_pd(even, odd);
    }
}
static inline void f64_store_quads(double *p, ptrdiff_t pitch, const f64_vec v[4])
{
    double even[2][8], odd[2][8];
    for (int i = 0; i < 2; i++) {
        _mm512_storeu_pd(even[i], _mm512_unpacklo_pd(v[2 * i], v[2 * i + 1]));
        _mm512_storeu_pd(odd[i], _mm512_unpackhi_pd(v[2 * i], v[2 * i + 1]));
    }
    for (int j = 0; j < 8; j += 2) {
        for (int i = 0; i < 2; i++)
            _mm_storeu_pd(p + j * pitch + 2 * i, _mm_loadu_pd(even[i] + j));
        for (int i = 0; i < 2; i++)
            _mm_storeu_pd(p + (j + 1) * pitch + 2 * i, _mm_loadu_pd(odd[i] + j));
    }
}
