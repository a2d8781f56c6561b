// The core under the sanitizers: drawn tasks on heap arrays of exactly the size they need, held against plain loops in
// double. How far a result may be off is computed beside it, from the roundings that the arithmetic of the task makes.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core.h"
#include "dispatch.h"
#include "parallel.h"

using namespace crossent;

namespace {

using Doubles = std::vector<double>;
using Integers = std::vector<int64_t>;
constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
constexpr Type real_types[] = {Type::f32, Type::f64, Type::bf16, Type::f16};
constexpr Type integer_types[] = {Type::i8, Type::i16, Type::i32, Type::i64, Type::u8, Type::u16, Type::u32, Type::u64};

std::atomic<int> failures{0};
thread_local std::string context;

#define CHECK(condition) ((condition) ? void() : failed(__LINE__, #condition))
void failed(int line, const char* text) {
    if (failures++ < 20) std::fprintf(stderr, "core_test.cpp:%d: %s  [%s]\n", line, text, context.c_str());
}

struct Value {
    double want = 0, bound = 0;

    Value rounded_to(Type type) const {
        const int digits = type == Type::f64 ? 53 : type == Type::f32 ? 24 : type == Type::f16 ? 11 : 8;
        const double most = std::fabs(want) + bound, smallest = type == Type::f16 ? 0x1p-25 : type == Type::f64 ? 0 : 0x1p-134;
        return {want, type == Type::f16 && most >= 65504 ? infinity : bound + std::ldexp(most, -digits) + smallest};
    }
};

#define CHECK_VALUE(what, got, value) check_value(__LINE__, what, got, value)
void check_value(int line, const char* what, double got, Value value) {
    if (std::isnan(value.want) ? std::isnan(got) : got == value.want || std::fabs(got - value.want) <= value.bound) return;
    char text[200];
    std::snprintf(text, sizeof(text), "%s is %.17g, want %.17g within %.3g", what, got, value.want, value.bound);
    failed(line, text);
}

struct Draw {
    std::mt19937_64 bits;

    int64_t below(int64_t n) { return n <= 0 ? 0 : static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
    bool one_in(int64_t n) { return below(n) == 0; }
    double uniform() { return std::ldexp(static_cast<double>(bits() >> 11), -53); }
    template <class T, size_t n>
    T of(const T (&list)[n]) {
        return list[below(n)];
    }
};

// Calls `call` with a number of the C++ type that stands for this type; 16-bit floats as their bits.
template <class Call>
auto by_type(Type type, const Call& call) {
    switch (type) {
        case Type::f32: return call(float{});
        case Type::f64: return call(double{});
        case Type::i8: return call(int8_t{});
        case Type::i16: return call(int16_t{});
        case Type::i32: return call(int32_t{});
        case Type::i64: return call(int64_t{});
        case Type::u8: return call(uint8_t{});
        case Type::u32: return call(uint32_t{});
        case Type::u64: return call(uint64_t{});
        default: return call(uint16_t{});
    }
}

double value_of_half(Type type, int bits) {
    const int digits = type == Type::f16 ? 10 : 7, fraction = bits & ((1 << digits) - 1), top = type == Type::f16 ? 31 : 255;
    const int exponent = bits >> digits & top, shift = std::max(exponent, 1) - top / 2 - digits;
    const double size = exponent < top ? std::ldexp(exponent > 0 ? fraction + (1 << digits) : fraction, shift) : fraction > 0 ? nan : infinity;
    return (bits & 0x8000) != 0 ? -size : size;
}

int half_of_value(Type type, double x) {  // rounded towards zero
    static const auto ascending = [](Type half) {
        Doubles values;
        for (int bits = 0; values.empty() || values.back() < infinity; ++bits) values.push_back(value_of_half(half, bits));
        return values;
    };
    static const Doubles of_f16 = ascending(Type::f16), of_bf16 = ascending(Type::bf16);
    const Doubles& values = type == Type::f16 ? of_f16 : of_bf16;
    const auto above = std::upper_bound(values.begin(), values.end(), std::fabs(x)) - values.begin();
    return std::isnan(x) ? 0x7fff : static_cast<int>(above) - 1 + (std::signbit(x) ? 0x8000 : 0);
}

enum class Use { plain, written, read };

// An array on the heap, not a byte too large. Half of them are plain; else axes are permuted in memory, spread, padded,
// backwards or, if only read, expanded. What is between the elements is 0xff, which is NaN in every real type.
struct Array {
    Type type = Type::f32;
    Integers length, stride;
    int64_t first = 0;
    std::vector<unsigned char> memory, before;
    Doubles reals;  // what the elements are, in row-major order
    Integers integers;

