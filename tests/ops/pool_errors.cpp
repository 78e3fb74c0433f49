// What the pool of threads does with errors: prints one line a check that fails.
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "pool.h"

namespace {

constexpr int64_t ITEMS = 1000;

// Items 7 and 13 of each hundred throw; how many were run, and what came out.
std::string region(int threads, std::atomic<int64_t>& run) {
    try {
        cpu::each(threads, ITEMS, [&](int64_t item, int) {
            ++run;
            if (item % 100 == 7 || item % 100 == 13) throw std::out_of_range(std::to_string(item));
        });
    } catch (const std::out_of_range& error) {
        return error.what();
    }
    return "nothing";
}

bool check(bool holds, const char* what, int threads) {
    if (!holds) std::printf("%s, %d threads\n", what, threads);
    return holds;
}

}  // namespace

int main() {
    bool good = true;
    for (int threads : {1, 2, 5}) {
        for (int again = 0; again < 20; ++again) {
            std::atomic<int64_t> run{0};
            good &= check(region(threads, run) == "7", "the lowest item's error comes out", threads);
            if (threads > 1) good &= check(run == ITEMS, "the other items are run", threads);
        }
        std::atomic<int64_t> sum{0};
        cpu::each(threads, ITEMS, [&](int64_t item, int) { sum += item; });
        good &= check(sum == ITEMS * (ITEMS - 1) / 2, "the next region is whole", threads);
    }
    return good ? 0 : 1;
}
