/* The kernels of float64: AVX2. */
#define ISA avx2
#define T_IS_F32 0
#define MACHINE FS_X86
#include "isa/unit.h"
