// The core under the sanitizers: drawn tasks on heap arrays of exactly the size they need, held against plain loops in
// double. How far a result may be off is computed beside it, from the roundings that the arithmetic of the task makes.
#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "core_test_binary.h"
#include "core_test_pair.h"
#include "core_test_rows.h"
#include "dispatch.h"
#include "parallel.h"

namespace {

// A temperature out of range is found wherever it is, unless its row is ignored.
void check_wrong_temperature(Rows& r) {
    if (r.rows == 0 || r.target.problem.row >= 0) return;
    const int64_t wrong = r.draw.below(r.rows);
    Doubles temperatures(static_cast<size_t>(r.rows), 1);
    temperatures[static_cast<size_t>(wrong)] = r.draw.of({0.0, -1.0, 1e-16, 1e16, infinity, nan});
    const bool ignored =
        r.kind == Kind::index && r.target.index.integers[static_cast<size_t>(wrong)] == r.task.ignore_index;
    const int64_t found = ignored ? -1 : wrong;
    Results unused;
    RowTask given = r.task_of(r.target, unused);
    given.row_temperature = {temperatures.data(), Type::f64, 1};
    CHECK(row_stats(given, r.measure).row == found);
    CHECK(row_fused(given, r.measure).row == found);
    if (!is_few(given)) return;
    given.record = nullptr;
    const Problem problem = row_stats(given, r.measure);
    Sums sums;
    CHECK(problem.row == found && (ignored || problem.column == -2));
    CHECK(few_sums(given, r.measure, sums).row == found);
}

// Sums of losses and of the weights of labels, many of which are no class; returns the hash of what came out.
size_t run_sums(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    const int64_t rows = draw.of({0, 1, 70, 70000}), classes = draw.of({0, 1, 17, 300}), ignore = draw.of({-100, 1});
    const auto real = [&] { return draw.uniform(); };
    Array loss = Array(draw, draw.of(real_types), {rows}, Use::read).fill(real), index, weight;
    if (!draw.one_in(3)) {
        index = Array(draw, draw.of(integer_types), {rows}, Use::read).fill([&] {
            return draw.one_in(3) ? draw.of({INT64_MIN, INT64_MAX, int64_t{-1}, classes, ignore}) : draw.below(classes);
        });
        if (draw.one_in(2)) weight = Array(draw, draw.of(real_types), {classes}, Use::read).fill(real);
    }
    const Vector no_weight, weights = weight.data() == nullptr ? no_weight : weight.vector();
    const Vector labels = index.data() == nullptr ? no_weight : index.vector();
    const Sums sums = sums_of(loss.vector(), labels, weights, classes, ignore, rows);
    double want_loss = 0, want_weight = 0;
    for (size_t i = 0; i < static_cast<size_t>(rows); ++i) {
        const int64_t label = index.integers.empty() ? ignore + 1 : index.integers[i];
        const bool weighted = !weight.reals.empty() && label >= 0 && label < classes;
        want_loss += loss.reals[i];
        want_weight += label == ignore ? 0 : weighted ? weight.reals[static_cast<size_t>(label)] : 1;
    }
    check_value("sum of losses", Type::f64, sums.loss, want_loss, want_loss * static_cast<double>(rows) * 0x1p-53);
    check_value("sum of weights", Type::f64, sums.weight, want_weight,
                want_weight * static_cast<double>(rows) * 0x1p-53);
    return std::hash<double>()(sums.loss) ^ std::hash<double>()(sums.weight);
}

// One drawn task of the row summaries; returns the hash of what it wrote.
size_t run_summary(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    const int64_t rows = draw.of({0, 1, 63, 64, 65, 300}),
                  columns = draw.of({0, 1, 2, 31, 32, 33, 100, 511, 1023, 1025, 5000});
    const bool special = draw.one_in(3), indexed = draw.one_in(2);
    const Type type = draw.of(real_types);
    Array values = Array(draw, type, {rows, columns}, Use::read).fill([&] {
        return special && draw.one_in(50) ? draw.of({0.0, -0.0, -2.0, 1.0, 3.0, infinity, -infinity, nan})
                                          : draw.uniform();
    });
    Array index = Array(draw, draw.of(integer_types), {indexed ? rows : 0}, Use::read).fill([&] {
        return draw.one_in(5) ? draw.of({INT64_MIN, INT64_MAX, int64_t{-1}, columns}) : draw.below(columns);
    });
    const auto count = static_cast<size_t>(rows);
    Doubles result(5 * count, nan);
    Integers place(count, -1);
    row_summary(
        {values.matrix(), rows, columns, indexed ? index.vector() : Vector{}, true, result.data(), place.data()});
    Doubles peaks(count, nan);
    Integers peak_places(count, -1);
    row_peaks({values.matrix(), rows, columns, peaks.data(), peak_places.data()});
    const double eps = type == Type::f64 ? 0x1p-53 : 0x1p-24;
    for (size_t i = 0; i < count; ++i) {
        const double* const x = values.reals.data() + i * static_cast<size_t>(columns);
        double total = 0, size = 0, peak = -infinity, smallest = infinity, entropy = 0, information = 0;
        int64_t first = 0;
        for (int64_t v = 0; v < columns; ++v) {
            total += x[v], size += std::fabs(x[v]);
            smallest = x[v] < smallest ? x[v] : smallest;
            if (x[v] > peak) peak = x[v], first = v;
            const double part = x[v] > 0 ? -x[v] * std::log(x[v]) : 0;
            entropy += part, information += std::fabs(part);
        }
        const int64_t picked = indexed ? index.integers[i] : -1;
        const bool there = picked >= 0 && picked < columns;
        check_value("picked", Type::f64, result[i], there ? x[picked] : nan, 0);
        check_value("sum", Type::f64, result[count + i], total, static_cast<double>(columns) * 0x1p-53 * size);
        check_value("largest", Type::f64, result[2 * count + i], peak, 0);
        check_value("smallest", Type::f64, result[3 * count + i], smallest, 0);
        // 3 ulp of the logarithm, the product's, sums of at most 64 in each lane, and the roundings of the sum above
        check_value("entropy", Type::f64, result[4 * count + i], entropy,
                    (70 * eps + static_cast<double>(columns) * 0x1p-53) * information);
        CHECK(place[i] == first);
        check_value("peak", Type::f64, peaks[i], peak, 0);
        CHECK(peak_places[i] == first);
    }
    CHECK(values.unchanged() && index.unchanged());
    return std::hash<std::string_view>()(
        {reinterpret_cast<const char*>(result.data()), result.size() * sizeof(double)});
}

// One drawn task of the cells of a grid: each row is in one cell of each class, and what cells hold adds up.
size_t run_cells(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    const int64_t rows = draw.of({0, 1, 63, 64, 65, 300}), columns = draw.of({0, 1, 2, 3, 17});
    const Type type = draw.of(real_types);
    const bool weighted = draw.one_in(2);
    Array values = Array(draw, type, {rows, columns}, Use::read).fill([&] {
        return draw.one_in(9) ? draw.of({0.0, -0.0, -2.0, 0.1, 0.5, 0.7, 1.0, 3.0, 0x1p-80, infinity, -infinity, nan})
                              : draw.uniform();
    });
    Array index = Array(draw, draw.of(integer_types), {rows}, Use::read).fill([&] {
        return draw.one_in(5) ? draw.of({INT64_MIN, INT64_MAX, int64_t{-1}, columns}) : draw.below(columns);
    });
    Array weight = Array(draw, Type::f64, {weighted ? rows : 0}, Use::read).fill([&] { return draw.uniform(); });
    const auto size = static_cast<size_t>(columns * grid_cells), count = static_cast<size_t>(rows),
               width = static_cast<size_t>(columns);
    Doubles sums(4 * size, 0.0), square(count, nan);
    Integers counts(size, 0);
    class_cells({values.matrix(), rows, columns, index.vector(), weighted ? weight.vector() : Vector{}, sums.data(),
                 counts.data(), square.data()});
    const auto clamped = [](double x) { return x > 0 ? (x < 1 ? x : 1.0) : 0.0; };
    for (int64_t v = 0; v < columns; ++v) {
        double whole = 0, predicted = 0, truth = 0, hoped = 0, found[4] = {};
        int64_t counted = 0;
        for (size_t i = 0; i < count; ++i) {
            const double w = weighted ? weight.reals[i] : 1,
                         q = clamped(values.reals[i * width + static_cast<size_t>(v)]);
            whole += w, predicted += w * q;
            if (index.integers[i] == v) truth += w, hoped += w * q;
        }
        for (int64_t k = 0; k < grid_cells; ++k) {
            const auto at = static_cast<size_t>(v * grid_cells + k);
            counted += counts[at];
            for (size_t field = 0; field < 4; ++field) found[field] += sums[field * size + at];
        }
        CHECK(counted == rows);
        const double slack = 4 * static_cast<double>(rows + grid_cells) * 0x1p-53;
        check_value("weights of cells", Type::f64, found[0], whole, slack * whole);
        check_value("probabilities of cells", Type::f64, found[1], predicted, slack * predicted);
        check_value("truth of cells", Type::f64, found[2], truth, slack * truth);
        check_value("hopes of cells", Type::f64, found[3], hoped, slack * hoped);
    }
    for (size_t i = 0; i < count; ++i) {
        double total = 0;
        for (int64_t v = 0; v < columns; ++v) {
            const double q = clamped(values.reals[i * width + static_cast<size_t>(v)]);
            total += q * q;
        }
        const int64_t label = index.integers[i];
        const bool there = label >= 0 && label < columns;
        const double want =
            there ? total + (1 - 2 * clamped(values.reals[i * width + static_cast<size_t>(label)])) : nan;
        check_value("square loss", Type::f64, square[i], want,
                    4 * static_cast<double>(columns + 2) * 0x1p-53 * (total + 3));
    }
    CHECK(values.unchanged() && index.unchanged() && weight.unchanged());
    return std::hash<std::string_view>()(
        {reinterpret_cast<const char*>(square.data()), square.size() * sizeof(double)});
}

std::atomic<int> lent_calls{0};

// The least obliging pool: ranges of one, backwards, from two threads.
int32_t one_by_one(int64_t begin, int64_t end, int64_t, Body body, void* shared) {
    ++lent_calls;
    const auto every_other = [=](int64_t last) {
        for (int64_t i = last; i >= begin; i -= 2) body(i, i + 1, shared);
    };
    std::thread other(every_other, end - 2);
    every_other(end - 1);
    other.join();
    return 0;
}

int32_t in_one_piece(int64_t begin, int64_t end, int64_t, Body body, void* shared) {
    ++lent_calls;
    body(begin, end, shared);
    return 0;
}

int32_t refuse(int64_t, int64_t, int64_t, Body, void*) {
    ++lent_calls;
    return 1;
}

// Row tasks of each type and shape, `repeats` of each, then `others` tasks of each other function.
struct Grid {
    std::vector<Type> types;
    Integers rows, columns;
    int repeats, others;
};

// The hashes of what the tasks of a grid wrote.
std::vector<size_t> sweep(uint64_t seed, const Grid& grid) {
    std::vector<size_t> hashes;
    for (const Type type : grid.types) {
        for (const int64_t rows : grid.rows) {
            for (size_t k = 0; k < grid.columns.size() * static_cast<size_t>(grid.repeats); ++k) {
                const int64_t columns = grid.columns[k % grid.columns.size()];
                context = "type " + std::to_string(static_cast<int>(type)) + ", " + std::to_string(rows) + " x " +
                          std::to_string(columns) + ", seed " + std::to_string(++seed);
                Rows task(seed, type, rows, columns);
                hashes.push_back(task.run());
                check_wrong_temperature(task);
            }
        }
    }
    for (int k = 0; k < grid.others; ++k) {
        context = "binary, seed " + std::to_string(++seed);
        hashes.push_back(run_binary(seed));
        context = "sums, seed " + std::to_string(seed);
        hashes.push_back(run_sums(seed));
        context = "summary, seed " + std::to_string(seed);
        hashes.push_back(run_summary(seed));
        context = "cells, seed " + std::to_string(seed);
        hashes.push_back(run_cells(seed));
        context = "pair, seed " + std::to_string(seed);
        hashes.push_back(run_pair(seed));
    }
    return hashes;
}

// No result depends on how the rows are shared out.
void check_sharing(uint64_t seed, const Grid& grid, const std::vector<ParallelFor>& pools) {
    const auto own = sweep(seed, grid);
    for (const ParallelFor lent : pools) {
        lend_threads(lent);
        CHECK(sweep(seed, grid) == own);
        CHECK(lent_calls.exchange(0) > 30);
    }
}

// No result depends on what other threads call at the same time.
void check_callers(uint64_t seed, const std::vector<Type>& types) {
    lend_threads(&one_by_one);
    std::vector<size_t> hashes[4];
    std::vector<std::thread> threads;
    for (uint64_t k = 0; k < 4; ++k) {
        threads.emplace_back(
            [&, k] { hashes[k] = sweep(seed + k / 2 * 10000, {types, {3, 70}, {2, 16, 17, 237}, 1, 25}); });
    }
    for (auto& thread : threads) thread.join();
    CHECK(hashes[0] == hashes[1] && hashes[2] == hashes[3]);
}

// A gradient that huge pages are asked for, and that the core's own threads share; zero because its cotangents are.
void check_large_grad() {
    constexpr int64_t rows = 600, columns = 4001;
    const std::vector<float> logits(rows * columns);
    std::vector<float> grad(rows * columns, 1);
    Doubles record(record_fields * rows, 1);
    RowTask task;
    task.rows = rows;
    task.columns = columns;
    task.logits = task.prob = {const_cast<float*>(logits.data()), Type::f32, columns, 0, 1};
    task.grad = {grad.data(), Type::f32, columns, 0, 1};
    task.record = record.data();
    row_grad(task, {});
    CHECK(std::count(grad.begin(), grad.end(), 0.0f) == rows * columns);
}

const std::vector<Type> all_types = {Type::f32, Type::f64, Type::bf16, Type::f16};
const std::vector<Type> wide_types = {Type::f32, Type::f64}, narrow_types = {Type::bf16, Type::f16};

// The tests in parts that take about as long as each other, to be run side by side, the longest first. Most of the time
// goes into the tasks that a grid has as `others`. Each part begins without lent threads.
constexpr void (*parts[])() = {
    [] { check_sharing(30000, {{Type::f32}, {130}, {4097}, 2, 50}, {&in_one_piece}); },
    [] {
        (void)sweep(0, {all_types,
                        {0, 1, 2, 3},
                        {0, 1, 2, 3, 4, 15, 16, 17, 100, 128, 129, 511, 512, 513, 4095, 4096, 4097},
                        2,
                        50});
        (void)sweep(15000, {all_types, {65, 200, 320}, {2, 3, 4, 7, 19}, 2, 50});
    },
    [] { check_sharing(20000, {wide_types, {70}, {2, 16, 17, 237}, 4, 25}, {&in_one_piece, &refuse, &one_by_one}); },
    [] { check_sharing(25000, {narrow_types, {70}, {2, 16, 17, 237}, 4, 25}, {&in_one_piece, &refuse, &one_by_one}); },
    [] { check_callers(0, wide_types); },
    [] { check_callers(5000, narrow_types); },
    [] {
        (void)sweep(10000,
                    {all_types, {70}, {0, 1, 2, 3, 5, 15, 16, 17, 33, 100, 127, 128, 129, 511, 512, 513, 4097}, 1, 50});
        check_large_grad();
    },
};
constexpr size_t part_count = std::size(parts);
static_assert(part_count == CROSSENT_TEST_PARTS, "CMakeLists.txt makes a test of each part: change core_test_parts");

// The number of a part, from 1 to part_count; 0 if the text is anything else.
size_t part_of(std::string_view text) {
    size_t part = 0;
    const char* const text_end = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), text_end, part);
    return error == std::errc() && end == text_end && part <= part_count ? part : 0;
}

}  // namespace

