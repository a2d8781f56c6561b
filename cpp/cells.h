// Rows of probabilities of every class in the cells of a grid: how many rows each cell of a class has, and their sums.
// crossent/scoring/sums/grid.py says what a cell is. Included by rows.cpp alone. Sums are double.
#pragma once

#include <vector>

#include "columns.h"

namespace crossent {
namespace {

constexpr int64_t rows_of_a_column = 4096;  // that are worked on at a time where each column lies by itself

// Bits of a float are cut off so that its exponent and two digits stay: a quarter of an octave.
template <class T>
struct Quarters {
    using Int = typename Limits<T>::Int;
    static constexpr int shift = std::numeric_limits<T>::digits - 3;
    static constexpr Int first = static_cast<Int>(std::numeric_limits<T>::max_exponent - 1 - 64) * 4;
    static_assert(static_cast<Int>(std::numeric_limits<T>::max_exponent - 2) * 4 - first == cells_below_half);
};

// What a cell of one class gets from some rows: Σ w q, the number of rows, and Σ w unless all weights are 1.
template <bool weighted>
struct Cell {
    double predicted = 0, count = 0;
};
template <>
struct Cell<true> {
    double predicted = 0, count = 0, weight = 0;
};

template <class T>
inline T into_unit(T x) {
    x = x > 0 ? x : 0;  // NaN too
    return x < 1 ? x : 1;
}

// The cell of q in [0, 1] less its tenths.
template <class T>
CROSSENT_INLINE typename Limits<T>::Int quarter_of(T q) {
    using Int = typename Limits<T>::Int;
    using Bits = std::make_unsigned_t<Int>;
    constexpr T smallest = static_cast<T>(0x1p-64), half = static_cast<T>(0.5),
                below_half = half - std::numeric_limits<T>::epsilon() / 4;
    const bool high = q >= half;
    const T other = 1 - q;  // exact above one half
    T near = high ? (other < below_half ? other : below_half) : q;
    near = near > smallest ? near : smallest;
    const Int place = static_cast<Int>(bits<Bits>(near) >> Quarters<T>::shift) - Quarters<T>::first;
    return high ? static_cast<Int>(2 * cells_below_half - 1) - place : place;
}

// As the product of doubles says it: 0.7f times ten is below 7, but rounds to it.
CROSSENT_INLINE int32_t tenth_of(double q) { return static_cast<int32_t>(q * 10.0); }

template <class Storage, bool weighted>
void cells_of(const CellTask& task, double* square) {
    using T = typename Compute<Storage>::type;
    const int64_t step = task.values.outer_stride == 1 ? rows_of_a_column : tile_rows;
    std::vector<Cell<weighted>> table(static_cast<size_t>(task.columns * grid_cells));
    Lane<T> x;
    Lane<typename Limits<T>::Int> quarter;
    Lane<int32_t> place;
    Lane<double> q;
    for (int64_t begin = 0; begin < task.rows; begin += step) {
        const int64_t end = least(begin + step, task.rows);
        for (int64_t v = 0; v < task.columns; ++v) {
            Cell<weighted>* const cell = table.data() + v * grid_cells;
            for (int64_t row = begin; row < end; row += tile_rows) {
                const int64_t n = least(tile_rows, end - row);
                const int64_t at = row * task.values.outer_stride + v * task.values.column_stride;
                load_run<Storage>(task.values.data, at, task.values.outer_stride, n, x.at);
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) {
                    x[i] = into_unit(x[i]);
                    quarter[i] = quarter_of(x[i]);
                }
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) q[i] = static_cast<double>(x[i]);
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) place[i] = tenth_of(q[i]);
#pragma omp simd
                for (int64_t i = 0; i < tile_rows; ++i) place[i] += static_cast<int32_t>(quarter[i]);
                double* const sum = square + row;
#pragma omp simd
                for (int64_t i = 0; i < n; ++i) sum[i] += q[i] * q[i];
                for (int64_t i = 0; i < n; ++i) {
                    Cell<weighted>& one = cell[place[i]];
                    if constexpr (weighted) {
                        const double weight =
                            load_real<double>(task.weight.data, task.weight.type, (row + i) * task.weight.stride);
                        one.predicted += weight * q[i], one.count += 1, one.weight += weight;
                    } else {
                        one.predicted += q[i], one.count += 1;
                    }
                }
            }
        }
    }
    const int64_t size = task.columns * grid_cells;
    for (int64_t k = 0; k < size; ++k) {
        const Cell<weighted>& one = table[static_cast<size_t>(k)];
        task.count[k] += static_cast<int64_t>(one.count);
        task.sums[size + k] += one.predicted;
        if constexpr (weighted) task.sums[k] += one.weight;
        else task.sums[k] += one.count;
    }
}

// Adds the truth of each row, and makes its square loss of Σ q².
template <class Storage>
void truths_of(const CellTask& task) {
    const auto* values = static_cast<const Storage*>(task.values.data);
    double* const truth = task.sums + 2 * task.columns * grid_cells;
    double* const hoped = truth + task.columns * grid_cells;
    for (int64_t row = 0; row < task.rows; ++row) {
        const int64_t label = load_integer(task.index.data, task.index.type, row * task.index.stride);
        if (label < 0 || label >= task.columns) {
            task.square[row] = std::numeric_limits<double>::quiet_NaN();
            continue;
        }
        const double q = into_unit(
            static_cast<double>(widen(values[row * task.values.outer_stride + label * task.values.column_stride])));
        const double weight = task.weight.data == nullptr
                                  ? 1
                                  : load_real<double>(task.weight.data, task.weight.type, row * task.weight.stride);
        const int64_t cell = label * grid_cells + quarter_of(q) + tenth_of(q);
        truth[cell] += weight;
        hoped[cell] += weight * q;
        task.square[row] += 1 - 2 * q;
    }
}

template <class Storage>
void all_cells_of(const CellTask& task) {
    std::fill_n(task.square, task.rows, 0.0);
    if (task.weight.data == nullptr) cells_of<Storage, false>(task, task.square);
    else cells_of<Storage, true>(task, task.square);
    truths_of<Storage>(task);
}

void class_cells(const CellTask& task) {
    switch (task.values.type) {
        case Type::f32: return all_cells_of<float>(task);
        case Type::f64: return all_cells_of<double>(task);
        case Type::bf16: return all_cells_of<bfloat16>(task);
        case Type::f16: return all_cells_of<float16>(task);
        default: return;
    }
}

}  // namespace
}  // namespace crossent
