// Norms. Sums run in float64 in eight lanes, element i in lane i % 8, whatever the vectors are:
// squares of float32 neither overflow there nor vanish, and the mean of equal elements is exact.

constexpr int LANES = 8;

INLINE double folded(const double* sums) {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

template <class F>
INLINE double summed(int64_t count, const F& term) {
    double sums[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) sums[lane] += term(i + lane);
    for (int lane = 0; i + lane < count; ++lane) sums[lane] += term(i + lane);
    return folded(sums);
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
            for (int64_t i = 0; i < width; ++i) store(sum + i, wide(h[i]) + wide(residual[i]));
            h = sum;
        }
        double squares = summed(width, [&](int64_t i) {
            double x = wide(h[i]);
            return x * x;
        });
        double mean = squares / static_cast<double>(width);
        float factor = static_cast<float>(1.0 / __builtin_sqrt(mean + static_cast<double>(norm.eps)));
        for (int64_t i = 0; i < width; ++i) store(y + i, wide(h[i]) * factor * w[i]);
    });
}

void layer_norm(const Norm& norm, int64_t row) {
    typed(norm.type, [&](auto zero) {
        using T = decltype(zero);
        int64_t width = norm.width;
        double length = static_cast<double>(width);
        const T* __restrict x = static_cast<const T*>(norm.x) + row * norm.x_stride;
        T* __restrict y = static_cast<T*>(norm.y) + row * width;
        const float *__restrict w = norm.weight, *__restrict b = norm.bias;
        double mean = summed(width, [&](int64_t i) { return static_cast<double>(wide(x[i])); }) / length;
        double variance = summed(width, [&](int64_t i) {
            double centred = wide(x[i]) - mean;
            return centred * centred;
        }) / length;
        double factor = 1.0 / __builtin_sqrt(variance + static_cast<double>(norm.eps));
        for (int64_t i = 0; i < width; ++i)
            store(y + i, static_cast<float>((wide(x[i]) - mean) * factor * w[i] + b[i]));
    });
}
