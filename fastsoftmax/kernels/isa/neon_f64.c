/* The kernels of float64: NEON. */
#include "job.h"

#if defined(__AARCH64EL__)
#define ISA neon
#define T_IS_F32 0
#include "isa/begin.h"
#include "loops/rows.h"
#include "isa/end.h"
#endif
