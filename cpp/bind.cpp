// The core as Python sees it: arrays of any framework come in by DLPack, are checked against each other, and become
// tasks.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "dispatch.h"
#include "parallel.h"
#include "row_arguments.h"
#include "step.h"
#include "unlocked.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace crossent {
namespace {

nb::object described(const Problem& problem) {
    if (problem.row < 0) return nb::none();
    if (problem.column == -1) return nb::make_tuple(problem.row, problem.column, problem.index);
    return nb::make_tuple(problem.row, problem.column, problem.prob);
}

void* output_of(const Out& array, const RowTask& task) {
    if (!array.is_valid()) return nullptr;
    const Type type = task.logits.type == Type::f64 ? Type::f64 : Type::f32;
    require(
        array.ndim() == 1 && static_cast<int64_t>(array.shape(0)) == task.rows &&
            (task.rows <= 1 || array.stride(0) == 1) && type_of(array, "loss, lse and entropy") == type,
        "loss, lse and entropy must be contiguous arrays of shape (rows,), float64 for float64 logits, else float32");
    return array.data();
}

#define RESULT_ARGUMENTS const Out &record, const Out &loss, const Out &lse, const Out &entropy
#define RESULT_NAMES "record"_a.none(), "loss"_a.none(), "lse"_a.none(), "entropy"_a.none()

void set_results(RowTask& task, RESULT_ARGUMENTS) {
    task.record = record_of<double>(record, task);
    task.loss = output_of(loss, task);
    task.lse = output_of(lse, task);
    task.entropy = output_of(entropy, task);
}

nb::object py_row_stats(TARGET_ARGUMENTS, RESULT_ARGUMENTS, bool extend) {
    Call call = prepare(TARGET_VALUES);
    require(!extend || record.is_valid(), "only a record can be extended");
    call.task.extend = extend;
    set_results(call.task, record, loss, lse, entropy);
    Problem problem;
    {
        const Unlocked unlocked;
        problem = row_stats(call.task, call.measure);
    }
    return described(problem);
}

// The sums of few classes' losses and weights, and a wrong entry; nothing is written.
nb::object py_few_sums(TARGET_ARGUMENTS) {
    Call call = prepare(TARGET_VALUES);
    (void)record_of<double>(Out(), call.task);
    Sums sums;
    Problem problem;
    {
        const Unlocked unlocked;
        problem = few_sums(call.task, call.measure, sums);
    }
    return nb::make_tuple(sums.loss, sums.weight, described(problem));
}

// Sum of the losses, and of the weights of the rows that have a target: the class weight of an index target, else 1.
nb::object py_sums(const In& loss, const In& index, const In& weight, int64_t ignore_index) {
    const auto rows = static_cast<int64_t>(loss.ndim() == 1 ? loss.shape(0) : 0);
    const Vector losses = vector_of(loss, rows, "loss");
    Vector classes, weights;
    if (index.is_valid()) {
        require(index.ndim() == 1 && static_cast<int64_t>(index.shape(0)) == rows, "index must have shape (rows,)");
        classes = {index.data(), type_of(index, "index"), index.stride(0)};
        if (weight.is_valid())
            weights = vector_of(weight, static_cast<int64_t>(weight.ndim() == 1 ? weight.shape(0) : 0), "weight");
    }
    const Sums sums = [&] {
        const Unlocked unlocked;
        return sums_of(losses, classes, weights, weight.is_valid() ? static_cast<int64_t>(weight.shape(0)) : 0,
                       ignore_index, rows);
    }();
    return nb::make_tuple(sums.loss, sums.weight);
}

void py_row_grad(TARGET_ARGUMENTS, const In& record, const In& g_loss, const In& g_lse, const In& g_entropy,
                 const Out& grad) {
    Call call = prepare(TARGET_VALUES);
    call.task.record = record_of<const double>(record, call.task);
    call.task.g_loss = vector_of(g_loss, call.task.rows, "g_loss");
    call.task.g_lse = vector_of(g_lse, call.task.rows, "g_lse");
    call.task.g_entropy = vector_of(g_entropy, call.task.rows, "g_entropy");
    set_grad(call.task, logits, grad);
    const Unlocked unlocked;
    row_grad(call.task, call.measure);
}

nb::object py_row_fused(TARGET_ARGUMENTS, const In& loss_scale, const In& lse_squared_scale, RESULT_ARGUMENTS,
                        const Out& grad) {
    Call call = prepare(TARGET_VALUES);
    require(record.is_valid(), record_text.c_str());
    set_results(call.task, record, loss, lse, entropy);
    call.task.loss_scale = vector_of(loss_scale, call.task.rows, "loss_scale");
    call.task.lse_squared_scale = vector_of(lse_squared_scale, call.task.rows, "lse_squared_scale");
    set_grad(call.task, logits, grad);
    Problem problem;
    {
        const Unlocked unlocked;
        problem = row_fused(call.task, call.measure);
    }
    return described(problem);
}

// The sum or mean of few losses, and the gradient into grad if there is one; None where an argument is unusual or
// wrong. The options are the fields of crossent.kernels.cpu.StepOptions.
nb::object py_row_step(nb::handle logits, nb::handle index, nb::handle weight, const nb::tuple& options,
                       nb::handle grad) {
    StepArguments arguments;
    require(options.size() == 6, "options must be StepOptions");
    if (!arguments.read_logits(logits, grad) || !arguments.read_target(index, weight, options[1]) ||
        !arguments.read_options(options[2], options[3], options[4], options[5]))
        return nb::none();
    const bool mean = options[0].is(nb::handle(Py_True));
    Step step;
    {
        const Unlocked unlocked(arguments.task.rows * arguments.task.columns > 4096);
        step = row_step(arguments.task, arguments.measure, mean);
    }
    if (step.problem.row >= 0) return nb::none();
    return nb::float_(step.loss);
}

template <class A>
BinaryTask::Operand operand_of(const A& array, const BinaryTask& task, const char* name) {
    constexpr const char* text = "all operands must be expanded to the shape of the input";
    BinaryTask::Operand operand;
    if (!array.is_valid()) return operand;
    operand.type = real_type_of(array, name);
    require(static_cast<int>(array.ndim()) == task.axes, text);
    operand.data = array.data();
    operand.contiguous = true;
    int64_t expected = 1;
    for (int k = task.axes - 1; k >= 0; --k) {
        require(static_cast<int64_t>(array.shape(static_cast<size_t>(k))) == task.shape[k], text);
        operand.stride[k] = array.stride(static_cast<size_t>(k));
        operand.contiguous =
            operand.contiguous && (task.size == 0 || task.shape[k] <= 1 || operand.stride[k] == expected);
        expected *= task.shape[k];
    }
    return operand;
}

#define BINARY_ARGUMENTS bool probabilities, const In &input, const In &target, const In &weight, const In &pos_weight
#define BINARY_VALUES probabilities, input, target, weight, pos_weight
#define BINARY_NAMES "probabilities"_a, "input"_a, "target"_a, "weight"_a.none(), "pos_weight"_a.none()

BinaryTask binary_task(BINARY_ARGUMENTS) {
    BinaryTask task;
    require(input.ndim() <= static_cast<size_t>(max_axes),
            "arrays of more than 16 axes are not supported; reshape them");
    task.probabilities = probabilities;
    task.axes = static_cast<int>(input.ndim());
    task.size = 1;
    for (int k = 0; k < task.axes; ++k) {
        task.shape[k] = static_cast<int64_t>(input.shape(static_cast<size_t>(k)));
        task.size *= task.shape[k];
    }
    task.input = operand_of(input, task, "input");
    task.target = operand_of(target, task, "target");
    task.weight = operand_of(weight, task, "weight");
    task.pos_weight = operand_of(pos_weight, task, "pos_weight");
    return task;
}

void set_out(BinaryTask& task, const Out& out) {
    const BinaryTask::Operand operand = operand_of(out, task, "out");
    require(operand.contiguous, "out must be contiguous");
    task.out = operand.data;
    task.out_type = operand.type;
}

// Element losses into out, if it is given; returns their sum and the first element that is no probability, or -1.
nb::object py_binary_loss(BINARY_ARGUMENTS, const Out& out) {
    BinaryTask task = binary_task(BINARY_VALUES);
    if (out.is_valid()) set_out(task, out);
    std::vector<double> sums(static_cast<size_t>((task.size + binary_block - 1) / binary_block));
    task.block_sums = sums.data();
    int64_t wrong;
    CompensatedSum total;
    {
        const Unlocked unlocked;
        wrong = binary_loss(task);
        for (const double sum : sums) total.add(sum);
    }
    return nb::make_tuple(total.value(), wrong);
}

void py_binary_grad(BINARY_ARGUMENTS, const In& cotangent, const Out& out) {
    BinaryTask task = binary_task(BINARY_VALUES);
    task.cotangent = operand_of(cotangent, task, "cotangent");
    set_out(task, out);
    const Unlocked unlocked;
    binary_grad(task);
}

int64_t* places_of(const Out& place, int64_t rows) {
    require(place.ndim() == 1 && static_cast<int64_t>(place.shape(0)) == rows && (rows <= 1 || place.stride(0) == 1) &&
                type_of(place, "place") == Type::i64,
            "place must be a contiguous int64 array of shape (rows,)");
    return static_cast<int64_t*>(place.data());
}

void py_row_summary(const In& values, const In& index, const Out& result, const Out& place, bool entropic) {
    SummaryTask task;
    require(values.ndim() == 2, "values must have axes (rows, columns)");
    task.values = matrix_of(values, "values");
    task.rows = static_cast<int64_t>(values.shape(0));
    task.columns = static_cast<int64_t>(values.shape(1));
    task.entropic = entropic;
    if (index.is_valid()) {
        const Type type = type_of(index, "index");
        require(index.ndim() == 1 && static_cast<int64_t>(index.shape(0)) == task.rows && !is_real(type),
                "index must have an integer dtype and shape (rows,)");
        task.index = {index.data(), type, index.stride(0)};
    }
    task.result =
        vectors_of<double>(result, 5, task.rows, "result must be a contiguous float64 array of shape (5, rows)");
    task.place = places_of(place, task.rows);
    const Unlocked unlocked;
    row_summary(task);
}

void py_row_peaks(const In& values, const Out& peak, const Out& place) {
    PeakTask task;
    require(values.ndim() == 2, "values must have axes (rows, columns)");
    task.values = matrix_of(values, "values");
    task.rows = static_cast<int64_t>(values.shape(0));
    task.columns = static_cast<int64_t>(values.shape(1));
    task.peak = vectors_of<double>(peak, 1, task.rows, "peak must be a contiguous float64 array of shape (1, rows)");
    task.place = places_of(place, task.rows);
    const Unlocked unlocked;
    row_peaks(task);
}

// A contiguous float64 or int64 array of so many leading axes' product times (columns, grid_cells).
template <class T>
T* grid_of(const Out& array, int64_t fields, int64_t columns, Type type, const char* text) {
    const size_t axis = array.ndim() < 2 ? 0 : array.ndim() - 2;
    bool fits =
        array.ndim() == (fields == 1 ? 2 : 3) && (fields == 1 || static_cast<int64_t>(array.shape(0)) == fields);
    fits = fits && static_cast<int64_t>(array.shape(axis)) == columns &&
           static_cast<int64_t>(array.shape(axis + 1)) == grid_cells && array.stride(axis + 1) == 1 &&
           (columns <= 1 || array.stride(axis) == grid_cells) &&
           (fields == 1 || array.stride(0) == columns * grid_cells);
    require(fits && type_of(array, "sums and count") == type, text);
    return static_cast<T*>(array.data());
}

void py_class_cells(const In& values, const In& index, const In& weight, const Out& sums, const Out& count,
                    const Out& square) {
    CellTask task;
    require(values.ndim() == 2, "values must have axes (rows, columns)");
    task.values = matrix_of(values, "values");
    task.rows = static_cast<int64_t>(values.shape(0));
    task.columns = static_cast<int64_t>(values.shape(1));
    const Type type = type_of(index, "index");
    require(index.ndim() == 1 && static_cast<int64_t>(index.shape(0)) == task.rows && !is_real(type),
            "index must have an integer dtype and shape (rows,)");
    task.index = {index.data(), type, index.stride(0)};
    if (weight.is_valid()) task.weight = vector_of(weight, task.rows, "weight");
    task.sums = grid_of<double>(sums, 4, task.columns, Type::f64,
                                "sums must be a contiguous float64 array of shape (4, columns, cells)");
    task.count = grid_of<int64_t>(count, 1, task.columns, Type::i64,
                                  "count must be a contiguous int64 array of shape (columns, cells)");
    require(square.ndim() == 1 && static_cast<int64_t>(square.shape(0)) == task.rows &&
                (task.rows <= 1 || square.stride(0) == 1) && type_of(square, "square") == Type::f64,
            "square must be a contiguous float64 array of shape (rows,)");
    task.square = static_cast<double*>(square.data());
    const Unlocked unlocked;
    class_cells(task);
}

void py_math(const std::string& function, const In& in, const Out& out) {
    const Type type = type_of(in, "in");
    require(same_shape(in, out) && in.ndim() == 1 && type == type_of(out, "out") &&
                (type == Type::f32 || type == Type::f64),
            "in and out must be vectors of the same floating-point type");
    for (size_t k = 0; k < std::size(function_names); ++k) {
        if (function == function_names[k])
            return kernels().math(static_cast<Function>(k), type, in.data(), out.data(),
                                  static_cast<int64_t>(in.shape(0)));
    }
    throw nb::value_error(
        "function must be exp, log1p, tanh, tanh_slope, log, log1m, information or one of the excesses");
}

}  // namespace
}  // namespace crossent

