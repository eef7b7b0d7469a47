/* The kernels for NEON, which every aarch64 has. */
#include "job.h"

#if defined(__AARCH64EL__)
#include "isa/vec_neon.h"

#define ISA neon
#define FS_HAS_FMA
#define T_IS_F32 0
#include "loops/rows.h"
#undef T_IS_F32
#define T_IS_F32 1
#include "loops/rows.h"

static const fs_table table = {"neon", &kernels_f32_neon, &kernels_f64_neon};
const fs_table *const fs_neon = &table;
#else
const fs_table *const fs_neon = NULL;
#endif
