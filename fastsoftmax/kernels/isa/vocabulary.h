/* The words of ISA, which isa/vec_<ISA>.h has, for both types. It is included once for
 * each: T is f32 or f64, REAL its C type, IS_F32 tells them apart; V(word) is T's.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "job.h"
#include "math/halves.h"

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
#define V(word) JOIN(T, word)
#define VEC V(vec)
#define LANES V(lanes)

#define T f32
#define REAL float
#define BITS uint32_t
#define FRACTION 23 /* bits of a number below its exponent's */
#define POWERS FS_POWERS_F32
#define IS_F32 1
#include TEXT(JOIN(vec, ISA).h)
#undef T
#undef REAL
#undef BITS
#undef FRACTION
#undef POWERS
#undef IS_F32

#define T f64
#define REAL double
#define BITS uint64_t
#define FRACTION 52
#define POWERS FS_POWERS_F64
#define IS_F32 0
#include TEXT(JOIN(vec, ISA).h)
#undef T
#undef REAL
#undef BITS
#undef FRACTION
#undef POWERS
#undef IS_F32
