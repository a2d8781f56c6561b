// A row beside its teacher's: the sums of their divergences, and what these add to the gradient. Included by rows.cpp
// alone.
//
// Both rows are read in pieces that stay in cache. Logits of every type and layout become log-probabilities by the same
// instructions, so that equal rows have equal ones, and the loops that follow know their difference alone: of each
// class the greater probability, and the gap by which its logarithm is above the other one. No term is a difference of
// large numbers, and none is negative. Index targets are written into the gradient afterwards and in double, as in
// rows.h.
#pragma once

#include "rows.h"

namespace crossent {
namespace {

// Below this logarithm a probability is 0 beside a gap that is small: their product would be denormal.
template <class T>
constexpr T least_log = Limits<T>::smallest + (sizeof(T) == 4 ? T(39) : T(68));

// One of the two rows.
template <class T>
struct PairRow {
    const RowTask& task;
    const Phi<T> phi;
    const Record record;
    const int64_t first;  // its first element among the logits
    const double log_total;
    const bool capped, defined;  // whether there is a distribution

    PairRow(const RowTask& task_, int64_t row)
        : task(task_), phi(task_, temperature_of(task_, row)), record(saved(task_, row)),
          first(offset(task_, task_.logits, row)), log_total(std::log(record.total)), capped(phi.cap > T(0)),
          defined(record.total > 0 && std::isfinite(record.total + record.peak)) {}

    // Log-probabilities of columns [begin, begin + n), filled up to whole lanes with those of no probability; slopes if
    // there is a softcap.
    void load(int64_t begin, int64_t n, T* log_prob, T* slope) const {
        switch (task.logits.type) {
            case Type::f32: return load_as<float>(begin, n, log_prob, slope);
            case Type::f64: return load_as<double>(begin, n, log_prob, slope);
            case Type::bf16: return load_as<bfloat16>(begin, n, log_prob, slope);
            case Type::f16: return load_as<float16>(begin, n, log_prob, slope);
            default: return;
        }
    }

    // Log-probability of one column in double, and the slope of phi there.
    double log_prob_at(int64_t column, double& slope) const {
        const double z =
            load_real<double>(task.logits.data, task.logits.type, first + column * task.logits.column_stride);
        double score = z * phi.score_unit;
        slope = phi.score_unit;
        if (capped) {
            T slope_;
            score = static_cast<double>(phi.scored(static_cast<T>(z), slope_));
            slope = static_cast<double>(slope_);
        }
        return score - record.peak - log_total;
    }

  private:
    template <class Storage>
    void load_as(int64_t begin, int64_t n, T* log_prob, T* slope) const {
        const int64_t stride = task.logits.column_stride;
        const Storage* const z = static_cast<const Storage*>(task.logits.data) + first + begin * stride;
        const T peak = static_cast<T>(capped ? record.peak : record.peak * phi.temperature), unit = phi.unit,
                log_total_ = static_cast<T>(log_total);
        if (stride == 1) fetch(z + n, n * static_cast<int64_t>(sizeof(Storage)));
        if (stride == 1 && !capped) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) log_prob[i] = (static_cast<T>(widen(z[i])) - peak) * unit - log_total_;
        } else {
            load_run<Storage>(z, 0, stride, n, log_prob);
            if (capped) {
                const Phi<T> own = phi;
                for (int64_t i = 0; i < n; ++i) log_prob[i] = own.scored(log_prob[i], slope[i]);
            }
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) log_prob[i] = (log_prob[i] - peak) * unit - log_total_;
        }
        for (int64_t i = n; i < fill_lanes<T>(n); ++i) log_prob[i] = least_log<T> - T(1);
    }
};

// What the loop over the mixture takes from the one before it. One loop over all of the arithmetic would be slower: it
// is a long chain, and a processor looks no further ahead than a column or two.
template <class T>
struct MixedPiece {
    alignas(64) T log[piece_size<T>], value[piece_size<T>], less[piece_size<T>], large[piece_size<T>];
};

