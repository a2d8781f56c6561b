// One row: its record and its gradient. Included by rows.cpp alone, which is compiled once for each instruction set.
//
// A row is read in blocks that stay in the first-level cache: one loop finds the peak of the block, a second sums the
// exponentials relative to it while the next block is fetched, and the block's record merges into the row's. The loops
// know nothing of index targets; those columns are added to the record, and written into the gradient, afterwards and
// in double.
#pragma once

#include <cmath>

#include "record.h"
#include "target.h"

namespace crossent {
namespace {

template <class T>
constexpr int64_t lanes = 64 / sizeof(T);  // trip counts are multiples of this, so that no loop has a scalar rest
template <class T>
constexpr int64_t block_size = block_bytes / sizeof(T);
template <class T>
constexpr int64_t piece_size = 2048 / sizeof(T);  // between two fetches, and between two sums in double
// Below this a row has one column at its peak, and the rest is summed apart from it: the loss of a confident row,
// log(1 + rest), then keeps all its digits.
constexpr double confident_total = 1.5;

template <class T>
inline int64_t fill_lanes(int64_t n) {
    return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// Fetches memory that will soon be read; an address outside of any array does no harm.
inline void fetch(const void* data, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) {
#if defined(_MSC_VER)
        (void)data;
#else
        __builtin_prefetch(static_cast<const char*>(data) + at);
#endif
    }
}

// n numbers become `few`, both powers of two: halves are combined with each other.
template <int64_t n, int64_t few, class T, class Combine>
CROSSENT_INLINE void halve(const T* x, T* to, const Combine& combine) {
    if constexpr (n == few) {
        for (int64_t k = 0; k < few; ++k) to[k] = x[k];
    } else {
        alignas(64) T half[n / 2];
#pragma omp simd
        for (int64_t k = 0; k < n / 2; ++k) half[k] = combine(x[k], x[k + n / 2]);
        halve<n / 2, few>(half, to, combine);
    }
}

template <int64_t n, class T>
CROSSENT_INLINE T largest_of(const T* x) {
    T largest;
    halve<n, 1>(x, &largest, [](T one, T other) { return one > other ? one : other; });
    return largest;
}

// The largest numbers of the lanes of a row, in a plain array: compilers start their copies of a variable of
// `omp simd reduction(max:)` at different numbers (clang at the lowest finite one, where a row of -inf then peaks), and
// MSVC refuses it. Each lane has two, so that a comparison need not wait for the last one.
template <class T>
class LanePeaks {
  public:
    LanePeaks() {
#pragma omp simd
        for (int64_t k = 0; k < pair; ++k) at_[k] = -std::numeric_limits<T>::infinity();
    }

    // Takes number(i) for i of [0, n); some of them twice, so that the last step is a whole one.
    template <class Number>
    void take(int64_t n, const Number& number) {
        if (n >= pair) {
            for (int64_t i = 0; i < n; i += pair) take_step<pair>(least(i, n - pair), number);
        } else if (n >= lanes<T>) {
            for (int64_t i = 0; i < n; i += lanes<T>) take_step<lanes<T>>(least(i, n - lanes<T>), number);
        } else {
            for (int64_t i = 0; i < n; ++i) take_step<1>(i, number);
        }
    }
    T largest() const { return largest_of<pair>(at_); }

  private:
    static constexpr int64_t pair = 2 * lanes<T>;
    alignas(64) T at_[pair];

