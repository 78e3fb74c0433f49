// The kernels. Each instruction-set unit includes this once, inside a namespace of its own and
// under its own target pragma, after defining `dots`. Nothing here may instantiate a template of
// the standard library: the linker could give the copy built for one set to all.
//
// Loops are written so that the compiler vectorises them over elements; no sum of floats is.

#include "numbers.h"

// --- numbers ---

constexpr float READ = 0x1p-50f, WRITE = 0x1p-100f;

INLINE float read(float x) { return __builtin_fabsf(x) < READ ? 0.0f : x; }
INLINE float write(float x) {
    x = __builtin_fabsf(x) < WRITE ? 0.0f : x;
    return x == x ? x : as_float(0x7FC00000);
}
INLINE float write(double x) { return write(static_cast<float>(__builtin_fabs(x) < WRITE ? 0.0 : x)); }

INLINE float exp(float x) {  // x <= 0 or NaN
    float inside = x < -80.0f ? 0.0f : x;
    float place = inside * 0x1.715476p+0f;
    float whole = round_small(place);
    float rest = (inside - whole * 0x1.62e400p-1f) - whole * 0x1.7f7d1cp-20f;
    float part = polynomial(rest, 0x1.000000p+0f, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f,
                            0x1.12398ap-7f, 0x1.6a4d6ep-10f);
    float value = part * as_float((as_bits(place + MAGIC) - MAGIC_BITS + 127) << 23);
    return x < -80.0f ? 0.0f : value;
}
INLINE float sigmoid(float x) {
    float small = exp(-__builtin_fabsf(x));
    float large = 1.0f / (small + 1.0f);
    return x >= 0.0f ? large : small * large;
}
INLINE float gate(float x) { return sigmoid(x); }

// --- fixed point ---

INLINE int largest_field(const float* x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t magnitude = as_bits(x[i]) & 0x7FFFFFFF;
        largest = magnitude > largest ? magnitude : largest;
    }
    return static_cast<int>(largest >> 23);
}
INLINE int largest_field(const uint16_t* x, int64_t n) {
    uint16_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint16_t magnitude = x[i] & 0x7FFF;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest >> 7;
}

// x * 2^(bits - exponent), in two steps because the power may lie outside of float32.
struct Scale {
    float first = 0.0f, second = 0.0f;
    Scale() = default;
    Scale(int bits, int64_t exponent) {
        int shift = static_cast<int>(bits - exponent);
        first = small_power(shift / 2), second = small_power(shift - shift / 2);
    }
};
INLINE int32_t whole(float x, const Scale& scale) {
    float normal = as_bits(x) & EXPONENT_BITS ? x : 0.0f;
    return integer(normal * scale.first * scale.second);
}

// 64 elements to one line of each digit plane; returns the sum of the integers.
template <int D, class T>
INLINE int32_t cut_line(const T* __restrict x, Scale scale, int8_t* __restrict out, int64_t plane) {
    int32_t total = 0;
    for (int i = 0; i < DEPTH; ++i) {
        int32_t rest = whole(wide(x[i]), scale);
        total += rest;
        for (int d = 0; d < D; ++d) {
            out[d * plane + i] = static_cast<int8_t>(rest);
            rest = (rest + 128) >> 8;
        }
    }
    return total;
}

// A row to lines of 64: digit d of line s at out[s * step + d * plane]. Returns the sum of the
// integers, sets the exponent, and whether the row is finite.
template <int D, class T>
INLINE int64_t cut_row(const T* x, int64_t n, const int64_t* given, int8_t* out, int64_t step,
                       int64_t plane, int64_t* exponent, bool* finite) {
    int field = largest_field(x, n);
    *finite = field != NOT_FINITE;
    *exponent = given ? *given : *finite ? field - 126 : -126;
    int64_t total = 0, s = 0;
    if (!*finite) {
        for (; s < ceil_div(n, DEPTH); ++s)
            for (int d = 0; d < D; ++d) __builtin_memset(out + s * step + d * plane, 0, DEPTH);
        return 0;
    }
    Scale scale(8 * D - 2, *exponent);
    for (; s < n / DEPTH; ++s) total += cut_line<D>(x + s * DEPTH, scale, out + s * step, plane);
    if (n % DEPTH) {
        T tail[DEPTH] = {};
        __builtin_memcpy(tail, x + s * DEPTH, (n % DEPTH) * sizeof(T));
        total += cut_line<D>(tail, scale, out + s * step, plane);
    }
    return total;
}

