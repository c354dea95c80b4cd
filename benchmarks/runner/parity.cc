#include "parity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "failure.h"
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

bool Delta::within(const DeltaTolerance& tolerance) const {
  return std::fabs(gain - 1) <= tolerance.gain_error && cosine >= tolerance.cosine;
}

bool Difference::within(const Tolerance& tolerance) const {
  if (tolerance.delta && !(delta && delta->within(*tolerance.delta))) return false;
  return psnr_db >= tolerance.psnr_db && max_error <= tolerance.max_error;
}

std::vector<double> sample(const Tensor& tensor) {
  std::vector<double> values;
  for (const int64_t position : sampled_positions(element_count(tensor.shape))) values.push_back(tensor.at(position));
  return values;
}

Summary summarise(const Tensor& tensor) {
  Summary summary;
  summary.values = sample(tensor);
  const int64_t size = element_count(tensor.shape);
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
    return {output, -kInfinity, kInfinity, std::nullopt};
  }
  const double worst = std::max({largest_error(found.values, golden.values), largest_error(found.mean, golden.mean),
                                 largest_error(found.rms, golden.rms)});
  const double peak = largest(golden.values);
  const double ratio = worst == 0 ? 0 : peak > 0 ? worst / peak : kInfinity;
  return {output, psnr_db(golden.values, found.values), ratio, std::nullopt};
}

Delta compare_delta(const Golden& golden, const std::vector<double>& found, const std::vector<double>& without) {
  double power = 0, own = 0, shared = 0, rest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double wanted = golden.summary.values[i] - golden.without[i];
    const double have = found[i] - without[i];
    power += wanted * wanted;
    own += have * have;
    shared += wanted * have;
    rest += (have - wanted) * (have - wanted);
  }
  return {shared / power, shared / std::sqrt(power * own), 10 * std::log10(power / rest)};
}

std::vector<Golden> read_golden(const std::filesystem::path& path, const std::vector<TensorSpec>& outputs,
                                bool takes_loras) {
  const Safetensors file(path, kMaxGoldenBytes);
  std::vector<Golden> kept;
  for (const TensorSpec& output : outputs) {
    Golden golden;
    golden.summary = {file.read(output.name + ".values"), file.read(output.name + ".mean"),
                      file.read(output.name + ".rms")};
    if (takes_loras) golden.without = file.read(output.name + ".without");
    if (takes_loras && golden.without.size() != golden.summary.values.size()) {
      throw bad_input(path.string() + ": it keeps " + output.name +
                      " with LoRAs and without them at not as many positions; export the bundle again");
    }
    kept.push_back(std::move(golden));
  }
  return kept;
}

}  // namespace lorarar
