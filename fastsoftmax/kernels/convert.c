/* Staging: elements of any numeric type and any byte stride, aligned or not, in either
 * byte order, become contiguous floats or doubles, as a C cast (and NumPy's astype)
 * does. Contiguous 16-bit floats have a faster way in loops/rows.h.
 */
#include "job.h"

#include <string.h>

#include "math/halves.h"

typedef union cell {
    float f32;
    double f64;
    uint16_t f16, bf16, u16;
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    uint8_t u8;
    uint32_t u32;
    uint64_t u64;
    char bytes[8];
} cell;

static inline cell fetch(const char *from, int size, int swapped)
{
    cell out;
    if (!swapped) {
        memcpy(out.bytes, from, (size_t)size);
        return out;
    }
    for (int i = 0; i < size; i++) out.bytes[i] = from[size - 1 - i];
    return out;
}

#define STAGE_LOOP(MEMBER, REAL, VALUE, STEP, SWAPPED)                                 \
    _Pragma("omp simd") for (ptrdiff_t i = 0; i < count; i++)                          \
    {                                                                                  \
        cell c = fetch(x + i * (STEP), (int)sizeof c.MEMBER, SWAPPED);                 \
        out[i] = (REAL)(VALUE);                                                        \
    }

/* A constant step lets the compiler use vectors; without `swapped` in it the loop over
 * other steps is three times as fast. */
#define STAGE_CASE(TYPE, MEMBER, REAL, VALUE)                                          \
    case TYPE:                                                                         \
        if (swapped)                                                                   \
            STAGE_LOOP(MEMBER, REAL, VALUE, step, 1)                                   \
        else if (step == (ptrdiff_t)sizeof(((cell *)0)->MEMBER))                       \
            STAGE_LOOP(MEMBER, REAL, VALUE, (ptrdiff_t)sizeof c.MEMBER, 0)             \
        else                                                                           \
            STAGE_LOOP(MEMBER, REAL, VALUE, step, 0)                                   \
        return;

#define STAGE(NAME, REAL)                                                              \
    void NAME(const char *x, ptrdiff_t step, fs_type type, int swapped,                \
              ptrdiff_t count, REAL *out)                                              \
    {                                                                                  \
        switch (type) {                                                                \
            STAGE_CASE(FS_F32, f32, REAL, c.f32)                                       \
            STAGE_CASE(FS_F64, f64, REAL, c.f64)                                       \
            STAGE_CASE(FS_F16, f16, REAL, half_to_float(c.f16))                        \
            STAGE_CASE(FS_BF16, bf16, REAL, bfloat_to_float(c.bf16))                   \
            STAGE_CASE(FS_BOOL, u8, REAL, c.u8 != 0)                                   \
            STAGE_CASE(FS_I8, i8, REAL, c.i8)                                          \
            STAGE_CASE(FS_I16, i16, REAL, c.i16)                                       \
            STAGE_CASE(FS_I32, i32, REAL, c.i32)                                       \
            STAGE_CASE(FS_I64, i64, REAL, c.i64)                                       \
            STAGE_CASE(FS_U8, u8, REAL, c.u8)                                          \
            STAGE_CASE(FS_U16, u16, REAL, c.u16)                                       \
            STAGE_CASE(FS_U32, u32, REAL, c.u32)                                       \
            STAGE_CASE(FS_U64, u64, REAL, c.u64)                                       \
        }                                                                              \
    }

STAGE(fs_stage_f32, float)
STAGE(fs_stage_f64, double)
