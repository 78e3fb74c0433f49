// Rows of tiles, copied from and to memory.
#pragma GCC optimize("O3")

#include "lines.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace py = pybind11;

namespace simulated {

namespace {

constexpr int MOST_AXES = 8;
using Extent = std::array<int64_t, MOST_AXES>;

// An array seen with as many axes as others have, whose elements are equal along an axis of 1.
struct Seen {
  const char* data = nullptr;
  Extent shape{}, steps{};

  Seen(const py::array& array, int axes, int skipped = 0) {
    data = static_cast<const char*>(array.data());
    const int own = static_cast<int>(array.ndim()) - skipped;
    for (int i = 0; i < axes; ++i) {
      const int axis = i - (axes - own);
      shape[i] = axis < 0 ? 1 : array.shape(axis);
      steps[i] = shape[i] == 1 ? 0 : array.strides(axis);
    }
  }
};

// Goes over all rows in order; tells the places of the elements of each array.
template <size_t many, typename Function>
bool each_row(const Extent& shape, int axes, const std::array<const Seen*, many>& seen,
              const Function& function) {
  Extent at{};
  std::array<const char*, many> places;
  for (size_t k = 0; k < many; ++k) places[k] = seen[k]->data;
  int64_t count = 1;
  for (int i = 0; i < axes; ++i) count *= shape[i];
  for (int64_t row = 0; row < count; ++row) {
    if (!function(row, places)) return false;
    for (int i = axes - 1; i >= 0; --i) {
      for (size_t k = 0; k < many; ++k) places[k] += seen[k]->steps[i];
      if (++at[i] < shape[i]) break;
      for (size_t k = 0; k < many; ++k) places[k] -= seen[k]->steps[i] * shape[i];
      at[i] = 0;
    }
  }
  return true;
}

Extent together(const Seen& one, const Seen& other, int axes) {
  Extent shape{};
  for (int i = 0; i < axes; ++i) {
    shape[i] = one.shape[i] == 1 ? other.shape[i] : one.shape[i];
    if (other.shape[i] != 1 && other.shape[i] != shape[i]) throw py::value_error("other shapes");
  }
  return shape;
}

int axes_of(const py::array& rows, const py::array& known) {
  const auto axes = static_cast<int>(std::max(rows.ndim(), known.ndim()));
  if (axes > MOST_AXES) throw py::value_error("rows of too many axes");
  return axes;
}

void fill(char* begin, char* end, const char* element, int64_t size) {
  if (size == 1) {
    std::memset(begin, *element, static_cast<size_t>(end - begin));
    return;
  }
  for (; begin < end; begin += size) std::memcpy(begin, element, static_cast<size_t>(size));
}

// Which elements of a tile are inside of its mask: rows of pointers to the first one, of which some
// are known, and columns from `begin` on, at distances from the first one.
struct Inside {
  Seen rows, known;
  Extent shape;
  int64_t by, begin, count;
  const int64_t* distances;
  bool dense;
  int64_t least = 0, most = 0;

  Inside(const py::array& rows_, const py::array& known_, int axes, int64_t by_, int64_t begin_,
         const py::array& distances_, bool dense_)
      : rows(rows_, axes),
        known(known_, axes),
        shape(together(rows, known, axes)),
        by(by_),
        begin(begin_),
        count(distances_.shape(0)),
        distances(static_cast<const int64_t*>(distances_.data())),
        dense(dense_) {
    if (rows_.itemsize() != 8 || distances_.itemsize() != 8 || known_.itemsize() != 1 ||
        (count > 1 && distances_.strides(0) != 8)) {
      throw py::value_error("rows and distances are int64, and what is known is a byte");
    }
    if (count == 0) return;
    const auto [low, high] = std::minmax_element(distances, distances + count);
    least = *low;
    most = *high;
  }

  template <typename Places>
  bool has(const Places& places) const {
    return *places[1] && count > 0;
  }

  template <typename Places>
  int64_t first(const Places& places) const {
    return *reinterpret_cast<const int64_t*>(places[0]) + by;
  }

