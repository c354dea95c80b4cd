// One interface to the runtimes.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"
#include "tensor.h"

namespace lorarar {

// One loaded component. Failure with the runtime's message where it fails, or where the artifact's tensors are not the
// manifest's.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::string backend() const = 0;             // what runs the graph
  virtual void set_inputs(std::vector<Tensor> inputs) = 0;  // in the component's order; kept for every run
  virtual void clear_input(size_t index) = 0;               // zeros for the runs from now on
  virtual void run() = 0;
  virtual std::vector<Tensor> outputs() = 0;  // of the last run, in the component's order
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string name() const = 0;  // as the record's schema has it
  virtual std::string version() const = 0;
  virtual std::string compute_unit() const { return "cpu"; }  // as the record's schema has it
  virtual std::unique_ptr<Session> load(const Component& component) = 0;
};

struct RuntimeOptions {
  std::filesystem::path library;
  std::optional<int> threads;
};

// The optimizers that ONNX Runtime must leave out for a component on the CPU, separated by semicolons: there it computes
// fp16 in fp32, and weights of this size that were widened when they are loaded would take three times their file.
std::string disabled_optimizers(const Component& component);

std::unique_ptr<Runtime> open_onnxruntime(const RuntimeOptions& options);
std::unique_ptr<Runtime> open_qnn(const RuntimeOptions& options);
std::unique_ptr<Runtime> open_executorch(const RuntimeOptions& options);

inline std::unique_ptr<Runtime> open_runtime(Target target, const RuntimeOptions& options) {
  switch (target) {
    case Target::kOnnx: return open_onnxruntime(options);
    case Target::kQnn: return open_qnn(options);
    case Target::kExecutorch: break;
  }
  return open_executorch(options);
}

}  // namespace lorarar
