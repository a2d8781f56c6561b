// Statistics of rows of numbers: one picked value, the sum, the largest and where it is, the smallest, and the entropy
// −Σ q log q of a row of probabilities. Included by rows.cpp alone. Sums are double, logarithms of the type of the
// arithmetic.
#pragma once

#include "lanes.h"

namespace crossent {
namespace {

struct RowSummary {
    double total = 0, peak = -infinity, least = infinity, entropy = 0;
    int64_t place = 0;
};

void save(const SummaryTask& task, int64_t row, const RowSummary& r) {
    const double fields[] = {r.total, r.peak, r.least, r.entropy};
    for (int64_t k = 0; k < 4; ++k) task.result[(k + 1) * task.rows + row] = fields[k];
    task.place[row] = r.place;
}

// −x log x, and 0 for what is no positive number.
inline double information(double x) { return x > 0 ? -x * log_positive(x) : 0; }
inline float information(float x) { return x >= std::numeric_limits<float>::min() ? -x * log_normal(x) : 0; }

// The first place of a value in x, which is filled up to whole lanes with others of its values; n if it is not there.
template <class T>
inline int64_t find(const T* x, int64_t n, T value) {
    using Int = typename Limits<T>::Int;
    constexpr auto width = static_cast<Int>(lanes<T>);
    alignas(64) Int before[width];  // how many are before the first such place of each lane, negative
#pragma omp simd
    for (Int k = 0; k < width; ++k) before[k] = static_cast<Int>(-n);
    for (Int i = 0; i < static_cast<Int>(fill_lanes<T>(n)); i += width) {
#pragma omp simd
        for (Int k = 0; k < width; ++k) {
            const Int here = x[i + k] == value ? -(i + k) : static_cast<Int>(-n);
            before[k] = here > before[k] ? here : before[k];
        }
    }
    return -largest_of<lanes<T>>(before);
}

template <class Storage>
RowSummary summary_of_row(const SummaryTask& task, const Storage* row) {
    using T = typename Compute<Storage>::type;
    alignas(64) T x[block_size<T>];
    RowSummary result;
    for (int64_t begin = 0; begin < task.columns; begin += block_size<T>) {
        using Int = typename Limits<T>::Int;  // as wide as T, for masks
        const auto n = static_cast<Int>(least(block_size<T>, task.columns - begin));
        const auto filled = static_cast<Int>(fill_lanes<T>(n)), whole = static_cast<Int>(n - n % lanes<T>);
        for (Int i = 0; i < whole; ++i) x[i] = widen(row[begin + i]);
        if (whole < n) {
            const Storage* const tail = row + begin + whole;
#pragma omp simd
            for (Int i = 0; i < static_cast<Int>(lanes<T>); ++i) x[whole + i] = widen(tail[i < n - whole ? i : 0]);
        }
        LanePeaks<T> negatives;
        negatives.take(filled, [&x](int64_t i) { return -x[i]; });
        const T peak = peak_of(x, filled), smallest = -negatives.largest();
        if (whole < n) {
#pragma omp simd
            for (Int i = 0; i < static_cast<Int>(lanes<T>); ++i) x[whole + i] = i < n - whole ? x[whole + i] : T(0);
        }
        constexpr auto step = static_cast<Int>(piece_size<T>);
        double total = 0, entropy = 0;
#pragma omp simd reduction(+ : total)
        for (Int i = 0; i < filled; ++i) total += static_cast<double>(x[i]);
        for (Int from = 0; task.entropic && from < filled; from += step) {
            const auto to = static_cast<Int>(least(from + step, filled));
            T part = 0;
#pragma omp simd reduction(+ : part)
            for (Int i = from; i < to; ++i) part += information(x[i]);
            entropy += static_cast<double>(part);
        }
        if (static_cast<double>(peak) > result.peak) {
            result.peak = static_cast<double>(peak);
            result.place = begin + find(x, n, peak);
        }
        result.least = static_cast<double>(smallest) < result.least ? static_cast<double>(smallest) : result.least;
        result.total += total;
        result.entropy += entropy;
    }
    return result;
}

template <class Storage>
void summaries_of_rows(const SummaryTask& task, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const auto* from = static_cast<const Storage*>(task.values.data) + row * task.values.outer_stride;
        save(task, row, summary_of_row(task, from));
    }
}

template <class Storage>
void summaries_of_lanes(const SummaryTask& task, int64_t begin, int64_t end) {
    using T = typename Compute<Storage>::type;
    for (int64_t row = begin; row < end; row += tile_rows) {
        const int64_t n = least(tile_rows, end - row);
        Lane<T> x, peak, smallest;
        Lane<double> total, entropy;
        Lane<typename Limits<T>::Int> place;  // as wide as T, for masks
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            peak[i] = -std::numeric_limits<T>::infinity();
            smallest[i] = std::numeric_limits<T>::infinity();
        }
        for (int64_t first = 0; first < task.columns; first += classes_per_fold) {
            Lane<T> part;
            for (int64_t v = first; v < least(first + classes_per_fold, task.columns); ++v) {
                const int64_t at = row * task.values.outer_stride + v * task.values.column_stride;
                load_run<Storage>(task.values.data, at, task.values.outer_stride, n, x.at);
                if (task.values.outer_stride == 1) {  // columns are far apart: fetch the next tile's
                    fetch(static_cast<const Storage*>(task.values.data) + at + tile_rows,
                          tile_rows * static_cast<int64_t>(sizeof(Storage)));
                }
                const auto column = static_cast<typename Limits<T>::Int>(v);
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) {
                    place[i] = x[i] > peak[i] ? column : place[i];
                    peak[i] = x[i] > peak[i] ? x[i] : peak[i];
                    smallest[i] = x[i] < smallest[i] ? x[i] : smallest[i];
                }
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) total[i] += static_cast<double>(x[i]);
                if (!task.entropic) continue;
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) part[i] += information(x[i]);
            }
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) entropy[i] += static_cast<double>(part[i]);
        }
        for (int64_t i = 0; i < n; ++i) {
            save(task, row + i,
                 {total[i], static_cast<double>(peak[i]), static_cast<double>(smallest[i]), entropy[i], place[i]});
        }
    }
}

template <class Storage>
void summaries_of(const SummaryTask& task, int64_t begin, int64_t end) {
    const bool side_by_side = task.columns <= short_row || task.values.column_stride != 1;
    (side_by_side ? summaries_of_lanes<Storage> : summaries_of_rows<Storage>)(task, begin, end);
    const auto* values = static_cast<const Storage*>(task.values.data);
    for (int64_t row = begin; row < end && task.index.data != nullptr; ++row) {
        const int64_t column = load_integer(task.index.data, task.index.type, row * task.index.stride);
        const bool there = column >= 0 && column < task.columns;
        const int64_t at = row * task.values.outer_stride + (there ? column : 0) * task.values.column_stride;
        task.result[row] = there ? static_cast<double>(widen(values[at])) : std::numeric_limits<double>::quiet_NaN();
    }
}

void row_summary(const SummaryTask& task, int64_t begin, int64_t end) {
    switch (task.values.type) {
        case Type::f32: return summaries_of<float>(task, begin, end);
        case Type::f64: return summaries_of<double>(task, begin, end);
        case Type::bf16: return summaries_of<bfloat16>(task, begin, end);
        case Type::f16: return summaries_of<float16>(task, begin, end);
        default: return;
    }
}

}  // namespace
}  // namespace crossent
