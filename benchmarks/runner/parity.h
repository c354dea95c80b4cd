// Parity: how far an output is from PyTorch's fp32 one, by what a golden file keeps of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tensor.h"

namespace lorarar {

inline constexpr uint64_t kMaxGoldenBytes = uint64_t{8} << 20;

// Of what LoRAs change: how far the gain may be from 1, and the least cosine.
struct DeltaTolerance {
  double gain_error;
  double cosine;
};

struct Tolerance {
  double psnr_db;    // at least
  double max_error;  // at most
  std::optional<DeltaTolerance> delta;
};

// Sampled values, and mean and root mean square of each entry of the first axis, summed in double precision.
struct Summary {
  std::vector<double> values, mean, rms;
};

// What a golden file keeps of an output. Of a component that takes LoRAs, `without` has the sampled values with
// coefficients of zero.
struct Golden {
  Summary summary;
  std::vector<double> without;
};

// What LoRAs change in an output (d, with minus without) against what they change in PyTorch's (r): the gain
// ⟨d, r⟩ / ⟨r, r⟩, the cosine between them, and 20·log10(‖r‖ / ‖d − r‖).
struct Delta {
  double gain;
  double cosine;
  double snr_db;
  bool within(const DeltaTolerance& tolerance) const;
};

// psnr_db is 20·log10(max|ref| / rmse), infinite for equal tensors; max_error is the largest error of a sampled value,
// mean or rms over max|ref|. A value that is not finite makes them −∞ and ∞.
struct Difference {
  std::string output;
  double psnr_db;
  double max_error;
  std::optional<Delta> delta;
  bool within(const Tolerance& tolerance) const;
};

std::vector<double> sample(const Tensor& tensor);  // the values at the sampled positions

Summary summarise(const Tensor& tensor);

Difference compare(const std::string& output, const Summary& golden, const Summary& found);

// `found` and `without` are sampled at as many positions as the golden values. One that is not finite gives NaN.
Delta compare_delta(const Golden& golden, const std::vector<double>& found, const std::vector<double>& without);

// What a golden file keeps of every output, in their order. Failure when the file is damaged or lacks one.
std::vector<Golden> read_golden(const std::filesystem::path& path, const std::vector<TensorSpec>& outputs,
                                bool takes_loras);

}  // namespace lorarar
