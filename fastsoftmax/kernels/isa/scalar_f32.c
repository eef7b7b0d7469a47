/* The kernels of float32: plain C, for every machine. */
#include "job.h"

#define ISA scalar
#define T_IS_F32 1
#include "isa/begin.h"
#include "loops/rows.h"
#include "isa/end.h"
