/* The vocabulary for AVX2 with FMA and F16C: 8 floats or 4 doubles.
 * vec_scalar.h says what each word means.
 */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "math/coefficients.h"
#include "math/halves.h"

#define FS_HAS_FMA
#define ISA_TARGET "avx2,fma,f16c"
#include "isa/target.h"

enum { f32_lanes = 8, f64_lanes = 4 };
typedef __m256 f32_vec;
typedef __m256d f64_vec;

static inline __m256i f32_first(ptrdiff_t count)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
}
static inline __m256i f64_first(ptrdiff_t count)
{
    __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane);
}

#define M(name) _mm256_##name
#define TO_BITS(t) _mm256_cast##t##_si256
#define OF_BITS(t) _mm256_castsi256_##t
#include "isa/vec_x86.h"
#undef M
#undef TO_BITS
#undef OF_BITS

static inline f32_vec f32_load_part(const float *p, ptrdiff_t count, f32_vec rest)
{
    __m256i mask = f32_first(count);
    return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, mask),
                            _mm256_castsi256_ps(mask));
}
static inline f64_vec f64_load_part(const double *p, ptrdiff_t count, f64_vec rest)
{
    __m256i mask = f64_first(count);
    return _mm256_blendv_pd(rest, _mm256_maskload_pd(p, mask),
                            _mm256_castsi256_pd(mask));
}
/* In pieces: a masked store takes some 20 times as long as a store on AMD. */
static inline void f32_store_part(float *p, ptrdiff_t count, f32_vec a)
{
    __m128 here = _mm256_castps256_ps128(a);
    if (count >= 8) {
        _mm256_storeu_ps(p, a);
        return;
    }
    if (count & 4) {
        _mm_storeu_ps(p, here);
        here = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (count & 2) {
        _mm_storel_pi((__m64 *)p, here);
        here = _mm_movehl_ps(here, here);
        p += 2;
    }
    if (count & 1)
        _mm_store_ss(p, here);
}
static inline void f64_store_part(double *p, ptrdiff_t count, f64_vec a)
{
    __m128d here = _mm256_castpd256_pd128(a);
    if (count >= 4) {
        _mm256_storeu_pd(p, a);
        return;
    }
    if (count & 2) {
        _mm_storeu_pd(p, here);
        here = _mm256_extractf128_pd(a, 1);
        p += 2;
    }
    if (count & 1)
        _mm_store_sd(p, here);
}

static inline f32_vec f32_power(f32_vec a)
{
    static const uint32_t entries[8] = {FS_POWERS_F32(FS_WHOLE)};
    __m256i n = _mm256_castps_si256(a), all = _mm256_loadu_si256((const void *)entries);
    __m256i entry = _mm256_permutevar8x32_epi32(all, n);
    return _mm256_castsi256_ps(_mm256_add_epi32(entry, _mm256_slli_epi32(n, 20)));
}
/* The words of an entry apart, each found by the low word of n: 0.86 of the time that a
 * gather takes (Zen 4). */
static inline f64_vec f64_power(f64_vec a)
{
    static const uint32_t lows[8] = {FS_POWERS_F64(FS_LOW_WORD)};
    static const uint32_t highs[8] = {FS_POWERS_F64(FS_HIGH_WORD)};
    __m256i n = _mm256_castpd_si256(a), twice = _mm256_shuffle_epi32(n, 0xa0);
    __m256i low = _mm256_loadu_si256((const void *)lows);
    __m256i high = _mm256_loadu_si256((const void *)highs);
    low = _mm256_permutevar8x32_epi32(low, n); /* of whose lanes the even ones count */
    high = _mm256_permutevar8x32_epi32(high, twice);
    __m256i entry = _mm256_blend_epi32(low, high, 0xaa);
    return _mm256_castsi256_pd(_mm256_add_epi64(entry, _mm256_slli_epi64(n, 49)));
}

static inline f32_vec f32_if_equal(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
static inline f64_vec f64_if_equal(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_EQ_OQ));
}
static inline f32_vec f32_if_less(f32_vec a, f32_vec b, f32_vec yes, f32_vec no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline f64_vec f64_if_less(f64_vec a, f64_vec b, f64_vec yes, f64_vec no)
{
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
static inline int f32_any_less(f32_vec a, f32_vec b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) != 0;
}
static inline int f64_any_less(f64_vec a, f64_vec b)
{
    return _mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_LT_OQ)) != 0;
}

static inline float f32_largest(f32_vec a)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
static inline double f64_largest(f64_vec a)
{
    __m128d half = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(half, _mm_unpackhi_pd(half, half)));
}

