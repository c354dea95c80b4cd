#include "record.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <numeric>

namespace lorarar {
namespace {

constexpr int kSchemaVersion = 2;

Json runs(const std::optional<double>& first_s, int warmup, const std::vector<double>& samples) {
  const double sum = std::accumulate(samples.begin(), samples.end(), 0.0);
  return {
      {"first_s", first_s ? Json(*first_s) : Json()},
      {"warmup_count", warmup},
      {"samples_s", samples},
      {"n", samples.size()},
      {"mean_s", sum / static_cast<double>(samples.size())},
      {"min_s", *std::min_element(samples.begin(), samples.end())},
      {"p50_s", percentile(samples, 50)},
      {"p90_s", percentile(samples, 90)},
      {"p99_s", percentile(samples, 99)},
  };
}

// The PSNR that a run on any device must reach, by a bundle's precision: DEVICE_GATES_DB of benchmarks/record.py.
double device_gate_db(const std::string& precision) {
  static const std::map<std::string, double> kGates = {
      {"fp32", 70}, {"fp16", 50}, {"w8", 40}, {"w6", 30}, {"w4", 25}};
  return kGates.at(precision);
}

// JSON has no infinity and no NaN.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json to_json(const Parity& parity, const std::string& precision) {
  Json delta;
  if (parity.delta) {
    delta = {{"gain", number(parity.delta->gain)},
             {"cosine", number(parity.delta->cosine)},
             {"snr_db", number(parity.delta->snr_db)}};
  }
  return {{"status", parity.psnr_db >= device_gate_db(precision) ? "passed" : "below"},
          {"within_tolerance", parity.within_tolerance},
          {"psnr_db", number(parity.psnr_db)},
          {"max_error", parity.max_error},
          {"delta", delta}};
}

}  // namespace

double percentile(std::vector<double> samples, double percent) {
  std::sort(samples.begin(), samples.end());
  const double position = static_cast<double>(samples.size() - 1) * percent / 100;
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (samples[above] - samples[below]) * (position - std::floor(position));
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  char text[sizeof "2026-01-31T12:00:00Z"];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Json make_record(const Arguments& arguments, const Bundle& bundle, const Runtime& runtime, const Start& start,
                 const Measurement& measurement) {
  const Artifact& artifact = bundle.component.artifact;
  const std::string kind = arguments.kind.value_or(is_emulated(start.properties) ? "emulated" : "measured");
  return {
      {"schema_version", kSchemaVersion},
      {"kind", kind},
      {"toolkit_version", LORARAR_VERSION},
      {"started_at", start.started_at},
      {"runner", "native"},
      {"bundle",
       {{"base", bundle.base},
        {"target", bundle.target_name},
        {"precision", bundle.precision},
        {"manifest_sha256", bundle.manifest_sha256}}},
      {"component", bundle.component.name},
      {"artifact", {{"file", artifact.file}, {"bytes", artifact.bytes}, {"sha256", artifact.sha256}}},
      {"device", device_facts(start.properties)},
      {"runtime",
       {{"name", runtime.name()},
        {"version", runtime.version()},
        {"backend", measurement.backend},
        {"compute_unit", runtime.compute_unit()},
        {"threads", arguments.threads ? Json(*arguments.threads) : Json()}}},
      {"load", {{"cold_s", measurement.cold_load_s}, {"warm_s", measurement.warm_load_s}}},
      {"runs", runs(measurement.first_s, arguments.warmup, measurement.samples_s)},
      {"memory", measurement.memory},
      {"conditions", {{"before", start.conditions}, {"after", conditions()}, {"cooldown_s", 0}}},
      {"parity", to_json(measurement.parity, bundle.precision)},
      {"estimate", nullptr},
      {"paper", nullptr},  // benchmarks/record.py has the paper's figures: the host adds them
      {"notes", affinity_notes()},
  };
}

}  // namespace lorarar
