// The machine as a Python module.
#include <pybind11/pybind11.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>

#include "chain.h"
#include "lines.h"
#include "ops.h"
#include "products.h"
#include "task.h"

namespace py = pybind11;

namespace simulated {

namespace {

// A Python object that threads without the interpreter's lock may hold and let go of.
using Shared = std::shared_ptr<py::object>;

Shared shared(py::object object) {
  return Shared(new py::object(std::move(object)), [](py::object* held) {
    py::gil_scoped_acquire locked;
    delete held;
  });
}

// An error of Python as one that other threads may hold: only its text.
template <typename Function>
void locked(const Function& function) {
  py::gil_scoped_acquire lock;
  try {
    function();
  } catch (py::error_already_set& error) {
    std::string text = py::str(error.value());
    throw std::runtime_error(py::str(error.type().attr("__name__")).cast<std::string>() + ": " +
                             text);
  }
}

py::object wrapped(const at::Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

at::Tensor unwrapped(py::handle object) {
  TORCH_CHECK_TYPE(THPVariable_Check(object.ptr()), "expected a tensor, not ",
                   py::str(py::type::of(object)).cast<std::string>());
  return THPVariable_Unpack(object.ptr());
}

py::object to_python(const c10::IValue& value) {
  if (value.isNone()) return py::none();
  if (value.isTensor()) return wrapped(value.toTensor());
  if (value.isBool()) return py::cast(value.toBool());
  if (value.isInt()) return py::cast(value.toInt());
  if (value.isDouble()) return py::cast(value.toDouble());
  if (value.isString()) return py::cast(value.toStringRef());
  if (value.isList()) {
    py::list list;
    for (const c10::IValue& one : value.toListRef()) list.append(to_python(one));
    return list;
  }
  TORCH_CHECK(false, "a kernel written in Python cannot take a ", value.tagKind());
}

// Calls `function(*arguments)`; it writes to the tensors that the op writes to, and returns others.
Kernel python_kernel(Shared function) {
  return [function](const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    locked([&] {
      py::list arguments;
      for (const auto& value : *stack) arguments.append(to_python(value));
      py::object made = (*function)(*arguments);
      stack->clear();
      if (op.schema().is_mutable()) return;
      if (py::isinstance<py::tuple>(made)) {
        for (auto one : made) stack->push_back(unwrapped(one));
      } else {
        stack->push_back(unwrapped(made));
      }
    });
  };
}

void replace_by_python(const std::string& name, py::object choose) {
  replace(name, [choice = shared(std::move(choose))] {
    py::gil_scoped_acquire lock;
    py::object chosen = (*choice)();
    return chosen.is_none() ? Kernel() : python_kernel(shared(std::move(chosen)));
  });
}

void submit_python(int device, const std::string& name, py::object function) {
  submit(static_cast<c10::DeviceIndex>(device), name,
              [held = shared(std::move(function))] { locked([&] { (*held)(); }); });
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  auto& machine = Machine::get();
  module.def("start", [&](int devices, size_t memory) { machine.start(devices, memory); });
  module.def("on_first_use", [](py::object function) {
    on_first_use([held = shared(std::move(function))] { locked([&] { (*held)(); }); });
  });
  module.def("used", &used);
  module.def("set_latency", [&](int64_t microseconds) {
    machine.set_latency(std::chrono::microseconds(microseconds));
  });
  module.def("latency", [&] { return machine.latency().count(); });
  module.def("hold", [&](bool held) { machine.hold(held); });
  module.def("held", [&] { return machine.held(); });
  module.def("devices", [&] { return machine.devices(); });
  module.def("memory", [&] { return machine.memory(); });
  module.def("memory_used", [&](int device) { return machine.usage(device).now; });
  module.def("memory_peak", [&](int device) { return machine.usage(device).peak; });
  module.def("reset_peak", [&](int device) { machine.reset_peak(device); });
  module.def("forked", [&] { return machine.forked(); });
  module.def("owner", [&](uintptr_t address) {
    return machine.owner(reinterpret_cast<void*>(address));
  });
  module.def("generator", [](int device) {
    auto one = default_generator(static_cast<c10::DeviceIndex>(device));
    return py::reinterpret_steal<py::object>(THPGenerator_Wrap(one));
  });
  module.def("set_arithmetic", [](bool flush, bool narrow_int, bool narrow_float, bool refuse) {
    arithmetic = {flush, narrow_int, narrow_float, refuse};
  });
  module.def("replace", &replace_by_python);
  module.def("reached", [](py::handle tensor) { return wrapped(reached(unwrapped(tensor))); });
  module.def("waited", [] {
    py::dict each;
    for (const auto& [name, count] : waited()) each[py::str(name)] = count;
    return each;
  });
  module.def("submit", &submit_python);
  define_chain(module);
  define_lines(module);
  define_products(module);
}

}  // namespace simulated
