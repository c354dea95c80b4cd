#include "parity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "golden.h"
#include "safetensors.h"

namespace lorarar {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double largest(const std::vector<double>& values) {
  double peak = 0;
  for (const double value : values) peak = std::max(peak, std::fabs(value));
  return peak;
}

double largest_error(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(a[i] - b[i]);
    if (!std::isfinite(error)) return kInfinity;
    worst = std::max(worst, error);
  }
  return worst;
}

double psnr_db(const std::vector<double>& reference, const std::vector<double>& other) {
  double sum = 0;
  for (size_t i = 0; i < reference.size(); ++i) sum += (other[i] - reference[i]) * (other[i] - reference[i]);
  if (!std::isfinite(sum)) return -kInfinity;
  if (sum == 0) return kInfinity;
  const double peak = largest(reference);
  return peak > 0 ? 20 * std::log10(peak / std::sqrt(sum / static_cast<double>(reference.size()))) : -kInfinity;
}

}  // namespace

bool Difference::within(const Tolerance& tolerance) const {
  return psnr_db >= tolerance.psnr_db && max_error <= tolerance.max_error;
}

Summary summarise(const Tensor& tensor) {
  Summary summary;
  const int64_t size = element_count(tensor.shape);
  for (const int64_t position : sampled_positions(size)) summary.values.push_back(tensor.at(position));
  const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0];
  const int64_t length = size / rows;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0, squares = 0;
    for (int64_t i = row * length; i < (row + 1) * length; ++i) {
      const double value = tensor.at(i);
      sum += value;
      squares += value * value;
    }
    summary.mean.push_back(sum / static_cast<double>(length));
    summary.rms.push_back(std::sqrt(squares / static_cast<double>(length)));
  }
  return summary;
}

Difference compare(const std::string& output, const Summary& golden, const Summary& found) {
  if (golden.values.size() != found.values.size() || golden.mean.size() != found.mean.size() ||
      golden.rms.size() != found.rms.size()) {
    return {output, -kInfinity, kInfinity};
  }
  const double worst = std::max({largest_error(found.values, golden.values), largest_error(found.mean, golden.mean),
                                 largest_error(found.rms, golden.rms)});
  const double peak = largest(golden.values);
  const double ratio = worst == 0 ? 0 : peak > 0 ? worst / peak : kInfinity;
  return {output, psnr_db(golden.values, found.values), ratio};
}

std::vector<Summary> read_golden(const std::filesystem::path& path, const std::vector<TensorSpec>& outputs) {
  const Safetensors file(path, kMaxGoldenBytes);
  std::vector<Summary> summaries;
  for (const TensorSpec& output : outputs) {
    summaries.push_back(
        {file.read(output.name + ".values"), file.read(output.name + ".mean"), file.read(output.name + ".rms")});
  }
  return summaries;
}

}  // namespace lorarar
