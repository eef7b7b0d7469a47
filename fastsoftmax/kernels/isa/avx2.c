/* The kernels for avx2. The pragmas keep the flags of the build out of it: only the
 * functions of this file may use these instructions. MSVC needs neither flag nor pragma
 * for intrinsics (not tried). */
#include "job.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#include <math.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))),                 \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,fma,f16c")
#endif

#include "isa/vec_avx2.h"

#define ISA avx2
#define FS_HAS_FMA
#define T_IS_F32 0
#include "loops/rows.h"
#undef T_IS_F32
#define T_IS_F32 1
#include "loops/rows.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

static const fs_table table = {"avx2", &kernels_f32_avx2, &kernels_f64_avx2};
const fs_table *const fs_avx2 = &table;
#else
const fs_table *const fs_avx2 = NULL;
#endif
