/* What AVX2 and AVX-512 say alike, of vectors of two widths. Included by their headers,
 * to which MM(add) and EPI(add) are the intrinsics of that name, AS_BITS and FROM_BITS
 * the casts. V(parts) is a vector of parts of 128 bits, `pitch` elements apart, PART(a,
 * k) one of PARTS of a vector of floats. */

static inline VEC V(set)(REAL a)
{
    return MM(set1)(a);
}
static inline VEC V(load)(const REAL *p)
{
    return MM(loadu)(p);
}
static inline void V(store)(REAL *p, VEC a)
{
    MM(storeu)(p, a);
}

#define BINARY(word)                                                                   \
    static inline VEC V(word)(VEC a, VEC b)                                            \
    {                                                                                  \
        return MM(word)(a, b);                                                         \
    }
BINARY(add)
BINARY(sub)
BINARY(mul)
BINARY(div)
BINARY(max)
BINARY(min)
#undef BINARY

static inline VEC V(muladd)(VEC a, VEC b, VEC c)
{
    return MM(fmadd)(a, b, c);
}

static inline VEC V(exponent)(VEC a)
{
    VEC bits = FROM_BITS(EPI(srli)(AS_BITS(a), FRACTION));
    return MM(or)(bits, V(set)((REAL)((BITS)1 << FRACTION)));
}
static inline VEC V(to_exponent)(VEC a)
{
    return FROM_BITS(EPI(slli)(AS_BITS(a), FRACTION));
}

/* Sums in double: of floats in parts of four, which are converted on their way from
 * memory: 16 products take half as long as from registers (Zen 4, AVX-512). */
#if IS_F32
typedef __m256d f32_doubles;
#define D(name) _mm256_##name##_pd
#define WIDENED(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define TOTAL total_of_4
#else
typedef f64_vec f64_doubles;
#define D(name) MM(name)
#define WIDENED(p) f64_load(p)
#define TOTAL TOTAL_f64
#endif
enum { V(doubles_at_once) = sizeof(V(doubles)) / sizeof(double) };
enum { V(sums) = LANES / V(doubles_at_once) };
typedef struct {
    V(doubles) part[V(sums)];
} V(wide);
#define EACH_SUM(i, at)                                                                \
    for (int i = 0, at = 0; i < V(sums); i++, at += V(doubles_at_once))
static inline V(wide) V(wide_load)(const double *p)
{
    V(wide) sum;
    EACH_SUM(i, at) sum.part[i] = D(loadu)(p + at);
    return sum;
}
static inline void V(wide_store)(double *p, V(wide) sum)
{
    EACH_SUM(i, at) D(storeu)(p + at, sum.part[i]);
}
static inline V(wide) V(wide_add)(V(wide) sum, const REAL *a)
{
    EACH_SUM(i, at) sum.part[i] = D(add)(sum.part[i], WIDENED(a + at));
    return sum;
}
static inline V(wide) V(wide_add_product)(V(wide) sum, const REAL *a, const REAL *b)
{
    EACH_SUM(i, at)
    sum.part[i] = D(fmadd)(WIDENED(a + at), WIDENED(b + at), sum.part[i]);
    return sum;
}
static inline double V(wide_total)(V(wide) sum)
{
    for (int half = V(sums) / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum.part[i] = D(add)(sum.part[2 * i], sum.part[2 * i + 1]);
    return TOTAL(sum.part[0]);
}
#undef EACH_SUM
#undef D
#undef WIDENED
#undef TOTAL

/* The matrices in the parts of four vectors, 4 x 4 or 2 x 2, transposed. */
FS_INLINE void V(transpose)(const VEC from[4], VEC to[4])
{
    VEC low01 = MM(unpacklo)(from[0], from[1]), high01 = MM(unpackhi)(from[0], from[1]);
    VEC low23 = MM(unpacklo)(from[2], from[3]), high23 = MM(unpackhi)(from[2], from[3]);
#if IS_F32
    to[0] = MM(shuffle)(low01, low23, 0x44);
    to[1] = MM(shuffle)(low01, low23, 0xee);
    to[2] = MM(shuffle)(high01, high23, 0x44);
    to[3] = MM(shuffle)(high01, high23, 0xee);
#else
    to[0] = low01;
    to[1] = high01;
    to[2] = low23;
    to[3] = high23;
#endif
}

/* Parts are loaded and stored one by one: what lanes have to cross, memory does. Before
 * it is transposed, vector i of four has parts of the rows i, i + 4, ...; of doubles, n
 * = 2 to a part, of the rows i % 2, i % 2 + 2, ... */
FS_INLINE void V(load_quads)(const REAL *p, ptrdiff_t pitch, VEC v[4])
{
    const int n = 16 / (int)sizeof *p;
    for (int i = 0; i < 4; i++)
        v[i] = V(parts)(p + i % n * pitch + i / n * n, n * pitch);
    V(transpose)(v, v);
}
FS_INLINE void V(store_quads)(REAL *p, ptrdiff_t pitch, const VEC v[4])
{
    VEC rows[4];
    V(transpose)(v, rows);
#if IS_F32
#define STORE(k)                                                                       \
    for (int i = 0; i < 4; i++)                                                        \
        _mm_storeu_ps(p + (4 * (k) + i) * pitch, PART(rows[i], k));
    STORE(0)
    STORE(1)
#if PARTS == 4
    STORE(2)
    STORE(3)
#endif
#undef STORE
#else
    double cells[4][LANES]; /* faster than PART by a tenth (AVX-512, n = 10) */
    for (int i = 0; i < 4; i++) V(store)(cells[i], rows[i]);
    for (int k = 0; k < LANES; k += 2)
        for (int row = 0; row < 2; row++)
            for (int i = row; i < 4; i += 2)
                _mm_storeu_pd(p + (k + row) * pitch + i - row,
                              _mm_loadu_pd(cells[i] + k));
#endif
}

static inline void V(stream)(REAL *p, VEC a)
{
    MM(stream)(p, a);
}

#if IS_F32
static inline void stream_fence(void)
{
    _mm_sfence();
}

static inline f32_vec f32_load_bf16(const uint16_t *p)
{
    return FROM_BITS(EPI(slli)(words_at(p), 16));
}
static inline void f32_store_bf16(uint16_t *p, f32_vec a)
{
    int_vec bits = AS_BITS(a), one = EPI(set1)(1), quiet = EPI(set1)(0x40);
    f32_vec high = FROM_BITS(EPI(srli)(bits, 16));
    int_vec odd = AS_BITS(MM (and)(high, FROM_BITS(one)));
    int_vec bias = EPI(add)(odd, EPI(set1)(0x7fff));
    f32_vec rounded = FROM_BITS(EPI(srli)(EPI(add)(bits, bias), 16));
    f32_vec nan = MM(or)(high, FROM_BITS(quiet));
    put_words(p, AS_BITS(f32_if_equal(a, a, rounded, nan)));
}
#endif
