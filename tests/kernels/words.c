/* Every word of a vocabulary (-DISA=avx2), lane by lane, against plain C. Prints what
 * differs. */
#include "isa/vocabulary.h"

#include <math.h>

#include "guarded.h"

static int failures;

static void fail(const char *word, int lane)
{
    if (failures++ < 20)
        printf("%s, lane %d\n", word, lane);
}

static uint64_t random_bits(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static const uint32_t f32_entries[8] = {FS_POWERS_F32(FS_WHOLE)};
static const uint64_t f64_entries[8] = {FS_POWERS_F64(FS_WHOLE)};

#define T f32
#define REAL float
#define BITS uint32_t
#define TO_BITS float_to_bits
#define OF_BITS bits_to_float
#define EXPONENT 23
#define FMA fmaf
#include "words_body.h"
#undef T
#undef REAL
#undef BITS
#undef TO_BITS
#undef OF_BITS
#undef EXPONENT
#undef FMA
#define T f64
#define REAL double
#define BITS uint64_t
#define TO_BITS double_to_bits
#define OF_BITS bits_to_double
#define EXPONENT 52
#define FMA fma
#include "words_body.h"

/* ---- f32 alone ---- */

static void check_sum_lanes(void)
{
    float a[f32_lanes], b[f32_lanes];
    double sum = 0;
    for (int j = 0; j < f32_lanes; j++) {
        a[j] = (float)(1 << j);
        b[j] = 0x1p30f * a[j];
        sum += (double)a[j] + b[j];
    }
    if (f32_sum_lanes(f32_load(a), f32_load(b)) != sum)
        fail("f32_sum_lanes", 0);
}

/* Whether `to` is what plain C makes of `from`; a NaN need only stay one, with its
 * sign. */
static int same_number(float from, float to, float expected)
{
    if (from == from)
        return float_to_bits(to) == float_to_bits(expected);
    return to != to && !signbit(to) == !signbit(from);
}

static void check_stores(const float *from)
{
    uint16_t f16[f32_lanes], bf16[f32_lanes];
    static _Alignas(2) char odd[1 + sizeof f16];
    f32_store_f16((void *)(odd + 1), f32_load(from));
    memcpy(f16, odd + 1, sizeof f16);
    f32_store_bf16((void *)(odd + 1), f32_load(from));
    memcpy(bf16, odd + 1, sizeof bf16);
    for (int j = 0; j < f32_lanes; j++) {
        float a = from[j];
        if (!same_number(a, half_to_float(f16[j]), half_to_float(float_to_half(a))))
            fail("f32_store_f16", j);
        if (!same_number(a, bfloat_to_float(bf16[j]),
                         bfloat_to_float(float_to_bfloat(a))))
            fail("f32_store_bf16", j);
    }
}

/* All 16-bit floats; and what lies between two neighbours: the middle, and next to it.
 */
static void check_halves(void)
{
    uint16_t h[f32_lanes];
    float f16[f32_lanes], bf16[f32_lanes], by_f16[f32_lanes], by_bf16[f32_lanes];
    for (uint32_t first = 0; first < 0x10000; first += f32_lanes) {
        for (int j = 0; j < f32_lanes; j++) h[j] = (uint16_t)(first + (uint32_t)j);
        f32_store(f16, f32_load_f16(h));
        f32_store(bf16, f32_load_bf16(h));
        for (int j = 0; j < f32_lanes; j++) {
            float f = half_to_float(h[j]);
            if (!same_number(f, f16[j], f))
                fail("f32_load_f16", j);
            if (float_to_bits(bf16[j]) != (uint32_t)h[j] << 16)
                fail("f32_load_bf16", j);
        }
        for (int step = -1; step <= 1; step++) {
            for (int j = 0; j < f32_lanes; j++) {
                float f = half_to_float(h[j]),
                      next = half_to_float((uint16_t)(h[j] + 1));
                float middle = isfinite(next) ? f + (next - f) / 2 : f * 1.0002f;
                by_f16[j] = bits_to_float(float_to_bits(middle) + (uint32_t)step);
                by_bf16[j] =
                    bits_to_float(((uint32_t)h[j] << 16 | 0x8000) + (uint32_t)step);
            }
            check_stores(by_f16);
            check_stores(by_bf16);
        }
        check_stores(f16);
        check_stores(bf16);
    }
}

int main(void)
{
    f32_check();
    f64_check();
    check_sum_lanes();
    check_halves();
    if (failures)
        printf("%d failures\n", failures);
    return failures != 0;
}

#include "isa/end.h"
