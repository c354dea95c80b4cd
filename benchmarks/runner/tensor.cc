#include "tensor.h"

#include <cmath>
#include <limits>
#include <utility>

namespace lorarar {

Tensor::Tensor(DType dtype, Shape shape)
    : dtype(dtype),
      shape(std::move(shape)),
      data(static_cast<size_t>(element_count(this->shape)) * bytes_each(dtype)) {}

double Tensor::at(int64_t index) const {
  switch (dtype) {
    case DType::kFloat32: return as<float>()[index];
    case DType::kFloat16: return half_to_double(as<uint16_t>()[index]);
    case DType::kInt32: break;
  }
  return as<int32_t>()[index];
}

size_t bytes_each(DType dtype) { return dtype == DType::kFloat16 ? 2 : 4; }

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

uint16_t half_from_double(double value) {
  const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 65520) return static_cast<uint16_t>(sign | 0x7C00);  // half-way above the largest half, 65504
  // Subnormals are counted in the same units as the smallest normals.
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // A normal's leading bit, 1024 units, adds the one that the biased exponent lacks; so does a carry of the rounding.
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + units));
}

double half_to_double(uint16_t half) {
  const int exponent = (half >> 10) & 0x1F;
  const int mantissa = half & 0x3FF;
  double magnitude = 0;
  if (exponent == 0x1F) {
    magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  } else {
    magnitude = exponent ? std::ldexp(mantissa + 1024, exponent - 25) : std::ldexp(mantissa, -24);
  }
  return half & 0x8000 ? -magnitude : magnitude;
}

}  // namespace lorarar