    template <int64_t step, class Number>
    void take_step(int64_t i, const Number& number) {
#pragma omp simd
        for (int64_t k = 0; k < step; ++k) {
            const T x = number(i + k);
            at_[k] = x > at_[k] ? x : at_[k];
        }
    }
};

template <class T>
inline T peak_of(const T* x, int64_t n) {
    LanePeaks<T> peaks;
    peaks.take(n, [x](int64_t i) { return x[i]; });
    return peaks.largest();
}

// Logits as numbers that `Phi::unit` takes apart, filled up to whole lanes with -inf; returns their peak.
template <class Storage, class T>
T load_scores(const Storage* z, const Phi<T>& phi, int64_t n, T* x, T* slope) {
    LanePeaks<T> peaks;
    if (phi.cap > T(0)) {
        const T inner = phi.inner, cap = phi.cap;  // copies, which no store can change
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            T score_slope;
            x[i] = capped_score(static_cast<T>(widen(z[i])), inner, cap, score_slope);
            slope[i] = score_slope;
        }
        peaks.take(n, [x](int64_t i) { return x[i]; });
    } else {
        peaks.take(n, [x, z](int64_t i) { return x[i] = widen(z[i]); });
    }
    for (int64_t i = n; i < fill_lanes<T>(n); ++i) x[i] = -std::numeric_limits<T>::infinity();
    return peaks.largest();
}

template <bool scaled, class T>
inline T below_peak(T x, T peak, T unit) {
    return scaled ? (x - peak) * unit : x - peak;
}

// Adds the sums over n columns of scores x and target measure m to the record, and returns how many probabilities are
// none. `ahead` is what is read after this block.
template <bool has_prob, bool has_keep, bool has_spread, bool scaled, class Storage, class T>
T add(const T* x, const MeasureBlock<T>& m, int64_t n, T peak, const Phi<T>& phi, const Storage* ahead,
      Record& record) {
    const T unit = phi.unit, zero_log = phi.zero_log, keep_all = m.keep_all;
    const T *const prob = m.prob, *const keep = m.keep, *const spread = m.spread;
    T all_wrong = 0;
    for (int64_t begin = 0; begin < n; begin += piece_size<T>) {
        const int64_t end = least(begin + piece_size<T>, n);
        fetch(ahead + begin, (end - begin) * static_cast<int64_t>(sizeof(Storage)));
        T total = 0, tilt = 0, target_score = 0, mass = 0, wrong = 0;
#pragma omp simd reduction(+ : total, tilt, target_score, mass, wrong)
        for (int64_t i = begin; i < end; ++i) {
            const T d = below_peak<scaled>(x[i], peak, unit);
            const T clamped = d < zero_log ? zero_log : d;
            const T e = exp_clamped(clamped);
            total += e;
            tilt += e * clamped;
            if (has_prob || has_spread) {
                const T own = has_prob ? prob[i] * (has_keep ? keep[i] : keep_all) : T(0);
                const T p = has_spread ? own + spread[i] : own, product = p * d;
                target_score += p == T(0) ? T(0) : product;
                mass += own;
            }
            if (has_prob) wrong += is_measure(prob[i]) ? T(0) : T(1);
        }
        record.total += static_cast<double>(total);
        record.tilt += static_cast<double>(tilt);
        record.target_score += static_cast<double>(target_score);
        record.mass += static_cast<double>(mass);
        all_wrong += wrong;
    }
    return all_wrong;
}

// Sum of the exponentials of all columns but the one at the peak.
template <class T>
double total_of_others(const T* x, int64_t n, T peak, const Phi<T>& phi) {
    const T unit = phi.unit, zero_log = phi.zero_log;
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; ++i) {
        const T d = (x[i] - peak) * unit;
        total += d == T(0) ? T(0) : exp_clamped(d < zero_log ? zero_log : d);
    }
    return total;
}

template <class Storage>
Record row_record(const RowTask& task, const Storage* z, const Run& prob, int64_t row, Problem* problem) {
    using T = typename Compute<Storage>::type;
    if (ignored(task, row)) return ignored_record;
    const Phi<T> phi(task, temperature_of(task, row));
    const bool measured = prob.data != nullptr || task.spread != nullptr;
    alignas(64) T buffer[block_size<T>], slope[block_size<T>], room[3 * block_size<T>];
    Record record;
    for (int64_t begin = 0; begin < task.columns; begin += block_size<T>) {
        const int64_t n = least(block_size<T>, task.columns - begin), filled = fill_lanes<T>(n);
        const T* x = buffer;
        bool direct = false;
        if constexpr (sizeof(Storage) == sizeof(T)) {
            direct = n == filled && phi.cap == T(0);
            if (direct) x = reinterpret_cast<const T*>(z + begin);
        }
        const T peak = direct ? peak_of(x, n) : load_scores(z + begin, phi, n, buffer, slope);
        const bool nothing = peak == -std::numeric_limits<T>::infinity();
        const T reference = nothing ? T(0) : peak;
        Record part;
        part.peak = nothing ? -infinity : static_cast<double>(peak) * (phi.cap > T(0) ? 1 : phi.score_unit);
        const Storage* const ahead = z + begin + n;
        if (measured) {
            const MeasureBlock<T> m(task, prob, begin, n, filled, room, block_size<T>);
            with_kind(m, [&](auto has_prob, auto has_keep, auto has_spread) {
                const T wrong = add<has_prob, has_keep, has_spread, true>(x, m, filled, reference, phi, ahead, part);
                if (wrong != T(0) && problem->row < 0) *problem = first_problem(m.prob, n, row, begin);
            });
            if (task.spread_mass != nullptr) part.mass += task.spread_mass[begin / block_size<T>];
        } else {
            const auto add_up = phi.unit == T(1) ? add<false, false, false, false, Storage, T>
                                                 : add<false, false, false, true, Storage, T>;
            (void)add_up(x, {}, filled, reference, phi, ahead, part);
        }
        if (!nothing && part.total < confident_total && part.peak >= record.peak) {
            part.total = 1 + total_of_others(x, filled, reference, phi);
        }
        if (begin == 0) {
            record = part;
        } else {
            merge(record, part);
        }
    }
    Record picked;
    for (int64_t pick = 0; pick < task.picks; ++pick) {
        const int64_t column = pick_column(task, row, pick);
        if (column < 0) continue;
        double slope_;
        const double measure = pick_measure<T>(task, row, pick, column);
        const double score = score_at(z[column], phi.cap, phi.inner, phi.score_unit, slope_);
        picked.mass += measure;
        if (measure != 0) picked.target_score += measure * (record.peak == -infinity ? score : score - record.peak);
    }
    record.mass += picked.mass;
    record.target_score += picked.target_score;
    return record;
}

