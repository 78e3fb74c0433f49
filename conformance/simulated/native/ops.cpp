// Every op of torch, run by the host's kernel on the device's thread.
//
// What is late: everything whose outputs' shapes the op's meta kernel tells. The outputs are
// allocated at once and hold poison until the stream comes to the task. What is not: ops whose
// answer the caller gets at once (`item`, `equal`) or whose outputs' shapes depend on values
// (`nonzero`), and the few without a meta kernel. Those wait, as they do on a chip.
#include "ops.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/enum_tag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/WrapDimMinimal.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "task.h"

namespace simulated {

namespace {

using torch::jit::Stack;

std::unordered_map<std::string, Choice>& replacements() {
  static auto* each = new std::unordered_map<std::string, Choice>;
  return *each;
}

std::mutex counting;
std::map<std::string, size_t>& counts() {
  static auto* each = new std::map<std::string, size_t>;
  return *each;
}

template <typename Function>
c10::IValue each_tensor(const c10::IValue& value, const Function& function) {
  if (value.isTensor()) return function(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& one : value.toTensorVector()) list.push_back(function(one));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto& one : value.toOptionalTensorVector()) {
      list.push_back(one.has_value() ? std::optional<at::Tensor>(function(*one)) : std::nullopt);
    }
    return list;
  }
  return value;
}

bool written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

bool view(const c10::FunctionSchema& schema) {
  for (const auto& one : schema.returns()) {
    if (one.alias_info() != nullptr && !one.alias_info()->isWrite()) return true;
  }
  return false;
}

bool only_tensors(const c10::FunctionSchema& schema) {
  for (const auto& one : schema.returns()) {
    auto kind = one.type()->kind();
    if (kind == c10::TypeKind::ListType) kind = one.type()->containedType(0)->kind();
    if (kind != c10::TypeKind::TensorType) return false;
  }
  return true;
}

// One call of an op whose tensors are on a device.
class Call {
 public:
  Call(const c10::OperatorHandle& op, Stack* stack)
      : op_(op), schema_(op.schema()), stack_(stack), name_(op.schema().name()) {
    if (!schema_.overload_name().empty()) name_ += "." + schema_.overload_name();
    auto count = schema_.arguments().size();
    arguments_.assign(stack->end() - static_cast<std::ptrdiff_t>(count), stack->end());
    device_ = where();
  }

  void run() {
    c10::OptionalDeviceGuard guard(device_);
    check();
    if (view(schema_)) return finish(viewed());
    Stack shapes;
    if (elementwise() || prepared()) {
      late(Stack(schema_.returns().size()));
    } else if (only_tensors(schema_) && foreseen(&shapes)) {
      late(shapes);
    } else {
      at_once();
    }
  }

 private:
  c10::Device where() {
    std::optional<c10::Device> found;
    for (auto& value : arguments_) {
      each_tensor(value, [&](const at::Tensor& one) {
        if (one.defined() && one.device().type() == SIM && !found) found = one.device();
        return one;
      });
    }
    for (auto& value : arguments_) {
      if (!found && value.isDevice() && value.toDevice().type() == SIM) found = value.toDevice();
    }
    auto device = found.value_or(current_device());
    return device.has_index() ? device : current_device();
  }

