// Golden inputs: tensors that any language can generate. The manifest states the generator in words.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor.h"

namespace lorarar {

inline constexpr char kGenerator[] = "mix32-11bit";

struct GoldenInput {
  enum class Source { kConstant, kListed, kGenerated };
  Source source;
  Shape shape;
  std::vector<double> values;  // kConstant: one; kListed: as many as the shape holds
  uint32_t seed;               // kGenerated
  double scale;                // kGenerated
};

// MurmurHash3's 32-bit finaliser.
uint32_t mix32(uint32_t x);

// Failure when a value is out of the type's range.
Tensor golden_input(const GoldenInput& input, DType dtype);

// Where outputs are sampled: positions of a tensor of `size` elements in row-major order.
std::vector<int64_t> sampled_positions(int64_t size);

}  // namespace lorarar
