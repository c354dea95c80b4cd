// The measurement: load twice, run, time, and compare the outputs of the timed session.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"
#include "parity.h"
#include "runtime.h"

namespace lorarar {

struct Measurement {
  double cold_load_s;
  double warm_load_s;
  std::optional<double> first_s;  // none where there was no warm-up
  std::vector<double> samples_s;
  std::string backend;
  Difference worst;  // the least PSNR and the largest error of any output
};

struct Plan {
  int warmup;
  int runs;
};

// `progress` is told each stage. Failure kParityFailed names the output that is out of tolerance.
Measurement measure(Runtime& runtime, const Component& component, const Plan& plan,
                    const std::function<void(const std::string&)>& progress);

}  // namespace lorarar
