// Sweeps over a tile of contiguous rows: a vector holds classes of one row. The last vector of a row is read and
// written shifted, and what it repeats is left out. Sums of a row stay four numbers until those of all rows are added
// up side by side: so no row waits for another one's.
#pragma once

#include "few.h"

namespace crossent {
namespace {

template <class Storage, class Out>
class FewAlong {
    using T = typename Compute<Storage>::type;
    using Int = typename Limits<T>::Int;
    static constexpr int64_t size = lanes<T>;

  public:
    explicit FewAlong(FewRows<T>& rows) : rows_(rows), task_(rows.task), columns_(task_.columns) {}

    // Below, rows side by side are faster: what a row costs whatever its length is shared by few classes.
    static constexpr int64_t shortest = 3 * lanes<T>;

    // The six sums of a dense target would go through memory on processors with 16 vector registers, or short ones.
#if defined(__AVX512F__)
    static constexpr bool registers_hold_all = true;
#else
    static constexpr bool registers_hold_all = false;
#endif

    // Whether the rows of a task can be worked on in this way.
    static bool fits(const RowTask& task) {
        const bool contiguous =
            task.logits.column_stride == 1 && (task.grad.data == nullptr || task.grad.column_stride == 1);
        return contiguous && task.columns >= shortest && task.softcap == 0 &&
               (registers_hold_all || task.index.data != nullptr);
    }

    void load() {}  // each row when its turn comes

    // Returns whether all probabilities are finite and not negative.
    bool sum() {
        FewSums<T>& s = rows_.sums;
        wrong_ = {};
        for (int64_t begin = 0; begin < rows_.n && wrong_.row < 0; begin += some) {
            const int64_t end = least(begin + some, rows_.n);
            find_peaks(begin, end);
            task_.grad.data != nullptr ? add_by_base<true>(begin, end) : add_by_base<false>(begin, end);
        }
        fold<tile_rows>(parts_[0], s.rest.at, Plus{});
        fold<tile_rows>(parts_[1], s.ties.at, Plus{});
        if (rows_.tilted() || rows_.base() != Base::none) fold<tile_rows>(parts_[2], s.tilt.at, Plus{});
        if (rows_.base() != Base::none) fold<tile_rows>(parts_[3], s.target_score.at, Plus{});
        if (rows_.base() == Base::dense) fold<tile_rows>(parts_[4], s.mass.at, Plus{});
        return wrong_.row < 0;
    }

    void write_gradient() {
        if (!rows_.is_plain()) return write_general();
        switch (rows_.base()) {
            case Base::dense: return write_plain<Base::dense>();
            case Base::spread: return write_plain<Base::spread>();
            case Base::none: return write_plain<Base::none>();
        }
    }

    // The gradient of rows that are all ignored.
    void write_zeros() {
        const TileRows<Out> m = grad();
        for (int64_t i = 0; i < m.rows; ++i) write_zeros(m.data + i * m.row_stride, m.columns);
    }

    Problem problem() const { return wrong_; }

  private:
    FewRows<T>& rows_;
    const RowTask& task_;
    const int64_t columns_;
    static constexpr int64_t few = 4;    // numbers of a row in the parts of its sums
    static constexpr int64_t some = 16;  // rows that are read, and summed while the next ones are fetched
    alignas(64) T p_[few_classes], e_[few_classes * tile_rows], parts_[5][few * tile_rows] = {};
    Problem wrong_;

    struct Larger {
        CROSSENT_INLINE T operator()(T one, T other) const { return either(one > other, one, other); }
    };
    struct Plus {
        CROSSENT_INLINE T operator()(T one, T other) const { return one + other; }
    };

    TileRows<const Storage> logits() const { return rows_of<const Storage>(task_, task_.logits, rows_.row, rows_.n); }
    TileRows<Out> grad() const { return rows_of<Out>(task_, task_.grad, rows_.row, rows_.n); }
    static void write_zeros(Out* to, int64_t columns) {
        std::memset(static_cast<void*>(to), 0, sizeof(Out) * static_cast<size_t>(columns));
    }

