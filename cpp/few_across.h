// Sweeps over a tile whose classes lie side by side (columns.h): a vector holds one class of many rows.
#pragma once

#include "few.h"

namespace crossent {
namespace {

template <class Storage, class Out>
class FewAcross {
    using T = typename Compute<Storage>::type;
    using Int = typename Limits<T>::Int;
    using Bits = std::make_unsigned_t<Int>;

  public:
    explicit FewAcross(FewRows<T>& rows)
        : rows_(rows), task_(rows.task), room_x_(room_), room_e_(after(room_x_)), room_p_(after(room_e_)),
          slope_(after(room_p_)) {}

    void load() {
        x_ = load_columns(rows_of<const Storage>(task_, task_.logits, rows_.row, rows_.n), room_x_);
        if (rows_.capped()) cap();
        if (rows_.targets.dense()) prob_ = load_columns(task_, task_.prob, rows_.row, rows_.n, room_p_);
    }

    // Returns whether all probabilities are finite and not negative.
    bool sum() {
        find_peaks();
        Bits largest = 0;
        const bool kept = task_.grad.data != nullptr;
        for (int64_t first = 0; first < tile_rows; first += lanes<T>) {
            const Bits found = kept ? add_by_options<true>(first) : add_by_options<false>(first);
            largest = std::max(largest, found);
        }
        return largest < bits<Bits>(std::numeric_limits<T>::infinity());
    }

    void write_gradient() {
        const TileRows<Out> grad = rows_of<Out>(task_, task_.grad, rows_.row, rows_.n);
        const bool direct = std::is_same_v<Out, T> && grad.row_stride == 1 && rows_.n == tile_rows;
        T* const to = direct ? reinterpret_cast<T*>(grad.data) : room_e_;
        const int64_t step = direct ? grad.column_stride : tile_rows;
        for (int64_t v = 0; v < task_.columns; ++v) write_by_base(v, to + v * step);
        if (!direct) store_columns(room_e_, grad);
    }

    // The gradient of rows that are all ignored.
    void write_zeros() {
        std::fill_n(room_e_, task_.columns * tile_rows, T(0));
        store_columns(room_e_, rows_of<Out>(task_, task_.grad, rows_.row, rows_.n));
    }

    Problem problem() const {
        for (int64_t i = 0; i < rows_.n; ++i) {
            for (int64_t v = 0; v < task_.columns; ++v) {
                const T p = prob_[v][i];
                if (!is_measure(p)) return {rows_.row + i, v, 0, static_cast<double>(p)};
            }
        }
        return {};
    }

  private:
    static constexpr int64_t gap = 64 / sizeof(T);  // else equal places may lie a multiple of 4096 bytes apart
    FewRows<T>& rows_;
    const RowTask& task_;
    alignas(64) T room_[4 * (few_classes * tile_rows + gap)];
    T *room_x_, *room_e_, *room_p_, *slope_;  // as near each other as the classes allow
    Columns<T> x_, prob_;

    T* after(T* part) const { return part + task_.columns * tile_rows + gap; }

    // Where the lines of a tile are that are fetched one by one while rows [first, first + lanes) are summed.
    template <class Any>
    struct Lines {
        const Any* at;
        int64_t step;
        Lines(const TileRows<Any>& m, int64_t first, int64_t rows_ahead)
            : at(m.data + rows_ahead * m.row_stride + first * (m.column_stride == 1 ? m.columns : 1)),
              step(m.column_stride == 1 ? lanes<T> : m.column_stride) {}
        CROSSENT_INLINE void fetch_next() {
            fetch(at, 1);
            at += step;
        }
    };

    void cap() {
        const LanePhi<T>& phi = rows_.phi;
        const T cap = phi.cap;
        const T* const inner = phi.inner.at;
        for (int64_t v = 0; v < task_.columns; ++v) {
            const T* const z = x_[v];
            T *const x = room_x_ + v * tile_rows, *const slope = slope_ + v * tile_rows;
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) x[i] = capped_score(z[i], inner[i], cap, slope[i]);
        }
        x_ = {room_x_, tile_rows};
    }

    void find_peaks() {
        Lane<T>& peak = rows_.sums.peak;
        std::fill_n(peak.at, tile_rows, -std::numeric_limits<T>::infinity());
        for (int64_t v = 0; v < task_.columns; ++v) {
            const T* const x = x_[v];
#pragma omp simd
            for (int64_t i = 0; i < tile_rows; ++i) peak[i] = either(x[i] > peak[i], x[i], peak[i]);
        }
    }

    template <bool kept>
    Bits add_by_options(int64_t first) {
        if (rows_.capped()) return add_by_base<kept, true, false>(first);
        return rows_.phi.scaled ? add_by_base<kept, false, true>(first) : add_by_base<kept, false, false>(first);
    }

    template <bool kept, bool capped, bool scaled>
    Bits add_by_base(int64_t first) {
        switch (rows_.base()) {
            case Base::dense: return add<kept, capped, scaled, Base::dense, true>(first);
            case Base::spread: return add<kept, capped, scaled, Base::spread, true>(first);
            case Base::none: break;
        }
        return rows_.tilted() ? add<kept, capped, scaled, Base::none, true>(first)
                              : add<kept, capped, scaled, Base::none, false>(first);
    }

