// Rows of few classes, of which nothing is kept: a short row is summed again sooner than its record is written and
// read. A tile of rows is summed (few_sweeps.h), and what becomes of the sums is computed for all its rows side by
// side: lane i of every loop is row i.
//
// The numbers of a row stay in the type of the arithmetic and keep their digits: the terms below the peak are summed
// apart from it (rest and ties), a loss adds nothing of the other sign, and q - 1 of a probable target is minus the sum
// of the other terms over the total.
#pragma once

#include "few_targets.h"
#include "rows.h"

namespace crossent {
namespace {

enum class Base { none, spread, dense };  // what the loops must know of the target measure

// What the scores of a row are relative to: its peak, or 0 where all are -inf.
template <class T>
CROSSENT_INLINE T reference_of(T peak) {
    return either(peak == -std::numeric_limits<T>::infinity(), T(0), peak);
}

// Sums over the classes of each row, relative to its peak; what is called target is the column of an index target.
template <class T>
struct FewSums {
    Lane<T> peak, rest, ties, tilt, target_score, mass, target_d, target_e, target_slope;
};

// What the loops of the gradient need. A plain one is e^d times the factor, where e^d is not less than `least`, less
// the target measure times `of_target`; for others, a, b and c are coefficients of the row gradient.
template <class T>
struct FewFactors {
    Lane<T> factor, least, of_target, at_target, a, b, c, log_total, active;
};

template <class T>
class FewRows {
    using Bits = std::make_unsigned_t<typename Limits<T>::Int>;

  public:
    const RowTask& task;
    LanePhi<T> phi;
    FewTargets<T> targets;
    FewSums<T> sums;
    FewFactors<T> factors;
    int64_t row = 0, n = 0;  // the rows at hand

    explicit FewRows(const RowTask& task_) : task(task_), phi(task_), targets(task_) { sums.target_slope = phi.unit; }

    // Reads the targets and the temperatures of rows [row, row + n).
    void load() {
        targets.load(row, n);
        phi.load(task, row, n);
        if (task.row_temperature.data != nullptr) sums.target_slope = phi.unit;
    }

    bool capped() const { return task.softcap > 0; }
    bool has_results(bool summed) const {
        return task.loss != nullptr || task.lse != nullptr || task.entropy != nullptr || summed;
    }
    Base base() const { return targets.dense() ? Base::dense : task.spread != nullptr ? Base::spread : Base::none; }
    // Whether the gradient asks for no logarithms of probabilities and no slopes.
    bool is_plain() const { return !capped() && task.g_entropy.data == nullptr; }
    // Whether nothing but the class of a row and a cotangent of its loss is there: then every mass is 0 or 1.
    bool is_simple() const {
        return is_plain() && base() == Base::none && task.weight.data == nullptr && task.keep == nullptr &&
               task.keep_all == 1 && task.g_lse.data == nullptr && task.first_class == 0 &&
               task.columns == task.num_classes;
    }
    bool tilted() const { return task.entropy != nullptr || task.g_entropy.data != nullptr; }

    // Makes mass, target score and logarithm of the total of the sums.
    void finish(bool logs) {
        const bool classes = !targets.dense() && base() == Base::none;
        classes ? measure_classes() : measure_all();
        if (logs) take_logarithms();
    }

    // Writes the results that have a place, and adds to the loss of each lane.
    void write_results(Lane<double>* loss_of_lane) const {
        const FewSums<T>& s = sums;
        Lane<T> loss;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T product = s.mass[i] * factors.log_total[i];
            const T value = either(s.mass[i] == T(0), T(0), product) - s.target_score[i];
            loss[i] = either(targets.valid[i] == 0, T(0), value);
        }
        put(task.loss, loss);
        if (loss_of_lane != nullptr) {
            Lane<double>& sum = *loss_of_lane;
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) sum[i] += static_cast<double>(loss[i]);
        }
        if (task.lse != nullptr) write_lse();
        if (task.entropy != nullptr) write_valid(task.entropy, entropy_);
    }

    // Zeros, for rows that are ignored.
    void write_nothing() const {
        const Lane<T> zeros;
        for (void* const to : {task.loss, task.lse, task.entropy}) put(to, zeros);
    }

    void set_factors() {
        if (is_simple()) return set_simple_factors();
        is_plain() ? set_factors<true>() : set_factors<false>();
    }

  private:
    Lane<T> total_, entropy_;

