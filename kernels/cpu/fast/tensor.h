// Tensors as Python hands them over: by DLPack, so that neither torch's headers nor a detour
// through numpy is needed. The layout of DLTensor is its specification's, version 0.x, which
// `torch.utils.dlpack.to_dlpack` writes.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "../arrays.h"

namespace fast {

namespace py = pybind11;
using namespace cpu;

struct DLTensor {
    void* data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t* shape;
    int64_t* strides;  // in elements; null where contiguous
    uint64_t byte_offset;
};

// A tensor for the length of a call; its storage is kept by the caller's reference.
class Tensor {
   public:
    explicit Tensor(py::handle tensor) {
        static PyObject* to_dlpack =
            py::object(py::module_::import("torch.utils.dlpack").attr("to_dlpack")).release().ptr();
        capsule_ = py::reinterpret_steal<py::object>(PyObject_CallOneArg(to_dlpack, tensor.ptr()));
        if (!capsule_) throw py::error_already_set();
        held_ = static_cast<DLTensor*>(PyCapsule_GetPointer(capsule_.ptr(), "dltensor"));
        if (!held_) throw py::error_already_set();
        if (held_->device.type != 1 || held_->dtype.lanes != 1)
            throw py::type_error("expected a tensor on the host");
    }

    int64_t dims() const { return held_->ndim; }
    int64_t shape(int i) const { return held_->shape[i]; }
    char* data() const { return static_cast<char*>(held_->data) + held_->byte_offset; }
    int64_t size() const {
        int64_t count = 1;
        for (int i = 0; i < held_->ndim; ++i) count *= held_->shape[i];
        return count;
    }

    Type type() const {
        if (held_->dtype.code == 2 && held_->dtype.bits == 32) return Type::f32;
        if (held_->dtype.code == 4 && held_->dtype.bits == 16) return Type::bf16;
        throw py::type_error("expected float32 or bfloat16");
    }

    // Of float32 or bfloat16, its last dimension contiguous.
    Array array(int dims) const {
        if (held_->ndim != dims || dims > 3) throw py::value_error("wrong number of dimensions");
        Array made{data(), type(), {1, 1, 1}, {0, 0, 0}};
        int64_t dense = 1;
        for (int i = dims - 1; i >= 0; --i) {
            made.shape[i] = held_->shape[i];
            made.stride[i] = held_->strides ? held_->strides[i] : dense;
            dense *= held_->shape[i];
        }
        if (size() > 0 && made.shape[dims - 1] > 1 && made.stride[dims - 1] != 1)
            throw py::value_error("the last dimension must be contiguous");
        return made;
    }

    // Contiguous, of exactly this type and size.
    const int32_t* integers(int64_t count) const {
        if (held_->dtype.code != 0 || held_->dtype.bits != 32) throw py::type_error("expected int32");
        return static_cast<const int32_t*>(whole(count));
    }
    const float* floats(int64_t count) const {
        if (type() != Type::f32) throw py::type_error("expected float32");
        return static_cast<const float*>(whole(count));
    }

   private:
    const void* whole(int64_t count) const {
        int64_t dense = 1;
        bool contiguous = size() == count;
        for (int i = held_->ndim - 1; i >= 0 && contiguous && held_->strides; --i) {
            contiguous = held_->shape[i] == 1 || held_->strides[i] == dense;
            dense *= held_->shape[i];
        }
        if (!contiguous && count > 0)
            throw py::value_error("expected a contiguous tensor of " + std::to_string(count) +
                                  " elements, got one of " + std::to_string(size()));
        if (size() != count) throw py::value_error("expected an empty tensor");
        return data();
    }

    py::object capsule_;
    DLTensor* held_;
};

}  // namespace fast
