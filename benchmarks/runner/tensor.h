// Tensors: the types that bundles use, and values in row-major order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lorarar {

enum class DType { kFloat32, kFloat16, kInt32 };
using Shape = std::vector<int64_t>;

struct TensorSpec {
  std::string name;
  DType dtype;
  Shape shape;
};

struct Tensor {
  DType dtype;
  Shape shape;
  std::vector<std::byte> data;

  Tensor(DType dtype, Shape shape);  // zeros
  double at(int64_t index) const;
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data.data());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data.data());
  }
};

size_t bytes_each(DType dtype);
int64_t element_count(const Shape& shape);  // of a shape whose size was checked

// IEEE half precision in software: not every compiler for phones has the type. Rounds to nearest, ties to even.
uint16_t half_from_double(double value);
double half_to_double(uint16_t half);

}  // namespace lorarar
