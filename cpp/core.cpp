#include "core.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "convert.h"
#include "dispatch.h"
#include "parallel.h"
#include "record.h"

namespace crossent {
namespace {

constexpr int64_t grain_elements = 16384;
constexpr int64_t grain_binary_blocks = 4;

int64_t grain_rows(const RowTask& task) {
    return std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, task.columns));
}

// Rows that are summed together: the same for any number of threads, and whole tiles of 64.
int64_t few_part(const RowTask& task) { return (grain_rows(task) + 63) / 64 * 64; }

// Class weight and smoothing as the vectors that the kernels read, in the type of their arithmetic. The mass of the
// smoothing is summed here, once and in double: many small equal numbers would all be rounded the same way.
template <class T>
struct ColumnMeasures {
    std::vector<T> keep, spread;
    std::vector<double> spread_mass;

    ColumnMeasures(RowTask& task, const Measure& m) {
        task.keep_all = 1 - m.smoothing;
        if (m.weight != nullptr) set_keep(task, m);
        if (m.smoothing > 0) set_spread(task, m);
    }

  private:
    static double weight_at(const Measure& m, int64_t v) {
        return m.weight == nullptr ? 1 : load_real<double>(m.weight, m.weight_type, v * m.weight_stride);
    }

    void set_keep(RowTask& task, const Measure& m) {
        for (int64_t v = 0; v < task.columns; ++v) keep.push_back(static_cast<T>(weight_at(m, v) * task.keep_all));
        task.keep = keep.data();
    }

    void set_spread(RowTask& task, const Measure& m) {
        const double share = m.smoothing / static_cast<double>(std::max<int64_t>(1, m.num_classes));
        constexpr int64_t block = block_bytes / static_cast<int64_t>(sizeof(T));
        for (int64_t begin = 0; begin < task.columns; begin += block) {
            double weights = 0, part = 0;
            for (int64_t v = begin; v < std::min(begin + block, task.columns); ++v) {
                spread.push_back(static_cast<T>(weight_at(m, v) * share));
                part += weight_at(m, v);
                if (v % 64 == 63) weights += std::exchange(part, 0);
            }
            spread_mass.push_back((weights + part) * share);
            task.spread_total += spread_mass.back();
        }
        task.spread = spread.data();
        task.spread_mass = spread_mass.data();
    }
};

// The first wrong class or probability of index and top-k targets in rows [begin, end); dense ones are checked as read.
// A class of probability 0 may be any number: padding of a top-k target is.
Problem check_picks(const RowTask& task, int64_t num_classes, int64_t begin, int64_t end) {
    const bool topk = task.prob.data != nullptr;
    for (int64_t row = begin; row < end && task.picks > 0; ++row) {
        for (int64_t pick = 0; pick < task.picks; ++pick) {
            const int64_t at = row * task.index.outer_stride + pick * task.index.column_stride;
            const int64_t index = load_integer(task.index.data, task.index.type, at);
            const double prob = topk ? load_real<double>(task.prob.data, task.prob.type,
                                                         row * task.prob.outer_stride + pick * task.prob.column_stride)
                                     : 1;
            const bool counts = topk ? prob != 0 : index != task.ignore_index;
            if (counts && (index < 0 || index >= num_classes)) return {row, -1, index, 0};
            if (!(prob >= 0 && prob <= std::numeric_limits<double>::max())) return {row, pick, 0, prob};
        }
    }
    return {};
}

// The first row in [begin, end) with a target whose temperature is out of range.
Problem check_temperatures(const RowTask& task, int64_t begin, int64_t end) {
    const Vector& own = task.row_temperature;
    const bool some_ignored = task.picks == 1 && task.prob.data == nullptr;
    for (int64_t row = begin; row < end && own.data != nullptr; ++row) {
        const double value = load_real<double>(own.data, own.type, row * own.stride);
        if (is_scale(value)) continue;
        const bool ignored = some_ignored && load_integer(task.index.data, task.index.type,
                                                          row * task.index.outer_stride) == task.ignore_index;
        if (!ignored) return {row, -2, 0, value};
    }
    return {};
}

template <class Run>
void with_measures(RowTask& task, const Measure& measure, const Run& run) {
    task.num_classes = measure.num_classes;
    task.weight = {measure.weight, measure.weight_type, measure.weight_stride};
    if (task.logits.type == Type::f64) {
        const ColumnMeasures<double> vectors(task, measure);
        run();
    } else {
        const ColumnMeasures<float> vectors(task, measure);
        run();
    }
}

// Remembers the wrong entry of the lowest row.
class FirstProblem {
  public:
    void report(const Problem& problem) {
        if (problem.row < 0) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (first_.row < 0 || problem.row < first_.row) first_ = problem;
    }
    const Problem& value() const { return first_; }

  private:
    Problem first_;
    std::mutex mutex_;
};

