/* The vocabulary for AVX-512 (F, BW, VL, DQ): 16 floats or 8 doubles.
 * vec_scalar.h says what each word means.
 */
#if IS_F32
#define FS_HAS_FMA
#define FS_HAS_32_REGISTERS
#define NARROWER_ISA avx2
#define ISA_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#include "isa/target.h"

#define MM(name) JOIN(JOIN(_mm512, name), JOIN(PS, T))
#define EPI(name) JOIN(JOIN(_mm512, name), JOIN(EPI, T))
#define AS_BITS JOIN(PASTE(_mm512_cast, JOIN(PS, T)), si512)
#define FROM_BITS MM(castsi512)
#define PARTS 4
#define PART(a, k) _mm512_extractf32x4_ps(a, k)
#define INSERT_f32 _mm512_insertf32x4
#define INSERT_f64 _mm512_insertf64x2
#define WIDER_f32 _mm512_castps128_ps512
#define WIDER_f64 _mm512_castpd128_pd512
#define TOTAL_f64 _mm512_reduce_add_pd

enum { f32_lanes = 16, f64_lanes = 8 };
typedef __m512 f32_vec;
typedef __m512d f64_vec;
typedef __m512i int_vec;
typedef __mmask16 f32_mask;
typedef __mmask8 f64_mask;
#endif

static inline V(mask) V(first)(ptrdiff_t count)
{
    return (V(mask))((1u << count) - 1);
}
static inline VEC V(load_part)(const REAL *p, ptrdiff_t count, VEC others)
{
    return MM(mask_loadu)(others, V(first)(count), p);
}
static inline void V(store_part)(REAL *p, ptrdiff_t count, VEC a)
{
    MM(mask_storeu)(p, V(first)(count), a);
}

static inline VEC V(power)(VEC a)
{
    static const BITS entries[16] = {POWERS(FS_WHOLE) POWERS(FS_WHOLE)};
    int_vec n = AS_BITS(a);
    int_vec entry = EPI(permutexvar)(n, _mm512_loadu_si512(entries));
    return FROM_BITS(EPI(add)(entry, EPI(slli)(n, FRACTION - 3)));
}

#define MASK_OF(a, b, predicate) JOIN(MM(cmp), mask)(a, b, predicate)
static inline VEC V(if_equal)(VEC a, VEC b, VEC yes, VEC no)
{
    return MM(mask_blend)(MASK_OF(a, b, _CMP_EQ_OQ), no, yes);
}
static inline VEC V(if_less)(VEC a, VEC b, VEC yes, VEC no)
{
    return MM(mask_blend)(MASK_OF(a, b, _CMP_LT_OQ), no, yes);
}
static inline int V(any_less)(VEC a, VEC b)
{
    return MASK_OF(a, b, _CMP_LT_OQ) != 0;
}
#undef MASK_OF

static inline REAL V(largest)(VEC a)
{
    return MM(reduce_max)(a);
}

static inline VEC V(parts)(const REAL *p, ptrdiff_t pitch)
{
    VEC a = JOIN(WIDER, T)(MM128(loadu)(p));
    a = JOIN(INSERT, T)(a, MM128(loadu)(p + pitch), 1);
    a = JOIN(INSERT, T)(a, MM128(loadu)(p + 2 * pitch), 2);
    return JOIN(INSERT, T)(a, MM128(loadu)(p + 3 * pitch), 3);
}

#if IS_F32
static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    __m256 a_high = _mm512_extractf32x8_ps(a, 1), b_high = _mm512_extractf32x8_ps(b, 1);
    __m512d low = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                                _mm512_cvtps_pd(_mm512_castps512_ps256(b)));
    __m512d high = _mm512_add_pd(_mm512_cvtps_pd(a_high), _mm512_cvtps_pd(b_high));
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
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
static inline int_vec words_at(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
static inline void put_words(uint16_t *p, int_vec a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a));
}
#endif
#include "isa/vec_x86.h"
