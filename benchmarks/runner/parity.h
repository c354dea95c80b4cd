// Parity: how far an output is from PyTorch's fp32 one, by what a golden file keeps of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor.h"

namespace lorarar {

inline constexpr uint64_t kMaxGoldenBytes = uint64_t{8} << 20;

struct Tolerance {
  double psnr_db;    // at least
  double max_error;  // at most
};

// Sampled values, and mean and root mean square of each entry of the first axis, summed in double precision.
struct Summary {
  std::vector<double> values, mean, rms;
};

// psnr_db is 20·log10(max|ref| / rmse), infinite for equal tensors; max_error is the largest error of a sampled value,
// mean or rms over max|ref|. A value that is not finite makes them −∞ and ∞.
struct Difference {
  std::string output;
  double psnr_db;
  double max_error;
  bool within(const Tolerance& tolerance) const;
};

Summary summarise(const Tensor& tensor);

Difference compare(const std::string& output, const Summary& golden, const Summary& found);

// What a golden file keeps of every output, in their order. Failure when the file is damaged or lacks one.
std::vector<Summary> read_golden(const std::filesystem::path& path, const std::vector<TensorSpec>& outputs);

}  // namespace lorarar
