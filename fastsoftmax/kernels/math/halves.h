/* Floats and their bit patterns in plain C, and the 16-bit floats: IEEE binary16
 * ("half") and bfloat16, to and from float. To float is exact; from float rounds to
 * nearest, ties to even, and keeps NaN a NaN.
 */
#ifndef FASTSOFTMAX_BITS_H
#define FASTSOFTMAX_BITS_H

#include <stdint.h>
#include <string.h>

static inline float bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double bits_to_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t double_to_bits(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bfloat_to_float(uint16_t h)
{
    return bits_to_float((uint32_t)h << 16);
}

static inline uint16_t float_to_bfloat(float value)
{
    uint32_t bits = float_to_bits(value);
    if (value != value)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ffu;
    if (exponent == 31)
        return bits_to_float(sign | 0x7f800000 | (fraction << 13));
    if (exponent == 0) { /* subnormal: fraction * 2^-24, exact in float */
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return bits_to_float(sign | ((exponent + 112) << 23) | (fraction << 13));
}

static inline uint16_t float_to_half(float value)
{
    uint32_t bits = float_to_bits(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000) /* 65536 and above: infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        /* Below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded
         * to nearest even by the addition itself. */
        float shifted = bits_to_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_to_bits(shifted) - 0x3f000000));
    }
    /* Rebias the exponent (127 - 15 = 112), drop 13 bits; a carry into the exponent,
     * up to infinity for 65520 and above, is the rounding that IEEE asks for. */
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return (uint16_t)(sign | ((rounded - (112u << 23)) >> 13));
}

#endif
