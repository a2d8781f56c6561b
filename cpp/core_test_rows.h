// A drawn task of the row functions: what it is, what its results must be, and how far off they may be.
#pragma once

#include "core_test.h"

namespace {

enum class Kind { index, topk, dense };

struct Target {
    Array index, prob;
    Problem problem;
};

bool operator==(const Problem& a, const Problem& b) {
    const bool prob = a.prob == b.prob || (std::isnan(a.prob) && std::isnan(b.prob));
    return a.row == b.row && (a.row < 0 || (a.column == b.column && a.index == b.index && prob));
}

struct Results {
    Doubles record;
    Array outputs[3], grad;
};

// Expected results of a row: the fields of its record, then loss, lse and entropy. Each may be off by `size` times
// `error`.
constexpr const char* result_names[] = {"peak", "total", "target_score", "mass", "tilt", "loss", "lse", "entropy"};
constexpr size_t fields = record_fields, results_of_row = std::size(result_names);
constexpr size_t mass_at = 3, lse_at = fields + 1, entropy_at = fields + 2;
static_assert(results_of_row == fields + 3);

struct Row {
    double want[results_of_row] = {0, 1}, size[results_of_row] = {}, log_total = 0, error = 0;
    bool ignored = false;
    Doubles d, slope;
};

struct Rows {
    Draw draw;
    Type type, compute;
    int64_t rows, columns, inner = 1;
    Kind kind;
    RowTask task;
    Measure measure;
    Array logits, weight, row_temperature,
        g[5];  // g: cotangents of loss, lse and entropy, then of the fused loss and lse^2
    Target target, garbage;

    Rows(uint64_t seed, Type type_, int64_t rows_, int64_t columns_)
        : draw{std::mt19937_64(seed)}, type(type_), compute(type == Type::f64 ? Type::f64 : Type::f32), rows(rows_),
          columns(columns_) {
        if (rows > 0 && draw.one_in(3)) inner = rows < 4 || draw.one_in(2) ? rows : rows / 5;
        kind = draw.of({Kind::index, Kind::topk, Kind::dense});
        task.rows = rows;
        task.columns = columns;
        task.inner_rows = inner;
        task.picks = kind == Kind::dense                             ? 0
                     : kind == Kind::index                           ? 1
                     : rows <= 3 && columns <= 513 && draw.one_in(3) ? 300
                                                                     : draw.of({0, 1, 2, 5});
        task.temperature = draw.of({1.0, 1.0, 0.7, 3.0});
        task.softcap = draw.of({0.0, 0.0, 5.0, 30.0});
        task.first_class = draw.of({0, 0, 5});
        task.ignore_index = draw.of({int64_t{-100}, int64_t{1}, INT64_MIN, INT64_MAX});
        measure.smoothing = draw.of({0.0, 0.0, 0.1, 1.0});
        measure.num_classes = task.first_class + columns + draw.of({0, 0, 7});
        const double deviation = draw.of({0.0, 0.1, 1.0, 5.0, 30.0}), mean = draw.of({0.0, 0.0, -3e3, 1e4});
        const int64_t special = draw.below(6), odd = draw.below(3 * rows);
        logits = Array(draw, type, shape(), Use::read).fill([&, i = int64_t{0}]() mutable {
            const bool is_odd = i / (columns * inner) * inner + i % inner == odd;
            ++i;
            if (special == 1 && is_odd) return -infinity;
            if (special == 2 && is_odd && draw.one_in(columns)) return draw.of({nan, infinity, -infinity});
            if (special == 3 && draw.one_in(20)) return draw.of({-infinity, -0.0});
            return mean + 2 * deviation * (draw.uniform() + draw.uniform() + draw.uniform() - 1.5);
        });
        const Type index_type = draw.of(integer_types), prob_type = draw.of(real_types);
        draw_target(target, nullptr, index_type, prob_type);
        draw_target(garbage, &target, index_type, prob_type);
        const auto vector = [&](int64_t size, double low, double high) {
            return Array(draw, draw.of(real_types), {size}, Use::read).fill([&] {
                return draw.one_in(6) ? 0 : low + (high - low) * draw.uniform();
            });
        };
        if (draw.one_in(2)) {
            weight = vector(columns, 0, 3);
            measure = {weight.data(), weight.type, weight.stride[0], measure.smoothing, measure.num_classes};
        }
        Vector* const cotangents[] = {&task.g_loss, &task.g_lse, &task.g_entropy, &task.loss_scale,
                                      &task.lse_squared_scale};
        for (int k = 0; k < 5; ++k) {
            g[k] = vector(draw.one_in(3) ? 0 : rows, -2, 2);
            *cotangents[k] = g[k].vector();
            g[k].reals.resize(static_cast<size_t>(rows));
        }
        task.logits = logits.matrix();
        if (draw.one_in(3)) {
            row_temperature = Array(draw, draw.of(real_types), {rows}, Use::read).fill([&] {
                return draw.of({1.0, 0.7, 3.0, 0.25 + draw.uniform()});
            });
            task.row_temperature = row_temperature.vector();
            task.temperature = nan;  // which nobody is to read
        }
    }

