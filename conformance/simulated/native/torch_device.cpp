#include "torch_device.h"

#include <Python.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/GeneratorImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstring>

namespace simulated {

Arithmetic arithmetic;

namespace {

std::atomic<bool> touched{false};

std::function<void()>& first_use() {
  static auto* function = new std::function<void()>;  // may hold Python objects: is never destroyed
  return *function;
}

thread_local c10::DeviceIndex here = 0;
thread_local std::map<c10::DeviceIndex, int64_t> chosen;  // stream by device; the default is 0

void check_device(c10::DeviceIndex index) {
  int count = Machine::get().devices();
  TORCH_CHECK(index >= 0 && index < count, "no device ", c10::Device(SIM, index), ": there are ",
              count);
}

c10::DeviceIndex known(c10::DeviceIndex index) { return index < 0 ? here : index; }

// Without the interpreter's lock, where this thread holds it.
class Unlocked {
 public:
  Unlocked() {
    if (Py_IsInitialized() && PyGILState_Check()) state_ = PyEval_SaveThread();
  }
  ~Unlocked() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_ = nullptr;
};

c10::DataPtr new_memory(size_t bytes, c10::Device device) {
  check_device(device.index());
  if (bytes == 0) return {nullptr, device};
  if (!touched.exchange(true) && first_use()) first_use()();
  auto& machine = Machine::get();
  void* address;
  {
    Unlocked unlocked;
    address = machine.allocate(device.index(), bytes, current_stream(device.index()));
  }
  TORCH_CHECK_WITH(OutOfMemoryError, address != nullptr, device, " is out of memory: ",
                   bytes, " bytes asked for, ", machine.usage(device.index()).now, " of ",
                   machine.memory(), " in use");
  return {address, address, [](void* at) { Machine::get().free(at); }, device};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override { return new_memory(bytes, current_device()); }
  c10::DeleterFnPtr raw_deleter() const override {
    return [](void* at) { Machine::get().free(at); };
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    auto& machine = Machine::get();
    auto& stream = current_stream(static_cast<c10::DeviceIndex>(machine.owner(to)));
    stream.submit([to = machine.reach(to), from = machine.reach(from), bytes] {
      memcpy(to, from, bytes);
    });
  }
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* address = Machine::get().allocate_pinned(bytes);
    TORCH_CHECK(address != nullptr, "no host memory for ", bytes, " pinned bytes");
    return {address, address, [](void* at) { Machine::get().free_pinned(at); }, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return [](void* at) { Machine::get().free_pinned(at); };
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    memcpy(to, from, bytes);
  }
};

DeviceAllocator device_allocator;
PinnedAllocator pinned_allocator;
REGISTER_ALLOCATOR(SIM, &device_allocator)

// A seed, and how often it was drawn from.
struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(c10::DeviceIndex index)
      : c10::GeneratorImpl(c10::Device(SIM, index),
                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}
  void set_current_seed(uint64_t value) override { seed_ = value, offset_ = 0; }
  void set_offset(uint64_t value) override { offset_ = value; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return seed_;
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == 16 && state.dtype() == caffe2::TypeMeta::Make<uint8_t>(),
                "the state of a generator is 16 bytes");
    memcpy(&seed_, state.data(), 8);
    memcpy(&offset_, static_cast<const char*>(state.data()) + 8, 8);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::detail::empty_cpu({16}, at::kByte, std::nullopt, std::nullopt, std::nullopt, std::nullopt);
    memcpy(state.mutable_data_ptr(), &seed_, 8);
    memcpy(static_cast<char*>(state.mutable_data_ptr()) + 8, &offset_, 8);
    return state.getIntrusivePtr();
  }
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator(device().index());
    copy->seed_ = seed_, copy->offset_ = offset_;
    return copy;
  }
  uint64_t next() {  // splitmix64 of both
    uint64_t x = seed_ + ++offset_ * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  }

 private:
  uint64_t seed_ = c10::default_rng_seed_val, offset_ = 0;
};

