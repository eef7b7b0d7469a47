/* What the hinge losses do with an element and a row: see rows.cu.
 */

/* ---- what losses have in common ---- */

/* What rows weigh, and where their losses go. */
template <class Real> struct RowLosses {
    const i64 *labels;     /* of rows; or NULL */
    const double *weights; /* of rows; NULL: 1; 0: the row does not count */
    const double *total;   /* divides the gradient; NULL: 1 */
    Real *losses;          /* OUT: of rows; may be NULL */
    double *parts;         /* OUT: the same, to be added up; may be NULL */
    double scale;          /* of the gradient */

    DEVICE double weight_of(i64 number) const
    {
        return weights ? weights[number] : 1.0;
    }
    /* Over what counts, which is known on the device alone; 0 where nothing does. */
    DEVICE double scale_by_total() const
    {
        return !total ? scale : *total == 0 ? 0 : scale / *total;
    }
    DEVICE void write(i64 number, double loss, double weight) const
    {
        loss = weight == 0 || loss == 0 ? 0 : loss * weight;
        if (losses)
            losses[number] = (Real)loss;
        if (parts)
            parts[number] = loss;
    }
};

/* ---- operations: hinge losses ---- */

/* A row has a positive score s+ and others; its terms are t = max(0, margin - s+ + s)^p
 * over the others that count. margin - s+ is kept as a pair: a term is within 1 ULP. */
template <class T, class S> struct HingeFamily : Summing<T, S> {
    typedef typename Computed<T>::type Real;
    enum { INPUTS = 1, HAS_RESULTS = 1 };
    struct Item {
        Real s;
    };
    struct Row {
        i64 n, first; /* its length, where it begins */
        i64 label;    /* -1: the positive is not in the row */
        Pair<Real> base;
        Real slope; /* the gradient is slope t^(p-1), pairs are slope t^p */
        double weight, loss, slopes;
        i64 best; /* where the largest term t is */
        Real t;
    };

    const T *in[1]; /* scores */
    const u8 *mask;
    RowLosses<Real> rows; /* a label is where the positive is; NULL: in column 0 */
    const T *positives;   /* one a row; NULL: they are among the scores */
    T *out_positives;     /* OUT: gradient of `positives` */
    Real margin;
    int p, written;

    DEVICE HingeFamily(const void *x, const void *second, void *y, Real temperature,
                       const i64 *labels, const double *weights, const double *total,
                       Real *losses, double *parts, double scale, const T *positives,
                       T *out_positives, Real margin, int p, int written)
        : in{(const T *)x}, mask((const u8 *)second),
          rows{labels, weights, total, losses, parts, scale}, positives(positives),
          out_positives(out_positives), margin(margin), p(p), written(written)
    {
    }
    static DEVICE Real neutral(int input)
    {
        return -infinity<Real>();
    }
    template <int N> DEVICE void items(const Pack<T, N> raw[1], Item *item) const
    {
#pragma unroll
        for (int j = 0; j < N; j++) item[j].s = to_real(raw[0].v[j]);
    }
    DEVICE Row begin(i64 number, i64 n) const
    {
        Row row = {};
        row.n = n;
        row.first = number * n;
        row.label = positives ? -1 : rows.labels ? rows.labels[number] : 0;
        bool known = positives || (0 <= row.label && row.label < n);
        Real positive = not_a_number<Real>();
        if (known)
            positive =
                to_real(positives ? positives[number] : in[0][row.first + row.label]);
        else
            row.label = -1; /* all terms are NaN */
        row.base = settled(two_sum(margin, -positive));
        row.weight = rows.weight_of(number);
        row.slope =
            (Real)(written == FS_GRADIENT ? row.weight * rows.scale_by_total() * p
                                          : row.weight);
        return row;
    }
    /* Masked scores and those beyond the end are -inf, whose terms are 0 unless s+ is
     * -inf, too, or NaN. */
    DEVICE bool counts(const Row &row, Item item, i64 index) const
    {
        bool kept = row.weight != 0; /* else it adds nothing, whatever it holds */
        if (item.s == -infinity<Real>() && !(row.base.hi < infinity<Real>()))
            kept = kept && index < row.n && (!mask || mask[row.first + index]);
        return index != row.label && kept;
    }
    static DEVICE Real term_of(const Row &row, Real s)
    {
        Real t = (s + row.base.hi) + row.base.lo;
        return t < (Real)0 ? (Real)0 : t;
    }
    /* NaN where t is, 0 where t is, whatever the weight. */
    DEVICE Real slope_of(const Row &row, Real t) const
    {
        return t > (Real)0 ? (p == 1 ? row.slope : t * row.slope) : t;
    }
    DEVICE void write_row(const Row &row, i64 number) const
    {
        rows.write(number, row.loss, row.weight);
        if (out_positives)
            from_real((Real)(0 - row.slopes), out_positives + number);
    }
};