    // The four numbers of each row combined.
    template <int64_t rows, class Combine>
    static void fold(const T* parts, T* to, const Combine& combine) {
        alignas(64) T columns[few * tile_rows];
        transpose_rows(TileRows<const T>{parts, few, 1, rows, few}, columns);
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) {
            const T low = combine(columns[i], columns[tile_rows + i]);
            to[i] = combine(low, combine(columns[2 * tile_rows + i], columns[3 * tile_rows + i]));
        }
    }

    // A vector of numbers: where they lie, or in room. They are wide before anything is computed, for else the narrow
    // ones decide how many go into an instruction.
    static CROSSENT_INLINE const T* load_vector(const Storage* from, T* room) {
        if constexpr (std::is_same_v<Storage, T>) {
            return from;
        } else {
            widen_words<size>(from, room);
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) room[k] = widen(from_word<Storage>(room[k]));
            return room;
        }
    }
    static CROSSENT_INLINE void store_vector(T* from, Out* to) {
        if constexpr (std::is_same_v<Out, T>) {
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) to[k] = from[k];
        } else {
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) from[k] = as_word<Out, T>(Narrow<Out>::from(from[k]));
            narrow_words<size>(from, to);
        }
    }

    void find_peaks(int64_t first, int64_t end) {
        const TileRows<const Storage> m = logits();
        for (int64_t i = first; i < end; ++i) {
            const Storage* const z = m.data + i * m.row_stride;
            alignas(64) T wide[size], peak[size];
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) peak[k] = -std::numeric_limits<T>::infinity();
            const auto take = [&](int64_t v) {
                const T* const x = load_vector(z + v, wide);
#pragma omp simd
                for (int64_t k = 0; k < size; ++k) peak[k] = either(x[k] > peak[k], x[k], peak[k]);
            };
            take(m.columns - size);
            for (int64_t v = 0; v < m.columns - size; v += size) take(v);
            halve<size, few>(peak, parts_[0] + few * i, Larger{});
        }
        fold<some>(parts_[0] + few * first, rows_.sums.peak.at + first, Larger{});
    }

    // The probabilities of a row: where they are, or in p_.
    CROSSENT_INLINE const T* load_prob(int64_t i) {
        const Matrix& prob = task_.prob;
        const int64_t first = offset(task_, prob, rows_.row) + i * row_stride(task_, prob);
        constexpr Type own = std::is_same_v<T, double> ? Type::f64 : Type::f32;
        if (prob.type == own && prob.column_stride == 1) return static_cast<const T*>(prob.data) + first;
        load_run(prob.data, prob.type, first, prob.column_stride, columns_, p_);
        return p_;
    }

    // Adds the exponentials below the peak, where d is not 0, to `rest`, and the number of others to `ties`.
    static CROSSENT_INLINE void add_apart(const T* d, const T* e, T* rest, T* ties) {
#if defined(__AVX512F__)  // three instructions, of which compilers make five
        if constexpr (std::is_same_v<T, float>) {
            const __m512 lower = _mm512_load_ps(d), power = _mm512_load_ps(e), zero = _mm512_setzero_ps();
            const __mmask16 at_peak = _mm512_cmp_ps_mask(lower, zero, _CMP_EQ_OQ),
                            below = _mm512_cmp_ps_mask(lower, zero, _CMP_NEQ_UQ);
            const __m512 sum = _mm512_load_ps(rest), count = _mm512_load_ps(ties);
            _mm512_store_ps(rest, _mm512_mask_add_ps(sum, below, sum, power));
            _mm512_store_ps(ties, _mm512_mask_add_ps(count, at_peak, count, _mm512_set1_ps(1)));
            return;
        }
#endif
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) {
            const T tie = either(d[k] == T(0), T(1), T(0));
            rest[k] += e[k] - tie;  // e is exactly 1 at the peak
            ties[k] += tie;
        }
    }

    template <bool kept>
    void add_by_base(int64_t first, int64_t end) {
        switch (rows_.base()) {
            case Base::dense: return add<kept, Base::dense, true, true>(first, end);
            case Base::spread: return add<kept, Base::spread, true, true>(first, end);
            case Base::none: break;
        }
        if (rows_.tilted()) return add<kept, Base::none, true, true>(first, end);
        rows_.phi.scaled ? add<kept, Base::none, false, true>(first, end)
                         : add<kept, Base::none, false, false>(first, end);
    }

    // The sums of all rows; `kept` exponentials are for the gradient, and else the probabilities are looked at.
    template <bool kept, Base base, bool tilted, bool scaled>
    void add(int64_t first, int64_t end) {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        const TileRows<const Storage> m = logits();
        const T zero_log = rows_.phi.zero_log, infinite = std::numeric_limits<T>::infinity();
        const T *const keep_of = rows_.targets.keep_of, *const spread_of = rows_.targets.spread_of;
        const int64_t over = m.columns % size, skip_ = over == 0 ? 0 : size - over, whole = m.columns - over;
        const Int skip = static_cast<Int>(skip_);  // classes that the last vector repeats
        const int64_t bytes = m.columns * static_cast<int64_t>(sizeof(Storage));
        const TileRows<Out> to = kept ? grad() : TileRows<Out>{};
        for (int64_t i = first; i < end; ++i) {
            const Storage* const z = m.data + i * m.row_stride;
            fetch(z + some * m.row_stride, bytes);
            if (kept) fetch(to.data + i * to.row_stride, m.columns * static_cast<int64_t>(sizeof(Out)));
            const T reference = reference_of(rows_.sums.peak[i]), unit = rows_.phi.unit[i];
            const T* const prob = dense ? load_prob(i) : nullptr;
            T* const kept_e = e_ + i * m.columns;
            alignas(64) T wide[size], below[size], power[size], rest[size] = {}, ties[size] = {}, tilt[size] = {},
                                                                score[size] = {}, mass[size] = {}, odd[size] = {};
            const auto step = [&](auto last, int64_t v) {
                const T* const x = load_vector(z + v, wide);
#pragma omp simd
                for (int64_t k = 0; k < size; ++k) {
                    const bool fresh = !last || static_cast<Int>(k) >= skip;
                    const T apart = either(fresh, x[k] - reference, -infinite), d = scaled ? apart * unit : apart;
                    const T clamped = either(d < zero_log, zero_log, d), e = exp_clamped(clamped);
                    below[k] = d;
                    power[k] = e;
                    if (tilted) tilt[k] += e * clamped;
                    if (measured) {
                        const T given = dense ? prob[v + k] * keep_of[v + k] : T(0);
                        const T own = either(fresh, given, T(0)), p = either(fresh, given + spread_of[v + k], T(0));
                        const T product = p * d;
                        score[k] += either(p == T(0), T(0), product);
                        mass[k] += own;
                    }
                    if (dense && !kept) odd[k] += either(is_measure(prob[v + k]), T(0), T(1));
                    if (kept) kept_e[v + k] = e;
                }
                add_apart(below, power, rest, ties);
            };
            if (over != 0) step(std::true_type{}, m.columns - size);  // first, for it keeps zeros where it repeats
            for (int64_t v = 0; v < whole; v += size) step(std::false_type{}, v);
            halve<size, few>(rest, parts_[0] + few * i, Plus{});
            halve<size, few>(ties, parts_[1] + few * i, Plus{});
            if (tilted) halve<size, few>(tilt, parts_[2] + few * i, Plus{});
            if (measured) halve<size, few>(score, parts_[3] + few * i, Plus{});
            if (dense) halve<size, few>(mass, parts_[4] + few * i, Plus{});
            if (dense && !kept && std::any_of(odd, odd + size, [](T each) { return each != T(0); })) {
                wrong_ = first_problem(prob, m.columns, rows_.row + i, 0);
                return;
            }
            const auto target = static_cast<int64_t>(rows_.targets.column[i]);
            rows_.sums.target_d[i] = target < 0 ? T(0) : (widen(z[target]) - reference) * unit;
            if (kept) rows_.sums.target_e[i] = target < 0 ? T(0) : kept_e[target];
        }
    }

    template <Base base>
    void write_plain() {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        const FewFactors<T>& f = rows_.factors;
        const TileRows<Out> m = grad();
        const T *const keep = rows_.targets.keep_of, *const spread = rows_.targets.spread_of;
        for (int64_t i = 0; i < m.rows; ++i) {
            Out* const to = m.data + i * m.row_stride;
            const T least_ = f.least[i], factor = f.factor[i], of_target = f.of_target[i];
            const T *const e = e_ + i * m.columns, *const prob = dense ? load_prob(i) : nullptr;
            alignas(64) T value[size];
            for (int64_t begin = 0; begin < m.columns; begin += size) {
                const int64_t v = least(begin, m.columns - size);
#pragma omp simd
                for (int64_t k = 0; k < size; ++k) {
                    const T p = dense ? prob[v + k] * keep[v + k] + spread[v + k] : spread[v + k];
                    const T q = either(e[v + k] >= least_, e[v + k], T(0)) * factor;
                    value[k] = measured ? q - of_target * p : q;
                }
                store_vector(value, to + v);
            }
            const auto target = static_cast<int64_t>(rows_.targets.column[i]);
            if (target >= 0) to[target] = Narrow<Out>::from(f.at_target[i]);
        }
    }

    void write_general() {
        const FewFactors<T>& f = rows_.factors;
        const TileRows<const Storage> m = logits();
        const TileRows<Out> to = grad();
        const bool dense = rows_.targets.dense();
        const T *const keep = rows_.targets.keep_of, *const spread = rows_.targets.spread_of;
        if (!dense) std::fill_n(p_, columns_, T(0));
        for (int64_t i = 0; i < m.rows; ++i) {
            Out* const out = to.data + i * to.row_stride;
            if (f.active[i] == T(0)) {
                write_zeros(out, columns_);
                continue;
            }
            const Storage* const z = m.data + i * m.row_stride;
            const T *const e = e_ + i * columns_, *const prob = dense ? load_prob(i) : p_;
            const T a = f.a[i], b = f.b[i], c = f.c[i], least_ = f.least[i], factor = f.factor[i],
                    log_total = f.log_total[i], reference = reference_of(rows_.sums.peak[i]), unit = rows_.phi.unit[i];
            alignas(64) T wide[size], value[size], last[size];
            const auto compute = [&](int64_t v, T* values) {
                const T* const x = load_vector(z + v, wide);
#pragma omp simd
                for (int64_t k = 0; k < size; ++k) {
                    const T logq = (x[k] - reference) * unit - log_total,
                            known = either(logq < lowest_log<T>, lowest_log<T>, logq);
                    const T p = prob[v + k] * keep[v + k] + spread[v + k];
                    const T q = either(e[v + k] >= least_, e[v + k], T(0)) * factor;
                    values[k] = (q * (a + b * known) - c * p) * unit;
                }
            };
            compute(columns_ - size, last);  // before any gradient takes the place of its logits
            for (int64_t v = 0; v < columns_ - size; v += size) {
                compute(v, value);
                store_vector(value, out + v);
            }
            store_vector(last, out + columns_ - size);
            const auto target = static_cast<int64_t>(rows_.targets.column[i]);
            if (target >= 0) out[target] = Narrow<Out>::from(f.at_target[i]);
        }
    }
};

}  // namespace
}  // namespace crossent
