/* The kernels in plain C, for every machine. */
#include "isa/vec_scalar.h"

#define ISA scalar
#define T_IS_F32 0
#include "loops/rows.h"
#undef T_IS_F32
#define T_IS_F32 1
#include "loops/rows.h"

static const fs_table table = {"scalar", &kernels_f32_scalar, &kernels_f64_scalar};
const fs_table *const fs_scalar = &table;