struct Coefficients {
    double a, b, c;
};

inline double at(const Vector& v, int64_t row) {
    return v.data == nullptr ? 0 : load_real<double>(v.data, v.type, row * v.stride);
}

inline Coefficients coefficients_of(double g_loss, double g_lse, double g_entropy, const Record& r) {
    if (is_removed(r, g_loss)) g_loss = 0;
    const double from_entropy = g_entropy == 0 ? 0 : g_entropy * (std::log(r.total) - r.tilt / r.total);
    return {(g_loss == 0 ? 0 : g_loss * r.mass) + g_lse - from_entropy, -g_entropy, g_loss};
}

inline Record saved(const RowTask& task, int64_t row) {
    Record r;
    for (int64_t k = 0; k < record_fields; ++k) r.*record_members[k] = task.record[k * task.rows + row];
    return r;
}

// log 2^k for the largest power of two that is not above x, a positive number or 0.
inline double log_of_power_below(double x) {
    return static_cast<double>(bits<int64_t>(x) >> 52) * 0.6931471805599453 - 1023 * 0.6931471805599453;
}

// Constants of a row in the loops of the gradient.
template <class T>
struct RowFactors {
    T peak, unit, floor, inverse_total, log_total, a, b, c;
};

template <bool has_prob, bool has_keep, bool has_spread, class T>
CROSSENT_INLINE T measure_at(const MeasureBlock<T>& m, int64_t i) {
    const T own = has_prob ? m.prob[i] * (has_keep ? m.keep[i] : m.keep_all) : T(0);
    return has_spread ? own + m.spread[i] : own;
}

template <bool capped, bool has_prob, bool has_keep, bool has_spread, class Storage, class T>
void write_general(const T* x, const T* slope, const MeasureBlock<T>& measure, int64_t n, const RowFactors<T>& f,
                   Storage* grad) {
    const MeasureBlock<T> m = measure;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T d = (x[i] - f.peak) * f.unit;
        const T q = exp_nonpositive(d, f.floor) * f.inverse_total;
        const T logq = d - f.log_total, known = logq < lowest_log<T> ? lowest_log<T> : T(logq);
        const T value = q * (f.a + f.b * known) - f.c * measure_at<has_prob, has_keep, has_spread>(m, i);
        grad[i] = Narrow<Storage>::from(value * (capped ? slope[i] : f.unit));
    }
}

// q a - c p, with a and the unit folded into f.inverse_total and the unit into f.c; x and grad may be the same memory.
template <bool has_prob, bool has_keep, bool has_spread, class From, class Storage, class T>
void write_plain(const From* x, const MeasureBlock<T>& measure, int64_t n, const RowFactors<T>& f, Storage* grad) {
    const MeasureBlock<T> m = measure;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T d = (widen(x[i]) - f.peak) * f.unit;
        const T q = exp_nonpositive(d, f.floor) * f.inverse_total;
        const T value = has_prob || has_spread ? q - f.c * measure_at<has_prob, has_keep, has_spread>(m, i) : q;
        grad[i] = Narrow<Storage>::from(value);
    }
}

