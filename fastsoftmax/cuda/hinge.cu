/* What the hinge losses do with an element and a row: see rows.cu.
 */

/* ---- operations: hinge losses ---- */

enum { NOTHING = 0, GRADIENT = 1, PAIRS = 2 }; /* what is written beside the losses */

/* A row has a positive score s+ and others; its terms are t = max(0, margin - s+ + s)^p
 * over the others that count. margin - s+ is kept as a pair: a term is within 1 ULP. */
template <class T> struct HingeFamily {
    typedef T Type;
    typedef typename Computed<T>::type Real;
    enum { INPUTS = 1, HAS_RESULTS = 1 };
    struct Item {
        Real s;
    };

    const T *scores;
    const u8 *mask;
    const T *positives;    /* one a row; NULL: they are among the scores */
    const i64 *labels;     /* where, if in [0, n); NULL: in column 0 */
    const double *weights; /* of rows; NULL: 1 */
    Real *losses;          /* OUT: of rows; may be NULL */
    double *parts;         /* OUT: the same, to be added up; may be NULL */
    T *out_positives;      /* OUT: gradient of `positives` */
    Real margin;
    double scale; /* of the gradient */
    int p, written;

    i64 first; /* where the row begins */
    i64 label; /* -1: the positive is not in the row */
    Pair<Real> base;
    Real slope; /* the gradient is slope t^(p-1), pairs are slope t^p */
    double weight;

    DEVICE HingeFamily(const void *x, const void *second, void *y, Real temperature,
                       const T *positives, const i64 *labels, const double *weights,
                       Real *losses, double *parts, T *out_positives, Real margin,
                       double scale, int p, int written)
        : scores((const T *)x), mask((const u8 *)second), positives(positives),
          labels(labels), weights(weights), losses(losses), parts(parts),
          out_positives(out_positives), margin(margin), scale(scale), p(p),
          written(written)
    {
    }

    template <int N> DEVICE void fetch(i64 at, Pack<T, N> raw[1]) const
    {
        raw[0] = load_kept<N>(scores, mask, at);
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[1], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) item[j].s = to_real(raw[0].v[j]);
    }
    DEVICE void begin(i64 row, i64 n)
    {
        first = row * n;
        label = positives ? -1 : labels ? labels[row] : 0;
        bool known = positives || (0 <= label && label < n);
        Real positive = not_a_number<Real>();
        if (known)
            positive = to_real(positives ? positives[row] : scores[first + label]);
        else
            label = -1; /* all terms are NaN */
        base = two_sum(margin, -positive);
        base.lo = is_finite(base.hi) ? base.lo : (Real)0;
        weight = weights ? weights[row] : 1.0;
        slope = (Real)(written == GRADIENT ? weight * scale * p : weight);
    }
    DEVICE bool must_look_again() const
    {
        return false;
    }
    DEVICE bool masked_out(i64 at) const
    {
        return false;
    }
    static DEVICE Real masked_result()
    {
        return 0;
    }
    /* Masked scores are -inf, whose terms are 0 unless s+ is -inf, too, or NaN. */
    DEVICE bool counts(Item item, i64 index) const
    {
        u8 kept = 1;
        if (mask && item.s == -infinity<Real>() && !(base.hi < infinity<Real>()))
            kept = mask[first + index];
        return index != label && kept;
    }
    DEVICE Real term_of(Real s) const
    {
        Real t = (s + base.hi) + base.lo;
        return t < (Real)0 ? (Real)0 : t;
    }
    /* NaN where t is, 0 where t is, whatever the weight. */
    DEVICE Real slope_of(Real t) const
    {
        return t > (Real)0 ? (p == 1 ? slope : t * slope) : t;
    }
    DEVICE void write_loss(i64 row, double loss, double slopes) const
    {
        loss = loss == 0 ? 0 : loss * weight;
        if (losses)
            losses[row] = (Real)loss;
        if (parts)
            parts[row] = loss;
        if (out_positives)
            from_real((Real)(0 - slopes), out_positives + row);
    }
};

