// Tasks of the kernels, as plain data: shared by the binding and by the objects of every instruction set.
#pragma once

#include <cstdint>

namespace crossent {

enum class Type : int32_t { f32, f64, bf16, f16, i8, i16, i32, i64, u8, u16, u32, u64 };

constexpr int max_axes = 16;
constexpr int64_t block_bytes = 16384;  // of scores that rows.h works on at a time
constexpr int64_t few_classes = 128;    // up to this many, a row's statistics are cheaper to recompute than to keep

// Rows and columns of an array: element (row, column) with row = outer * inner_rows + inner.
struct Matrix {
    void* data = nullptr;
    Type type = Type::f32;
    int64_t outer_stride = 0, inner_stride = 0, column_stride = 0;  // in elements
};

// One number for each row; no data: zeros.
struct Vector {
    const void* data = nullptr;
    Type type = Type::f32;
    int64_t stride = 0;
};

// The first entry of a target, or temperature of a row, that cannot be; row < 0: there is none.
struct Problem {
    int64_t row = -1, column = 0, index = 0;  // of a class the column is -1, of a temperature -2
    double prob = 0;                          // or the temperature
};

// Logits, target and options of a row function, and where its results go.
struct RowTask {
    int64_t rows = 0, columns = 0, inner_rows = 1;
    Matrix logits;
    Matrix grad;                 // laid out freely, type of the logits or bf16 for f32; may be the logits themselves
    Matrix index;                // integer (rows, picks), or no data
    Matrix prob;                 // (rows, picks) beside an index, else (rows, columns)
    int64_t picks = 0;           // 1 for a class index, K for top-k
    const void* keep = nullptr;  // (columns,) in compute type: class weight times (1 - smoothing), or none for keep_all
    const void* spread = nullptr;  // (columns,) in compute type: class weight times smoothing / num_classes, or none
    double keep_all = 1;
    const double* spread_mass = nullptr;  // sum of spread over each block of columns that rows.h takes, or none
    double spread_total = 0;
    int64_t ignore_index = 0, first_class = 0, num_classes = 0;
    Vector weight;                        // (columns,) class weights as they were passed, or none
    double temperature = 1, softcap = 0;  // softcap 0: none
    Vector row_temperature;               // (rows,) in place of the temperature, or none
    double* record = nullptr;             // (record_fields, rows), record.h; none for few_rows
    bool extend = false;                  // row_stats: the record holds other columns of the rows already
    void *loss = nullptr, *lse = nullptr, *entropy = nullptr;  // (rows,) in compute type, or none
    Vector g_loss, g_lse, g_entropy;                           // cotangents of row_grad
    Vector loss_scale, lse_squared_scale;                      // of row_fused: cotangents of loss and of lse^2
};

// A row and its teacher's, another model's of the same classes: sums over their columns, and the gradient by the logits
// of the row. Of the teacher's task logits, temperature, softcap and record are read.
constexpr int64_t pair_sums = 4;  // KL(p|q), KL(q|p), KL(p|m), KL(q|m) for teacher p, student q, mixture m
struct PairTask {
    RowTask student, teacher;
    double beta = 0, rest = 0;  // shares of teacher and student in the mixture; 0: no mixture is wanted
    bool extend = false;        // pair_stats: the sums hold other columns already
    double* sums = nullptr;     // (pair_sums, rows)
    Vector g_kl, g_reverse, g_js;
};

// Sum of row losses, and of the weights of the rows that have a target: what a mean needs.
struct Sums {
    double loss = 0, weight = 0;
};

// Elementwise binary cross-entropy on arrays broadcast to one shape; a missing array is 1.
struct BinaryTask {
    bool probabilities = false;  // else logits
    int64_t size = 0;
    int axes = 0;
    int64_t shape[max_axes] = {};
    struct Operand {
        void* data = nullptr;
        Type type = Type::f32;
        int64_t stride[max_axes] = {};
        bool contiguous = false;
    } input, target, weight, pos_weight, cotangent;
    void* out = nullptr;  // contiguous, or none for sums
    Type out_type = Type::f32;
    double* block_sums = nullptr;  // (ceil(size / binary_block),)
};

constexpr int64_t binary_block = 4096;

// Statistics of rows of numbers. result is (5, rows): the value at index (NaN where there is no such column, untouched
// without an index), then sum, largest, smallest and entropy of each row; place is the first column of the largest.
struct SummaryTask {
    Matrix values;
    int64_t rows = 0, columns = 0;
    Vector index;
    bool entropic = false;  // else the entropy is 0
    double* result = nullptr;
    int64_t* place = nullptr;
};

// The largest value of each row, -inf if there is none, and its first column.
struct PeakTask {
    Matrix values;
    int64_t rows = 0, columns = 0;
    double* peak = nullptr;
    int64_t* place = nullptr;
};

// Probabilities of every class in the cells of a grid, cells.h: sums is (4, columns, grid_cells), Σ w, Σ w q, and the
// two of the rows of the class alone; count is (columns, grid_cells). Both are added to. square is (rows,), Σ q² − 2
// q_y + 1.
constexpr int64_t cells_below_half = 252, grid_cells = 2 * cells_below_half + 11;
struct CellTask {
    Matrix values;
    int64_t rows = 0, columns = 0;
    Vector index, weight;  // no weight: all are 1
    double* sums = nullptr;
    int64_t* count = nullptr;
    double* square = nullptr;
};

// The elementary functions of math.h, which tests call by name.
enum class Function : int32_t {
    exp,
    log1p,
    tanh,
    tanh_slope,
    log,
    log1m,
    information,
    first,
    second,
    mixed_first,
    mixed_second
};
constexpr const char* function_names[] = {"exp",         "log1p", "tanh",   "tanh_slope",  "log",         "log1m",
                                          "information", "first", "second", "mixed_first", "mixed_second"};

// The functions that each instruction set supplies; a range is of rows, or of blocks of elements.
struct Kernels {
    bool (*row_stats)(const RowTask&, int64_t begin, int64_t end, Problem&);
    bool (*row_grad)(const RowTask&, int64_t begin, int64_t end);
    bool (*row_fused)(const RowTask&, int64_t begin, int64_t end, Problem&);
    // loss, lse, entropy and gradient of rows of few classes, whichever have a place, without a record; sums may be
    // null
    void (*few_rows)(const RowTask&, int64_t begin, int64_t end, Problem&, Sums*);
    int64_t (*binary_loss)(const BinaryTask&, int64_t begin, int64_t end);  // first element that is wrong, or -1
    void (*binary_grad)(const BinaryTask&, int64_t begin, int64_t end);
    void (*row_summary)(const SummaryTask&, int64_t begin, int64_t end);
    void (*row_peaks)(const PeakTask&, int64_t begin, int64_t end);
    void (*class_cells)(const CellTask&);
    void (*pair_stats)(const PairTask&, int64_t begin, int64_t end);
    void (*pair_grad)(const PairTask&, int64_t begin, int64_t end);
    void (*math)(Function, Type, const void* in, void* out, int64_t size);  // for tests
};

}  // namespace crossent
