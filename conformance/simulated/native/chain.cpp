// Elementwise operations of a kernel, done one after the other with no interpreter between them.
//
// A value is an array whose axes of length 1 stand for equal elements. Every operation is done on
// the shape that its operands have together, into memory that stays warm from one to the next.
#pragma GCC optimize("O3")

#include "chain.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

namespace py = pybind11;

namespace simulated {

namespace {

constexpr int MOST_AXES = 8;
constexpr int MOST_OPERANDS = 3;

// Bytes between neighbouring elements of the result and of each operand.
using Steps = std::array<int64_t, 1 + MOST_OPERANDS>;
using Places = std::array<char*, 1 + MOST_OPERANDS>;
using Loop = void (*)(int64_t count, const Places& places, const Steps& steps);

template <typename T>
const T& at(const char* place, int64_t distance) {
  return *reinterpret_cast<const T*>(place + distance);
}

template <typename From, typename To, typename Function>
void unary(int64_t count, const Places& places, const Steps& steps) {
  auto* out = reinterpret_cast<To*>(places[0]);
  if (steps[1] == sizeof(From)) {
    const auto* x = reinterpret_cast<const From*>(places[1]);
    for (int64_t i = 0; i < count; ++i) out[i] = Function::of(x[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = Function::of(at<From>(places[1], i * steps[1]));
  }
}

template <typename From, typename To, typename Function>
void binary(int64_t count, const Places& places, const Steps& steps) {
  auto* out = reinterpret_cast<To*>(places[0]);
  const auto* x = reinterpret_cast<const From*>(places[1]);
  const auto* y = reinterpret_cast<const From*>(places[2]);
  const bool x_moves = steps[1] == sizeof(From), y_moves = steps[2] == sizeof(From);
  if (x_moves && y_moves) {
    for (int64_t i = 0; i < count; ++i) out[i] = Function::of(x[i], y[i]);
  } else if (x_moves && steps[2] == 0) {
    const From same = *y;
    for (int64_t i = 0; i < count; ++i) out[i] = Function::of(x[i], same);
  } else if (steps[1] == 0 && y_moves) {
    const From same = *x;
    for (int64_t i = 0; i < count; ++i) out[i] = Function::of(same, y[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = Function::of(at<From>(places[1], i * steps[1]), at<From>(places[2], i * steps[2]));
    }
  }
}

template <typename T, bool x_moves, bool y_moves>
void chosen(int64_t count, const Places& places) {
  auto* out = reinterpret_cast<T*>(places[0]);
  const auto* which = reinterpret_cast<const uint8_t*>(places[1]);
  const auto* x = reinterpret_cast<const T*>(places[2]);
  const auto* y = reinterpret_cast<const T*>(places[3]);
  for (int64_t i = 0; i < count; ++i) {
    const T one = x[x_moves ? i : 0], other = y[y_moves ? i : 0];
    out[i] = which[i] ? one : other;
  }
}

template <typename T>
void select(int64_t count, const Places& places, const Steps& steps) {
  constexpr int64_t SIZE = sizeof(T);
  const auto plain = [](int64_t step) { return step == SIZE || step == 0; };
  if (steps[1] == 1 && plain(steps[2]) && plain(steps[3])) {
    const bool x_moves = steps[2] != 0, y_moves = steps[3] != 0;
    if (x_moves && y_moves) return chosen<T, true, true>(count, places);
    if (x_moves) return chosen<T, true, false>(count, places);
    if (y_moves) return chosen<T, false, true>(count, places);
    return chosen<T, false, false>(count, places);
  }
  auto* out = reinterpret_cast<T*>(places[0]);
  for (int64_t i = 0; i < count; ++i) {
    const int side = at<uint8_t>(places[1], i * steps[1]) ? 2 : 3;
    out[i] = at<T>(places[side], i * steps[side]);
  }
}

// Integers wrap around. A shift by a type's width or more leaves the sign, or nothing.
template <typename T>
struct Integer {
  using U = std::make_unsigned_t<T>;
  static constexpr U WIDTH = 8 * sizeof(T);
  struct Add {
    static T of(T a, T b) { return static_cast<T>(static_cast<U>(a) + static_cast<U>(b)); }
  };
  struct Sub {
    static T of(T a, T b) { return static_cast<T>(static_cast<U>(a) - static_cast<U>(b)); }
  };
  struct Mul {
    // of 16 bits, U would be promoted to int, and overflow
    static T of(T a, T b) {
      using Wide = std::conditional_t<(sizeof(T) < 4), uint32_t, U>;
      return static_cast<T>(static_cast<Wide>(static_cast<U>(a)) * static_cast<U>(b));
    }
  };
  struct And {
    static T of(T a, T b) { return a & b; }
  };
  struct Or {
    static T of(T a, T b) { return a | b; }
  };
  struct Xor {
    static T of(T a, T b) { return a ^ b; }
  };
  struct Shl {
    static T of(T a, T b) {
      const U by = static_cast<U>(b);
      return by < WIDTH ? static_cast<T>(static_cast<U>(a) << by) : 0;
    }
  };
  struct ShrS {
    static T of(T a, T b) {
      const U by = static_cast<U>(b);
      return static_cast<T>(a >> (by < WIDTH ? by : WIDTH - 1));
    }
  };
  struct ShrU {
    static T of(T a, T b) {
      const U by = static_cast<U>(b);
      return by < WIDTH ? static_cast<T>(static_cast<U>(a) >> by) : 0;
    }
  };
  struct MaxS {
    static T of(T a, T b) { return a > b ? a : b; }
  };
  struct MinS {
    static T of(T a, T b) { return a < b ? a : b; }
  };
};

// Bits are bytes 0 and 1; their sum is their difference.
struct BitNe {
  static uint8_t of(uint8_t a, uint8_t b) { return a ^ b; }
};
struct BitEq {
  static uint8_t of(uint8_t a, uint8_t b) { return a ^ b ^ 1; }
};
struct BitAnd {
  static uint8_t of(uint8_t a, uint8_t b) { return a & b; }
};
struct BitOr {
  static uint8_t of(uint8_t a, uint8_t b) { return a | b; }
};

// Of floats: NaN is equal to nothing, and in no order.
template <typename T>
struct Compared {
  struct Eq {
    static uint8_t of(T a, T b) { return a == b; }
  };
  struct Ne {
    static uint8_t of(T a, T b) { return a != b; }
  };
  struct Lt {
    static uint8_t of(T a, T b) { return a < b; }
  };
  struct Le {
    static uint8_t of(T a, T b) { return a <= b; }
  };
  struct Gt {
    static uint8_t of(T a, T b) { return a > b; }
  };
  struct Ge {
    static uint8_t of(T a, T b) { return a >= b; }
  };
};

template <typename From, typename To>
struct Cast {
  static To of(From x) { return static_cast<To>(x); }
};
template <typename To>
struct Negated {
  static To of(uint8_t x) { return static_cast<To>(-static_cast<To>(x)); }
};
template <typename From>
struct LowBit {
  static uint8_t of(From x) { return static_cast<uint8_t>(x & 1); }
};

using Table = std::unordered_map<std::string, Loop>;

template <typename T>
void integers(Table& table, const std::string& type) {
  using I = Integer<T>;
  using U = typename I::U;
  using S = Compared<T>;
  const auto add = [&](const char* name, Loop loop) { table[name + ("." + type)] = loop; };
  add("add", &binary<T, T, typename I::Add>);
  add("sub", &binary<T, T, typename I::Sub>);
  add("mul", &binary<T, T, typename I::Mul>);
  add("and", &binary<T, T, typename I::And>);
  add("or", &binary<T, T, typename I::Or>);
  add("xor", &binary<T, T, typename I::Xor>);
  add("shl", &binary<T, T, typename I::Shl>);
  add("shrs", &binary<T, T, typename I::ShrS>);
  add("shru", &binary<T, T, typename I::ShrU>);
  add("maxs", &binary<T, T, typename I::MaxS>);
  add("mins", &binary<T, T, typename I::MinS>);
  add("eq", &binary<T, uint8_t, typename S::Eq>);
  add("ne", &binary<T, uint8_t, typename S::Ne>);
  add("slt", &binary<T, uint8_t, typename S::Lt>);
  add("sle", &binary<T, uint8_t, typename S::Le>);
  add("ult", &binary<U, uint8_t, typename Compared<U>::Lt>);
  add("ule", &binary<U, uint8_t, typename Compared<U>::Le>);
  add("bit", &unary<T, uint8_t, LowBit<T>>);
  add("unsigned.i1", &unary<uint8_t, T, Cast<uint8_t, T>>);
  add("signed.i1", &unary<uint8_t, T, Negated<T>>);
}

template <typename From, typename To>
void casts(Table& table, const std::string& from, const std::string& to) {
  using U = std::make_unsigned_t<From>;
  table["signed." + from + "." + to] = &unary<From, To, Cast<From, To>>;
  table["unsigned." + from + "." + to] = &unary<U, To, Cast<U, To>>;
}

Table all_loops() {
  Table table;
  integers<int8_t>(table, "i8");
  integers<int16_t>(table, "i16");
  integers<int32_t>(table, "i32");
  integers<int64_t>(table, "i64");
  for (const char* name : {"add", "sub", "xor", "ne"}) {
    table[name + std::string(".i1")] = &binary<uint8_t, uint8_t, BitNe>;
  }
  for (const char* name : {"mul", "and", "maxs"}) {
    table[name + std::string(".i1")] = &binary<uint8_t, uint8_t, BitAnd>;
  }
  for (const char* name : {"or", "mins"}) {
    table[name + std::string(".i1")] = &binary<uint8_t, uint8_t, BitOr>;
  }
  table["eq.i1"] = &binary<uint8_t, uint8_t, BitEq>;
  casts<int8_t, int16_t>(table, "i8", "i16");
  casts<int8_t, int32_t>(table, "i8", "i32");
  casts<int8_t, int64_t>(table, "i8", "i64");
  casts<int16_t, int8_t>(table, "i16", "i8");
  casts<int16_t, int32_t>(table, "i16", "i32");
  casts<int16_t, int64_t>(table, "i16", "i64");
  casts<int32_t, int8_t>(table, "i32", "i8");
  casts<int32_t, int16_t>(table, "i32", "i16");
  casts<int32_t, int64_t>(table, "i32", "i64");
  casts<int64_t, int8_t>(table, "i64", "i8");
  casts<int64_t, int16_t>(table, "i64", "i16");
  casts<int64_t, int32_t>(table, "i64", "i32");
  table["float.i32"] = &unary<int32_t, float, Cast<int32_t, float>>;
  table["oeq.f32"] = &binary<float, uint8_t, Compared<float>::Eq>;
  table["une.f32"] = &binary<float, uint8_t, Compared<float>::Ne>;
  table["olt.f32"] = &binary<float, uint8_t, Compared<float>::Lt>;
  table["ole.f32"] = &binary<float, uint8_t, Compared<float>::Le>;
  table["ogt.f32"] = &binary<float, uint8_t, Compared<float>::Gt>;
  table["oge.f32"] = &binary<float, uint8_t, Compared<float>::Ge>;
  table["select.1"] = &select<uint8_t>;
  table["select.2"] = &select<uint16_t>;
  table["select.4"] = &select<uint32_t>;
  table["select.8"] = &select<uint64_t>;
  return table;
}

const Table& loops() {
  static const Table table = all_loops();
  return table;
}

// Where the elements of a value lie.
struct Value {
  char* data = nullptr;
  int axes = 0;
  std::array<int64_t, MOST_AXES> shape{}, steps{};
};

Value value_of(const py::array& array) {
  Value made;
  if (array.ndim() > MOST_AXES) throw std::invalid_argument("an array of too many axes");
  made.data = static_cast<char*>(const_cast<void*>(array.data()));
  made.axes = static_cast<int>(array.ndim());
  for (int i = 0; i < made.axes; ++i) {
    made.shape[i] = array.shape(i);
    made.steps[i] = array.shape(i) == 1 ? 0 : array.strides(i);
  }
  return made;
}

// The elements of the result in order, as few loops inside each other as there can be.
struct Walk {
  int axes = 0;
  std::array<int64_t, MOST_AXES> shape{};
  std::array<Steps, MOST_AXES> steps{};

  Walk(const Value& out, const Value* const* operands, int count) {
    for (int i = 0; i < out.axes; ++i) {
      if (out.shape[i] == 1) continue;
      Steps here{};
      here[0] = out.steps[i];
      for (int k = 0; k < count; ++k) {
        const int axis = i - (out.axes - operands[k]->axes);
        here[1 + k] = axis < 0 || operands[k]->shape[axis] == 1 ? 0 : operands[k]->steps[axis];
      }
      bool joins = axes > 0;
      for (int k = 0; joins && k <= count; ++k) {
        joins = steps[axes - 1][k] == here[k] * out.shape[i];
      }
      if (joins) {
        shape[axes - 1] *= out.shape[i];
        steps[axes - 1] = here;
      } else {
        shape[axes] = out.shape[i];
        steps[axes++] = here;
      }
    }
  }

  void run(Loop loop, const Places& places, int axis = 0) const {
    if (axes == 0) return loop(1, places, Steps{});
    if (axis == axes - 1) return loop(shape[axis], places, steps[axis]);
    Places here = places;
    for (int64_t i = 0; i < shape[axis]; ++i) {
      run(loop, here, axis + 1);
      for (size_t k = 0; k < here.size(); ++k) here[k] += steps[axis][k];
    }
  }
};

// Memory for what no operation outside asks for; chains run one at a time, under Python's lock.
std::vector<std::vector<char>>& rooms() {
  static auto* made = new std::vector<std::vector<char>>;
  return *made;
}

}  // namespace

// Operations on numbered values. The first values are what is given, then what is fixed; each
// operation makes the next one. Of these, some are handed over as arrays.
class Chain {
 public:
  Chain(int given, py::list fixed, const py::list& operations, const py::list& wanted)
      : given_(given), fixed_(std::move(fixed)) {
    const auto first = static_cast<size_t>(given) + fixed_.size();
    operations_.resize(operations.size());
    for (size_t i = 0; i < operations.size(); ++i) read(operations_[i], operations[i], first + i);
    room_of_.assign(first + operations_.size(), -1);
    for (const auto& one : wanted) {
      auto pair = one.cast<py::tuple>();
      auto number = pair[0].cast<size_t>();
      if (number < first || number >= room_of_.size()) throw py::index_error("no such value");
      wanted_.push_back(number);
      types_.push_back(py::dtype::from_args(pair[1]));
    }
    assign(first);
    for (const auto& one : fixed_) fixed_values_.push_back(value_of(one.cast<py::array>()));
  }

  py::list run(const py::list& arrays) {
    if (arrays.size() != static_cast<size_t>(given_)) throw py::value_error("other arguments");
    py::list results(wanted_.size());  // from here on no Python runs, so no other thread either
    values_.clear();
    for (const auto& one : arrays) {
      if (!py::isinstance<py::array>(one)) throw py::type_error("a value that is no array");
      values_.push_back(value_of(py::reinterpret_borrow<py::array>(one)));
    }
    values_.insert(values_.end(), fixed_values_.begin(), fixed_values_.end());
    for (const auto& one : operations_) values_.push_back(done(one, results));
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (room_of_[wanted_[i]] != RESULT) results[i] = copied(values_[wanted_[i]], types_[i]);
    }
    return results;
  }

 private:
  static constexpr int RESULT = -2;

  struct Operation {
    Loop loop = nullptr;  // none: the same elements, seen in another shape
    int64_t size = 0;     // bytes of an element of the result
    std::vector<size_t> operands;
    int axes = 0;         // of a single element that is seen as a tile: axes put behind
    int axis = -1;        // put in between
  };

  // (name, bytes, operands) or ("view", axes behind, axis between, operand)
  static void read(Operation& made, const py::handle& given, size_t number) {
    auto parts = given.cast<py::tuple>();
    auto name = parts[0].cast<std::string>();
    if (name == "view") {
      made.axes = parts[1].cast<int>();
      made.axis = parts[2].cast<int>();
      made.operands = {parts[3].cast<size_t>()};
    } else {
      auto found = loops().find(name);
      if (found == loops().end()) throw py::key_error(name);
      made.loop = found->second;
      made.size = parts[1].cast<int64_t>();
      made.operands = parts[2].cast<std::vector<size_t>>();
    }
    if (made.operands.empty() || made.operands.size() > MOST_OPERANDS) {
      throw py::value_error("an operation of one to three operands");
    }
    for (auto operand : made.operands) {
      if (operand >= number) throw py::index_error("an operand that is not made yet");
    }
  }

  // Rooms: a value's is free again after the last operation that reads it, or a view of it.
  void assign(size_t first) {
    std::vector<size_t> root(room_of_.size()), last(room_of_.size(), 0);
    for (size_t i = 0; i < root.size(); ++i) {
      root[i] = i;
      if (i < first) continue;
      const auto& one = operations_[i - first];
      for (auto operand : one.operands) last[root[operand]] = i;
      if (one.loop == nullptr) root[i] = root[one.operands[0]];
    }
    for (auto number : wanted_) {
      if (root[number] == number) {
        room_of_[number] = RESULT;
      } else {
        last[root[number]] = root.size();  // copied at the end
      }
    }
    std::vector<int> free;
    std::vector<std::vector<int>> ends(root.size() + 1);
    int count = 0;
    for (size_t i = first; i < root.size(); ++i) {
      if (operations_[i - first].loop != nullptr && room_of_[i] != RESULT) {
        if (free.empty()) free.push_back(count++);
        room_of_[i] = free.back();
        free.pop_back();
        ends[std::max(last[i], i)].push_back(room_of_[i]);
      }
      free.insert(free.end(), ends[i].begin(), ends[i].end());
    }
    if (rooms().size() < static_cast<size_t>(count)) rooms().resize(count);
  }

  Value done(const Operation& one, py::list& results) {
    if (one.loop == nullptr) return seen(values_[one.operands[0]], one);
    std::array<const Value*, MOST_OPERANDS> operands{};
    const int count = static_cast<int>(one.operands.size());
    Value out;
    for (int k = 0; k < count; ++k) {
      operands[k] = &values_[one.operands[k]];
      out.axes = std::max(out.axes, operands[k]->axes);
    }
    std::fill_n(out.shape.begin(), out.axes, 1);
    for (int k = 0; k < count; ++k) {
      for (int i = 0; i < operands[k]->axes; ++i) {
        auto& here = out.shape[i + out.axes - operands[k]->axes];
        const auto size = operands[k]->shape[i];
        if (size == 1 || size == here) continue;
        if (here != 1) throw py::value_error("operands whose shapes do not fit");
        here = size;
      }
    }
    int64_t bytes = one.size;
    for (int i = out.axes - 1; i >= 0; --i) {
      out.steps[i] = bytes;
      bytes *= out.shape[i];
    }
    out.data = place(bytes, out, results);
    if (bytes == 0) return out;
    Places places{};
    places[0] = out.data;
    for (int k = 0; k < count; ++k) places[1 + k] = operands[k]->data;
    Walk(out, operands.data(), count).run(one.loop, places);
    return out;
  }

  // Memory of the next value.
  char* place(int64_t bytes, const Value& shape, py::list& results) {
    const auto number = values_.size();
    if (room_of_[number] != RESULT) {
      auto& room = rooms()[static_cast<size_t>(room_of_[number])];
      if (room.size() < static_cast<size_t>(bytes)) room.resize(static_cast<size_t>(bytes));
      return room.data();
    }
    const auto which = std::find(wanted_.begin(), wanted_.end(), number) - wanted_.begin();
    py::array made(types_[static_cast<size_t>(which)], extent(shape));
    results[static_cast<size_t>(which)] = made;
    return static_cast<char*>(made.mutable_data());
  }

  static std::vector<py::ssize_t> extent(const Value& value) {
    return {value.shape.begin(), value.shape.begin() + value.axes};
  }

  static Value seen(Value value, const Operation& one) {
    if (value.axes + one.axes + (one.axis >= 0 ? 1 : 0) > MOST_AXES || one.axis > value.axes) {
      throw py::value_error("a view of too many axes");
    }
    for (int i = 0; i < one.axes; ++i) {
      value.shape[value.axes] = 1;
      value.steps[value.axes++] = 0;
    }
    if (one.axis >= 0) {
      for (int i = value.axes++; i > one.axis; --i) {
        value.shape[i] = value.shape[i - 1];
        value.steps[i] = value.steps[i - 1];
      }
      value.shape[one.axis] = 1;
      value.steps[one.axis] = 0;
    }
    return value;
  }

  static py::array copied(const Value& value, const py::dtype& type) {
    std::vector<py::ssize_t> steps(value.steps.begin(), value.steps.begin() + value.axes);
    // without an owner given, what lies there is copied
    return py::array(type, extent(value), steps, value.data);
  }

  int given_;
  py::list fixed_;
  std::vector<Value> fixed_values_;
  std::vector<Operation> operations_;
  std::vector<size_t> wanted_;
  std::vector<py::dtype> types_;
  std::vector<int> room_of_;
  std::vector<Value> values_;
};

void define_chain(py::module_& module) {
  py::class_<Chain>(module, "Chain")
      .def(py::init<int, py::list, const py::list&, const py::list&>(), py::arg("given"),
           py::arg("fixed"), py::arg("operations"), py::arg("wanted"))
      .def("run", &Chain::run);
  module.def("loops", [] {
    std::vector<std::string> names;
    for (const auto& [name, loop] : loops()) names.push_back(name);
    return names;
  });
}

}  // namespace simulated
