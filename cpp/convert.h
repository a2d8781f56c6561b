// Storage types of logits and their conversion to and from the type of the arithmetic, in integer operations that
// compilers vectorise on every instruction set. Rounding is to nearest, ties to even.
#pragma once

#include "math.h"
#include "types.h"

namespace crossent {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct bfloat16 {
    uint16_t value;
};
struct float16 {
    uint16_t value;
};

template <class Storage>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

CROSSENT_INLINE float widen(float x) { return x; }
CROSSENT_INLINE double widen(double x) { return x; }
CROSSENT_INLINE float widen(bfloat16 x) { return bits<float>(static_cast<uint32_t>(x.value) << 16); }
CROSSENT_INLINE float widen(float16 x) {
    const uint32_t sign = (x.value & 0x8000u) << 16, magnitude = x.value & 0x7fffu;
    const uint32_t rebias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
    const uint32_t normal = (magnitude << 13) + rebias;
    const float denormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
    return bits<float>((magnitude < 0x400u ? bits<uint32_t>(denormal) : normal) | sign);
}

template <class Storage>
struct Narrow {
    template <class T>
    static CROSSENT_INLINE Storage from(T x) {
        return static_cast<Storage>(x);
    }
};
template <>
struct Narrow<bfloat16> {
    static CROSSENT_INLINE bfloat16 from(float x) {
        const uint32_t b = bits<uint32_t>(x);
        const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
        return {static_cast<uint16_t>(x != x ? 0x7fc0u : rounded)};
    }
};
template <>
struct Narrow<float16> {
    static CROSSENT_INLINE float16 from(float x) {
        const uint32_t b = bits<uint32_t>(x), sign = (b >> 16) & 0x8000u, magnitude = b & 0x7fffffffu;
        const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        const uint32_t denormal = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000u;
        uint32_t half = magnitude < 0x38800000u ? denormal : normal;
        half = magnitude >= 0x477ff000u ? 0x7c00u : half;
        half = magnitude > 0x7f800000u ? 0x7e00u : half;
        return {static_cast<uint16_t>(half | sign)};
    }
};

template <class T>
inline T load_real(const void* data, Type type, int64_t i) {
    switch (type) {
        case Type::f32: return static_cast<T>(static_cast<const float*>(data)[i]);
        case Type::f64: return static_cast<T>(static_cast<const double*>(data)[i]);
        case Type::bf16: return static_cast<T>(widen(static_cast<const bfloat16*>(data)[i]));
        case Type::f16: return static_cast<T>(widen(static_cast<const float16*>(data)[i]));
        default: return T(0);
    }
}

// n elements from data + first, stride apart, as the type of the arithmetic.
template <class Storage, class T>
inline void load_run(const void* data, int64_t first, int64_t stride, int64_t n, T* to) {
    const Storage* from = static_cast<const Storage*>(data) + first;
    if (stride == 1) {
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(widen(from[i]));
    } else {
        for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(widen(from[i * stride]));
    }
}

template <class T>
inline void load_run(const void* data, Type type, int64_t first, int64_t stride, int64_t n, T* to) {
    switch (type) {
        case Type::f32: return load_run<float>(data, first, stride, n, to);
        case Type::f64: return load_run<double>(data, first, stride, n, to);
        case Type::bf16: return load_run<bfloat16>(data, first, stride, n, to);
        case Type::f16: return load_run<float16>(data, first, stride, n, to);
        default: return;
    }
}

inline int64_t load_integer(const void* data, Type type, int64_t i) {
    switch (type) {
        case Type::i8: return static_cast<const int8_t*>(data)[i];
        case Type::i16: return static_cast<const int16_t*>(data)[i];
        case Type::i32: return static_cast<const int32_t*>(data)[i];
        case Type::i64: return static_cast<const int64_t*>(data)[i];
        case Type::u8: return static_cast<const uint8_t*>(data)[i];
        case Type::u16: return static_cast<const uint16_t*>(data)[i];
        case Type::u32: return static_cast<const uint32_t*>(data)[i];
        case Type::u64: {  // saturates: 2^64 - 100 is no -100
            const uint64_t value = static_cast<const uint64_t*>(data)[i];
            return value > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(value);
        }
        default: return INT64_MIN;
    }
}

}  // namespace
}  // namespace crossent
