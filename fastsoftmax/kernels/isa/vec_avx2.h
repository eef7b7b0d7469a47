/* The vocabulary for AVX2 with FMA and F16C: 8 floats or 4 doubles.
 * vec_scalar.h says what each word means.
 */
#if IS_F32
#define FS_HAS_FMA
#define ISA_TARGET "avx2,fma,f16c"
#include "isa/target.h"

#define MM(name) JOIN(JOIN(_mm256, name), JOIN(PS, T))
#define EPI(name) JOIN(JOIN(_mm256, name), JOIN(EPI, T))
#define AS_BITS JOIN(PASTE(_mm256_cast, JOIN(PS, T)), si256)
#define FROM_BITS MM(castsi256)
#define PARTS 2
#define PART(a, k) MM(extractf128)(a, k)
#define TOTAL_f64 total_of_4

enum { f32_lanes = 8, f64_lanes = 4 };
typedef __m256 f32_vec;
typedef __m256d f64_vec;
typedef __m256i int_vec;
#endif

/* All bits of the first lanes. */
static inline int_vec V(first)(ptrdiff_t count)
{
    static const int64_t ones[8] = {-1, -1, -1, -1};
    const char *end = (const char *)(ones + 4);
    return _mm256_loadu_si256((const void *)(end - count * (ptrdiff_t)sizeof(REAL)));
}
static inline VEC V(load_part)(const REAL *p, ptrdiff_t count, VEC others)
{
    int_vec mask = V(first)(count);
    return MM(blendv)(others, MM(maskload)(p, mask), FROM_BITS(mask));
}
/* In pieces: a masked store takes some 20 times as long as a store on AMD. */
static inline void V(store_part)(REAL *p, ptrdiff_t count, VEC a)
{
    V(part) here = PART(a, 0);
    if (count >= LANES) {
        MM(storeu)(p, a);
        return;
    }
    if (count & (LANES / 2)) {
        MM128(storeu)(p, here);
        here = PART(a, 1);
        p += LANES / 2;
    }
#if IS_F32
    if (count & 2) {
        _mm_storel_pi((__m64 *)p, here);
        here = _mm_movehl_ps(here, here);
        p += 2;
    }
    if (count & 1)
        _mm_store_ss(p, here);
#else
    if (count & 1)
        _mm_store_sd(p, here);
#endif
}

#if IS_F32
static inline f32_vec f32_power(f32_vec a)
{
    static const uint32_t entries[8] = {FS_POWERS_F32(FS_WHOLE)};
    int_vec n = AS_BITS(a), all = _mm256_loadu_si256((const void *)entries);
    int_vec entry = _mm256_permutevar8x32_epi32(all, n);
    return FROM_BITS(EPI(add)(entry, EPI(slli)(n, 20)));
}
#else
/* The words of an entry apart, each found by the low word of n: 0.86 of the time that a
 * gather takes (Zen 4). */
static inline f64_vec f64_power(f64_vec a)
{
    static const uint32_t lows[8] = {FS_POWERS_F64(FS_LOW_WORD)};
    static const uint32_t highs[8] = {FS_POWERS_F64(FS_HIGH_WORD)};
    int_vec n = AS_BITS(a), twice = _mm256_shuffle_epi32(n, 0xa0);
    int_vec low = _mm256_loadu_si256((const void *)lows);
    int_vec high = _mm256_loadu_si256((const void *)highs);
    low = _mm256_permutevar8x32_epi32(low, n); /* of whose lanes the even ones count */
    high = _mm256_permutevar8x32_epi32(high, twice);
    int_vec entry = _mm256_blend_epi32(low, high, 0xaa);
    return FROM_BITS(EPI(add)(entry, EPI(slli)(n, 49)));
}
#endif

static inline VEC V(if_equal)(VEC a, VEC b, VEC yes, VEC no)
{
    return MM(blendv)(no, yes, MM(cmp)(a, b, _CMP_EQ_OQ));
}
static inline VEC V(if_less)(VEC a, VEC b, VEC yes, VEC no)
{
    return MM(blendv)(no, yes, MM(cmp)(a, b, _CMP_LT_OQ));
}
static inline int V(any_less)(VEC a, VEC b)
{
    return MM(movemask)(MM(cmp)(a, b, _CMP_LT_OQ)) != 0;
}

static inline REAL V(largest)(VEC a)
{
    V(part) half = MM128(max)(PART(a, 0), PART(a, 1));
#if IS_F32
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
#else
    return _mm_cvtsd_f64(_mm_max_sd(half, _mm_unpackhi_pd(half, half)));
#endif
}

#if IS_F32
static inline f32_vec f32_parts(const float *p, ptrdiff_t pitch)
{
    return _mm256_set_m128(_mm_loadu_ps(p + pitch), _mm_loadu_ps(p));
}

static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    __m256d low = _mm256_cvtps_pd(PART(a, 0)), high = _mm256_cvtps_pd(PART(a, 1));
    low = _mm256_add_pd(low, _mm256_cvtps_pd(PART(b, 0)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(PART(b, 1)));
    return total_of_4(_mm256_add_pd(low, high));
}

static inline f32_vec f32_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline void f32_store_f16(uint16_t *p, f32_vec a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline int_vec words_at(const uint16_t *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
}
static inline void put_words(uint16_t *p, int_vec a)
{
    __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(low, high));
}
#else
static inline f64_vec f64_parts(const double *p, ptrdiff_t pitch)
{
    return _mm256_set_m128d(_mm_loadu_pd(p + pitch), _mm_loadu_pd(p));
}
#endif
#include "isa/vec_x86.h"
