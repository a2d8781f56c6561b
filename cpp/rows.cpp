// The row functions for one instruction set (CROSSENT_ISA): which rows, from which memory, into which memory.
#include "rows.h"

#include <cstdlib>

#include "binary.h"

namespace crossent {
namespace {

// Calls visit(row, logits, prob, grad) for each row with contiguous logits and gradient. Where the classes of a row are
// apart in memory, as in (N, C, height, width), rows are taken through a transposed copy of a few neighbours.
// Returns false if there was no memory for that.
template <class Storage, class Visit>
bool for_each_row(const RowTask& task, int64_t begin, int64_t end, bool writes, const Visit& visit) {
    using T = typename Compute<Storage>::type;
    const Matrix &logits = task.logits, &grad = task.grad, &prob = task.prob;
    const bool dense = prob.data != nullptr && task.index.data == nullptr;
    const auto offset = [&](const Matrix& m, int64_t row) {
        if (task.inner_rows == 1) return row * m.outer_stride;
        return row / task.inner_rows * m.outer_stride + row % task.inner_rows * m.inner_stride;
    };
    if (task.columns <= 1 || (logits.column_stride == 1 && (!writes || grad.column_stride == 1))) {
        for (int64_t row = begin; row < end; ++row) {
            const Run run = {dense ? prob.data : nullptr, prob.type, offset(prob, row), prob.column_stride};
            if (row + 1 < end && task.picks > 0) {  // the one access that no prefetcher foresees
                fetch(static_cast<const Storage*>(logits.data) + offset(logits, row + 1) + pick_column(task, row + 1, 0), 1);
            }
            visit(row, static_cast<const Storage*>(logits.data) + offset(logits, row), run,
                  writes ? static_cast<Storage*>(grad.data) + offset(grad, row) : nullptr);
        }
        return true;
    }
    const int64_t tile = task.columns <= 1024 ? 64 : 16;
    const int64_t stride = (fill_lanes<T>(task.columns) / lanes<T> | 1) * lanes<T>;  // odd: no cache set twice
    T* const scores = static_cast<T*>(std::malloc(sizeof(T) * static_cast<size_t>(2 * tile * stride)));
    if (scores == nullptr) return false;
    T* const measures = scores + tile * stride;
    const auto gather = [&]<class From>(const From* from, const Matrix& m, int64_t n, T* to) {
        for (int64_t v = 0; v < task.columns; ++v) {
            for (int64_t i = 0; i < n; ++i) to[i * stride + v] = static_cast<T>(widen(from[i * m.inner_stride + v * m.column_stride]));
        }
    };
    for (int64_t row = begin; row < end;) {
        const int64_t left = task.inner_rows - row % task.inner_rows;
        int64_t n = end - row < left ? end - row : left;
        n = n < tile ? n : tile;
        gather(static_cast<const Storage*>(logits.data) + offset(logits, row), logits, n, scores);
        if (dense) {
            for (int64_t v = 0; v < task.columns; ++v) {
                const int64_t at = offset(prob, row) + v * prob.column_stride;
                for (int64_t i = 0; i < n; ++i) measures[i * stride + v] = load_real<T>(prob.data, prob.type, at + i * prob.inner_stride);
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            const Run run = {dense ? measures : nullptr, sizeof(T) == 8 ? Type::f64 : Type::f32, i * stride, 1};
            visit(row + i, scores + i * stride, run, scores + i * stride);
        }
        if (writes) {
            Storage* const to = static_cast<Storage*>(grad.data) + offset(grad, row);
            for (int64_t v = 0; v < task.columns; ++v) {
                for (int64_t i = 0; i < n; ++i) {
                    to[i * grad.inner_stride + v * grad.column_stride] = Narrow<Storage>::from(scores[i * stride + v]);
                }
            }
        }
        row += n;
    }
    std::free(scores);
    return true;
}

template <class T>
void save(const RowTask& task, int64_t row, const Record& r) {
    const double fields[] = {r.peak, r.total, r.score, r.mass, r.tilt};
    for (int64_t k = 0; k < 5; ++k) task.record[k * task.rows + row] = fields[k];
    const double log_total = std::log(r.total);
    const auto put = [&](void* to, double value) {
        if (to != nullptr) static_cast<T*>(to)[row] = static_cast<T>(value);
    };
    put(task.loss, r.mass * log_total - r.score);
    put(task.lse, r.peak + log_total);
    put(task.entropy, log_total - r.tilt / r.total);
}

Record saved(const RowTask& task, int64_t row) {
    const auto field = [&](int64_t k) { return task.record[k * task.rows + row]; };
    return {field(0), field(1), field(2), field(3), field(4)};
}

double at(const Vector& v, int64_t row) { return v.data == nullptr ? 0 : load_real<double>(v.data, v.type, row * v.stride); }

Coef coef_of(double g_loss, double g_lse, double g_entropy, const Record& r) {
    const double from_entropy = g_entropy == 0 ? 0 : g_entropy * (std::log(r.total) - r.tilt / r.total);
    return {(g_loss == 0 ? 0 : g_loss * r.mass) + g_lse - from_entropy, -g_entropy, g_loss};
}

// Room for the picks of one row, on the stack unless there are very many.
template <class Visit>
bool with_patches(int64_t picks, const Visit& visit) {
    alignas(8) char few[2048];
    const size_t bytes = 8 * static_cast<size_t>(picks);
    void* const room = bytes <= sizeof(few) ? few : std::malloc(bytes);
    if (room == nullptr) return false;
    const bool done = visit(room);
    if (room != few) std::free(room);
    return done;
}

template <class Storage>
bool stats(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return for_each_row<Storage>(task, begin, end, false, [&](int64_t row, const auto* z, const Run& prob, auto*) {
        save<typename Compute<Storage>::type>(task, row, row_record(task, z, prob, row, &problem));
    });
}

template <class Storage>
bool gradient(const RowTask& task, int64_t begin, int64_t end) {
    return with_patches(task.picks, [&](void* room) {
        return for_each_row<Storage>(task, begin, end, true, [&]<class S>(int64_t row, const S* z, const Run& prob, S* grad) {
            const Record record = saved(task, row);
            const Coef coef = coef_of(at(task.g_loss, row), at(task.g_lse, row), at(task.g_entropy, row), record);
            row_gradient(task, z, prob, row, record, coef, static_cast<S*>(room), grad);
        });
    });
}

template <class Storage>
bool fused(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return with_patches(task.picks, [&](void* room) {
        return for_each_row<Storage>(task, begin, end, true, [&]<class S>(int64_t row, const S* z, const Run& prob, S* grad) {
            const Record record = row_record(task, z, prob, row, &problem);
            save<typename Compute<Storage>::type>(task, row, record);
            const double square = at(task.square_scale, row);
            const double g_lse = square == 0 ? 0 : 2 * square * (record.peak + std::log(record.total));
            row_gradient(task, z, prob, row, record, coef_of(at(task.scale, row), g_lse, 0, record), static_cast<S*>(room), grad);
        });
    });
}

template <class Call>
bool by_type(Type type, const Call& call) {
    switch (type) {
        case Type::f32: return call(float{});
        case Type::f64: return call(double{});
        case Type::bf16: return call(bfloat16{});
        case Type::f16: return call(float16{});
        default: return false;
    }
}

bool row_stats(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return by_type(task.logits.type, [&]<class S>(S) { return stats<S>(task, begin, end, problem); });
}

bool row_grad(const RowTask& task, int64_t begin, int64_t end) {
    return by_type(task.logits.type, [&]<class S>(S) { return gradient<S>(task, begin, end); });
}

bool row_fused(const RowTask& task, int64_t begin, int64_t end, Problem& problem) {
    return by_type(task.logits.type, [&]<class S>(S) { return fused<S>(task, begin, end, problem); });
}

template <class T>
void apply(int function, const T* in, T* out, int64_t size) {
    T slope;
    for (int64_t i = 0; i < size; ++i) {
        if (function == 0) out[i] = exp_nonpositive(in[i], Limits<T>::smallest);
        if (function == 1) out[i] = log1p_unit(in[i]);
        if (function == 2) tanh_and_slope(in[i], out[i], slope);
        if (function == 3) tanh_and_slope(in[i], slope, out[i]);
        if (function == 4) out[i] = log_positive(in[i]);
        if (function == 5) out[i] = log1m_unit(in[i]);
    }
}

void math(int function, Type type, const void* in, void* out, int64_t size) {
    if (type == Type::f32) return apply(function, static_cast<const float*>(in), static_cast<float*>(out), size);
    apply(function, static_cast<const double*>(in), static_cast<double*>(out), size);
}

}  // namespace

namespace CROSSENT_ISA {
extern const Kernels kernels;
const Kernels kernels = {row_stats, row_grad, row_fused, binary_loss, binary_grad, math};
}  // namespace CROSSENT_ISA

}  // namespace crossent
