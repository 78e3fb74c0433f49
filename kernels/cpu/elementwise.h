// Kernels over elements and rows that both profiles have. What includes this says before it what
// `read`, `write`, `sigmoid` and `gate`, the router's sigmoid, are: in the exact profile they flush
// small numbers.

void rope(const Rope& rope, int64_t token) {
    typed(rope.type, [&](auto zero) {
        using T = decltype(zero);
        int64_t half = rope.width / 2;
        const float* __restrict cosines = rope.angles + token * rope.width;
        const float* __restrict sines = cosines + half;
        auto turn = [&](const T* __restrict x, T* __restrict out, int64_t step, int64_t apart) {
            for (int64_t j = 0; j < half; ++j) {
                float a = read(wide(x[j * step])), b = read(wide(x[j * step + apart]));
                float c = read(cosines[j]), s = read(sines[j]);
                store(out + j * step, write(a * c - b * s));
                store(out + j * step + apart, write(b * c + a * s));
            }
        };
        for (int64_t head = 0; head < rope.heads; ++head) {
            const T* x = static_cast<const T*>(rope.x) + token * rope.token_stride +
                         head * rope.head_stride;
            T* out = static_cast<T*>(rope.out) + (token * rope.heads + head) * rope.width;
            rope.interleaved ? turn(x, out, 2, 1) : turn(x, out, 1, half);
        }
    });
}

void swiglu(const Swiglu& args, int64_t row) {
    typed(args.type, [&](auto zero) {
        using T = decltype(zero);
        const T* __restrict gate = static_cast<const T*>(args.x) + row * args.stride;
        const T* __restrict up = gate + args.width;
        T* __restrict out = static_cast<T*>(args.out) + row * args.width;
        for (int64_t i = 0; i < args.width; ++i) {
            float g = read(wide(gate[i]));
            store(out + i, write((g * sigmoid(g)) * read(wide(up[i]))));
        }
    });
}

void combine(const Combine& args, int64_t token) {
    typed(args.type, [&](auto zero) {
        using T = decltype(zero);
        T* __restrict out = static_cast<T*>(args.out) + token * args.width;
        constexpr int64_t CHUNK = 256;
        for (int64_t first = 0; first < args.width; first += CHUNK) {
            int64_t count = args.width - first < CHUNK ? args.width - first : CHUNK;
            float total[CHUNK] = {};
            for (int64_t slot = 0; slot < args.slots; ++slot) {
                int64_t place = args.places[token * args.slots + slot];
                const T* __restrict from =
                    static_cast<const T*>(args.rows) + place * args.row_stride + first;
                float weight = read(args.weights[token * args.slots + slot]);
                for (int64_t i = 0; i < count; ++i) total[i] = total[i] + read(wide(from[i])) * weight;
            }
            if (args.shared) {
                const T* __restrict from =
                    static_cast<const T*>(args.shared) + token * args.shared_stride + first;
                for (int64_t i = 0; i < count; ++i) total[i] = total[i] + read(wide(from[i]));
            }
            for (int64_t i = 0; i < count; ++i) store(out + first + i, write(total[i]));
        }
    });
}

// Marks the k largest of n keys with 1, the lowest index first among equals.
INLINE void mark_best(const uint32_t* keys, int64_t n, int64_t k, uint8_t* marks) {
    __builtin_memset(marks, 0, n);
    for (int64_t taken = 0; taken < k; ++taken) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; ++i)
            if (!marks[i] && (best < 0 || keys[i] > keys[best])) best = i;
        marks[best] = 1;
    }
}

void route(const Route& args, int64_t token, float* scratch) {
    int64_t experts = args.experts;
    const float* __restrict logits = args.logits + token * experts;
    float* __restrict scores = scratch;
    float* __restrict choice = scratch + experts;
    uint32_t* keys = reinterpret_cast<uint32_t*>(scratch + 2 * experts);
    uint8_t* marks = reinterpret_cast<uint8_t*>(scratch + 3 * experts);
    for (int64_t e = 0; e < experts; ++e) {
        scores[e] = read(gate(logits[e]));
        choice[e] = scores[e] + read(args.bias[e]);
    }
    if (args.groups > 1) {
        int64_t size = experts / args.groups;
        for (int64_t g = 0; g < args.groups; ++g) {
            int64_t top = -1, next = -1;
            for (int64_t e = g * size; e < (g + 1) * size; ++e) {
                if (top < 0 || order_key(choice[e]) > order_key(choice[top]))
                    next = top, top = e;
                else if (next < 0 || order_key(choice[e]) > order_key(choice[next]))
                    next = e;
            }
            keys[g] = order_key(choice[top] + choice[next]);
        }
        mark_best(keys, args.groups, args.kept_groups, marks);
        for (int64_t e = 0; e < experts; ++e)
            if (!marks[e / size]) choice[e] = -__builtin_inff();
    }
    for (int64_t e = 0; e < experts; ++e) keys[e] = order_key(choice[e]);
    mark_best(keys, experts, args.k, marks);
    int32_t* ids = args.ids + token * args.k;
    float* weights = args.weights + token * args.k;
    float total = 0.0f;
    for (int64_t e = 0, slot = 0; e < experts; ++e)
        if (marks[e]) {
            ids[slot] = static_cast<int32_t>(e);
            weights[slot++] = scores[e];
            total = total + scores[e];
        }
    for (int64_t slot = 0; slot < args.k; ++slot) {
        float weight = args.normalize ? weights[slot] / (total + 1e-20f) : weights[slot];
        weights[slot] = write(weight * args.scale);
    }
}
