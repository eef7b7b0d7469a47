/* The kernels of float32: AVX-512. */
#include "job.h"

#if defined(__x86_64__) || defined(_M_X64)
#define ISA avx512
#define T_IS_F32 1
#include "isa/begin.h"
#include "loops/rows.h"
#include "isa/end.h"
#endif
