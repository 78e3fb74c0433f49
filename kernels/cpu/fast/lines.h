// Sixteen numbers at a time: a row of a tile. Written as vectors because the compiler unrolls loops
// of so few steps before it looks for vectors in them; what the machine has fewer of at a time it
// takes in parts. A unit defines before it `fused` of Vector.

typedef float Line __attribute__((vector_size(64)));
typedef uint32_t LineBits __attribute__((vector_size(64)));
typedef int32_t LineMask __attribute__((vector_size(64)));
typedef uint16_t NarrowLine __attribute__((vector_size(32)));
constexpr float INFINITE = __builtin_inff();

template <class T, class S>
INLINE T loaded(const S* from) {
    T made;
    __builtin_memcpy(&made, from, sizeof made);
    return made;
}
INLINE Line all(float x) { return Line{} + x; }
INLINE LineMask equal(Line a, Line b) { return a == b; }

INLINE Line line_of(const float* from) { return loaded<Line>(from); }
INLINE Line line_of(const uint16_t* from) {
    return (Line)(__builtin_convertvector(loaded<NarrowLine>(from), LineBits) << 16);
}

// The nearest bfloat16 in the upper halves; there is one NaN.
INLINE LineBits narrowed(Line x) {
    LineBits bits = (LineBits)x, rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
    return equal(x, x) ? rounded : LineBits{} + 0x7FC00000u;
}
INLINE void put(float* to, Line x) { __builtin_memcpy(to, &x, sizeof x); }
INLINE void put(uint16_t* to, Line x) {
    NarrowLine parts = __builtin_convertvector(narrowed(x) >> 16, NarrowLine);
    __builtin_memcpy(to, &parts, sizeof parts);
}
// The first `count`.
template <class T>
INLINE void put_some(T* to, Line x, int64_t count) {
    if (count >= ROWS) return put(to, x);  // a copy of known length is an instruction, not a call
    T parts[ROWS];
    put(parts, x);
    __builtin_memcpy(to, parts, count * sizeof(T));
}

INLINE Line fused_lines(Line a, Line b, Line c) {
    Vector x[ROWS / WIDTH], y[ROWS / WIDTH], z[ROWS / WIDTH];
    __builtin_memcpy(x, &a, sizeof a);
    __builtin_memcpy(y, &b, sizeof b);
    __builtin_memcpy(z, &c, sizeof c);
    for (int i = 0; i < ROWS / WIDTH; ++i) z[i] = fused(x[i], y[i], z[i]);
    return loaded<Line>(z);
}
INLINE Line larger(Line a, Line b) { return a > b ? a : b; }

// 2^x for x <= 0, zero below the smallest normal number; NaN stays.
INLINE Line exp2_negative(Line x) {
    Line inside = x < -126.0f ? all(-126.0f) : x, shifted = inside + MAGIC;
    Line rest = inside - (shifted - MAGIC);
    Line y = fused_lines(all(0x1.417abap-13f), rest, all(0x1.5f094ap-10f));
    y = fused_lines(y, rest, all(0x1.3b2dd2p-7f));
    y = fused_lines(y, rest, all(0x1.c6af7ap-5f));
    y = fused_lines(y, rest, all(0x1.ebfbdcp-3f));
    y = fused_lines(y, rest, all(0x1.62e430p-1f));
    y = fused_lines(y, rest, all(1.0f));
    Line power = (Line)(((LineBits)shifted - MAGIC_BITS + 127u) << 23);
    return x < -126.0f ? Line{} : y * power;
}
