// A tile of rows as columns: `tile_rows` numbers of each class side by side, whatever the strides of the matrix.
// Classes that lie apart in memory, as in (N, C, height, width), are read where they are; rows of a few classes are
// transposed.
#pragma once

#include <algorithm>

#include "target.h"
#include "vectors.h"

namespace crossent {
namespace {

constexpr int64_t tile_rows = 64;

template <class T>
struct Lane {  // a number of each row of a tile
    alignas(64) T at[tile_rows];
    Lane() : at{} {}
    T& operator[](int64_t i) { return at[i]; }
    const T& operator[](int64_t i) const { return at[i]; }
};

// phi of each row of a tile: as in Phi, side by side. Made once for a task, and loaded for a tile.
template <class T>
struct LanePhi {
    T cap, zero_log;
    bool scaled;  // whether a unit may be another number than 1
    Lane<T> inner, unit;
    Lane<double> temperature, score_unit;

    explicit LanePhi(const RowTask& task) {
        const Phi<T> phi(task, task.temperature);
        cap = phi.cap, zero_log = phi.zero_log;
        scaled = phi.unit != T(1) || task.row_temperature.data != nullptr;
        std::fill_n(inner.at, tile_rows, phi.inner);
        std::fill_n(unit.at, tile_rows, phi.unit);
        std::fill_n(temperature.at, tile_rows, phi.temperature);
        std::fill_n(score_unit.at, tile_rows, phi.score_unit);
    }

    // Takes the temperatures of rows [row, row + n), if rows have their own.
    void load(const RowTask& task, int64_t row, int64_t n) {
        const Vector& own = task.row_temperature;
        if (own.data == nullptr) return;
        load_run(own.data, own.type, row * own.stride, own.stride, n, temperature.at);
        const double softcap = task.softcap;
        const bool capped = softcap > 0;
#pragma omp simd
        for (int64_t i = 0; i < tile_rows; ++i) {
            score_unit[i] = 1 / temperature[i];
            inner[i] = static_cast<T>(capped ? 1 / (temperature[i] * softcap) : 0);
            unit[i] = static_cast<T>(capped ? 1 : score_unit[i]);
        }
    }

