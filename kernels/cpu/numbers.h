// Numbers, as every instruction-set unit of both profiles includes them: inside a namespace of its
// own and under its own target pragma, so that no copy built for one set is linked into another.

constexpr float MAGIC = 0x1.8p23f;  // x + MAGIC - MAGIC rounds |x| <= 2^22 to an integer
constexpr uint32_t MAGIC_BITS = 0x4B400000, EXPONENT_BITS = 0x7F800000;
constexpr int NOT_FINITE = 255;

INLINE float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
INLINE uint32_t as_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
INLINE double power(int64_t exponent) {
    return __builtin_bit_cast(double, static_cast<uint64_t>(exponent + 1023) << 52);
}
INLINE float small_power(int32_t exponent) {  // in [-126, 127]
    return as_float(static_cast<uint32_t>(exponent + 127) << 23);
}

INLINE float wide(float x) { return x; }
INLINE float wide(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }

INLINE void store(float* out, float x) { *out = x; }
// The nearest bfloat16; there is one NaN.
INLINE uint16_t narrowed(float x) {
    uint32_t bits = as_bits(x);
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>(x == x ? rounded : 0x7FC0);
}
INLINE void store(uint16_t* out, float x) { *out = narrowed(x); }

INLINE float round_small(float x) { return (x + MAGIC) - MAGIC; }
INLINE int32_t integer(float x) {  // nearest, for |x| <= 2^22
    return static_cast<int32_t>(as_bits(x + MAGIC) - MAGIC_BITS);
}

INLINE float polynomial(float x, float a, float b, float c, float d, float e, float f) {
    return (((((f * x + e) * x + d) * x + c) * x + b) * x + a) * x + 1.0f;
}
INLINE float exp2_fraction(float x) {
    return polynomial(x, 0x1.62e430p-1f, 0x1.ebfbdcp-3f, 0x1.c6af7ap-5f, 0x1.3b2dd2p-7f,
                      0x1.5f094ap-10f, 0x1.417abap-13f);
}
// Total order of scores as integers: -0 equals +0, NaN above all.
INLINE uint32_t order_key(float x) {
    uint32_t bits = as_bits(x + 0.0f);
    uint32_t key = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return x == x ? key : 0xFFFFFFFF;
}

// Calls f with a zero of the element type.
template <class F>
INLINE void typed(Type type, const F& f) {
    if (type == Type::bf16)
        f(uint16_t{});
    else
        f(float{});
}
