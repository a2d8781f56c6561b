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

// The type of the elements of an array; false if the core cannot read them there.
template <class A>
bool find_type(const A& array, Type& type) {
    if (array.is_freed() || !array.is_aligned()) return false;
    const nb::dlpack::dtype t = array.dtype();
    if (t.lanes != 1) return false;
    const bool wide = t.bits == 32 || t.bits == 64, known = wide || t.bits == 8 || t.bits == 16;
    switch (static_cast<nb::dlpack::dtype_code>(t.code)) {
        case nb::dlpack::dtype_code::Float:
            type = t.bits == 64 ? Type::f64 : t.bits == 32 ? Type::f32 : Type::f16;
            return wide || t.bits == 16;
        case nb::dlpack::dtype_code::Bfloat: type = Type::bf16; return t.bits == 16;
        case nb::dlpack::dtype_code::Int:
            type = t.bits == 64 ? Type::i64 : t.bits == 32 ? Type::i32 : t.bits == 16 ? Type::i16 : Type::i8;
            return known;
        case nb::dlpack::dtype_code::UInt:
            type = t.bits == 64 ? Type::u64 : t.bits == 32 ? Type::u32 : t.bits == 16 ? Type::u16 : Type::u8;
            return known;
        default: return false;
    }
}

template <class A>
Type type_of(const A& array, const char* name) {
    Type type;
    if (find_type(array, type)) return type;
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