    Array() = default;
    Array(Draw& draw, Type type_, const Integers& length_, Use use) : type(type_), length(length_), stride(length_.size()) {
        std::vector<size_t> order;
        for (size_t k = length.size(); k-- > 0;) order.push_back(k);
        const bool plain = use == Use::plain || draw.one_in(2);
        if (!plain && draw.one_in(2)) std::shuffle(order.begin(), order.end(), draw.bits);
        int64_t step = !plain && draw.one_in(4) ? 2 : 1, lead = draw.below(4), last = lead;
        first = lead;
        for (const size_t k : order) {
            const int64_t others = std::max<int64_t>(0, length[k] - 1);
            stride[k] = !plain && use == Use::read && draw.one_in(5) ? 0 : !plain && draw.one_in(8) ? -step : step;
            last += others * std::abs(stride[k]);
            if (stride[k] < 0) first += others * -stride[k];
            step = step * (others + 1) + (!plain && draw.one_in(3) ? 3 : 0);
        }
        if (std::count(length.begin(), length.end(), 0) == 0) memory.assign(static_cast<size_t>((last + 1) * element_size(type)), 0xff);
    }

    void* data() { return memory.empty() ? nullptr : memory.data() + first * element_size(type); }
    Matrix matrix() { return {data(), type, stride[0], stride.size() > 2 ? stride[2] : 0, stride[1]}; }
    Vector vector() { return {data(), type, data() == nullptr ? 0 : stride[0]}; }

    template <class Visit>
    void each(const Visit& visit) {  // bytes of the elements in row-major order
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
        reals.clear();
        integers.clear();
        const bool half = type == Type::bf16 || type == Type::f16;
        each([&](const unsigned char* from) {
            by_type(type, [&]<class T>(T value) {
                std::memcpy(&value, from, sizeof(T));
                if (is_real(type)) reals.push_back(half ? value_of_half(type, static_cast<int>(value)) : static_cast<double>(value));
                else integers.push_back(static_cast<int64_t>(value));
            });
        });
    }
    template <class Next>
    Array& fill(const Next& next) {
        each([&](unsigned char* to) {
            const auto x = next();
            by_type(type, [&]<class T>(T value) {
                if (type == Type::bf16 || type == Type::f16) value = static_cast<T>(half_of_value(type, static_cast<double>(x)));
                else value = static_cast<T>(x);
                std::memcpy(to, &value, sizeof(T));
            });
        });
        read();
        before = memory;
        return *this;
    }
    bool unchanged() const { return before == memory; }
    bool gaps_unchanged() {  // by wiping the elements
        each([&](unsigned char* to) { std::memset(to, 0xff, static_cast<size_t>(element_size(type))); });
        return std::count(memory.begin(), memory.end(), 0xff) == static_cast<int64_t>(memory.size());
    }
};

enum class Kind { index, topk, dense };

struct Target {
    Array index, prob;
    Problem problem;
};

struct Results {
    Doubles record;
    Array loss, lse, entropy, grad;
};

// What the record and the summaries of a row must be, and what its gradient is made of.
struct Row {
    Value peak, total, score, mass, tilt, loss, lse, entropy;
    double log_total = 0;
    bool ignored = false;
    Doubles d, slope, error;  // of each column; error: relative, of e^d and of the slope
};

struct Rows {
    Draw draw;
    Type type, compute;
    int64_t rows, columns, inner = 1, picks = 0;
    Kind kind;
    RowTask task;
    Measure measure;
    Array logits, weight, g_loss, g_lse, g_entropy, scale, square;
    Target target, garbage;

