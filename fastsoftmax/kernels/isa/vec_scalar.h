/* The vocabulary in plain C, one lane: what every ISA's header must offer, said once.
 * Each word works lane by lane unless it says otherwise.
 */
#undef AS_BITS
#undef FROM_BITS
#if IS_F32
#define AS_BITS float_to_bits
#define FROM_BITS bits_to_float
#else
#define AS_BITS double_to_bits
#define FROM_BITS bits_to_double
#endif

enum { LANES = 1 };
typedef REAL VEC;

/* set: all lanes the same. load, store: any alignment. */
static inline VEC V(set)(REAL a)
{
    return a;
}
static inline VEC V(load)(const REAL *p)
{
    return *p;
}
static inline void V(store)(REAL *p, VEC a)
{
    *p = a;
}

/* The first `count` lanes, 1 <= count <= lanes; memory behind them is not touched, the
 * other lanes come from `others`. */
static inline VEC V(load_part)(const REAL *p, ptrdiff_t count, VEC others)
{
    return count ? *p : others;
}
static inline void V(store_part)(REAL *p, ptrdiff_t count, VEC a)
{
    if (count)
        *p = a;
}

static inline VEC V(add)(VEC a, VEC b)
{
    return a + b;
}
static inline VEC V(sub)(VEC a, VEC b)
{
    return a - b;
}
static inline VEC V(mul)(VEC a, VEC b)
{
    return a * b;
}
static inline VEC V(div)(VEC a, VEC b)
{
    return a / b;
}

/* b where either is NaN, as the x86 instructions have it. */
static inline VEC V(max)(VEC a, VEC b)
{
    return a > b ? a : b;
}
static inline VEC V(min)(VEC a, VEC b)
{
    return a < b ? a : b;
}

/* a * b + c, rounded once where the hardware can, twice elsewhere. */
static inline VEC V(muladd)(VEC a, VEC b, VEC c)
{
    return a * b + c;
}

/* c 2^(n/8) of math/coefficients.h for the integer n in the low bits of a. */
static inline VEC V(power)(VEC a)
{
    static const BITS entries[8] = {POWERS(FS_WHOLE)};
    BITS n = AS_BITS(a);
    return FROM_BITS(entries[n % 8] + (n << (FRACTION - 3)));
}

/* exponent: 2^23 (f64: 2^52) and the exponent's bits of a > 0, as an integer.
 * to_exponent: of an integer in the low bits of a number that has such exponent's
 * bits. */
static inline VEC V(exponent)(VEC a)
{
    return FROM_BITS(AS_BITS(a) >> FRACTION | AS_BITS((REAL)((BITS)1 << FRACTION)));
}
static inline VEC V(to_exponent)(VEC a)
{
    return FROM_BITS(AS_BITS(a) << FRACTION);
}

/* NaN answers no. */
static inline VEC V(if_equal)(VEC a, VEC b, VEC yes, VEC no)
{
    return a == b ? yes : no;
}
static inline VEC V(if_less)(VEC a, VEC b, VEC yes, VEC no)
{
    return a < b ? yes : no;
}

/* Whether a < b in some lane. */
static inline int V(any_less)(VEC a, VEC b)
{
    return a < b;
}

/* The maximum of all lanes, none of which is NaN. */
static inline REAL V(largest)(VEC a)
{
    return a;
}

/* A sum in double for each lane. wide_load, wide_store: one double a lane. wide_add,
 * wide_add_product: sum + a and sum + a * b for the lanes of the vectors at a and b,
 * where the product of two floats is exact. wide_total: all lanes added up, in an order
 * of the ISA's. */
typedef double V(wide);
static inline V(wide) V(wide_load)(const double *p)
{
    return *p;
}
static inline void V(wide_store)(double *p, V(wide) sum)
{
    *p = sum;
}
static inline V(wide) V(wide_add)(V(wide) sum, const REAL *a)
{
    return sum + (double)*a;
}
static inline V(wide) V(wide_add_product)(V(wide) sum, const REAL *a, const REAL *b)
{
    return sum + (double)*a * (double)*b;
}
static inline double V(wide_total)(V(wide) sum)
{
    return sum;
}

/* Four neighbours of each of `lanes` rows, `pitch` elements apart: lane j of v[i] is
 * p[j * pitch + i]. Row after row: where rows overlap, the last one stored stays. */
static inline void V(load_quads)(const REAL *p, ptrdiff_t pitch, VEC v[4])
{
    memcpy(v, p, 4 * sizeof *p);
    (void)pitch;
}
static inline void V(store_quads)(REAL *p, ptrdiff_t pitch, const VEC v[4])
{
    memcpy(p, v, 4 * sizeof *p);
    (void)pitch;
}

/* A store to an address aligned to the vector, past the caches where the ISA can. */
static inline void V(stream)(REAL *p, VEC a)
{
    *p = a;
}

#if IS_F32
/* Before anybody else may read what the thread has streamed. */
static inline void stream_fence(void)
{
}

/* All lanes of a and b added up in double, in an order of the ISA's. */
static inline double f32_sum_lanes(f32_vec a, f32_vec b)
{
    return (double)a + b;
}

/* f32_lanes 16-bit floats; stores round to nearest even, at any address. */
static inline VEC f32_load_f16(const uint16_t *p)
{
    return half_to_float(*p);
}
static inline void f32_store_f16(void *p, VEC a)
{
    uint16_t half = float_to_half(a);
    memcpy(p, &half, sizeof half);
}
static inline VEC f32_load_bf16(const uint16_t *p)
{
    return bfloat_to_float(*p);
}
static inline void f32_store_bf16(void *p, VEC a)
{
    uint16_t half = float_to_bfloat(a);
    memcpy(p, &half, sizeof half);
}
#endif
