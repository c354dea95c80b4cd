#include "measure.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>

#include "failure.h"
#include "golden.h"

namespace lorarar {
namespace {

double now_s() {
  timespec time = {};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

template <typename Work>
double seconds(Work work) {
  const double start = now_s();
  work();
  return now_s() - start;
}

std::vector<Tensor> golden_inputs(const Component& component) {
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < component.inputs.size(); ++i) {
    inputs.push_back(golden_input(component.golden_inputs[i], component.inputs[i].dtype));
  }
  return inputs;
}

std::vector<Difference> compare_outputs(const Component& component, const std::vector<Golden>& golden,
                                        const std::vector<Summary>& found) {
  std::vector<Difference> differences;
  for (size_t i = 0; i < found.size(); ++i) {
    differences.push_back(compare(component.outputs[i].name, golden[i].summary, found[i]));
    if (std::isfinite(differences[i].max_error)) continue;
    throw Failure(Exit::kNoResult, component.name + "'s " + differences[i].output +
                                       " holds values that are not finite, or is not of the golden size, so that the "
                                       "run is no result");
  }
  return differences;
}

std::vector<Summary> summaries(Session& session) {
  std::vector<Summary> found;
  for (const Tensor& output : session.outputs()) found.push_back(summarise(output));
  return found;
}

// One more run, without the LoRAs.
void add_deltas(const Component& component, const std::vector<Golden>& golden, const std::vector<Summary>& found,
                Session& session, std::vector<Difference>& differences) {
  for (size_t i = 0; i < component.inputs.size(); ++i) {
    if (is_coefficients(component.inputs[i])) session.clear_input(i);
  }
  session.run();
  const auto without = session.outputs();
  for (size_t i = 0; i < differences.size(); ++i) {
    differences[i].delta = compare_delta(golden[i], found[i].values, sample(without[i]));
  }
}

// The one that is farthest from 1; one that is no number is the farthest.
std::optional<Delta> farthest_delta(const std::vector<Difference>& differences) {
  std::optional<Delta> found;
  double farthest = -1;
  for (const Difference& difference : differences) {
    if (!difference.delta) continue;
    const Delta& delta = *difference.delta;
    const bool finite = std::isfinite(delta.gain) && std::isfinite(delta.cosine);
    const double far = finite ? std::max(std::abs(delta.gain - 1), std::abs(delta.cosine - 1))
                              : std::numeric_limits<double>::infinity();
    if (far > farthest) {
      farthest = far;
      found = delta;
    }
  }
  return found;
}

Parity compare_with_pytorch(const Component& component, const std::vector<Golden>& golden, Session& session) {
  const std::vector<Summary> found = summaries(session);
  std::vector<Difference> differences = compare_outputs(component, golden, found);
  if (component.takes_loras()) add_deltas(component, golden, found, session, differences);
  Parity parity{std::numeric_limits<double>::infinity(), 0, farthest_delta(differences), true};
  for (const Difference& difference : differences) {
    parity.psnr_db = std::min(parity.psnr_db, difference.psnr_db);
    parity.max_error = std::max(parity.max_error, difference.max_error);
    parity.within_tolerance = parity.within_tolerance && difference.within(component.tolerance);
  }
  return parity;
}

}  // namespace

Measurement measure(Runtime& runtime, const Component& component, const Plan& plan,
                    const std::function<void(const std::string&)>& progress) {
  Measurement found = {};
  const auto golden = read_golden(component.golden.path, component.outputs, component.takes_loras());
  std::unique_ptr<Session> session;
  progress("loading, cold");
  found.cold_load_s = seconds([&] { session = runtime.load(component); });
  session.reset();
  progress("loading, warm");
  found.warm_load_s = seconds([&] { session = runtime.load(component); });
  found.backend = session->backend();
  session->set_inputs(golden_inputs(component));  // after loading, which refuses sizes that are not the artifact's
  progress("warming up");
  for (int i = 0; i < plan.warmup; ++i) {
    const double taken = seconds([&] { session->run(); });
    if (i == 0) found.first_s = taken;
  }
  progress("timing " + std::to_string(plan.runs) + " runs");
  for (int i = 0; i < plan.runs; ++i) found.samples_s.push_back(seconds([&] { session->run(); }));
  found.memory = peak_memory();
  progress("comparing with PyTorch");
  found.parity = compare_with_pytorch(component, golden, *session);
  return found;
}

}  // namespace lorarar
