#include "machine.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace simulated {

namespace {

constexpr unsigned char POISON = 0xFF;  // NaN in every float type, -1 in every integer type
constexpr size_t GRAIN = 512;           // bytes that addresses and sizes are multiples of
constexpr size_t MARGIN = 64;           // bytes behind what was asked for, at least
constexpr size_t WHOLE = 1 << 20;       // bytes that a device's memory is a multiple of
constexpr size_t DEPTH = 32;            // tasks that a stream holds before the host waits

thread_local Stream* running = nullptr;  // whose thread this is

// Set once, read in a signal handler.
uintptr_t guarded_begin = 0, guarded_end = 0;
size_t guarded_each = 0;
struct sigaction previous_action;

void print(const char* text) {
  if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

void explain(int, siginfo_t* info, void*) {
  auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (address >= guarded_begin && address < guarded_end) {
    char device[] = "?";
    device[0] = static_cast<char>('0' + (address - guarded_begin) / guarded_each);
    print("simulated device: the host touched memory of device ");
    print(device);
    print("; only kernels and copies may\n");
  }
  sigaction(SIGSEGV, &previous_action, nullptr);  // the access is repeated, and meets this one
}

void* reserve(size_t bytes, int protection) {
  void* found = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) {
    throw std::runtime_error("no address space for " + std::to_string(bytes >> 20) +
                             " MiB of simulated memory: " + strerror(errno));
  }
  return found;
}

}  // namespace

Stream::Stream(int of, int64_t number) : device(of), id(number) {
  std::thread([this] { work(); }).detach();  // streams live as long as the process
}

uint64_t Stream::submit(Task task) {
  auto& machine = Machine::get();
  if (machine.forked()) {
    throw std::runtime_error("a simulated device cannot be used in a forked process: spawn it");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back({std::move(task), Clock::now() + machine.latency()});
  changed_.notify_one();
  return ++submitted_;
}

void Stream::make_room() {
  if (running != nullptr) return;  // a device's own thread never waits for one
  std::unique_lock<std::mutex> lock(mutex_);
  while (queue_.size() >= DEPTH) {
    const auto before = finished_;
    released_ = std::max(released_, before + 1);
    changed_.notify_one();
    done_.wait(lock, [&] { return finished_ > before; });
  }
}

void Stream::release(uint64_t ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  released_ = std::max(released_, ticket);
  changed_.notify_one();
}

void Stream::wait(uint64_t ticket) {
  if (running == this) throw std::runtime_error("a kernel waits for the stream that it runs in");
  release(ticket);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [&] { return finished_ >= ticket; });
  if (!error_.empty()) {
    std::string error;
    error.swap(error_);
    throw std::runtime_error(error);
  }
}

uint64_t Stream::last() {
  std::lock_guard<std::mutex> lock(mutex_);
  return submitted_;
}

bool Stream::idle() {
  std::lock_guard<std::mutex> lock(mutex_);
  return finished_ == submitted_;
}

void Stream::wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  changed_.notify_one();
}

void Stream::work() {
  running = this;
  auto& machine = Machine::get();
  for (;;) {
    Task task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] {
        return !queue_.empty() && (!machine.held() || released_ > finished_);
      });
      auto ready = queue_.front().ready;
      while (Clock::now() < ready) changed_.wait_until(lock, ready);
      task = std::move(queue_.front().task);
      queue_.pop_front();
    }
    std::string error;
    try {
      task();
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    task = nullptr;  // before it counts as finished: what it holds is let go of
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_.empty()) error_ = error;
    ++finished_;
    done_.notify_all();
  }
}

void Event::record(Stream& stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto self = shared_from_this();
  uint64_t version = ++recorded_;
  stream_ = &stream;
  ticket_ = stream.submit([self, version] {
    std::lock_guard<std::mutex> inner(self->mutex_);
    self->reached_ = std::max(self->reached_, version);
    self->when_ = Clock::now();
    self->changed_.notify_all();
  });
}

