// A machine with devices: memory that the host cannot reach, streams, events. No torch in here.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace simulated {

using Task = std::function<void()>;
using Clock = std::chrono::steady_clock;

// A queue with a thread of its own. Tasks run in order, each not before its latency has passed.
class Stream {
 public:
  Stream(int of, int64_t number);

  // The number of the task in this stream, from 1 on.
  uint64_t submit(Task task);
  // Until the stream takes another task; what is in its way runs even though the machine is held.
  void make_room();
  // Until the task has run; throws what any task before it threw, once.
  void wait(uint64_t ticket);
  // Lets tasks up to this one run although the machine is held.
  void release(uint64_t ticket);
  uint64_t last();
  bool idle();
  // Tells the thread that the machine is held no longer.
  void wake();

  const int device;
  const int64_t id;

 private:
  struct Entry {
    Task task;
    Clock::time_point ready;
  };
  void work();

  std::mutex mutex_;
  std::condition_variable changed_, done_;
  std::deque<Entry> queue_;
  uint64_t submitted_ = 0, finished_ = 0, released_ = 0;
  std::string error_;
};

// A mark in a stream, which others can wait for; recording again moves the mark.
class Event : public std::enable_shared_from_this<Event> {
 public:
  void record(Stream& stream);
  // Makes later tasks of the stream wait for the mark as it is now.
  void block(Stream& stream);
  void wait();
  bool done();
  Clock::time_point when();

 private:
  void wait_for(uint64_t version, Stream* stream, uint64_t ticket);

  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t recorded_ = 0, reached_ = 0;
  Stream* stream_ = nullptr;
  uint64_t ticket_ = 0;
  Clock::time_point when_;
};

// What is allocated now, and at most so far; in bytes.
struct Usage {
  size_t now = 0, peak = 0;
};

// Addresses that tensors hold are reserved and never mapped. The memory itself lies at a constant
// distance, which only the devices' own threads add: so no moment of a kernel opens it to the host.
class Machine {
 public:
  static Machine& get();

  void start(int devices, size_t memory);
  int devices() const { return devices_; }
  size_t memory() const { return memory_; }

  Stream& stream(int device, int64_t id);
  Stream& new_stream(int device);
  std::vector<Stream*> streams(int device);

  // Memory in the order of a stream: nullptr where there is none left.
  void* allocate(int device, size_t bytes, Stream& stream);
  void free(void* address);
  // The memory may not be used again before this stream has come to where it is now when freed.
  void use(void* address, Stream& stream);
  // The address by which a device's thread reaches the memory.
  void* reach(const void* address) const;
  // Device of an address; -1 where it belongs to none.
  int owner(const void* address) const;
  Usage usage(int device);
  void reset_peak(int device);

  void* allocate_pinned(size_t bytes);
  void free_pinned(void* address);
  bool pinned(const void* address);

  void set_latency(std::chrono::microseconds latency);
  std::chrono::microseconds latency() const { return latency_; }
  // While held, nothing runs before somebody waits for it.
  void hold(bool held);
  bool held() const { return held_; }
  bool forked() const { return forked_; }

 private:
  struct Block {
    size_t size, requested;
    Stream* stream;
    std::set<Stream*> users;
  };
  struct Device {
    std::map<uintptr_t, size_t> free;  // address to size, without neighbours
    std::map<uintptr_t, Block> used;
    std::vector<std::unique_ptr<Stream>> streams;
    Usage usage;
  };

  void* take(Device& device, size_t bytes, size_t requested, Stream& stream);
  void give_back(int device, uintptr_t address);
  std::string overrun(uintptr_t address, const Block& block) const;

  std::mutex mutex_;
  std::vector<Device> each_;
  std::map<uintptr_t, size_t> pinned_;
  int devices_ = 0;
  size_t memory_ = 0;
  uintptr_t base_ = 0;
  ptrdiff_t distance_ = 0;
  std::chrono::microseconds latency_{0};
  std::atomic<bool> held_{false};
  bool forked_ = false;
};

}  // namespace simulated
