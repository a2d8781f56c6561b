// The way of rows of few classes: which sweep, and what is written.
#pragma once

#include "few_across.h"
#include "few_along.h"

namespace crossent {
namespace {

template <class Storage, class Out, template <class, class> class Sweep>
void work_on_few_by(const RowTask& task, int64_t begin, int64_t end, Problem& problem, Sums* sums) {
    using T = typename Compute<Storage>::type;
    FewRows<T> rows(task);
    Sweep<Storage, Out> sweep(rows);
    Lane<double> loss;
    const bool results = rows.has_results(sums != nullptr), gradient = task.grad.data != nullptr;
    for (rows.row = begin; rows.row < end; rows.row += rows.n) {
        const int64_t same_outer = task.inner_rows == 1 ? end : task.inner_rows - rows.row % task.inner_rows;
        rows.n = least(tile_rows, least(end - rows.row, same_outer));
        rows.load();
        if (results && rows.targets.wrong) {
            problem = rows.targets.problem(rows.row, rows.n);
            return;
        }
        if (!rows.targets.any) {
            rows.write_nothing();
            if (gradient) sweep.write_zeros();
            continue;
        }
        sweep.load();
        if (!sweep.sum() && results) {
            problem = sweep.problem();
            return;
        }
        rows.finish(results || !rows.is_plain());
        if (results) rows.write_results(sums == nullptr ? nullptr : &loss);
        if (sums != nullptr) sums->weight += rows.targets.weight;
        if (!gradient) continue;
        rows.set_factors();
        sweep.write_gradient();
    }
    for (int64_t i = 0; i < tile_rows && sums != nullptr; ++i) sums->loss += loss[i];
}

template <class Storage, class Out>
void work_on_few(const RowTask& task, int64_t begin, int64_t end, Problem& problem, Sums* sums) {
    if (FewAlong<Storage, Out>::fits(task))
        return work_on_few_by<Storage, Out, FewAlong>(task, begin, end, problem, sums);
    work_on_few_by<Storage, Out, FewAcross>(task, begin, end, problem, sums);
}

}  // namespace
}  // namespace crossent