    double temperature_of(int64_t row) const {
        return task.row_temperature.data == nullptr ? task.temperature
                                                    : row_temperature.reals[static_cast<size_t>(row)];
    }

    Integers shape() const { return {rows / inner, columns, inner}; }
    size_t element(int64_t row, size_t v) const {
        return static_cast<size_t>((row / inner * columns + static_cast<int64_t>(v)) * inner + row % inner);
    }

    // The same as `clean`, if it is given, but for entries that are wrong.
    void draw_target(Target& t, const Target* clean, Type index_type, Type prob_type) {
        const int64_t classes = measure.num_classes;
        if (kind != Kind::dense) {
            const int64_t most =
                std::min(classes, int64_t{1} << (8 * std::min<int64_t>(element_size(index_type), 4) - 1));
            const bool is_signed = index_type < Type::u8;
            const bool holds = is_signed && (element_size(index_type) == 8 || task.ignore_index == -100);
            const bool ignores = kind == Kind::index && (task.ignore_index == 1 || holds);
            t.index = Array(draw, index_type, {rows, task.picks}, Use::read).fill([&, i = size_t{0}]() mutable {
                if (clean == nullptr) return ignores && draw.one_in(4) ? task.ignore_index : draw.below(most);
                const int64_t wrong = draw.of({INT64_MIN, INT64_MIN + 1, INT64_MAX, int64_t{-1}, int64_t{1} << 40,
                                               classes, task.first_class - 1});
                return draw.one_in(3) ? ++i, wrong : clean->index.integers[i++];
            });
        }
        if (kind != Kind::index) {
            t.prob = Array(draw, prob_type, kind == Kind::dense ? shape() : Integers{rows, task.picks}, Use::read)
                         .fill([&, i = size_t{0}]() mutable {
                             if (clean == nullptr) return draw.one_in(3) ? 0 : draw.uniform();
                             const double wrong = draw.of({nan, -1.0, infinity, -infinity});
                             return draw.one_in(2 * (task.picks + columns)) ? ++i, wrong : clean->prob.reals[i++];
                         });
        }
        Doubles p;
        for (int64_t row = 0; row < rows && t.problem.row < 0; ++row) (void)read_measure(t, row, p, t.problem);
    }

    // The target measure of a row in p, and the first problem with it; returns whether the row is ignored.
    bool read_measure(const Target& t, int64_t row, Doubles& p, Problem& problem) const {
        p.assign(static_cast<size_t>(columns), 0);
        bool ignored = false;
        const auto add = [&](int64_t place, double prob, int64_t v) {
            if (problem.row < 0 && !(prob >= 0 && prob < infinity)) problem = {row, place, 0, prob};
            if (v >= 0 && v < columns) p[static_cast<size_t>(v)] += prob;
        };
        for (int64_t v = 0; v < columns && kind == Kind::dense; ++v)
            add(v, t.prob.reals[element(row, static_cast<size_t>(v))], v);
        for (int64_t pick = 0; pick < task.picks; ++pick) {
            const size_t i = static_cast<size_t>(row * task.picks + pick);
            const int64_t index = t.index.integers[i];
            ignored = kind == Kind::index && index == task.ignore_index;
            const bool known = index >= 0 && index < measure.num_classes;
            const double prob = kind == Kind::topk ? t.prob.reals[i] : 1;
            if (!known && !ignored && prob != 0 && problem.row < 0) problem = {row, -1, index, 0};
            if (!ignored) add(pick, prob, known ? index - task.first_class : -1);
        }
        for (size_t v = 0; v < p.size(); ++v) {
            p[v] = (1 - measure.smoothing) * p[v] + measure.smoothing / static_cast<double>(measure.num_classes);
            if (measure.weight != nullptr) p[v] *= weight.reals[v];
        }
        return ignored;
    }

