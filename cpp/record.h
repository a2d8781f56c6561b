// The row record: sums over the columns of a row, relative to its peak. The same as crossent.stats.RowStats.
//
// A new statistic is a member of Record, the last, and an entry of record_members; what it becomes at another peak is a
// line of shift, and its sum a line of merge. Its accumulators are in `add` of rows.h (long rows) and in `LaneRecords`
// and `lane_records` of lanes.h (rows side by side); core_test_rows.h says what it must be. Everything else asks
// record_fields.
#pragma once

#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>

namespace crossent {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Record {
    double peak = -infinity, total = 0, target_score = 0, mass = 0, tilt = 0;
};

constexpr double Record::* record_members[] = {&Record::peak, &Record::total, &Record::target_score, &Record::mass,
                                               &Record::tilt};
constexpr int64_t record_fields = std::size(record_members);

// The record of a row without a target: peak 0, total 1, and zeros, a new statistic included.
constexpr Record ignored_record = {0, 1};

// The loss. A target without mass costs nothing, whatever the scores are: a weight of 0 removes the row.
inline double loss_of(const Record& r, double log_total) {
    return (r.mass == 0 ? 0 : r.mass * log_total) - r.target_score;
}

// Whether a row whose target has no mass holds what would make its gradient NaN.
inline bool is_removed(const Record& r, double g_loss) {
    return r.mass == 0 && r.target_score == 0 && !std::isfinite(r.peak + r.total + g_loss);
}

inline void shift(Record& r, double peak) {
    const double by = r.peak - peak;
    if (by == 0) return;
    const double scale = std::exp(by);
    r.tilt = scale == 0 ? scale * r.total : scale * (r.tilt + r.total * by);
    r.total *= scale;
    r.target_score += r.mass == 0 ? 0 : r.mass * by;
}

inline void merge(Record& r, Record part) {
    const double peak = r.peak > part.peak ? r.peak : part.peak;
    if (peak > -infinity) {
        shift(r, peak);
        shift(part, peak);
    }
    r = {peak, r.total + part.total, r.target_score + part.target_score, r.mass + part.mass, r.tilt + part.tilt};
}

}  // namespace
}  // namespace crossent
