// Numbers of the fast profile: nothing is flushed but what falls out of float32.

#include "../numbers.h"

INLINE float read(float x) { return x; }
INLINE float write(float x) { return x; }

// exp(x) for x <= 0, zero where the result falls out of float32.
INLINE float exp_negative(float x) {
    float inside = x < -104.0f ? -104.0f : x;
    float whole = round_small(inside * 0x1.715476p+0f);
    // the product with the high part of ln 2 is exact
    float rest = (inside - whole * 0x1.62e400p-1f) - whole * 0x1.7f7d1cp-20f;
    float part = polynomial(rest, 0x1.000000p+0f, 0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f,
                            0x1.12398ap-7f, 0x1.6a4d6ep-10f);
    // in two steps: the power may lie below float32's normal numbers
    int32_t power = integer(inside * 0x1.715476p+0f), half = power / 2;
    return part * small_power(half) * small_power(power - half);
}

INLINE float sigmoid(float x) {
    float small = exp_negative(-__builtin_fabsf(x));
    float large = 1.0f / (small + 1.0f);
    return x >= 0.0f ? large : small * large;
}

// Among experts that are nearly equal the last bit decides, and there are few of them.
INLINE float gate(float x) { return static_cast<float>(1.0 / (1.0 + __builtin_exp(-static_cast<double>(x)))); }