INLINE double unit(bool finite, int64_t exponent, int bits) {
    return finite ? power(exponent - bits) : __builtin_nan("");
}

void cut(const Source& source, Panel out) {
    int64_t steps = ceil_div(source.length, DEPTH);
    typed(source.type, [&](auto zero) {
        using T = decltype(zero);
        for (int r = 0; r < ROWS; ++r) {
            int8_t* line = out.digits + r * DEPTH;
            int64_t exponent = -126;
            bool finite = true;
            out.totals[r] = 0;
            if (r < source.count)
                out.totals[r] = cut_row<X_DIGITS>(
                    static_cast<const T*>(source.rows[r]), source.length,
                    source.exponents ? source.exponents + r : nullptr, line, X_DIGITS * PLANE,
                    PLANE, &exponent, &finite);
            else
                for (int64_t s = 0; s < steps * X_DIGITS; ++s)
                    __builtin_memset(line + s * PLANE, 0, DEPTH);
            out.units[r] = unit(finite, exponent, X_BITS);
        }
    });
}

// 16 lines of 64 digits to [16][16][4], offset by 128.
INLINE void interleave(const int8_t* lines, int64_t stride, uint8_t* out) {
    for (int q = 0; q < DEPTH / 4; ++q)
        for (int n = 0; n < ROWS; ++n) {
            uint32_t four;
            __builtin_memcpy(&four, lines + n * stride + 4 * q, 4);
            four ^= 0x80808080;
            __builtin_memcpy(out + q * DEPTH + 4 * n, &four, 4);
        }
}

// 16 rows to digits, 64 elements at a time, and on to blocks.
template <int D, class T>
INLINE void pack_rows(const Source& source, Block out) {
    Scale scales[ROWS] = {};
    const T* rows[ROWS] = {};
    for (int n = 0; n < ROWS; ++n) {
        int64_t exponent = -126;
        bool finite = true;
        if (n < source.count) {
            rows[n] = static_cast<const T*>(source.rows[n]);
            int field = largest_field(rows[n], source.length);
            finite = field != NOT_FINITE;
            exponent = source.exponents ? source.exponents[n] : finite ? field - 126 : -126;
            if (!finite) rows[n] = nullptr;
        }
        scales[n] = Scale(8 * D - 2, exponent);
        out.units[n] = unit(finite, exponent, 8 * D - 2);
    }
    alignas(64) int8_t lines[D][ROWS][DEPTH];
    for (int64_t s = 0; s < ceil_div(source.length, DEPTH); ++s) {
        int64_t left = source.length - s * DEPTH;
        for (int n = 0; n < ROWS; ++n) {
            T line[DEPTH] = {};
            if (rows[n] && left < DEPTH) __builtin_memcpy(line, rows[n] + s * DEPTH, left * sizeof(T));
            const T* from = rows[n] && left >= DEPTH ? rows[n] + s * DEPTH : line;
            cut_line<D>(from, scales[n], lines[0][n], PLANE);
        }
        for (int d = 0; d < D; ++d)
            interleave(lines[d][0], DEPTH, out.digits + (s * D + d) * PLANE);
    }
}

void pack(const Source& source, int digits, Block out) {
    typed(source.type, [&](auto zero) {
        using T = decltype(zero);
        digits == 2 ? pack_rows<2, T>(source, out) : pack_rows<3, T>(source, out);
    });
}

// --- products ---

// The int32 sums of digit products by weight: [column block][weight][row][column].
constexpr int WIDE = 4;
template <int D>
using Raw = int32_t[WIDE][D + 2][ROWS][ROWS];
using Sums = int64_t[ROWS][ROWS];