Problem checked_rows(RowTask& task, const Measure& measure,
                     bool (*kernel)(const RowTask&, int64_t, int64_t, Problem&)) {
    FirstProblem first;
    std::atomic<bool> starved{false};
    with_measures(task, measure, [&] {
        parallel_ranges(task.rows, grain_rows(task), [&](int64_t begin, int64_t end) {
            first.report(check_temperatures(task, begin, end));
            Problem problem = check_picks(task, measure.num_classes, begin, end);
            if (problem.row < 0 && !kernel(task, begin, end, problem)) starved = true;
            first.report(problem);
        });
    });
    if (starved) throw std::bad_alloc();
    return first.value();
}

// Rows of few classes, in parts of the same rows whatever the threads are; with the sums of each part if there is room.
Problem few_parts(RowTask& task, const Measure& measure, std::vector<Sums>* parts) {
    const int64_t rows_per_part = few_part(task), count = (task.rows + rows_per_part - 1) / rows_per_part;
    if (parts != nullptr) parts->resize(static_cast<size_t>(count));
    const bool checked = task.loss != nullptr || task.lse != nullptr || task.entropy != nullptr || parts != nullptr;
    FirstProblem first;
    with_measures(task, measure, [&] {
        parallel_ranges(count, 1, [&](int64_t begin, int64_t end) {
            for (int64_t part = begin; part < end; ++part) {
                const int64_t row = part * rows_per_part, row_end = std::min(task.rows, row + rows_per_part);
                if (checked) first.report(check_temperatures(task, row, row_end));
                Problem problem;
                kernels().few_rows(task, row, row_end, problem,
                                   parts == nullptr ? nullptr : &(*parts)[static_cast<size_t>(part)]);
                first.report(problem);
            }
        });
    });
    return first.value();
}

Sums total_of(const std::vector<Sums>& parts) {
    CompensatedSum losses, weights;
    for (const Sums& part : parts) {
        losses.add(part.loss);
        weights.add(part.weight);
    }
    return {losses.value(), weights.value()};
}

int64_t binary_blocks(const BinaryTask& task) { return (task.size + binary_block - 1) / binary_block; }

void prefer_huge_grad(const RowTask& task) {
    if (task.grad.data != task.logits.data) {
        prefer_huge_pages(task.grad.data, task.rows * task.columns * element_size(task.grad.type));
    }
}

}  // namespace

int64_t element_size(Type type) {
    switch (type) {
        case Type::i8:
        case Type::u8: return 1;
        case Type::bf16:
        case Type::f16:
        case Type::i16:
        case Type::u16: return 2;
        case Type::f64:
        case Type::i64:
        case Type::u64: return 8;
        default: return 4;
    }
}

bool is_few(const RowTask& task) {
    const bool prob = task.prob.data != nullptr, index = task.index.data != nullptr && task.picks == 1 && !prob;
    const bool dense = task.index.data == nullptr && task.picks == 0 && (prob || task.columns == 0);
    return task.columns <= few_classes && (index || dense || task.rows == 0);
}

bool is_real(Type type) { return type <= Type::f16; }

Problem row_stats(RowTask task, const Measure& measure) {
    if (task.record != nullptr) return checked_rows(task, measure, kernels().row_stats);
    task.grad = {};
    task.g_entropy = {};
    return few_parts(task, measure, nullptr);
}

Problem few_sums(RowTask task, const Measure& measure, Sums& sums) {
    task.loss = task.lse = task.entropy = nullptr;
    task.grad = {};
    task.g_entropy = {};
    std::vector<Sums> parts;
    const Problem problem = few_parts(task, measure, &parts);
    sums = total_of(parts);
    return problem;
}

Problem row_fused(RowTask task, const Measure& measure) {
    prefer_huge_grad(task);
    return checked_rows(task, measure, kernels().row_fused);
}

void row_grad(RowTask task, const Measure& measure) {
    prefer_huge_grad(task);
    if (task.record == nullptr) {
        task.loss = task.lse = task.entropy = nullptr;
        (void)few_parts(task, measure, nullptr);
        return;
    }
    std::atomic<bool> starved{false};
    with_measures(task, measure, [&] {
        parallel_ranges(task.rows, grain_rows(task), [&](int64_t begin, int64_t end) {
            if (!kernels().row_grad(task, begin, end)) starved = true;
        });
    });
    if (starved) throw std::bad_alloc();
}

void pair_stats(const PairTask& task) {
    parallel_ranges(task.student.rows, grain_rows(task.student),
                    [&](int64_t begin, int64_t end) { kernels().pair_stats(task, begin, end); });
}

void pair_grad(PairTask task, const Measure& measure) {
    if (task.student.grad.data != task.teacher.logits.data) prefer_huge_grad(task.student);
    with_measures(task.student, measure, [&] {
        parallel_ranges(task.student.rows, grain_rows(task.student),
                        [&](int64_t begin, int64_t end) { kernels().pair_grad(task, begin, end); });
    });
}