static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    __m128 a_high = _mm256_extractf128_ps(a, 1), b_high = _mm256_extractf128_ps(b, 1);
    __m256d low = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                                _mm256_cvtps_pd(_mm256_castps256_ps128(b)));
    __m256d high = _mm256_add_pd(_mm256_cvtps_pd(a_high), _mm256_cvtps_pd(b_high));
    __m256d all = _mm256_add_pd(low, high);
    __m128d two =
        _mm_add_pd(_mm256_castpd256_pd128(all), _mm256_extractf128_pd(all, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

typedef struct {
    __m256d low, high;
} f32_wide;
/* Halves of a vector, converted on their way from memory. */
static inline __m256d f32_half(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}
static inline f32_wide f32_wide_load(const double *p)
{
    return (f32_wide){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
}
static inline void f32_wide_store(double *p, f32_wide sum)
{
    _mm256_storeu_pd(p, sum.low);
    _mm256_storeu_pd(p + 4, sum.high);
}
static inline f32_wide f32_wide_zero(void)
{
    return (f32_wide){_mm256_setzero_pd(), _mm256_setzero_pd()};
}
static inline f32_wide f32_wide_add(f32_wide sum, const float *a)
{
    sum.low = _mm256_add_pd(sum.low, f32_half(a));
    sum.high = _mm256_add_pd(sum.high, f32_half(a + 4));
    return sum;
}
static inline f32_wide f32_wide_add_product(f32_wide sum, const float *a,
                                            const float *b)
{
    sum.low = _mm256_fmadd_pd(f32_half(a), f32_half(b), sum.low);
    sum.high = _mm256_fmadd_pd(f32_half(a + 4), f32_half(b + 4), sum.high);
    return sum;
}
static inline double f64_wide_total(f64_wide sum)
{
    __m128d half =
        _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
static inline double f32_wide_total(f32_wide sum)
{
    return f64_wide_total(_mm256_add_pd(sum.low, sum.high));
}

static inline f32_vec f32_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void f32_store_f16(uint16_t *p, f32_vec a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline f32_vec f32_load_bf16(const uint16_t *p)
{
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
static inline void f32_store_bf16(uint16_t *p, f32_vec a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    rounded = _mm256_blendv_epi8(rounded, quiet, nan);
    __m128i low = _mm256_castsi256_si128(rounded);
    __m128i top = _mm256_extracti128_si256(rounded, 1);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(low, top));
}

/* The 4 x 4 matrix in each half of four vectors, transposed. */
static inline void transpose_halves(const f32_vec from[4], f32_vec to[4])
{
    f64_vec low01 = _mm256_castps_pd(_mm256_unpacklo_ps(from[0], from[1]));
    f64_vec low23 = _mm256_castps_pd(_mm256_unpacklo_ps(from[2], from[3]));
    f64_vec high01 = _mm256_castps_pd(_mm256_unpackhi_ps(from[0], from[1]));
    f64_vec high23 = _mm256_castps_pd(_mm256_unpackhi_ps(from[2], from[3]));
    to[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    to[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    to[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    to[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
}
/* Halves are loaded and stored: what lanes have to cross, memory does. */
static inline f32_vec f32_halves(const float *low, const float *high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)),
                                _mm_loadu_ps(high), 1);
}
static inline f64_vec f64_halves(const double *low, const double *high)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(low)),
                                _mm_loadu_pd(high), 1);
}
static inline void f32_load_quads(const float *p, ptrdiff_t pitch, f32_vec v[4])
{
    for (int i = 0; i < 4; i++) v[i] = f32_halves(p + i * pitch, p + (i + 4) * pitch);
    transpose_halves(v, v);
}
static inline void f32_store_quads(float *p, ptrdiff_t pitch, const f32_vec v[4])
{
    f32_vec rows[4];
    transpose_halves(v, rows);
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + i * pitch, _mm256_castps256_ps128(rows[i]));
    for (int i = 0; i < 4; i++)
        _mm_storeu_ps(p + (i + 4) * pitch, _mm256_extractf128_ps(rows[i], 1));
}
static inline void f64_load_quads(const double *p, ptrdiff_t pitch, f64_vec v[4])
{
    for (int i = 0; i < 4; i += 2) {
        f64_vec even = f64_halves(p + i, p + 2 * pitch + i);
        f64_vec odd = f64_halves(p + pitch + i, p + 3 * pitch + i);
        v[i] = _mm256_unpacklo_pd(even, odd);
        v[i + 1] = _mm256_unpackhi_pd(even, odd);
    }
}
static inline void f64_store_quads(double *p, ptrdiff_t pitch, const f64_vec v[4])
{
    f64_vec even[2], odd[2];
    for (int i = 0; i < 2; i++) {
        even[i] = _mm256_unpacklo_pd(v[2 * i], v[2 * i + 1]);
        odd[i] = _mm256_unpackhi_pd(v[2 * i], v[2 * i + 1]);
    }
    _mm256_storeu_pd(p, _mm256_permute2f128_pd(even[0], even[1], 0x20));
    _mm256_storeu_pd(p + pitch, _mm256_permute2f128_pd(odd[0], odd[1], 0x20));
    _mm256_storeu_pd(p + 2 * pitch, _mm256_permute2f128_pd(even[0], even[1], 0x31));
    _mm256_storeu_pd(p + 3 * pitch, _mm256_permute2f128_pd(odd[0], odd[1], 0x31));
}
