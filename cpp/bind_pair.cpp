// The functions of a row and its teacher's, as Python sees them.
#include <nanobind/stl/optional.h>

#include <optional>

#include "row_arguments.h"
#include "unlocked.h"

using namespace nanobind::literals;

namespace crossent {
namespace {

#define TEACHER_ARGUMENTS                                                                                            \
    const In &teacher_logits, double teacher_temperature, double teacher_softcap, const In &teacher_row_temperature, \
        const In &teacher_record, std::optional<double> beta
#define TEACHER_VALUES \
    teacher_logits, teacher_temperature, teacher_softcap, teacher_row_temperature, teacher_record, beta
#define TEACHER_NAMES                                                                                     \
    "teacher_logits"_a, "teacher_temperature"_a, "teacher_softcap"_a, "teacher_row_temperature"_a.none(), \
        "teacher_record"_a, "beta"_a.none()

double* record_over(const In& record, int64_t rows) {
    require(record.is_valid(), record_text.c_str());
    return const_cast<double*>(vectors_of<const double>(record, record_fields, rows, record_text.c_str()));
}

PairTask paired(const RowTask& student, const In& logits, TEACHER_ARGUMENTS) {
    PairTask task;
    task.student = student;
    require(same_shape(logits, teacher_logits), "the teacher's logits must have the shape of the logits");
    set_rows(task.teacher, teacher_logits, teacher_temperature, teacher_softcap, teacher_row_temperature);
    task.teacher.record = record_over(teacher_record, student.rows);
    if (beta.has_value()) {
        require(*beta > 0 && *beta < 1, "beta must be between 0 and 1, and neither");
        task.beta = *beta;
        task.rest = 1 - *beta;
    }
    return task;
}

template <class T, class A>
double* sums_over(const A& sums, int64_t rows) {
    return const_cast<double*>(
        vectors_of<T>(sums, pair_sums, rows, "sums must be a contiguous float64 array of shape (4, rows)"));
}

void py_pair_stats(const In& logits, double temperature, double softcap, const In& row_temperature, const In& record,
                   TEACHER_ARGUMENTS, const Out& sums, bool extend) {
    RowTask student;
    set_rows(student, logits, temperature, softcap, row_temperature);
    student.record = record_over(record, student.rows);
    PairTask task = paired(student, logits, TEACHER_VALUES);
    task.sums = sums_over<double>(sums, student.rows);
    task.extend = extend;
    const Unlocked unlocked;
    pair_stats(task);
}

void py_pair_grad(TARGET_ARGUMENTS, const In& record, TEACHER_ARGUMENTS, const In& sums, const In& g_loss,
                  const In& g_lse, const In& g_entropy, const In& g_kl, const In& g_reverse_kl, const In& g_js,
                  const Out& grad) {
    Call call = prepare(TARGET_VALUES);
    RowTask& student = call.task;
    student.record = record_over(record, student.rows);
    student.g_loss = vector_of(g_loss, student.rows, "g_loss");
    student.g_lse = vector_of(g_lse, student.rows, "g_lse");
    student.g_entropy = vector_of(g_entropy, student.rows, "g_entropy");
    set_grad(student, logits, grad);
    PairTask task = paired(student, logits, TEACHER_VALUES);
    task.sums = sums_over<const double>(sums, student.rows);
    task.g_kl = vector_of(g_kl, student.rows, "g_kl");
    task.g_reverse = vector_of(g_reverse_kl, student.rows, "g_reverse_kl");
    require(!g_js.is_valid() || beta.has_value(), "a cotangent of js needs its beta");
    task.g_js = vector_of(g_js, student.rows, "g_js");
    const Unlocked unlocked;
    pair_grad(task, call.measure);
}

}  // namespace

void bind_pair(nb::module_& module) {
    module.def("pair_stats", &py_pair_stats, "logits"_a, "temperature"_a, "softcap"_a, "row_temperature"_a.none(),
               "record"_a, TEACHER_NAMES, "sums"_a, "extend"_a);
    module.def("pair_grad", &py_pair_grad, TARGET_NAMES, "record"_a, TEACHER_NAMES, "sums"_a, "g_loss"_a.none(),
               "g_lse"_a.none(), "g_entropy"_a.none(), "g_kl"_a.none(), "g_reverse_kl"_a.none(), "g_js"_a.none(),
               "grad"_a);
}

}  // namespace crossent
