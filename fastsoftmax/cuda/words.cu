/* The words that the CUDA kernels are made of: types in memory, packs of elements,
 * pairs of twice the precision. See rows.cu.
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
#if __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(0.0f), "f"(real));
    a->bits = (u16)both;
#else
    u32 bits = __float_as_uint(real);
    u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    a->bits = real != real ? (u16)0x7fff : (u16)rounded;
#endif
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

template <class W> DEVICE W load_word(const W *from)
{
    return *from;
}

/* From the compiler, which else computes sums with it anew wherever they are used, or
 * all of them ahead. */
template <class N> DEVICE void hide(N &number)
{
    asm volatile("" : "+l"(number));
}

/* What is read once need not stay in L1. Volatile: the loads of a thread stay in their
 * order, ahead of all that uses them. */
DEVICE uint4 load_word(const uint4 *from)
{
    uint4 word;
    asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(__cvta_generic_to_global(from)));
    return word;
}

/* The same without a branch. */
DEVICE void load_word_if(bool inside, const uint4 *from, uint4 *word)
{
    asm volatile("{ .reg .pred inside; setp.ne.s32 inside, %5, 0;"
                 "@inside ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4]; }"
                 : "+r"(word->x), "+r"(word->y), "+r"(word->z), "+r"(word->w)
                 : "l"(__cvta_generic_to_global(from)), "r"((int)inside));
}

template <class W> DEVICE void store_word(W *to, W word)
{
    *to = word;
}

/* In an unrolled loop the compiler may split a store of 8 or 16 bytes; not these. */
DEVICE void store_word(uint4 *to, uint4 word)
{
    asm volatile(
        "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
        "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
        : "memory");
}
DEVICE void store_word(uint2 *to, uint2 word)
{
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(word.x), "r"(word.y)
                 : "memory");
}

/* WHOLE: as one word, which then must begin on a boundary of its size. */
template <bool WHOLE, int N, class T> DEVICE Pack<T, N> load(const T *from)
{
    Bits<T, N> bits;
    if constexpr (WHOLE)
        bits.word = load_word(
            reinterpret_cast<const typename Word<sizeof(T) * N>::type *>(from));
    else
#pragma unroll
        for (int j = 0; j < N; j++) bits.pack.v[j] = from[j];
    return bits.pack;
}

/* Or leaves what is there. */
template <bool WHOLE, class T, int N>
DEVICE void load_if(bool inside, const T *from, Pack<T, N> *to)
{
    if constexpr (WHOLE && sizeof(T) * N == 16) {
        Bits<T, N> bits;
        bits.pack = *to;
        load_word_if(inside, reinterpret_cast<const uint4 *>(from), &bits.word);
        *to = bits.pack;
    } else if (inside)
        *to = load<WHOLE, N>(from);
}

/* From shared memory, and to it. */
template <int N, class T> DEVICE Pack<T, N> load_near(const T *from)
{
    Bits<T, N> bits;
    bits.word = *reinterpret_cast<const typename Word<sizeof(T) * N>::type *>(from);
    return bits.pack;
}
template <class T, int N> DEVICE void store_near(T *to, Pack<T, N> pack)
{
    Bits<T, N> bits;
    bits.pack = pack;
    *reinterpret_cast<typename Word<sizeof(T) * N>::type *>(to) = bits.word;
}

template <bool WHOLE, class T, int N> DEVICE void store(T *to, Pack<T, N> pack)
{
    Bits<T, N> bits;
    bits.pack = pack;
    if constexpr (WHOLE)
        store_word(reinterpret_cast<typename Word<sizeof(T) * N>::type *>(to),
                   bits.word);
    else
#pragma unroll
        for (int j = 0; j < N; j++) to[j] = pack.v[j];
}

#if __CUDA_ARCH__ >= 800
/* Two at once: the second goes to the upper half. */
DEVICE u32 two_of(const float *real, half_t)
{
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(real[1]), "f"(real[0]));
    return both;
}
DEVICE u32 two_of(const float *real, bf16_t)
{
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(real[1]), "f"(real[0]));
    return both;
}
#endif

template <class T, int N, class A> DEVICE Pack<T, N> rounded(const A (&real)[N])
{
    Pack<T, N> pack;
#if __CUDA_ARCH__ >= 800
    constexpr bool TWO = sizeof(T) == 2 && N % 2 == 0;
    if constexpr (TWO)
#pragma unroll
        for (int j = 0; j < N; j += 2)
            reinterpret_cast<u32 *>(&pack)[j / 2] = two_of(real + j, T());
    if constexpr (!TWO)
#endif
#pragma unroll
        for (int j = 0; j < N; j++) from_real(real[j], &pack.v[j]);
    return pack;
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

template <class A> DEVICE Pair<A> times(Pair<A> a, Pair<A> b)
{
    Pair<A> product = two_product(a.hi, b.hi);
    return pair(product.hi, fused(a.lo, b.hi, fused(a.hi, b.lo, product.lo)));
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