Sums sums_of(const Vector& loss, const Vector& index, const Vector& weight, int64_t classes, int64_t ignore_index,
             int64_t rows) {
    constexpr int64_t rows_per_part = 128;
    std::vector<Sums> parts(static_cast<size_t>((rows + rows_per_part - 1) / rows_per_part));
    parallel_ranges(static_cast<int64_t>(parts.size()), 512, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) {
            Sums sums;
            for (int64_t row = part * rows_per_part; row < std::min(rows, (part + 1) * rows_per_part); ++row) {
                sums.loss += load_real<double>(loss.data, loss.type, row * loss.stride);
                const int64_t label =
                    index.data == nullptr ? 0 : load_integer(index.data, index.type, row * index.stride);
                if (index.data != nullptr && label == ignore_index) continue;
                const bool weighted = weight.data != nullptr && label >= 0 && label < classes;
                sums.weight += weighted ? load_real<double>(weight.data, weight.type, label * weight.stride) : 1;
            }
            parts[static_cast<size_t>(part)] = sums;
        }
    });
    return total_of(parts);
}

// The sum or mean of losses and its gradient in one pass: what a mean divides by is known beforehand.
Step few_step(RowTask task, const Measure& measure, bool mean) {
    Step step;
    double weight = 0;
    for (int64_t row = 0; row < task.rows; ++row) {
        const int64_t label = load_integer(task.index.data, task.index.type, row * task.index.outer_stride);
        const bool weighted =
            measure.weight != nullptr && label >= task.first_class && label - task.first_class < task.columns;
        const double one = !weighted ? 1
                                     : load_real<double>(measure.weight, measure.weight_type,
                                                         (label - task.first_class) * measure.weight_stride);
        weight += label == task.ignore_index ? 0 : one;
    }
    step.scale = !mean ? 1 : weight == 0 ? std::numeric_limits<double>::quiet_NaN() : 1 / weight;
    task.loss = task.lse = task.entropy = nullptr;
    task.g_loss = {&step.scale, Type::f64, 0};
    task.g_lse = task.g_entropy = {};
    std::vector<Sums> parts;
    step.problem = few_parts(task, measure, &parts);
    step.loss = total_of(parts).loss * step.scale;
    return step;
}

Step row_step(RowTask task, const Measure& measure, bool mean) {
    if (is_few(task)) return few_step(task, measure, mean);
    const auto rows = static_cast<size_t>(task.rows);
    const Type type = task.logits.type == Type::f64 ? Type::f64 : Type::f32;
    std::vector<double> record(static_cast<size_t>(record_fields) * rows),
        losses(rows);  // of doubles, or floats in them
    task.record = record.data();
    task.loss = losses.data();
    task.lse = task.entropy = nullptr;
    task.g_lse = task.g_entropy = {};
    Step step;
    step.problem = row_stats(task, measure);
    if (step.problem.row >= 0) return step;
    const Sums sums = sums_of({losses.data(), type, 1}, {task.index.data, task.index.type, task.index.outer_stride},
                              {measure.weight, measure.weight_type, measure.weight_stride}, task.columns,
                              task.ignore_index, task.rows);
    if (mean) step.scale = sums.weight == 0 ? std::numeric_limits<double>::quiet_NaN() : 1 / sums.weight;
    if (!mean) step.scale = 1;
    step.loss = sums.loss * step.scale;
    task.g_loss = {&step.scale, Type::f64, 0};
    if (task.grad.data != nullptr) row_grad(task, measure);
    return step;
}

int64_t binary_loss(BinaryTask task) {
    if (task.out != nullptr) prefer_huge_pages(task.out, task.size * element_size(task.out_type));
    std::atomic<int64_t> wrong{-1};
    parallel_ranges(binary_blocks(task), grain_binary_blocks, [&](int64_t begin, int64_t end) {
        const int64_t found = kernels().binary_loss(task, begin, end);
        int64_t first = wrong;
        while (found >= 0 && (first < 0 || found < first) && !wrong.compare_exchange_weak(first, found)) {
        }
    });
    return wrong;
}

void binary_grad(BinaryTask task) {
    prefer_huge_pages(task.out, task.size * element_size(task.out_type));
    parallel_ranges(binary_blocks(task), grain_binary_blocks,
                    [&](int64_t begin, int64_t end) { kernels().binary_grad(task, begin, end); });
}

void row_summary(const SummaryTask& task) {
    const int64_t grain = std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, task.columns));
    parallel_ranges(task.rows, grain, [&](int64_t begin, int64_t end) { kernels().row_summary(task, begin, end); });
}

void row_peaks(const PeakTask& task) {
    const int64_t grain = std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, task.columns));
    parallel_ranges(task.rows, grain, [&](int64_t begin, int64_t end) { kernels().row_peaks(task, begin, end); });
}

void class_cells(const CellTask& task) { kernels().class_cells(task); }

}  // namespace crossent
