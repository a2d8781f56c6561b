// A drawn task of the binary losses: values, gradient and sums against plain loops in double.
#pragma once

#include "core_test.h"

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

}  // namespace
