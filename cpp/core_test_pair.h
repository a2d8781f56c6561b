// A drawn task of a row and its teacher's: sums and gradient against plain loops in double.
#pragma once

#include "core_test.h"

namespace {

// One of the two models: its logits, how they become scores, and its record as the core makes it.
struct Model {
    Array logits, temperatures;
    RowTask task;
    Doubles record;

    Model(Draw& draw, Type type, const Integers& shape, int64_t rows, const Doubles& values, double near) {
        task.rows = rows;
        task.columns = shape[1];
        task.inner_rows = shape.size() > 2 ? shape[2] : 1;
        task.temperature = draw.of({1.0, 1.0, 0.7, 3.0, 0.05});
        task.softcap = draw.of({0.0, 0.0, 5.0, 30.0});
        const int64_t special = draw.below(6);
        logits = Array(draw, type, shape, draw.one_in(2) ? Use::written : Use::read).fill([&, i = size_t{0}]() mutable {
            const double value = values[i++] + near * (2 * draw.uniform() - 1);
            if (special == 1 && draw.one_in(20)) return -infinity;
            if (special == 2 && draw.one_in(1 + task.columns * rows / 2)) return draw.of({nan, infinity, -infinity});
            return value;
        });
        task.logits = logits.matrix();
        if (draw.one_in(4)) {
            temperatures =
                Array(draw, draw.of(real_types), {rows}, Use::read).fill([&] { return 0.5 + draw.uniform(); });
            task.row_temperature = temperatures.vector();
            task.temperature = nan;
        }
        record.assign(static_cast<size_t>(record_fields * rows), nan);
        task.record = record.data();
    }

    // What a softcap, and in double the temperature, add to the error of a score: roundings of its own size.
    double offset(int64_t row, bool wide) const {
        const double peak = std::fabs(record[static_cast<size_t>(row)]);
        return task.softcap > 0 || wide ? 24 * task.softcap + (std::isfinite(peak) ? 16 * peak : 0) : 0;
    }