    Row expected(int64_t row, const Doubles& p, bool ignored) const {
        Row r;
        r.ignored = ignored;
        if (ignored) return r;
        const double cap = task.softcap, temperature = temperature_of(row),
                     u = compute == Type::f64 ? 0x1p-53 : 0x1p-24;
        double peak = -infinity, rest = 0, ties = 0, target_score = 0, mass = 0, tilt = 0, target_size = 0,
               furthest = 0;
        double saturation = 0;
        for (size_t v = 0; v < p.size(); ++v) {
            const double scaled = logits.reals[element(row, v)] / temperature, y = cap > 0 ? scaled / cap : 0,
                         small = std::exp(-2 * std::fabs(y));
            r.d.push_back(cap > 0 ? cap * std::tanh(y) : scaled);
            r.slope.push_back(4 * small / ((1 + small) * (1 + small)) / temperature);
            peak = r.d[v] > peak ? r.d[v] : peak;
            saturation = std::max(saturation, std::min(std::fabs(y), 50.0));
        }
        for (size_t v = 0; v < p.size(); ++v) {
            const double d = r.d[v] -= peak == -infinity ? 0 : peak, e = std::exp(d);
            if (e > 0) furthest = std::max(furthest, -d);
            (d == 0 ? ties : rest) += e;
            tilt += e == 0 ? 0 : e * d;
            mass += p[v];
            target_score += p[v] == 0 ? 0 : p[v] * d;
            target_size += p[v] == 0 || (d == 0 && cap == 0) ? 0 : p[v] * (1 + std::fabs(d));
        }
        // Sums of at most 512 numbers in the type of the arithmetic, differences of scores, and the slope of a softcap.
        const double sums =
            compute == Type::f64 ? static_cast<double>(columns) : std::min(512.0, static_cast<double>(columns));
        r.error = u * (24 + sums + 24 * cap + 4 * furthest + 8 * saturation) +
                  (std::isfinite(peak) ? std::fabs(peak) * 0x1p-50 : 0);
        // The total of a confident row is off by as much as what it has beside the peak.
        const double total = ties + rest, of_double = 0x1p-50 / r.error, off = (total < 1.4 ? rest : total) + of_double;
        const double of_log = off / total + of_double, tilt_size = off - tilt;
        r.log_total = std::log(total);
        // a target without mass costs nothing, whatever the scores
        const double loss = (mass == 0 ? 0 : mass * r.log_total) - target_score, entropy = r.log_total - tilt / total;
        const double loss_size = (mass == 0 ? 0 : mass * (std::fabs(r.log_total) + of_log)) + target_size;
        const double entropy_size = of_log * (1 - tilt / total) + tilt_size / total + std::fabs(entropy);
        const double want[] = {peak, total, target_score, mass, tilt, loss, peak + r.log_total, entropy};
        const double size[] = {1, off, target_size, mass, tilt_size, loss_size, 1 + of_log, entropy_size};
        std::copy(std::begin(want), std::end(want), r.want);
        std::copy(std::begin(size), std::end(size), r.size);
        return r;
    }

