// Elementwise operations of a kernel, done one after the other with no interpreter between them.
#pragma once

#include <pybind11/pybind11.h>

namespace simulated {

void define_chain(pybind11::module_& module);

}  // namespace simulated
