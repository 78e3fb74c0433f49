// Ops that make, move and reshape memory of a device.
#include <ATen/EmptyTensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "ops.h"
#include "task.h"

namespace simulated {

namespace {

void check_dtype(at::ScalarType dtype, c10::Device device) {
  TORCH_CHECK(!arithmetic.refuse_float || dtype != at::kDouble, device, " has no float64");
}

c10::Device complete(std::optional<c10::Device> device) {
  return device.has_value() && device->has_index() ? *device : current_device();
}

constexpr c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(complete(device));
  auto kind = c10::dtype_or_default(dtype);
  check_dtype(kind, complete(device));
  return at::detail::empty_generic(size, allocator(), KEYS, kind, format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(complete(device));
  auto kind = c10::dtype_or_default(dtype);
  check_dtype(kind, complete(device));
  return at::detail::empty_strided_generic(size, stride, allocator(), KEYS, kind);
}

c10::SmallVector<int64_t, 5> contiguous_strides(c10::IntArrayRef size) {
  c10::SmallVector<int64_t, 5> strides(size.size(), 1);
  for (size_t i = size.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * std::max<int64_t>(size[i], 1);
  }
  return strides;
}

// Gives a tensor a shape on its storage, which grows where it is too small.
void reshape(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(size, stride);
  size_t bytes = at::detail::computeStorageNbytes(
      size, stride, self.dtype().itemsize(), static_cast<size_t>(self.storage_offset()));
  auto* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (self.numel() > 0 && bytes > storage->nbytes()) resize_storage(storage, bytes);
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size,
                         std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!format.has_value() || *format == at::MemoryFormat::Contiguous,
              "resize_ to another memory format");
  if (self.sizes() != size) reshape(self, size, contiguous_strides(size));
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset,
                        c10::IntArrayRef size, c10::IntArrayRef stride) {
  TORCH_CHECK(source.device().type() == SIM, "set_ to a storage of ", source.device());
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (stride.data() == nullptr) {
    reshape(self, size, contiguous_strides(size));
  } else {
    reshape(self, size, stride);
  }
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, at::Storage source) {
  auto count = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(source), 0, {count}, {1});
}

// From another device: its stream goes first, and may not go on before all is read.
void copy_between(const at::Tensor& from, const at::Tensor& to) {
  Mirror mirror(c10::kCPU);
  auto source = mirror(from), target = mirror(to);
  auto &reading = current_stream(from.device().index()),
       &writing = current_stream(to.device().index());
  if (&reading != &writing) {
    auto ready = std::make_shared<Event>();
    ready->record(reading);
    ready->block(writing);
  }
  submit(to.device().index(), "copy", [source, target, how = arithmetic] {
    target.copy_(source);
    narrow(target, how);
  });
  if (&reading != &writing) {
    auto read = std::make_shared<Event>();
    read->record(writing);
    read->block(reading);
  }
}

void copy_in(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const bool later = non_blocking && Machine::get().pinned(from.storage().data());
  auto source = later ? from : from.clone();  // pageable memory is read before the call returns
  auto target = Mirror(c10::kCPU)(to);
  auto device = to.device().index();
  auto ticket = submit(device, "copy", [source, target, how = arithmetic] {
    target.copy_(source);
    narrow(target, how);
  });
  if (!non_blocking) wait(current_stream(device), ticket);
}

void copy_out(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  auto source = Mirror(c10::kCPU)(from);
  auto device = from.device().index();
  auto ticket = submit(device, "copy", [source, to] { to.copy_(source); });
  const bool later = non_blocking && Machine::get().pinned(to.storage().data());
  if (!later) wait(current_stream(device), ticket);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& target, bool non_blocking) {
  TORCH_CHECK(self.defined() && target.defined(), "copy of an undefined tensor");
  if (target.numel() == 0) return target;
  auto source = self.sizes() == target.sizes() ? self : self.expand(target.sizes());
  if (source.device().type() == SIM && target.device().type() == SIM) {
    c10::DeviceGuard guard(target.device());
    copy_between(source, target);
  } else if (source.is_cpu()) {
    c10::DeviceGuard guard(target.device());
    copy_in(source, target, non_blocking);
  } else {
    TORCH_CHECK(target.is_cpu(), "copy from ", source.device(), " to ", target.device());
    c10::DeviceGuard guard(source.device());
    copy_out(source, target, non_blocking);
  }
  return target;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& target) {
  target.resize_(self.sizes());
  return copy_from(self, target, false);
}

void record_stream(at::Tensor& self, at::Stream stream) {
  Machine::get().use(self.storage().mutable_data(), stream_of(stream));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("set_.source_Storage", set_whole_storage);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("record_stream", record_stream);
}

// A copy resolves what a tensor only says it is: the general way would copy in order to copy.
TORCH_LIBRARY_IMPL(aten, Conjugate, library) {
  library.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, library) {
  library.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

}  // namespace

at::Tensor reached(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.device().type() == SIM, "a tensor of ", tensor.device());
  return Mirror(c10::kCPU)(tensor);
}

}  // namespace simulated
