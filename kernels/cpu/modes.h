// What both bindings have in common: instruction sets to choose from, and calls without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

namespace cpu {

#if defined(__clang__)
constexpr const char* COMPILER = "Clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* COMPILER = "GCC " __VERSION__;
#else
constexpr const char* COMPILER = "a compiler without a name";
#endif

// Names and kernels, best first.
template <class Kernels>
using Modes = std::vector<std::pair<std::string, const Kernels*>>;

template <class Kernels>
const Kernels& kernels_of(const Modes<Kernels>& modes, const std::string& name) {
    for (const auto& [known, kernels] : modes)
        if (known == name) return *kernels;
    throw pybind11::value_error("no mode '" + name + "' on this machine");
}

template <class Kernels>
void describe(pybind11::module_& m, const Modes<Kernels>& modes) {
    pybind11::tuple names(modes.size());
    for (size_t i = 0; i < modes.size(); ++i) names[i] = modes[i].first;
    m.attr("modes") = names;
    m.attr("compiler") = COMPILER;
}

inline void same(bool holds, const char* what) {
    if (!holds) throw pybind11::value_error(std::string("shapes do not agree: ") + what);
}

template <class F>
void freed(const F& f) {
    pybind11::gil_scoped_release release;
    f();
}

}  // namespace cpu