// The sums of n columns. Without `infinite` a log-probability of -inf makes sums that are not finite.
template <bool mixed, bool infinite, class T>
void add_pair(const T* logp, const T* logq, int64_t n, const PairTask& task, double* sums) {
    const T zero_log = opaque(Limits<T>::zero_log), inf = std::numeric_limits<T>::infinity();
    MixedPiece<T> kept;
    T kl = 0, reverse = 0;
#pragma omp simd reduction(+ : kl, reverse)
    for (int64_t i = 0; i < n; ++i) {
        const T p = logp[i], q = logq[i], high = p > q ? p : q, low = p < q ? p : q;
        const T d = infinite && high == -inf ? T(0) : low - high;
        const Ratio<T> ratio(d, zero_log);
        const T large = exp_nonpositive(high, d > T(-1) ? least_log<T> : Limits<T>::smallest);
        T first, second;
        excess(d, ratio, first, second);
        const bool up = p > q;  // the teacher's probability is the greater one
        if (infinite) {
            first = d == -inf ? inf : first * large, second *= large;
            kl += up ? first : second;
            reverse += up ? second : first;
        } else {
            kl += large * (up ? first : second);
            reverse += large * (up ? second : first);
        }
        if (mixed) {
            kept.log[i] = ratio.log;
            kept.value[i] = ratio.value;
            kept.less[i] = ratio.less;
            kept.large[i] = high < least_log<T> ? T(0) : large;
        }
    }
    sums[0] = static_cast<double>(kl), sums[1] = static_cast<double>(reverse);
    if (!mixed) return;
    const T beta = static_cast<T>(task.beta), rest = static_cast<T>(task.rest);
    T teacher = 0, student = 0;
#pragma omp simd reduction(+ : teacher, student)
    for (int64_t i = 0; i < n; ++i) {
        const bool up = logp[i] > logq[i];
        const Ratio<T> ratio(kept.log[i], kept.value[i], kept.less[i]);
        const T large = kept.large[i];
        T log, first, second;
        mixed_excess(ratio, up ? rest : beta, up ? beta : rest, log, first, second);
        teacher += large * (up ? first : second);
        student += large * (up ? second : first);
    }
    sums[2] = static_cast<double>(teacher), sums[3] = static_cast<double>(student);
}

template <class T>
void pair_stats_of(const PairTask& task, int64_t begin, int64_t end) {
    constexpr int64_t step = piece_size<T>;
    alignas(64) T logp[step], logq[step], slope[step];
    const bool mixed = task.beta > 0;
    const int64_t wanted = mixed ? pair_sums : 2, columns = task.student.columns;
    for (int64_t row = begin; row < end; ++row) {
        const PairRow<T> student(task.student, row), teacher(task.teacher, row);
        double sums[pair_sums] = {};
        if (columns > 0 && !(student.defined && teacher.defined)) {
            for (double& sum : sums) sum = std::numeric_limits<double>::quiet_NaN();
        } else {
            for (int64_t at = 0; at < columns; at += step) {
                const int64_t n = least(step, columns - at);
                student.load(at, n, logq, slope);
                teacher.load(at, n, logp, slope);
                double part[pair_sums];
                (mixed ? add_pair<true, false, T> : add_pair<false, false, T>)(logp, logq, fill_lanes<T>(n), task,
                                                                               part);
                if (!std::isfinite(part[0] + part[1]))
                    (mixed ? add_pair<true, true, T> : add_pair<false, true, T>)(logp, logq, fill_lanes<T>(n), task,
                                                                                 part);
                for (int64_t k = 0; k < wanted; ++k) sums[k] += part[k];
            }
        }
        for (int64_t k = 0; k < wanted; ++k) {
            double& sum = task.sums[k * task.student.rows + row];
            sum = task.extend ? sum + sums[k] : sums[k];
        }
    }
}

// Coefficients of a row: of the plain gradient, and of what each divergence adds. `js` is g_js (1 - beta).
struct PairCoefficients {
    Coefficients plain;
    double kl = 0, reverse = 0, js = 0, reverse_kl = 0, from_mixture = 0;  // the last two: the sums that they multiply

    PairCoefficients(const PairTask& task, int64_t row)
        : plain(coefficients_of(at(task.student.g_loss, row), at(task.student.g_lse, row),
                                at(task.student.g_entropy, row), saved(task.student, row))),
          kl(at(task.g_kl, row)), reverse(at(task.g_reverse, row)) {
        const int64_t rows = task.student.rows;
        if (task.beta > 0) js = at(task.g_js, row) * task.rest;
        if (reverse != 0) reverse_kl = task.sums[rows + row];
        if (js != 0) from_mixture = task.sums[3 * rows + row];
    }
    bool paired() const { return kl != 0 || reverse != 0 || js != 0; }
    bool zero() const { return plain.a == 0 && plain.b == 0 && plain.c == 0 && !paired(); }
    // The coefficient of q, of what is the same in all columns.
    double a() const { return plain.a - (reverse == 0 ? 0 : reverse * reverse_kl) - (js == 0 ? 0 : js * from_mixture); }
};

// The same as numbers of the loops, all divided by their size, which is a factor of the slope again.
template <class T>
struct PairFactors {
    T a, b, c, kl, reverse, js, scale, beta, rest, floor;

