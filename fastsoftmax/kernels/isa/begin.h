/* A unit of the kernels begins: one for each ISA and type, so that an edit is compiled
 * by several processors at once. A unit has defined ISA, of which there is an
 * isa/vec_<ISA>.h, and T_IS_F32; isa/end.h closes it.
 *
 * T is f32 or f64, as the unit is, V(word) a word of isa/vocabulary.h, F(name) a type
 * or function of this unit alone. What one unit calls of another is fs_..., and HIDDEN
 * from the rest of the process.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "isa/vocabulary.h"

#if T_IS_F32
#define T f32
#define REAL float
#define REAL_TYPE FS_F32
#else
#define T f64
#define REAL double
#define REAL_TYPE FS_F64
#endif
#define F(name) JOIN(JOIN(name, T), ISA)

/* The units of an ISA whose vectors are half as wide, and whose lanes give the same
 * bits; this one where there is none. */
#if defined(NARROWER_ISA)
#define HAS_NARROWER 1
#else
#define HAS_NARROWER 0
#define NARROWER_ISA ISA
#endif
#define NARROWER(name) JOIN(JOIN(name, T), NARROWER_ISA)

/* Before what one unit calls of another. */
#if defined(__GNUC__)
#define HIDDEN __attribute__((visibility("hidden")))
#else
#define HIDDEN
#endif
