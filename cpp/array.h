// An array argument from Python: memory of any framework that speaks DLPack, seen without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace crossent {

// The table of C functions that a framework may publish on its array type (DLPack 1.3). Asking it costs a twentieth of
// calling the array's __dlpack__ method, which is what small losses would otherwise spend their time on.
struct ExchangeApi {
    uint32_t major, minor;
    ExchangeApi* previous;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*tensor_from_object)(void* object, nanobind::dlpack::dltensor* out);
    void* work_stream;
};

template <bool writable>
class Array {
    using Held = std::conditional_t<writable, nanobind::ndarray<nanobind::device::cpu>,
                                    nanobind::ndarray<nanobind::ro, nanobind::device::cpu>>;

  public:
    bool is_valid() const { return valid_; }
    size_t ndim() const { return static_cast<size_t>(tensor_.ndim); }
    size_t shape(size_t axis) const { return static_cast<size_t>(tensor_.shape[axis]); }
    nanobind::dlpack::dtype dtype() const { return tensor_.dtype; }
    void* data() const { return static_cast<char*>(tensor_.data) + tensor_.byte_offset; }
    int64_t stride(size_t axis) const {
        if (tensor_.strides != nullptr) return tensor_.strides[axis];
        int64_t product = 1;
        for (size_t k = ndim(); --k > axis;) product *= tensor_.shape[k];
        return product;
    }

    // Whether it has elements but no memory, as a tensor has whose storage was freed. No system maps the first 64 KiB,
    // so that a view with a small offset into nothing is noticed too.
    bool is_freed() const {
        if (reinterpret_cast<uintptr_t>(data()) >= 65536) return false;
        for (size_t k = 0; k < ndim(); ++k) {
            if (tensor_.shape[k] == 0) return false;
        }
        return true;
    }

    // Views the object's memory for as long as the call lasts; false if it is no array on the CPU.
    bool view(nanobind::handle object) {
        if (const ExchangeApi* api = exchange_api(object)) {
            valid_ = api->tensor_from_object(object.ptr(), &tensor_) == 0;
            if (!valid_) PyErr_Clear();
            return valid_ && tensor_.device.device_type == nanobind::device::cpu::value;
        }
        valid_ = nanobind::try_cast(object, held_, false);
        if (!valid_) return false;
        tensor_.data = const_cast<void*>(static_cast<const void*>(held_.data()));
        tensor_.ndim = static_cast<int32_t>(held_.ndim());
        tensor_.dtype = held_.dtype();
        tensor_.shape = const_cast<int64_t*>(held_.shape_ptr());
        tensor_.strides = const_cast<int64_t*>(held_.stride_ptr());
        return true;
    }

  private:
    // Remembers the last type that had a table; it is held, so that its address stays its own.
    static const ExchangeApi* exchange_api(nanobind::handle object) {
        static PyTypeObject* known_type = nullptr;
        static const ExchangeApi* known_api = nullptr;
        PyTypeObject* const type = Py_TYPE(object.ptr());
        if (type == known_type) return known_api;
        PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
        if (capsule == nullptr) {
            PyErr_Clear();
            return nullptr;
        }
        const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
        Py_DECREF(capsule);
        if (api == nullptr) PyErr_Clear();
        if (api == nullptr || api->major != 1 || api->tensor_from_object == nullptr) return nullptr;
        Py_INCREF(type);
        Py_XDECREF(known_type);
        known_type = type;
        known_api = api;
        return api;
    }

    nanobind::dlpack::dltensor tensor_;
    Held held_;
    bool valid_ = false;
};

using In = Array<false>;
using Out = Array<true>;

}  // namespace crossent

namespace nanobind::detail {

template <bool writable>
struct type_caster<crossent::Array<writable>> {
    NB_TYPE_CASTER(crossent::Array<writable>, const_name("numpy.typing.NDArray"))
    bool from_python(handle source, uint8_t, cleanup_list*) { return source.is_none() || value.view(source); }
};

}  // namespace nanobind::detail
