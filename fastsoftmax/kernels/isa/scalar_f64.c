/* The kernels of float64: plain C, for every machine. */
#include "job.h"

#define ISA scalar
#define T_IS_F32 0
#include "isa/begin.h"
#include "loops/rows.h"
#include "isa/end.h"
