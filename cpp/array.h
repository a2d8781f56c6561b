// An array argument from Python: memory of any framework that speaks DLPack, seen without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

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

// The table of the object's type, or null. Types that have one are remembered: the first few, held for ever so that
// their addresses stay their own, and read without a lock.
inline const ExchangeApi* exchange_api(nanobind::handle object) {
    struct Known {
        PyTypeObject* type;
        const ExchangeApi* api;
    };
    static std::atomic<const Known*> known[4];
    PyTypeObject* const type = Py_TYPE(object.ptr());
    for (const auto& place : known) {
        const Known* const found = place.load(std::memory_order_acquire);
        if (found == nullptr) break;
        if (found->type == type) return found->api;
    }
    PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
    if (capsule == nullptr) {
        PyErr_Clear();
        return nullptr;
    }
    const auto* api = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
    if (api == nullptr) PyErr_Clear();
    if (api == nullptr || api->major != 1 || api->tensor_from_object == nullptr) return nullptr;
    auto added = std::make_unique<const Known>(Known{type, api});
    for (auto& place : known) {
        const Known* none = nullptr;
        if (!place.compare_exchange_strong(none, added.get(), std::memory_order_acq_rel)) continue;
        Py_INCREF(reinterpret_cast<PyObject*>(type));
        (void)added.release();
        break;
    }
    return api;
}

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

    // Whether elements lie at multiples of their size, as the core reads and writes them.
    bool is_aligned() const { return reinterpret_cast<uintptr_t>(data()) % element_bytes() == 0; }

    // Views the object's memory for as long as the call lasts; false if it is no array on the CPU. Memory that is only
    // read and not aligned, such as a tensor from a buffer at an odd offset, is copied.
    bool view(nanobind::handle object) {
        valid_ = find(object);
        if (valid_ && !writable && !is_aligned()) copy();
        return valid_;
    }

  private:
    size_t element_bytes() const { return std::max<size_t>(1, size_t{tensor_.dtype.bits} * tensor_.dtype.lanes / 8); }

    bool find(nanobind::handle object) {
        if (const ExchangeApi* api = exchange_api(object)) {
            const bool found = api->tensor_from_object(object.ptr(), &tensor_) == 0;
            if (!found) PyErr_Clear();
            return found && tensor_.device.device_type == nanobind::device::cpu::value;
        }
        if (!nanobind::try_cast(object, held_, false)) return false;
        tensor_.data = const_cast<void*>(static_cast<const void*>(held_.data()));
        tensor_.ndim = static_cast<int32_t>(held_.ndim());
        tensor_.dtype = held_.dtype();
        tensor_.shape = const_cast<int64_t*>(held_.shape_ptr());
        tensor_.strides = const_cast<int64_t*>(held_.stride_ptr());
        return true;
    }

    // Copies the memory from the lowest to the highest element, so that the strides stay what they are.
    void copy() {
        int64_t lowest = 0, highest = 0;
        for (size_t axis = 0; axis < ndim(); ++axis) {
            if (shape(axis) == 0) {
                tensor_.data = nullptr;
                tensor_.byte_offset = 0;
                return;
            }
            const int64_t length = (static_cast<int64_t>(shape(axis)) - 1) * stride(axis);
            (length < 0 ? lowest : highest) += length;
        }
        const auto bytes = static_cast<int64_t>(element_bytes());
        copy_.reset(new unsigned char[static_cast<size_t>((highest - lowest + 1) * bytes)]);
        std::memcpy(copy_.get(), static_cast<const char*>(data()) + lowest * bytes,
                    static_cast<size_t>((highest - lowest + 1) * bytes));
        tensor_.data = copy_.get() - lowest * bytes;
        tensor_.byte_offset = 0;
    }

    nanobind::dlpack::dltensor tensor_;
    Held held_;
    std::unique_ptr<unsigned char[]> copy_;
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
