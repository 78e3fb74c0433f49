#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace cpu {
namespace {

constexpr int SPINS = 1500;  // some 100 microseconds: the next phase of an op, or the next op

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

struct Pool {
    std::mutex owner;  // one parallel region at a time
    std::mutex mutex;
    std::condition_variable wake, done;
    std::atomic<uint64_t> round{0};
    std::atomic<int> busy{0};
    int workers = 0;
    const pid_t process = getpid();

    // The region that is running; written before `round` moves on.
    Task task = nullptr;
    const void* context = nullptr;
    int64_t items = 0;
    int wanted = 0;
    int64_t failed = 0;  // the lowest item that has thrown `error`
    std::exception_ptr error;
    alignas(64) std::atomic<int64_t> next{0};

    void take(int worker) {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
            try {
                task(context, item, worker);
            } catch (...) {
                std::lock_guard lock(mutex);
                if (!error || item < failed) failed = item, error = std::current_exception();
            }
        }
    }

    void work(int worker, uint64_t seen) {
        for (;;) {
            for (int spin = 0; spin < SPINS && round.load() == seen; ++spin) pause();
            if (round.load() == seen) {
                std::unique_lock lock(mutex);
                wake.wait(lock, [&] { return round.load() != seen; });
            }
            seen = round.load();
            if (worker < wanted) take(worker);
            if (busy.fetch_sub(1) == 1) {
                std::lock_guard lock(mutex);
                done.notify_one();
            }
        }
    }

    void run(int threads, int64_t count, Task what, const void* with) {
        while (workers < threads - 1) {
            std::thread(&Pool::work, this, workers + 1, round.load()).detach();
            ++workers;
        }
        task = what, context = with, items = count, wanted = threads;
        next.store(0);
        busy.store(workers);
        {
            std::lock_guard lock(mutex);
            round.fetch_add(1);
        }
        wake.notify_all();
        take(0);
        for (int spin = 0; spin < SPINS && busy.load(); ++spin) pause();
        if (busy.load()) {
            std::unique_lock lock(mutex);
            done.wait(lock, [&] { return busy.load() == 0; });
        }
        if (error) std::rethrow_exception(std::exchange(error, nullptr));
    }
};

// Never destroyed: its threads sleep until the process ends. A forked child makes its own.
Pool& pool() {
    static std::atomic<Pool*> current{nullptr};
    static std::mutex making;
    Pool* found = current.load();
    if (found && found->process == getpid()) return *found;
    std::lock_guard lock(making);
    found = current.load();
    if (!found || found->process != getpid()) current.store(found = new Pool);
    return *found;
}

}  // namespace

void run(int threads, int64_t items, Task task, const void* context) {
    if (threads > items) threads = static_cast<int>(items);
    if (threads > 1) {
        Pool& shared = pool();
        std::unique_lock owner(shared.owner, std::try_to_lock);
        if (owner) return shared.run(threads, items, task, context);
    }
    for (int64_t item = 0; item < items; ++item) task(context, item, 0);
}

}  // namespace cpu
