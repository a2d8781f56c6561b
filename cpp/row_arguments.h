// The arguments of the row functions as Python passes them: a task of the core, or an error that names the argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "array.h"
#include "core.h"
#include "operand.h"
#include "record.h"

namespace crossent {

// A float64 array of `fields` contiguous vectors with one entry for each row.
template <class T, class A>
T* vectors_of(const A& array, int64_t fields, int64_t rows, const char* text) {
    require(array.ndim() == 2 && static_cast<int64_t>(array.shape(0)) == fields &&
                static_cast<int64_t>(array.shape(1)) == rows,
            text);
    require(type_of(array, "record") == Type::f64 && (rows <= 1 || array.stride(1) == 1) &&
                (rows == 0 || array.stride(0) == rows),
            text);
    return static_cast<T*>(array.data());
}

// Logits and how they become scores.
inline void set_rows(RowTask& task, const In& logits, double temperature, double softcap, const In& row_temperature) {
    task.logits = matrix_of(logits, "logits");
    task.columns = static_cast<int64_t>(logits.shape(1));
    task.inner_rows = logits.ndim() == 3 ? std::max<int64_t>(1, static_cast<int64_t>(logits.shape(2))) : 1;
    task.rows =
        static_cast<int64_t>(logits.shape(0)) * (logits.ndim() == 3 ? static_cast<int64_t>(logits.shape(2)) : 1);
    require(temperature > 0 && softcap >= 0, "temperature must be positive and softcap not negative");
    task.temperature = temperature;
    task.softcap = softcap;
    if (row_temperature.is_valid()) {
        require(row_temperature.ndim() == 1 && static_cast<int64_t>(row_temperature.shape(0)) == task.rows,
                "row_temperature must have shape (rows,)");
        const Type type = real_type_of(row_temperature, "row_temperature");
        if (task.rows > 0) task.row_temperature = {row_temperature.data(), type, row_temperature.stride(0)};
    }
}

struct Call {
    RowTask task;
    Measure measure;
};

inline Call prepare(const In& logits, const In& index, const In& prob, const In& weight, double smoothing,
                    int64_t ignore_index, int64_t first_class, int64_t num_classes, double temperature, double softcap,
                    const In& row_temperature) {
    Call call;
    RowTask& task = call.task;
    set_rows(task, logits, temperature, softcap, row_temperature);
    require(smoothing >= 0 && smoothing <= 1, "label_smoothing must be between 0.0 and 1.0");
    require(first_class >= 0 && num_classes - first_class >= task.columns,
            "the columns must be among the num_classes classes");
    task.ignore_index = ignore_index;
    task.first_class = first_class;
    call.measure.smoothing = smoothing;
    call.measure.num_classes = num_classes;
    if (index.is_valid()) {
        require(index.ndim() == (prob.is_valid() ? 2u : 1u) && static_cast<int64_t>(index.shape(0)) == task.rows,
                "index must have shape (rows,), or (rows, K) beside prob");
        const Type type = type_of(index, "index");
        if (is_real(type)) throw nb::type_error("index must have an integer dtype");
        task.picks = index.ndim() == 2 ? static_cast<int64_t>(index.shape(1)) : 1;
        task.index = {index.data(), type, index.stride(0), 0, index.ndim() == 2 ? index.stride(1) : 0};
        if (prob.is_valid()) {
            require(same_shape(index, prob), "index and prob of a top-k target must have the same shape");
            task.prob = {prob.data(), real_type_of(prob, "prob"), prob.stride(0), 0, prob.stride(1)};
        }
    } else {
        require(prob.is_valid() && same_shape(logits, prob), "a dense target must have the shape of the logits");
        task.prob = matrix_of(prob, "prob");
    }
    if (weight.is_valid()) {
        require(weight.ndim() == 1 && static_cast<int64_t>(weight.shape(0)) == task.columns,
                "weight must have one entry per column");
        call.measure.weight = weight.data();
        call.measure.weight_type = real_type_of(weight, "weight");
        call.measure.weight_stride = weight.stride(0);
    }
    return call;
}

#define TARGET_ARGUMENTS                                                                                         \
    const In &logits, const In &index, const In &prob, const In &weight, double smoothing, int64_t ignore_index, \
        int64_t first_class, int64_t num_classes, double temperature, double softcap, const In &row_temperature
#define TARGET_VALUES                                                                                     \
    logits, index, prob, weight, smoothing, ignore_index, first_class, num_classes, temperature, softcap, \
        row_temperature
#define TARGET_NAMES                                                                                   \
    "logits"_a, "index"_a.none(), "prob"_a.none(), "weight"_a.none(), "smoothing"_a, "ignore_index"_a, \
        "first_class"_a, "num_classes"_a, "temperature"_a, "softcap"_a, "row_temperature"_a.none()

inline const std::string record_text =
    "record must be a contiguous float64 array of shape (" + std::to_string(record_fields) + ", rows)";

// The record of rows; only few classes with an index or a dense target have none.
template <class T, class A>
double* record_of(const A& array, const RowTask& task) {
    if (array.is_valid())
        return const_cast<double*>(vectors_of<T>(array, record_fields, task.rows, record_text.c_str()));
    require(is_few(task), "without a record there may be at most few_classes columns, and no top-k target");
    return nullptr;
}

inline void set_grad(RowTask& task, const In& logits, const Out& grad) {
    require(same_shape(logits, grad), "the gradient must have the shape of the logits");
    task.grad = matrix_of(grad, "grad");
    require(task.grad.type == task.logits.type || (task.grad.type == Type::bf16 && task.logits.type == Type::f32),
            "the gradient must have the dtype of the logits, or be bfloat16 for float32 logits");
    for (size_t k = 0; k < grad.ndim() && task.rows * task.columns > 0; ++k) {
        require(grad.shape(k) <= 1 || grad.stride(k) != 0, "the gradient must not be an expanded view");
    }
}

inline Vector vector_of(const In& array, int64_t rows, const char* name) {
    if (!array.is_valid()) return {};
    require(array.ndim() == 1 && static_cast<int64_t>(array.shape(0)) == rows, "cotangents must have shape (rows,)");
    return {array.data(), real_type_of(array, name), array.stride(0)};
}

// Adds pair_stats and pair_grad to the module.
void bind_pair(nb::module_& module);

}  // namespace crossent
