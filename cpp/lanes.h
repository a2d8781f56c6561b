// Many rows side by side: lane i of every loop is row i of a tile. This is the way for rows that are short, or whose
// classes are apart in memory as in (N, C, height, width); rows.h is the way for long contiguous rows. The formulas are
// the same. Nothing is transposed: each class of the tile is loaded when its turn comes, whatever the strides.
#pragma once

#include "columns.h"
#include "rows.h"

namespace crossent {
namespace {

constexpr int64_t short_row = 32;         // up to this many classes
constexpr int64_t classes_per_fold = 64;  // summed apart, so that roundings do not pile up

struct LaneRecords {
    Lane<double> peak, total, target_score, mass, tilt;

    Record get(int64_t i) const { return {peak[i], total[i], target_score[i], mass[i], tilt[i]}; }
    void set(int64_t i, const Record& r) {
        peak[i] = r.peak, total[i] = r.total, target_score[i] = r.target_score, mass[i] = r.mass, tilt[i] = r.tilt;
    }
};

// Rows [row, row + n), which follow each other at the same distance in every matrix.
struct Tile {
    int64_t row, n;
};

// The scores and the target measure of one class after another.
template <class Storage>
class LaneReader {
    using T = typename Compute<Storage>::type;

  public:
    Lane<T> x, slope, p, base;  // base: p without the smoothing
    const bool capped, measured;

    LaneReader(const RowTask& task, const Tile& tile, const LanePhi<T>& phi)
        : capped(task.softcap > 0), measured((dense(task)) || task.spread != nullptr), task_(task), tile_(tile),
          phi_(phi), first_(offset(task, task.logits, tile.row)), stride_(row_stride(task, task.logits)) {}

    static bool dense(const RowTask& task) { return task.prob.data != nullptr && task.index.data == nullptr; }

    void load(int64_t v) {
        const int64_t at = first_ + v * task_.logits.column_stride;
        load_run<Storage>(task_.logits.data, at, stride_, tile_.n, x.at);
        if (stride_ == 1) {  // classes are far apart: fetch the next tile's
            fetch(static_cast<const Storage*>(task_.logits.data) + at + tile_rows,
                  tile_rows * static_cast<int64_t>(sizeof(Storage)));
        }
        if (!capped) return;
        const T* const inner = phi_.inner.at;  // copies, which no store can change
        const T cap = phi_.cap;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            T score_slope;
            x[i] = capped_score(x[i], inner[i], cap, score_slope);
            slope[i] = score_slope;
        }
    }

    void load_measure(int64_t v, Problem* problem) {
        if (dense(task_)) {
            const Matrix& prob = task_.prob;
            load_run(prob.data, prob.type, offset(task_, prob, tile_.row) + v * prob.column_stride,
                     row_stride(task_, prob), tile_.n, p.at);
            if (problem != nullptr) check(v, *problem);
            const T keep = static_cast<T>(
                task_.keep == nullptr ? task_.keep_all : static_cast<double>(static_cast<const T*>(task_.keep)[v]));
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) base[i] = p[i] * keep;
        }
        const T spread = task_.spread == nullptr ? T(0) : static_cast<const T*>(task_.spread)[v];
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) p[i] = base[i] + spread;
    }

    double score(int64_t i, int64_t column, double& slope_) const {
        const auto* z = static_cast<const Storage*>(task_.logits.data);
        return phi_.score_at(i, z[first_ + i * stride_ + column * task_.logits.column_stride], slope_);
    }

  private:
    // Remembers the wrong probability of the lowest row, and the leftmost one in it.
    void check(int64_t v, Problem& problem) const {
        for (int64_t i = 0; i < tile_.n; ++i) {
            if (!is_measure(p[i]) && (problem.row < 0 || tile_.row + i < problem.row))
                problem = {tile_.row + i, v, 0, static_cast<double>(p[i])};
        }
    }

    const RowTask& task_;
    const Tile& tile_;
    const LanePhi<T>& phi_;
    const int64_t first_, stride_;
};