// Exact sums of up to 16 rows with the columns of 1 or 4 blocks. `ahead` is what comes next: a
// share of the next block.
template <int D, int C>
INLINE void multiply(const int8_t* panel, const int64_t* totals, int rows, const uint8_t* block,
                     int64_t steps, Sums* sums, const uint8_t* ahead) {
    alignas(64) Raw<D> raw;
    constexpr int64_t offset = D == 2 ? 128 * 257 : 128 * 65793;
    for (int c = 0; c < C; ++c)
        for (int r = 0; r < rows; ++r)
            for (int n = 0; n < ROWS; ++n) sums[c][r][n] = -offset * totals[r];
    for (int64_t s = 0; s < steps; s += FLUSH) {
        int64_t part = steps - s < FLUSH ? steps - s : FLUSH;
        dots<D, C>(panel + s * X_DIGITS * PLANE, block + s * D * PLANE, steps * D * PLANE, part,
                   rows, ahead + s * D * PLANE / SHARES, raw);
        for (int c = 0; c < C; ++c) {
            int64_t* __restrict sum = sums[c][0];
            const int32_t *__restrict low = raw[c][0][0], *__restrict high = raw[c][D - 1][0];
            for (int i = 0; i < rows * ROWS; ++i) {
                constexpr int64_t NEXT = ROWS * ROWS;
                int64_t upper = static_cast<int64_t>(high[i + 2 * NEXT]) * 256 + high[i + NEXT];
                if constexpr (D == 2) {
                    sum[i] += upper * 65536 + (low[i] + static_cast<int64_t>(low[i + NEXT]) * 256);
                } else {
                    upper = upper * 256 + high[i];
                    sum[i] += upper * 65536 + (low[i] + static_cast<int64_t>(low[i + NEXT]) * 256);
                }
            }
        }
    }
}

// A sum rounded to 24 bits and scaled; NaN where a unit is.
INLINE float value(int64_t sum, double x_unit, double w_unit) {
    return write(static_cast<double>(static_cast<float>(sum)) * (x_unit * w_unit));
}

template <class T>
INLINE void finish(const int64_t* sums, double x_unit, const double* w_units, int columns, T* out) {
    T line[ROWS];
    for (int n = 0; n < ROWS; ++n) store(line + n, value(sums[n], x_unit, w_units[n]));
    __builtin_memcpy(out, line, columns * sizeof(T));
}

template <int D, int C, class T>
INLINE void product_tile(const Product& p, int64_t panel, int64_t block, int64_t share) {
    alignas(64) Sums sums[C];
    int64_t row = panel * ROWS;
    int rows = static_cast<int>(p.rows - row < ROWS ? p.rows - row : ROWS);
    int64_t size = p.steps * D * PLANE;
    const uint8_t* w = p.blocks + block * size;
    multiply<D, C>(p.panels + panel * p.steps * X_DIGITS * PLANE, p.x_totals + row, rows,
                   w, p.steps, sums, w + (C * SHARES + share) * size / SHARES);
    for (int c = 0; c < C; ++c) {
        int64_t column = (block + c) * ROWS;
        int columns = static_cast<int>(p.columns - column < ROWS ? p.columns - column : ROWS);
        for (int r = 0; r < rows; ++r) {
            T* out = static_cast<T*>(p.out) + (row + r) * p.out_stride + column;
            if constexpr (sizeof(T) == sizeof(int64_t))
                __builtin_memcpy(out, sums[c][r], columns * sizeof(T));
            else
                finish(sums[c][r], p.x_units[row + r], p.w_units + column, columns, out);
        }
    }
}

template <int D, class T>
void product_range(const Product& p, int64_t panel, int64_t panels, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    if (p.rows <= FEW_ROWS) {
        for (; block + WIDE <= blocks; block += WIDE) product_tile<D, WIDE, T>(p, 0, block, 0);
    }
    for (; block < blocks; ++block)
        for (int64_t at = panel; at < panels; ++at) 
            product_tile<D, 1, T>(p, at, block, at - panel < SHARES ? at - panel : 0);
}

