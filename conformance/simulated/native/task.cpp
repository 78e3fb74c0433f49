#include "task.h"

#include <ATen/Context.h>

namespace simulated {

namespace {

std::string shortened(const std::exception& error) {
  auto* known = dynamic_cast<const c10::Error*>(&error);
  return known != nullptr ? known->what_without_backtrace() : error.what();
}

}  // namespace

at::Tensor Mirror::made(const at::Tensor& tensor) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  auto& same = storages_[storage];
  if (!same) {
    const bool meta = type_ == c10::kMeta;
    void* memory = meta ? nullptr : Machine::get().reach(storage->data());
    same = c10::Storage(c10::Storage::use_byte_size_t(), storage->nbytes(),
                        c10::DataPtr(memory, c10::Device(type_)),
                        meta ? c10::GetAllocator(c10::kMeta) : nullptr, meta);
  }
  auto key = type_ == c10::kCPU ? c10::DispatchKey::CPU : c10::DispatchKey::Meta;
  auto copy = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(same),
                                                       c10::DispatchKeySet(key), tensor.dtype());
  auto* impl = copy.unsafeGetTensorImpl();
  impl->set_storage_offset(tensor.storage_offset());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  copy._set_conj(tensor.is_conj());
  copy._set_neg(tensor.is_neg());
  return copy;
}

void narrow(const at::Tensor& tensor, const Arithmetic& how) {
  if (!tensor.defined() || tensor.numel() == 0) return;
  if (how.narrow_int && tensor.scalar_type() == at::kLong) {
    tensor.copy_(tensor.to(at::kInt));
  } else if (how.narrow_float && tensor.scalar_type() == at::kDouble) {
    tensor.copy_(tensor.to(at::kFloat));
  }
}

Surroundings::Surroundings(const Arithmetic& how) : flush_(how.flush) {
  if (flush_) at::globalContext().setFlushDenormal(true);
}

Surroundings::~Surroundings() {
  if (flush_) at::globalContext().setFlushDenormal(false);
}

uint64_t submit(c10::DeviceIndex device, const std::string& name, std::function<void()> task) {
  auto& stream = current_stream(device);
  make_room(stream);
  return stream.submit([name, task = std::move(task), how = arithmetic] {
    Surroundings around(how);
    try {
      task();
    } catch (const std::exception& error) {
      throw std::runtime_error(name + ": " + shortened(error));
    }
  });
}

}  // namespace simulated
