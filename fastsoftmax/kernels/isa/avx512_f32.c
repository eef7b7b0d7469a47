/* The kernels of float32: AVX-512. */
#define ISA avx512
#define T_IS_F32 1
#define MACHINE FS_X86
#include "isa/unit.h"
