// Binary cross-entropy of logits or of probabilities, element by element on broadcast arrays. Included by rows.cpp
// alone.
//
// The loss is a sum of two terms that are never negative, so it keeps its relative accuracy for confident right
// answers. A weight of 0 removes: the element, or its positive term, counts nothing whatever the operands hold.
#pragma once

#include "convert.h"

namespace crossent {
namespace {

constexpr int64_t piece = 512;

template <class T>
void load_operand(const BinaryTask& task, const BinaryTask::Operand& from, int64_t begin, int64_t n, T* to) {
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

struct OfLogit {
    template <class T>
    static T loss(T x, T t, T pos_weight) {
        const T size = x < T(0) ? -x : x;
        const T tail = log1p_unit(exp_nonpositive(-size, Limits<T>::smallest));
        const T positive = pos_weight * t * ((x < T(0) ? size : T(0)) + tail);
        const T negative = (T(1) - t) * ((x > T(0) ? size : T(0)) + tail);
        return (pos_weight * t == T(0) ? T(0) : positive) + (t == T(1) ? T(0) : negative);
    }
    template <class T>
    static bool is_input(T) {
        return true;
    }
    template <class T>
    static T slope(T x, T t, T pos_weight) {
        const T small = exp_nonpositive(x < T(0) ? x : -x, Limits<T>::smallest);
        const T large = T(1) / (T(1) + small), little = small * large;
        const T right = x > T(0) ? large : little, left = x > T(0) ? little : large;
        const T positive = pos_weight * t * left, negative = (T(1) - t) * right;
        return (t == T(1) ? T(0) : negative) - (pos_weight * t == T(0) ? T(0) : positive);
    }
};

struct OfProbability {
    template <class T>
    static T loss(T q, T t, T pos_weight) {
        const T positive = -pos_weight * t * log_positive(q), negative = -(T(1) - t) * log1m_unit(q);
        return (pos_weight * t == T(0) ? T(0) : positive) + (t == T(1) ? T(0) : negative);
    }
    template <class T>
    static bool is_input(T q) {
        return q >= T(0) && q <= T(1);
    }
    template <class T>
    static T slope(T q, T t, T pos_weight) {
        const T positive = pos_weight * t / q, negative = (T(1) - t) / (T(1) - q);
        return (t == T(1) ? T(0) : negative) - (pos_weight * t == T(0) ? T(0) : positive);
    }
};

template <class T>
void store(const BinaryTask& task, int64_t begin, int64_t n, const T* from) {
    switch (task.out_type) {
        case Type::f32:
            for (int64_t i = 0; i < n; ++i) static_cast<float*>(task.out)[begin + i] = static_cast<float>(from[i]);
            break;
        case Type::f64:
            for (int64_t i = 0; i < n; ++i) static_cast<double*>(task.out)[begin + i] = from[i];
            break;
        case Type::bf16:
            for (int64_t i = 0; i < n; ++i)
                static_cast<bfloat16*>(task.out)[begin + i] = Narrow<bfloat16>::from(static_cast<float>(from[i]));
            break;
        default:
            for (int64_t i = 0; i < n; ++i)
                static_cast<float16*>(task.out)[begin + i] = Narrow<float16>::from(static_cast<float>(from[i]));
    }
}

template <class T>
struct Pieces {  // input, target, weights and cotangent of up to `piece` elements
    alignas(64) T x[piece], t[piece], weight[piece], pos_weight[piece], result[piece];

    void load(const BinaryTask& task, int64_t begin, int64_t n) {
        load_operand(task, task.input, begin, n, x);
        load_operand(task, task.target, begin, n, t);
        load_operand(task, task.weight, begin, n, weight);
        load_operand(task, task.pos_weight, begin, n, pos_weight);
    }
};

// Whether an element counts, and its input or its target is not what it has to be.
template <class Element, class T>
bool is_wrong(const Pieces<T>& pieces, int64_t i) {
    // & and not &&: a loop without branches is vector code on Arm too
    const bool right = Element::is_input(pieces.x[i]) & (pieces.t[i] >= T(0)) & (pieces.t[i] <= T(1));
    return (pieces.weight[i] != T(0)) & !right;
}

template <class Element, class T>
int64_t losses(const BinaryTask& task, int64_t block) {
    Pieces<T> pieces;
    const int64_t end = least(task.size, (block + 1) * binary_block);
    int64_t wrong = -1;
    double block_sum = 0;
    for (int64_t begin = block * binary_block; begin < end; begin += piece) {
        const int64_t n = least(piece, end - begin);
        pieces.load(task, begin, n);
        double sum = 0;
        T wrongs = 0;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const T loss = pieces.weight[i] * Element::loss(pieces.x[i], pieces.t[i], pieces.pos_weight[i]);
            pieces.result[i] = pieces.weight[i] == T(0) ? T(0) : loss;
        }
        for (int64_t from = 0; from < n; from += 64) {  // apart, so that roundings do not pile up
            double part = 0;
#pragma omp simd reduction(+ : part, wrongs)
            for (int64_t i = from; i < least(from + 64, n); ++i) {
                part += static_cast<double>(pieces.result[i]);
                wrongs += is_wrong<Element>(pieces, i) ? T(1) : T(0);
            }
            sum += part;
        }
        block_sum += sum;
        if (task.out != nullptr) store(task, begin, n, pieces.result);
        if (wrongs == T(0) || wrong >= 0) continue;
        for (wrong = begin; !is_wrong<Element>(pieces, wrong - begin);) ++wrong;
    }
    if (task.block_sums != nullptr) task.block_sums[block] = block_sum;
    return wrong;
}

template <class Element, class T>
void slopes(const BinaryTask& task, int64_t block) {
    Pieces<T> pieces;
    alignas(64) T cotangent[piece];
    const int64_t end = least(task.size, (block + 1) * binary_block);
    for (int64_t begin = block * binary_block; begin < end; begin += piece) {
        const int64_t n = least(piece, end - begin);
        pieces.load(task, begin, n);
        load_operand(task, task.cotangent, begin, n, cotangent);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const T factor = pieces.weight[i] * cotangent[i];
            const T slope = Element::slope(pieces.x[i], pieces.t[i], pieces.pos_weight[i]);
            pieces.result[i] = factor == T(0) ? T(0) : factor * slope;
        }
        store(task, begin, n, pieces.result);
    }
}

int64_t binary_loss(const BinaryTask& task, int64_t begin, int64_t end) {
    const bool wide = task.input.type == Type::f64;
    const auto of_block = task.probabilities ? (wide ? losses<OfProbability, double> : losses<OfProbability, float>)
                                             : (wide ? losses<OfLogit, double> : losses<OfLogit, float>);
    int64_t wrong = -1;
    for (int64_t block = begin; block < end; ++block) {
        const int64_t first = of_block(task, block);
        if (wrong < 0) wrong = first;
    }
    return wrong;
}

void binary_grad(const BinaryTask& task, int64_t begin, int64_t end) {
    const bool wide = task.input.type == Type::f64;
    const auto of_block = task.probabilities ? (wide ? slopes<OfProbability, double> : slopes<OfProbability, float>)
                                             : (wide ? slopes<OfLogit, double> : slopes<OfLogit, float>);
    for (int64_t block = begin; block < end; ++block) of_block(task, block);
}

}  // namespace
}  // namespace crossent
