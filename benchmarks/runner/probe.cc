// Reaches single functions from the tests: one request a line of standard input, one answer a line.
//   sha256 PATH | generate SEED SCALE COUNT float32|float16|int32 (bytes in hex) | percentile PERCENT SAMPLE…
//   optimizers float32|float16|int32 BYTES (those that are left out of a component with such an input)
#include <iomanip>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "files.h"
#include "golden.h"
#include "record.h"
#include "runtime.h"

namespace {

using namespace lorarar;

DType to_dtype(const std::string& name) {
  return name == "float32" ? DType::kFloat32 : name == "float16" ? DType::kFloat16 : DType::kInt32;
}

std::string hex(const std::vector<std::byte>& bytes) {
  std::ostringstream text;
  text << std::hex << std::setfill('0');
  for (const std::byte b : bytes) text << std::setw(2) << static_cast<int>(b);
  return text.str();
}

std::string answer(std::istream& request) {
  std::string what;
  request >> what;
  if (what == "sha256") {
    std::string path;
    request >> path;
    return tree_digest(path).sha256;
  }
  if (what == "generate") {
    GoldenInput input{GoldenInput::Source::kGenerated, {0}, {}, 0, 0};
    std::string dtype;
    request >> input.seed >> input.scale >> input.shape[0] >> dtype;
    return hex(golden_input(input, to_dtype(dtype)).data);
  }
  if (what == "optimizers") {
    std::string dtype;
    Component component{};
    request >> dtype >> component.artifact.bytes;
    component.inputs = {{"x", to_dtype(dtype), {1}}};
    return disabled_optimizers(component);
  }
  double percent = 0;
  std::vector<double> samples;
  request >> percent;
  for (double sample; request >> sample;) samples.push_back(sample);
  std::ostringstream text;
  text << std::setprecision(std::numeric_limits<double>::max_digits10) << percentile(samples, percent);
  return text.str();
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream request(line);
    std::cout << answer(request) << "\n";
  }
}