void Event::wait_for(uint64_t version, Stream* stream, uint64_t ticket) {
  if (version == 0) return;  // never recorded
  stream->release(ticket);
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return reached_ >= version; });
}

void Event::block(Stream& stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto self = shared_from_this();
  stream.submit([self, version = recorded_, of = stream_, ticket = ticket_] {
    self->wait_for(version, of, ticket);
  });
}

void Event::wait() {
  Stream* stream;
  uint64_t ticket;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stream = stream_;
    ticket = ticket_;
  }
  if (stream != nullptr) stream->wait(ticket);
}

bool Event::done() {
  std::lock_guard<std::mutex> lock(mutex_);
  return reached_ == recorded_;
}

Clock::time_point Event::when() {
  std::lock_guard<std::mutex> lock(mutex_);
  return when_;
}

Machine& Machine::get() {
  static auto* machine = new Machine;  // outlives static destruction: threads may still run
  return *machine;
}

void Machine::start(int devices, size_t memory) {
  if (devices_ != 0) throw std::runtime_error("the simulated devices are started already");
  if (devices < 1 || devices > 9) throw std::runtime_error("from 1 to 9 simulated devices");
  memory_ = (memory + WHOLE - 1) / WHOLE * WHOLE;
  size_t total = memory_ * static_cast<size_t>(devices);
  base_ = reinterpret_cast<uintptr_t>(reserve(total, PROT_NONE));
  distance_ = reinterpret_cast<char*>(reserve(total, PROT_READ | PROT_WRITE)) -
              reinterpret_cast<char*>(base_);
  each_ = std::vector<Device>(static_cast<size_t>(devices));
  for (size_t i = 0; i < each_.size(); ++i) {
    each_[i].free[base_ + i * memory_] = memory_;
    each_[i].streams.push_back(std::make_unique<Stream>(static_cast<int>(i), 0));
  }
  guarded_begin = base_;
  guarded_end = base_ + total;
  guarded_each = memory_;
  struct sigaction action = {};
  action.sa_sigaction = explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &previous_action);
  pthread_atfork(nullptr, nullptr, [] { Machine::get().forked_ = true; });
  devices_ = devices;
}

Stream& Machine::stream(int device, int64_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  return *each_.at(static_cast<size_t>(device)).streams.at(static_cast<size_t>(id));
}

Stream& Machine::new_stream(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& streams = each_.at(static_cast<size_t>(device)).streams;
  streams.push_back(std::make_unique<Stream>(device, static_cast<int64_t>(streams.size())));
  return *streams.back();
}

std::vector<Stream*> Machine::streams(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Stream*> found;
  for (auto& stream : each_.at(static_cast<size_t>(device)).streams) found.push_back(stream.get());
  return found;
}

void* Machine::take(Device& device, size_t bytes, size_t requested, Stream& stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto found = device.free.begin(); found != device.free.end(); ++found) {
    auto [address, size] = *found;
    if (size < bytes) continue;
    device.free.erase(found);
    if (size > bytes) device.free[address + bytes] = size - bytes;
    device.used[address] = Block{bytes, requested, &stream, {}};
    device.usage.now += bytes;
    device.usage.peak = std::max(device.usage.peak, device.usage.now);
    return reinterpret_cast<void*>(address);
  }
  return nullptr;
}

void* Machine::allocate(int device, size_t requested, Stream& stream) {
  size_t bytes = (requested + MARGIN + GRAIN - 1) / GRAIN * GRAIN;
  auto& one = each_.at(static_cast<size_t>(device));
  void* address = take(one, bytes, requested, stream);
  if (address == nullptr) {  // what was freed may still be in use
    for (auto* each : streams(device)) each->wait(each->last());
    address = take(one, bytes, requested, stream);
  }
  if (address != nullptr) {
    stream.submit([memory = reach(address), bytes] { memset(memory, POISON, bytes); });
  }
  return address;
}

