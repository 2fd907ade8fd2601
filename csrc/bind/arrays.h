// Typed arrays between NumPy and C++, and the answers of calls.
//
// Thread safety: functions that make Python objects need the GIL; Run gives it up around the call.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "table/status.h"

namespace headrace {

namespace nb = nanobind;

template <typename T>
using In1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using IdsIn = In1<int64_t>;
using FloatsIn = In2<float>;
using FloatsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>;
using Octets = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Answer = std::pair<int32_t, int64_t>;  // code and detail of a Status

template <typename T>
std::span<const T> View(const In1<T>& array) {
  return {array.data(), array.size()};
}
inline std::span<const float> View(const FloatsIn& array) {
  return {array.data(), array.size()};
}
inline std::span<float> View(const FloatsOut& array) {
  return {array.data(), array.size()};
}
template <typename T>
std::vector<T> Copy(const In1<T>& array) {
  return {array.data(), array.data() + array.size()};
}
inline std::vector<float> Copy(const FloatsIn& array) {
  return {array.data(), array.data() + array.size()};
}

inline Answer AsAnswer(Status status) {
  return {static_cast<int32_t>(status.code), status.detail};
}

// Runs `call` without the GIL.
template <typename Call>
Answer Run(Call call) {
  Status status;
  {
    const nb::gil_scoped_release release;
    status = call();
  }
  return AsAnswer(status);
}

// Gives a vector to Python without a copy; bytes as uint8.
template <typename Array, typename T>
Array Own(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  const nb::capsule owner(owned,
                          [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Array(reinterpret_cast<typename Array::Scalar*>(owned->data()), shape, owner);
}
inline Ids OwnIds(std::vector<int64_t>&& values) {
  const size_t n = values.size();
  return Own<Ids>(std::move(values), {n});
}
inline Octets OwnOctets(std::vector<uint8_t>&& values) {
  const size_t n = values.size();
  return Own<Octets>(std::move(values), {n});
}
inline Floats OwnFloats(std::vector<float>&& values, size_t rows, int64_t width) {
  return Own<Floats>(std::move(values), {rows, static_cast<size_t>(width)});
}

}  // namespace headrace
