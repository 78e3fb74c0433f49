// Arrays and paged rows as the operations take them. Arguments are checked by the caller in Python;
// only what would read outside of a cache is checked here.
#pragma once

#include <stdexcept>

#include "common.h"

namespace cpu {

// A strided array of up to three dimensions whose last one is contiguous; strides in elements.
struct Array {
    const void* data;
    Type type;
    int64_t shape[3];
    int64_t stride[3];

    const char* at(int64_t i, int64_t j = 0) const {
        return static_cast<const char*>(data) + (i * stride[0] + j * stride[1]) * size_of(type);
    }
};

struct Paged {
    Array cache;  // [slots, W]
    int64_t page_size;
    const int32_t* table;  // [B, P]
    int64_t sequences, pages;
    const int32_t* sequence;  // [T]
    const int32_t* lengths;   // [T]
    int64_t tokens;

    const void* row(int64_t token, int64_t position) const {
        int64_t page = position / page_size, own = sequence[token];
        if (own < 0 || own >= sequences || position < 0 || page >= pages)
            throw std::out_of_range("a position outside of the page table");
        int64_t slot = table[own * pages + page] * page_size + position % page_size;
        if (slot < 0 || slot >= cache.shape[0]) throw std::out_of_range("a page outside of the cache");
        return cache.at(slot);
    }
};

}  // namespace cpu
