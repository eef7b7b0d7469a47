/* What the machine can do at best, for comparison; not an implementation.
 *
 * three_passes_*: max, then exponential, sum and store, then scale; vectors as wide as
 * the compiler's target has them. No care for accuracy, underflow or special values:
 * the exponent is clamped, 2^r on |r| <= 1/2 is an interpolating polynomial (relative
 * error 1e-7 in float, degree 5; 3e-16 in double, degree 10). stream_copy: a copy whose
 * stores bypass the caches.
 */
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define MAX_float _mm512_max_ps
#define MAX_double _mm512_max_pd
#define STREAM(to, v) _mm512_stream_ps((float *)(to), v)
#elif defined(__AVX__)
#define MAX_float _mm256_max_ps
#define MAX_double _mm256_max_pd
#define STREAM(to, v) _mm256_stream_ps((float *)(to), v)
#elif defined(__x86_64__)
#define MAX_float _mm_max_ps
#define MAX_double _mm_max_pd
#define STREAM(to, v) _mm_stream_ps((float *)(to), v)
#endif

typedef float float_v __attribute__((vector_size(WIDTH)));
typedef double double_v __attribute__((vector_size(WIDTH)));
typedef int float_i __attribute__((vector_size(WIDTH)));
typedef long long double_i __attribute__((vector_size(WIDTH)));

#if !defined(MAX_float)
#define MAX(real)                                                                      \
    static inline real##_v MAX_##real(real##_v a, real##_v b)                          \
    {                                                                                  \
        const real##_i larger = (real##_i)(a > b);                                     \
        return (real##_v)((larger & (real##_i)a) | (~larger & (real##_i)b));           \
    }
MAX(float)
MAX(double)
#endif

static inline float_v power_float(float_v r)
{
    return 0x1.0000014413897p+0f +
           r * (0x1.62e4302fc626ep-1f +
                r * (0x1.ebf906e26e833p-3f +
                     r * (0x1.c6af6cdbbdcc7p-5f +
                          r * (0x1.3d10705276a1dp-7f + r * 0x1.5f0890162a90ap-10f))));
}

static inline double_v power_double(double_v r)
{
    double_v high = 0x1.ffcb54062e698p-17 +
                    r * (0x1.62bfd47773353p-20 +
                         r * (0x1.b675bca4eeebbp-24 + r * 0x1.e6063f7217bc6p-28));
    return 1.0 + r * (0x1.62e42fefa3a19p-1 +
                      r * (0x1.ebfbdff82c598p-3 +
                           r * (0x1.c6b08d703ce49p-5 +
                                r * (0x1.3b2ab6fba1ddap-7 +
                                     r * (0x1.5d87fe9d7a584p-10 +
                                          r * (0x1.430913096fd9fp-13 + r * high))))));
}

/* IN x, OUT y: [rows, n], n at least 4 vectors; all of it `times` times over.
 * What is left of a row after the vectors (less than 4 of them) is a last group of 4
 * that overlaps its neighbour: a few elements are computed twice, none is left out, and
 * the sum counts those too often, which the caller does not mind: it asks for the time.
 */
#define THREE_PASSES(real, MAGIC, LOWEST, SHIFT)                                       \
    static inline real##_v load_##real(const real *x)                                  \
    {                                                                                  \
        real##_v v;                                                                    \
        memcpy(&v, x, WIDTH);                                                          \
        return v;                                                                      \
    }                                                                                  \
    static inline real##_v exp_##real(real##_v x, real##_v top)                        \
    {                                                                                  \
        const real##_v lowest = (real)LOWEST - (real##_v){0};                          \
        real##_v z = MAX_##real((x - top) * (real)1.4426950408889634, lowest);         \
        real##_v k = z + (real)MAGIC;                                                  \
        real##_v r = z - (k - (real)MAGIC);                                            \
        return (real##_v)((real##_i)power_##real(r) + ((real##_i)k << SHIFT));         \
    }                                                                                  \
    static void row_##real(const real *x, real *y, long n)                             \
    {                                                                                  \
        enum { LANES = WIDTH / sizeof(real), STEP = 4 * LANES };                       \
        real##_v a[4], sum[4] = {{0}};                                                 \
        for (int u = 0; u < 4; u++) a[u] = load_##real(x + u * LANES);                 \
        for (long j = STEP; j < n; j += STEP) {                                        \
            const real *from = x + (j + STEP <= n ? j : n - STEP);                     \
            for (int u = 0; u < 4; u++)                                                \
                a[u] = MAX_##real(a[u], load_##real(from + u * LANES));                \
        }                                                                              \
        real##_v most = MAX_##real(MAX_##real(a[0], a[1]), MAX_##real(a[2], a[3]));    \
        real top = most[0], total = 0;                                                 \
        for (int l = 1; l < LANES; l++) top = most[l] > top ? most[l] : top;           \
        const real##_v tops = top - (real##_v){0};                                     \
        for (long j = 0; j < n; j += STEP) {                                           \
            const long at = j + STEP <= n ? j : n - STEP;                              \
            for (int u = 0; u < 4; u++) {                                              \
                real##_v e = exp_##real(load_##real(x + at + u * LANES), tops);        \
                sum[u] += e;                                                           \
                memcpy(y + at + u * LANES, &e, WIDTH);                                 \
            }                                                                          \
        }                                                                              \
        real##_v sums = (sum[0] + sum[1]) + (sum[2] + sum[3]);                         \
        for (int l = 0; l < LANES; l++) total += sums[l];                              \
        const real scale = 1 / total;                                                  \
        for (long j = 0; j < n; j++) y[j] *= scale;                                    \
    }                                                                                  \
    void three_passes_##real(const real *x, real *y, long rows, long n, long times)    \
    {                                                                                  \
        while (times-- > 0)                                                            \
            for (long i = 0; i < rows; i++) row_##real(x + i * n, y + i * n, n);       \
    }

THREE_PASSES(float, 0x1.8p23f, -126.0f, 23)
THREE_PASSES(double, 0x1.8p52, -1022.0, 52)

long least_n(long itemsize)
{
    return 4 * WIDTH / itemsize;
}

long vector_bytes(void)
{
    return WIDTH;
}

/* Returns 0 where there is no such store. */
long stream_copy(char *to, const char *from, long count)
{
#if defined(STREAM)
    long head = (long)(-(unsigned long)to & (WIDTH - 1));
    if (head > count)
        head = count;
    memcpy(to, from, (size_t)head);
    long at = head;
    for (; at + WIDTH <= count; at += WIDTH) {
        float_v v;
        memcpy(&v, from + at, WIDTH);
        STREAM(to + at, v);
    }
    memcpy(to + at, from + at, (size_t)(count - at));
    _mm_sfence();
    return 1;
#elif defined(__clang__)
    long at = 0;
    for (; at + WIDTH <= count; at += WIDTH) {
        float_v v;
        memcpy(&v, from + at, WIDTH);
        __builtin_nontemporal_store(v, (float_v *)(to + at));
    }
    memcpy(to + at, from + at, (size_t)(count - at));
    return 1;
#else
    (void)to, (void)from, (void)count;
    return 0;
#endif
}
