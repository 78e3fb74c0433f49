// Products of tiles of bytes, summed in int32.
#pragma GCC optimize("O3")

#include "products.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#else
#define EVERY_CPU
#endif

namespace py = pybind11;

namespace simulated {

namespace {

// Sums of products of a row with each of many rows of as many elements, added to what is there.
EVERY_CPU void add_products(const int16_t* row, const int16_t* rows, int64_t many, int64_t length,
                            int32_t* sums) {
  for (int64_t j = 0; j < many; ++j) {
    const int16_t* other = rows + j * length;
    int32_t sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += static_cast<int32_t>(row[i]) * other[i];
    sums[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) + static_cast<uint32_t>(sum));
  }
}

EVERY_CPU void widen(const int8_t* from, int64_t length, int16_t* to) {
  for (int64_t i = 0; i < length; ++i) to[i] = from[i];
}

// A tile of each program, [P or 1, rows or 1, columns or 1].
struct Tile {
  const char* data;
  int64_t programs, of_program, of_row, of_column;

  explicit Tile(const py::array& array)
      : data(static_cast<const char*>(array.data())), programs(array.shape(0)) {
    of_program = step(array, 0);
    of_row = step(array, 1);
    of_column = step(array, 2);
  }

  static int64_t step(const py::array& array, int axis) {
    return array.shape(axis) == 1 ? 0 : array.strides(axis);
  }

  // Rows of a program as numbers of 16 bits, side by side.
  void rows(int64_t program, int64_t many, int64_t length, int16_t* to) const {
    const char* tile = data + program * of_program;
    for (int64_t j = 0; j < many; ++j, to += length) {
      const auto* row = reinterpret_cast<const int8_t*>(tile + j * of_row);
      if (of_column == 1) {
        widen(row, length, to);
      } else {
        for (int64_t i = 0; i < length; ++i) to[i] = row[i * of_column];
      }
    }
  }
};

bool is_zero(const int16_t* row, int64_t length) {
  return std::all_of(row, row + length, [](int16_t x) { return x == 0; });
}

void check(const py::array& array, int64_t bytes, int64_t rows, int64_t columns) {
  const auto fits = [&](int axis, int64_t size) {
    return array.shape(axis) == 1 || array.shape(axis) == size;
  };
  if (array.ndim() != 3 || array.itemsize() != bytes || !fits(1, rows) || !fits(2, columns)) {
    throw py::value_error("a tile of another shape");
  }
}

// [P, m, n] int32: x [P or 1, m, k] int8 times y [P or 1, k, n] int8 plus z [P or 1, m, n] int32.
// Rows of zeros, as there are outside of masks, are not multiplied.
py::array byte_products(const py::array& x, const py::array& y, const py::array& z, int64_t m,
                        int64_t k, int64_t n) {
  check(x, 1, m, k);
  check(y, 1, k, n);
  check(z, 4, m, n);
  const Tile left(x), total(z);
  Tile right(y);
  std::swap(right.of_row, right.of_column);  // its columns are multiplied
  const auto programs = std::max({left.programs, right.programs, total.programs});
  py::array_t<int32_t> made(std::vector<py::ssize_t>{programs, m, n});
  auto* out = made.mutable_data();
  std::vector<int16_t> rows(static_cast<size_t>(m * k)), columns(static_cast<size_t>(n * k));
  std::vector<char> zero(static_cast<size_t>(m));
  for (int64_t p = 0; p < programs; ++p) {
    if (p == 0 || left.of_program != 0) {
      left.rows(p, m, k, rows.data());
      for (int64_t i = 0; i < m; ++i) zero[i] = is_zero(rows.data() + i * k, k);
    }
    if (p == 0 || right.of_program != 0) right.rows(p, n, k, columns.data());
    for (int64_t i = 0; i < m; ++i, out += n) {
      const char* sums = total.data + p * total.of_program + i * total.of_row;
      for (int64_t j = 0; j < n; ++j) {
        out[j] = *reinterpret_cast<const int32_t*>(sums + j * total.of_column);
      }
      if (!zero[i]) add_products(rows.data() + i * k, columns.data(), n, k, out);
    }
  }
  return made;
}

}  // namespace

void define_products(py::module_& module) { module.def("byte_products", &byte_products); }

}  // namespace simulated
