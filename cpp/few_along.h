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
    // Classes at a time: whole vectors of what is read, too, for else half of a vector is computed with.
    static constexpr int64_t size = lanes<T> * static_cast<int64_t>(sizeof(T) / sizeof(Storage));

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
        for (int64_t i = 0; i < rows_.n; ++i) find_peak(i);
        fold(parts_[0], s.peak, larger);
        const bool kept = task_.grad.data != nullptr;
        for (int64_t i = 0; i < rows_.n && wrong_.row < 0; ++i) {
            if (rows_.targets.dense()) load_prob(i);
            kept ? add_by_base<true>(i) : add_by_base<false>(i);
        }
        fold(parts_[0], s.rest, plus);
        fold(parts_[1], s.ties, plus);
        if (rows_.tilted() || rows_.base() != Base::none) fold(parts_[2], s.tilt, plus);
        if (rows_.base() != Base::none) fold(parts_[3], s.target_score, plus);
        if (rows_.base() == Base::dense) fold(parts_[4], s.mass, plus);
        return wrong_.row < 0;
    }

    void write_gradient() {
        for (int64_t i = 0; i < rows_.n; ++i) {
            Out* const grad = static_cast<Out*>(task_.grad.data) + offset(task_, task_.grad, rows_.row + i);
            write_by_base(i, grad);
            const auto target = static_cast<int64_t>(rows_.targets.column[i]);
            if (target >= 0) grad[target] = Narrow<Out>::from(rows_.factors.at_target[i]);
        }
    }

    // The gradient of rows that are all ignored.
    void write_zeros() {
        for (int64_t i = 0; i < rows_.n; ++i) {
            Out* const grad = static_cast<Out*>(task_.grad.data) + offset(task_, task_.grad, rows_.row + i);
            std::memset(static_cast<void*>(grad), 0, sizeof(Out) * static_cast<size_t>(columns_));
        }
    }

    Problem problem() const { return wrong_; }

  private:
    FewRows<T>& rows_;
    const RowTask& task_;
    const int64_t columns_;
    static constexpr int64_t few = 4;  // numbers of a row in the parts of its sums
    alignas(64) T p_[few_classes], e_[few_classes * tile_rows], parts_[5][few * tile_rows] = {};
    Problem wrong_;

    const Storage* logits(int64_t i) const {
        return static_cast<const Storage*>(task_.logits.data) + offset(task_, task_.logits, rows_.row + i);
    }

    // Calls step(v) for vectors of classes from v on, so that each class is in one of them.
    template <class Step>
    CROSSENT_INLINE void by_vectors(const Step& step) const {
        for (int64_t v = 0; v < columns_; v += size) step(least(v, columns_ - size));
    }

    static CROSSENT_INLINE T larger(T one, T other) { return either(one > other, one, other); }
    static CROSSENT_INLINE T plus(T one, T other) { return one + other; }

    // The four numbers of each row combined.
    template <class Combine>
    static void fold(const T* parts, Lane<T>& to, const Combine& combine) {
        alignas(64) T columns[few * tile_rows];
        transpose_rows(TileRows<const T>{parts, few, 1, tile_rows, few}, columns);
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
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
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) room[k] = widen(from[k]);
            return room;
        }
    }
    static CROSSENT_INLINE void store_vector(const T* from, Out* to) {
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) to[k] = Narrow<Out>::from(from[k]);
    }

    void find_peak(int64_t i) {
        const Storage* const z = logits(i);
        fetch(logits(least(i + 8, rows_.n - 1)), columns_ * static_cast<int64_t>(sizeof(Storage)));
        alignas(64) T wide[size], peak[size];
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) peak[k] = -std::numeric_limits<T>::infinity();
        by_vectors([&](int64_t v) {
            const T* const x = load_vector(z + v, wide);
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) peak[k] = either(x[k] > peak[k], x[k], peak[k]);
        });
        halve<size, few>(peak, parts_[0] + few * i, larger);
    }

    void load_prob(int64_t i) {
        const Matrix& prob = task_.prob;
        load_run(prob.data, prob.type, offset(task_, prob, rows_.row + i), prob.column_stride, columns_, p_);
    }

    template <bool kept>
    void add_by_base(int64_t i) {
        switch (rows_.base()) {
            case Base::dense: return add<kept, Base::dense, true>(i);
            case Base::spread: return add<kept, Base::spread, true>(i);
            case Base::none: break;
        }
        rows_.tilted() ? add<kept, Base::none, true>(i) : add<kept, Base::none, false>(i);
    }

    // The sums of row i; `kept` exponentials are for the gradient, and else the probabilities are looked at.
    template <bool kept, Base base, bool tilted>
    void add(int64_t i) {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        using Int = typename Limits<T>::Int;
        const Storage* const z = logits(i);
        const T unit = rows_.phi.unit, zero_log = rows_.phi.zero_log, reference = reference_of(rows_.sums.peak[i]);
        const T *const keep_of = rows_.targets.keep_of, *const spread_of = rows_.targets.spread_of, *const prob = p_;
        T* const kept_e = e_ + i * columns_;
        alignas(64) T wide[size], rest[size] = {}, ties[size] = {}, tilt[size] = {}, score[size] = {}, mass[size] = {},
                                  odd[size] = {};
        for (int64_t begin = 0; begin < columns_; begin += size) {
            const int64_t v = least(begin, columns_ - size);
            const Int skip = static_cast<Int>(begin - v);  // classes that the last vector repeats
            const T* const x = load_vector(z + v, wide);
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) {
                const bool fresh = static_cast<Int>(k) >= skip;
                const T d = (x[k] - reference) * unit;
                const T clamped = either(d < zero_log, zero_log, d), e = exp_clamped(clamped);
                const T tie = either(d == T(0), T(1), T(0));
                rest[k] += either(fresh, e - tie, T(0));  // e is exactly 1 at the peak
                ties[k] += either(fresh, tie, T(0));
                if (tilted) tilt[k] += either(fresh, e * clamped, T(0));
                if (measured) {
                    const T own = dense ? prob[v + k] * keep_of[v + k] : T(0), p = own + spread_of[v + k];
                    const T product = p * d, wanted = either(p == T(0), T(0), product);
                    score[k] += either(fresh, wanted, T(0));
                    mass[k] += either(fresh, own, T(0));
                }
                if (dense && !kept) odd[k] += either(is_measure(prob[v + k]), T(0), T(1));
                if (kept) kept_e[v + k] = e;
            }
        }
        const auto put = [i](const T* sums, T* parts) { halve<size, few>(sums, parts + few * i, plus); };
        put(rest, parts_[0]);
        put(ties, parts_[1]);
        if (tilted) put(tilt, parts_[2]);
        if (measured) put(score, parts_[3]);
        if (dense) put(mass, parts_[4]);
        if (dense && !kept && std::any_of(odd, odd + size, [](T each) { return each != T(0); }))
            wrong_ = first_problem(p_, columns_, rows_.row + i, 0);
        const auto target = static_cast<int64_t>(rows_.targets.column[i]);
        rows_.sums.target_d[i] = target < 0 ? T(0) : (widen(z[target]) - reference) * unit;
        if (kept) rows_.sums.target_e[i] = target < 0 ? T(0) : kept_e[target];
    }

    void write_by_base(int64_t i, Out* grad) {
        if (!rows_.is_plain()) return write_general(i, grad);
        switch (rows_.base()) {
            case Base::dense: load_prob(i); return write_plain<Base::dense>(i, grad);
            case Base::spread: return write_plain<Base::spread>(i, grad);
            case Base::none: return write_plain<Base::none>(i, grad);
        }
    }

    template <Base base>
    void write_plain(int64_t i, Out* grad) const {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        const FewFactors<T>& f = rows_.factors;
        const T least = f.least[i], factor = f.factor[i], of_target = f.of_target[i];
        const T *const e = e_ + i * columns_, *const keep = rows_.targets.keep_of,
                       *const spread = rows_.targets.spread_of;
        const T* const prob = p_;
        alignas(64) T value[size];
        by_vectors([&](int64_t v) {
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) {
                const T p = dense ? prob[v + k] * keep[v + k] + spread[v + k] : spread[v + k];
                const T q = either(e[v + k] >= least, e[v + k], T(0)) * factor;
                value[k] = measured ? q - of_target * p : q;
            }
            store_vector(value, grad + v);
        });
    }

    void write_general(int64_t i, Out* grad) {
        const FewFactors<T>& f = rows_.factors;
        if (f.active[i] == T(0)) {
            std::memset(static_cast<void*>(grad), 0, sizeof(Out) * static_cast<size_t>(columns_));
            return;
        }
        const bool dense = rows_.targets.dense();
        if (dense) load_prob(i);
        else std::fill_n(p_, columns_, T(0));
        const Storage* const z = logits(i);
        const T *const e = e_ + i * columns_, *const keep = rows_.targets.keep_of,
                       *const spread = rows_.targets.spread_of;
        const T a = f.a[i], b = f.b[i], c = f.c[i], least = f.least[i], factor = f.factor[i],
                log_total = f.log_total[i];
        const T unit = rows_.phi.unit, reference = reference_of(rows_.sums.peak[i]);
        const T* const prob = p_;
        alignas(64) T wide[size], value[size];
        by_vectors([&](int64_t v) {
            const T* const x = load_vector(z + v, wide);
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) {
                const T logq = (x[k] - reference) * unit - log_total,
                        known = either(logq < lowest_log<T>, lowest_log<T>, logq);
                const T p = prob[v + k] * keep[v + k] + spread[v + k];
                const T q = either(e[v + k] >= least, e[v + k], T(0)) * factor;
                value[k] = (q * (a + b * known) - c * p) * unit;
            }
            store_vector(value, grad + v);
        });
    }
};

}  // namespace
}  // namespace crossent
