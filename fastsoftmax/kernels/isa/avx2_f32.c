/* The kernels of float32: AVX2. */
#define ISA avx2
#define T_IS_F32 1
#define MACHINE FS_X86
#include "isa/unit.h"
