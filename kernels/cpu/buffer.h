// Scratch memory.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "common.h"

namespace cpu {

constexpr int64_t KEPT = 64 << 20;  // bytes of scratch that outlive a call

// Aligned memory that grows and is not initialised.
template <class T>
class Buffer {
   public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    T* need(int64_t count) {
        if (count > size_) {
            std::free(data_);
            size_ = 0;
            size_t bytes = ceil_div(std::max<int64_t>(count, 1) * sizeof(T), 64) * 64;
            data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
            if (!data_) throw std::bad_alloc();
            size_ = count;
        }
        return data_;
    }
    const T* data() const { return data_; }
    void trim() {
        if (size_ * static_cast<int64_t>(sizeof(T)) > KEPT) std::free(data_), data_ = nullptr, size_ = 0;
    }

   private:
    T* data_ = nullptr;
    int64_t size_ = 0;
};

}  // namespace cpu
