// The core under the sanitizers: drawn tasks on heap arrays of exactly the size they need, held against plain loops in
// double. How far a result may be off is computed beside it, from the roundings that the arithmetic of the task makes.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
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

constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t least_int = INT64_MIN, most_int = INT64_MAX;
constexpr Type real_types[] = {Type::f32, Type::f64, Type::bf16, Type::f16};
constexpr Type integer_types[] = {Type::i8, Type::i16, Type::i32, Type::i64, Type::u8, Type::u16, Type::u32, Type::u64};

std::atomic<int> failures{0};
thread_local std::string context, debug;

void failed(int line, const std::string& text) {
    if (failures++ < 20) std::fprintf(stderr, "core_test.cpp:%d: %s  [%s]\n", line, text.c_str(), context.c_str());
}
#define CHECK(condition) ((condition) ? void() : failed(__LINE__, #condition))

constexpr uint64_t hash_seed = 14695981039346656037u;
uint64_t hash(const void* data, size_t bytes, uint64_t digest) {
    for (size_t i = 0; i < bytes; ++i) digest = (digest ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211u;
    return digest;
}

bool same(const Problem& a, const Problem& b) {
    const bool prob = a.prob == b.prob || (std::isnan(a.prob) && std::isnan(b.prob));
    return a.row == b.row && (a.row < 0 || (a.column == b.column && a.index == b.index && prob));
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

// Roundoff of a storage type, and half its smallest number.
double roundoff(Type type) { return std::ldexp(1, type == Type::f64 ? -53 : type == Type::f32 ? -24 : type == Type::f16 ? -11 : -8); }
double underflow(Type type) { return type == Type::f64 ? 5e-324 : type == Type::f16 ? 0x1p-25 : 0x1p-134; }

struct Value {
    double want = 0, bound = 0;

    bool holds(double got) const {
        return std::isnan(want) ? std::isnan(got) : got == want || std::fabs(got - want) <= bound;
    }
    Value stored(Type type) const { return {want, bound + (std::fabs(want) + bound) * roundoff(type) + underflow(type)}; }
};

void check_value(int line, const char* what, double got, const Value& value) {
    if (value.holds(got)) return;
    char text[200];
    if (std::getenv("DEBUGCASE")) std::fprintf(stderr, "%s\n", debug.c_str());
    std::snprintf(text, sizeof(text), "%s is %.17g, want %.17g within %.3g", what, got, value.want, value.bound);
    failed(line, text);
}
#define CHECK_VALUE(what, got, value) check_value(__LINE__, what, got, value)

template <class Call>
auto by_integer(Type type, const Call& call) {
    switch (type) {
        case Type::i8: return call(int8_t{});
        case Type::i16: return call(int16_t{});
        case Type::i32: return call(int32_t{});
        case Type::u8: return call(uint8_t{});
        case Type::u16: return call(uint16_t{});
        case Type::u32: return call(uint32_t{});
        case Type::u64: return call(uint64_t{});
        default: return call(int64_t{});
    }
}

struct Layout {
    std::vector<int64_t> length, stride;
    int64_t size = 1, start = 0;

    int64_t place(int64_t element) const {  // of the element at this position in row-major order
        int64_t at = 0;
        for (size_t k = length.size(); k-- > 0; element /= length[k]) at += element % length[k] * stride[k];
        return at;
    }
    int64_t elements() const {
        int64_t product = 1;
        for (const int64_t n : length) product *= n;
        return product;
    }
};

enum class Use { plain, written, read };

// Half of them plain; else with axes permuted in memory, apart, padded, backwards or, if only read, expanded.
Layout draw_layout(Draw& draw, const std::vector<int64_t>& length, Use use) {
    Layout layout{length, std::vector<int64_t>(length.size()), 1, 0};
    std::vector<size_t> order(length.size());
    for (size_t k = 0; k < order.size(); ++k) order[k] = order.size() - 1 - k;
    const bool plain = use == Use::plain || draw.one_in(2);
    if (!plain && draw.one_in(2)) std::shuffle(order.begin(), order.end(), draw.bits);
    int64_t step = !plain && draw.one_in(4) ? 2 : 1;
    for (const size_t k : order) {
        layout.stride[k] = step;
        step = step * std::max<int64_t>(1, length[k]) + (!plain && draw.one_in(3) ? 3 : 0);
        if (!plain && use == Use::read && draw.one_in(5)) layout.stride[k] = 0;
        if (!plain && draw.one_in(8)) layout.stride[k] *= -1;
        if (length[k] > 0) layout.size += (length[k] - 1) * std::abs(layout.stride[k]);
        if (layout.stride[k] < 0 && length[k] > 0) layout.start += (length[k] - 1) * -layout.stride[k];
    }
    if (layout.elements() == 0) layout.size = layout.start = 0;
    return layout;
}

struct Array {
    Type type = Type::f32;
    Layout layout;
    int64_t lead = 0, bytes = 0;
    std::unique_ptr<unsigned char[]> memory;
    std::vector<unsigned char> before;

    Array() = default;
    Array(Draw& draw, Type type_, const std::vector<int64_t>& length, Use use = Use::read)
        : type(type_), layout(draw_layout(draw, length, use)), lead(draw.one_in(2) ? draw.below(4) : 0) {
        bytes = (lead + layout.size) * element_size(type);
        memory.reset(new unsigned char[static_cast<size_t>(bytes)]);
        std::memset(memory.get(), 0xff, static_cast<size_t>(bytes));  // NaN in every real type
    }
    void* data() const {
        return memory == nullptr || layout.size == 0 ? nullptr : memory.get() + (lead + layout.start) * element_size(type);
    }
    Matrix matrix() const { return {data(), type, layout.stride[0], layout.stride.size() > 2 ? layout.stride[2] : 0, layout.stride[1]}; }
    Vector vector() const { return {data(), type, data() == nullptr ? 0 : layout.stride[0]}; }
    unsigned char* byte(int64_t place) const { return static_cast<unsigned char*>(data()) + place * element_size(type); }

    template <class T>
    T raw(int64_t place) const {
        T value;
        std::memcpy(&value, byte(place), sizeof(T));
        return value;
    }
    double real(int64_t place) const {
        if (type == Type::f64) return raw<double>(place);
        if (type == Type::f32) return static_cast<double>(raw<float>(place));
        const uint32_t b = raw<uint16_t>(place);
        const int exponent = type == Type::bf16 ? static_cast<int>(b >> 7 & 255) : static_cast<int>(b >> 10 & 31);
        const int digits = type == Type::bf16 ? 7 : 10, bias = type == Type::bf16 ? 127 : 15, fraction = static_cast<int>(b & ((1u << digits) - 1));
        const bool last = exponent == 2 * bias + 1;
        const double size = last ? (fraction == 0 ? infinity : nan)
                                 : std::ldexp(exponent == 0 ? fraction : fraction + (1 << digits), std::max(exponent, 1) - bias - digits);
        return (b & 0x8000u) != 0 ? -size : size;
    }
    void set_real(int64_t place, double x) const {  // rounded towards zero in the half types
        if (type == Type::f64) return static_cast<void>(std::memcpy(byte(place), &x, 8));
        const float single = static_cast<float>(x);
        if (type == Type::f32) return static_cast<void>(std::memcpy(byte(place), &single, 4));
        uint32_t b;
        std::memcpy(&b, &single, 4);
        uint16_t half = static_cast<uint16_t>(b >> 16);
        if (type == Type::f16) {
            int exponent = 0;
            const double size = std::fabs(x), digits = std::frexp(std::isfinite(x) ? size : 0, &exponent) * 2048;
            half = std::isnan(x) ? 0x7e00 : size >= 65504 ? (std::isinf(x) ? 0x7c00 : 0x7bff) : 0;
            if (half == 0 && size < 0x1p-14) half = static_cast<uint16_t>(size * 0x1p24);
            else if (half == 0) half = static_cast<uint16_t>((exponent + 13) * 1024 + static_cast<int>(digits));
            half = static_cast<uint16_t>(half | (b >> 16 & 0x8000u));
        }
        std::memcpy(byte(place), &half, 2);
    }
    int64_t integer(int64_t place) const {
        return by_integer(type, [&]<class T>(T) { return static_cast<int64_t>(raw<T>(place)); });
    }
    void set_integer(int64_t place, int64_t value) const {
        by_integer(type, [&]<class T>(T) {
            const T cast = static_cast<T>(value);
            std::memcpy(byte(place), &cast, sizeof(T));
        });
    }
    void seal() { before.assign(memory.get(), memory.get() + bytes); }
    bool unchanged() const { return before.empty() || std::memcmp(before.data(), memory.get(), before.size()) == 0; }
    bool gaps_unchanged() const {  // bytes of no element are as they were made
        std::vector<bool> used(static_cast<size_t>(bytes));
        const int64_t first = (lead + layout.start) * element_size(type);
        for (int64_t i = 0, n = layout.elements(); i < n; ++i) used[static_cast<size_t>(first + layout.place(i) * element_size(type))] = true;
        for (int64_t i = 0; i < bytes; i += element_size(type)) {
            for (int64_t k = i; !used[static_cast<size_t>(i)] && k < i + element_size(type); ++k) {
                if (memory[static_cast<size_t>(k)] != 0xff) return false;
            }
        }
        return true;
    }
};

enum class Kind { index, topk, dense };

struct Target {
    Kind kind = Kind::index;
    Array index, prob;
    Problem problem;
};

// What the record, the summaries and the factors of the gradient of a row must be.
struct Row {
    Value peak, total, score, mass, tilt, loss, lse, entropy;
    std::vector<double> d, d_bound, slope, slope_bound;
    double log_total = 0;
    bool ignored = false;
};

struct Case {
    Draw draw;
    Type type, compute;
    int64_t rows, columns, inner = 1;
    RowTask task;
    Measure measure;
    Array logits, weight, g_loss, g_lse, g_entropy, scale, square;
    Target target, garbage;
    std::vector<double> z;

    Case(uint64_t seed, Type type_, int64_t rows_, int64_t columns_)
        : draw{std::mt19937_64(seed)}, type(type_), compute(type == Type::f64 ? Type::f64 : Type::f32), rows(rows_), columns(columns_) {
        if (rows > 0 && draw.one_in(3)) {
            for (inner = rows < 4 ? rows : 14; rows % inner != 0;) --inner;
        }
        task.rows = rows;
        task.columns = columns;
        task.inner_rows = inner;
        task.temperature = draw.of({1.0, 1.0, 0.7, 3.0});
        task.softcap = draw.of({0.0, 0.0, 5.0, 30.0});
        task.first_class = draw.of({0, 0, 5});
        task.ignore_index = draw.of({int64_t{-100}, int64_t{0}, least_int, most_int});
        measure.smoothing = draw.of({0.0, 0.0, 0.1, 1.0});
        measure.num_classes = task.first_class + columns + draw.of({0, 0, 7});
        draw_logits();
        target.kind = draw.of({Kind::index, Kind::topk, Kind::dense});
        draw_target(target, nullptr);
        garbage.kind = target.kind;
        draw_target(garbage, &target);
        if (draw.one_in(2)) {
            weight = draw_vector(columns, 0, 3);
            measure.weight = weight.data();
            measure.weight_type = weight.type;
            measure.weight_stride = weight.layout.stride[0];
        }
        for (Array* cotangent : {&g_loss, &g_lse, &g_entropy, &scale, &square}) {
            if (!draw.one_in(3)) *cotangent = draw_vector(rows, -2, 2);
        }
        for (Array* input : inputs()) input->seal();
    }

    std::vector<Array*> inputs() {
        return {&logits, &weight, &g_loss, &g_lse, &g_entropy, &scale, &square, &target.index, &target.prob, &garbage.index, &garbage.prob};
    }

    std::vector<int64_t> shape() const { return {rows / inner, columns, inner}; }
    int64_t place(const Array& a, int64_t row, int64_t column) const {
        return row / inner * a.layout.stride[0] + column * a.layout.stride[1] + row % inner * a.layout.stride[2];
    }
    static int64_t pick_place(const Array& a, int64_t row, int64_t pick) {
        return row * a.layout.stride[0] + pick * a.layout.stride[1];
    }

    Array draw_vector(int64_t size, double low, double high) {
        Array vector(draw, draw.of(real_types), {size});
        for (int64_t i = 0; i < size; ++i) {
            vector.set_real(i * vector.layout.stride[0], draw.one_in(6) ? 0 : low + (high - low) * draw.uniform());
        }
        return vector;
    }

    void draw_logits() {
        logits = Array(draw, type, shape());
        const double deviation = draw.of({0.0, 0.1, 1.0, 5.0, 30.0}), mean = draw.of({0.0, 0.0, -3e3, 1e4});
        const bool special = draw.one_in(4);
        for (int64_t row = 0; row < rows; ++row) {
            const bool nothing = special && draw.one_in(8), tame = draw.one_in(2);
            for (int64_t v = 0; v < columns; ++v) {
                const double normal = 2 * (draw.uniform() + draw.uniform() + draw.uniform() - 1.5);
                double x = nothing ? -infinity : mean + deviation * normal;
                if (special && !tame && draw.one_in(columns)) x = draw.of({nan, infinity, -infinity, -infinity, -0.0});
                logits.set_real(place(logits, row, v), x);
            }
        }
        for (int64_t row = 0; row < rows; ++row) {
            for (int64_t v = 0; v < columns; ++v) z.push_back(logits.real(place(logits, row, v)));
        }
    }

    // Like `clean`, if it is given, but for entries that are wrong.
    void draw_target(Target& t, const Target* clean) {
        const auto wrong = [&] { return clean != nullptr && draw.one_in(3); };
        if (t.kind == Kind::dense) {
            t.prob = Array(draw, clean == nullptr ? draw.of(real_types) : clean->prob.type, shape());
            for (int64_t row = 0; row < rows; ++row) {
                const bool wrong_row = wrong();
                for (int64_t v = 0; v < columns; ++v) {
                    double prob = clean != nullptr ? clean->prob.real(place(clean->prob, row, v)) : draw.one_in(3) ? 0 : draw.uniform() * 2 / static_cast<double>(columns);
                    if (wrong_row && draw.one_in(columns)) prob = draw.of({nan, -1.0, infinity, -infinity});
                    t.prob.set_real(place(t.prob, row, v), prob);
                }
            }
            for (int64_t row = 0; row < rows && t.problem.row < 0; ++row) {
                for (int64_t v = columns; v-- > 0;) {
                    const double prob = t.prob.real(place(t.prob, row, v));
                    if (!(prob >= 0 && prob < infinity)) t.problem = {row, v, 0, prob};
                }
            }
            return;
        }
        const bool topk = t.kind == Kind::topk;
        const int64_t picks = clean != nullptr ? clean->index.layout.length[1] : !topk ? 1 : rows <= 3 && draw.one_in(3) ? 300 : draw.of({0, 1, 2, 5});
        t.index = Array(draw, clean == nullptr ? draw.of(integer_types) : clean->index.type, {rows, picks});
        if (topk) t.prob = Array(draw, clean == nullptr ? draw.of(real_types) : clean->prob.type, {rows, picks});
        const int64_t most = by_integer(t.index.type, []<class T>(T) { return static_cast<int64_t>(std::min<uint64_t>(std::numeric_limits<T>::max(), most_int)); });
        for (int64_t i = 0; i < rows * picks; ++i) {
            const int64_t row = i / picks, pick = i % picks, num_classes = measure.num_classes;
            int64_t index = draw.below(std::min(num_classes, most)), at = pick_place(t.index, row, pick);
            if (clean != nullptr) index = clean->index.integer(pick_place(clean->index, row, pick));
            else if (!topk && draw.one_in(4) && task.ignore_index <= most) index = task.ignore_index;
            if (wrong()) index = draw.of({least_int, most_int, least_int + 1, int64_t{-1}, int64_t{1} << 40, num_classes, num_classes + 1, task.first_class - 1});
            t.index.set_integer(at, index);
            if (!topk) continue;
            double prob = clean != nullptr ? clean->prob.real(pick_place(clean->prob, row, pick)) : draw.uniform();
            if (wrong() && draw.one_in(2)) prob = draw.of({nan, -1.0, infinity});
            t.prob.set_real(pick_place(t.prob, row, pick), prob);
        }
        for (int64_t i = 0; i < rows * picks && t.problem.row < 0; ++i) {
            const int64_t row = i / picks, pick = i % picks, index = t.index.integer(pick_place(t.index, row, pick));
            const double prob = topk ? t.prob.real(pick_place(t.prob, row, pick)) : 1;
            const bool ignored = !topk && index == task.ignore_index;
            if ((index < 0 || index >= measure.num_classes) && !ignored) t.problem = {row, -1, index, 0};
            else if (!(prob >= 0 && prob < infinity)) t.problem = {row, pick, 0, prob};
        }
    }

    // The target measure of a row in q; returns whether the row is ignored.
    bool read_measure(const Target& t, int64_t row, std::vector<double>& q) const {
        q.assign(static_cast<size_t>(columns), 0);
        bool ignored = false;
        if (t.kind == Kind::dense) {
            for (int64_t v = 0; v < columns; ++v) q[static_cast<size_t>(v)] = t.prob.real(place(t.prob, row, v));
        }
        for (int64_t pick = 0; t.kind != Kind::dense && pick < t.index.layout.length[1]; ++pick) {
            const int64_t index = t.index.integer(pick_place(t.index, row, pick));
            if (t.kind == Kind::index && index == task.ignore_index) ignored = true;
            else if (index >= task.first_class && index < task.first_class + columns) {
                q[static_cast<size_t>(index - task.first_class)] += t.kind == Kind::index ? 1 : t.prob.real(pick_place(t.prob, row, pick));
            }
        }
        for (int64_t v = 0; v < columns; ++v) {
            double& measured = q[static_cast<size_t>(v)];
            measured = (1 - measure.smoothing) * measured + measure.smoothing / static_cast<double>(measure.num_classes);
            if (measure.weight != nullptr) measured *= weight.real(v * measure.weight_stride);
        }
        return ignored;
    }

    Row expected(int64_t row, const std::vector<double>& q, bool ignored) const {
        Row r;
        r.ignored = ignored;
        r.peak.want = -infinity;
        const double u = roundoff(compute), cap = task.softcap, tiny = compute == Type::f64 ? 1e-300 : 1e-35;
        const bool wide = compute == Type::f64;
        const double sum_bound = u * static_cast<double>(8 + (wide ? columns : std::min<int64_t>(columns, 512)));
        for (int64_t v = 0; v < columns; ++v) {
            const double scaled = z[static_cast<size_t>(row * columns + v)] / task.temperature, y = cap > 0 ? scaled / cap : 0, small = std::exp(-2 * std::fabs(y));
            r.d.push_back(cap > 0 ? cap * std::tanh(y) : scaled);
            r.slope.push_back(4 * small / ((1 + small) * (1 + small)) / task.temperature);
            r.slope_bound.push_back(u * (16 + 8 * std::min(std::fabs(y), 1e3)));
            if (r.d.back() > r.peak.want) r.peak.want = r.d.back();
        }
        r.peak.bound = 24 * u * cap + 0x1p-50 * std::fabs(r.peak.want);
        for (size_t v = 0; v < r.d.size(); ++v) {
            const double d = r.peak.want == -infinity ? r.d[v] : r.d[v] - r.peak.want, e = std::exp(d);
            r.d[v] = d;
            r.d_bound.push_back(u * (4 * std::fabs(d) + 8 + 24 * cap + (wide && r.peak.want > -infinity ? 8 * std::fabs(r.peak.want) : 0)));
            r.total.want += e;
            r.mass.want += q[v];
            r.mass.bound += (sum_bound + 8 * u) * q[v];
            if (q[v] != 0) {
                r.score.want += q[v] * d;
                r.score.bound += q[v] * (r.d_bound[v] + std::fabs(d) * (sum_bound + 8 * u));
            }
            if (e == 0) continue;
            r.total.bound += e * (r.d_bound[v] + sum_bound);
            r.tilt.want += e * d;
            r.tilt.bound += e * (1 - d) * (r.d_bound[v] + sum_bound);
        }
        if (ignored) {
            r.peak = r.score = r.mass = r.tilt = {};
            r.total = {1, 0};
            return r;
        }
        for (Value* value : {&r.total, &r.score, &r.tilt}) value->bound += tiny;
        const double total = r.total.want, relative = r.total.bound / total, tilt = r.tilt.want / total;
        r.log_total = std::log(total);
        r.loss.want = r.mass.want * r.log_total - r.score.want;
        r.loss.bound = r.mass.bound * std::fabs(r.log_total) + r.mass.want * (relative + 4 * u * std::fabs(r.log_total)) + r.score.bound;
        r.lse = {r.peak.want + r.log_total, relative + r.peak.bound};
        r.entropy = {r.log_total - tilt, relative * (1 - tilt) + r.tilt.bound / total + 4 * u * (r.log_total - tilt)};
        return r;
    }

    double cotangent(const Array& g, int64_t row) const { return g.data() == nullptr ? 0 : g.real(row * g.layout.stride[0]); }

    void check_grad(const Array& grad, int64_t row, const Row& r, const std::vector<double>& q, const double (&g)[3], double g_lse_bound) const {
        const double u = roundoff(compute), b = -g[2], c = g[0];
        const bool zero = r.ignored || (g[0] == 0 && g[1] == 0 && g[2] == 0);
        const double from_loss = c == 0 ? 0 : c * r.mass.want, from_entropy = b == 0 ? 0 : b * r.entropy.want;
        const double a = from_loss + g[1] + from_entropy;
        const double a_bound = std::fabs(c) * r.mass.bound + std::fabs(b) * r.entropy.bound + g_lse_bound + 8 * u * (std::fabs(from_loss) + std::fabs(g[1]) + std::fabs(from_entropy));
        const double tiny = 16 * (1 + std::fabs(a) + 1000 * std::fabs(b)) * (compute == Type::f64 ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min());
        for (size_t v = 0; v < q.size(); ++v) {
            const double got = grad.real(place(grad, row, static_cast<int64_t>(v)));
            const double logp = r.d[v] - r.log_total, p = std::exp(logp), tail = p == 0 || b == 0 ? 0 : b * logp;
            const double target = q[v] == 0 ? 0 : c * q[v], size = p == 0 ? 0 : p * (std::fabs(a) + std::fabs(tail));
            double bound = 16 * u * (std::fabs(target) + size) + r.slope_bound[v] * (std::fabs(target) + size);
            if (p != 0) bound += size * (r.d_bound[v] + r.total.bound / r.total.want) + p * (a_bound + std::fabs(b) * (r.d_bound[v] + r.total.bound / r.total.want));
            if (this->target.kind != Kind::dense) bound += 0x1p-50 * (std::fabs(a) + std::fabs(target));
            const Value want = {r.slope[v] * (p * (a + tail) - target), r.slope[v] * bound + tiny};
            char t_[400]; std::snprintf(t_, 400, "v %zu d %g z %g logp %g q %g a %g b %g c %g slope %g T %g cap %g mass %g ent %g size %g bound %g eps %g ty %d kind %d lt %g peak %g", v, r.d[v], z[row*columns+v], logp, q[v], a, b, c, r.slope[v], task.temperature, task.softcap, r.mass.want, r.entropy.want, size, bound, measure.smoothing, (int)this->target.index.type, (int)this->target.kind, r.log_total, r.peak.want); debug=t_;
            CHECK_VALUE("gradient", got, zero ? Value{} : want.stored(type));
        }
    }

    // Runs the three functions on the clean target and on garbage, checks what they wrote and returns a digest of it.
    uint64_t run() {
        struct Results {
            std::vector<double> record;
            Array summary[3];
        } two_steps, one_step, no_use;
        const Array grad(draw, type, shape(), Use::written), fused(draw, type, shape(), Use::written), skipped(draw, type, shape(), Use::written);
        const auto task_of = [&](const Target& t, Results& results, const Array& to) {
            RowTask given = task;
            given.logits = logits.matrix();
            given.grad = to.matrix();
            if (t.kind != Kind::dense) given.index = t.index.matrix();
            if (t.kind != Kind::dense) given.picks = t.index.layout.length[1];
            if (t.kind != Kind::index) given.prob = t.prob.matrix();
            results.record = std::vector<double>(static_cast<size_t>(5 * rows), nan);
            for (Array& summary : results.summary) summary = Array(draw, compute, {rows}, Use::plain);
            given.record = results.record.data();
            given.loss = results.summary[0].data();
            given.lse = results.summary[1].data();
            if (!draw.one_in(4)) given.entropy = results.summary[2].data();
            given.g_loss = g_loss.vector();
            given.g_lse = g_lse.vector();
            given.g_entropy = g_entropy.vector();
            given.scale = scale.vector();
            given.square_scale = square.vector();
            return given;
        };
        CHECK(same(row_stats(task_of(garbage, no_use, skipped), measure), garbage.problem));
        CHECK(same(row_fused(task_of(garbage, no_use, skipped), measure), garbage.problem));
        RowTask given = task_of(target, two_steps, grad);
        CHECK(same(row_stats(given, measure), target.problem));
        if (target.problem.row >= 0) return 0;
        row_grad(given, measure);
        RowTask wrong = task_of(garbage, no_use, skipped);
        wrong.record = given.record;
        row_grad(wrong, measure);
        for (const Array* input : inputs()) CHECK(input->unchanged());
        const auto& stride = logits.layout.stride;
        const bool in_place = std::count(stride.begin(), stride.end(), 0) == 0 && draw.one_in(2);
        const Array& to = in_place ? logits : fused;
        CHECK(same(row_fused(task_of(target, one_step, to), measure), Problem{}));
        for (const Array* output : {&grad, &to, &skipped}) CHECK(output->gaps_unchanged());

        std::vector<double> q, q_garbage;
        for (int64_t row = 0; row < rows; ++row) {
            const Row r = expected(row, q, read_measure(target, row, q));
            for (const Results* results : {&two_steps, &one_step}) {
                const Value* const fields[] = {&r.peak, &r.total, &r.score, &r.mass, &r.tilt};
                const char* const names[] = {"peak", "total", "score", "mass", "tilt"};
                for (int64_t k = 0; k < 5; ++k) CHECK_VALUE(names[k], results->record[static_cast<size_t>(k * rows + row)], *fields[k]);
                CHECK_VALUE("loss", results->summary[0].real(row), r.loss.stored(compute));
                CHECK_VALUE("lse", results->summary[1].real(row), r.lse.stored(compute));
            }
            if (given.entropy != nullptr) CHECK_VALUE("entropy", two_steps.summary[2].real(row), r.entropy.stored(compute));
            const double g[] = {cotangent(g_loss, row), cotangent(g_lse, row), cotangent(g_entropy, row)};
            check_grad(grad, row, r, q, g, 0);
            const double of_square = cotangent(square, row);
            const double g_fused[] = {cotangent(scale, row), of_square == 0 ? 0 : 2 * of_square * r.lse.want, 0};
            check_grad(to, row, r, q, g_fused, 2 * std::fabs(of_square) * r.lse.bound);
            Row unpicked = r;
            unpicked.ignored = read_measure(garbage, row, q_garbage);
            const bool finite = std::all_of(q_garbage.begin(), q_garbage.end(), [](double x) { return std::isfinite(x); });
            if (finite && (!r.ignored || unpicked.ignored)) check_grad(skipped, row, unpicked, q_garbage, g, 0);
        }
        uint64_t digest = hash(two_steps.record.data(), two_steps.record.size() * sizeof(double), hash_seed);
        for (const Array* output : {&grad, &to}) digest = hash(output->memory.get(), static_cast<size_t>(output->bytes), digest);
        return digest;
    }
};

// One drawn task of the binary pair; returns a digest of what it wrote.
uint64_t run_binary(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    BinaryTask task;
    task.probabilities = draw.one_in(2);
    task.axes = static_cast<int>(draw.below(5));
    task.size = 1;
    std::vector<int64_t> length;
    for (int k = 0; k < task.axes; ++k) {
        length.push_back(draw.one_in(12) ? 0 : k == task.axes / 2 ? draw.of({1, 511, 512, 513, 4095, 4097, 9001}) : draw.of({1, 1, 2, 3}));
        task.shape[k] = length.back();
        task.size *= length.back();
    }
    const Type type = draw.of(real_types), compute = type == Type::f64 ? Type::f64 : Type::f32;
    const bool wrong_inputs = task.probabilities && draw.one_in(2), special = draw.one_in(3);
    Array arrays[5];  // input, target, weight, pos_weight, cotangent
    BinaryTask::Operand* const operands[] = {&task.input, &task.target, &task.weight, &task.pos_weight, &task.cotangent};
    for (int k = 0; k < 5; ++k) {
        if ((k == 2 || k == 3) && draw.one_in(2)) continue;
        Array& array = arrays[k] = Array(draw, k == 0 ? type : draw.of(real_types), length, Use::read);
        for (int64_t i = 0; i < task.size; ++i) {
            double x = draw.uniform() * (k < 2 ? 1 : 3);
            if (k == 0 && task.probabilities) x = 0.02 + 0.96 * x;
            if (k == 0 && !task.probabilities) x = 40 * (x - 0.5);
            if (k == 0 && special && draw.one_in(50)) x = task.probabilities ? draw.of({0.0, -0.0, 1.0}) : draw.of({0.0, nan, infinity, -infinity, 300.0, -800.0});
            if (k == 0 && wrong_inputs && draw.one_in(task.size)) x = draw.of({-0.25, 1.25, -1e-3, nan, infinity, -infinity, 3.0});
            if (k == 1 && draw.one_in(3)) x = draw.of({0.0, 1.0});
            array.set_real(array.layout.place(i), x);
        }
        array.seal();
        bool contiguous = true;
        int64_t expected = 1;
        for (int axis = task.axes; axis-- > 0; expected *= task.shape[axis]) {
            operands[k]->stride[axis] = array.layout.stride[static_cast<size_t>(axis)];
            contiguous = contiguous && (task.shape[axis] <= 1 || operands[k]->stride[axis] == expected);
        }
        *operands[k] = {array.data(), array.type, {}, contiguous};
        std::copy(array.layout.stride.begin(), array.layout.stride.end(), operands[k]->stride);
    }
    const int64_t blocks = (task.size + binary_block - 1) / binary_block;
    const Array loss(draw, draw.of(real_types), {task.size}, Use::plain), grad(draw, draw.of(real_types), {task.size}, Use::plain);
    std::vector<double> sums(static_cast<size_t>(blocks), nan);
    const bool stores = !draw.one_in(3);
    task.out = stores ? loss.data() : nullptr;
    task.out_type = loss.type;
    task.block_sums = sums.data();
    const int64_t wrong = binary_loss(task);
    task.out = grad.data();
    task.out_type = grad.type;
    binary_grad(task);

    const double u = 32 * roundoff(compute), tiny = 100 * (compute == Type::f64 ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min());
    std::vector<Value> want_sums(sums.size());
    int64_t want_wrong = -1;
    for (int64_t i = 0; i < task.size; ++i) {
        double of[] = {0, 0, 1, 1, 1};
        for (int k = 0; k < 5; ++k) {
            if (arrays[k].data() != nullptr) of[k] = arrays[k].real(arrays[k].layout.place(i));
            if (compute == Type::f32) of[k] = static_cast<double>(static_cast<float>(of[k]));
        }
        const auto [x, t, weight, pos_weight, cotangent] = of;
        const bool valid = !task.probabilities || (x >= 0 && x <= 1);
        if (!valid && want_wrong < 0) want_wrong = i;
        const double tail = std::log1p(std::exp(-std::fabs(x)));
        const double of_one = task.probabilities ? -std::log(x) : (x < 0 ? -x : 0) + tail;
        const double of_zero = task.probabilities ? -std::log1p(-x) : (x > 0 ? x : 0) + tail;
        const double slope_one = task.probabilities ? 1 / x : 1 / (1 + std::exp(x));
        const double slope_zero = task.probabilities ? 1 / (1 - x) : 1 / (1 + std::exp(-x));
        const double left = t == 0 ? 0 : pos_weight * t * of_one, right = t == 1 ? 0 : (1 - t) * of_zero;
        const double down = t == 0 ? 0 : pos_weight * t * slope_one, up = t == 1 ? 0 : (1 - t) * slope_zero;
        const Value want = {weight * (left + right), weight * (left + right) * u + tiny};
        const Value want_grad = {weight * cotangent * (up - down), std::fabs(weight * cotangent) * (up + std::fabs(down)) * u + tiny};
        if (valid && stores) CHECK_VALUE("binary loss", loss.real(i), want.stored(loss.type));
        if (valid) CHECK_VALUE("binary gradient", grad.real(i), want_grad.stored(grad.type));
        Value& sum = want_sums[static_cast<size_t>(i / binary_block)];
        sum = {sum.want + want.want, sum.bound + want.bound * 32};
    }
    CHECK(wrong == want_wrong);
    for (size_t k = 0; k < sums.size() && want_wrong < 0; ++k) CHECK_VALUE("block sum", sums[k], want_sums[k]);
    for (const Array& array : arrays) CHECK(array.unchanged());
    return hash(grad.memory.get(), static_cast<size_t>(grad.bytes), hash(sums.data(), sums.size() * sizeof(double), hash_seed));
}

std::atomic<int> lent_calls{0};

// The least obliging pool: ranges of one, backwards, from two threads.
int32_t one_by_one(int64_t begin, int64_t end, int64_t, Body body, void* context) {
    ++lent_calls;
    const auto every_other = [=](int64_t last) {
        for (int64_t i = last; i >= begin; i -= 2) body(i, i + 1, context);
    };
    std::thread other(every_other, end - 2);
    every_other(end - 1);
    other.join();
    return 0;
}

int32_t refuse(int64_t, int64_t, int64_t, Body, void*) {
    ++lent_calls;
    return 1;
}

std::vector<uint64_t> sweep(uint64_t first_seed, const std::vector<int64_t>& all_rows, const std::vector<int64_t>& all_columns, int repeats) {
    std::vector<uint64_t> digests;
    for (const Type type : real_types) {
        for (const int64_t rows : all_rows) {
            for (const int64_t columns : all_columns) {
                for (int repeat = 0; repeat < repeats; ++repeat) {
                    const uint64_t seed = first_seed + digests.size();
                    context = "type " + std::to_string(static_cast<int>(type)) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", seed " + std::to_string(seed);
                    digests.push_back(Case(seed, type, rows, columns).run());
                }
            }
        }
    }
    return digests;
}

std::vector<uint64_t> sweep_binary(uint64_t first_seed, int repeats) {
    std::vector<uint64_t> digests;
    for (int repeat = 0; repeat < repeats; ++repeat) {
        const uint64_t seed = first_seed + digests.size();
        context = "binary, seed " + std::to_string(seed);
        digests.push_back(run_binary(seed));
    }
    return digests;
}

// A gradient large enough to be put on huge pages, all zero because its cotangents are.
void check_large_grad() {
    constexpr int64_t rows = 600, columns = 4001;
    const std::unique_ptr<float[]> logits(new float[rows * columns]()), grad(new float[rows * columns]);
    std::vector<double> record(5 * rows, 1);
    RowTask task;
    task.rows = rows;
    task.columns = columns;
    task.logits = {logits.get(), Type::f32, columns, 0, 1};
    task.grad = {grad.get(), Type::f32, columns, 0, 1};
    task.prob = task.logits;
    task.record = record.data();
    row_grad(task, {});
    CHECK(std::all_of(grad.get(), grad.get() + rows * columns, [](float x) { return x == 0; }));
}

}  // namespace

int main() {
    try {
        std::printf("instruction set %s\n", isa().c_str());
    } catch (const std::invalid_argument& error) {
        std::printf("%s\n", error.what());
        return 77;
    }
    const std::vector<int64_t> columns = {0, 1, 2, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097};
    (void)sweep(1, {0, 1, 2, 3}, columns, 12);
    (void)sweep_binary(1, 400);
    const auto own = sweep(10000, {70}, columns, 3), own_large = sweep(20000, {40}, {16411}, 1);
    const auto own_binary = sweep_binary(1, 60);
    for (const ParallelFor lent : {&one_by_one, &refuse}) {
        lend_threads(lent);
        lent_calls = 0;
        CHECK(threads_are_lent());
        CHECK(sweep(10000, {70}, columns, 3) == own);
        CHECK(sweep(20000, {40}, {16411}, 1) == own_large);
        CHECK(sweep_binary(1, 60) == own_binary);
        CHECK(lent_calls > 100);
    }
    std::vector<std::thread> threads;
    for (uint64_t k = 0; k < 4; ++k) {
        threads.emplace_back([=, &columns] {
            (void)sweep(30000 + 1000 * (k % 2), {2, 70}, columns, 1);
            (void)sweep_binary(1000 * k, 30);
        });
    }
    for (auto& thread : threads) thread.join();
    lend_threads(nullptr);
    check_large_grad();
    std::printf("%d failures\n", failures.load());
    return failures == 0 ? 0 : 1;
}