  // Tensors of other devices are refused, but for numbers and for indices, which go over.
  void check() {
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const bool index = schema_.arguments()[i].name() == "indices";
      arguments_[i] = each_tensor(arguments_[i], [&](const at::Tensor& one) -> at::Tensor {
        if (!one.defined() || one.device() == device_) return one;
        if (one.is_cpu() && one.dim() == 0) return one;
        if (one.is_cpu() && index) return one.to(device_);
        TORCH_CHECK(false, "expected all tensors to be on the same device, but found at least two, ",
                    device_, " and ", one.device(), ", in ", name_);
      });
    }
  }

  // The arguments for the host's kernel, or for the meta kernel.
  Stack mirrored(Mirror& mirror, c10::DeviceType type) {
    Stack made;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const auto& value = arguments_[i];
      if (value.isDevice()) {
        made.emplace_back(c10::Device(type));
      } else if (generator(i)) {
        auto given = value.toOptional<at::Generator>();
        made.push_back(type == c10::kCPU ? c10::IValue(drawn(given, device_.index()))
                                         : c10::IValue());
      } else {
        made.push_back(each_tensor(value, [&](const at::Tensor& one) -> at::Tensor {
          if (!one.defined() || one.device().type() == SIM) return mirror(one);
          if (type == c10::kMeta) return one;
          auto copy = one.clone();  // the host may change it
          if (one.unsafeGetTensorImpl()->is_wrapped_number()) {
            copy.unsafeGetTensorImpl()->set_wrapped_number(true);
          }
          return copy;
        }));
      }
    }
    return made;
  }

  bool generator(size_t i) const {
    auto type = schema_.arguments()[i].real_type();
    if (type->kind() == c10::TypeKind::OptionalType) type = type->containedType(0);
    return type->kind() == c10::TypeKind::GeneratorType;
  }

  // Whether it writes, element by element, to tensors that have the right shape already: the usual
  // case, for which no meta kernel need be asked.
  bool elementwise() {
    if (!op_.hasTag(at::Tag::pointwise)) return false;
    std::vector<int64_t> shape;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (out(i) || !arguments_[i].isTensor() || !arguments_[i].toTensor().defined()) continue;
      auto sizes = arguments_[i].toTensor().sizes();
      if (!at::are_expandable(shape, sizes)) return false;
      shape = at::infer_size(shape, sizes);
    }
    bool any = false;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (!written(schema_.arguments()[i])) continue;
      if (!arguments_[i].isTensor() || arguments_[i].toTensor().sizes() != shape) return false;
      any = true;
    }
    return any && schema_.returns().size() > 0 && schema_.is_mutable();
  }

  // Whether it writes to a tensor that has the right shape already, and has one of those meta kernels
  // in Python that begin by importing a compiler: of the ops that backends and the suite use.
  bool prepared() {
    std::optional<std::vector<int64_t>> shape;
    if (name_ == "aten::cat.out") shape = concatenated();
    if (name_ == "aten::amax.out") shape = reduced();
    if (name_ == "aten::all.all_out") shape = std::vector<int64_t>();
    return shape && arguments_.back().toTensor().sizes() == *shape;
  }

  std::optional<std::vector<int64_t>> concatenated() {
    auto parts = arguments_[0].toTensorVector();
    if (parts.empty() || parts[0].dim() < 1) return {};
    auto dim = c10::maybe_wrap_dim(arguments_[1].toInt(), parts[0].dim());
    auto whole = parts[0].sizes().vec();
    whole[dim] = 0;
    for (const auto& part : parts) {
      if (part.dim() != parts[0].dim() || part.dtype() != parts[0].dtype()) return {};
      auto sizes = part.sizes().vec();
      whole[dim] += sizes[dim];
      sizes[dim] = whole[dim];
      if (sizes != whole) return {};
    }
    return whole;
  }

  // Along some axes of a tensor that is not empty; where none are named, the meta kernel is asked.
  std::optional<std::vector<int64_t>> reduced() {
    const auto& from = arguments_[0].toTensor();
    auto axes = arguments_[1].toIntVector();
    if (axes.empty() || from.numel() == 0) return {};
    for (auto& axis : axes) axis = c10::maybe_wrap_dim(axis, from.dim());
    std::vector<int64_t> shape;
    for (int64_t i = 0; i < from.dim(); ++i) {
      const bool gone = std::find(axes.begin(), axes.end(), i) != axes.end();
      if (!gone) shape.push_back(from.size(i));
      if (gone && arguments_[2].toBool()) shape.push_back(1);
    }
    return shape;
  }

  // The outputs' shapes, where they can be known without values; written arguments get theirs.
  bool foreseen(Stack* shapes) {
    if (!op_.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) return false;
    Mirror mirror(c10::kMeta);
    Stack metas;
    try {
      metas = mirrored(mirror, c10::kMeta);
      *shapes = metas;
      at::AutoDispatchBelowADInplaceOrView below;
      op_.callBoxed(shapes);
    } catch (const std::exception&) {
      return false;  // the host's kernel will say what is wrong, if anything is
    }
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (!written(schema_.arguments()[i]) || !arguments_[i].isTensor()) continue;
      const auto &mine = arguments_[i].toTensor(), &meta = metas[i].toTensor();
      if (mine.defined() && mine.sizes() != meta.sizes()) {
        mine.resize_(meta.sizes());
        mine.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes(), meta.strides());
      }
    }
    return true;
  }

  at::Tensor like(const at::Tensor& shape) {
    if (!shape.defined()) return shape;
    return at::empty_strided(shape.sizes(), shape.strides(), shape.options().device(device_));
  }

  void late(const Stack& shapes) {
    Stack results;
    for (const auto& shape : shapes) {
      results.push_back(each_tensor(shape, [&](const at::Tensor& one) { return like(one); }));
    }
    Mirror mirror(c10::kCPU);
    auto host = mirrored(mirror, c10::kCPU);
    std::vector<at::Tensor> fresh, changed;
    const auto& returns = schema_.returns();
    for (size_t i = 0; i < returns.size(); ++i) {
      if (returns[i].alias_info() != nullptr) {
        results[i] = argument_of(i);
      } else {
        each_tensor(results[i], [&](const at::Tensor& one) {
          fresh.push_back(mirror(one));
          return one;
        });
      }
    }
    for (size_t i = 0; i < host.size(); ++i) {
      if (!written(schema_.arguments()[i])) continue;
      each_tensor(host[i], [&](const at::Tensor& one) {
        changed.push_back(one);
        return one;
      });
    }
    submit(device_.index(), name_,
           [op = op_, how = arithmetic, kernel = replacement(), host = std::move(host),
            fresh = std::move(fresh), changed = std::move(changed)]() mutable {
             if (kernel) {
               kernel(op, &host);
             } else {
               op.callBoxed(&host);
             }
             if (!fresh.empty()) keep(host, fresh);
             for (const auto& one : fresh) narrow(one, how);
             for (const auto& one : changed) narrow(one, how);
           });
    finish(std::move(results));
  }

  // Put what a kernel has returned where the caller expects it.
  static void keep(const Stack& made, const std::vector<at::Tensor>& places) {
    size_t i = 0;
    for (const auto& value : made) {
      each_tensor(value, [&](const at::Tensor& one) {
        const auto& place = places.at(i++);
        if (one.defined() && place.defined()) {
          TORCH_CHECK(one.sizes() == place.sizes() && one.dtype() == place.dtype(),
                      "the kernel made ", one.sizes(), " ", one.dtype(), ", its meta kernel said ",
                      place.sizes(), " ", place.dtype());
          place.copy_(one);
        }
        return one;
      });
    }
  }

  void at_once() {
    {
      std::lock_guard<std::mutex> lock(counting);
      ++counts()[name_];
    }
    Mirror mirror(c10::kCPU);
    auto host = mirrored(mirror, c10::kCPU);
    for (size_t i = 0; i < host.size(); ++i) {  // memory of a device cannot grow below a kernel
      if (out(i)) host[i] = at::empty({0}, host[i].toTensor().options());
    }
    auto written_ones = host;
    std::exception_ptr error;
    auto& stream = current_stream(device_.index());
    auto ticket = stream.submit([&, how = arithmetic, kernel = replacement()] {
      Surroundings around(how);
      try {
        if (kernel) {
          kernel(op_, &host);
        } else {
          op_.callBoxed(&host);
        }
      } catch (...) {
        error = std::current_exception();
      }
    });
    wait(stream, ticket);
    if (error) std::rethrow_exception(error);
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (!out(i)) continue;
      arguments_[i].toTensor().resize_(written_ones[i].toTensor().sizes());
      arguments_[i].toTensor().copy_(written_ones[i].toTensor());
    }
    const auto& returns = schema_.returns();
    for (size_t i = 0; i < returns.size(); ++i) {
      host[i] = returns[i].alias_info() != nullptr
                    ? argument_of(i)
                    : each_tensor(host[i], [&](const at::Tensor& one) {
                        if (!one.defined()) return one;
                        auto copy = like(one);
                        copy.copy_(one);
                        return copy;
                      });
    }
    finish(std::move(host));
  }

  bool out(size_t i) const {
    const auto& argument = schema_.arguments()[i];
    return written(argument) && argument.is_out() && arguments_[i].isTensor();
  }

  // Tensors on the same storage, shaped as the meta kernel says.
  Stack viewed() {
    Mirror mirror(c10::kMeta);
    auto shapes = mirrored(mirror, c10::kMeta);
    at::AutoDispatchBelowADInplaceOrView below;
    op_.callBoxed(&shapes);
    const auto& returns = schema_.returns();
    Stack results;
    for (size_t i = 0; i < returns.size(); ++i) {
      auto source = argument_of(i).toTensor();
      results.push_back(each_tensor(shapes[i], [&](const at::Tensor& shape) {
        auto made = at::detail::make_tensor<c10::TensorImpl>(
            c10::TensorImpl::VIEW, c10::Storage(source.storage()), source.key_set(),
            shape.dtype());
        made.unsafeGetTensorImpl()->set_storage_offset(shape.storage_offset());
        made.unsafeGetTensorImpl()->set_sizes_and_strides(shape.sizes(), shape.strides());
        return made;
      }));
    }
    return results;
  }

  // The argument whose memory a return value has.
  c10::IValue argument_of(size_t result) const {
    const auto* mine = schema_.returns()[result].alias_info();
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const auto* other = schema_.arguments()[i].alias_info();
      if (other != nullptr && mine->beforeSets() == other->beforeSets()) return arguments_[i];
    }
    TORCH_CHECK(false, name_, " returns memory of none of its arguments");
  }

  Kernel replacement() const {
    auto found = replacements().find(name_);
    return found == replacements().end() ? Kernel() : found->second();
  }

  void finish(Stack results) {
    torch::jit::drop(*stack_, arguments_.size());
    for (auto& result : results) stack_->push_back(std::move(result));
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  Stack* stack_;
  std::string name_;
  Stack arguments_;
  c10::Device device_ = c10::Device(SIM, 0);
};

void boxed(const c10::OperatorHandle& op, Stack* stack) { Call(op, stack).run(); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&boxed>());
}

}  // namespace

void replace(const std::string& name, Choice choice) {
  replacements()[name] = std::move(choice);
}

std::map<std::string, size_t> waited() {
  std::lock_guard<std::mutex> lock(counting);
  return counts();
}

}  // namespace simulated