    template <class Storage>
    double score_at(int64_t i, Storage z, double& slope) const {
        return crossent::score_at(z, cap, inner[i], score_unit[i], slope);
    }
};

// Column v of a tile begins at first + v * step.
template <class T>
struct Columns {
    const T* first = nullptr;
    int64_t step = tile_rows;
    const T* operator[](int64_t v) const { return first + v * step; }
};

// Rows of a tile in a matrix: element (i, v) is data[i * row_stride + v * column_stride].
template <class Storage>
struct TileRows {
    Storage* data;
    int64_t row_stride, column_stride, rows, columns;
};

template <class Storage>
TileRows<Storage> rows_of(const RowTask& task, const Matrix& m, int64_t row, int64_t rows) {
    return {static_cast<Storage*>(m.data) + offset(task, m, row), row_stride(task, m), m.column_stride, rows,
            task.columns};
}

// Calls move(i, v) for every element of a tile, or block(i, v) for some rows, and columns [v, v + width); blocks
// overlap.
template <bool blocks, class Move, class Block>
void by_blocks(int64_t rows, int64_t columns, int64_t width, const Move& move, const Block& block) {
    int64_t i = 0;
    if constexpr (blocks) {
        for (; columns >= width && i + quad_rows <= rows; i += quad_rows) {
            for (int64_t v = 0; v < columns; v += width) block(i, least(v, columns - width));
        }
    }
    for (; i < rows; ++i) {
        for (int64_t v = 0; v < columns; ++v) move(i, v);
    }
}

#if defined(CROSSENT_SHUFFLES)
template <class Storage>
constexpr bool has_blocks = sizeof(Storage) <= 4;
#else
template <class Storage>
constexpr bool has_blocks = false;
#endif

// A few columns beside each other, whose number the compiler knows.
template <int64_t columns, class Storage, class T>
void take_apart(const Storage* from, T* to) {
    for (int64_t i = 0; i < tile_rows; ++i) {
        for (int64_t v = 0; v < columns; ++v) to[v * tile_rows + i] = as_word<Storage, T>(from[i * columns + v]);
    }
}
template <int64_t columns, class Storage, class T>
void put_together(const T* from, Storage* to) {
    for (int64_t i = 0; i < tile_rows; ++i) {
        for (int64_t v = 0; v < columns; ++v) to[i * columns + v] = from_word<Storage>(from[v * tile_rows + i]);
    }
}

#if defined(CROSSENT_SHUFFLES)
// A block of rows becomes columns `tile_rows` apart, and the other way round. Narrow numbers are moved two in a word
// where a row has eight of them.
template <bool paired, class Storage, class T>
CROSSENT_INLINE void block_to_columns(const Storage* from, int64_t stride, T* to) {
    using Vector = VectorOf<quad_rows>::Words;
    Quads x[4];
    for (int64_t k = 0; k < 4; ++k) {
        x[k] = make_quads([&](int64_t j) {
            const Storage* const row = from + (4 * j + k) * stride;
            if constexpr (!paired) return load_words<4>(row);
            else return load_bytes<Words>(row);
        });
    }
    transpose(x);
    for (int64_t k = 0; k < 4; ++k) {
        if constexpr (paired) {
            const Vector both = bits<Vector>(x[k]), low = both & 0xffffu, high = both >> 16;
            std::memcpy(to + 2 * k * tile_rows, &low, sizeof(low));
            std::memcpy(to + (2 * k + 1) * tile_rows, &high, sizeof(high));
        } else {
            std::memcpy(to + k * tile_rows, &x[k], sizeof(x[k]));
        }
    }
}
template <bool paired, class Storage, class T>
CROSSENT_INLINE void block_to_rows(const T* from, Storage* to, int64_t stride) {
    using Vector = VectorOf<quad_rows>::Words;
    Quads x[4];
    for (int64_t k = 0; k < 4; ++k) {
        if constexpr (paired) {
            const auto low = load_bytes<Vector>(from + 2 * k * tile_rows),
                       high = load_bytes<Vector>(from + (2 * k + 1) * tile_rows);
            x[k] = bits<Quads>(low | (high << 16));
        } else {
            x[k] = load_bytes<Quads>(from + k * tile_rows);
        }
    }
    transpose(x);
    for (int64_t k = 0; k < 4; ++k) {
        take_quads(x[k], [&](int64_t j, Words words) {
            Storage* const row = to + (4 * j + k) * stride;
            if constexpr (paired) std::memcpy(static_cast<void*>(row), &words, sizeof(words));
            else store_words<4>(row, words);
        });
    }
}
#endif

template <class Storage, class T>
void transpose_rows(const TileRows<const Storage>& m, T* to) {
    const bool dense = m.rows == tile_rows && m.row_stride == m.columns;
    if (dense && m.columns == 2) return take_apart<2>(m.data, to);
    if (dense && m.columns == 3) return take_apart<3>(m.data, to);
    const auto move = [&](int64_t i, int64_t v) {
        to[v * tile_rows + i] = as_word<Storage, T>(m.data[i * m.row_stride + v]);
    };
    const auto block = [&]([[maybe_unused]] auto paired) {
        return [&, paired]([[maybe_unused]] int64_t i, [[maybe_unused]] int64_t v) {
#if defined(CROSSENT_SHUFFLES)
            block_to_columns<paired>(m.data + i * m.row_stride + v, m.row_stride, to + v * tile_rows + i);
#endif
        };
    };
    if constexpr (sizeof(Storage) == 2) {
        if (m.columns >= 8) return by_blocks<has_blocks<Storage>>(m.rows, m.columns, 8, move, block(std::true_type{}));
    }
    by_blocks<has_blocks<Storage>>(m.rows, m.columns, 4, move, block(std::false_type{}));
}

template <class Storage, class T>
void transpose_columns(const T* from, const TileRows<Storage>& m) {
    const bool dense = m.rows == tile_rows && m.row_stride == m.columns;
    if (dense && m.columns == 2) return put_together<2>(from, m.data);
    if (dense && m.columns == 3) return put_together<3>(from, m.data);
    const auto move = [&](int64_t i, int64_t v) {
        m.data[i * m.row_stride + v] = from_word<Storage>(from[v * tile_rows + i]);
    };
    const auto block = [&]([[maybe_unused]] auto paired) {
        return [&, paired]([[maybe_unused]] int64_t i, [[maybe_unused]] int64_t v) {
#if defined(CROSSENT_SHUFFLES)
            block_to_rows<paired>(from + v * tile_rows + i, m.data + i * m.row_stride + v, m.row_stride);
#endif
        };
    };
    if constexpr (sizeof(Storage) == 2) {
        if (m.columns >= 8) return by_blocks<has_blocks<Storage>>(m.rows, m.columns, 8, move, block(std::true_type{}));
    }
    by_blocks<has_blocks<Storage>>(m.rows, m.columns, 4, move, block(std::false_type{}));
}

// The columns of a tile: where they are, or in `room`; rows beyond the last one are zeros.
template <class Storage, class T>
Columns<T> load_columns(const TileRows<const Storage>& m, T* room) {
    if constexpr (std::is_same_v<Storage, T>) {
        if (m.row_stride == 1 && m.rows == tile_rows) return {m.data, m.column_stride};
    }
    bool moved = false;
    if constexpr (fits_words<Storage, T>) {
        moved = m.column_stride == 1 && m.row_stride != 1;
        if (moved) transpose_rows(m, room);
        if (moved && !std::is_same_v<Storage, T>) {
#pragma omp simd
            for (int64_t k = 0; k < m.columns * tile_rows; ++k) room[k] = widen(from_word<Storage>(room[k]));
        }
    }
    for (int64_t v = 0; v < m.columns && !moved; ++v)
        load_run<Storage>(m.data, v * m.column_stride, m.row_stride, m.rows, room + v * tile_rows);
    for (int64_t v = 0; v < m.columns && m.rows < tile_rows; ++v)
        std::fill(room + v * tile_rows + m.rows, room + (v + 1) * tile_rows, T(0));
    return {room, tile_rows};
}

// The same for columns of any real type.
template <class T>
Columns<T> load_columns(const RowTask& task, const Matrix& m, int64_t row, int64_t rows, T* room) {
    switch (m.type) {
        case Type::f32: return load_columns(rows_of<const float>(task, m, row, rows), room);
        case Type::f64: return load_columns(rows_of<const double>(task, m, row, rows), room);
        case Type::bf16: return load_columns(rows_of<const bfloat16>(task, m, row, rows), room);
        case Type::f16: return load_columns(rows_of<const float16>(task, m, row, rows), room);
        default: return {};
    }
}

template <class Storage>
void store_run(Storage* to, int64_t stride, int64_t n, const typename Compute<Storage>::type* from) {
    if (stride == 1) {
        for (int64_t i = 0; i < n; ++i) to[i] = Narrow<Storage>::from(from[i]);
    } else {
        for (int64_t i = 0; i < n; ++i) to[i * stride] = Narrow<Storage>::from(from[i]);
    }
}

// Writes the columns in `room`, which it may change, to a matrix.
template <class Storage>
void store_columns(typename Compute<Storage>::type* room, const TileRows<Storage>& m) {
    using T = typename Compute<Storage>::type;
    if (m.column_stride == 1 && m.row_stride != 1) {
        if constexpr (!std::is_same_v<Storage, T>) {
#pragma omp simd
            for (int64_t k = 0; k < m.columns * tile_rows; ++k)
                room[k] = as_word<Storage, T>(Narrow<Storage>::from(room[k]));
        }
        transpose_columns(room, m);
    } else {
        for (int64_t v = 0; v < m.columns; ++v)
            store_run(m.data + v * m.column_stride, m.row_stride, m.rows, room + v * tile_rows);
    }
}

}  // namespace
}  // namespace crossent