    void check_grad(const Array& grad, int64_t row, const Row& r, const Doubles& p, double c, double g_lse, double b,
                    double square = 0) const {
        const bool removed = r.want[mass_at] == 0 && !std::isfinite(r.want[0] + r.want[1]);
        if (removed) c = 0;
        const bool zero = r.ignored || (c == 0 && g_lse == 0 && b == 0);
        const double of_loss = c == 0 ? 0 : c * r.want[mass_at], of_entropy = b == 0 ? 0 : b * r.want[entropy_at];
        const double a = of_loss + g_lse + of_entropy, g_size = std::fabs(g_lse) + 2 * std::fabs(square);
        const double size = std::fabs(of_loss) + g_size + std::fabs(b) * (4 + r.size[entropy_at]);
        const double floor = 16 * (1 + size) * (compute == Type::f64 ? 0x1p-1012 : 0x1p-116);
        for (size_t v = 0; v < p.size(); ++v) {
            const double got = grad.reals[element(row, v)];
            if (zero) {
                check_value("gradient", type, got, 0, 0);
                continue;
            }
            const double logq = r.d[v] - r.log_total, q = std::exp(logq), tail = q == 0 || b == 0 ? 0 : b * logq;
            const double wanted = p[v] == 0 ? 0 : c * p[v], want = r.slope[v] * (q * (a + tail) - wanted);
            const double cancelled =
                task.picks > 0 ? 0x1p-50 * (std::fabs(a) + std::fabs(tail) + std::fabs(wanted)) : 0;
            const double bound = 4 * r.error * (q * (size + std::fabs(tail)) + std::fabs(wanted)) + cancelled + floor;
            check_value("gradient", type, got, want, r.slope[v] * bound + floor);
        }
    }

    RowTask task_of(Target& t, Results& results) {
        RowTask given = task;
        if (kind != Kind::dense) given.index = t.index.matrix();
        if (kind != Kind::index) given.prob = t.prob.matrix();
        results.record = Doubles(fields * static_cast<size_t>(rows), nan);
        given.record = results.record.data();
        for (Array& output : results.outputs) output = Array(draw, compute, {rows}, Use::plain);
        given.loss = results.outputs[0].data();
        given.lse = results.outputs[1].data();
        given.entropy = results.outputs[2].data();
        results.grad = Array(draw, type, shape(), Use::written);
        given.grad = results.grad.matrix();
        return given;
    }

    // Runs the three functions on the clean target and on garbage, and checks all that they wrote; returns its hash.
    size_t run() {
        Results stats, fused, skipped;
        CHECK(row_stats(task_of(garbage, skipped), measure) == garbage.problem);
        CHECK(row_fused(task_of(garbage, skipped), measure) == garbage.problem);
        RowTask given = task_of(target, stats);
        CHECK(row_stats(given, measure) == target.problem);
        if (target.problem.row >= 0) return 0;
        row_grad(given, measure);
        if (kind == Kind::index) check_step(stats);
        check_few(stats);
        given = task_of(garbage, skipped);
        given.record = stats.record.data();
        row_grad(given, measure);
        for (const Array* input : {&logits, &weight, &row_temperature, &g[0], &g[1], &g[2], &g[3], &g[4]})
            CHECK(input->unchanged());
        for (const Target* t : {&target, &garbage}) CHECK(t->index.unchanged() && t->prob.unchanged());
        given = task_of(target, fused);
        if (std::count(logits.stride.begin(), logits.stride.end(), 0) == 0 && draw.one_in(2)) {  // in place
            fused.grad = Array(logits);
            given.logits = given.grad = fused.grad.matrix();
        }
        CHECK(row_fused(given, measure) == Problem{});

        std::string bytes;
        for (Results* results : {&stats, &fused, &skipped}) {
            bytes.append(results->grad.memory.begin(), results->grad.memory.end());
            results->grad.read();
            CHECK(results->grad.gaps_unchanged());
            for (Array& output : results->outputs) {
                bytes.append(output.memory.begin(), output.memory.end());
                output.read();
            }
        }
        for (int64_t row = 0; row < rows; ++row) check_row(row, stats, fused, skipped.grad);
        return std::hash<std::string>()(bytes);
    }

    // One step has the sums of its losses, and the bits of the gradient of that scale.
    void check_step(Results& stats) {
        for (const bool mean : {false, true}) {
            Results once, apart;
            const bool few = is_few(task_of(target, once));
            const Step step = row_step(task_of(target, once), measure, mean);
            RowTask given = task_of(target, apart);
            apart.grad = Array(once.grad);  // of the same strides, which decide how the elements are read
            given.grad = apart.grad.matrix();
            given.record = few ? nullptr : stats.record.data();
            Sums sums;
            if (few) {
                CHECK(few_sums(given, measure, sums) == Problem{});
            } else {
                const Vector weights{measure.weight, measure.weight_type, measure.weight_stride};
                sums = sums_of(stats.outputs[0].vector(), target.index.vector(), weights, columns, task.ignore_index,
                               rows);
            }
            const double scale = mean ? sums.weight == 0 ? nan : 1 / sums.weight : 1;
            given.g_loss = {&scale, Type::f64, 0};
            given.g_lse = given.g_entropy = {};
            row_grad(given, measure);
            CHECK(step.problem == Problem{});
            // weights are added up in another order: rows roundings
            const double off = few ? static_cast<double>(rows) * 0x1p-53 : 0;
            check_value("loss of a step", Type::f64, step.loss, sums.loss * scale, off * std::fabs(sums.loss * scale));
            check_value("scale of a step", Type::f64, step.scale, scale, off * std::fabs(scale));
            once.grad.read();
            apart.grad.read();
            for (size_t k = 0; k < apart.grad.reals.size() && step.scale == scale; ++k)
                check_value("gradient of a step", type, once.grad.reals[k], apart.grad.reals[k], 0);
        }
    }

