// ExecuTorch through its Module API, linked at build time.
#include "failure.h"
#include "runtime.h"

#ifdef LORARAR_EXECUTORCH_VERSION

#include <executorch/extension/module/module.h>
#if __has_include(<executorch/extension/threadpool/threadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else
// ExecuTorch's wheel has the functions and not their header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

#include <algorithm>
#include <cstring>
#include <numeric>

namespace lorarar {
namespace {

namespace runtime = executorch::runtime;
using runtime::etensor::ScalarType;
using runtime::etensor::TensorImpl;

constexpr char kMethod[] = "forward";

void check(runtime::Error error, const std::string& what) {
  if (error == runtime::Error::Ok) return;
  throw runtime_failed("ExecuTorch can't " + what + ": " + runtime::to_string(error));
}

ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ScalarType::Float;
    case DType::kFloat16: return ScalarType::Half;
    case DType::kInt32: break;
  }
  return ScalarType::Int;
}

// A tensor of ours as ExecuTorch sees it. Its views point into it, so it stays where it is.
class View {
 public:
  explicit View(Tensor given) : tensor_(std::move(given)), sizes_(tensor_.shape.begin(), tensor_.shape.end()) {
    order_.resize(sizes_.size());
    std::iota(order_.begin(), order_.end(), uint8_t{0});
    strides_.assign(sizes_.size(), 1);
    for (size_t i = sizes_.size(); i-- > 1;) strides_[i - 1] = strides_[i] * sizes_[i];
    impl_ = std::make_unique<TensorImpl>(scalar_type(tensor_.dtype), static_cast<ssize_t>(sizes_.size()),
                                         sizes_.data(), tensor_.data.data(), order_.data(), strides_.data());
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  void clear() { std::fill(tensor_.data.begin(), tensor_.data.end(), std::byte{0}); }
  runtime::EValue value() { return runtime::etensor::Tensor(impl_.get()); }

 private:
  Tensor tensor_;
  std::vector<int32_t> sizes_;
  std::vector<uint8_t> order_;
  std::vector<int32_t> strides_;
  std::unique_ptr<TensorImpl> impl_;
};

class ExecuTorchSession : public Session {
 public:
  explicit ExecuTorchSession(const Component& component)
      : module_(component.artifact.path.string(), Module::LoadMode::Mmap), component_(component) {
    check(module_.load_method(kMethod), "load " + component.artifact.path.string());
    check_signature();
  }

  std::string backend() const override { return backend_; }

  void set_inputs(std::vector<Tensor> inputs) override {
    for (Tensor& input : inputs) {
      inputs_.push_back(std::make_unique<View>(std::move(input)));
      arguments_.push_back(inputs_.back()->value());
    }
  }

  void clear_input(size_t index) override { inputs_.at(index)->clear(); }

  void run() override {
    auto result = module_.execute(kMethod, arguments_);
    check(result.error(), "run it");
    results_ = std::move(*result);
  }

  std::vector<Tensor> outputs() override {
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < component_.outputs.size(); ++i) {
      const TensorSpec& spec = component_.outputs[i];
      const auto& found = results_.at(i).toTensor();
      outputs.emplace_back(spec.dtype, spec.shape);
      if (found.nbytes() != outputs.back().data.size()) throw not_as_stated(spec.name);
      std::memcpy(outputs.back().data.data(), found.const_data_ptr(), found.nbytes());
    }
    return outputs;
  }

 private:
  using Module = executorch::extension::Module;

  Failure not_as_stated(const std::string& what) const {
    return bad_input(component_.artifact.path.string() + ": " + what +
                     " is not as the manifest says; export the bundle again");
  }

  static bool same(const runtime::Result<runtime::TensorInfo>& found, const TensorSpec& spec) {
    if (!found.ok() || found->scalar_type() != scalar_type(spec.dtype)) return false;
    const auto sizes = found->sizes();
    return std::equal(sizes.begin(), sizes.end(), spec.shape.begin(), spec.shape.end());
  }

  void check_signature() {
    const auto meta = module_.method_meta(kMethod);
    check(meta.error(), "describe it");
    const auto& inputs = component_.inputs;
    const auto& outputs = component_.outputs;
    if (meta->num_inputs() != inputs.size()) throw not_as_stated("its number of inputs");
    if (meta->num_outputs() != outputs.size()) throw not_as_stated("its number of outputs");
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!same(meta->input_tensor_meta(i), inputs[i])) throw not_as_stated(inputs[i].name);
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!same(meta->output_tensor_meta(i), outputs[i])) throw not_as_stated(outputs[i].name);
    }
    for (size_t i = 0; i < meta->num_backends(); ++i) {
      const auto name = meta->get_backend_name(i);
      check(name.error(), "name its delegates");
      if (backend_.find(*name) == std::string::npos) backend_ += (backend_.empty() ? "" : ", ") + std::string(*name);
    }
    if (backend_.empty()) backend_ = "portable kernels";
  }

  Module module_;
  const Component& component_;
  std::string backend_;
  std::vector<std::unique_ptr<View>> inputs_;
  std::vector<runtime::EValue> arguments_;
  std::vector<runtime::EValue> results_;
};

// Marked as experimental, and the only way to more threads than ExecuTorch's default. Safe while nothing runs.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
void set_threads(uint32_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr || !pool->_unsafe_reset_threadpool(threads)) {
    throw runtime_failed("ExecuTorch can't take a number of threads; leave --threads out");
  }
}
#pragma GCC diagnostic pop

class ExecuTorch : public Runtime {
 public:
  std::string name() const override { return "executorch"; }
  std::string version() const override { return LORARAR_EXECUTORCH_VERSION; }
  std::unique_ptr<Session> load(const Component& component) override {
    return std::make_unique<ExecuTorchSession>(component);
  }
};

}  // namespace

std::unique_ptr<Runtime> open_executorch(const RuntimeOptions& options) {
  if (!options.library.empty()) {
    throw bad_input("--library is ONNX Runtime's, and ExecuTorch is linked into this program; leave it out");
  }
  if (options.threads) set_threads(static_cast<uint32_t>(*options.threads));
  return std::make_unique<ExecuTorch>();
}

}  // namespace lorarar

#else

namespace lorarar {

std::unique_ptr<Runtime> open_executorch(const RuntimeOptions&) {
  throw bad_input(
      "this program was built without ExecuTorch; build it with  cmake -DLORARAR_EXECUTORCH_ROOT=FOLDER  "
      "(see benchmarks/runner/README.md)");
}

}  // namespace lorarar

#endif