    void measure_all() {
        FewSums<T>& s = sums;
        const T whole = static_cast<T>(task.spread_total);
        const bool dense = targets.dense();
        for (int64_t i = 0; i < tile_rows && !dense; ++i) s.mass[i] = targets.keep[i] + whole;
        for (int64_t i = 0; i < tile_rows && dense; ++i) s.mass[i] += whole;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T kept = targets.keep[i] * s.target_d[i];
            s.target_score[i] += either(targets.keep[i] == T(0), T(0), kept);
            total_[i] = s.rest[i] + s.ties[i];
        }
    }

    // The same where a class is all that there is of a target.
    void measure_classes() {
        FewSums<T>& s = sums;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T keep = targets.keep[i], kept = keep * s.target_d[i];
            s.mass[i] = keep;
            s.target_score[i] = either(keep == T(0), T(0), kept);
            total_[i] = s.rest[i] + s.ties[i];
        }
    }

    void take_logarithms() {
        const FewSums<T>& s = sums;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) factors.log_total[i] = log_sum(s.ties[i], s.rest[i]);
        if (!tilted()) return;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) entropy_[i] = factors.log_total[i] - s.tilt[i] / total_[i];
    }

    void put(void* to, const Lane<T>& from) const {
        if (to != nullptr) std::copy_n(from.at, n, static_cast<T*>(to) + row);
    }

    void write_valid(void* to, const Lane<T>& from) const {
        Lane<T> values;
        for (int64_t i = 0; i < tile_rows; ++i) values[i] = either(targets.valid[i] == 0, T(0), from[i]);
        put(to, values);
    }

    void write_lse() const {
        Lane<T> lse;
        const bool is_capped = capped();
        for (int64_t i = 0; i < tile_rows; ++i) {
            const double peak = static_cast<double>(sums.peak[i]) * (is_capped ? 1 : phi.score_unit[i]);
            lse[i] = static_cast<T>(peak + static_cast<double>(factors.log_total[i]));
        }
        write_valid(task.lse, lse);
    }

    void load_cotangent(const Vector& g, Lane<T>& to) const {
        if (g.data == nullptr) return;
        if (g.stride == 0) std::fill_n(to.at, n, load_real<T>(g.data, g.type, 0));
        else load_run(g.data, g.type, row * g.stride, g.stride, n, to.at);
    }

    // The least number whose product with one of this size is normal, as a power of two: 2^(1 - E) for a size of
    // exponent E.
    static CROSSENT_INLINE T least_for(T size) {
        constexpr Bits one_more = std::numeric_limits<T>::max_exponent;
        return bits<T>((one_more - (bits<Bits>(size) >> Limits<T>::mantissa)) << Limits<T>::mantissa);
    }

    // The same as below in less time: a and c are the cotangent.
    void set_simple_factors() {
        const FewSums<T>& s = sums;
        FewFactors<T>& f = factors;
        Lane<T> g_loss;
        load_cotangent(task.g_loss, g_loss);
        const T infinite = std::numeric_limits<T>::infinity(), normal = std::numeric_limits<T>::min();
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T c = either(targets.keep[i] == T(0), T(0), g_loss[i]), inverse = T(1) / total_[i];
            const T of_a = c * phi.unit[i] * inverse, size = size_of(of_a);
            const T lower = s.ties[i] + (s.rest[i] - s.target_e[i]), beside_peak = (s.ties[i] - T(1)) + s.rest[i];
            const T rest = either(s.target_d[i] == T(0), beside_peak, lower), q = s.target_e[i] * inverse;
            const T near = T(0) - c * (rest * inverse), far = c * q - c;
            const T at_target = either(q > T(0.5), near, far) * phi.unit[i];
            const T least = either(size < T(1), least_for(size), normal);
            f.least[i] = either(c == T(0), infinite, least);
            f.factor[i] = either(c == T(0), T(0), of_a);
            f.at_target[i] = either(c == T(0), T(0), at_target);
        }
    }

    template <bool plain>
    void set_factors() {
        const FewSums<T>& s = sums;
        FewFactors<T>& f = factors;
        Lane<T> g_loss, g_lse, g_entropy, beside;
        load_cotangent(task.g_loss, g_loss);
        load_cotangent(task.g_lse, g_lse);
        load_cotangent(task.g_entropy, g_entropy);
        const T infinite = std::numeric_limits<T>::infinity(), normal = std::numeric_limits<T>::min();
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T sum = s.peak[i] + total_[i] + g_loss[i], g = g_loss[i];
            const T finite = either(sum - sum == T(0), g, T(0)),
                    of_no_score = either(s.target_score[i] == T(0), finite, g);
            const T kept = either(s.mass[i] == T(0), of_no_score, g);  // nothing of a row that is removed
            g_loss[i] = either(targets.valid[i] == 0, T(0), kept);
        }
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T c = g_loss[i], of_loss = either(c == T(0), T(0), c * s.mass[i]);
            const T of_entropy = plain ? T(0) : either(g_entropy[i] == T(0), T(0), g_entropy[i] * entropy_[i]);
            beside[i] = g_lse[i] - of_entropy;
            const T a = of_loss + beside[i], size = size_of(a) + size_of(g_entropy[i]) + size_of(c);
            f.a[i] = a, f.b[i] = -g_entropy[i], f.c[i] = c;
            f.active[i] = either(targets.valid[i] == 0, T(0), size);
        }
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T inverse = T(1) / total_[i], of_a = f.a[i] * phi.unit[i] * inverse;
            const T size = plain ? size_of(of_a) : inverse * (size_of(f.a[i]) + size_of(f.b[i]));
            const T lower = s.ties[i] + (s.rest[i] - s.target_e[i]), beside_peak = (s.ties[i] - T(1)) + s.rest[i];
            const T rest = either(s.target_d[i] == T(0), beside_peak, lower);
            const T q = s.target_e[i] * inverse, of_log = f.b[i] * q * (s.target_d[i] - f.log_total[i]);
            const T entropic = plain ? T(0) : either(f.b[i] == T(0), T(0), either(q == T(0), T(0), of_log));
            // a probable target by q - 1, which keeps the digits of a small gradient; an improbable one by q
            const T smoothed = f.c[i] * targets.others[i], wanted = f.c[i] * (targets.keep[i] + targets.own[i]);
            const T near = (beside[i] + smoothed + entropic) - f.a[i] * (rest * inverse);
            const T far = (f.a[i] * q + entropic) - wanted;
            const T at_target = either(q > T(0.5), near, far) * s.target_slope[i];
            const T least = either(size < T(1), least_for(size), normal);
            const bool idle = f.active[i] == T(0);
            f.least[i] = either(idle, infinite, least);
            f.factor[i] = either(idle, T(0), plain ? of_a : inverse);
            f.at_target[i] = either(idle, T(0), at_target);
            f.of_target[i] = f.c[i] * phi.unit[i];
        }
    }

    static CROSSENT_INLINE T size_of(T x) { return std::fabs(x); }
};

}  // namespace
}  // namespace crossent