std::string Machine::overrun(uintptr_t address, const Block& block) const {
  auto* memory = static_cast<unsigned char*>(reach(reinterpret_cast<void*>(address)));
  for (size_t end = block.size; end > block.requested; --end) {
    if (memory[end - 1] != POISON) {
      return "a kernel wrote " + std::to_string(end - block.requested) +
             " bytes behind the end of " + std::to_string(block.requested) + " bytes of memory";
    }
  }
  return {};
}

void Machine::free(void* address) {
  auto where = reinterpret_cast<uintptr_t>(address);
  int device = owner(address);
  if (forked_) return;
  Stream* stream;
  std::vector<Stream*> users;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto& block = each_.at(static_cast<size_t>(device)).used.at(where);
    stream = block.stream;
    users.assign(block.users.begin(), block.users.end());
  }
  for (auto* user : users) {
    auto event = std::make_shared<Event>();
    event->record(*user);
    event->block(*stream);
  }
  stream->submit([this, device, where] { give_back(device, where); });
}

void Machine::give_back(int device, uintptr_t address) {
  auto& one = each_.at(static_cast<size_t>(device));
  Block block;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    block = one.used.at(address);
  }
  std::string error = overrun(address, block);
  // whoever still reads it must notice
  memset(reach(reinterpret_cast<void*>(address)), POISON, block.size);
  std::lock_guard<std::mutex> lock(mutex_);
  one.used.erase(address);
  one.usage.now -= block.size;
  auto next = one.free.lower_bound(address);
  if (next != one.free.end() && next->first == address + block.size) {
    block.size += next->second;
    next = one.free.erase(next);
  }
  if (next != one.free.begin() && std::prev(next)->first + std::prev(next)->second == address) {
    std::prev(next)->second += block.size;
  } else {
    one.free[address] = block.size;
  }
  if (!error.empty()) throw std::runtime_error(error);
}

void Machine::use(void* address, Stream& stream) {
  int device = owner(address);
  if (device < 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = each_.at(static_cast<size_t>(device)).used.find(reinterpret_cast<uintptr_t>(address));
  if (found != each_.at(static_cast<size_t>(device)).used.end() && found->second.stream != &stream) {
    found->second.users.insert(&stream);
  }
}

void* Machine::reach(const void* address) const {
  if (address == nullptr) return nullptr;
  return const_cast<char*>(static_cast<const char*>(address)) + distance_;
}

int Machine::owner(const void* address) const {
  auto where = reinterpret_cast<uintptr_t>(address);
  if (devices_ == 0 || where < guarded_begin || where >= guarded_end) return -1;
  return static_cast<int>((where - base_) / memory_);
}

Usage Machine::usage(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  return each_.at(static_cast<size_t>(device)).usage;
}

void Machine::reset_peak(int device) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& usage = each_.at(static_cast<size_t>(device)).usage;
  usage.peak = usage.now;
}

void* Machine::allocate_pinned(size_t bytes) {
  void* address = nullptr;
  if (posix_memalign(&address, 4096, std::max<size_t>(bytes, 1)) != 0) return nullptr;
  memset(address, POISON, bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  pinned_[reinterpret_cast<uintptr_t>(address)] = std::max<size_t>(bytes, 1);
  return address;
}

void Machine::free_pinned(void* address) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    pinned_.erase(reinterpret_cast<uintptr_t>(address));
  }
  ::free(address);
}

bool Machine::pinned(const void* address) {
  auto where = reinterpret_cast<uintptr_t>(address);
  std::lock_guard<std::mutex> lock(mutex_);
  auto next = pinned_.upper_bound(where);
  if (next == pinned_.begin()) return false;
  --next;
  return where < next->first + next->second;
}

void Machine::set_latency(std::chrono::microseconds latency) { latency_ = latency; }

void Machine::hold(bool held) {
  held_ = held;
  for (int device = 0; device < devices_; ++device) {
    for (auto* stream : streams(device)) stream->wake();
  }
}

}  // namespace simulated
