#include "golden.h"

#include <algorithm>
#include <limits>

#include "failure.h"

namespace lorarar {
namespace {

constexpr uint32_t kGoldenRatio = 0x9E3779B9;
constexpr int64_t kSamples = 4096;

int32_t to_int32(double value) {
  if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
    throw bad_input("a golden value of the manifest is no int32; export the bundle again");
  }
  return static_cast<int32_t>(value);
}

// value(i) is element i as a double, which holds every float exactly: it is rounded once.
template <typename Value>
void fill(Tensor& tensor, Value value) {
  const int64_t size = element_count(tensor.shape);
  switch (tensor.dtype) {
    case DType::kFloat32:
      for (int64_t i = 0; i < size; ++i) tensor.as<float>()[i] = static_cast<float>(value(i));
      break;
    case DType::kFloat16:
      for (int64_t i = 0; i < size; ++i) tensor.as<uint16_t>()[i] = half_from_double(value(i));
      break;
    case DType::kInt32:
      for (int64_t i = 0; i < size; ++i) tensor.as<int32_t>()[i] = to_int32(value(i));
      break;
  }
}

}  // namespace

uint32_t mix32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85EBCA6B;
  x ^= x >> 13;
  x *= 0xC2B2AE35;
  x ^= x >> 16;
  return x;
}

Tensor golden_input(const GoldenInput& input, DType dtype) {
  Tensor tensor(dtype, input.shape);
  if (input.source != GoldenInput::Source::kGenerated) {
    const size_t stride = input.source == GoldenInput::Source::kListed ? 1 : 0;
    fill(tensor, [&](int64_t i) { return input.values[stride * static_cast<size_t>(i)]; });
    return tensor;
  }
  const uint32_t offset = input.seed * kGoldenRatio;
  const auto step = static_cast<float>(input.scale / 1024);  // the product is a float's in every language
  fill(tensor, [&](int64_t i) {
    const auto level = static_cast<int32_t>(mix32(static_cast<uint32_t>(i) + offset) >> 21) - 1024;
    return static_cast<double>(static_cast<float>(level) * step);
  });
  return tensor;
}

std::vector<int64_t> sampled_positions(int64_t size) {
  std::vector<int64_t> positions(static_cast<size_t>(std::min(size, kSamples)));
  for (size_t k = 0; k < positions.size(); ++k) {
    positions[k] = mix32(static_cast<uint32_t>(k)) % static_cast<uint32_t>(size);
  }
  return positions;
}

}  // namespace lorarar
