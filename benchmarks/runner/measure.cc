#include "measure.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <sstream>

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

Failure out_of_tolerance(const Component& component, const Difference& difference) {
  std::ostringstream text;
  text << component.name << "'s " << difference.output;
  if (std::isfinite(difference.max_error)) {
    text.precision(2);
    text << " differs by " << difference.max_error << " of its largest value, " << std::fixed;
    text.precision(1);
    text << difference.psnr_db << " dB" << std::defaultfloat;
    text.precision(6);
  } else {
    text << " holds values that are not finite or is not of the golden size";
  }
  text << "; allowed are " << component.tolerance.max_error << " and " << component.tolerance.psnr_db
       << " dB, so that the run is no result";
  return Failure(Exit::kParityFailed, text.str());
}

Difference check_parity(const Component& component, const std::vector<Summary>& golden,
                        const std::vector<Tensor>& outputs) {
  Difference worst{"", std::numeric_limits<double>::infinity(), 0};
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Difference found = compare(component.outputs[i].name, golden[i], summarise(outputs[i]));
    if (!found.within(component.tolerance)) throw out_of_tolerance(component, found);
    worst.psnr_db = std::min(worst.psnr_db, found.psnr_db);
    worst.max_error = std::max(worst.max_error, found.max_error);
  }
  return worst;
}

}  // namespace

Measurement measure(Runtime& runtime, const Component& component, const Plan& plan,
                    const std::function<void(const std::string&)>& progress) {
  Measurement found = {};
  const std::vector<Summary> golden = read_golden(component.golden.path, component.outputs);
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
  progress("comparing with PyTorch");
  found.worst = check_parity(component, golden, session->outputs());
  return found;
}

}  // namespace lorarar