    // Log-probabilities of a row and slopes of its scores; returns whether it is a distribution.
    bool read(int64_t row, Doubles& log_prob, Doubles& slope) const {
        const auto columns = static_cast<size_t>(task.columns), inner = static_cast<size_t>(task.inner_rows);
        const double T = temperatures.reals.empty() ? task.temperature : temperatures.reals[static_cast<size_t>(row)];
        log_prob.assign(columns, 0), slope.assign(columns, 0);
        double peak = -infinity, total = 0;
        for (size_t v = 0; v < columns; ++v) {
            const size_t i = static_cast<size_t>(row);
            const double scaled = logits.reals[(i / inner * columns + v) * inner + i % inner] / T;
            const double y = task.softcap > 0 ? scaled / task.softcap : 0, small = std::exp(-2 * std::fabs(y));
            log_prob[v] = task.softcap > 0 ? task.softcap * std::tanh(y) : scaled;
            slope[v] = 4 * small / ((1 + small) * (1 + small)) / T;
            peak = log_prob[v] > peak ? log_prob[v] : peak;
        }
        for (const double s : log_prob) total += std::exp(s - peak);
        for (double& s : log_prob) s -= peak + std::log(total);
        return std::isfinite(peak) && std::isfinite(total);
    }
};

// a h(log a - log b), h(x) = x + e^-x - 1, by its series where it is small.
double excess_term(double log_a, double log_b) {
    const double a = std::exp(log_a), b = std::exp(log_b);
    if (log_a == log_b || (a == 0 && log_a == -infinity)) return log_a == log_b ? 0 : b;
    const double x = log_a - log_b;
    if (x > 0.01) return x == infinity ? infinity : a * (x + std::expm1(-x));
    return x < -0.01
               ? b * (1 - (1 - x) * std::exp(x))
               : a * x * x * (0.5 - x * (1 / 6.0 - x * (1 / 24.0 - x * (1 / 120.0 - x * (1 / 720.0 - x / 5040)))));
}

// log a - log m of m = share a + (1 - share) b.
double above_mixture(double log_a, double log_b, double share) {
    if (log_a == log_b) return 0;
    const double x = log_a - log_b;
    return x > 0 ? -std::log1p((1 - share) * std::expm1(-x)) : x - std::log1p(share * std::expm1(x));
}

// One drawn task; returns the hash of what it wrote.
size_t run_pair(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    const int64_t rows = draw.of({0, 1, 3, 70}),
                  columns =
                      draw.of({0, 1, 2, 3, 15, 16, 17, 127, 128, 129, 511, 512, 513, 1025, rows == 70 ? 33 : 4097});
    const int64_t inner = rows > 0 && draw.one_in(3) ? (rows == 70 ? 7 : rows) : 1;
    const Integers shape = inner == 1 ? Integers{rows, columns} : Integers{rows / inner, columns, inner};
    const Type type = draw.of(real_types), other = draw.one_in(2) ? type : draw.of(real_types);
    const bool wide = type == Type::f64 && other == Type::f64, equal = draw.one_in(4);
    const double deviation = draw.of({0.1, 1.0, 5.0}), near = equal ? 0 : draw.of({1e-4, 0.1, 2.0, 40.0});
    Doubles values(static_cast<size_t>(rows * columns));
    for (double& value : values) value = 6 * deviation * (draw.uniform() - 0.5);
    Model student(draw, type, shape, rows, values, 0), teacher(draw, other, shape, rows, values, near);
    RowTask& own = student.task;
    const bool aimed = draw.one_in(2);
    own.ignore_index = -100;
    const Measure measure{nullptr, Type::f32, 1, aimed ? draw.of({0.0, 0.1}) : 0, columns};
    Array label = Array(draw, Type::i64, {aimed ? rows : 0}, Use::read).fill([&] {
        return draw.one_in(5) || columns == 0 ? -100 : draw.below(columns);
    });
    own.picks = aimed ? 1 : 0;
    const int64_t none = 0;
    own.index = aimed ? Matrix{label.data(), Type::i64, rows == 0 ? 0 : label.stride[0], 0, 0}
                      : Matrix{const_cast<int64_t*>(&none), Type::i64, 0, 0, 0};
    if (!aimed) own.prob = {const_cast<int64_t*>(&none), Type::f64, 0, 0, 0};
    teacher.task.index = {const_cast<int64_t*>(&none), Type::i64, 0, 0, 0};
    teacher.task.prob = {const_cast<int64_t*>(&none), Type::f64, 0, 0, 0};
    CHECK(row_stats(own, measure).row < 0);
    CHECK(row_stats(teacher.task, {nullptr, Type::f32, 1, 0, columns}).row < 0);

    PairTask task;
    task.beta = draw.of({0.0, 0.5, 0.1});
    task.rest = task.beta > 0 ? 1 - task.beta : 0;
    const auto wanted = static_cast<size_t>(task.beta > 0 ? pair_sums : 2), count = static_cast<size_t>(rows);
    Doubles sums(static_cast<size_t>(pair_sums) * count, nan);
    Array g[6];
    Vector* const cotangents[] = {&own.g_loss, &own.g_lse, &own.g_entropy, &task.g_kl, &task.g_reverse, &task.g_js};
    for (size_t k = 0; k < 6; ++k) {
        const bool missing = draw.one_in(2) || (k == 0 && !aimed) || (k == 5 && task.beta == 0);
        g[k] = Array(draw, draw.of(real_types), {missing ? 0 : rows}, Use::read).fill([&] {
            return draw.one_in(4) ? 0 : 2 * draw.uniform() - 1;
        });
        *cotangents[k] = g[k].vector();
        g[k].reals.resize(count);
    }
    const bool narrow = type == Type::f32 && draw.one_in(3);
    Array grad(draw, narrow ? Type::bf16 : type, shape, Use::written);
    own.grad = grad.matrix();
    task.student = own, task.teacher = teacher.task, task.sums = sums.data();
    pair_stats(task);
    CHECK(student.logits.unchanged() && teacher.logits.unchanged());
    Doubles twice = sums;
    task.sums = twice.data(), task.extend = true;
    pair_stats(task);
    for (size_t k = 0; k < wanted * count; ++k) check_value("sum twice", Type::f64, twice[k], 2 * sums[k], 0);
    for (size_t k = wanted * count; k < sums.size(); ++k) CHECK(std::isnan(sums[k]));
    task.sums = sums.data();
    pair_grad(task, measure);
    CHECK(student.logits.unchanged() && teacher.logits.unchanged());
    std::string bytes(grad.memory.begin(), grad.memory.end());
    bytes.append(reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(double));
    grad.read();
    CHECK(grad.gaps_unchanged());

    const double u = wide ? 0x1p-53 : 0x1p-24, lost = wide ? 1e-270 : 2e-20;
    Doubles logp, logq, slope, unused;
    for (int64_t row = 0; row < rows; ++row) {
        const auto i = static_cast<size_t>(row);
        const bool ignored = aimed && label.integers[i] == -100;
        const bool defined = student.read(row, logq, slope), taught = teacher.read(row, logp, unused);
        double want[pair_sums] = {}, off[pair_sums] = {}, entropy = 0;
        Doubles error(logq.size());
        for (size_t v = 0; v < logq.size(); ++v) {
            const double p = std::exp(logp[v]), q = std::exp(logq[v]), larger = std::max(p, q);
            const double far = (p > 0 ? -logp[v] : 0) + (q > 0 ? -logq[v] : 0);
            const double terms =
                wide ? static_cast<double>(columns) : std::min<double>(512, static_cast<double>(columns));
            error[v] =
                u * (64 + terms + 8 * far + student.offset(row, wide) + (taught ? teacher.offset(row, wide) : 0));
            const double b = task.beta, all[] = {excess_term(logp[v], logq[v]), excess_term(logq[v], logp[v]),
                                                 b > 0 ? excess_term(0, -above_mixture(logp[v], logq[v], b)) : 0,
                                                 b > 0 ? excess_term(0, -above_mixture(logq[v], logp[v], 1 - b)) : 0};
            const double factor[] = {1, 1, p, q}, weight[] = {1, 1, 1 - b, b};
            for (size_t k = 0; k < wanted; ++k) {
                double term = factor[k] * all[k];
                if (k == 2 && p == 0) term = (1 - b) * q;
                if (k == 3 && q == 0) term = b * p;
                want[k] += term;
                off[k] += 2 * weight[k] * std::fabs(p - q) * error[v] + larger * error[v] * error[v] +
                          error[v] * std::fabs(term) + lost;
            }
            entropy -= q > 0 ? q * logq[v] : 0;
        }
        for (size_t k = 0; k < wanted && !ignored; ++k) {
            const double got = sums[k * count + i];
            CHECK(!(got < 0));
            check_value("sum", Type::f64, got, defined && taught ? want[k] : columns > 0 ? nan : 0, off[k]);
            const bool alike = own.softcap == teacher.task.softcap && own.temperature == teacher.task.temperature &&
                               (own.logits.column_stride == 1) == (teacher.task.logits.column_stride == 1);
            if (equal && type == other && alike && student.logits.reals == teacher.logits.reals) CHECK(got == 0);
        }
        const double g_loss = g[0].reals[i], g_lse = g[1].reals[i], g_entropy = g[2].reals[i], kl = g[3].reals[i],
                     reverse = g[4].reals[i], js = g[5].reals[i] * task.rest;
        const bool paired = kl != 0 || reverse != 0 || js != 0,
                   nothing = !(paired || g_loss != 0 || g_lse != 0 || g_entropy != 0);
        for (size_t v = 0; v < logq.size(); ++v) {
            const auto n = static_cast<size_t>(inner), at = (i / n * logq.size() + v) * n + i % n;
            const double got = grad.reals[at];
            if (ignored || nothing) {
                check_value("gradient", grad.type, got, 0, 0);
                continue;
            }
            if (!defined || (paired && !taught)) {
                CHECK(std::isnan(got));
                continue;
            }
            if (reverse != 0 && !std::isfinite(want[1])) continue;
            const double p = paired ? std::exp(logp[v]) : 0, q = std::exp(logq[v]), known = q == 0 ? 0 : logq[v];
            const double target = !aimed ? 0
                                         : (1 - measure.smoothing) * (label.integers[i] == static_cast<int64_t>(v)) +
                                               measure.smoothing / static_cast<double>(columns);
            const double delta = q == 0 || !paired ? 0 : logp[v] - logq[v];
            const double share = js == 0 || q == 0 ? 0 : above_mixture(logq[v], logp[v], task.rest);
            double value = q * (g_loss + g_lse - g_entropy * entropy - g_entropy * known) - g_loss * target;
            if (kl != 0) value += kl * (q - p);
            if (q != 0 && reverse != 0) value -= reverse * q * (delta + want[1]);
            if (q != 0 && js != 0) value += js * q * (share - want[3]);
            const double of_reverse = reverse == 0 ? 0 : std::fabs(reverse) * (1 + std::fabs(delta) + want[1]);
            const double of_js = js == 0 ? 0 : std::fabs(js) * (1 + std::fabs(share) + want[3]);
            const double size = std::fabs(g_loss) + std::fabs(g_lse) +
                                std::fabs(g_entropy) * (1 + entropy + std::fabs(known)) + of_reverse + of_js;
            const double of_sums =
                (reverse == 0 ? 0 : std::fabs(reverse) * off[1]) + (js == 0 ? 0 : std::fabs(js) * off[3]);
            const double bound = error[v] * (4 * q * size + 2 * std::fabs(kl) * (p + q) + std::fabs(g_loss) * target) +
                                 2 * q * of_sums + lost * (1 + size + std::fabs(kl));
            // a named column is q - 1 and 1, in double
            const double cancelled = aimed ? 0x1p-50 * (size + std::fabs(g_loss) + std::fabs(kl)) : 0;
            // the slope of a softcap is e^(-2 |y|), and y is off by a part of itself
            const double amplified = own.softcap > 0 ? 1 + std::fabs(std::log(std::max(slope[v], 1e-300))) : 1;
            check_value("gradient", grad.type, got, slope[v] * value,
                        slope[v] * (amplified * bound + cancelled) + lost);
        }
    }
    // the same bits in place of either model's logits
    for (Array* place : {&student.logits, &teacher.logits}) {
        const bool own_place = place == &student.logits;
        if (std::count(place->stride.begin(), place->stride.end(), 0) > 0 || place->type != type || narrow) continue;
        Array copy = *place;
        PairTask given = task;
        (own_place ? given.student : given.teacher).logits = given.student.grad = copy.matrix();
        pair_grad(given, measure);
        copy.read();
        const bool same = std::equal(copy.reals.begin(), copy.reals.end(), grad.reals.begin(),
                                     [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); });
        CHECK(same);
        CHECK(copy.gaps_unchanged());
    }
    return std::hash<std::string>()(bytes);
}

}  // namespace