void product(const Product& p, int64_t panel, int64_t panels, int64_t block, int64_t blocks) {
    auto range = [&](auto zero) {
        using T = decltype(zero);
        auto run = p.digits == 2 ? product_range<2, T> : product_range<3, T>;
        run(p, panel, panels, block, blocks);
    };
    if (p.out_type == Type::i64)
        range(int64_t{});
    else
        typed(p.out_type, range);
}

// --- rows ---

INLINE double two_to_twice(int64_t exponent) { return power(2 * exponent); }

// 1 / sqrt(mean * 2^(2 exponent) + eps)
INLINE float inverse_deviation(float mean, int64_t exponent, float eps) {
    float square = write(static_cast<double>(mean) * two_to_twice(exponent));
    return 1.0f / __builtin_sqrtf(square + eps);
}

void rms_norm(const Norm& norm, int64_t row) {
    typed(norm.type, [&](auto zero) {
        using T = decltype(zero);
        int64_t width = norm.width;
        const T* __restrict h = static_cast<const T*>(norm.x) + row * norm.x_stride;
        T* __restrict y = static_cast<T*>(norm.y) + row * width;
        const float* __restrict w = norm.weight;
        if (norm.residual) {
            const T* __restrict residual =
                static_cast<const T*>(norm.residual) + row * norm.residual_stride;
            T* __restrict sum = static_cast<T*>(norm.h) + row * width;
            for (int64_t i = 0; i < width; ++i)
                store(sum + i, write(read(wide(h[i])) + read(wide(residual[i]))));
            h = sum;
        }
        int field = largest_field(h, width);
        float factor = as_float(0x7FC00000);
        if (field != NOT_FINITE) {
            int64_t exponent = field - 126, squares = 0;
            Scale scale(X_BITS, exponent);
            for (int64_t i = 0; i < width; ++i) {
                int64_t x = whole(wide(h[i]), scale);
                squares += x * x;
            }
            float mean = static_cast<float>(squares) / static_cast<float>(width);
            factor = inverse_deviation(mean, exponent - X_BITS, norm.eps);
        }
        for (int64_t i = 0; i < width; ++i)
            store(y + i, write((read(wide(h[i])) * factor) * read(w[i])));
    });
}

void layer_norm(const Norm& norm, int64_t row) {
    typed(norm.type, [&](auto zero) {
        using T = decltype(zero);
        int64_t width = norm.width;
        const T* __restrict x = static_cast<const T*>(norm.x) + row * norm.x_stride;
        T* __restrict y = static_cast<T*>(norm.y) + row * width;
        const float *__restrict w = norm.weight, *__restrict b = norm.bias;
        int field = largest_field(x, width);
        if (field == NOT_FINITE) {
            for (int64_t i = 0; i < width; ++i) store(y + i, as_float(0x7FC00000));
            return;
        }
        float length = static_cast<float>(width);
        int64_t exponent = field - 126, total = 0;
        Scale scale(X_BITS, exponent);
        for (int64_t i = 0; i < width; ++i) total += whole(wide(x[i]), scale);
        int32_t mean = integer(static_cast<float>(total) / length);
        float rest = static_cast<float>(total - mean * width) / length;
        auto centred = [&](int64_t i) {  // in units of 2^(exponent - 22)
            return static_cast<float>(whole(wide(x[i]), scale) - mean) - rest;
        };
        uint32_t largest = 0;
        for (int64_t i = 0; i < width; ++i) {
            uint32_t magnitude = as_bits(centred(i)) & 0x7FFFFFFF;
            largest = magnitude > largest ? magnitude : largest;
        }
        int64_t spread = static_cast<int64_t>(largest >> 23) - 126, squares = 0;
        Scale inner(X_BITS, spread);
        for (int64_t i = 0; i < width; ++i) {
            int64_t c = whole(centred(i), inner);
            squares += c * c;
        }
        float factor = inverse_deviation(static_cast<float>(squares) / length,
                                         spread + exponent - 2 * X_BITS, norm.eps);
        double step = power(exponent - X_BITS);
        for (int64_t i = 0; i < width; ++i) {
            float c = static_cast<float>(static_cast<double>(centred(i)) * step);
            store(y + i, write((read(c) * factor) * read(w[i]) + read(b[i])));
        }
    });
}

