// Binary cross-entropy of sigmoid outputs, element by element on broadcast arrays. Included by rows.cpp alone.
//
// The loss is a sum of two terms that are never negative, so it keeps its relative accuracy for confident right answers.
#pragma once

#include "convert.h"

namespace crossent {
namespace {

constexpr int64_t piece = 512;

template <class T>
void load_operand(const SigmoidTask& task, const SigmoidTask::Operand& from, int64_t begin, int64_t n, T* to) {
    if (from.data == nullptr) {
        for (int64_t i = 0; i < n; ++i) to[i] = T(1);
        return;
    }
    if (from.contiguous) return load_run(from.data, from.type, begin, 1, n, to);
    const int last = task.axes - 1;
    int64_t at[max_axes], left = begin, offset = 0;
    for (int k = last; k >= 0; --k) {
        at[k] = left % task.shape[k];
        left /= task.shape[k];
        offset += at[k] * from.stride[k];
    }
    for (int64_t i = 0; i < n;) {
        int64_t run = task.shape[last] - at[last];
        run = run < n - i ? run : n - i;
        load_run(from.data, from.type, offset, from.stride[last], run, to + i);
        i += run;
        at[last] += run;
        offset += run * from.stride[last];
        for (int k = last; k > 0 && at[k] == task.shape[k]; --k) {
            offset += from.stride[k - 1] - at[k] * from.stride[k];
            at[k] = 0;
            ++at[k - 1];
        }
    }
}

template <class T>
struct Element {  // e^(-|x|) and what both the loss and its slope need
    T x, t, small;
    Element(T x_, T t_) : x(x_), t(t_), small(exp_nonpositive(x_ < T(0) ? x_ : -x_, Limits<T>::smallest)) {}

    T loss(T pos_weight) const {
        const T tail = log1p_unit(small);
        const T positive = pos_weight * t * ((x < T(0) ? -x : T(0)) + tail);
        const T negative = (T(1) - t) * ((x > T(0) ? x : T(0)) + tail);
        return (t == T(0) ? T(0) : positive) + (t == T(1) ? T(0) : negative);
    }
    T slope(T pos_weight) const {
        const T large = T(1) / (T(1) + small), little = small * large;
        const bool right = x > T(0);
        return (T(1) - t) * (right ? large : little) - pos_weight * t * (right ? little : large);
    }
};

template <class T>
void store(const SigmoidTask& task, int64_t begin, int64_t n, const T* from) {
    switch (task.out_type) {
        case Type::f32:
            for (int64_t i = 0; i < n; ++i) static_cast<float*>(task.out)[begin + i] = static_cast<float>(from[i]);
            break;
        case Type::f64:
            for (int64_t i = 0; i < n; ++i) static_cast<double*>(task.out)[begin + i] = from[i];
            break;
        case Type::bf16:
            for (int64_t i = 0; i < n; ++i) static_cast<bfloat16*>(task.out)[begin + i] = Narrow<bfloat16>::from(static_cast<float>(from[i]));
            break;
        default:
            for (int64_t i = 0; i < n; ++i) static_cast<float16*>(task.out)[begin + i] = Narrow<float16>::from(static_cast<float>(from[i]));
    }
}

template <class T>
struct Pieces {  // logits, target, weights and cotangent of up to `piece` elements
    alignas(64) T x[piece], t[piece], weight[piece], pos_weight[piece], result[piece];

    void load(const SigmoidTask& task, int64_t begin, int64_t n) {
        load_operand(task, task.logits, begin, n, x);
        load_operand(task, task.target, begin, n, t);
        load_operand(task, task.weight, begin, n, weight);
        load_operand(task, task.pos_weight, begin, n, pos_weight);
    }
};

template <class T>
void losses(const SigmoidTask& task, int64_t block) {
    Pieces<T> p;
    const int64_t end = (block + 1) * sigmoid_block < task.size ? (block + 1) * sigmoid_block : task.size;
    double block_sum = 0;
    for (int64_t begin = block * sigmoid_block; begin < end; begin += piece) {
        const int64_t n = end - begin < piece ? end - begin : piece;
        p.load(task, begin, n);
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; ++i) {
            p.result[i] = p.weight[i] * Element<T>(p.x[i], p.t[i]).loss(p.pos_weight[i]);
            sum += p.result[i];
        }
        block_sum += sum;
        if (task.out != nullptr) store(task, begin, n, p.result);
    }
    if (task.block_sums != nullptr) task.block_sums[block] = block_sum;
}

template <class T>
void slopes(const SigmoidTask& task, int64_t block) {
    Pieces<T> p;
    alignas(64) T cotangent[piece];
    const int64_t end = (block + 1) * sigmoid_block < task.size ? (block + 1) * sigmoid_block : task.size;
    for (int64_t begin = block * sigmoid_block; begin < end; begin += piece) {
        const int64_t n = end - begin < piece ? end - begin : piece;
        p.load(task, begin, n);
        load_operand(task, task.cotangent, begin, n, cotangent);
        const T all = static_cast<T>(task.cotangent_all);
        for (int64_t i = 0; i < n; ++i) {
            const T g = p.weight[i] * cotangent[i] * all;
            p.result[i] = g * Element<T>(p.x[i], p.t[i]).slope(p.pos_weight[i]);
        }
        store(task, begin, n, p.result);
    }
}

void sigmoid_loss(const SigmoidTask& task, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        if (task.logits.type == Type::f64) losses<double>(task, block);
        else losses<float>(task, block);
    }
}

void sigmoid_grad(const SigmoidTask& task, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
        if (task.logits.type == Type::f64) slopes<double>(task, block);
        else slopes<float>(task, block);
    }
}

}  // namespace
}  // namespace crossent
