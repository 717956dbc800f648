// Adaptive convolution, forward and backward: samples are located, gathered into columns, and multiplied, some
// positions and taps at a time, so that columns stay in the cache. Compiled by build.py, called by work.py. Nothing
// here allocates or fails, and no result depends on the number of threads.
#include <omp.h>

#include "product.h"
#include "sampling.h"
#include "work.h"

template <class T>
static void forward(const Work<T>& w) {
    const int64_t depth = w.taps() * w.channels;
#pragma omp parallel for schedule(dynamic, 1) num_threads(w.threads)
    for (int64_t first = 0; first < w.count; first += w.panel) {
        const int64_t count = std::min(w.panel, w.count - first), thread = omp_get_thread_num() * w.panel;
        Sample<T>* samples = w.samples + thread * w.taps();
        T *columns = w.columns + thread * w.column_size, *sums = w.sums + thread * w.sum_size;
        locate(w, first, count, samples);
        for (int64_t number = 0; number < w.slices(); number++) {
            const Slice slice(w, number);
            gather(w, samples, count, slice, columns);
            for (int64_t n = 0; n < w.out_channels; n += BLOCK<T>) {
                const T* weight = w.packed + n * depth + slice.first * w.channels * BLOCK<T>;
                multiply<T>(count, {columns, w.column_size, 1}, {weight, BLOCK<T>, 1}, {sums + n, w.sum_size, 1},
                            slice.taps * w.channels, number > 0);
            }
        }
        for (int64_t n = 0; n < count; n++) {
            T* out = w.output + (w.list ? w.list[first + n] : first + n) * w.out_channels;
            for (int64_t i = 0; i < w.out_channels; i++) out[i] = sums[n * w.sum_size + i] + (w.bias ? w.bias[i] : 0);
        }
    }
}

constexpr int64_t LINE = 16;  // positions that are laid out at a time: a cache line of each plane

// At most LINE positions of planes as rows, or back.
template <class T, bool to_rows>
static inline void lay(T* const* at, int64_t plane, int64_t count, T* rows, int64_t row, int64_t channels) {
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t n = 0; n < count; n++) {
            T &one = at[n][c * plane], &other = rows[n * row + c];
            if (to_rows) other = one;
            else one = other;
        }
    }
}

// Of a tile: the samples, and the rows of the output's gradient, into sums.
template <class T>
static void begin_tile(const Work<T>& w, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t start = 0; start < count; start += LINE) {
        const int64_t size = std::min(LINE, count - start);
        locate(w, first + start, size, w.samples + start * w.taps());
        T* at[LINE];
        for (int64_t n = 0; n < size; n++)
            at[n] = const_cast<T*>(w.grad) + Position::of_output(w, first + start + n).in(w.grad_at);
        lay<T, true>(at, w.grad_at.plane, size, w.sums + start * w.sum_size, w.sum_size, w.out_channels);
    }
}

constexpr int64_t TERMS = 192;  // positions whose terms are summed before they are added to a sum of many

template <class T>
static void add_to_bias(const Work<T>& w, int64_t count) {
    for (int64_t first = 0; first < w.out_channels; first += BLOCK<T>) {
        const int64_t size = std::min(BLOCK<T>, w.out_channels - first);
        for (int64_t start = 0; start < count; start += TERMS) {
            T sum[BLOCK<T>] = {};
            for (int64_t n = start; n < std::min(start + TERMS, count); n++)
                for (int64_t i = 0; i < size; i++) sum[i] += w.sums[n * w.sum_size + first + i];
            for (int64_t i = 0; i < size; i++) w.grad_bias[first + i] += sum[i];
        }
    }
}

// The weight's gradient by a slice: the product of the output's gradients and what was sampled.
template <class T>
static void add_to_weight(const Work<T>& w, int64_t count, const Slice& slice) {
    const int64_t outputs = 4 * ROWS, columns = slice.taps * w.channels;
    T* grad = w.grad_packed + slice.number * w.out_channels * w.packed_width;
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t n = 0; n < count; n += w.panel)
        gather(w, w.samples + n * w.taps(), std::min(w.panel, count - n), slice, w.columns + n * w.column_size);
#pragma omp parallel num_threads(w.threads)
    for (int64_t n = 0; n < count; n += TERMS) {
#pragma omp for collapse(2) schedule(static) nowait  // the same part of the gradient every time
        for (int64_t k = 0; k < columns; k += BLOCK<T>)
            for (int64_t out = 0; out < w.out_channels; out += outputs)
                multiply<T>(std::min(outputs, w.out_channels - out), {w.sums + n * w.sum_size + out, 1, w.sum_size},
                            {w.columns + n * w.column_size + k, w.column_size, 1},
                            {grad + out * w.packed_width + k, w.packed_width, 1}, std::min(TERMS, count - n), true);
    }
}

