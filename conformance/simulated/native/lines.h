// Rows of tiles, copied from and to memory.
#pragma once

#include <pybind11/pybind11.h>

namespace simulated {

void define_lines(pybind11::module_& module);

}  // namespace simulated
