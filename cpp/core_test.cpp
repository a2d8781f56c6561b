// The core under the sanitizers: drawn tasks on heap arrays of exactly the size they need, held against plain loops in
// double. How far a result may be off is computed beside it, from the roundings that the arithmetic of the task makes.
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "core_test_pair.h"
#include "core_test_rows.h"
#include "dispatch.h"
#include "parallel.h"

namespace {

// One drawn task of the binary pair; returns the hash of what it wrote.
size_t run_binary(uint64_t seed) {
    Draw draw{std::mt19937_64(seed)};
    BinaryTask task;
    task.probabilities = draw.one_in(2);
    task.axes = static_cast<int>(draw.below(5));
    task.size = 1;
    Integers length;
    for (int k = 0; k < task.axes; ++k) {
        const int64_t longest = draw.of({1, 511, 512, 513, 4095, 4096, 4097, 9001});
        length.push_back(draw.one_in(12) ? 0 : k == task.axes / 2 ? longest : draw.of({1, 1, 2, 3}));
        task.shape[k] = length.back();
        task.size *= length.back();
    }
    const Type type = draw.of(real_types), compute = type == Type::f64 ? Type::f64 : Type::f32;
    const bool special = draw.one_in(3), wrong = draw.one_in(2);
    const auto input = [&] {
        if (task.probabilities && wrong && draw.one_in(task.size))
            return draw.of({-0.25, 1.25, -1e-3, nan, infinity, -infinity});
        if (task.probabilities)
            return special && draw.one_in(9) ? draw.of({0.0, -0.0, 1.0}) : 0.02 + 0.96 * draw.uniform();
        return special && draw.one_in(9) ? draw.of({0.0, -0.0, nan, infinity, -infinity, 300.0, -800.0})
                                         : 40 * draw.uniform() - 20;
    };
    const auto target = [&] {
        if (wrong && draw.one_in(2 * task.size)) return draw.of({-0.25, 1.25, nan, infinity, -infinity});
        return draw.one_in(2) ? draw.of({0.0, 1.0}) : draw.uniform();
    };
    const auto factor = [&] { return special && draw.one_in(5) ? 0 : 3 * draw.uniform(); };
    Array arrays[5];  // input, target, weight, pos_weight, cotangent
    BinaryTask::Operand* const operands[] = {&task.input, &task.target, &task.weight, &task.pos_weight,
                                             &task.cotangent};
    for (int k = 0; k < 5; ++k) {
        if ((k == 2 || k == 3) && draw.one_in(2)) continue;
        Array& array = arrays[k] = Array(draw, k == 0 ? type : draw.of(real_types), length, Use::read);
        k == 0 ? array.fill(input) : k == 1 ? array.fill(target) : array.fill(factor);
        BinaryTask::Operand& operand = *operands[k] = {array.data(), array.type, {}, true};
        int64_t expected = 1;
        for (int axis = task.axes; axis-- > 0; expected *= task.shape[axis]) {
            operand.stride[axis] = array.stride[static_cast<size_t>(axis)];
            operand.contiguous = operand.contiguous && (task.shape[axis] <= 1 || operand.stride[axis] == expected);
        }
    }
    Array loss(draw, draw.of(real_types), {task.size}, Use::plain),
        grad(draw, draw.of(real_types), {task.size}, Use::plain);
    Doubles sums(static_cast<size_t>((task.size + binary_block - 1) / binary_block), nan);
    task.out = draw.one_in(3) ? nullptr : loss.data();
    task.out_type = loss.type;
    task.block_sums = sums.data();
    const int64_t found = binary_loss(task);
    const bool stored = task.out != nullptr;
    task.out = grad.data();
    task.out_type = grad.type;
    binary_grad(task);
    for (const Array& array : arrays) CHECK(array.unchanged());

    const double u = compute == Type::f64 ? 0x1p-53 : 0x1p-24, floor = compute == Type::f64 ? 0x1p-1012 : 0x1p-116;
    loss.read();
    grad.read();
    Doubles want_sums(sums.size());
    int64_t first_wrong = -1;
    for (size_t i = 0; i < static_cast<size_t>(task.size); ++i) {
        double of[] = {0, 0, 1, 1, 1};
        for (int k = 0; k < 5; ++k) {
            if (!arrays[k].reals.empty())
                of[k] = compute == Type::f64 ? arrays[k].reals[i]
                                             : static_cast<double>(static_cast<float>(arrays[k].reals[i]));
        }
        const auto [x, t, weight, pos_weight, cotangent] = of;
        const bool right = (!task.probabilities || (x >= 0 && x <= 1)) && t >= 0 && t <= 1;
        if (weight != 0 && !right && first_wrong < 0) first_wrong = static_cast<int64_t>(i);
        const double tail = std::log1p(std::exp(-std::fabs(x)));
        const double one = task.probabilities ? -std::log(x) : (x < 0 ? -x : 0) + tail,
                     zero = task.probabilities ? -std::log1p(-x) : (x > 0 ? x : 0) + tail;
        const double down = task.probabilities ? 1 / x : 1 / (1 + std::exp(x)),
                     up = task.probabilities ? 1 / (1 - x) : 1 / (1 + std::exp(-x));
        const double fall = pos_weight * t == 0 ? 0 : pos_weight * t * down, rise = t == 1 ? 0 : (1 - t) * up;
        const double cost = (pos_weight * t == 0 ? 0 : pos_weight * t * one) + (t == 1 ? 0 : (1 - t) * zero);
        const double want = weight == 0 ? 0 : weight * cost;
        want_sums[i / binary_block] += want;
        if (weight != 0 && !right) continue;
        if (stored) check_value("binary loss", loss.type, loss.reals[i], want, 32 * u * want + floor);
        const double scale = weight * cotangent;
        check_value("binary gradient", grad.type, grad.reals[i], scale == 0 ? 0 : scale * (rise - fall),
                    scale == 0 ? 0 : 32 * u * scale * (rise + fall) + floor);
    }
    CHECK(found == first_wrong);
    for (size_t k = 0; k < sums.size() && first_wrong < 0; ++k)
        check_value("block sum", Type::f64, sums[k], want_sums[k], 600 * u * want_sums[k] + floor);
    return std::hash<std::string>()(std::string(grad.memory.begin(), grad.memory.end()));
}

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

std::vector<size_t> sweep(uint64_t seed, size_t types, const Integers& all_rows, const Integers& all_columns,
                          int repeats) {
    std::vector<size_t> hashes;
    for (size_t type = 0; type < types; ++type) {
        for (const int64_t rows : all_rows) {
            for (size_t k = 0; k < all_columns.size() * static_cast<size_t>(repeats); ++k) {
                const int64_t columns = all_columns[k % all_columns.size()];
                context = "type " + std::to_string(type) + ", " + std::to_string(rows) + " x " +
                          std::to_string(columns) + ", seed " + std::to_string(++seed);
                Rows task(seed, real_types[type], rows, columns);
                hashes.push_back(task.run());
                check_wrong_temperature(task);
            }
        }
    }
    for (int k = 0; k < 50; ++k) {
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

}  // namespace

// Without arguments: everything. With type, rows, columns and seed of a failure: that row task alone.
int main(int count, char** arguments) {
    try {
        std::printf("instruction set %s\n", isa().c_str());
    } catch (const std::invalid_argument& error) {
        std::printf("%s\n", error.what());
        return 77;
    }
    if (count == 5) {
        const auto number = [&](int k) { return std::strtoll(arguments[k], nullptr, 10); };
        (void)Rows(static_cast<uint64_t>(number(4)), static_cast<Type>(number(1)), number(2), number(3)).run();
        return failures == 0 ? 0 : 1;
    }
    const Integers columns = {0, 1, 2, 3, 4, 15, 16, 17, 100, 128, 129, 511, 512, 513, 4095, 4096, 4097},
                   some = {2, 16, 17, 237};
    (void)sweep(0, 4, {0, 1, 2, 3}, columns, 2);
    (void)sweep(10000, 4, {70}, {0, 1, 2, 3, 5, 15, 16, 17, 33, 100, 127, 128, 129, 511, 512, 513, 4097}, 1);
    (void)sweep(15000, 4, {65, 200, 320}, {2, 3, 4, 7, 19}, 2);
    check_large_grad();

    // No result depends on how the rows are shared out.
    const auto own = sweep(20000, 4, {70}, some, 4), own_large = sweep(30000, 1, {130}, {4097}, 2);
    for (const ParallelFor lent : {&in_one_piece, &refuse, &one_by_one}) {
        lend_threads(lent);
        CHECK(sweep(20000, 4, {70}, some, 4) == own);
        CHECK(lent != &in_one_piece || sweep(30000, 1, {130}, {4097}, 2) == own_large);
        CHECK(lent_calls.exchange(0) > 50);
    }
    std::vector<size_t> hashes[4];
    std::vector<std::thread> threads;
    for (uint64_t k = 0; k < 4; ++k) {
        threads.emplace_back([&, k] { hashes[k] = sweep(k / 2 * 10000, 4, {3, 70}, some, 1); });
    }
    for (auto& thread : threads) thread.join();
    CHECK(hashes[0] == hashes[1] && hashes[2] == hashes[3]);
    std::printf("%d failures\n", failures.load());
    return failures == 0 ? 0 : 1;
}