// The columns' gradients by a slice, and those of the places while they are at hand.
template <class T>
static void columns_and_places(const Work<T>& w, int64_t first, int64_t count, const Slice& slice) {
    const T* weight = w.packed + slice.number * w.out_channels * w.packed_width;
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t n = 0; n < count; n += w.panel) {
        const int64_t size = std::min(w.panel, count - n);
        T* columns = w.columns + n * w.column_size;
        for (int64_t k = 0; k < slice.taps * w.channels; k += BLOCK<T>)
            multiply<T>(size, {w.sums + n * w.sum_size, w.sum_size, 1}, {weight + k * w.out_channels, BLOCK<T>, 1},
                        {columns + k, w.column_size, 1}, w.out_channels, false);
        if (w.grad_offset || w.grad_scale) places(w, w.samples + n * w.taps(), first + n, size, slice, columns);
    }
}

template <class T>
static void backward(const Work<T>& w) {
    for (int64_t first = 0; first < w.count; first += w.tile) {
        const int64_t count = std::min(w.tile, w.count - first);
        begin_tile(w, first, count);
        if (w.grad_bias) add_to_bias(w, count);
        for (int64_t number = 0; number < w.slices(); number++) {
            const Slice slice(w, number);
            if (w.grad_packed) add_to_weight(w, count, slice);
            if (w.grad_offset || w.grad_scale || w.grad_rows) columns_and_places(w, first, count, slice);
            if (w.grad_rows) scatter(w, count, slice);
        }
    }
}

// The weight in the order in which forward reads it: by block of outputs, then tap, channel, output.
template <class T>
static void pack_forward(const Work<T>& w) {
    const int64_t outputs = blocks(w.out_channels, BLOCK<T>);
#pragma omp parallel for collapse(2) schedule(static) num_threads(w.threads)
    for (int64_t block = 0; block < outputs; block++) {
        for (int64_t c = 0; c < w.channels; c++) {
            for (int64_t tap = 0; tap < w.taps(); tap++) {
                T* packed = w.packed + ((block * w.taps() + tap) * w.channels + c) * BLOCK<T>;
                const T* factors = w.factors(block * BLOCK<T>, c) + tap;
                const int64_t size = std::min(BLOCK<T>, w.out_channels - block * BLOCK<T>);
                for (int64_t i = 0; i < BLOCK<T>; i++)
                    packed[i] = i < size ? factors[i * w.channels * w.taps()] : 0;
            }
        }
    }
}

// A call for every element of the weight, piece by piece so that both orders are easy on the cache, with its place in
// that of backward: slice, output, and column, which is a tap and channel.
template <class T, class Function>
static void each_factor(const Work<T>& w, Function function) {
    constexpr int64_t outputs = 32, channels = 16;
#pragma omp parallel for collapse(2) schedule(static) num_threads(w.threads)
    for (int64_t first_out = 0; first_out < w.out_channels; first_out += outputs) {
        for (int64_t first = 0; first < w.channels; first += channels) {
            const int64_t end_out = std::min(first_out + outputs, w.out_channels);
            const int64_t end = std::min(first + channels, w.channels);
            for (int64_t tap = 0; tap < w.taps(); tap++) {
                const int64_t slice = tap / w.slice, column = tap % w.slice * w.channels;
                for (int64_t out = first_out; out < end_out; out++)
                    for (int64_t c = first; c < end; c++) function(w.factors(out, c)[tap], slice, out, column + c);
            }
        }
    }
}

// The weight in the order in which backward reads it: by slice, block of taps and channels, output, tap and channel.
template <class T>
static void pack_backward(const Work<T>& w) {
    const int64_t width = w.packed_width, outputs = w.out_channels;
    each_factor(w, [=, &w](T& factor, int64_t slice, int64_t out, int64_t k) {
        const int64_t row = (slice * width + k - k % BLOCK<T>) * outputs + out * BLOCK<T>;
        w.packed[row + k % BLOCK<T>] = factor;
    });
}

// The weight's gradient, from grad_packed.
template <class T>
static void unpack(const Work<T>& w) {
    const int64_t width = w.packed_width, outputs = w.out_channels;
    each_factor(w, [=, &w](T& factor, int64_t slice, int64_t out, int64_t k) {
        factor = w.grad_packed[(slice * outputs + out) * width + k];
    });
}

template <class T, bool to_rows>
static void lay_all(const Layout<T>& l) {
#pragma omp parallel for schedule(static) num_threads(l.threads)
    for (int64_t first = 0; first < l.count; first += LINE) {
        const int64_t size = std::min(LINE, l.count - first);
        T* at[LINE];
        for (int64_t n = 0; n < size; n++) at[n] = l.planes + Position(l.height, l.width, first + n).in(l.planes_at);
        lay<T, to_rows>(at, l.planes_at.plane, size, l.rows + first * l.channels, l.channels, l.channels);
    }
}

template <class T>
static void to_rows(const Layout<T>& l) { lay_all<T, true>(l); }

template <class T>
static void to_planes(const Layout<T>& l) { lay_all<T, false>(l); }

#define EXPORT(name, Argument)                                                       \
    extern "C" void name##_float32(const Argument<float>* a) { name<float>(*a); }    \
    extern "C" void name##_float64(const Argument<double>* a) { name<double>(*a); }

EXPORT(forward, Work)
EXPORT(backward, Work)
EXPORT(pack_forward, Work)
EXPORT(pack_backward, Work)
EXPORT(unpack, Work)
EXPORT(to_rows, Layout)
EXPORT(to_planes, Layout)

extern "C" {
extern const int64_t block_float32 = BLOCK<float>, block_float64 = BLOCK<double>;
}
