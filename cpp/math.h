// Branch-free exp, log, log1p and tanh that compilers turn into vector code; coefficients from
// tools/make_coefficients.py. Errors in float and double, held by tests/conformance/test_math.py: exp 1.25 ulp; log,
// log1p and log1m 2 ulp; log_normal 3; tanh 3.5 ulp and its slope 6; those of excess 4 and
// 8, of mixed_excess 24 and 8 for equal shares.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// A call in a loop that was not inlined keeps the whole loop from becoming vector code.
#if defined(_MSC_VER)
#define CROSSENT_INLINE __forceinline
#else
#define CROSSENT_INLINE inline __attribute__((always_inline))
#endif

namespace crossent {
namespace {

template <class To, class From>
CROSSENT_INLINE To bits(From from) {
    return std::bit_cast<To>(from);  // MSVC keeps loops with a memcpy from becoming vector code
}

template <class T>
struct Limits;

template <>
struct Limits<float> {
    using Int = int32_t;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float log2e = 1.44269504089f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float shifter = 12582912.0f + 127.0f;  // 1.5 * 2^23 + exponent bias: n + bias in the low bits
    static constexpr float smallest = -87.3365f;            // e^d is a normal number from here on
    static constexpr float zero_log = -88.03f;              // exp_parts returns power 0 for this
    static constexpr float expm1[] = {1.000000011f,   0.5000000013f,   0.1666650526f,
                                      0.04166646501f, 0.008369148491f, 0.001393364103f};
    static constexpr float log1p_ratio[] = {0.9999999994f, -0.499999885f,  0.3333334535f, -0.250015791f,
                                            0.2000093944f, -0.1660836941f, 0.141996501f,  -0.1326603136f,
                                            0.1280661044f, -0.07451186227f};
    static constexpr float log1p_tail[] = {-0.4999999765f, 0.3333333003f,  -0.2500078124f,
                                           0.2000123446f,  -0.1662664563f, 0.1420485595f,
                                           -0.1312755565f, 0.1272267279f,  -0.07673641502f};
    static constexpr float excess[] = {0.4999999913f,   0.1666660366f,   0.04165925536f,
                                       0.008301170446f, 0.001324817964f, 0.0001374241909f};
    static constexpr float atanh[] = {0.3333333366f, 0.1999985317f, 0.14296179f, 0.108532879f, 0.1161216461f};
};

template <>
struct Limits<double> {
    using Int = int64_t;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double log2e = 1.4426950408889634074, ln2_high = 0.6931471803691238165,
                            ln2_low = 1.908214929270587816e-10;
    static constexpr double shifter = 6755399441055744.0 + 1023.0;
    static constexpr double smallest = -708.396418;
    static constexpr double zero_log = -709.0896;
    static constexpr double expm1[] = {0.99999999999999999976,    0.49999999999999999998,     0.16666666666666680806,
                                       0.041666666666666676764,   0.0083333333333196006109,   0.0013888888888879081845,
                                       0.00019841269890047113707, 0.000024801587336421322573, 2.7557240918578969823e-6,
                                       2.7557263301474754518e-7,  2.5110037605963777712e-8,   2.0918129454967065736e-9};
    static constexpr double excess[] = {
        0.49999999999999999908,   0.16666666666666640147,    0.041666666666654010454,    0.0083333333330965574966,
        0.0013888888865978557497, 0.00019841268531480211807, 0.000024801539739718984905, 2.7556179049708927104e-6,
        2.7539002753717310919e-7, 2.4856214837612004287e-8,  1.9527153064314620693e-9,   1.0509453754979482636e-10};
    static constexpr double atanh[] = {0.3333333333333333333,   0.20000000000000007739,  0.14285714285710971648,
                                       0.11111111111665993422,  0.090909090430028277259, 0.076923101269020811996,
                                       0.066665884745690892251, 0.058839988836205180801, 0.052401996171826370258,
                                       0.049710124482773673141, 0.03167055425885122698,  0.076156313097144924193};
};

// A choice between two numbers that are there: vector code has no branches.
template <class T>
CROSSENT_INLINE T either(bool condition, T yes, T no) {
    return condition ? yes : no;
}

template <class T, int n>
CROSSENT_INLINE T polynomial(const T (&c)[n], T x) {
    T sum = c[n - 1];
    for (int k = n - 2; k >= 0; --k) sum = sum * x + c[k];
    return sum;
}

// The same in two interleaved halves: two short chains of operations in place of a long one.
template <class T, int n>
CROSSENT_INLINE T polynomial_by_halves(const T (&c)[n], T x) {
    const T w = x * x;
    T even = c[(n - 1) / 2 * 2], odd = c[n / 2 * 2 - 1];
    for (int k = (n - 1) / 2 * 2 - 2; k >= 0; k -= 2) even = even * w + c[k];
    for (int k = n / 2 * 2 - 3; k >= 1; k -= 2) odd = odd * w + c[k];
    return odd * x + even;
}

// e^d = power + power * rest with power = 2^n, for zero_log <= d <= 0; NaN stays NaN, anything lower is nonsense.
template <class T>
CROSSENT_INLINE void exp_parts(T d, T& power, T& rest) {
    using L = Limits<T>;
    T n = d * L::log2e + L::shifter;
    power = bits<T>(static_cast<typename L::Int>(bits<typename L::Int>(n)) << L::mantissa);
    n -= L::shifter;
    const T r = (d - n * L::ln2_high) - n * L::ln2_low;
    rest = r * polynomial(L::expm1, r);
}

// e^d for d <= 0, and 0 below floor >= smallest: a product of the result with what floor allows for is never denormal,
// and denormal results cost a hundred times the rest of this loop.
template <class T>
CROSSENT_INLINE T exp_nonpositive(T d, T floor) {
    T power, rest;
    exp_parts(d, power, rest);
    return d < floor ? T(0) : power + power * rest;
}

// e^d for zero_log <= d <= 0, and exactly 0 for zero_log.
template <class T>
CROSSENT_INLINE T exp_clamped(T d) {
    T power, rest;
    exp_parts(d, power, rest);
    return power + power * rest;
}

// log(1 + u) for 0 <= u <= 1, with relative accuracy down to the smallest u.
template <class T>
CROSSENT_INLINE T log1p_unit(T u) {
    const T s = u / (u + T(2)), w = s * s;
    return T(2) * (s + s * w * polynomial(Limits<T>::atanh, w));
}

// log(x) for x >= 0.
template <class T>
CROSSENT_INLINE T log_positive(T x) {
    using L = Limits<T>;
    using Int = typename L::Int;
    using Bits = std::make_unsigned_t<Int>;  // negative and NaN input is nonsense, but no overflow
    const bool tiny = x < std::numeric_limits<T>::min();
    const T up = T(Int{1} << (L::mantissa + 1));
    const T y = tiny ? x * up : x;
    const T half_root = T(0.70710678118654752440);
    const Int k =
        static_cast<Int>(bits<Bits>(y) - bits<Bits>(half_root)) >> L::mantissa;  // y = 2^k m, 1/sqrt(2) <= m < sqrt(2)
    const T m = bits<T>(bits<Bits>(y) - (static_cast<Bits>(k) << L::mantissa));
    const T s = (m - T(1)) / (m + T(1)), w = s * s;
    const T n = static_cast<T>(k) - (tiny ? T(L::mantissa + 1) : T(0));
    const T log = n * L::ln2_high + (T(2) * (s + s * w * polynomial(L::atanh, w)) + n * L::ln2_low);
    const T edge = x == T(0) ? -std::numeric_limits<T>::infinity() : log;
    return x - x == T(0) ? edge : x;  // inf and NaN are their own logarithms
}

// log(ties + rest) for ties of 1 or more (or both 0) and rest >= 0, with relative accuracy where it is log(1 + rest).
template <class T>
CROSSENT_INLINE T log_sum(T ties, T rest) {
    using L = Limits<T>;
    using Int = typename L::Int;
    using Bits = std::make_unsigned_t<Int>;
    const T x = ties + rest, half_root = T(0.70710678118654752440);
    const Int k = static_cast<Int>(bits<Bits>(x) - bits<Bits>(half_root)) >> L::mantissa;
    const T m = bits<T>(bits<Bits>(x) - (static_cast<Bits>(k) << L::mantissa));
    const T rounded = m - T(1), n = static_cast<T>(k);
    const T alone = either(rest <= T(0.4140625), rest, rounded);  // there k is 0, and m - 1 would be the rest, rounded
    const T below = either(ties == T(1), alone, rounded);
    const T s = below / (below + T(2)), w = s * s;
    const T log = n * L::ln2_high + (T(2) * (s + s * w * polynomial(L::atanh, w)) + n * L::ln2_low);
    const T edge = x == T(0) ? -std::numeric_limits<T>::infinity() : log;
    return x - x == T(0) ? edge : x;
}

// log(x) for normal x > 0, to 3 ulp and twice as fast, because nothing is divided.
CROSSENT_INLINE float log_normal(float x) {
    using L = Limits<float>;
    const uint32_t half_root = bits<uint32_t>(0.70710678f);
    const int32_t k = static_cast<int32_t>(bits<uint32_t>(x) - half_root) >> L::mantissa;
    const float r = bits<float>(bits<uint32_t>(x) - (static_cast<uint32_t>(k) << L::mantissa)) - 1.0f;
    const float n = static_cast<float>(k);
    return n * L::ln2_high + (r * polynomial(L::log1p_ratio, r) + n * L::ln2_low);
}

// log(1 + r) - r for 1 + r from 1/sqrt(2) to sqrt(2), with relative accuracy down to the smallest r.
CROSSENT_INLINE float log1p_tail(float r) { return r * r * polynomial_by_halves(Limits<float>::log1p_tail, r); }
CROSSENT_INLINE double log1p_tail(double r) {
    const double s = r / (r + 2.0), w = s * s;
    return s * (2.0 * w * polynomial(Limits<double>::atanh, w) - r);
}

// e^d of d <= 0 and e^d - 1, both with relative accuracy; a lower or no number counts as zero_log.
template <class T>
struct Ratio {
    T log, value, less;
    CROSSENT_INLINE Ratio(T d, T zero_log) : log(d > zero_log ? d : zero_log) {
        T power, rest;
        exp_parts(log, power, rest);
        value = power + power * rest;
        less = power * rest + (power - T(1));
    }
    CROSSENT_INLINE Ratio(T log_, T value_, T less_) : log(log_), value(value_), less(less_) {}
};

// What a class adds to the divergence of two distributions from each other, of which one gives it the probability 1 and
// the other one e^d: h(-d) to that of the first one, and e^d h(d) to that of the second, h(x) = x + e^-x - 1.
template <class T>
CROSSENT_INLINE void excess(T d, const Ratio<T>& ratio, T& of_first, T& of_second) {
    const T series = ratio.log * ratio.log * polynomial_by_halves(Limits<T>::excess, ratio.log);
    const bool near = d > T(-1);
    of_first = either(near, series, ratio.less - d);
    of_second = either(near, ratio.log * ratio.less - series, ratio.log * ratio.value - ratio.less);
}

// The same for their divergence from the mixture that has the shares 1 - w of the first one and w of the second, and
// `log`, the logarithm of the mixture, from log(1 - w) to 0.
template <class T>
CROSSENT_INLINE void mixed_excess(const Ratio<T>& ratio, T w, T rest_of_w, T& log, T& of_first, T& of_second) {
    using L = Limits<T>;
    using Bits = std::make_unsigned_t<typename L::Int>;
    const T less = w * ratio.less, mixture = rest_of_w + w * ratio.value;
    // mixture = 2^n m, 1/sqrt(2) <= m < sqrt(2). Without a signed shift and a conversion, which AVX2 lacks for double:
    // the biased exponent in the last bits of a number becomes that number by a subtraction.
    constexpr Bits one = Bits{L::bias} << L::mantissa, whole = Bits{L::bias + L::mantissa} << L::mantissa;
    const Bits exponent = (bits<Bits>(mixture) + (one - bits<Bits>(T(0.70710678118654752440)))) >> L::mantissa;
    const T n = bits<T>(exponent | whole) - (T(Bits{1} << L::mantissa) + T(L::bias));
    const T m = bits<T>(bits<Bits>(mixture) + one - (exponent << L::mantissa));
    const bool close = n == T(0);  // where mixture - 1 would be rounded
    const T r = either(close, less, m - T(1)), tail = log1p_tail(r);
    log = n * L::ln2_high + (r + (tail + n * L::ln2_low));
    of_first = either(close, -tail, less - log);
    const T d = ratio.log - log, missing = rest_of_w * ratio.less;  // of the second one, beside the mixture
    const T near = d * missing - mixture * (d * d * polynomial_by_halves(L::excess, d)),
            far = ratio.value * d - missing;
    const T second = either(d > T(-1), near, far);
    of_second = second > T(0) ? second : T(0);  // a share of 1e-8 may round to less
}

// log(1 - x) for 0 <= x <= 1, with relative accuracy down to the smallest x.
template <class T>
CROSSENT_INLINE T log1m_unit(T x) {
    const T s = x / (x - T(2)), w = s * s;
    const T small = T(2) * (s + s * w * polynomial(Limits<T>::atanh, w));
    return x > T(0.5) ? log_positive(T(1) - x) : small;
}

// tanh(x) and its derivative 1 - tanh(x)^2, each with relative accuracy.
template <class T>
CROSSENT_INLINE void tanh_and_slope(T x, T& tanh, T& slope) {
    const T size = x < T(0) ? -x : x;
    const T d = T(-2) * size;
    T power, rest;
    exp_parts(d < Limits<T>::smallest ? Limits<T>::smallest : d, power, rest);
    const T u = power + power * rest;  // e^(-2|x|)
    const T expm1 = power * rest + (power - T(1));
    const T inverse = T(1) / (T(2) + expm1);
    const T result = -expm1 * inverse;
    tanh = x < T(0) ? -result : result;
    slope = T(4) * u * inverse * inverse;
}

}  // namespace
}  // namespace crossent
