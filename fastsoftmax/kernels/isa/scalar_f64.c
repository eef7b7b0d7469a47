/* The kernels of float64: plain C, for every machine. */
#define ISA scalar
#define T_IS_F32 0
#define MACHINE 1
#include "isa/unit.h"
