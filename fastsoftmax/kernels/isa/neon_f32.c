/* The kernels of float32: NEON. */
#define ISA neon
#define T_IS_F32 1
#define MACHINE FS_ARM
#include "isa/unit.h"