    Rows(uint64_t seed, Type type_, int64_t rows_, int64_t columns_)
        : draw{std::mt19937_64(seed)}, type(type_), compute(type == Type::f64 ? Type::f64 : Type::f32), rows(rows_), columns(columns_) {
        if (rows > 0 && draw.one_in(3)) inner = rows < 4 ? rows : rows / 5;
        task.rows = rows;
        task.columns = columns;
        task.inner_rows = inner;
        task.temperature = draw.of({1.0, 1.0, 0.7, 3.0});
        task.softcap = draw.of({0.0, 0.0, 5.0, 30.0});
        task.first_class = draw.of({0, 0, 5});
        task.ignore_index = draw.of({int64_t{-100}, int64_t{1}, INT64_MIN, INT64_MAX});
        measure.smoothing = draw.of({0.0, 0.0, 0.1, 1.0});
        measure.num_classes = task.first_class + columns + draw.of({0, 0, 7});

        const double deviation = draw.of({0.0, 0.1, 1.0, 5.0, 30.0}), mean = draw.of({0.0, 0.0, -3e3, 1e4});
        const int64_t special = draw.of({0, 0, 1, 2, 3}), odd = draw.below(3 * rows);
        logits = Array(draw, type, shape(), Use::read).fill([&, element = int64_t{0}]() mutable {
            const bool is_odd = row_of(element++) == odd;
            if (special == 1 && is_odd) return -infinity;
            if (special == 2 && is_odd && draw.one_in(columns)) return draw.of({nan, infinity, -infinity});
            if (special == 3 && draw.one_in(20)) return draw.of({-infinity, -0.0});
            return mean + 2 * deviation * (draw.uniform() + draw.uniform() + draw.uniform() - 1.5);
        });
        kind = draw.of({Kind::index, Kind::topk, Kind::dense});
        if (kind != Kind::dense) picks = kind == Kind::index ? 1 : rows <= 3 && columns <= 513 && draw.one_in(3) ? 300 : draw.of({0, 1, 2, 5});
        const Type index_type = draw.of(integer_types), prob_type = draw.of(real_types);
        draw_target(target, nullptr, index_type, prob_type);
        draw_target(garbage, &target, index_type, prob_type);
        if (draw.one_in(2)) {
            weight = vector(columns, 0, 3);
            measure.weight = weight.data();
            measure.weight_type = weight.type;
            measure.weight_stride = weight.stride[0];
        }
        for (Array* g : {&g_loss, &g_lse, &g_entropy, &scale, &square}) {
            if (!draw.one_in(3)) *g = vector(rows, -2, 2);
        }
    }

    Integers shape() const { return {rows / inner, columns, inner}; }
    int64_t row_of(int64_t element) const { return element / (columns * inner) * inner + element % inner; }
    size_t element(int64_t row, int64_t v) const { return static_cast<size_t>((row / inner * columns + v) * inner + row % inner); }
    Array vector(int64_t size, double low, double high) {
        return Array(draw, draw.of(real_types), {size}, Use::read).fill([&] { return draw.one_in(6) ? 0 : low + (high - low) * draw.uniform(); });
    }

