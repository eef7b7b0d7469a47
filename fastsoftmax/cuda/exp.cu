/* The exponential, and what its terms are relative to: see rows.cu. Its numbers are
 * those of kernels/math/coefficients.h.
 */

/* Terms are exp(x) 2^(SPARE-k) for a k of the thread's own, near its largest x / ln 2:
 * terms relative to different k differ by a power of two, exactly.
 *
 * q(r) = (exp(r) - 1 - r) / r^2, the tail of exp. LN2_HI times n is exact. */
template <class A> struct Exp;

/* A polynomial, the highest power first. */
template <class A, class... C> DEVICE A polynomial(A r, A first, C... rest)
{
    ((first = fused(first, r, rest)), ...);
    return first;
}

template <> struct Exp<float> {
    static constexpr float LOG2_E = (float)FS_LOG2_E, MAGIC = 0x1.8p23f;
    static constexpr float LOG2_E_LO = (float)(FS_LOG2_E - (double)LOG2_E);
    static constexpr float LN2_HI = FS_LN2_15_F32, LN2_LO = FS_LN2_15_REST_F32;
    static constexpr float LARGE = 200, HALF_OF_RANGE = 0x1p127f;
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
        return polynomial(r, FS_EXP_TAIL_6);
    }
    /* 2^(n + SPARE) of n + MAGIC + BIAS, n >= -RANGE - 1; 0 for the least */
    static DEVICE float power(float n_bits)
    {
        return __uint_as_float(__float_as_uint(n_bits) << 23);
    }
};

template <> struct Exp<double> {
    static constexpr double LOG2_E = FS_LOG2_E, MAGIC = 0x1.8p52;
    static constexpr double LN2_HI = FS_LN2_HI, LN2_LO = FS_LN2_LO;
    static constexpr double LARGE = 1500, HALF_OF_RANGE = 0x1p1023;
    static constexpr double MOST = 277, FACTOR = 0x1p512;
    static constexpr double START = 0x1p107;
    /* Results below 2^-1022 are rounded from terms that are not. */
    static constexpr double UNIT = 0x1p-100;
    enum { SPARE = 100, BIAS = 1023 + SPARE, RANGE = 1022 + SPARE };
    static DEVICE double q(double r)
    {
        return polynomial(r, FS_EXP_TAIL_12);
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
        least = (k - (A)(E::RANGE + 1)) * (A)(FS_LN2_HI + FS_LN2_LO);
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

/* The same for logarithms, from the largest term on: none that is added is larger, and
 * beside that one term the smallest is kept, since twice a number is exact. */
template <class A> struct FromLargest {
    A largest, sum, lost = 0;
    explicit DEVICE FromLargest(A largest) : largest(largest), sum(largest)
    {
    }
    DEVICE void add(A term, int place)
    {
        A next = sum + term;
        lost += term - (next - sum);
        sum = next;
    }
    DEVICE Pair<A> total() const
    {
        A hi = sum - largest, lo = lost + ((sum - hi) - largest), whole = hi + lo;
        return pair(whole, lo - (whole - hi));
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