  // Whether all elements of a row lie in a memory of so many.
  bool fits(int64_t first, int64_t elements) const {
    return first + least >= 0 && first + most < elements;
  }
};

template <typename T>
void gather(char* out, const char* memory, int64_t first, const Inside& inside) {
  const auto* from = reinterpret_cast<const T*>(memory) + first;
  for (int64_t i = 0; i < inside.count; ++i) {
    reinterpret_cast<T*>(out)[i] = from[inside.distances[i]];
  }
}

void gather(char* out, const char* memory, int64_t first, int64_t size, const Inside& inside) {
  if (inside.dense) {
    std::memcpy(out, memory + first * size, static_cast<size_t>(inside.count * size));
  } else if (size == 1) {
    gather<uint8_t>(out, memory, first, inside);
  } else if (size == 2) {
    gather<uint16_t>(out, memory, first, inside);
  } else if (size == 4) {
    gather<uint32_t>(out, memory, first, inside);
  } else {
    gather<uint64_t>(out, memory, first, inside);
  }
}

// The tile [.., width], with `other`, of one element, outside of its mask. None where a pointer
// leaves the memory.
py::object read_lines(uintptr_t base, int64_t bytes, const py::array& rows, const py::array& known,
                      int64_t by, int64_t begin, const py::array& distances, bool dense,
                      int64_t width, const py::array& other) {
  const int axes = axes_of(rows, known);
  const Inside inside(rows, known, axes, by, begin, distances, dense);
  const auto* memory = reinterpret_cast<const char*>(base);
  const int64_t size = other.itemsize(), row_bytes = width * size;
  std::vector<py::ssize_t> extent(inside.shape.begin(), inside.shape.begin() + axes);
  extent.push_back(width);
  py::array made(other.dtype(), extent);
  auto* out = static_cast<char*>(made.mutable_data());
  const auto* element = static_cast<const char*>(other.data());
  const std::array<const Seen*, 2> seen{&inside.rows, &inside.known};
  const bool good = each_row<2>(inside.shape, axes, seen, [&](int64_t row, auto& places) {
    char *here = out + row * row_bytes, *end = here + row_bytes;
    if (!inside.has(places)) {
      fill(here, end, element, size);
      return true;
    }
    const int64_t first = inside.first(places);
    if (!inside.fits(first, bytes / size)) return false;
    char* start = here + begin * size;
    fill(here, start, element, size);
    gather(start, memory, first, size, inside);
    fill(start + inside.count * size, end, element, size);
    return true;
  });
  if (!good) return py::none();
  return made;
}

// Store what is inside of values [.., width]; of several at one place the last one stays. False
// where a pointer leaves the memory: then nothing is stored.
bool write_lines(uintptr_t base, int64_t bytes, const py::array& rows, const py::array& known,
                 int64_t by, int64_t begin, const py::array& distances, bool dense,
                 const py::array& values) {
  const int axes = std::max(axes_of(rows, known), static_cast<int>(values.ndim()) - 1);
  if (axes > MOST_AXES) throw py::value_error("rows of too many axes");
  Inside inside(rows, known, axes, by, begin, distances, dense);
  const Seen stored(values, axes, 1);
  for (int i = 0; i < axes; ++i) inside.shape[i] = std::max(inside.shape[i], stored.shape[i]);
  const int64_t size = values.itemsize();
  const auto last = values.ndim() - 1;
  const int64_t step = values.shape(last) == 1 ? 0 : values.strides(last);
  const std::array<const Seen*, 3> seen{&inside.rows, &inside.known, &stored};
  const bool good = each_row<3>(inside.shape, axes, seen, [&](int64_t, auto& places) {
    return !inside.has(places) || inside.fits(inside.first(places), bytes / size);
  });
  if (!good) return false;
  each_row<3>(inside.shape, axes, seen, [&](int64_t, auto& places) {
    if (!inside.has(places)) return true;
    char* goal = reinterpret_cast<char*>(base) + inside.first(places) * size;
    const char* from = places[2] + begin * step;
    if (dense && step == size) {
      std::memcpy(goal, from, static_cast<size_t>(inside.count * size));
      return true;
    }
    for (int64_t i = 0; i < inside.count; ++i) {
      std::memcpy(goal + inside.distances[i] * size, from + i * step, static_cast<size_t>(size));
    }
    return true;
  });
  return true;
}

}  // namespace

void define_lines(py::module_& module) {
  module.def("read_lines", &read_lines);
  module.def("write_lines", &write_lines);
}

}  // namespace simulated