    // The same as `clean`, if it is given, but for entries that are wrong.
    void draw_target(Target& t, const Target* clean, Type index_type, Type prob_type) {
        if (kind != Kind::dense) {
            const int64_t most = by_type(index_type, []<class T>(T) { return static_cast<int64_t>(std::min(double(std::numeric_limits<T>::max()), 1e9)); });
            t.index = Array(draw, index_type, {rows, picks}, Use::read).fill([&, i = size_t{0}]() mutable {
                const int64_t classes = measure.num_classes, index = clean == nullptr ? draw.below(std::min(classes, most)) : clean->index.integers[i++];
                if (clean != nullptr && draw.one_in(3)) return draw.of({INT64_MIN, INT64_MIN + 1, INT64_MAX, int64_t{-1}, int64_t{1} << 40, classes, task.first_class - 1});
                return clean == nullptr && kind == Kind::index && draw.one_in(4) ? task.ignore_index : index;
            });
        }
        if (kind != Kind::index) {
            t.prob = Array(draw, prob_type, kind == Kind::dense ? shape() : Integers{rows, picks}, Use::read).fill([&, i = size_t{0}]() mutable {
                const double prob = clean != nullptr ? clean->prob.reals[i++] : draw.one_in(3) ? 0 : draw.uniform();
                return clean != nullptr && draw.one_in(2 * (picks + columns)) ? draw.of({nan, -1.0, infinity, -infinity}) : prob;
            });
        }
        Doubles q;
        for (int64_t row = 0; row < rows && t.problem.row < 0; ++row) (void)read_measure(t, row, q, &t.problem);
    }

    // The target measure of a row in q; returns whether the row is ignored.
    bool read_measure(const Target& t, int64_t row, Doubles& q, Problem* problem = nullptr) const {
        q.assign(static_cast<size_t>(columns), 0);
        bool ignored = false;
        const auto add = [&](int64_t place, double prob, int64_t v) {
            if (problem != nullptr && problem->row < 0 && !(prob >= 0 && prob < infinity)) *problem = {row, place, 0, prob};
            if (v >= 0 && v < columns) q[static_cast<size_t>(v)] += prob;
        };
        for (int64_t v = 0; v < columns && kind == Kind::dense; ++v) add(v, t.prob.reals[element(row, v)], v);
        for (int64_t pick = 0; pick < picks; ++pick) {
            const size_t i = static_cast<size_t>(row * picks + pick);
            const int64_t index = t.index.integers[i];
            ignored = kind == Kind::index && index == task.ignore_index;
            const bool known = index >= 0 && index < measure.num_classes;
            if (!known && !ignored && problem != nullptr && problem->row < 0) *problem = {row, -1, index, 0};
            if (!ignored) add(pick, kind == Kind::topk ? t.prob.reals[i] : 1, known ? index - task.first_class : -1);
        }
        for (size_t v = 0; v < q.size(); ++v) {
            q[v] = (1 - measure.smoothing) * q[v] + measure.smoothing / static_cast<double>(measure.num_classes);
            if (measure.weight != nullptr) q[v] *= weight.reals[v];
        }
        return ignored;
    }

    Row expected(int64_t row, const Doubles& q, bool ignored) const {
        Row r;
        r.ignored = ignored;
        r.total = {1, 0};
        if (ignored) return r;
        const bool wide = compute == Type::f64;
        const double u = wide ? 0x1p-53 : 0x1p-24, cap = task.softcap, tiny = wide ? 1e-300 : 1e-35;
        double peak = -infinity;
        for (int64_t v = 0; v < columns; ++v) {
            const double scaled = logits.reals[element(row, v)] / task.temperature, y = cap > 0 ? scaled / cap : 0, small = std::exp(-2 * std::fabs(y));
            r.d.push_back(cap > 0 ? cap * std::tanh(y) : scaled);
            r.slope.push_back(4 * small / ((1 + small) * (1 + small)) / task.temperature);
            r.error.push_back(u * 8 * std::min(std::fabs(y), 50.0));
            peak = r.d.back() > peak ? r.d.back() : peak;
        }
        const double of_sums = u * static_cast<double>(24 + (wide ? columns : std::min<int64_t>(columns, 512)));  // no more are added in a row
        const double of_peak = std::isfinite(peak) ? 0x1p-50 * std::fabs(peak) : 0;
        r.peak = {peak, of_peak + 24 * u * cap};
        r.total = r.score = r.tilt = {0, tiny};
        for (size_t v = 0; v < r.d.size(); ++v) {
            const double d = r.d[v] -= peak == -infinity ? 0 : peak, e = std::exp(d);
            const double error = r.error[v] += of_sums + of_peak + u * (4 * std::fabs(d) + 24 * cap);
            r.mass.want += q[v];
            r.mass.bound += q[v] * of_sums;
            r.total.want += e;
            if (q[v] != 0) r.score = {r.score.want + q[v] * d, r.score.bound + q[v] * error * (1 + std::fabs(d))};
            if (e == 0) continue;
            r.total.bound += e * error;
            r.tilt = {r.tilt.want + e * d, r.tilt.bound + e * error * (1 - d)};
        }
        const double total = r.total.want, relative = r.total.bound / total, tilt = r.tilt.want / total;
        r.log_total = std::log(total);
        r.loss = {r.mass.want * r.log_total - r.score.want, r.mass.bound * std::fabs(r.log_total) + r.mass.want * relative + r.score.bound};
        r.lse = {peak + r.log_total, relative + r.peak.bound};
        r.entropy = {r.log_total - tilt, relative * (1 - tilt) + r.tilt.bound / total};
        return r;
    }