NB_MODULE(_core, m) {
    using namespace crossent;
    m.doc() = "The CPU kernels of crossent; crossent.kernels.cpu is their face.";
    m.def("row_stats", &py_row_stats, TARGET_NAMES, RESULT_NAMES, "extend"_a = false);
    m.attr("few_classes") = few_classes;
    m.def("few_sums", &py_few_sums, TARGET_NAMES);
    m.def("sums", &py_sums, "loss"_a, "index"_a.none(), "weight"_a.none(), "ignore_index"_a);
    m.def("row_grad", &py_row_grad, TARGET_NAMES, "record"_a.none(), "g_loss"_a.none(), "g_lse"_a.none(),
          "g_entropy"_a.none(), "grad"_a);
    m.def("row_fused", &py_row_fused, TARGET_NAMES, "loss_scale"_a, "lse_squared_scale"_a.none(), RESULT_NAMES,
          "grad"_a);
    bind_pair(m);
    m.def("row_step", &py_row_step, "logits"_a.none(), "index"_a.none(), "weight"_a.none(), "options"_a,
          "grad"_a.none());
    m.def("binary_loss", &py_binary_loss, BINARY_NAMES, "out"_a.none());
    m.def("binary_grad", &py_binary_grad, BINARY_NAMES, "cotangent"_a, "out"_a);
    m.def("row_summary", &py_row_summary, "values"_a, "index"_a.none(), "result"_a, "place"_a, "entropic"_a);
    m.def("row_peaks", &py_row_peaks, "values"_a, "peak"_a, "place"_a);
    m.def("class_cells", &py_class_cells, "values"_a, "index"_a, "weight"_a.none(), "sums"_a, "count"_a, "square"_a);
    m.attr("grid_cells") = grid_cells;
    m.def("math", &py_math, "function"_a, "in"_a, "out"_a);
    m.def("isa", [] { return isa(); });
    m.def("available_isas", &available_isas);
    m.def("use_isa", &use_isa, "name"_a);
    m.def("lend_threads", [](uintptr_t address) { lend_threads(reinterpret_cast<ParallelFor>(address)); }, "address"_a);
    m.def("threads_are_lent", &threads_are_lent);
    m.def("own_threads", &own_threads);
}
