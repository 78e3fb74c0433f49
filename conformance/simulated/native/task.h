// Tasks of a device: the tensors that they see, and what they are run under.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <unordered_map>

#include "torch_device.h"

namespace simulated {

// Tensors on the same bytes seen from elsewhere: by a device's thread, or by nobody (meta).
class Mirror {
 public:
  explicit Mirror(c10::DeviceType type) : type_(type) {}

  at::Tensor operator()(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    auto found = tensors_.find(tensor.unsafeGetTensorImpl());
    if (found != tensors_.end()) return found->second;
    return tensors_[tensor.unsafeGetTensorImpl()] = made(tensor);
  }

 private:
  at::Tensor made(const at::Tensor& tensor);

  c10::DeviceType type_;
  std::unordered_map<c10::TensorImpl*, at::Tensor> tensors_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;
};

// What a device leaves in memory of values that it has no bits for.
void narrow(const at::Tensor& tensor, const Arithmetic& how);

// What a task is run under.
class Surroundings {
 public:
  explicit Surroundings(const Arithmetic& how);
  ~Surroundings();
  Surroundings(const Surroundings&) = delete;
  Surroundings& operator=(const Surroundings&) = delete;

 private:
  bool flush_;
  at::AutoDispatchBelowADInplaceOrView below_;
};

// To the current stream; what it throws bears the name.
uint64_t submit(c10::DeviceIndex device, const std::string& name, std::function<void()> task);

}  // namespace simulated