/* The sum of a row's terms (Weston-Watkins), and the terms themselves. */
template <class T> struct HingeSum : HingeFamily<T> {
    typedef HingeFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    enum { HAS_PEAK = 0, HAS_SUM = 1 };
    using Family::Family;
    struct Peak {};
    struct Sum {
        Total<Real> terms, slopes;
    };
    double loss, slopes;

    static DEVICE Peak no_peak()
    {
        return Peak();
    }
    DEVICE Peak peak_of(Item item, i64 index) const
    {
        return Peak();
    }
    static DEVICE Peak join(Peak a, Peak b)
    {
        return a;
    }
    DEVICE void set_peak(Peak found)
    {
    }
    static DEVICE Sum no_sum()
    {
        Sum sum = {no_total<Real>(), no_total<Real>()};
        return sum;
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.terms, b.terms), plus(a.slopes, b.slopes)};
        return sum;
    }
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        return sum;
    }

    DEVICE void again(Item *item, i64 index) const
    {
        item->s = this->counts(*item, index) ? this->term_of(item->s) : (Real)0;
    }
    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
        again(item, index);
        Real t = item->s;
        sum->terms =
            this->p == 1 ? plus(sum->terms, t) : plus_product(sum->terms, t, t);
        if (this->written == GRADIENT)
            sum->slopes = plus(sum->slopes, this->slope_of(t));
    }
    DEVICE void finish(Sum sum)
    {
        loss = value_of(sum.terms).hi;
        slopes = value_of(sum.slopes).hi;
    }
    DEVICE Real result(Item item, i64 index) const
    {
        Real t = item.s;
        if (this->written == GRADIENT)
            return index == this->label ? (Real)(0 - slopes) : this->slope_of(t);
        return t > (Real)0 ? (this->p == 1 ? t : t * t) * this->slope : t;
    }
    DEVICE void write_row(i64 row) const
    {
        this->write_loss(row, loss, slopes);
    }
};

/* The largest term of a row (Crammer-Singer): that of the largest score, the first of
 * equals; a NaN is the largest. */
template <class T> struct HingeLargest : HingeFamily<T> {
    typedef HingeFamily<T> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    enum { HAS_PEAK = 1, HAS_SUM = 0 };
    using Family::Family;
    struct Peak {
        i64 index;      /* -1: nowhere */
        Real s, unused; /* no gap, which lanes would exchange undefined */
    };
    struct Sum {};
    Real t;
    i64 best;

    static DEVICE Peak no_peak()
    {
        Peak peak = {-1, -infinity<Real>(), 0};
        return peak;
    }
    DEVICE Peak peak_of(Item item, i64 index) const
    {
        Real z = item.s + this->base.hi;
        Peak peak = {index, z != z ? z : item.s, 0};
        if (!this->counts(item, index) || peak.s == -infinity<Real>())
            peak = no_peak();
        return peak;
    }
    static DEVICE Peak join(Peak a, Peak b)
    {
        bool a_nan = a.s != a.s, b_nan = b.s != b.s;
        bool equal = a.s == b.s || (a_nan && b_nan);
        bool a_first = (unsigned long long)a.index <= (unsigned long long)b.index;
        bool a_larger = a_nan || (a.s > b.s && !b_nan);
        return (equal ? a_first : a_larger) ? a : b;
    }
    DEVICE void set_peak(Peak found)
    {
        best = found.index;
        t = best < 0 ? (Real)0 : this->term_of(found.s);
    }
    static DEVICE Sum no_sum()
    {
        return Sum();
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        return a;
    }
    static DEVICE Sum relative(Sum sum, Peak from, Peak to)
    {
        return sum;
    }
    DEVICE void add(Sum *sum, Item *item, i64 index) const
    {
    }
    DEVICE void again(Item *item, i64 index) const
    {
    }
    DEVICE void finish(Sum sum)
    {
    }
    DEVICE Real result(Item item, i64 index) const
    {
        if (index == this->label)
            return (Real)0 - this->slope_of(t);
        return index == best ? this->slope_of(t) : (Real)0;
    }
    DEVICE void write_row(i64 row) const
    {
        double term = this->p == 1 ? (double)t : (double)t * (double)t;
        this->write_loss(row, term, this->slope_of(t));
    }
};
