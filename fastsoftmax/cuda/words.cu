/* The words that the CUDA kernels are made of: types in memory, packs of elements,
 * pairs of twice the precision, the exponential. See rows.cu.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define DEVICE __device__ __forceinline__

/* ---- types in memory, and the type computed in ---- */

struct half_t {
    u16 bits;
};
struct bf16_t {
    u16 bits;
};

template <class T> struct Computed {
    typedef float type;
};
template <> struct Computed<double> {
    typedef double type;
};

DEVICE float to_real(float a)
{
    return a;
}
DEVICE double to_real(double a)
{
    return a;
}
DEVICE float to_real(bf16_t a)
{
    return __uint_as_float((u32)a.bits << 16);
}
DEVICE float to_real(half_t a)
{
    float real;
    asm("cvt.f32.f16 %0, %1;" : "=f"(real) : "h"(a.bits));
    return real;
}

DEVICE void from_real(float real, float *a)
{
    *a = real;
}
DEVICE void from_real(double real, double *a)
{
    *a = real;
}
DEVICE void from_real(float real, half_t *a)
{
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(a->bits) : "f"(real));
}

/* To nearest, ties to even: adding just under half a unit carries where it should. A
 * NaN could carry into infinity. */
DEVICE void from_real(float real, bf16_t *a)
{
    u32 bits = __float_as_uint(real);
    u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    a->bits = real != real ? (u16)0x7fff : (u16)rounded;
}

template <class A> DEVICE A infinity()
{
    return (A)__uint_as_float(0x7f800000u);
}
template <class A> DEVICE A not_a_number()
{
    return (A)__uint_as_float(0x7fffffffu);
}
template <class A> DEVICE bool is_finite(A a)
{
    return a - a == (A)0;
}

/* ---- memory: N elements at once, at most 16 bytes ---- */

template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

template <int BYTES> struct Word;
template <> struct Word<16> {
    typedef uint4 type;
};
template <> struct Word<8> {
    typedef uint2 type;
};
template <> struct Word<4> {
    typedef u32 type;
};
template <> struct Word<2> {
    typedef u16 type;
};
template <> struct Word<1> {
    typedef u8 type;
};

template <class T, int N> union Bits {
    Pack<T, N> pack;
    typename Word<sizeof(T) * N>::type word;
    DEVICE Bits()
    {
    }
};

template <int N, class T> DEVICE Pack<T, N> load(const T *from)
{
    Bits<T, N> bits;
    bits.word = *reinterpret_cast<const typename Word<sizeof(T) * N>::type *>(from);
    return bits.pack;
}

/* The same of x, -inf where a mask (or NULL) takes elements out. */
template <int N, class T>
DEVICE Pack<T, N> load_kept(const T *x, const u8 *mask, i64 at)
{
    Pack<T, N> pack = load<N>(x + at);
    if (!mask)
        return pack;
    Pack<u8, N> kept = load<N>(mask + at);
#pragma unroll
    for (int j = 0; j < N; j++)
        if (!kept.v[j])
            from_real(-infinity<typename Computed<T>::type>(), &pack.v[j]);
    return pack;
}

template <class W> DEVICE void store_word(W *to, W word)
{
    *to = word;
}

/* In an unrolled loop the compiler may split a store of 16 bytes into four; not this
 * one. */
DEVICE void store_word(uint4 *to, uint4 word)
{
    asm volatile(
        "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
        "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
        : "memory");
}

template <class T, int N> DEVICE void store(T *to, Pack<T, N> pack)
{
    Bits<T, N> bits;
    bits.pack = pack;
    store_word(reinterpret_cast<typename Word<sizeof(T) * N>::type *>(to), bits.word);
}

template <class T, int N> DEVICE void store_shared(T *to, Pack<T, N> pack)
{
    Bits<T, N> bits;
    bits.pack = pack;
    *reinterpret_cast<typename Word<sizeof(T) * N>::type *>(to) = bits.word;
}

/* ---- sums of twice the precision ---- */

template <class A> struct Pair {
    A hi, lo;
};

template <class A> DEVICE Pair<A> pair(A hi, A lo)
{
    Pair<A> both = {hi, lo};
    return both;
}

/* a + b = hi + lo exactly (Knuth). */
template <class A> DEVICE Pair<A> two_sum(A a, A b)
{
    A hi = a + b, b_in = hi - a;
    return pair(hi, (a - (hi - b_in)) + (b - b_in));
}