#include "elementwise.h"

// --- selection ---

template <int D>
void index_range(const Index& p, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    alignas(64) Sums sums[1];
    int64_t panels = ceil_div(p.heads, ROWS);
    for (; block < blocks; ++block) {
        int64_t column = block * ROWS;
        const uint8_t* keys = p.keys + block * p.steps * D * PLANE;
        for (int64_t token = 0; token < p.tokens; ++token) {
            int64_t count = p.lengths[token] - column;
            if (count <= 0) continue;
            float total[ROWS] = {};
            for (int64_t panel = 0; panel < panels; ++panel) {
                int64_t at = token * panels + panel, head = panel * ROWS;
                int rows = static_cast<int>(p.heads - head < ROWS ? p.heads - head : ROWS);
                multiply<D, 1>(p.panels + at * p.steps * X_DIGITS * PLANE, p.q_totals + at * ROWS,
                               rows, keys, p.steps, sums, keys);
                for (int r = 0; r < rows; ++r) {
                    float weight = p.weights[token * p.heads + head + r];
                    double q_unit = p.q_units[at * ROWS + r];
                    for (int n = 0; n < ROWS; ++n) {
                        float dot = value(sums[0][r][n], q_unit, p.key_units[column + n]);
                        total[n] = total[n] + (dot < READ ? 0.0f : dot) * weight;
                    }
                }
            }
            for (int n = 0; n < ROWS; ++n) total[n] = write(total[n]);
            __builtin_memcpy(p.scores + token * p.stride + column, total,
                             (count < ROWS ? count : ROWS) * sizeof(float));
        }
    }
}

void index_scores(const Index& p, int64_t block, int64_t blocks) {
    p.digits == 2 ? index_range<2>(p, block, blocks) : index_range<3>(p, block, blocks);
}

#include "topk.h"

// --- attention ---

template <int D, class T>
INLINE void take_in_rows(const Attention& p, const Cached& c) {
    constexpr int bits = 8 * D - 2;
    int64_t steps = p.latent_steps, width = steps * DEPTH, plane = DEPTH * width;
    for (int r = 0; r < DEPTH; ++r) {
        int8_t* lines = c.scratch + r * width;
        int64_t exponent = -126;
        bool finite = true;
        if (r + 2 < DEPTH && c.rows[r + 2])  // rows lie anywhere: no processor guesses the next
            for (int64_t i = 0; i < c.latent + c.turned; i += DEPTH / sizeof(T))
                __builtin_prefetch(static_cast<const T*>(c.rows[r + 2]) + i);
        if (c.rows[r])
            cut_row<D>(static_cast<const T*>(c.rows[r]), c.latent, nullptr, lines, DEPTH, plane,
                       &exponent, &finite);
        else
            for (int d = 0; d < D; ++d) __builtin_memset(lines + d * plane, 0, width);
        p.key_units[c.place * DEPTH + r] = unit(finite, exponent, bits);
        p.exponents[p.first + c.place * DEPTH + r] = static_cast<int32_t>(exponent);
    }
    if (c.for_scores)
        for (int n = 0; n < DEPTH / ROWS; ++n) {
            int64_t block = c.place * (DEPTH / ROWS) + n;
            uint8_t* out = p.keys + block * steps * D * PLANE;
            for (int64_t s = 0; s < steps; ++s)
                for (int d = 0; d < D; ++d, out += PLANE)
                    interleave(c.scratch + d * plane + n * ROWS * width + s * DEPTH, width, out);
            Source turned{{}, 0, c.type, c.turned, nullptr};
            for (; turned.count < ROWS && c.rows[n * ROWS + turned.count]; ++turned.count)
                turned.rows[turned.count] =
                    static_cast<const T*>(c.rows[n * ROWS + turned.count]) + c.latent;
            pack_rows<D, T>(turned, {p.turned_keys + block * p.turned_steps * D * PLANE,
                                     p.turned_key_units + block * ROWS});
        }
    if (c.for_values)
        for (int64_t block = 0; block < ceil_div(c.latent, ROWS); ++block)
            for (int d = 0; d < D; ++d) {
                const int8_t* __restrict from = c.scratch + d * plane + block * ROWS;
                uint8_t* __restrict out =
                    p.values + ((block * ceil_div(p.count, DEPTH) + c.place) * D + d) * PLANE;
                for (int q = 0; q < DEPTH / 4; ++q)
                    for (int n = 0; n < ROWS; ++n)
                        for (int j = 0; j < 4; ++j)
                            out[q * DEPTH + 4 * n + j] =
                                static_cast<uint8_t>(from[(4 * q + j) * width + n] ^ 0x80);
            }
}

