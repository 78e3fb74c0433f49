// What torch is told about the machine, and what its kernels are run with.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include "machine.h"

namespace simulated {

constexpr auto SIM = c10::DeviceType::PrivateUse1;

// How the devices' arithmetic differs; read when a task is submitted.
struct Arithmetic {
  bool flush = false;        // subnormal operands and results are zero
  bool narrow_int = false;   // int64 holds 32 bits
  bool narrow_float = false; // float64 holds what float32 does
  bool refuse_float = false; // no tensor of float64
};
extern Arithmetic arithmetic;

// Called once, when memory is first asked for.
void on_first_use(std::function<void()> function);
bool used();

c10::Device current_device();
Stream& current_stream(c10::DeviceIndex device);
Stream& stream_of(const c10::Stream& stream);

// Wait without the interpreter's lock, which the task may need.
void wait(Stream& stream, uint64_t ticket);
void make_room(Stream& stream);
void wait_for_device(c10::DeviceIndex device);

// A generator of the host for one task, whatever the device's is: its numbers do not depend on when
// the task runs.
at::Generator drawn(const std::optional<at::Generator>& given, c10::DeviceIndex device);
const at::Generator& default_generator(c10::DeviceIndex device);

c10::Allocator* allocator();
void resize_storage(c10::StorageImpl* storage, size_t bytes);

}  // namespace simulated
