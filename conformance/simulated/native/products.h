// Products of tiles of bytes, summed in int32.
#pragma once

#include <pybind11/pybind11.h>

namespace simulated {

void define_products(pybind11::module_& module);

}  // namespace simulated
