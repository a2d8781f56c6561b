// The row functions for one instruction set (CROSSENT_ISA): which way each row is worked on, and what is kept of it.
#include "few_rows.h"
#include "lanes.h"

#include <cstdlib>

#include "binary.h"
#include "cells.h"
#include "pair.h"
#include "peaks.h"
#include "summary.h"

namespace crossent {
namespace {

template <class T>
void save(const RowTask& task, int64_t row, const Record& r, double log_total) {
    for (int64_t k = 0; k < record_fields; ++k) task.record[k * task.rows + row] = r.*record_members[k];
    const auto put = [&](void* to, double value) {
        if (to != nullptr) static_cast<T*>(to)[row] = static_cast<T>(value);
    };
    put(task.loss, loss_of(r, log_total));
    put(task.lse, r.peak + log_total);
    put(task.entropy, log_total - r.tilt / r.total);
}

// The record of these columns, merged with the columns that the task's record holds already.
Record extended(const RowTask& task, int64_t row, const Record& record) {
    if (!task.extend || ignored(task, row)) return record;
    Record whole = saved(task, row);
    merge(whole, record);
    return whole;
}

Coefficients gradient_coefficients(const RowTask& task, int64_t row, const Record& r) {
    return coefficients_of(at(task.g_loss, row), at(task.g_lse, row), at(task.g_entropy, row), r);
}

Coefficients fused_coefficients(const RowTask& task, int64_t row, const Record& r) {
    const double squared = at(task.lse_squared_scale, row);
    return coefficients_of(at(task.loss_scale, row), squared == 0 ? 0 : 2 * squared * (r.peak + std::log(r.total)), 0,
                           r);
}

// The row functions.
enum class Work { stats, grad, fused };

bool by_lanes(const RowTask& task, Work work) {
    const bool apart = task.logits.column_stride != 1 || (work != Work::stats && task.grad.column_stride != 1);
    return task.columns <= short_row || apart;
}

template <class Storage, class Out>
void work_on_rows(const RowTask& task, Work work, int64_t begin, int64_t end, Problem& problem, void* room) {
    using T = typename Compute<Storage>::type;
    const bool dense = task.prob.data != nullptr && task.index.data == nullptr;
    const auto logits = [&](int64_t row) {
        return static_cast<const Storage*>(task.logits.data) + offset(task, task.logits, row);
    };
    for (int64_t row = begin; row < end; ++row) {
        const Run prob = {dense ? task.prob.data : nullptr, task.prob.type, offset(task, task.prob, row),
                          task.prob.column_stride};
        if (row + 1 < end && task.picks > 0)
            fetch(logits(row + 1) + pick_column(task, row + 1, 0), 1);  // no prefetcher foresees it
        const Record record = work == Work::grad
                                  ? saved(task, row)
                                  : extended(task, row, row_record(task, logits(row), prob, row, &problem));
        if (work != Work::grad) save<T>(task, row, record, std::log(record.total));
        if (work == Work::stats) continue;
        const Coefficients coefficients =
            work == Work::grad ? gradient_coefficients(task, row, record) : fused_coefficients(task, row, record);
        Out* const grad = static_cast<Out*>(task.grad.data) + offset(task, task.grad, row);
        row_gradient(task, logits(row), prob, row, record, coefficients, static_cast<Out*>(room), grad);
    }
}

template <class Storage, class Out>
void work_on_lanes(const RowTask& task, Work work, int64_t begin, int64_t end, Problem& problem, void* room) {
    using T = typename Compute<Storage>::type;
    LanePhi<T> phi(task);
    for (int64_t row = begin; row < end;) {
        const int64_t same_outer = task.inner_rows == 1 ? end - row : task.inner_rows - row % task.inner_rows;
        const Tile tile = {row, least(tile_rows, least(end - row, same_outer))};
        LaneRecords records;
        LaneCoefficients coefficients;
        phi.load(task, tile.row, tile.n);
        if (work == Work::grad) {
            for (int64_t i = 0; i < tile.n; ++i) records.set(i, saved(task, row + i));
        } else {
            lane_records<Storage>(task, tile, phi, records, &problem);
            for (int64_t i = 0; i < tile.n; ++i) records.set(i, extended(task, row + i, records.get(i)));
            Lane<double> log_total;
            for (int64_t i = 0; i < tile_rows; ++i) log_total[i] = log_positive(records.total[i]);
            for (int64_t i = 0; i < tile.n; ++i) save<T>(task, row + i, records.get(i), log_total[i]);
        }
        if (work != Work::stats) {
            for (int64_t i = 0; i < tile.n; ++i) {
                const Record record = records.get(i);
                coefficients.set(i, work == Work::grad ? gradient_coefficients(task, row + i, record)
                                                       : fused_coefficients(task, row + i, record));
            }
            lane_gradient<Storage, Out>(task, tile, phi, records, coefficients, static_cast<double*>(room));
        }
        row += tile.n;
    }
}

// Gives the gradient room for the values at the picked columns: on the stack unless a row has very many.
template <class Storage, class Out>
bool work_on(const RowTask& task, Work work, int64_t begin, int64_t end, Problem& problem) {
    const auto run = by_lanes(task, work) ? work_on_lanes<Storage, Out> : work_on_rows<Storage, Out>;
    alignas(8) char few[2048];
    const size_t bytes = work == Work::stats ? 0 : sizeof(double) * tile_rows * static_cast<size_t>(task.picks);
    void* const room = bytes <= sizeof(few) ? few : std::malloc(bytes);
    if (room == nullptr) return false;
    run(task, work, begin, end, problem, room);
    if (room != few) std::free(room);
    return true;
}

// The gradient has the type of the logits, or is the bfloat16 factor of a product where the logits are float32.
bool work_by_type(const RowTask& task, Work work, int64_t begin, int64_t end, Problem& problem) {
    const bool narrow = work != Work::stats && task.grad.type == Type::bf16 && task.logits.type == Type::f32;
    if (narrow) return work_on<float, bfloat16>(task, work, begin, end, problem);
    switch (task.logits.type) {
        case Type::f32: return work_on<float, float>(task, work, begin, end, problem);
        case Type::f64: return work_on<double, double>(task, work, begin, end, problem);
        case Type::bf16: return work_on<bfloat16, bfloat16>(task, work, begin, end, problem);
        case Type::f16: return work_on<float16, float16>(task, work, begin, end, problem);
        default: return false;
    }
}

bool row_stats(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return work_by_type(task, Work::stats, begin, end, problem);
}

bool row_grad(const RowTask& task, int64_t begin, int64_t end) {
    Problem unused;
    return work_by_type(task, Work::grad, begin, end, unused);
}

bool row_fused(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return work_by_type(task, Work::fused, begin, end, problem);
}

void few_rows(const RowTask& task, int64_t begin, int64_t end, Problem& problem, Sums* sums) {
    const bool narrow = task.grad.data != nullptr && task.grad.type == Type::bf16 && task.logits.type == Type::f32;
    if (narrow) return work_on_few<float, bfloat16>(task, begin, end, problem, sums);
    switch (task.logits.type) {
        case Type::f32: return work_on_few<float, float>(task, begin, end, problem, sums);
        case Type::f64: return work_on_few<double, double>(task, begin, end, problem, sums);
        case Type::bf16: return work_on_few<bfloat16, bfloat16>(task, begin, end, problem, sums);
        case Type::f16: return work_on_few<float16, float16>(task, begin, end, problem, sums);
        default: return;
    }
}

// What two classes add to divergences from each other, and from the mixture of equal shares, by their gap.
template <class T>
struct Excess {
    T first, second, mixed_first, mixed_second;
};

template <class T>
Excess<T> excess_of(T x) {
    Excess<T> e;
    T log;
    const Ratio<T> ratio(x, Limits<T>::zero_log);
    excess(x, ratio, e.first, e.second);
    mixed_excess(ratio, T(0.5), T(0.5), log, e.mixed_first, e.mixed_second);
    return e;
}

template <class T>
void apply(Function function, const T* in, T* out, int64_t size) {
    const auto each = [&](const auto& f) {
        for (int64_t i = 0; i < size; ++i) out[i] = f(in[i]);
    };
    switch (function) {
        case Function::exp: return each([](T x) { return exp_nonpositive(x, Limits<T>::smallest); });
        case Function::log1p: return each([](T x) { return log1p_unit(x); });
        case Function::tanh:
            return each([](T x) {
                T tanh, slope;
                tanh_and_slope(x, tanh, slope);
                return tanh;
            });
        case Function::tanh_slope:
            return each([](T x) {
                T tanh, slope;
                tanh_and_slope(x, tanh, slope);
                return slope;
            });
        case Function::log: return each([](T x) { return log_positive(x); });
        case Function::log1m: return each([](T x) { return log1m_unit(x); });
        case Function::information: return each([](T x) { return information(x); });
        case Function::first: return each([](T x) { return excess_of(x).first; });
        case Function::second: return each([](T x) { return excess_of(x).second; });
        case Function::mixed_first: return each([](T x) { return excess_of(x).mixed_first; });
        case Function::mixed_second: return each([](T x) { return excess_of(x).mixed_second; });
    }
}

void math(Function function, Type type, const void* in, void* out, int64_t size) {
    if (type == Type::f32) return apply(function, static_cast<const float*>(in), static_cast<float*>(out), size);
    apply(function, static_cast<const double*>(in), static_cast<double*>(out), size);
}

}  // namespace

namespace CROSSENT_ISA {
extern const Kernels kernels;
const Kernels kernels = {row_stats,   row_grad,  row_fused,   few_rows,   binary_loss, binary_grad,
                         row_summary, row_peaks, class_cells, pair_stats, pair_grad,   math};
}  // namespace CROSSENT_ISA

}  // namespace crossent
