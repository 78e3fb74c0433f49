// A pool of sleeping threads; items are handed out one by one. Integers have no order, so who
// takes which item changes no bit.
#pragma once

#include <cstdint>

namespace cpu {

using Task = void (*)(const void* context, int64_t item, int worker);

void run(int threads, int64_t items, Task task, const void* context);

// Calls f(item, worker) for every item, on up to `threads` threads including the caller's. Throws
// what the lowest item that failed has thrown, after all threads have come to rest.
template <class F>
void each(int threads, int64_t items, const F& f) {
    run(threads, items,
        [](const void* context, int64_t item, int worker) {
            (*static_cast<const F*>(context))(item, worker);
        },
        &f);
}

}  // namespace cpu
