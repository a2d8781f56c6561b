// The targets of a tile of rows of few classes, read once and in their own type.
#pragma once

#include <algorithm>

#include "columns.h"

namespace crossent {
namespace {

template <class T>
class FewTargets {
    using Int = typename Limits<T>::Int;

  public:
    Lane<Int> column, valid;    // -1: the row has no class here; 0: it is ignored
    Lane<T> keep, own, others;  // measure of the target without smoothing; smoothing of it, and of all other columns
    T keep_of[few_classes] = {}, spread_of[few_classes] = {};  // of each class, as in RowTask
    double weight = 0;                                         // of all rows
    bool any = true, wrong = false;

    explicit FewTargets(const RowTask& task) : task_(task) {
        std::fill_n(keep_of, task.columns, static_cast<T>(task.keep_all));
        if (task.keep != nullptr) std::copy_n(static_cast<const T*>(task.keep), task.columns, keep_of);
        if (task.spread != nullptr) std::copy_n(static_cast<const T*>(task.spread), task.columns, spread_of);
        std::fill_n(column.at, tile_rows, Int(-1));
        if (dense()) std::fill_n(valid.at, tile_rows, Int(1));
    }

    bool dense() const { return task_.index.data == nullptr; }

    // Reads the targets of rows [row, row + n); rows beyond them are ignored.
    void load(int64_t row, int64_t n) {
        if (n < tile_rows) {
            std::fill_n(column.at, tile_rows, Int(-1));
            std::fill_n(valid.at, tile_rows, Int(0));
        }
        if (dense()) {
            std::fill_n(valid.at, n, Int(1));
            weight = static_cast<double>(n);
            return;
        }
        with_labels([&](auto label) {
            using Label = decltype(label);
            const int64_t stride = task_.index.outer_stride;
            const Label* const from = static_cast<const Label*>(task_.index.data) + row * stride;
            stride == 1 ? load_labels<true>(from, 1, n) : load_labels<false>(from, stride, n);
        });
        const bool weighted = task_.weight.data != nullptr, smoothed = task_.spread != nullptr;
        if (weighted || smoothed) return load_measures(n);
        const T keep_all = static_cast<T>(task_.keep_all);
        Int count = 0;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) keep[i] = either(column[i] < 0, T(0), keep_all);
        for (int64_t i = 0; i < tile_rows; ++i) count += valid[i];
        weight = static_cast<double>(count);
    }

    // The first class of rows [row, row + n) that there is not.
    Problem problem(int64_t row, int64_t n) const {
        for (int64_t at = row; at < row + n; ++at) {
            const int64_t label = load_integer(task_.index.data, task_.index.type, at * task_.index.outer_stride);
            if (label != task_.ignore_index && (label < 0 || label >= task_.num_classes)) return {at, -1, label, 0};
        }
        return {};
    }

  private:
    const RowTask& task_;

    template <class Label>
    static CROSSENT_INLINE int64_t saturated(Label label) {  // 2^64 - 100 is no -100
        if constexpr (std::is_same_v<Label, uint64_t>) {
            return label > uint64_t{INT64_MAX} ? INT64_MAX : static_cast<int64_t>(label);
        } else {
            return label;
        }
    }

    template <bool contiguous, class Label>
    void load_labels(const Label* from, int64_t stride, int64_t n) {
        const int64_t ignore = task_.ignore_index, first = task_.first_class;
        const auto classes = static_cast<uint64_t>(task_.num_classes), here = static_cast<uint64_t>(task_.columns);
        Int wrongs = 0, valids = 0;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t label = saturated(from[contiguous ? i : i * stride]);
            const auto local = static_cast<uint64_t>(label) - static_cast<uint64_t>(first);
            const bool counts = label != ignore;
            valid[i] = counts ? 1 : 0;
            column[i] = counts && local < here ? static_cast<Int>(local) : -1;
            wrongs |= counts && static_cast<uint64_t>(label) >= classes ? 1 : 0;
            valids |= counts ? 1 : 0;
        }
        any = valids != 0;
        wrong = wrongs != 0;
    }

    void load_measures(int64_t n) {
        weight = 0;
        std::fill_n(keep.at, tile_rows, T(0));
        for (int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<int64_t>(column[i]);
            keep[i] = at < 0 ? T(0) : keep_of[at];
            own[i] = at < 0 ? T(0) : spread_of[at];
            others[i] = static_cast<T>(task_.spread_total - static_cast<double>(own[i]));
            const bool weighted = at >= 0 && task_.weight.data != nullptr;
            const double one =
                weighted ? load_real<double>(task_.weight.data, task_.weight.type, at * task_.weight.stride) : 1;
            weight += valid[i] == 0 ? 0 : one;
        }
    }

    template <class Call>
    void with_labels(const Call& call) const {
        switch (task_.index.type) {
            case Type::i8: return call(int8_t{});
            case Type::i16: return call(int16_t{});
            case Type::i32: return call(int32_t{});
            case Type::i64: return call(int64_t{});
            case Type::u8: return call(uint8_t{});
            case Type::u16: return call(uint16_t{});
            case Type::u32: return call(uint32_t{});
            case Type::u64: return call(uint64_t{});
            default: return;
        }
    }
};

}  // namespace
}  // namespace crossent
