// Products of pieces of matrices that are in the cache: what a BLAS does inside, without its copies.
#pragma once
#include <cstdint>

#if defined(__AVX512F__)
constexpr int VECTOR = 64, ROWS = 12;  // bytes of a register; rows of a product whose sums fit in registers
#elif defined(__AVX__)
constexpr int VECTOR = 32, ROWS = 6;
#else
constexpr int VECTOR = 16, ROWS = 6;
#endif

template <class T>
struct Vector {
    static constexpr int lanes = VECTOR / sizeof(T);
    typedef T type __attribute__((vector_size(VECTOR), aligned(alignof(T)), may_alias));
};

// Columns that are computed together, two registers of each row.
template <class T>
constexpr int64_t BLOCK = 2 * Vector<T>::lanes;

constexpr int64_t blocks(int64_t columns, int64_t block) { return (columns + block - 1) / block; }

// A matrix of which every row is contiguous, or every column is.
template <class T>
struct Matrix {
    T* at;
    int64_t row, column;  // elements from one to the next
};

// result = a b, or added to it: `rows` at most ROWS, and a block of columns, which are contiguous in b and result. Sums
// begin at 0, so those over many calls are sums of sums, which round less.
template <class T, int rows>
static void multiply_block(Matrix<const T> a, Matrix<const T> b, Matrix<T> result, int64_t depth, bool add) {
    using V = typename Vector<T>::type;
    constexpr int half = Vector<T>::lanes;
    V sum[rows][2] = {};
    for (int64_t k = 0; k < depth; k++) {
        const V left = *reinterpret_cast<const V*>(b.at), right = *reinterpret_cast<const V*>(b.at + half);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const T factor = a.at[i * a.row];
            sum[i][0] += factor * left, sum[i][1] += factor * right;
        }
        a.at += a.column, b.at += b.row;
    }
    for (int i = 0; i < rows; i++) {
        for (int side = 0; side < 2; side++) {
            V* to = reinterpret_cast<V*>(result.at + i * result.row + side * half);
            *to = add ? *to + sum[i][side] : sum[i][side];
        }
    }
}

// The same for any number of rows.
template <class T, int most = ROWS>
static void multiply(int64_t rows, Matrix<const T> a, Matrix<const T> b, Matrix<T> result, int64_t depth, bool add) {
    for (; rows >= most; rows -= most, a.at += most * a.row, result.at += most * result.row)
        multiply_block<T, most>(a, b, result, depth, add);
    if constexpr (most > 1)
        if (rows) multiply<T, most - 1>(rows, a, b, result, depth, add);
}
