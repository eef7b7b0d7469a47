/* In place of the compiler's: AVX-512 by way of SIMDe, for processors without it. Its
 * 0.7.4 lacks the functions below, which are as Intel's guide has them.
 */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <string.h>

/* Lane i of a vector of T, in memory that may be read and written. */
#define EACH_LANE(COUNT) for (int i = 0; i < (COUNT); i++)
#define LANES_OF(NAME, T, COUNT, VECTOR)                                               \
    T NAME[COUNT];                                                                     \
    memcpy(NAME, &(VECTOR), sizeof NAME)

#define MASKED(SUFFIX, T, VEC, MASK, COUNT)                                            \
    static inline VEC emulated_loadu_##SUFFIX(VEC rest, MASK mask, const T *from)      \
    {                                                                                  \
        LANES_OF(a, T, COUNT, rest);                                                   \
        EACH_LANE(COUNT)                                                               \
        if (mask >> i & 1)                                                             \
            a[i] = from[i];                                                            \
        memcpy(&rest, a, sizeof rest);                                                 \
        return rest;                                                                   \
    }                                                                                  \
    static inline void emulated_storeu_##SUFFIX(T *to, MASK mask, VEC from)            \
    {                                                                                  \
        LANES_OF(a, T, COUNT, from);                                                   \
        EACH_LANE(COUNT)                                                               \
        if (mask >> i & 1)                                                             \
            to[i] = a[i];                                                              \
    }                                                                                  \
    static inline T emulated_max_##SUFFIX(VEC from)                                    \
    {                                                                                  \
        LANES_OF(a, T, COUNT, from);                                                   \
        EACH_LANE(COUNT)                                                               \
        a[0] = a[i] > a[0] ? a[i] : a[0];                                              \
        return a[0];                                                                   \
    }
MASKED(ps, float, __m512, __mmask16, 16)
MASKED(pd, double, __m512d, __mmask8, 8)

/* Halves, quarters, eighths, in this order. */
static inline double emulated_sum(__m512d from)
{
    LANES_OF(a, double, 8, from);
    for (int half = 4; half > 0; half /= 2) EACH_LANE(half)
    a[i] += a[i + half];
    return a[0];
}

static inline __m512d emulated_cvtps_pd(__m256 from)
{
    LANES_OF(a, float, 8, from);
    double wide[8];
    EACH_LANE(8)
    wide[i] = a[i];
    __m512d to;
    memcpy(&to, wide, sizeof to);
    return to;
}

static inline __m256 emulated_extractf32x8(__m512 from, int which)
{
    LANES_OF(a, float, 16, from);
    __m256 to;
    memcpy(&to, a + 8 * which, sizeof to);
    return to;
}

static inline __m512i emulated_cvtepu16_epi32(__m256i from)
{
    LANES_OF(a, uint16_t, 16, from);
    uint32_t wide[16];
    EACH_LANE(16)
    wide[i] = a[i];
    __m512i to;
    memcpy(&to, wide, sizeof to);
    return to;
}

static inline __m256i emulated_cvtepi32_epi16(__m512i from)
{
    LANES_OF(a, uint32_t, 16, from);
    uint16_t narrow[16];
    EACH_LANE(16)
    narrow[i] = (uint16_t)a[i];
    __m256i to;
    memcpy(&to, narrow, sizeof to);
    return to;
}

static inline __m512 emulated_cvtph_ps(__m256i from)
{
    LANES_OF(a, __m128i, 2, from);
    __m256 halves[2] = {_mm256_cvtph_ps(a[0]), _mm256_cvtph_ps(a[1])};
    __m512 to;
    memcpy(&to, halves, sizeof to);
    return to;
}

static inline __m256i emulated_cvtps_ph(__m512 from)
{
    LANES_OF(a, __m256, 2, from);
    __m128i halves[2] = {_mm256_cvtps_ph(a[0], _MM_FROUND_TO_NEAREST_INT),
                         _mm256_cvtps_ph(a[1], _MM_FROUND_TO_NEAREST_INT)};
    __m256i to;
    memcpy(&to, halves, sizeof to);
    return to;
}

/* A store past the caches must be aligned. */
#define STREAM(SUFFIX, T, VEC)                                                         \
    static inline void emulated_stream_##SUFFIX(T *to, VEC from)                       \
    {                                                                                  \
        if ((uintptr_t)to % sizeof from)                                               \
            __builtin_trap();                                                          \
        memcpy(to, &from, sizeof from);                                                \
    }
STREAM(ps, float, __m512)
STREAM(pd, double, __m512d)

#define _mm512_mask_loadu_ps(rest, mask, from) emulated_loadu_ps(rest, mask, from)
#define _mm512_mask_loadu_pd(rest, mask, from) emulated_loadu_pd(rest, mask, from)
#define _mm512_mask_storeu_ps(to, mask, from) emulated_storeu_ps(to, mask, from)
#define _mm512_mask_storeu_pd(to, mask, from) emulated_storeu_pd(to, mask, from)
#define _mm512_reduce_max_ps(from) emulated_max_ps(from)
#define _mm512_reduce_max_pd(from) emulated_max_pd(from)
#define _mm512_reduce_add_pd(from) emulated_sum(from)
#define _mm512_cvtps_pd(from) emulated_cvtps_pd(from)
#define _mm512_extractf32x8_ps(from, which) emulated_extractf32x8(from, which)
#define _mm512_cvtepu16_epi32(from) emulated_cvtepu16_epi32(from)
#define _mm512_cvtepi32_epi16(from) emulated_cvtepi32_epi16(from)
#define _mm512_cvtph_ps(from) emulated_cvtph_ps(from)
#define _mm512_cvtps_ph(from, rounding) emulated_cvtps_ph(from)
#define _mm512_stream_ps(to, from) emulated_stream_ps(to, from)
#define _mm512_stream_pd(to, from) emulated_stream_pd(to, from)

#endif
