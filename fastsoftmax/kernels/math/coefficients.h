/* Every coefficient, and what is counted alike, once for C and for CUDA (source.py).
 * tools/derive_coefficients.py derives them, tests/test_coefficients.py compares. */
#ifndef FASTSOFTMAX_COEFFICIENTS_H
#define FASTSOFTMAX_COEFFICIENTS_H

/* What is written to y beside the hinge losses. */
typedef enum { FS_NOTHING, FS_GRADIENT, FS_PAIRS } fs_written;

#define FS_LOG2_E 0x1.71547652b82fep+0

/* ln 2 = FS_LN2_HI + FS_LN2_LO + 2^-103. The first has 39 bits: its product with an
 * integer of up to 14 bits is exact. */
#define FS_LN2_HI 0x1.62e42fefa4p-1
#define FS_LN2_LO (-0x1.8432a1b0e2634p-43)

/* ln 2 of floats: within 2^-53; 15 and 24 bits, or 21 and 24. The first 21 are 12 and
 * 7, for products with integers of 12 bits where there is no FMA. */
#define FS_LN2_15_F32 0x1.62e4p-1f
#define FS_LN2_15_REST_F32 0x1.7f7d1cp-20f
#define FS_LN2_21_F32 0x1.62e43p-1f
#define FS_LN2_21_REST_F32 (-0x1.05c61p-29f)
#define FS_LN2_12_F32 0x1.62ep-1f
#define FS_LN2_12_TO_21_F32 0x1.0cp-15f

/* ln 2 of doubles: 38 bits, whose product with an integer of 15 bits is exact. */
#define FS_LN2_38 0x1.62e42fefap-1
#define FS_LN2_38_REST 0x1.cf79abc9e3b3ap-40

/* exp(r) = 1 + r + r^2 tail(r), the highest power first. */

/* |r| <= 1.002 ln(2)/2, relative error 2^-28.2 and 2^-60.8: minimax, then the lower
 * coefficients moved by what makes the best of their being rounded. */
#define FS_EXP_TAIL_6                                                                  \
    0x1.6a415ep-10f, 0x1.1239c6p-7f, 0x1.5558bcp-5f, 0x1.555492p-3f, 0x1.fffffcp-2f
#define FS_EXP_TAIL_12                                                                 \
    0x1.21005db32d31dp-29, 0x1.af5b295a2c2c6p-26, 0x1.27e3ef32cd1adp-22,               \
        0x1.71ddfa386c39fp-19, 0x1.a01a020ab93b2p-16, 0x1.a01a01af38c3dp-13,           \
        0x1.6c16c16c044f0p-10, 0x1.111111110f822p-7, 0x1.555555555557dp-5,             \
        0x1.5555555555559p-3, 0x1p-1

/* |r| <= ln(2)/16 and a little, relative error 2^-32.4 and 2^-58.2: minimax, rounded.
 */
#define FS_EXP_TAIL_4 0x1.55482ep-5f, 0x1.555c80p-3f, 0x1p-1f
#define FS_EXP_TAIL_7                                                                  \
    0x1.a01639cd65015p-13, 0x1.6c1cbd7ecc1e4p-10, 0x1.11111125d8883p-7,                \
        0x1.555555480ec44p-5, 0x1.5555555555131p-3, 0x1.000000000010bp-1

/* log(1 + f) = f - f^2 / 2 + f^3 tail(f), 1 + f from sqrt(1/2) to sqrt(2), the highest
 * power first; relative error 2^-28.2 and 2^-56.2: minimax, rounded. */
#define FS_LOG_TAIL_11                                                                 \
    0x1.1457acp-4f, -0x1.de3c16p-4f, 0x1.e6f06ap-4f, -0x1.fc2206p-4f, 0x1.233768p-3f,  \
        -0x1.555c4ep-3f, 0x1.99a4b6p-3f, -0x1.000006p-2f, 0x1.555548p-2f
#define FS_LOG_TAIL_21                                                                 \
    0x1.ac7541b4423efp-6, -0x1.ea05962609098p-5, 0x1.0a620e21b0446p-4,                 \
        -0x1.d11fb2de33f23p-5, 0x1.d05a7a56def9bp-5, -0x1.fba1c6e067cf0p-5,            \
        0x1.11ccffba71382p-4, -0x1.24d74e66d628fp-4, 0x1.3b0b8918cdf14p-4,             \
        -0x1.5550ee78924edp-4, 0x1.745d3f1d27b33p-4, -0x1.9999c26b2a8dep-4,            \
        0x1.c71c71e011dc8p-4, -0x1.ffffff2bf6883p-4, 0x1.24924922a3e72p-3,             \
        -0x1.555555566b382p-3, 0x1.999999999f757p-3, -0x1.fffffffffef14p-3,            \
        0x1.5555555555533p-2

/* c 2^(j/8), j = 0 ... 7. A factor is common to all terms of a set, and cancels: c is
 * chosen so that all eight are numbers of the type to within 0.05
 * half-ulps. ENTRY(bits less those that j << 20, or 49, adds). */
#define FS_WHOLE(bits) bits,
#define FS_LOW_WORD(bits) (bits) & 0xffffffff,
#define FS_HIGH_WORD(bits) (bits) >> 32,
#define FS_BASE_F32 0x1.16747cp+0
#define FS_POWERS_F32(ENTRY)                                                           \
    ENTRY(0x3f8b3a3e)                                                                  \
    ENTRY(0x3f87d424)                                                                  \
    ENTRY(0x3f859202)                                                                  \
    ENTRY(0x3f848e45)                                                                  \
    ENTRY(0x3f84e5be)                                                                  \
    ENTRY(0x3f86b7da)                                                                  \
    ENTRY(0x3f8a26de)                                                                  \
    ENTRY(0x3f8f5829)
#define FS_BASE_F64 0x1.0b00b5fcd7f7ep+0
#define FS_POWERS_F64(ENTRY)                                                           \
    ENTRY(0x3ff0b00b5fcd7f7e)                                                          \
    ENTRY(0x3ff032b28e6e9c59)                                                          \
    ENTRY(0x3fefd8587b5e6686)                                                          \
    ENTRY(0x3fefa427fc839358)                                                          \
    ENTRY(0x3fef99954acfe491)                                                          \
    ENTRY(0x3fefbc64a69f9053)                                                          \
    ENTRY(0x3ff010b195fe42ba)                                                          \
    ENTRY(0x3ff09af6cabf82b7)

#endif