template <class Storage>
void lane_records(const RowTask& task, const Tile& tile, const LanePhi<typename Compute<Storage>::type>& phi,
                  LaneRecords& records, Problem* problem) {
    using T = typename Compute<Storage>::type;
    LaneReader<Storage> reader(task, tile, phi);
    Lane<T> peak, reference;
#pragma omp simd
    for (int64_t i = 0; i < tile_rows; ++i) peak[i] = -std::numeric_limits<T>::infinity();
    for (int64_t v = 0; v < task.columns; ++v) {
        reader.load(v);
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) peak[i] = reader.x[i] > peak[i] ? reader.x[i] : peak[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < tile_rows; ++i)
        reference[i] = peak[i] == -std::numeric_limits<T>::infinity() ? T(0) : peak[i];

    const T zero_log = phi.zero_log;  // a copy, which no store can change
    const T* const unit = phi.unit.at;
    Lane<double> ties;
    for (int64_t begin = 0; begin < task.columns; begin += classes_per_fold) {
        Lane<T> rest, tied, tilt;
        Lane<double> target_score, mass;
        for (int64_t v = begin; v < least(begin + classes_per_fold, task.columns); ++v) {
            reader.load(v);
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) {
                const T d = (reader.x[i] - reference[i]) * unit[i];
                const T clamped = d < zero_log ? zero_log : d;
                const T e = exp_clamped(clamped);
                const T tie = d == T(0) ? T(1) : T(0);
                rest[i] += e - tie;  // e is exactly 1 at the peak
                tied[i] += tie;
                tilt[i] += e * clamped;
            }
            if (!reader.measured) continue;
            reader.load_measure(v, problem);
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) {
                const T d = (reader.x[i] - reference[i]) * unit[i];
                target_score[i] += static_cast<double>(reader.p[i] == T(0) ? T(0) : reader.p[i] * d);
                mass[i] += static_cast<double>(reader.base[i]);
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            records.total[i] += static_cast<double>(rest[i]);
            ties[i] += static_cast<double>(tied[i]);
            records.tilt[i] += static_cast<double>(tilt[i]);
            records.target_score[i] += target_score[i];
            records.mass[i] += mass[i];
        }
    }
    const bool is_capped = reader.capped;
#pragma omp simd
    for (int64_t i = 0; i < tile_rows; ++i) {
        records.total[i] += ties[i];
        records.mass[i] += task.spread_total;
        records.peak[i] = static_cast<double>(peak[i]) * (is_capped ? 1 : phi.score_unit[i]);
    }
    for (int64_t i = 0; i < tile.n && task.picks > 0; ++i) {
        const int64_t row = tile.row + i;
        if (ignored(task, row)) {
            records.set(i, ignored_record);
            continue;
        }
        Record picked;
        for (int64_t pick = 0; pick < task.picks; ++pick) {
            const int64_t column = pick_column(task, row, pick);
            if (column < 0) continue;
            double slope;
            const double measure = pick_measure<T>(task, row, pick, column), score = reader.score(i, column, slope);
            picked.mass += measure;
            if (measure != 0)
                picked.target_score += measure * (records.peak[i] == -infinity ? score : score - records.peak[i]);
        }
        records.mass[i] += picked.mass;
        records.target_score[i] += picked.target_score;
    }
}

struct LaneCoefficients {
    Lane<double> a, b, c;

    void set(int64_t i, const Coefficients& r) { a[i] = r.a, b[i] = r.b, c[i] = r.c; }
};

// Gradient at the picked columns, by pick and lane; it is written after the loops over all classes.
template <class Storage>
void lane_patches(const RowTask& task, const Tile& tile, const LaneReader<Storage>& reader, const LaneRecords& records,
                  const Lane<double>& log_total, const LaneCoefficients& coefficients, double* patches) {
    using T = typename Compute<Storage>::type;
    for (int64_t pick = 0; pick < task.picks; ++pick) {
        Lane<double> logq, slope, measure;
        for (int64_t i = 0; i < tile.n; ++i) {
            const int64_t row = tile.row + i, column = pick_column(task, row, pick);
            if (column < 0) continue;
            measure[i] = task.spread == nullptr ? 0 : static_cast<double>(static_cast<const T*>(task.spread)[column]);
            for (int64_t other = 0; other < task.picks; ++other) {  // the same class may be picked twice
                if (pick_column(task, row, other) == column) measure[i] += pick_measure<T>(task, row, other, column);
            }
            logq[i] = reader.score(i, column, slope[i]) - records.peak[i] - log_total[i];
        }
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const double a = coefficients.a[i], b = coefficients.b[i], c = coefficients.c[i], log = logq[i];
            double power, rest;
            exp_parts(either(log < Limits<double>::zero_log, Limits<double>::zero_log, log), power, rest);
            const double q_less_1 = power * rest + (power - 1), q = power + power * rest;
            const double entropic = either(q == 0, 0.0, b * q * log);
            const double target = either(measure[i] == 0, 0.0, c * measure[i]);
            patches[pick * tile_rows + i] = slope[i] * (a * q_less_1 + (a - target) + entropic);
        }
    }
}

