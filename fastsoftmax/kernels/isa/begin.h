/* A unit of the kernels begins: one for each ISA and type, so that an edit is compiled
 * by several processors at once. A unit has defined ISA, of which there is an
 * isa/vec_<ISA>.h, and T_IS_F32; isa/end.h closes it.
 *
 * T stands for f32 or f64, REAL is its C type. V(word) is a word of the vocabulary,
 * F(name) a type or function of this unit alone. What one unit calls of another is
 * fs_..., and HIDDEN from the rest of the process.
 */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "job.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

#include TEXT(JOIN(vec, ISA).h)

#if T_IS_F32
#define T f32
#define REAL float
#define REAL_TYPE FS_F32
#else
#define T f64
#define REAL double
#define REAL_TYPE FS_F64
#endif
#define V(word) JOIN(T, word)
#define F(name) JOIN(JOIN(name, T), ISA)
#define VEC V(vec)
#define LANES V(lanes)

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
