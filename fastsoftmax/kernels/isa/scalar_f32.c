/* The kernels of float32: plain C, for every machine. */
#define ISA scalar
#define T_IS_F32 1
#define MACHINE 1
#include "isa/unit.h"
