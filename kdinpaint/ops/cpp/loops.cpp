// What adaptive convolution does between its matrix products, for some output positions at a time: locate and gather
// their samples, and pass gradients on to what was sampled and to the places of the samples.
//
// Rows are pixels, channels side by side; a corner outside the image reads zeros and writes nowhere. Compiled by
// build.py and called by launch.py, where Work is declared a second time. Nothing here allocates or fails.
#include <cmath>
#include <cstdint>

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
    int64_t out_height, out_width;
    int64_t kernel_size[2], stride[2], padding[2], dilation[2];
    int64_t threads;
    const int64_t* list;    // output positions that are computed, flat, or null for all
    const T *rows, *zeros;  // of the input, and one more, of zeros
    const T *offset, *scale;
    Strides offset_at, scale_at;
    T *grad_rows, *grad_offset, *grad_scale;  // the last two or null
    Strides grad_offset_at, grad_scale_at;
    Sample<T>* samples;  // of the positions at hand, by position, then tap
    T* columns;          // what was sampled, or its gradients

    int64_t taps() const { return kernel_size[0] * kernel_size[1]; }

    const T* corner(const Sample<T>& s, int i) const { return s.corner[i] < 0 ? zeros : rows + s.corner[i] * channels; }
};

// Planes (image, plane, line, column), and some of their positions as rows.
template <class T>
struct Layout {
    int64_t height, width, channels, threads;
    const int64_t* list;
    T *rows, *planes;
    Strides planes_at;
};

struct Position {
    int64_t image, line, column;

    template <class Some>
    Position(const Some& all, int64_t height, int64_t width, int64_t number) {
        const int64_t flat = all.list ? all.list[number] : number;
        image = flat / width / height, line = flat / width % height, column = flat % width;
    }

    int64_t in(const Strides& s) const { return image * s.image + line * s.line + column * s.column; }
};

// A coordinate, brought near the image; NaN stays NaN.
template <class T>
static inline T place(int64_t base, T move, int64_t size) {
    const T at = static_cast<T>(base) + move;
    return at < -2 ? static_cast<T>(-2) : at > static_cast<T>(size) ? static_cast<T>(size) : at;
}

template <class T>
static void locate(const Work<T>& w, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t n = 0; n < count; n++) {
        const Position at(w, w.out_height, w.out_width, first + n);
        const T *move = w.offset + at.in(w.offset_at), *scale = w.scale + at.in(w.scale_at);
        Sample<T>* sample = w.samples + n * w.taps();
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

// Columns: the weighted sums of the four rows of every sample.
template <class T>
static void gather(const Work<T>& w, int64_t, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t n = 0; n < count * w.taps(); n++) {
        const Sample<T>& s = w.samples[n];
        const T *a = w.corner(s, 0), *b = w.corner(s, 1), *c = w.corner(s, 2), *d = w.corner(s, 3);
        T weight[4], *out = w.columns + n * w.channels;
        s.weigh(weight);
#pragma omp simd
        for (int64_t i = 0; i < w.channels; i++)
            out[i] = weight[0] * a[i] + weight[1] * b[i] + weight[2] * c[i] + weight[3] * d[i];
    }
}

// The gradients of offset and V, from those of the columns.
template <class T>
static void places(const Work<T>& w, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(w.threads)
    for (int64_t n = 0; n < count; n++) {
        const Position at(w, w.out_height, w.out_width, first + n);
        for (int64_t tap = 0; tap < w.taps(); tap++) {
            const Sample<T>& s = w.samples[n * w.taps() + tap];
            const T *a = w.corner(s, 0), *b = w.corner(s, 1), *c = w.corner(s, 2), *d = w.corner(s, 3);
            const T* slope = w.columns + (n * w.taps() + tap) * w.channels;
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

// Add the columns' gradients to those of the rows they came from. Every thread owns its lines of the images, so none
// writes where another does, and every sum keeps its order whatever the number of threads.
template <class T>
static void scatter(const Work<T>& w, int64_t, int64_t count) {
    const uint32_t width = static_cast<uint32_t>(w.width), threads = static_cast<uint32_t>(w.threads);
#pragma omp parallel for schedule(static, 1) num_threads(w.threads)
    for (uint32_t thread = 0; thread < threads; thread++) {
        for (int64_t n = 0; n < count * w.taps(); n++) {
            const Sample<T>& s = w.samples[n];
            const T* slope = w.columns + n * w.channels;
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

constexpr int64_t LINE = 16;  // positions that are laid out at a time: a cache line of each plane

template <class T, bool to_rows>
static void lay(const Layout<T>& l, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) num_threads(l.threads)
    for (int64_t start = 0; start < count; start += LINE) {
        const int64_t size = start + LINE < count ? LINE : count - start;
        T *at[LINE], *rows = l.rows + start * l.channels;
        for (int64_t n = 0; n < size; n++)
            at[n] = l.planes + Position(l, l.height, l.width, first + start + n).in(l.planes_at);
        for (int64_t c = 0; c < l.channels; c++) {
            for (int64_t n = 0; n < size; n++) {
                T &one = at[n][c * l.planes_at.plane], &other = rows[n * l.channels + c];
                if (to_rows) other = one;
                else one = other;
            }
        }
    }
}

// Some positions of planes as rows, and back.
template <class T>
static void take(const Layout<T>& l, int64_t first, int64_t count) { lay<T, true>(l, first, count); }

template <class T>
static void put(const Layout<T>& l, int64_t first, int64_t count) { lay<T, false>(l, first, count); }

#define EXPORT(name, Argument)                                                                                         \
    extern "C" void name##_float32(const Argument<float>* a, int64_t first, int64_t count) { name(*a, first, count); } \
    extern "C" void name##_float64(const Argument<double>* a, int64_t first, int64_t count) { name(*a, first, count); }

EXPORT(locate, Work)
EXPORT(gather, Work)
EXPORT(places, Work)
EXPORT(scatter, Work)
EXPORT(take, Layout)
EXPORT(put, Layout)
