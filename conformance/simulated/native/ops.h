// Putting other kernels in the place of the host's.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <functional>
#include <map>
#include <string>

namespace simulated {

// Takes an op's arguments, on the host's side, from the stack and leaves its results there.
using Kernel = std::function<void(const c10::OperatorHandle&, torch::jit::Stack*)>;
// Asked whenever the op is submitted; an empty kernel means the host's own.
using Choice = std::function<Kernel()>;

void replace(const std::string& name, Choice choice);

// Names of ops that could not be late, and how often the host waited for each.
std::map<std::string, size_t> waited();

// A tensor on the memory of a device's tensor that only the device's threads may read.
at::Tensor reached(const at::Tensor& tensor);

}  // namespace simulated
