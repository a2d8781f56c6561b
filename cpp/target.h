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

inline double temperature_of(const RowTask& task, int64_t row) {
    const Vector& own = task.row_temperature;
    return own.data == nullptr ? task.temperature : load_real<double>(own.data, own.type, row * own.stride);
}

// softcap * tanh(z * inner), where inner is 1 / (temperature * softcap).
template <class T>
CROSSENT_INLINE T capped_score(T z, T inner, T cap, T& slope) {
    T tanh;
    tanh_and_slope(z * inner, tanh, slope);
    slope *= inner * cap;
    return tanh * cap;
}

// phi of a row, and how far apart two scores are: unit times the difference of what `scored` returns.
template <class T>
struct Phi {
    T cap, inner, unit;
    double temperature, score_unit;  // 1 / temperature; scores are exact multiples of it where there is no softcap
    T zero_log = opaque(Limits<T>::zero_log);
    Phi(const RowTask& task, double temperature_)
        : cap(static_cast<T>(task.softcap)),
          inner(static_cast<T>(task.softcap > 0 ? 1 / (temperature_ * task.softcap) : 0)),
          unit(static_cast<T>(task.softcap > 0 ? 1 : 1 / temperature_)), temperature(temperature_),
          score_unit(1 / temperature_) {}

    CROSSENT_INLINE T scored(T z, T& slope) const { return capped_score(z, inner, cap, slope); }
};

// The score of one logit; the unit of scores is 1 / temperature.
template <class Storage, class T>
inline double score_at(Storage z, T cap, T inner, double score_unit, double& slope) {
    slope = score_unit;
    if (cap == T(0)) return static_cast<double>(widen(z)) * score_unit;
    T slope_;
    const double score = capped_score(widen(z), inner, cap, slope_);
    slope = slope_;
    return score;
}

struct Run {  // the dense target of a row: columns `stride` apart from element `first` on
    const void* data = nullptr;
    Type type = Type::f32;
    int64_t first = 0, stride = 1;
};

template <class T>
CROSSENT_INLINE bool is_measure(T p) {
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

// n numbers, filled up with zeros: where they are if nothing has to be filled up, else in room.
template <class T>
const T* filled_up(const T* from, int64_t n, int64_t filled, T* room) {
    if (n == filled) return from;
    std::memcpy(room, from, sizeof(T) * static_cast<size_t>(n));
    std::memset(room + n, 0, sizeof(T) * static_cast<size_t>(filled - n));
    return room;
}

// What the loops over columns [begin, begin + n) must know of the target measure of a row, as numbers of their type,
// filled up with zeros: p = keep * prob + spread.
template <class T>
struct MeasureBlock {
    const T *prob = nullptr, *keep = nullptr, *spread = nullptr;  // no prob: 0; no keep: 1 for all; no spread: 0
    T keep_all = 1;

    MeasureBlock() = default;
    // `room` is for three blocks.
    MeasureBlock(const RowTask& task, const Run& run, int64_t begin, int64_t n, int64_t filled, T* room, int64_t size)
        : keep_all(static_cast<T>(task.keep_all)) {
        constexpr Type own = std::is_same_v<T, double> ? Type::f64 : Type::f32;
        if (run.data != nullptr && run.type == own && run.stride == 1) {
            prob = filled_up(static_cast<const T*>(run.data) + run.first + begin, n, filled, room);
        } else if (run.data != nullptr) {
            load_run(run.data, run.type, run.first + begin * run.stride, run.stride, n, room);
            std::memset(room + n, 0, sizeof(T) * static_cast<size_t>(filled - n));
            prob = room;
        }
        if (task.keep != nullptr && prob != nullptr)
            keep = filled_up(static_cast<const T*>(task.keep) + begin, n, filled, room + size);
        if (task.spread != nullptr)
            spread = filled_up(static_cast<const T*>(task.spread) + begin, n, filled, room + 2 * size);
    }
    MeasureBlock at(int64_t i) const {
        MeasureBlock rest = *this;
        if (prob != nullptr) rest.prob += i;
        if (keep != nullptr) rest.keep += i;
        if (spread != nullptr) rest.spread += i;
        return rest;
    }
};

// Calls with_kind(prob, keep, spread), each a std::bool_constant of whether there is one.
template <class T, class Call>
CROSSENT_INLINE void with_kind(const MeasureBlock<T>& m, const Call& call) {
    constexpr std::true_type yes{};
    constexpr std::false_type no{};
    if (m.prob == nullptr) return m.spread == nullptr ? call(no, no, no) : call(no, no, yes);
    if (m.spread == nullptr) return m.keep == nullptr ? call(yes, no, no) : call(yes, yes, no);
    m.keep == nullptr ? call(yes, no, yes) : call(yes, yes, yes);
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
