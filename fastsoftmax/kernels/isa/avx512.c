/* The kernels for avx512. The pragmas keep the flags of the build out of it: only the
 * functions of this file may use these instructions. MSVC needs neither flag nor pragma
 * for intrinsics (not tried). */
#include "job.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#include <math.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))),       \
    apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#include "isa/vec_avx512.h"

#define ISA avx512
#define FS_HAS_FMA
#define T_IS_F32 0
#include "loops/rows.h"
#undef T_IS_F32
#define T_IS_F32 1
#include "loops/rows.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static const fs_table table = {"avx512", &kernels_f32_avx512, &kernels_f64_avx512};
const fs_table *const fs_avx512 = &table;
#else
const fs_table *const fs_avx512 = NULL;
#endif
