/* What AVX2 and AVX-512 say alike, of vectors of two widths. Included by their headers,
 * to which M(add_ps) is the intrinsic of that name, TO_BITS(ps) and OF_BITS(ps) are the
 * casts. */

static inline f32_vec f32_set(float a)
{
    return M(set1_ps)(a);
}
static inline f64_vec f64_set(double a)
{
    return M(set1_pd)(a);
}
static inline f32_vec f32_load(const float *p)
{
    return M(loadu_ps)(p);
}
static inline f64_vec f64_load(const double *p)
{
    return M(loadu_pd)(p);
}
static inline void f32_store(float *p, f32_vec a)
{
    M(storeu_ps)(p, a);
}
static inline void f64_store(double *p, f64_vec a)
{
    M(storeu_pd)(p, a);
}

#define BINARY(word)                                                                   \
    static inline f32_vec f32_##word(f32_vec a, f32_vec b)                             \
    {                                                                                  \
        return M(word##_ps)(a, b);                                                     \
    }                                                                                  \
    static inline f64_vec f64_##word(f64_vec a, f64_vec b)                             \
    {                                                                                  \
        return M(word##_pd)(a, b);                                                     \
    }
BINARY(add)
BINARY(sub)
BINARY(mul)
BINARY(div)
BINARY(max)
BINARY(min)
#undef BINARY

static inline f32_vec f32_muladd(f32_vec a, f32_vec b, f32_vec c)
{
    return M(fmadd_ps)(a, b, c);
}
static inline f64_vec f64_muladd(f64_vec a, f64_vec b, f64_vec c)
{
    return M(fmadd_pd)(a, b, c);
}
static inline f32_vec f32_times_pair(f32_vec a, f32_vec hi, f32_vec lo)
{
    return M(fmadd_ps)(a, hi, M(mul_ps)(a, lo));
}
static inline f64_vec f64_times_pair(f64_vec a, f64_vec hi, f64_vec lo)
{
    return M(fmadd_pd)(a, hi, M(mul_pd)(a, lo));
}

static inline f32_vec f32_exponent(f32_vec a)
{
    f32_vec bits = OF_BITS(ps)(M(srli_epi32)(TO_BITS(ps)(a), 23));
    return M(or_ps)(bits, f32_set(0x1p23f));
}
static inline f64_vec f64_exponent(f64_vec a)
{
    f64_vec bits = OF_BITS(pd)(M(srli_epi64)(TO_BITS(pd)(a), 52));
    return M(or_pd)(bits, f64_set(0x1p52));
}
static inline f32_vec f32_to_exponent(f32_vec a)
{
    return OF_BITS(ps)(M(slli_epi32)(TO_BITS(ps)(a), 23));
}
static inline f64_vec f64_to_exponent(f64_vec a)
{
    return OF_BITS(pd)(M(slli_epi64)(TO_BITS(pd)(a), 52));
}

typedef f64_vec f64_wide;
static inline f64_wide f64_wide_load(const double *p)
{
    return M(loadu_pd)(p);
}
static inline void f64_wide_store(double *p, f64_wide sum)
{
    M(storeu_pd)(p, sum);
}
static inline f64_wide f64_wide_zero(void)
{
    return M(setzero_pd)();
}
static inline f64_wide f64_wide_add(f64_wide sum, const double *a)
{
    return M(add_pd)(sum, M(loadu_pd)(a));
}
static inline f64_wide f64_wide_add_product(f64_wide sum, const double *a,
                                            const double *b)
{
    return M(fmadd_pd)(M(loadu_pd)(a), M(loadu_pd)(b), sum);
}

static inline void f32_stream(float *p, f32_vec a)
{
    M(stream_ps)(p, a);
}
static inline void f64_stream(double *p, f64_vec a)
{
    M(stream_pd)(p, a);
}
static inline void stream_fence(void)
{
    _mm_sfence();
}
