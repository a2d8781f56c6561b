// The sum or mean of few losses as its caller passed it, in torch's convention: read and checked in one crossing from
// Python.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>

#include "array.h"
#include "core.h"
#include "operand.h"

namespace crossent {

// Axes of an array that are read as one.
struct MergedAxis {
    int64_t length = 1, stride = 0;
};

// Merges the axes [begin, end); false if their elements do not lie at equal distances.
template <class A>
bool merge_axes(const A& array, size_t begin, size_t end, MergedAxis& axis) {
    for (size_t k = end; k-- > begin;) {
        const auto length = static_cast<int64_t>(array.shape(k));
        if (length == 1) continue;
        if (axis.length == 1) axis.stride = array.stride(k);
        if (array.stride(k) != axis.stride * axis.length) return false;
        axis.length *= length;
    }
    return true;
}

// A float, or an int that is no bool; false for numbers of other libraries, which only Python converts.
inline bool read_number(nb::handle value, double& number) {
    if (!PyFloat_CheckExact(value.ptr()) && !PyLong_CheckExact(value.ptr())) return false;
    number = PyFloat_AsDouble(value.ptr());
    if (number != -1 || PyErr_Occurred() == nullptr) return true;
    PyErr_Clear();
    return false;
}

inline bool read_number(nb::handle value, int64_t& number) {
    if (!PyLong_CheckExact(value.ptr())) return false;
    int overflow = 0;
    number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    return overflow == 0;
}

// Whatever is unusual or wrong makes a `read_` false: the caller then takes the way that can say what it is.
class StepArguments {
  public:
    RowTask task;
    Measure measure;

    // Logits (V), (N, V) or (N, V, d1, ...), and memory for their gradient or None.
    bool read_logits(nb::handle logits, nb::handle grad) {
        if (!logits_.view(logits) || logits_.ndim() == 0) return false;
        axis_ = std::min<size_t>(logits_.ndim() - 1, 1);
        MergedAxis inner;
        if (!grad.is_none()) {
            if (!grad_.view(grad) || !same_shape(logits_, grad_)) return false;
            if (!matrix_of_axes(grad_, task.grad, inner)) return false;
            inner = {};
        }
        if (!matrix_of_axes(logits_, task.logits, inner) || !is_real(task.logits.type)) return false;
        if (!grad.is_none() && task.grad.type != task.logits.type) return false;
        task.columns = static_cast<int64_t>(logits_.shape(axis_));
        task.inner_rows = inner.length;
        task.rows = inner.length * (axis_ == 1 ? static_cast<int64_t>(logits_.shape(0)) : 1);
        measure.num_classes = task.columns;
        return task.rows * task.columns > 0;
    }

    // Class indices (), (N) or (N, d1, ...), and the weights (V) of the classes or None.
    bool read_target(nb::handle index, nb::handle weight, nb::handle ignore_index) {
        if (!index_.view(index) || index_.ndim() + 1 != logits_.ndim()) return false;
        for (size_t k = 0; k < index_.ndim(); ++k) {
            if (index_.shape(k) != logits_.shape(k < axis_ ? k : k + 1)) return false;
        }
        MergedAxis rows;
        Type type;
        if (!find_type(index_, type) || is_real(type) || type == Type::u64) return false;
        if (!merge_axes(index_, 0, index_.ndim(), rows)) return false;
        task.index = {index_.data(), type, rows.stride, 0, 0};
        task.picks = 1;
        if (!weight.is_none()) {
            if (!weight_.view(weight) || weight_.ndim() != 1) return false;
            if (weight_.shape(0) != static_cast<size_t>(task.columns)) return false;
            if (!find_type(weight_, type) || !is_real(type)) return false;
            measure.weight = weight_.data();
            measure.weight_type = type;
            measure.weight_stride = weight_.stride(0);
        }
        return read_number(ignore_index, task.ignore_index);
    }

    bool read_options(nb::handle smoothing, nb::handle z_loss, nb::handle temperature, nb::handle softcap) {
        double penalty;
        if (!read_number(smoothing, measure.smoothing) || !read_number(z_loss, penalty)) return false;
        if (!(measure.smoothing >= 0 && measure.smoothing <= 1) || penalty != 0) return false;
        if (!read_number(temperature, task.temperature) || !is_scale(task.temperature)) return false;
        task.softcap = 0;
        return softcap.is_none() || (read_number(softcap, task.softcap) && is_scale(task.softcap));
    }

  private:
    template <class A>
    bool matrix_of_axes(const A& array, Matrix& matrix, MergedAxis& inner) const {
        if (!find_type(array, matrix.type) || !merge_axes(array, axis_ + 1, array.ndim(), inner)) return false;
        matrix.data = array.data();
        matrix.outer_stride = axis_ == 1 ? array.stride(0) : 0;
        matrix.inner_stride = inner.stride;
        matrix.column_stride = array.stride(axis_);
        return true;
    }

    In logits_, index_, weight_;
    Out grad_;
    size_t axis_ = 0;  // of the classes
};

}  // namespace crossent
