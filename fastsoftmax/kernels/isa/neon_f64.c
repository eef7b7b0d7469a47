/* The kernels of float64: NEON. */
#define ISA neon
#define T_IS_F32 0
#define MACHINE FS_ARM
#include "isa/unit.h"
