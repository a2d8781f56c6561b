// Shared by the row functions: where a row lies, its scores, and its target.
#pragma once

#include "convert.h"

namespace crossent {
namespace {

inline int64_t offset(const RowTask& task, const Matrix& m, int64_t row) {
    if (task.inner_rows == 1) return row * m.outer_stride;
    return row / task.inner_rows * m.outer_stride + row % task.inner_rows * m.inner_stride;
}

inline int64_t row_stride(const RowTask& task, const Matrix& m) {
    return task.inner_rows == 1 ? m.outer_stride : m.inner_stride;
}

template <class T>
constexpr T lowest_log = T(-1e4);  // stands for log 0 where it multiplies 0

// A number that the compiler cannot know: knowing where e^d is 0, it would branch there instead of making vector code.
template <class T>
T opaque(T value) {
    volatile T hidden = value;
    return hidden;
}

// phi, and how far apart two scores are: unit times the difference of what `scored` returns.
template <class T>
struct Phi {
    T cap, inner, unit;
    double score_unit;  // 1 / temperature; scores are exact multiples of it where there is no softcap
    T zero_log = opaque(Limits<T>::zero_log);
    explicit Phi(const RowTask& task)
        : cap(static_cast<T>(task.softcap)),
          inner(static_cast<T>(task.softcap > 0 ? 1 / (task.temperature * task.softcap) : 0)),
          unit(static_cast<T>(task.softcap > 0 ? 1 : 1 / task.temperature)), score_unit(1 / task.temperature) {}

    T scored(T z, T& slope) const {
        T tanh;
        tanh_and_slope(z * inner, tanh, slope);
        slope *= inner * cap;
        return tanh * cap;
    }
};

template <class Storage, class T>
inline double score_at(const Phi<T>& phi, Storage z, double& slope) {
    slope = phi.score_unit;
    if (phi.cap == T(0)) return static_cast<double>(widen(z)) * phi.score_unit;
    T slope_;
    const double score = phi.scored(widen(z), slope_);
    slope = slope_;
    return score;
}

struct Run {  // the dense target of a row: columns `stride` apart from element `first` on
    const void* data = nullptr;
    Type type = Type::f32;
    int64_t first = 0, stride = 1;
};

template <class T>
inline bool is_measure(T p) {
    return p >= T(0) && p <= std::numeric_limits<T>::max();
}

// The first of n probabilities, from column `begin` of the row on, that is negative, infinite or NaN.
template <class T>
Problem first_problem(const T* p, int64_t n, int64_t row, int64_t begin) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; ++i) wrong += !is_measure(p[i]);
    for (int64_t i = 0; i < n && wrong > 0; ++i) {
        if (!is_measure(p[i])) return {row, begin + i, 0, static_cast<double>(p[i])};
    }
    return {};
}

constexpr int64_t summed_apart = 128;  // numbers in a row, so that roundings do not pile up

// Target measure of columns [begin, begin + n) that the loops must know of, dense probabilities and smoothing; returns
// the sum of it without the smoothing.
template <class T>
double load_measure(const RowTask& task, const Run& prob, int64_t begin, int64_t n, T* p, int64_t row,
                    Problem* problem) {
    double mass = 0;
    if (prob.data == nullptr) {
        std::memset(p, 0, sizeof(T) * static_cast<size_t>(n));
    } else {
        load_run(prob.data, prob.type, prob.first + begin * prob.stride, prob.stride, n, p);
        if (problem != nullptr && problem->row < 0) *problem = first_problem(p, n, row, begin);
        const T* keep = task.keep == nullptr ? nullptr : static_cast<const T*>(task.keep) + begin;
        const T keep_all = static_cast<T>(task.keep_all);
        for (int64_t from = 0; from < n; from += summed_apart) {
            double part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t i = from; i < least(from + summed_apart, n); ++i) {
                p[i] *= keep == nullptr ? keep_all : keep[i];
                part += static_cast<double>(p[i]);
            }
            mass += part;
        }
    }
    if (task.spread != nullptr) {
        const T* spread = static_cast<const T*>(task.spread) + begin;
        for (int64_t i = 0; i < n; ++i) p[i] += spread[i];
    }
    return mass;
}

// Column `pick` of the row's index target, or -1 if it is on another shard.
inline int64_t pick_column(const RowTask& task, int64_t row, int64_t pick) {
    const int64_t at = row * task.index.outer_stride + pick * task.index.column_stride;
    const int64_t label = load_integer(task.index.data, task.index.type, at);
    return label >= task.first_class && label - task.first_class < task.columns ? label - task.first_class : -1;
}

template <class T>
double pick_measure(const RowTask& task, int64_t row, int64_t pick, int64_t column) {
    const double keep = task.keep == nullptr ? task.keep_all : static_cast<const T*>(task.keep)[column];
    if (task.prob.data == nullptr) return keep;
    const int64_t at = row * task.prob.outer_stride + pick * task.prob.column_stride;
    return keep * load_real<double>(task.prob.data, task.prob.type, at);
}

inline bool ignored(const RowTask& task, int64_t row) {
    return task.picks == 1 && task.prob.data == nullptr &&
           load_integer(task.index.data, task.index.type, row * task.index.outer_stride) == task.ignore_index;
}

}  // namespace
}  // namespace crossent
