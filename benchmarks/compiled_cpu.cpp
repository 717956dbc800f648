// What a compiler would add on the CPU: the parts of adaptive convolution that are not matrix products, in C++.
// An experiment of benchmarks/compiled_cpu.py, not part of the library. One image; rows framed as in
// kdinpaint/ops/sampling.py; K x K taps, stride and dilation 1.
#include <algorithm>
#include <cmath>

struct Shape {
    int height, width, channels, taps, kernel, padding;
};

struct Sample {
    long row;
    float down, right, scale;
};

static inline Sample locate(const Shape& s, const float* offset, const float* kernel, int position, int tap) {
    const long plane = static_cast<long>(s.height) * s.width;
    float y = position / s.width - s.padding + tap / s.kernel + offset[2 * tap * plane + position];
    float x = position % s.width - s.padding + tap % s.kernel + offset[(2 * tap + 1) * plane + position];
    y = std::min(std::max(y, -2.f), static_cast<float>(s.height));
    x = std::min(std::max(x, -2.f), static_cast<float>(s.width));
    const float top = std::floor(y), left = std::floor(x);
    const long row = (static_cast<long>(top) + 2) * (s.width + 2) + static_cast<long>(left) + 2;
    return {row, y - top, x - left, kernel[tap * plane + position]};
}

extern "C" void gather(const Shape* shape, const float* rows, const float* offset, const float* kernel, float* columns,
                       int first, int last) {
    const Shape s = *shape;
    const int c = s.channels;
#pragma omp parallel for schedule(static)
    for (int position = first; position < last; position++) {
        for (int tap = 0; tap < s.taps; tap++) {
            const Sample at = locate(s, offset, kernel, position, tap);
            const float *upper = rows + at.row * c, *lower = upper + (s.width + 2L) * c;
            float* out = columns + (static_cast<long>(position - first) * s.taps + tap) * c;
            const float w00 = (1 - at.down) * (1 - at.right) * at.scale, w01 = (1 - at.down) * at.right * at.scale;
            const float w10 = at.down * (1 - at.right) * at.scale, w11 = at.down * at.right * at.scale;
#pragma omp simd
            for (int i = 0; i < c; i++) out[i] = w00 * upper[i] + w01 * upper[c + i] + w10 * lower[i] + w11 * lower[c + i];
        }
    }
}

extern "C" void places(const Shape* shape, const float* rows, const float* offset, const float* kernel,
                       const float* slopes, float* grad_offset, float* grad_kernel, int first, int last) {
    const Shape s = *shape;
    const int c = s.channels;
    const long plane = static_cast<long>(s.height) * s.width;
#pragma omp parallel for schedule(static)
    for (int position = first; position < last; position++) {
        for (int tap = 0; tap < s.taps; tap++) {
            const Sample at = locate(s, offset, kernel, position, tap);
            const float *upper = rows + at.row * c, *lower = upper + (s.width + 2L) * c;
            const float* slope = slopes + (static_cast<long>(position - first) * s.taps + tap) * c;
            float g00 = 0, g01 = 0, g10 = 0, g11 = 0;
#pragma omp simd reduction(+ : g00, g01, g10, g11)
            for (int i = 0; i < c; i++) {
                g00 += upper[i] * slope[i];
                g01 += upper[c + i] * slope[i];
                g10 += lower[i] * slope[i];
                g11 += lower[c + i] * slope[i];
            }
            const float top = g00 + at.right * (g01 - g00), bottom = g10 + at.right * (g11 - g10);
            grad_kernel[tap * plane + position] = top + at.down * (bottom - top);
            grad_offset[2 * tap * plane + position] = at.scale * (bottom - top);
            grad_offset[(2 * tap + 1) * plane + position] =
                at.scale * ((1 - at.down) * (g01 - g00) + at.down * (g11 - g10));
        }
    }
}

// Every thread owns a part of the channels, so none writes where another does.
extern "C" void scatter(const Shape* shape, float* grad_rows, const float* offset, const float* kernel,
                        const float* slopes, int first, int last, int threads) {
    const Shape s = *shape;
    const int c = s.channels;
#pragma omp parallel for schedule(static)
    for (int part = 0; part < threads; part++) {
        const int low = part * c / threads, high = (part + 1) * c / threads;
        for (int position = first; position < last; position++) {
            for (int tap = 0; tap < s.taps; tap++) {
                const Sample at = locate(s, offset, kernel, position, tap);
                float *upper = grad_rows + at.row * c, *lower = upper + (s.width + 2L) * c;
                const float* slope = slopes + (static_cast<long>(position - first) * s.taps + tap) * c;
                const float w00 = (1 - at.down) * (1 - at.right) * at.scale, w01 = (1 - at.down) * at.right * at.scale;
                const float w10 = at.down * (1 - at.right) * at.scale, w11 = at.down * at.right * at.scale;
#pragma omp simd
                for (int i = low; i < high; i++) {
                    upper[i] += w00 * slope[i];
                    upper[c + i] += w01 * slope[i];
                }
#pragma omp simd
                for (int i = low; i < high; i++) {
                    lower[i] += w10 * slope[i];
                    lower[c + i] += w11 * slope[i];
                }
            }
        }
    }
}
