/* Intrinsics of x86, and how they call the types. From here to isa/end.h functions may
 * use the instructions that ISA_TARGET names, and those of this unit alone: the flags
 * of the build stay those of the oldest processor. MSVC needs nothing of the kind for
 * intrinsics (not tried); nor does an emulation. */
#include <immintrin.h>

#define DO_PRAGMA_(text) _Pragma(#text)
#define DO_PRAGMA(text) DO_PRAGMA_(text)
#if defined(ISA_IS_EMULATED)
#elif defined(__clang__)
DO_PRAGMA(clang attribute push(__attribute__((target(ISA_TARGET))),
                               apply_to = function))
#elif defined(__GNUC__)
DO_PRAGMA(GCC target(ISA_TARGET))
#endif

#define PS_f32 ps
#define PS_f64 pd
#define EPI_f32 epi32
#define EPI_f64 epi64
#define MM128(name) JOIN(JOIN(_mm, name), JOIN(PS, T))
typedef __m128 f32_part;
typedef __m128d f64_part;

static inline double total_of_4(__m256d a)
{
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