    PairFactors(const PairTask& task, const PairCoefficients& of) {
        double size =
            std::fabs(of.a()) + std::fabs(of.plain.b) + std::fabs(of.kl) + std::fabs(of.reverse) + std::fabs(of.js);
        if (!(size > 0 && std::isfinite(size))) size = 1;
        a = static_cast<T>(of.a() / size), b = static_cast<T>(of.plain.b / size), c = static_cast<T>(of.plain.c / size);
        kl = static_cast<T>(of.kl / size), reverse = static_cast<T>(of.reverse / size),
        js = static_cast<T>(of.js / size);
        scale = static_cast<T>(size), beta = static_cast<T>(task.beta), rest = static_cast<T>(task.rest);
        const double least = size < 1 ? static_cast<double>(Limits<T>::smallest) - log_of_power_below(size) : 0;
        floor = size < 1 && least > static_cast<double>(least_log<T>) ? static_cast<T>(least) : least_log<T>;
    }
};

// The gradient by the scores, but for the target and the scale.
template <bool mixed, class T>
void write_pair(const T* logp, const T* logq, int64_t n, const PairFactors<T>& factors, T* value) {
    const PairFactors<T> f = factors;
    const T zero_log = opaque(Limits<T>::zero_log), lowest = std::numeric_limits<T>::lowest() / T(1e8);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T p = logp[i], own = logq[i], high = p > own ? p : own, low = p < own ? p : own;
        const bool up = p > own;  // the teacher's probability is the greater one
        const T d = low - high;   // no number where both are -inf, but then the probabilities are 0
        const Ratio<T> ratio(d, zero_log);
        const T large = exp_nonpositive(high, f.floor), small = large * (low < f.floor ? T(0) : ratio.value);
        const T q = up ? small : large, missing = large * ratio.less;
        const T distance = d > lowest ? d : lowest, known = own > lowest_log<T> ? own : lowest_log<T>;
        T factor = f.a + f.b * known - f.reverse * (up ? -distance : distance);
        if (mixed) {
            T log, first, second;
            mixed_excess(ratio, up ? f.rest : f.beta, up ? f.beta : f.rest, log, first, second);
            factor += f.js * (up ? ratio.log - log : -log);
        }
        value[i] = (q == T(0) ? T(0) : q * factor) + f.kl * (up ? missing : -missing);
    }
}

// Subtracts c p of a dense target, or of the spread of smoothing.
template <class T>
void subtract_measure(const RowTask& task, const Run& prob, int64_t begin, int64_t n, T c, T* value) {
    if (prob.data == nullptr && task.spread == nullptr) return;
    const Type own = task.logits.type == Type::f64 ? Type::f64 : Type::f32;
    constexpr int64_t step = piece_size<T>;
    alignas(64) T measure[step], factor[step];
    for (int64_t i = 0; i < n; ++i) measure[i] = T(0), factor[i] = static_cast<T>(task.keep_all);
    if (prob.data != nullptr) {
        load_run(prob.data, prob.type, prob.first + begin * prob.stride, prob.stride, n, measure);
        if (task.keep != nullptr) load_run(task.keep, own, begin, 1, n, factor);
        for (int64_t i = 0; i < n; ++i) measure[i] *= factor[i];
    }
    if (task.spread != nullptr) {
        load_run(task.spread, own, begin, 1, n, factor);
        for (int64_t i = 0; i < n; ++i) measure[i] += factor[i];
    }
    for (int64_t i = 0; i < n; ++i) value[i] -= c * measure[i];
}

// The gradient at a column that the target names, in double.
template <class T>
double patched(const PairTask& task, int64_t row, int64_t column, const PairRow<T>& student, const PairRow<T>& teacher,
               const PairCoefficients& of) {
    const RowTask& own = task.student;
    const Type type = own.logits.type == Type::f64 ? Type::f64 : Type::f32;
    double slope, unused, measure = own.spread == nullptr ? 0 : load_real<double>(own.spread, type, column);
    for (int64_t pick = 0; pick < own.picks; ++pick) {  // the same class may be picked twice
        if (pick_column(own, row, pick) != column) continue;
        measure += type == Type::f64 ? pick_measure<double>(own, row, pick, column)
                                     : pick_measure<float>(own, row, pick, column);
    }
    const double logq = student.log_prob_at(column, slope), q_less_1 = std::expm1(logq), q = std::exp(logq);
    const double target = measure == 0 ? 0 : of.plain.c * measure;
    const double entropic = of.plain.b == 0 || q == 0 ? 0 : of.plain.b * q * logq;
    double value = of.plain.a * q_less_1 + (of.plain.a - target) + entropic;
    if (of.paired()) {
        const double logp = teacher.log_prob_at(column, unused);
        const double distance = logp == logq ? 0 : std::fabs(logp - logq);  // both may be -inf
        const bool up = logp > logq;
        const double delta = up ? distance : -distance, less = std::expm1(-distance);
        value += of.kl * (up ? std::exp(logp) * less : -q * less);
        if (q != 0 && of.reverse != 0) value -= of.reverse * q * (delta + of.reverse_kl);
        if (q != 0 && of.js != 0) {
            const double log = std::log1p((up ? task.rest : task.beta) * less);
            value -= of.js * q * ((up ? distance + log : log) + of.from_mixture);
        }
    }
    return slope * value;
}

