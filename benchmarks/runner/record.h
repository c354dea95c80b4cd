// The benchmark record: benchmarks/record.schema.json.
#pragma once

#include <optional>
#include <vector>

#include "arguments.h"
#include "device.h"
#include "manifest.h"
#include "measure.h"
#include "runtime.h"

namespace lorarar {

// Linear interpolation between the sorted samples, at position (n - 1) * percent / 100.
double percentile(std::vector<double> samples, double percent);

std::string utc_now();  // 2026-01-31T12:00:00Z

// What was known before the run.
struct Start {
  std::string started_at;
  Properties properties;
  Json conditions;
};

Json make_record(const Arguments& arguments, const Bundle& bundle, const Runtime& runtime, const Start& start,
                 const Measurement& measurement);

}  // namespace lorarar