at::Generator new_generator(c10::DeviceIndex index) {
  return at::make_generator<DeviceGenerator>(known(index));
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return SIM; }
  c10::Device exchangeDevice(c10::Device device) const override {
    c10::Device before(SIM, here);
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {SIM, here}; }
  void setDevice(c10::Device device) const override {
    if (device.index() < 0) return;
    check_device(device.index());
    here = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) here = device.index();
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(Machine::get().devices());
  }

  c10::Stream torch_stream(c10::DeviceIndex device, int64_t id) const {
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(SIM, device), id);
  }
  c10::Stream getStream(c10::Device device) const override {
    auto index = known(device.index());
    check_device(index);
    return torch_stream(index, chosen[index]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return torch_stream(known(device.index()), 0);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    auto index = known(device.index());
    check_device(index);
    return torch_stream(index, Machine::get().new_stream(index).id);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = getStream(stream.device());
    chosen[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override { return stream_of(stream).idle(); }
  void synchronizeStream(const c10::Stream& stream) const override {
    auto& one = stream_of(stream);
    simulated::wait(one, one.last());
  }
  void synchronizeDevice(const c10::DeviceIndex index) const override {
    wait_for_device(known(index));
  }

  using Held = std::shared_ptr<Event>;
  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) *event = new Held(std::make_shared<Event>());
    (*static_cast<Held*>(*event))->record(stream_of(stream));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) (*static_cast<Held*>(event))->block(stream_of(stream));
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || (*static_cast<Held*>(event))->done();
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Held*>(event);
  }
  void synchronizeEvent(void* event) const override {
    if (event == nullptr) return;
    Unlocked unlocked;
    (*static_cast<Held*>(event))->wait();
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    TORCH_CHECK(from != nullptr && to != nullptr, "both events must be recorded first");
    auto &first = *static_cast<Held*>(from), &second = *static_cast<Held*>(to);
    TORCH_CHECK(first->done() && second->done(), "both events must be reached: synchronize first");
    return std::chrono::duration<double, std::milli>(second->when() - first->when()).count();
  }
  void recordDataPtrOnStream(const c10::DataPtr& memory, const c10::Stream& stream) const override {
    Machine::get().use(memory.get(), stream_of(stream));
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return Machine::get().devices() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return isAvailable(); }
  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(Machine::get().devices());
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    check_device(index);
    here = index;
  }
  c10::DeviceIndex getCurrentDevice() const override { return here; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    auto before = here;
    setCurrentDevice(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(known(index));
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return new_generator(index);
  }
  c10::Device getDeviceFromPtr(void* data) const override {
    int index = Machine::get().owner(data);
    TORCH_CHECK(index >= 0, "no memory of this kind of device");
    return {SIM, static_cast<c10::DeviceIndex>(index)};
  }
  bool isPinnedPtr(const void* data) const override { return Machine::get().pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    resize_storage(storage.unsafeGetStorageImpl(), bytes);
  }
};

[[maybe_unused]] const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace

void on_first_use(std::function<void()> function) { first_use() = std::move(function); }

bool used() { return touched; }

c10::Device current_device() { return {SIM, here}; }

Stream& current_stream(c10::DeviceIndex device) {
  return Machine::get().stream(device, chosen[device]);
}

Stream& stream_of(const c10::Stream& stream) {
  return Machine::get().stream(stream.device_index(), stream.id());
}

void make_room(Stream& stream) {
  Unlocked unlocked;
  stream.make_room();
}

void wait(Stream& stream, uint64_t ticket) {
  try {
    Unlocked unlocked;
    stream.wait(ticket);
  } catch (const std::runtime_error& error) {
    TORCH_CHECK(false, c10::Device(SIM, static_cast<c10::DeviceIndex>(stream.device)),
                ", in what was submitted before: ", error.what());
  }
}

void wait_for_device(c10::DeviceIndex device) {
  check_device(device);
  for (auto* stream : Machine::get().streams(device)) wait(*stream, stream->last());
}

const at::Generator& default_generator(c10::DeviceIndex device) {
  static auto* each = new std::map<c10::DeviceIndex, at::Generator>;
  check_device(device);
  auto found = each->find(device);
  if (found == each->end()) found = each->emplace(device, new_generator(device)).first;
  return found->second;
}

at::Generator drawn(const std::optional<at::Generator>& given, c10::DeviceIndex device) {
  const bool own = given.has_value() && given->defined();
  at::Generator source = own ? *given : default_generator(device);
  TORCH_CHECK(source.device().type() == SIM, "expected a generator of ", c10::Device(SIM, device),
              ", not of ", source.device());
  return at::make_generator<at::CPUGeneratorImpl>(source.get<DeviceGenerator>()->next());
}

c10::Allocator* allocator() { return &device_allocator; }

void resize_storage(c10::StorageImpl* storage, size_t bytes) {
  auto memory = new_memory(bytes, storage->device());
  size_t kept = std::min(bytes, storage->nbytes());
  if (kept > 0) device_allocator.copy_data(memory.get(), storage->data(), kept);
  storage->set_data_ptr_noswap(std::move(memory));
  storage->set_nbytes(bytes);
}

}  // namespace simulated
