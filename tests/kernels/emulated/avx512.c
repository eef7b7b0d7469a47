/* As kernels/isa/avx512.c, but without the pragmas that would let the compiler use
 * AVX-512: immintrin.h is the one beside this file. */
#include "job.h"

#include "isa/vec_avx512.h"

#define ISA avx512
#define FS_HAS_FMA
#define T_IS_F32 0
#include "loops/rows.h"
#undef T_IS_F32
#define T_IS_F32 1
#include "loops/rows.h"

static const fs_table table = {"avx512", &kernels_f32_avx512, &kernels_f64_avx512};
const fs_table *const fs_avx512 = &table;