template <class Storage, class Out>
void lane_gradient(const RowTask& task, const Tile& tile, const LanePhi<typename Compute<Storage>::type>& phi,
                   const LaneRecords& records, const LaneCoefficients& coefficients, double* patches) {
    using T = typename Compute<Storage>::type;
    LaneReader<Storage> reader(task, tile, phi);
    const int64_t first = offset(task, task.grad, tile.row), stride = row_stride(task, task.grad);
    Lane<double> log_total;
#pragma omp simd
    for (int64_t i = 0; i < tile_rows; ++i) log_total[i] = log_positive(records.total[i]);
    lane_patches(task, tile, reader, records, log_total, coefficients, patches);

    bool entropic = false;
    Lane<T> active, peak, floor, factor, log_total_, a, b, c, simple, result;  // simple: q a, whatever is beside it
    for (int64_t i = 0; i < tile.n; ++i) {
        const bool wanted = coefficients.a[i] != 0 || coefficients.b[i] != 0 || coefficients.c[i] != 0;
        active[i] = wanted && !ignored(task, tile.row + i) ? T(1) : T(0);
        entropic = entropic || coefficients.b[i] != 0;
    }
    const bool linear = !reader.capped && !reader.measured, plain = linear && !entropic;
#pragma omp simd
    for (int64_t i = 0; i < tile_rows; ++i) {
        const bool own = linear && coefficients.b[i] == 0;
        const double scale =
            own ? coefficients.a[i] * static_cast<double>(phi.unit[i]) / records.total[i] : 1 / records.total[i];
        const double size =
            std::fabs(own ? scale : scale * (std::fabs(coefficients.a[i]) + std::fabs(coefficients.b[i])));
        simple[i] = own ? T(1) : T(0);
        floor[i] = static_cast<T>(size < 1 ? Limits<T>::smallest - log_of_power_below(size) : Limits<T>::smallest);
        factor[i] = static_cast<T>(scale);
        peak[i] = static_cast<T>(reader.capped ? records.peak[i] : records.peak[i] * phi.temperature[i]);
        log_total_[i] = static_cast<T>(log_total[i]);
        a[i] = static_cast<T>(coefficients.a[i]);
        b[i] = static_cast<T>(coefficients.b[i]);
        c[i] = static_cast<T>(coefficients.c[i]);
    }
    const T* const unit = phi.unit.at;
    const T *const p = reader.p.at, *const by = reader.capped ? reader.slope.at : unit;
    for (int64_t v = 0; v < task.columns; ++v) {
        reader.load(v);
        if (plain) {
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) {
                const T value = exp_nonpositive((reader.x[i] - peak[i]) * unit[i], floor[i]) * factor[i];
                result[i] = active[i] == T(0) ? T(0) : value;
            }
        } else {
            if (reader.measured) reader.load_measure(v, nullptr);
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) {
                const T d = (reader.x[i] - peak[i]) * unit[i];
                const T q = exp_nonpositive(d, floor[i]) * factor[i];
                const T logq = d - log_total_[i];
                const T value = q * (a[i] + b[i] * either(logq < lowest_log<T>, lowest_log<T>, logq)) - c[i] * p[i];
                const T general = value * by[i];
                result[i] = either(active[i] == T(0), T(0), either(simple[i] == T(0), general, q));
            }
        }
        store_run(static_cast<Out*>(task.grad.data) + first + v * task.grad.column_stride, stride, tile.n, result.at);
    }
    for (int64_t i = 0; i < tile.n; ++i) {
        for (int64_t pick = 0; pick < task.picks && active[i] != T(0); ++pick) {
            const int64_t column = pick_column(task, tile.row + i, pick);
            const T value = static_cast<T>(patches[pick * tile_rows + i]);
            if (column >= 0)
                static_cast<Out*>(task.grad.data)[first + i * stride + column * task.grad.column_stride] =
                    Narrow<Out>::from(value);
        }
    }
}

}  // namespace
}  // namespace crossent