    // Without a record: the same values within the same bounds, the same problems, and sums of the losses written.
    void check_few(const Results& stats) {
        Results few, skipped;
        const auto unrecorded = [&](Target& t, Results& results) {
            RowTask given = task_of(t, results);
            given.record = nullptr;
            return given;
        };
        RowTask given = unrecorded(target, few);
        if (!is_few(given)) return;
        Sums sums;
        CHECK(row_stats(unrecorded(garbage, skipped), measure) == garbage.problem);
        CHECK(few_sums(unrecorded(garbage, skipped), measure, sums) == garbage.problem);
        CHECK(row_stats(given, measure) == Problem{});
        row_grad(given, measure);
        RowTask unchecked = unrecorded(garbage, skipped);
        row_grad(unchecked, measure);
        CHECK(few_sums(given, measure, sums) == Problem{});
        for (Results* results : {&few, &skipped}) {
            results->grad.read();
            CHECK(results->grad.gaps_unchanged());
            for (Array& output : results->outputs) output.read();
        }
        few.record = stats.record;
        double loss = 0, size = 0, weights = 0;
        for (int64_t row = 0; row < rows; ++row) {
            check_row(row, few, few, skipped.grad, false);
            const auto i = static_cast<size_t>(row);
            loss += few.outputs[0].reals[i];
            size += std::fabs(few.outputs[0].reals[i]);
            const int64_t label = kind == Kind::index ? target.index.integers[i] : 0;
            const bool ignored = kind == Kind::index && label == task.ignore_index;
            const int64_t column = ignored ? -1 : label - task.first_class;
            const bool weighted = kind == Kind::index && measure.weight != nullptr && column >= 0 && column < columns;
            weights += ignored ? 0 : weighted ? weight.reals[static_cast<size_t>(column)] : 1;
        }
        const double n = static_cast<double>(rows) * 0x1p-53;
        check_value("sum of few losses", Type::f64, sums.loss, loss, n * size);
        check_value("sum of few weights", Type::f64, sums.weight, weights, n * weights);
    }

    void check_row(int64_t row, const Results& stats, const Results& fused, const Array& skipped,
                   bool is_fused = true) const {
        const size_t i = static_cast<size_t>(row);
        Doubles p;
        Problem problem;
        const bool ignored = read_measure(target, row, p, problem);
        Row r = expected(row, p, ignored);
        for (const Results* results : {&stats, &fused}) {
            for (size_t k = 0; k < results_of_row; ++k) {
                const double got = k < fields ? results->record[k * static_cast<size_t>(rows) + i]
                                              : results->outputs[k - fields].reals[i];
                check_value(result_names[k], k < fields ? Type::f64 : compute, got, r.want[k], r.error * r.size[k]);
            }
        }
        check_grad(stats.grad, row, r, p, g[0].reals[i], g[1].reals[i], -g[2].reals[i]);
        const double square = g[4].reals[i];
        if (is_fused)
            check_grad(fused.grad, row, r, p, g[3].reals[i], square == 0 ? 0 : 2 * square * r.want[lse_at], 0, square);
        r.ignored = read_measure(garbage, row, p, problem);
        if (!is_fused) r = expected(row, p, r.ignored);  // there is no record of the clean target
        const bool finite = std::all_of(p.begin(), p.end(), [](double x) { return std::isfinite(x); });
        if (finite && (r.ignored || !ignored))
            check_grad(skipped, row, r, p, g[0].reals[i], g[1].reals[i], -g[2].reals[i]);
    }
};

}  // namespace
