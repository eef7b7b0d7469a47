/* The kernels of float64: AVX-512. */
#define ISA avx512
#define T_IS_F32 0
#define MACHINE FS_X86
#include "isa/unit.h"
