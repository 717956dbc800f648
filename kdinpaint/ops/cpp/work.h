// What the functions of adaptive_conv.cpp get, and how they find their way in it. work.py declares it a second time.
#pragma once
#include <algorithm>
#include <cstdint>

#include "product.h"

// Elements from one image, plane, line or column to the next.
struct Strides {
    int64_t image, plane, line, column;
};

template <class T>
struct Sample {
    int32_t corner[4];     // rows: upper left, upper right, lower left, lower right; -1 outside the image
    T down, right, scale;  // fractions of a pixel, and V

    void weigh(T* weight) const {
        const T lower = down * scale, upper = scale - lower;
        weight[1] = upper * right, weight[0] = upper - weight[1];
        weight[3] = lower * right, weight[2] = lower - weight[3];
    }
};

template <class T>
struct Work {
    int64_t height, width, channels;  // of the input
    int64_t out_height, out_width, out_channels;
    int64_t kernel_size[2], stride[2], padding[2], dilation[2];
    int64_t threads;
    int64_t panel, tile, slice;  // positions of a thread at a time, of all threads backward, and taps at a time
    int64_t count;               // of output positions that are computed
    const int64_t* list;         // these, flat, or null for all
    const T *rows, *zeros;       // of the input, and one more, of zeros
    const T *offset, *scale;
    Strides offset_at, scale_at;
    T* weight;  // (C_out, C_in, kh, kw), contiguous, or its gradient
    T* packed;  // the weight as pack_forward or pack_backward left it
    const T* bias;
    T* output;  // its rows
    const T* grad;
    Strides grad_at;
    T *grad_rows, *grad_packed, *grad_bias, *grad_offset, *grad_scale;  // each or null
    Strides grad_offset_at, grad_scale_at;
    Sample<T>* samples;  // of the positions at hand, by position, then tap
    T *columns, *sums;   // one row a position
    int64_t packed_width, column_size, sum_size;  // of rows: of grad_packed and of slices of packed, columns, sums

    int64_t taps() const { return kernel_size[0] * kernel_size[1]; }
    int64_t slices() const { return blocks(taps(), slice); }
    T* factors(int64_t out, int64_t channel) const { return weight + (out * channels + channel) * taps(); }

    const T* corner(const Sample<T>& s, int i) const { return s.corner[i] < 0 ? zeros : rows + s.corner[i] * channels; }
};

// Planes (image, plane, line, column), and all of their positions as rows.
template <class T>
struct Layout {
    int64_t height, width, channels, threads, count;
    T *rows, *planes;
    Strides planes_at;
};

struct Position {
    int64_t image, line, column;

    Position(int64_t height, int64_t width, int64_t flat)
        : image(flat / width / height), line(flat / width % height), column(flat % width) {}

    template <class T>
    static Position of_output(const Work<T>& w, int64_t number) {
        return Position(w.out_height, w.out_width, w.list ? w.list[number] : number);
    }

    int64_t in(const Strides& s) const { return image * s.image + line * s.line + column * s.column; }
};

// Some of the taps.
struct Slice {
    int64_t number, first, taps;

    template <class T>
    Slice(const Work<T>& w, int64_t number)
        : number(number), first(number * w.slice), taps(std::min(w.slice, w.taps() - first)) {}
};