// Without arguments: everything. With "parts": the number of parts; with "parts 2 3": these alone. With type, rows,
// columns and seed of a failure: that row task alone.
int main(int count, char** arguments) {
    const bool in_parts = count > 1 && std::string_view(arguments[1]) == "parts";
    if (in_parts && count == 2) {
        std::printf("%d\n", static_cast<int>(part_count));
        return 0;
    }
    std::vector<size_t> chosen;
    for (int k = 2; in_parts && k < count; ++k) {
        chosen.push_back(part_of(arguments[k]));
        if (chosen.back() > 0) continue;
        std::fprintf(stderr, "no part \"%s\": parts are 1 to %d\n", arguments[k], static_cast<int>(part_count));
        return 2;
    }
    for (size_t part = 1; !in_parts && part <= part_count; ++part) chosen.push_back(part);
    try {
        std::printf("instruction set %s\n", isa().c_str());
    } catch (const std::invalid_argument& error) {
        std::printf("%s\n", error.what());
        return 77;
    }
    if (count == 5 && !in_parts) {
        const auto number = [&](int k) { return std::strtoll(arguments[k], nullptr, 10); };
        (void)Rows(static_cast<uint64_t>(number(4)), static_cast<Type>(number(1)), number(2), number(3)).run();
        return failures == 0 ? 0 : 1;
    }
    for (const size_t part : chosen) {
        lend_threads(nullptr);
        lent_calls = 0;
        parts[part - 1]();
    }
    std::printf("%d failures\n", failures.load());
    return failures == 0 ? 0 : 1;
}
