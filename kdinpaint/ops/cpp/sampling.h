// Samples: where they are, their values, and their gradients, by positions and taps. A row is a pixel, channels side by
// side; a corner outside the image reads zeros and writes nowhere.
#pragma once
#include <cmath>

#include "work.h"

// A coordinate, brought near the image; NaN stays NaN.
template <class T>
static inline T place(int64_t base, T move, int64_t size) {
    const T at = static_cast<T>(base) + move;
    return at < -2 ? static_cast<T>(-2) : at > static_cast<T>(size) ? static_cast<T>(size) : at;
}

template <class T>
static void locate(const Work<T>& w, int64_t first, int64_t count, Sample<T>* sample) {
    for (int64_t n = first; n < first + count; n++) {
        const auto at = Position::of_output(w, n);
        const T *move = w.offset + at.in(w.offset_at), *scale = w.scale + at.in(w.scale_at);
        for (int64_t ky = 0; ky < w.kernel_size[0]; ky++) {
            const int64_t base_y = at.line * w.stride[0] - w.padding[0] + ky * w.dilation[0];
            for (int64_t kx = 0; kx < w.kernel_size[1]; kx++, sample++) {
                const int64_t base_x = at.column * w.stride[1] - w.padding[1] + kx * w.dilation[1];
                const T y = place(base_y, move[0], w.height), x = place(base_x, move[w.offset_at.plane], w.width);
                const T top = std::floor(y), left = std::floor(x);
                const bool known = y == y && x == x;  // not NaN, which no integer is
                const int32_t line = known ? static_cast<int32_t>(top) : 0;
                const int32_t column = known ? static_cast<int32_t>(left) : 0;
                const int32_t corner = static_cast<int32_t>((at.image * w.height + line) * w.width + column);
                const bool above = line >= 0 && line < w.height, below = line >= -1 && line < w.height - 1;
                const bool before = column >= 0 && column < w.width, behind = column >= -1 && column < w.width - 1;
                sample->corner[0] = above && before ? corner : -1;
                sample->corner[1] = above && behind ? corner + 1 : -1;
                sample->corner[2] = below && before ? corner + static_cast<int32_t>(w.width) : -1;
                sample->corner[3] = below && behind ? corner + static_cast<int32_t>(w.width) + 1 : -1;
                sample->down = y - top, sample->right = x - left, sample->scale = *scale;
                move += 2 * w.offset_at.plane, scale += w.scale_at.plane;
            }
        }
    }
}

// Columns: the weighted sums of the four rows of every sample of a slice.
template <class T>
static void gather(const Work<T>& w, const Sample<T>* samples, int64_t count, const Slice& slice, T* columns) {
    for (int64_t n = 0; n < count; n++) {
        for (int64_t tap = 0; tap < slice.taps; tap++) {
            const Sample<T>& s = samples[n * w.taps() + slice.first + tap];
            const T *a = w.corner(s, 0), *b = w.corner(s, 1), *c = w.corner(s, 2), *d = w.corner(s, 3);
            T weight[4], *out = columns + n * w.column_size + tap * w.channels;
            s.weigh(weight);
#pragma omp simd
            for (int64_t i = 0; i < w.channels; i++)
                out[i] = weight[0] * a[i] + weight[1] * b[i] + weight[2] * c[i] + weight[3] * d[i];
        }
    }
}

// The gradients of offset and V, from those of the columns of a slice.
template <class T>
static void places(const Work<T>& w, const Sample<T>* samples, int64_t first, int64_t count, const Slice& slice,
                   const T* columns) {
    for (int64_t n = 0; n < count; n++) {
        const auto at = Position::of_output(w, first + n);
        for (int64_t tap = slice.first; tap < slice.first + slice.taps; tap++) {
            const Sample<T>& s = samples[n * w.taps() + tap];
            const T *a = w.corner(s, 0), *b = w.corner(s, 1), *c = w.corner(s, 2), *d = w.corner(s, 3);
            const T* slope = columns + n * w.column_size + (tap - slice.first) * w.channels;
            T sa = 0, sb = 0, sc = 0, sd = 0;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
            for (int64_t i = 0; i < w.channels; i++) {
                sa += a[i] * slope[i];
                sb += b[i] * slope[i];
                sc += c[i] * slope[i];
                sd += d[i] * slope[i];
            }
            const T upper = sa + s.right * (sb - sa), lower = sc + s.right * (sd - sc);
            if (w.grad_scale)
                w.grad_scale[at.in(w.grad_scale_at) + tap * w.grad_scale_at.plane] = upper + s.down * (lower - upper);
            if (w.grad_offset) {
                T* moved = w.grad_offset + at.in(w.grad_offset_at) + 2 * tap * w.grad_offset_at.plane;
                moved[0] = s.scale * (lower - upper);
                moved[w.grad_offset_at.plane] = s.scale * ((sb - sa) + s.down * ((sd - sc) - (sb - sa)));
            }
        }
    }
}

// Add the columns' gradients of a slice to those of the rows they came from. Every thread owns its lines of the images,
// so none writes where another does, and every sum keeps its order whatever the number of threads.
template <class T>
static void scatter(const Work<T>& w, int64_t count, const Slice& slice) {
    const uint32_t width = static_cast<uint32_t>(w.width), threads = static_cast<uint32_t>(w.threads);
#pragma omp parallel for schedule(static, 1) num_threads(w.threads)
    for (uint32_t thread = 0; thread < threads; thread++) {
        for (int64_t n = 0; n < count; n++) {
            for (int64_t tap = 0; tap < slice.taps; tap++) {
                const Sample<T>& s = w.samples[n * w.taps() + slice.first + tap];
                const T* slope = w.columns + n * w.column_size + tap * w.channels;
                T weight[4];
                s.weigh(weight);
                for (int half = 0; half < 4; half += 2) {
                    const int32_t some = s.corner[half] < 0 ? s.corner[half + 1] : s.corner[half];
                    if (some < 0 || static_cast<uint32_t>(some) / width % threads != thread) continue;
                    for (int side = half; side < half + 2; side++) {
                        if (s.corner[side] < 0) continue;
                        T* row = w.grad_rows + s.corner[side] * w.channels;
#pragma omp simd
                        for (int64_t i = 0; i < w.channels; i++) row[i] += weight[side] * slope[i];
                    }
                }
            }
        }
    }
}