void take_in(const Attention& p, const Cached& c) {
    typed(c.type, [&](auto zero) {
        using T = decltype(zero);
        p.digits == 2 ? take_in_rows<2, T>(p, c) : take_in_rows<3, T>(p, c);
    });
}

INLINE int64_t most_visible(const Attention& p, int64_t row, int rows) {
    int64_t most = 0;
    for (int r = 0; r < rows; ++r) most = p.visible[row + r] > most ? p.visible[row + r] : most;
    return most;
}

template <int D>
void score_range(const Attention& p, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    alignas(64) Sums content[1], turned[1];
    for (; block < blocks; ++block) {
        int64_t column = block * ROWS;
        const uint8_t* keys = p.keys + block * p.latent_steps * D * PLANE;
        const uint8_t* more = p.turned_keys + block * p.turned_steps * D * PLANE;
        for (int64_t panel = 0; panel < ceil_div(p.rows, ROWS); ++panel) {
            int64_t row = panel * ROWS;
            int rows = static_cast<int>(p.rows - row < ROWS ? p.rows - row : ROWS);
            if (most_visible(p, row, rows) <= p.first + column) continue;
            multiply<D, 1>(p.latent + panel * p.latent_steps * X_DIGITS * PLANE,
                           p.latent_totals + row, rows, keys, p.latent_steps, content, keys);
            multiply<D, 1>(p.turned + panel * p.turned_steps * X_DIGITS * PLANE,
                           p.turned_totals + row, rows, more, p.turned_steps, turned, more);
            for (int r = 0; r < rows; ++r) {
                float* __restrict out = p.scores + (row + r) * p.stride + p.first + column;
                for (int n = 0; n < ROWS; ++n) {
                    float score = value(content[0][r][n], p.latent_units[row + r],
                                        p.key_units[column + n]) +
                                  value(turned[0][r][n], p.turned_units[row + r],
                                        p.turned_key_units[column + n]);
                    bool finite = __builtin_fabsf(score) < __builtin_inff();
                    score = score * p.factor;
                    score = score < -0x1p20f ? -0x1p20f : score;
                    score = score > 0x1p20f ? 0x1p20f : score;
                    out[n] = finite ? score : as_float(0x7FC00000);
                }
            }
        }
    }
}

void attention_scores(const Attention& p, int64_t block, int64_t blocks) {
    p.digits == 2 ? score_range<2>(p, block, blocks) : score_range<3>(p, block, blocks);
}

void attention_tops(const Attention& p, int64_t row) {
    const float* __restrict scores = p.scores + row * p.stride;
    const int32_t* __restrict exponents = p.exponents;
    int32_t top = BROKEN, lifted = BROKEN, broken = 0;
    for (int64_t s = 0; s < p.visible[row]; ++s) {
        broken |= scores[s] != scores[s];
        int32_t whole = integer(scores[s] == scores[s] ? scores[s] : 0.0f);
        int32_t high = whole + exponents[s];
        top = whole > top ? whole : top;
        lifted = high > lifted ? high : lifted;
    }
    p.tops[2 * row] = broken ? BROKEN : top;
    p.tops[2 * row + 1] = lifted;
    p.masses[row] = 0;
}

