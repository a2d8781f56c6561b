// Arrays from Python as operands of the core: their types and strides, checked, or an error that names the array.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <string>

#include "array.h"
#include "core.h"

namespace crossent {

namespace nb = nanobind;

inline void require(bool condition, const char* text) {
    if (!condition) throw nb::value_error(text);
}

template <class A>
Type type_of(const A& array, const char* name) {
    if (array.is_freed()) {
        throw std::runtime_error(std::string(name) +
                                 " has elements but no memory: its storage was freed; use it before, or a copy");
    }
    if (!array.is_aligned()) {
        throw nb::value_error((std::string(name) +
                               " is not aligned: its memory does not begin at a multiple of its element size, and "
                               "results are not written to such arrays; pass a new array")
                                  .c_str());
    }
    const nb::dlpack::dtype t = array.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(t.code);
    if (t.lanes == 1) {
        if (code == nb::dlpack::dtype_code::Float && t.bits == 32) return Type::f32;
        if (code == nb::dlpack::dtype_code::Float && t.bits == 64) return Type::f64;
        if (code == nb::dlpack::dtype_code::Float && t.bits == 16) return Type::f16;
        if (code == nb::dlpack::dtype_code::Bfloat && t.bits == 16) return Type::bf16;
        const bool is_signed = code == nb::dlpack::dtype_code::Int;
        if (is_signed || code == nb::dlpack::dtype_code::UInt) {
            if (t.bits == 8) return is_signed ? Type::i8 : Type::u8;
            if (t.bits == 16) return is_signed ? Type::i16 : Type::u16;
            if (t.bits == 32) return is_signed ? Type::i32 : Type::u32;
            if (t.bits == 64) return is_signed ? Type::i64 : Type::u64;
        }
    }
    throw nb::type_error((std::string(name) +
                          " has a dtype that the core does not read; use float32, float64, bfloat16, "
                          "float16 or, for classes, an integer type")
                             .c_str());
}

template <class A>
Type real_type_of(const A& array, const char* name) {
    const Type type = type_of(array, name);
    if (!is_real(type)) throw nb::type_error((std::string(name) + " must have a floating-point dtype").c_str());
    return type;
}

// Axes (rows, columns) or (outer, columns, inner).
template <class A>
Matrix matrix_of(const A& array, const char* name) {
    if (array.ndim() == 2) return {array.data(), real_type_of(array, name), array.stride(0), 0, array.stride(1)};
    require(array.ndim() == 3,
            "logits, dense targets and gradients have axes (rows, classes) or (outer, classes, inner)");
    return {array.data(), real_type_of(array, name), array.stride(0), array.stride(2), array.stride(1)};
}

template <class A, class B>
bool same_shape(const A& a, const B& b) {
    if (a.ndim() != b.ndim()) return false;
    for (size_t k = 0; k < a.ndim(); ++k) {
        if (a.shape(k) != b.shape(k)) return false;
    }
    return true;
}

}  // namespace crossent
