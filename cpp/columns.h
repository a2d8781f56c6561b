// A tile of rows as columns: `tile_rows` numbers of each class side by side, whatever the strides of the matrix.
// Classes that lie apart in memory, as in (N, C, height, width), are read where they are; rows of a few classes are
// transposed, four by four.
#pragma once

#include <type_traits>

#include "target.h"

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) && __has_builtin(__builtin_convertvector)
#define CROSSENT_SHUFFLES
#endif
#endif

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

// What is moved about in a transposition: the bits of a number, in as many bits as the arithmetic has.
template <class Storage, class T>
constexpr bool fits_words = std::is_same_v<Storage, T> || (sizeof(Storage) == 2 && std::is_same_v<T, float>);

template <class Storage, class T>
CROSSENT_INLINE T as_word(Storage x) {
    if constexpr (std::is_same_v<Storage, T>) return x;
    else return bits<T>(static_cast<uint32_t>(x.value));
}
template <class Storage, class T>
CROSSENT_INLINE Storage from_word(T x) {
    if constexpr (std::is_same_v<Storage, T>) return x;
    else return {static_cast<uint16_t>(bits<uint32_t>(x))};
}

#if defined(CROSSENT_SHUFFLES)
using Words = uint32_t __attribute__((vector_size(16)));
using HalfWords = uint16_t __attribute__((vector_size(8)));

template <class Storage>
CROSSENT_INLINE Words load_words(const Storage* from) {
    if constexpr (sizeof(Storage) == 4) {
        Words words;
        std::memcpy(&words, from, sizeof(words));
        return words;
    } else {
        HalfWords halves;
        std::memcpy(&halves, from, sizeof(halves));
        return __builtin_convertvector(halves, Words);
    }
}

template <class Storage>
CROSSENT_INLINE void store_words(Storage* to, Words words) {
    if constexpr (sizeof(Storage) == 4) {
        std::memcpy(static_cast<void*>(to), &words, sizeof(words));
    } else {
        const HalfWords halves = __builtin_convertvector(words, HalfWords);
        std::memcpy(static_cast<void*>(to), &halves, sizeof(halves));
    }
}

CROSSENT_INLINE void transpose(Words (&x)[4]) {
    const Words low01 = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5),
                low23 = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5),
                high01 = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7),
                high23 = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
    x[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    x[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    x[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    x[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}
#endif

// Calls move(i, v) for every element of a tile, or block(i, v) for four rows and columns from (i, v) on; blocks
// overlap.
template <bool blocks, class Move, class Block>
void by_blocks(int64_t rows, int64_t columns, const Move& move, const Block& block) {
    int64_t i = 0;
    if constexpr (blocks) {
        for (; columns >= 4 && i + 4 <= rows; i += 4) {
            for (int64_t v = 0; v < columns; v += 4) block(i, least(v, columns - 4));
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

template <class Storage, class T>
void transpose_rows(const TileRows<const Storage>& m, T* to) {
    const bool dense = m.rows == tile_rows && m.row_stride == m.columns;
    if (dense && m.columns == 2) return take_apart<2>(m.data, to);
    if (dense && m.columns == 3) return take_apart<3>(m.data, to);
    const auto move = [&](int64_t i, int64_t v) {
        to[v * tile_rows + i] = as_word<Storage, T>(m.data[i * m.row_stride + v]);
    };
    by_blocks<has_blocks<Storage>>(m.rows, m.columns, move,
                                   [&]([[maybe_unused]] int64_t i, [[maybe_unused]] int64_t v) {
#if defined(CROSSENT_SHUFFLES)
                                       Words x[4];
                                       for (int64_t k = 0; k < 4; ++k)
                                           x[k] = load_words(m.data + (i + k) * m.row_stride + v);
                                       transpose(x);
                                       for (int64_t k = 0; k < 4; ++k)
                                           std::memcpy(to + (v + k) * tile_rows + i, &x[k], sizeof(x[k]));
#endif
                                   });
}

template <class Storage, class T>
void transpose_columns(const T* from, const TileRows<Storage>& m) {
    const bool dense = m.rows == tile_rows && m.row_stride == m.columns;
    if (dense && m.columns == 2) return put_together<2>(from, m.data);
    if (dense && m.columns == 3) return put_together<3>(from, m.data);
    const auto move = [&](int64_t i, int64_t v) {
        m.data[i * m.row_stride + v] = from_word<Storage>(from[v * tile_rows + i]);
    };
    by_blocks<has_blocks<Storage>>(m.rows, m.columns, move,
                                   [&]([[maybe_unused]] int64_t i, [[maybe_unused]] int64_t v) {
#if defined(CROSSENT_SHUFFLES)
                                       Words x[4];
                                       for (int64_t k = 0; k < 4; ++k)
                                           std::memcpy(&x[k], from + (v + k) * tile_rows + i, sizeof(x[k]));
                                       transpose(x);
                                       for (int64_t k = 0; k < 4; ++k)
                                           store_words(m.data + (i + k) * m.row_stride + v, x[k]);
#endif
                                   });
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