// round(part * 2^exponent) for parts below 2 and exponents to 23.
INLINE int32_t scaled(float part, int32_t exponent) {
    float value = part * small_power(exponent < -2 ? -2 : exponent);
    return static_cast<int32_t>(value < 0x1p23f ? (value + 0x1p23f) - 0x1p23f : value);
}

// Adds up to P, sets W of 64 cached rows.
INLINE int64_t weights_of(const float* __restrict scores, const int32_t* __restrict exponents,
                          int64_t count, int32_t top, int32_t lifted, int32_t* __restrict weights) {
    int64_t mass = 0;
    int32_t visible = static_cast<int32_t>(count < DEPTH ? count : DEPTH);
    for (int32_t i = 0; i < DEPTH; ++i) {
        float score = i < visible ? scores[i] : 0.0f;
        float near = round_small(score);
        float part = exp2_fraction(score - near);
        int32_t place = i < visible ? static_cast<int32_t>(near) - top : -64;
        int32_t high = i < visible ? static_cast<int32_t>(near) + exponents[i] - lifted : -64;
        mass += scaled(part, place + 23);
        weights[i] = scaled(part, high + 21);
    }
    return mass;
}

void attention_weights(const Attention& p, int64_t panel) {
    int64_t steps = ceil_div(p.count, DEPTH);
    int8_t* digits = p.weights + panel * steps * X_DIGITS * PLANE;
    for (int r = 0; r < ROWS; ++r) {
        int64_t row = panel * ROWS + r, total = 0;
        bool used = row < p.rows && p.tops[2 * row] != BROKEN;
        for (int64_t s = 0; s < steps; ++s) {
            int8_t* line = digits + s * X_DIGITS * PLANE + r * DEPTH;
            int64_t at = p.first + s * DEPTH;
            if (!used || p.visible[row] <= at) {
                for (int d = 0; d < X_DIGITS; ++d) __builtin_memset(line + d * PLANE, 0, DEPTH);
                continue;
            }
            int32_t weights[DEPTH];
            p.masses[row] += weights_of(p.scores + row * p.stride + at, p.exponents + at,
                                        p.visible[row] - at, p.tops[2 * row], p.tops[2 * row + 1],
                                        weights);
            for (int i = 0; i < DEPTH; ++i) {
                int32_t rest = weights[i];
                total += rest;
                for (int d = 0; d < X_DIGITS; ++d) {
                    line[d * PLANE + i] = static_cast<int8_t>(rest);
                    rest = (rest + 128) >> 8;
                }
            }
        }
        p.weight_totals[row] = total;
    }
}

template <int D>
void value_range(const Attention& p, int64_t block, int64_t blocks) {
    [[maybe_unused]] Tiles tiles;
    alignas(64) Sums sums[1];
    int64_t steps = ceil_div(p.count, DEPTH), stride = ceil_div(p.width, ROWS) * ROWS;
    for (; block < blocks; ++block) {
        const uint8_t* values = p.values + block * steps * D * PLANE;
        for (int64_t panel = 0; panel < ceil_div(p.rows, ROWS); ++panel) {
            int64_t row = panel * ROWS;
            int rows = static_cast<int>(p.rows - row < ROWS ? p.rows - row : ROWS);
            multiply<D, 1>(p.weights + panel * steps * X_DIGITS * PLANE, p.weight_totals + row,
                           rows, values, steps, sums, values);
            for (int r = 0; r < rows; ++r) {
                int64_t* __restrict out = p.sums + (row + r) * stride + block * ROWS;
                for (int n = 0; n < ROWS; ++n)
                    out[n] = p.first ? out[n] + sums[0][r][n] : sums[0][r][n];
            }
        }
    }
}

void attention_values(const Attention& p, int64_t block, int64_t blocks) {
    p.digits == 2 ? value_range<2>(p, block, blocks) : value_range<3>(p, block, blocks);
}

