// The core as C++ sees it: tasks in, results in the task's own arrays. Knows threads and instruction sets, no Python.
#pragma once

#include <cmath>

#include "types.h"

namespace crossent {

// Class weight (columns,), none if data is null, and smoothing over num_classes; core.cpp makes keep and spread of it.
struct Measure {
    const void* weight = nullptr;
    Type weight_type = Type::f32;
    int64_t weight_stride = 1;
    double smoothing = 0;
    int64_t num_classes = 0;
};

// What scores can be made of: crossent.spec.is_scale.
inline bool is_scale(double value) { return 1e-15 <= value && value <= 1e15; }

// Each returns the first entry of a target, or temperature of a row, that cannot be, if there is one; the results are
// then undefined. row_grad does not look for them.
// They throw std::bad_alloc if there is no memory for the few rows that a strided class axis needs.
Problem row_stats(RowTask task, const Measure& measure);
Problem row_fused(RowTask task, const Measure& measure);
void row_grad(RowTask task, const Measure& measure);

// A row and its teacher's. The records are complete, and pair_grad needs complete sums; neither looks for wrong
// entries.
void pair_stats(const PairTask& task);
void pair_grad(PairTask task, const Measure& measure);

// Rows of at most few_classes, of an index or a dense target, without a record: row_stats and row_grad of a task that
// has none; few_sums computes nothing else than the Sums of their losses.
bool is_few(const RowTask& task);
Problem few_sums(RowTask task, const Measure& measure, Sums& sums);

// A sum that keeps what its additions round off (Neumaier 1974, https://doi.org/10.1002/zamm.19740540106).
class CompensatedSum {
  public:
    void add(double x) {
        const double sum = sum_ + x;
        rest_ += std::fabs(sum_) >= std::fabs(x) ? (sum_ - sum) + x : (x - sum) + sum_;
        sum_ = sum;
    }
    // An infinite sum has no rest to speak of.
    double value() const { return std::isfinite(rest_) ? sum_ + rest_ : sum_; }

  private:
    double sum_ = 0, rest_ = 0;
};

// The Sums of losses that are written down. The order of the additions does not depend on threads.
Sums sums_of(const Vector& loss, const Vector& index, const Vector& weight, int64_t classes, int64_t ignore_index,
             int64_t rows);

// The sum or mean of the losses of a task with classes as targets, and its gradient by the logits: row_stats, sums_of
// and row_grad in memory of their own; few classes take one pass.
struct Step {
    Problem problem;
    double loss = 0, scale = 0;  // the scale is the derivative of the loss by that of a row: 1, or NaN for no rows
};
Step row_step(RowTask task, const Measure& measure, bool mean);

// binary_loss returns the first element that is no probability where the input must be one, or -1.
int64_t binary_loss(BinaryTask task);
void binary_grad(BinaryTask task);

void row_summary(const SummaryTask& task);
void row_peaks(const PeakTask& task);

// Runs on the calling thread alone, so that the order of the additions is that of the rows.
void class_cells(const CellTask& task);

int64_t element_size(Type type);
bool is_real(Type type);

}  // namespace crossent