// Gradient of a row; `patches` has room for the row's picks.
template <class Storage, class Out>
void row_gradient(const RowTask& task, const Storage* z, const Run& prob, int64_t row, const Record& record,
                  const Coefficients& coefficients, Out* patches, Out* grad) {
    using T = typename Compute<Storage>::type;
    const size_t bytes = sizeof(Out) * static_cast<size_t>(task.columns);
    if (ignored(task, row) || (coefficients.a == 0 && coefficients.b == 0 && coefficients.c == 0)) {
        std::memset(static_cast<void*>(grad), 0, bytes);
        return;
    }
    const Phi<T> phi(task, temperature_of(task, row));
    const bool capped = phi.cap > T(0);
    const double log_total = std::log(record.total);

    for (int64_t pick = 0; pick < task.picks; ++pick) {
        const int64_t column = pick_column(task, row, pick);
        if (column < 0) continue;
        double slope, measure = task.spread == nullptr ? 0 : static_cast<const T*>(task.spread)[column];
        for (int64_t other = 0; other < task.picks; ++other) {  // the same class may be picked twice
            if (pick_column(task, row, other) == column) measure += pick_measure<T>(task, row, other, column);
        }
        const double score = score_at(z[column], phi.cap, phi.inner, phi.score_unit, slope);
        const double logq = score - record.peak - log_total;
        const double q_less_1 = std::expm1(logq);
        const double entropic = coefficients.b == 0 || q_less_1 == -1 ? 0 : coefficients.b * (1 + q_less_1) * logq;
        const double target = measure == 0 ? 0 : coefficients.c * measure;
        patches[pick] = Narrow<Out>::from(
            static_cast<T>(slope * (coefficients.a * q_less_1 + (coefficients.a - target) + entropic)));
    }

    const bool plain = !capped && coefficients.b == 0;
    const double factor = plain ? coefficients.a * static_cast<double>(phi.unit) / record.total : 1 / record.total;
    const double size = std::fabs(plain ? factor : factor * (std::fabs(coefficients.a) + std::fabs(coefficients.b)));
    RowFactors<T> f;
    f.unit = phi.unit;
    f.peak = static_cast<T>(capped ? record.peak : record.peak * phi.temperature);
    f.floor = static_cast<T>(size < 1 ? Limits<T>::smallest - log_of_power_below(size) : Limits<T>::smallest);
    f.inverse_total = static_cast<T>(factor);
    f.log_total = static_cast<T>(log_total);
    f.a = static_cast<T>(coefficients.a);
    f.b = static_cast<T>(coefficients.b);
    f.c = static_cast<T>(plain ? coefficients.c * static_cast<double>(phi.unit) : coefficients.c);

    constexpr int64_t step = piece_size<T>;
    alignas(64) T x[step], slope[step], room[3 * step];
    alignas(64) Out last[step];
    const bool in_place = static_cast<const void*>(z) == static_cast<const void*>(grad);
    for (int64_t begin = 0; begin < task.columns;) {
        int64_t n = least(step, task.columns - begin);
        if (n < lanes<T> && begin > 0 && plain && !in_place) {  // the last lanes once more, shifted
            begin -= lanes<T> - n;
            n = lanes<T>;
        }
        if (n > lanes<T>) n = n / lanes<T> * lanes<T>;
        Out* const to = n < lanes<T> ? last : grad + begin;
        fetch(z + begin + 2 * step, n * static_cast<int64_t>(sizeof(Storage)));
        const int64_t filled = fill_lanes<T>(n);
        const bool direct = plain && to != last;
        if (!direct) (void)load_scores(z + begin, phi, n, x, slope);
        for (int64_t i = n; i < filled; ++i) slope[i] = T(0);
        const MeasureBlock<T> m(task, prob, begin, n, filled, room, step);
        with_kind(m, [&](auto has_prob, auto has_keep, auto has_spread) {
            if (direct) write_plain<has_prob, has_keep, has_spread>(z + begin, m, n, f, to);
            else if (plain) write_plain<has_prob, has_keep, has_spread>(x, m, filled, f, to);
            else if (capped) write_general<true, has_prob, has_keep, has_spread>(x, slope, m, filled, f, to);
            else write_general<false, has_prob, has_keep, has_spread>(x, slope, m, filled, f, to);
        });
        if (to == last) std::memcpy(static_cast<void*>(grad + begin), last, sizeof(Out) * static_cast<size_t>(n));
        begin += n;
    }
    for (int64_t pick = 0; pick < task.picks; ++pick) {
        const int64_t column = pick_column(task, row, pick);
        if (column >= 0) grad[column] = patches[pick];
    }
}

}  // namespace
}  // namespace crossent