/* The sum of a row's terms (Weston-Watkins), and the terms themselves. */
template <class A> struct HingeTotals {
    Total<A> terms, slopes;
};
template <class T>
struct HingeSum : HingeFamily<T, HingeTotals<typename Computed<T>::type>> {
    typedef HingeTotals<typename Computed<T>::type> Sum;
    typedef HingeFamily<T, Sum> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Row Row;
    enum { HAS_PEAK = 0, HAS_SUM = 1, KEEPS = 1 };
    using Family::Family;
    struct Peak {};

    static DEVICE Peak no_peak()
    {
        return Peak();
    }
    static DEVICE Sum join(Sum a, Sum b)
    {
        Sum sum = {plus(a.terms, b.terms), plus(a.slopes, b.slopes)};
        return sum;
    }
    DEVICE void again(const Row &row, Item *item, i64 index) const
    {
        item->s =
            this->counts(row, *item, index) ? this->term_of(row, item->s) : (Real)0;
    }
    DEVICE void add(const Row &row, Sum *sum, Item *item, i64 index, int place) const
    {
        again(row, item, index);
        Real t = item->s;
        sum->terms =
            this->p == 1 ? plus(sum->terms, t) : plus_product(sum->terms, t, t);
        if (this->written == FS_GRADIENT)
            sum->slopes = plus(sum->slopes, this->slope_of(row, t));
    }
    DEVICE void finish(Row &row, Peak peak, Sum sum) const
    {
        row.loss = value_of(sum.terms).hi;
        row.slopes = value_of(sum.slopes).hi;
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        Real t = item.s;
        if (this->written == FS_GRADIENT)
            return index == row.label ? (Real)(0 - row.slopes) : this->slope_of(row, t);
        return t > (Real)0 ? (this->p == 1 ? t : t * t) * row.slope : t;
    }
};

/* The largest term of a row (Crammer-Singer): that of the largest score, the first of
 * equals; a NaN is the largest. */
struct NoSum {};
template <class T> struct HingeLargest : HingeFamily<T, NoSum> {
    typedef HingeFamily<T, NoSum> Family;
    typedef typename Family::Real Real;
    typedef typename Family::Item Item;
    typedef typename Family::Row Row;
    enum { HAS_PEAK = 1, HAS_SUM = 0, READS_AGAIN = 0 };
    using Family::Family;
    struct Peak {
        i64 index;      /* -1: nowhere */
        Real s, unused; /* no gap, which lanes would exchange undefined */
    };

    static DEVICE Peak no_peak()
    {
        Peak peak = {-1, -infinity<Real>(), 0};
        return peak;
    }
    DEVICE Peak peak_of(const Row &row, Item item, i64 index) const
    {
        Real z = item.s + row.base.hi;
        Peak peak = {index, z != z ? z : item.s, 0};
        if (!this->counts(row, item, index) || peak.s == -infinity<Real>())
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
    static DEVICE void take_peak(Row &row, Peak peak)
    {
    }
    DEVICE void finish(Row &row, Peak peak, NoSum) const
    {
        row.best = peak.index;
        row.t = row.best < 0 ? (Real)0 : this->term_of(row, peak.s);
        row.loss = this->p == 1 ? (double)row.t : (double)row.t * (double)row.t;
        row.slopes = this->slope_of(row, row.t);
    }
    DEVICE Real result(const Row &row, Item item, i64 index) const
    {
        if (index == row.label)
            return (Real)0 - this->slope_of(row, row.t);
        return index == row.best ? this->slope_of(row, row.t) : (Real)0;
    }
};
