// The measurement: load twice, run, time, and compare the outputs of the timed session, and what LoRAs change in them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "device.h"
#include "manifest.h"
#include "parity.h"
#include "runtime.h"

namespace lorarar {

// The least PSNR, the largest error and the farthest delta of all outputs.
struct Parity {
  double psnr_db;
  double max_error;
  std::optional<Delta> delta;  // none of a component that takes no LoRAs
  bool within_tolerance;
};

struct Measurement {
  double cold_load_s;
  double warm_load_s;
  std::optional<double> first_s;  // none where there was no warm-up
  std::vector<double> samples_s;
  std::string backend;
  Json memory;  // the peak before the comparison, which is no part of what was measured
  Parity parity;
};

struct Plan {
  int warmup;
  int runs;
};

// `progress` is told each stage. Failure kNoResult names an output that is not finite or not of its size.
Measurement measure(Runtime& runtime, const Component& component, const Plan& plan,
                    const std::function<void(const std::string&)>& progress);

}  // namespace lorarar
