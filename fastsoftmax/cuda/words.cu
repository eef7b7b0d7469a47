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

/* ---- the exponential ---- */

/* Terms are exp(x) 2^(SPARE-k) for a k of the thread's own, near its largest x / ln 2:
 * terms relative to different k differ by a power of two, exactly.
 *
 * q(r) = (exp(r) - 1 - r) / r^2 on |r| <= 1.002 ln(2)/2, minimax; relative error of
 * exp(r) 2^-28.2 (double: 2^-60.8). LN2_HI times n is exact. */
template <class A> struct Exp;

template <> struct Exp<float> {
    static constexpr float LOG2_E = 0x1.715476p+0f, MAGIC = 0x1.8p23f;
    static constexpr float LOG2_E_LO = 0x1.4ae0cp-26f;
    static constexpr float LN2_HI = 0x1.62e4p-1f, LN2_LO = 0x1.7f7d1cp-20f;
    static constexpr float LARGE = 200;
    static constexpr float MOST = 41.4f,
                           FACTOR = 0x1p64f; /* exp(MOST) FACTOR is finite */
    /* Terms that may be added to START, 32 at most, never leave its binade. */
    static constexpr float START = 128;
    static constexpr float UNIT = 1; /* 2^-SPARE */
    enum {
        SPARE = 0,
        BIAS = 127 + SPARE,
        RANGE = 126
    }; /* terms below 2^-RANGE are 0 */
    static DEVICE float q(float r)
    {
        float t = 0x1.6a415ep-10f;
        t = fused(t, r, 0x1.1239c6p-7f);
        t = fused(t, r, 0x1.5558bcp-5f);
        t = fused(t, r, 0x1.555492p-3f);
        return fused(t, r, 0x1.fffffcp-2f);
    }
    /* 2^(n + SPARE) of n + MAGIC + BIAS, n >= -RANGE - 1; 0 for the least */
    static DEVICE float power(float n_bits)
    {
        return __uint_as_float(__float_as_uint(n_bits) << 23);
    }
};

template <> struct Exp<double> {
    static constexpr double LOG2_E = 0x1.71547652b82fep+0, MAGIC = 0x1.8p52;
    static constexpr double LN2_HI = 0x1.62e42fefa4p-1, LN2_LO = -0x1.8432a1b0e2634p-43;
    static constexpr double LARGE = 1500, MOST = 277, FACTOR = 0x1p512;
    static constexpr double START = 0x1p107;
    /* Results below 2^-1022 are rounded from terms that are not. */
    static constexpr double UNIT = 0x1p-100;
    enum { SPARE = 100, BIAS = 1023 + SPARE, RANGE = 1022 + SPARE };
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
    static DEVICE double power(double n_bits)
    {
        return __hiloint2double((int)((u32)__double_as_longlong(n_bits) << 20), 0);
    }
};

DEVICE float least_of(float a, float b)
{
    return fminf(a, b);
}
DEVICE double least_of(double a, double b)
{
    return fmin(a, b);
}
DEVICE float most_of(float a, float b)
{
    return fmaxf(a, b);
}
DEVICE double most_of(double a, double b)
{
    return fmax(a, b);
}

/* What terms are relative to: k, as MAGIC + BIAS - k; below `least` they are 0. */
template <class A> struct Shift {
    A k, magic, least;

    /* For the largest x of a thread or a row, be it infinite. */
    explicit DEVICE Shift(A x)
    {
        typedef Exp<A> E;
        x = most_of(least_of(x, E::LARGE), -E::LARGE);
        k = fused(x, E::LOG2_E, E::MAGIC) - E::MAGIC;
        magic = E::MAGIC + (A)E::BIAS - k;
        least = (k - (A)(E::RANGE + 1)) * (A)0x1.62e42fefa39efp-1;
    }
};

/* exp(x) 2^(SPARE-k) = power (1 + p), x up to some k ln 2; 0 for a NaN. p = exp(r) - 1
 * for |r| <= 0.35, to 0.3 ULP of 1. */
template <class A> struct Term {
    A power, p;

    DEVICE Term(A x, const Shift<A> &shift)
    {
        typedef Exp<A> E;
        x = most_of(x, shift.least);
        A n_bits = fused(x, E::LOG2_E, shift.magic), n = n_bits - shift.magic;
        A r = fused(n, -E::LN2_LO, fused(n, -E::LN2_HI, x));
        p = fused(r * r, E::q(r), r);
        power = E::power(n_bits);
    }
};

/* The same as a number: within 0.8 ULP. */
template <class T> struct Terms {
    static DEVICE T of(T x, const Shift<T> &shift)
    {
        Term<T> term(x, shift);
        return fused(term.power, term.p, term.power);
    }
};

