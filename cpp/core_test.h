// Checks of core_test.cpp, and the arrays of its tasks: on the heap, not a byte too large, of every layout.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core.h"
#include "record.h"

using namespace crossent;

namespace {

using Doubles = std::vector<double>;
using Integers = std::vector<int64_t>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr Type real_types[] = {Type::f32, Type::f64, Type::bf16, Type::f16};
constexpr Type integer_types[] = {Type::i8, Type::i16, Type::i32, Type::i64, Type::u8, Type::u16, Type::u32, Type::u64};

std::atomic<int> failures{0};
thread_local std::string context;

#define CHECK(condition) ((condition) ? void() : failed(#condition))
void failed(const char* text) {
    if (failures++ < 20) std::fprintf(stderr, "%s  [%s]\n", text, context.c_str());
}

// Checks a result stored in a type: `bound` is how far off it may be before the rounding to that type.
void check_value(const char* what, Type type, double got, double want, double bound) {
    const double most = std::fabs(want) + bound,
                 digits = 8 + 16 * (type == Type::f32) + 45 * (type == Type::f64) + 3 * (type == Type::f16);
    bound += most * std::exp2(-digits) + (type == Type::f16 ? 0x1p-25 : type == Type::f64 ? 0 : 0x1p-134);
    if (type == Type::f16 && most >= 65504) bound = infinity;
    if (std::isnan(want) ? std::isnan(got) : got == want || std::fabs(got - want) <= bound) return;
    char text[200];
    std::snprintf(text, sizeof(text), "%s is %.17g, want %.17g within %.3g", what, got, want, bound);
    failed(text);
}

struct Draw {
    std::mt19937_64 bits;
    int64_t below(int64_t n) { return n <= 0 ? 0 : static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
    bool one_in(int64_t n) { return below(n) == 0; }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    template <class T, size_t n>
    T of(const T (&list)[n]) {
        return list[below(n)];
    }
};

struct Half {  // the fields of a 16-bit float
    int digits, top;
    explicit Half(Type type) : digits(type == Type::f16 ? 10 : 7), top(type == Type::f16 ? 31 : 255) {}

    double value(int bits) const {
        const int fraction = bits & ((1 << digits) - 1), exponent = bits >> digits & top;
        const int whole = exponent > 0 ? fraction + (1 << digits) : fraction,
                  shift = std::max(exponent, 1) - top / 2 - digits;
        const double size = exponent < top ? std::ldexp(whole, shift) : fraction > 0 ? nan : infinity;
        return (bits & 0x8000) != 0 ? -size : size;
    }
    int bits(double x) const {  // rounded towards zero
        int exponent = 0;
        const double fraction = std::frexp(std::isfinite(x) ? std::fabs(x) : 0, &exponent);
        const int biased = exponent + top / 2 - 1,
                  whole = static_cast<int>(std::ldexp(fraction, digits + 1 + std::min(biased - 1, 0)));
        const int size = std::isnan(x)   ? 0x7fff
                         : std::isinf(x) ? top << digits
                                         : whole + (std::max(biased, 1) - 1) * (1 << digits);
        return size | (std::signbit(x) ? 0x8000 : 0);
    }
};

enum class Use { plain, written, read };

// An array on the heap, not a byte too large. Half of them are plain; else axes are permuted in memory, spread, padded,
// backwards or, if only read, expanded. What is between the elements is 0xff, which is NaN in every real type.
struct Array {
    Type type = Type::f32;
    Integers length, stride;
    int64_t first = 0;
    std::vector<unsigned char> memory, before;
    Doubles reals;  // the elements in row-major order, or
    Integers integers;

    Array() = default;
    Array(Draw& draw, Type type_, const Integers& length_, Use use)
        : type(type_), length(length_), stride(length_.size()) {
        std::vector<size_t> order;
        for (size_t k = length.size(); k-- > 0;) order.push_back(k);
        const bool plain = use == Use::plain || draw.one_in(2);
        if (!plain && draw.one_in(2)) std::shuffle(order.begin(), order.end(), draw.bits);
        int64_t step = !plain && draw.one_in(4) ? 2 : 1, last = first = draw.below(4);
        for (const size_t k : order) {
            const int64_t others = std::max<int64_t>(0, length[k] - 1);
            stride[k] = !plain && use == Use::read && draw.one_in(5) ? 0 : !plain && draw.one_in(8) ? -step : step;
            last += others * std::abs(stride[k]);
            if (stride[k] < 0) first += others * -stride[k];
            step = step * (others + 1) + (!plain && draw.one_in(3) ? 3 : 0);
        }
        const bool empty = std::count(length.begin(), length.end(), 0) > 0;
        memory.assign(static_cast<size_t>(empty ? 0 : (last + 1) * element_size(type)), 0xff);
    }
    void* data() { return memory.empty() ? nullptr : memory.data() + first * element_size(type); }
    Matrix matrix() { return {data(), type, stride[0], stride.size() > 2 ? stride[2] : 0, stride[1]}; }
    Vector vector() { return {data(), type, memory.empty() ? 0 : stride[0]}; }

    template <class Visit>
    void each(const Visit& visit) {  // the bytes of each element, in row-major order
        Integers at(length.size());
        int64_t place = first;
        for (bool more = !memory.empty(); more;) {
            visit(memory.data() + place * element_size(type));
            more = false;
            for (size_t k = length.size(); k-- > 0 && !more;) {
                more = ++at[k] < length[k];
                place += (more ? 1 : 1 - length[k]) * stride[k];
                if (!more) at[k] = 0;
            }
        }
    }
    void read() {
        const size_t size = static_cast<size_t>(element_size(type));
        const auto unused = 64 - 8 * size;
        reals.clear();
        integers.clear();
        each([&](const unsigned char* from) {
            double real = 0;
            float single = 0;
            int64_t bits = 0;
            std::memcpy(type == Type::f64   ? static_cast<void*>(&real)
                        : type == Type::f32 ? static_cast<void*>(&single)
                                            : &bits,
                        from, size);
            if (type == Type::u64 && bits < 0) bits = INT64_MAX;  // no class is that large, and none is negative
            if (!is_real(type)) integers.push_back(type < Type::u8 ? bits << unused >> unused : bits);
            else
                reals.push_back(size == 2 ? Half(type).value(static_cast<int>(bits))
                                          : real + static_cast<double>(single));
        });
    }
    template <class Next>
    Array& fill(Next next) {
        each([&, this](unsigned char* to) {
            const auto x = next();
            const float single = static_cast<float>(x);
            const int half = element_size(type) == 2 && is_real(type) ? Half(type).bits(static_cast<double>(x)) : 0;
            const bool as_it_is = !is_real(type) || type == Type::f64;
            std::memcpy(to,
                        as_it_is            ? static_cast<const void*>(&x)
                        : type == Type::f32 ? static_cast<const void*>(&single)
                                            : &half,
                        static_cast<size_t>(element_size(type)));
        });
        before = memory;
        read();
        return *this;
    }
    bool unchanged() const { return before == memory; }
    bool gaps_unchanged() {  // wipes the elements
        each([&](unsigned char* to) { std::memset(to, 0xff, static_cast<size_t>(element_size(type))); });
        return std::count(memory.begin(), memory.end(), 0xff) == static_cast<int64_t>(memory.size());
    }
};

}  // namespace