    void check_grad(const Array& grad, int64_t row, const Row& r, const Doubles& q, double c, Value g_lse, double b) const {
        const double u = compute == Type::f64 ? 0x1p-53 : 0x1p-24, smallest = compute == Type::f64 ? 0x1p-1022 : 0x1p-126;
        const bool zero = r.ignored || (c == 0 && g_lse.want == 0 && b == 0);
        const double a = (c == 0 ? 0 : c * r.mass.want) + g_lse.want + (b == 0 ? 0 : b * r.entropy.want);
        const double a_bound = 16 * u * (std::fabs(a) + std::fabs(g_lse.want)) + std::fabs(c) * r.mass.bound + std::fabs(b) * r.entropy.bound + g_lse.bound;
        const double relative = r.total.bound / r.total.want, floor = 16 * smallest * (1 + std::fabs(a) + 1000 * std::fabs(b));
        for (size_t v = 0; v < q.size() && !zero; ++v) {
            const double logp = r.d[v] - r.log_total, p = std::exp(logp), tail = p == 0 || b == 0 ? 0 : b * logp, error = r.error[v] + relative;
            const double wanted = q[v] == 0 ? 0 : c * q[v], cancelled = picks > 0 ? 0x1p-50 * (std::fabs(a) + std::fabs(wanted)) : 0;
            double bound = std::fabs(wanted) * error + floor + cancelled;
            if (p > 0) bound += p * ((std::fabs(a) + std::fabs(tail) + std::fabs(b)) * error + a_bound);
            const Value value = {r.slope[v] * (p * (a + tail) - wanted), r.slope[v] * bound + floor};
            CHECK_VALUE("gradient", grad.reals[element(row, static_cast<int64_t>(v))], value.rounded_to(type));
        }
        for (int64_t v = 0; v < columns && zero; ++v) CHECK(grad.reals[element(row, v)] == 0);
    }

    RowTask task_of(Target& t, Results& results, const Doubles* record = nullptr) {
        results.record = Doubles(static_cast<size_t>(5 * rows), nan);
        if (record != nullptr) results.record = *record;
        for (Array* summary : {&results.loss, &results.lse, &results.entropy}) *summary = Array(draw, compute, {rows}, Use::plain);
        if (results.grad.length.empty()) results.grad = Array(draw, type, shape(), Use::written);
        RowTask given = task;
        given.logits = logits.matrix();
        given.grad = results.grad.matrix();
        given.picks = picks;
        if (kind != Kind::dense) given.index = t.index.matrix();
        if (kind != Kind::index) given.prob = t.prob.matrix();
        given.record = results.record.data();
        given.loss = results.loss.data();
        given.lse = results.lse.data();
        given.entropy = results.entropy.data();
        given.g_loss = g_loss.vector();
        given.g_lse = g_lse.vector();
        given.g_entropy = g_entropy.vector();
        given.scale = scale.vector();
        given.square_scale = square.vector();
        return given;
    }
