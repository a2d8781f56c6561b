// The largest number of each row and its first place: what a prediction is. Included by rows.cpp alone. A NaN is no
// number, and a row without one that is above -inf has its peak at its first column.
#pragma once

#include "summary.h"

namespace crossent {
namespace {

// A block is read once for its peak. Only one whose peak is above all before it is read again for the place: of the
// blocks of random rows a few are.
template <class Storage>
void peaks_of_rows(const PeakTask& task, int64_t begin, int64_t end) {
    using T = typename Compute<Storage>::type;
    alignas(64) T x[block_size<T>];
    for (int64_t row = begin; row < end; ++row) {
        const auto* const from = static_cast<const Storage*>(task.values.data) + row * task.values.outer_stride;
        T peak = -std::numeric_limits<T>::infinity();
        int64_t place = 0;
        for (int64_t first = 0; first < task.columns; first += block_size<T>) {
            const int64_t n = least(block_size<T>, task.columns - first);
            const Storage* const block = from + first;
            LanePeaks<T> peaks;
            peaks.take(n, [block](int64_t i) { return static_cast<T>(widen(block[i])); });
            const T largest = peaks.largest();
            if (!(largest > peak)) continue;
            peak = largest;
            for (int64_t i = 0; i < n; ++i) x[i] = widen(block[i]);
            for (int64_t i = n; i < fill_lanes<T>(n); ++i) x[i] = -std::numeric_limits<T>::infinity();
            place = first + find(x, n, peak);
        }
        task.peak[row] = static_cast<double>(peak);
        task.place[row] = place;
    }
}

template <class Storage>
void peaks_of_lanes(const PeakTask& task, int64_t begin, int64_t end) {
    using T = typename Compute<Storage>::type;
    for (int64_t row = begin; row < end; row += tile_rows) {
        const int64_t n = least(tile_rows, end - row);
        Lane<T> x, peak;
        Lane<typename Limits<T>::Int> place;  // as wide as T, for masks
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) peak[i] = -std::numeric_limits<T>::infinity();
        for (int64_t v = 0; v < task.columns; ++v) {
            const int64_t at = row * task.values.outer_stride + v * task.values.column_stride;
            load_run<Storage>(task.values.data, at, task.values.outer_stride, n, x.at);
            const auto column = static_cast<typename Limits<T>::Int>(v);
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) {
                place[i] = x[i] > peak[i] ? column : place[i];
                peak[i] = x[i] > peak[i] ? x[i] : peak[i];
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            task.peak[row + i] = static_cast<double>(peak[i]);
            task.place[row + i] = place[i];
        }
    }
}

template <class Storage>
void peaks_of(const PeakTask& task, int64_t begin, int64_t end) {
    const bool side_by_side = task.columns <= short_row || task.values.column_stride != 1;
    (side_by_side ? peaks_of_lanes<Storage> : peaks_of_rows<Storage>)(task, begin, end);
}

void row_peaks(const PeakTask& task, int64_t begin, int64_t end) {
    switch (task.values.type) {
        case Type::f32: return peaks_of<float>(task, begin, end);
        case Type::f64: return peaks_of<double>(task, begin, end);
        case Type::bf16: return peaks_of<bfloat16>(task, begin, end);
        case Type::f16: return peaks_of<float16>(task, begin, end);
        default: return;
    }
}

}  // namespace
}  // namespace crossent