DEVICE float fused(float a, float b, float c)
{
    return __fmaf_rn(a, b, c);
}
DEVICE double fused(double a, double b, double c)
{
    return __fma_rn(a, b, c);
}

/* a b = hi + lo exactly. */
template <class A> DEVICE Pair<A> two_product(A a, A b)
{
    A hi = a * b;
    return pair(hi, fused(a, b, -hi));
}

template <class A> DEVICE Pair<A> plus(Pair<A> a, Pair<A> b)
{
    Pair<A> sum = two_sum(a.hi, b.hi);
    return pair(sum.hi, sum.lo + (a.lo + b.lo));
}

template <class A> DEVICE Pair<A> plus(Pair<A> a, A b)
{
    Pair<A> sum = two_sum(a.hi, b);
    return pair(sum.hi, sum.lo + a.lo);
}

template <class A> DEVICE Pair<A> times(Pair<A> a, A b)
{
    Pair<A> product = two_product(a.hi, b);
    return pair(product.hi, fused(a.lo, b, product.lo));
}

/* Where hi is infinite or NaN, lo is NaN, and says nothing. */
template <class A> DEVICE Pair<A> settled(Pair<A> a)
{
    return pair(a.hi, is_finite(a.hi) ? a.lo : (A)0);
}

/* Sums that may cancel, or leave the range: of floats in double, where their products
 * are exact; of doubles in a pair. */
template <class A> struct Total;
template <> struct Total<float> {
    double sum;
};
template <> struct Total<double> {
    Pair<double> sum;
};

DEVICE Total<float> plus(Total<float> a, Total<float> b)
{
    a.sum += b.sum;
    return a;
}
DEVICE Total<float> plus(Total<float> a, float b)
{
    a.sum += (double)b;
    return a;
}
DEVICE Total<float> plus_product(Total<float> a, float b, float c)
{
    a.sum = __fma_rn((double)b, (double)c, a.sum);
    return a;
}
DEVICE Total<float> times(Total<float> a, float b)
{
    a.sum *= (double)b;
    return a;
}
DEVICE Pair<double> value_of(Total<float> a)
{
    return pair(a.sum, 0.0);
}
DEVICE Pair<float> pair_of(Total<float> a)
{
    float hi = (float)a.sum;
    return pair(hi, is_finite(hi) ? (float)(a.sum - (double)hi) : 0.0f);
}

template <class B> DEVICE Total<double> plus_any(Total<double> a, B b)
{
    a.sum = plus(a.sum, b);
    return a;
}
DEVICE Total<double> plus(Total<double> a, Total<double> b)
{
    return plus_any(a, b.sum);
}
DEVICE Total<double> plus(Total<double> a, double b)
{
    return plus_any(a, b);
}
DEVICE Total<double> plus_product(Total<double> a, double b, double c)
{
    return plus_any(a, two_product(b, c));
}
DEVICE Total<double> times(Total<double> a, double b)
{
    a.sum = times(a.sum, b);
    return a;
}
DEVICE Pair<double> value_of(Total<double> a)
{
    Pair<double> settled_sum = settled(a.sum);
    return is_finite(settled_sum.hi) ? two_sum(settled_sum.hi, settled_sum.lo)
                                     : settled_sum;
}
DEVICE Pair<double> pair_of(Total<double> a)
{
    return settled(a.sum);
}

template <class A> DEVICE Total<A> no_total()
{
    Total<A> total = {};
    return total;
}

/* Quotients by one number, which has a normal inverse, rounded as division rounds them
 * where q by does not underflow (Markstein): x / by = q + rest / by. */
template <class A> struct Divisor {
    A by, inverse;

    DEVICE Divisor(A by) : by(by), inverse((A)1 / by)
    {
    }
    DEVICE bool is_one() const
    {
        return by == (A)1;
    }
    DEVICE A divide(A x) const
    {
        A q = x * inverse, rest = fused(-q, by, x);
        return is_finite(q) ? fused(rest, inverse, q) : q;
    }
};

/* ---- the exponential ---- */

template <class A> struct Exp;

/* q(r) = (exp(r) - 1 - r) / r^2 on |r| <= 1.002 ln(2)/2, minimax; relative error of
 * exp(r) 2^-28.2 (double: 2^-60.8). LN2_HI times n is exact. */