void attention_result(const Attention& p, int64_t row) {
    typed(p.type, [&](auto zero) {
        using T = decltype(zero);
        T* __restrict out = static_cast<T*>(p.out[row]);
        const int64_t* __restrict sums = p.sums + row * ceil_div(p.width, ROWS) * ROWS;
        int32_t top = p.tops[2 * row], lifted = p.tops[2 * row + 1];
        bool empty = p.visible[row] == 0;
        if (empty || top == BROKEN) {
            for (int64_t i = 0; i < p.width; ++i)
                store(out + i, empty ? 0.0f : as_float(0x7FC00000));
            return;
        }
        float share = 1.0f / static_cast<float>(p.masses[row]);
        double step = power(lifted - top + 2 - (8 * p.digits - 2));
        for (int64_t i = 0; i < p.width; ++i) {
            float part = static_cast<float>(sums[i]) * share;
            store(out + i, write(static_cast<double>(part) * step));
        }
    });
}

// --- sampling ---

// The largest logit's place, the lowest among equals.
int32_t greedy(const Draw& args) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < args.width; ++i) {
        uint32_t key = order_key(args.logits[i]);
        largest = key > largest ? key : largest;
    }
    int64_t place = 0;
    while (order_key(args.logits[place]) != largest) ++place;
    return static_cast<int32_t>(place);
}

// Sorts n (key, id) pairs by 24-bit keys, stable, in two passes; the result is where it began.
INLINE void sort_pairs(uint32_t* keys, uint32_t* ids, uint32_t* keys_too, uint32_t* ids_too,
                       int64_t n) {
    for (int pass = 0; pass < 2; ++pass) {
        int64_t starts[4096] = {};
        for (int64_t i = 0; i < n; ++i) ++starts[(keys[i] >> (12 * pass)) & 4095];
        for (int64_t digit = 0, sum = 0; digit < 4096; ++digit) {
            int64_t count = starts[digit];
            starts[digit] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; ++i) {
            int64_t to = starts[(keys[i] >> (12 * pass)) & 4095]++;
            keys_too[to] = keys[i];
            ids_too[to] = ids[i];
        }
        uint32_t *k = keys, *d = ids;
        keys = keys_too, ids = ids_too, keys_too = k, ids_too = d;
    }
}

int32_t draw(const Draw& args) {
    constexpr uint32_t ONE = 1u << 24;
    int64_t width = args.width, n = 0;
    uint32_t *keys = args.scratch, *ids = keys + width;
    float most = args.logits[greedy(args)];
    for (int64_t i = 0; i < width; ++i) {
        float weight = exp((args.logits[i] - most) / args.temperature) * 0x1p24f;
        float near = weight < 0x1p23f ? (weight + 0x1p23f) - 0x1p23f : weight;
        ids[i] = ONE - static_cast<uint32_t>(static_cast<int32_t>(near));
    }
    uint64_t all = 0;
    for (int64_t i = 0; i < width; ++i) {  // what weighs nothing comes last and adds nothing
        all += ONE - ids[i];
        keys[n] = ids[i];
        ids[n] = static_cast<uint32_t>(i);
        n += keys[n] != ONE;
    }
    sort_pairs(keys, ids, ids + width, ids + 2 * width, n);
    using Wide = unsigned __int128;
    uint64_t first = static_cast<uint64_t>((static_cast<Wide>(args.limit) * all + ONE - 1) / ONE);
    uint64_t kept = 0;
    for (int64_t i = 0; i < n && (i == 0 || kept < first); ++i) kept += ONE - keys[i];
    uint64_t target = static_cast<uint64_t>(static_cast<Wide>(kept) * (2 * args.draw + 1) >> 25);
    int64_t place = 0;
    for (uint64_t mass = ONE - keys[0]; mass <= target; mass += ONE - keys[place]) ++place;
    return static_cast<int32_t>(ids[place]);
}

constexpr Kernels KERNELS = {
    cut,     pack,         product, rms_norm, layer_norm,       rope,           swiglu,
    combine, route,        index_scores,      topk,             take_in,        attention_scores,
    attention_tops,        attention_weights, attention_values, attention_result,
    draw,    greedy,
};
