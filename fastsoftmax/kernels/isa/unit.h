/* All of the kernels for one ISA and type, where MACHINE says that it can be. */
#include "job.h"

#if MACHINE
#include "isa/begin.h"
#include "loops/rows.h"
#include "isa/end.h"
#endif