/* What is rounded to 16 bits in the end: within 2 ULP of float32. */
template <> struct Terms<half_t> {
    static DEVICE float of(float x, const Shift<float> &shift)
    {
        typedef Exp<float> E;
        x = most_of(x, shift.least);
        float n_bits = fused(x, E::LOG2_E, shift.magic), n = n_bits - shift.magic, e;
        float f = fused(x, E::LOG2_E_LO, fused(x, E::LOG2_E, -n));
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(f));
        return e * E::power(n_bits);
    }
};
template <> struct Terms<bf16_t> : Terms<half_t> {};

/* A sum of at most 32 terms as hi + lo: adding to START splits each exactly. */
template <class A> struct Compensated {
    A sum = Exp<A>::START, lost = 0;
    DEVICE void add(A term, int place)
    {
        A next = sum + term;
        lost += term - (next - sum);
        sum = next;
    }
    DEVICE Pair<A> total() const
    {
        A hi = sum - Exp<A>::START, whole = hi + lost;
        return pair(whole, lost - (whole - hi));
    }
};

/* The same for logarithms: beside one large term the smallest is kept. */
template <class A> struct Exact {
    Pair<A> sum = {0, 0};
    DEVICE void add(A term, int place)
    {
        sum = plus(sum, term);
    }
    DEVICE Pair<A> total() const
    {
        return sum;
    }
};

/* The sum of as many to 1 ULP, of which softmaxes of 16 bits keep nothing. */
struct Plain {
    float sums[4] = {0, 0, 0, 0};
    DEVICE void add(float term, int place)
    {
        sums[place % 4] += term;
    }
    DEVICE Pair<float> total() const
    {
        return pair((sums[0] + sums[1]) + (sums[2] + sums[3]), 0.0f);
    }
};

/* Where terms have their 1: at exp(base) 2^k. A peak from LARGE on is subtracted first,
 * which is exact for all x that count beside it; else base is 0. */
template <class A> struct Frame {
    A base;
    Shift<A> shift;

    explicit DEVICE Frame(A peak)
        : base(is_finite(peak) && fabs(peak) >= Exp<A>::LARGE ? peak : (A)0),
          shift(peak - base)
    {
    }
};

/* What makes terms of one frame those of another, of a peak as large or larger: times
 * `by` and a power of two, which is 0 below the range. Without bases `by` is 1. */
template <class A> struct Move {
    Pair<A> by;
    A power;

    DEVICE Move(const Frame<A> &from, const Frame<A> &to) : by(pair((A)1, (A)0))
    {
        typedef Exp<A> E;
        A d = from.shift.k - to.shift.k;
        power = E::power(most_of(d, (A)(-E::RANGE - 1)) + (E::MAGIC + (A)E::BIAS)) *
                E::UNIT;
        if (from.base == (A)0 && to.base == (A)0)
            return;
        /* The logarithm as a pair: d times LN2_HI is exact. */
        Pair<A> apart = two_sum(from.base, -to.base);
        Pair<A> log = two_sum(d * E::LN2_HI, apart.hi);
        Term<A> term(log.hi, Shift<A>((A)0));
        power = term.power * E::UNIT;
        if (!(-2 * E::LARGE < log.hi && log.hi < (A)1)) { /* far below, or nothing */
            power = 0;
            return;
        }
        by.hi = (A)1 + term.p;
        by.lo = fused(by.hi, log.lo + fused(d, E::LN2_LO, apart.lo),
                      term.p - (by.hi - (A)1));
    }
    DEVICE Pair<A> operator()(Pair<A> a) const
    {
        a = times(a, by);
        return pair(a.hi * power, a.lo * power);
    }
};

DEVICE Total<float> moved(Total<float> a, const Move<float> &move)
{
    a.sum = a.sum * ((double)move.by.hi + (double)move.by.lo) * (double)move.power;
    return a;
}
DEVICE Total<double> moved(Total<double> a, const Move<double> &move)
{
    a.sum = move(a.sum);
    return a;
}

/* The larger one; a NaN is larger than everything. */
DEVICE double larger(double a, double b)
{
    return (a > b || a != a) ? a : b;
}
DEVICE float larger(float a, float b)
{
#if __CUDA_ARCH__ >= 800
    float most;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(most) : "f"(a), "f"(b));
    return most;
#else
    return (a > b || a != a) ? a : b;
#endif
}

DEVICE float log1p_of(float a)
{
    return log1pf(a);
}
DEVICE double log1p_of(double a)
{
    return log1p(a);
}