template <> struct Exp<float> {
    static constexpr float LOG2_E = 0x1.715476p+0f, MAGIC = 0x1.8p23f;
    static constexpr float LN2_HI = 0x1.62e4p-1f, LN2_LO = 0x1.7f7d1cp-20f;
    static constexpr float LEAST = -87.5f; /* n >= -126; exp is below 2^-126, flushed */
    static constexpr float MOST = 41.4f,
                           SPARE = 0x1p64f; /* exp(MOST) SPARE is finite */
    static DEVICE float q(float r)
    {
        float t = 0x1.6a415ep-10f;
        t = fused(t, r, 0x1.1239c6p-7f);
        t = fused(t, r, 0x1.5558bcp-5f);
        t = fused(t, r, 0x1.555492p-3f);
        return fused(t, r, 0x1.fffffcp-2f);
    }
    /* 2^n (1 + p) of the n that MAGIC left in the low bits */
    static DEVICE float scaled(float n_bits, float p)
    {
        float scale = __uint_as_float((__float_as_uint(n_bits) + 127) << 23);
        return fused(scale, p, scale);
    }
};

template <> struct Exp<double> {
    static constexpr double LOG2_E = 0x1.71547652b82fep+0, MAGIC = 0x1.8p52;
    static constexpr double LN2_HI = 0x1.62e42fefa4p-1, LN2_LO = -0x1.8432a1b0e2634p-43;
    static constexpr double LEAST =
        -745.2; /* exp is below 2^-1075, which rounds to 0 */
    static constexpr double MOST = 352, SPARE = 0x1p512;
    static DEVICE double q(double r)
    {
        double t = 0x1.21005db32d31dp-29;
        t = fused(t, r, 0x1.af5b295a2c2c6p-26);
        t = fused(t, r, 0x1.27e3ef32cd1adp-22);
        t = fused(t, r, 0x1.71ddfa386c39fp-19);
        t = fused(t, r, 0x1.a01a020ab93b2p-16);
        t = fused(t, r, 0x1.a01a01af38c3dp-13);
        t = fused(t, r, 0x1.6c16c16c044f0p-10);
        t = fused(t, r, 0x1.111111110f822p-7);
        t = fused(t, r, 0x1.555555555557dp-5);
        t = fused(t, r, 0x1.5555555555559p-3);
        return fused(t, r, 0.5);
    }
    /* Subnormal results are rounded once, by the last multiplication. */
    static DEVICE double scaled(double n_bits, double p)
    {
        bool small = n_bits < MAGIC - 960;
        i64 exponent = __double_as_longlong(n_bits) + (small ? 1023 + 128 : 1023);
        double scale = __longlong_as_double(exponent << 52);
        return fused(scale, p, scale) * (small ? 0x1p-128 : 1.0);
    }
};

/* exp(d + lost) for d < MOST and |lost| below half a unit of d: within 0.9 ULP. 0 for a
 * NaN, and for all at or below LEAST. */
template <class A> DEVICE A exp_of(A d, A lost)
{
    typedef Exp<A> E;
    A n_bits = fused(d, E::LOG2_E, E::MAGIC), n = n_bits - E::MAGIC;
    /* r = a + b, |r| <= 0.35; a is exact, and the rounding of r counts for its square
     * only */
    A a = fused(n, -E::LN2_HI, d), b = fused(n, -E::LN2_LO, lost), r = a + b;
    A p = a + fused(r * r, E::q(r), b);
    return d > E::LEAST ? E::scaled(n_bits, p) : (A)0;
}

/* exp(x - peak), at most 1. 0 if either is infinite or NaN. */
template <class A> DEVICE A exp_difference(A x, A peak)
{
    Pair<A> d = two_sum(x, -peak);
    return exp_of(d.hi, d.lo);
}

/* exp(from - to): makes what is relative to one peak relative to another. */
template <class A> DEVICE A exp_between(A from, A to)
{
    return from == to ? (A)1 : exp_difference(from, to);
}

/* The larger one; a NaN is larger than everything. */
template <class A> DEVICE A larger(A a, A b)
{
    return (a > b || a != a) ? a : b;
}

DEVICE float log1p_of(float a)
{
    return log1pf(a);
}
DEVICE double log1p_of(double a)
{
    return log1p(a);
}