template <class Out, class T>
void store_as(const T* value, int64_t first, int64_t stride, int64_t n, void* to) {
    using Wide = typename Compute<Out>::type;
    Out* const out = static_cast<Out*>(to) + first;
    if (stride == 1) {
        for (int64_t i = 0; i < n; ++i) out[i] = Narrow<Out>::from(static_cast<Wide>(value[i]));
    } else {
        for (int64_t i = 0; i < n; ++i) out[i * stride] = Narrow<Out>::from(static_cast<Wide>(value[i]));
    }
}

template <class T>
void store(const T* value, const Matrix& grad, int64_t first, int64_t n) {
    switch (grad.type) {
        case Type::f32: return store_as<float>(value, first, grad.column_stride, n, grad.data);
        case Type::f64: return store_as<double>(value, first, grad.column_stride, n, grad.data);
        case Type::bf16: return store_as<bfloat16>(value, first, grad.column_stride, n, grad.data);
        case Type::f16: return store_as<float16>(value, first, grad.column_stride, n, grad.data);
        default: return;
    }
}

template <class T>
void pair_grad_of(const PairTask& task, int64_t begin, int64_t end) {
    constexpr int64_t step = piece_size<T>;
    alignas(64) T logp[step], logq[step], slope[step], unused[step], value[step];
    const RowTask& own = task.student;
    const bool dense = own.prob.data != nullptr && own.index.data == nullptr;
    for (int64_t row = begin; row < end; ++row) {
        const PairRow<T> student(own, row), teacher(task.teacher, row);
        const PairCoefficients of(task, row);
        const bool nothing = ignored(own, row) || of.zero(), paired = of.paired();
        const bool undefined = !student.defined || (paired && !teacher.defined);
        const PairFactors<T> factors(task, of);
        const auto write = of.js != 0 ? write_pair<true, T> : write_pair<false, T>;
        const Run prob = {dense ? own.prob.data : nullptr, own.prob.type, offset(own, own.prob, row),
                          own.prob.column_stride};
        const int64_t first = offset(own, own.grad, row);
        for (int64_t at = 0; at < own.columns; at += step) {
            const int64_t n = least(step, own.columns - at), filled = fill_lanes<T>(n);
            if (nothing || undefined) {
                for (int64_t i = 0; i < n; ++i) value[i] = nothing ? T(0) : std::numeric_limits<T>::quiet_NaN();
            } else {
                student.load(at, n, logq, slope);
                if (paired) teacher.load(at, n, logp, unused);
                write(paired ? logp : logq, logq, filled, factors, value);
                subtract_measure(own, prob, at, n, factors.c, value);
                const T unit = factors.scale * (student.capped ? T(1) : student.phi.unit);
                for (int64_t i = 0; i < n; ++i) value[i] *= unit;
                if (student.capped) {
                    for (int64_t i = 0; i < n; ++i) value[i] *= slope[i];
                }
                for (int64_t pick = 0; pick < own.picks; ++pick) {
                    const int64_t column = pick_column(own, row, pick);
                    if (column < at || column >= at + n) continue;
                    value[column - at] = static_cast<T>(patched(task, row, column, student, teacher, of));
                }
            }
            store(value, own.grad, first + at * own.grad.column_stride, n);
        }
    }
}

bool in_double(const PairTask& task) {
    return task.student.logits.type == Type::f64 || task.teacher.logits.type == Type::f64;
}

void pair_stats(const PairTask& task, int64_t begin, int64_t end) {
    (in_double(task) ? pair_stats_of<double> : pair_stats_of<float>)(task, begin, end);
}

void pair_grad(const PairTask& task, int64_t begin, int64_t end) {
    (in_double(task) ? pair_grad_of<double> : pair_grad_of<float>)(task, begin, end);
}

}  // namespace
}  // namespace crossent