    // The sums of rows [first, first + lanes), which stay in registers; `kept` exponentials are for the gradient.
    // Returns the bits of the largest probability: larger than those of infinity for NaN and negative numbers.
    template <bool kept, bool capped, bool scaled, Base base, bool tilted>
    Bits add(int64_t first) {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        constexpr int64_t size = lanes<T>;
        const T zero_log = rows_.phi.zero_log;
        FewSums<T>& s = rows_.sums;
        alignas(64) T reference[size], unit[size], rest[size] = {}, ties[size] = {}, tilt[size] = {}, score[size] = {};
        alignas(64) T mass[size] = {}, target_d[size] = {}, target_e[size] = {}, target_slope[size] = {};
        alignas(64) Int column[size];
        alignas(64) Bits largest[size] = {};
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) {
            reference[k] = reference_of(s.peak[first + k]);
            if (scaled) unit[k] = rows_.phi.unit[first + k];
            column[k] = rows_.targets.column[first + k];
        }
        const T *x = x_[0] + first, *prob = dense ? prob_[0] + first : nullptr, *slope = slope_ + first;
        T* e_ = room_e_ + first;
        Lines<const Storage> next(rows_of<const Storage>(task_, task_.logits, rows_.row, rows_.n), first, tile_rows);
        Lines<Out> grad(kept ? rows_of<Out>(task_, task_.grad, rows_.row, rows_.n) : TileRows<Out>{}, first, 0);
        for (int64_t v = 0; v < task_.columns; ++v) {
            next.fetch_next();
            if (kept) grad.fetch_next();
            const Int v_ = static_cast<Int>(v);
            const T keep = rows_.targets.keep_of[v], spread = rows_.targets.spread_of[v];
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) {
                const T apart = x[k] - reference[k], d = scaled ? apart * unit[k] : apart;
                const T clamped = either(d < zero_log, zero_log, d), e = exp_clamped(clamped);
                const T tie = either(d == T(0), T(1), T(0));
                const bool hit = column[k] == v_;
                rest[k] += e - tie;  // e is exactly 1 at the peak
                ties[k] += tie;
                if (tilted) tilt[k] += e * clamped;
                if (measured) {
                    const T own = dense ? prob[k] * keep : T(0), p = own + spread;
                    score[k] += either(p == T(0), T(0), p * d);
                    mass[k] += own;
                }
                if (dense && !kept) {
                    const Bits found = bits<Bits>(prob[k] + T(0));  // of -0 too, those of 0
                    largest[k] = either(found > largest[k], found, largest[k]);
                }
                if (!dense) target_d[k] += either(hit, d, T(0));  // one column hits
                if (!dense && kept) target_e[k] += either(hit, e, T(0));
                if (!dense && kept && capped) target_slope[k] += either(hit, slope[k], T(0));
                if (kept) e_[k] = e;
            }
            x += x_.step;
            if (dense) prob += prob_.step;
            slope += tile_rows;
            e_ += tile_rows;
        }
        const auto put = [first](const T* from, Lane<T>& to) { std::copy_n(from, size, to.at + first); };
        put(rest, s.rest);
        put(ties, s.ties);
        if (tilted) put(tilt, s.tilt);
        if (measured) put(score, s.target_score);
        if (dense) put(mass, s.mass);
        put(target_d, s.target_d);
        if (kept) put(target_e, s.target_e);
        if (kept && capped) put(target_slope, s.target_slope);
        return *std::max_element(largest, largest + size);
    }

    void write_by_base(int64_t v, T* to) const {
        if (!rows_.is_plain()) return write_general(v, to);
        switch (rows_.base()) {
            case Base::dense: return write_plain<Base::dense>(v, to);
            case Base::spread: return write_plain<Base::spread>(v, to);
            case Base::none: return write_plain<Base::none>(v, to);
        }
    }

    template <Base base>
    void write_plain(int64_t v, T* to) const {
        constexpr bool dense = base == Base::dense, measured = base != Base::none;
        const FewFactors<T>& f = rows_.factors;
        const T *const e = room_e_ + v * tile_rows, *const prob = dense ? prob_[v] : nullptr;
        const T keep = rows_.targets.keep_of[v], spread = rows_.targets.spread_of[v];
        const Int v_ = static_cast<Int>(v);
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T q = either(e[i] >= f.least[i], e[i], T(0)) * f.factor[i];
            const T p = dense ? prob[i] * keep + spread : spread;
            const T value = measured ? q - f.of_target[i] * p : q;
            to[i] = dense ? value : either(rows_.targets.column[i] == v_, f.at_target[i], value);
        }
    }

    void write_general(int64_t v, T* to) const {
        const FewFactors<T>& f = rows_.factors;
        const T *const e = room_e_ + v * tile_rows, *const x = x_[v], *const slope = slope_ + v * tile_rows;
        const bool dense = rows_.targets.dense(), capped = rows_.capped();
        const T* const prob = dense ? prob_[v] : x;
        const T keep = dense ? rows_.targets.keep_of[v] : T(0), spread = rows_.targets.spread_of[v];
        const T* const unit = rows_.phi.unit.at;
        const Int v_ = static_cast<Int>(v);
        Lane<T> p, by;
        for (int64_t i = 0; i < tile_rows; ++i) p[i] = either(dense, prob[i] * keep, T(0)) + spread;
        for (int64_t i = 0; i < tile_rows; ++i) by[i] = capped ? slope[i] : unit[i];
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            const T reference = reference_of(rows_.sums.peak[i]);
            const T logq = (x[i] - reference) * unit[i] - f.log_total[i];
            const T q = either(e[i] >= f.least[i], e[i], T(0)) * f.factor[i];
            const T value =
                (q * (f.a[i] + f.b[i] * either(logq < lowest_log<T>, lowest_log<T>, logq)) - f.c[i] * p[i]) * by[i];
            const T either_ = either(rows_.targets.column[i] == v_, f.at_target[i], value);
            to[i] = either(f.active[i] == T(0), T(0), either_);
        }
    }
};

}  // namespace
}  // namespace crossent
