// ONNX Runtime's C API, from a shared library loaded at run time.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <map>
#include <utility>

#include "failure.h"
#include "runtime.h"

namespace lorarar {
namespace fs = std::filesystem;
namespace {

// Of ONNX Runtime 1.17 (2024), the oldest library to run with; newer ones still offer it.
constexpr uint32_t kApiVersion = 17;
constexpr uint32_t kProviderApiVersion = 23;  // the first that takes a provider from a library of its own
constexpr char kLibrary[] = "libonnxruntime.so";
constexpr char kQnn[] = "QNNExecutionProvider";
constexpr char kQnnLibrary[] = "libonnxruntime_providers_qnn.so";
constexpr char kQnnBackend[] = "libQnnHtp.so";  // QNN's library for the NPU
constexpr char kModel[] = "model.onnx";  // the graph of an artifact that is a folder: weights too large for one file

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

void check(const OrtApi& api, OrtStatus* status, const std::string& what) {
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status, api.ReleaseStatus);
  throw runtime_failed("ONNX Runtime can't " + what + ": " + api.GetErrorMessage(status));
}

ONNXTensorElementDataType element_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kFloat16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kInt32: break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

struct Signature {
  ONNXTensorElementDataType type;
  Shape shape;  // below 0 where the graph leaves a size open
};

// A file beside this program where it is there, else its bare name.
fs::path beside(const char* name) {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error).parent_path() / name;
  return fs::exists(path, error) ? path : fs::path(name);
}

class OnnxSession : public Session {
 public:
  OnnxSession(const OrtApi& api, Owned<OrtSession> session, const Component& component, std::string backend)
      : api_(api),
        session_(std::move(session)),
        binding_(nullptr, api.ReleaseIoBinding),
        component_(component),
        backend_(std::move(backend)) {
    check_signature();
  }

  std::string backend() const override { return backend_; }
  void set_inputs(std::vector<Tensor> inputs) override;
  void clear_input(size_t index) override {
    auto& data = inputs_.at(index).data;
    std::fill(data.begin(), data.end(), std::byte{0});
  }
  void run() override { check(api_, api_.RunWithBinding(session_.get(), nullptr, binding_.get()), "run it"); }
  std::vector<Tensor> outputs() override { return outputs_; }

 private:
  using Count = decltype(OrtApi::SessionGetInputCount);
  using Name = decltype(OrtApi::SessionGetInputName);
  using TypeInfo = decltype(OrtApi::SessionGetInputTypeInfo);

  void add_signatures(Count count, Name name, TypeInfo info, std::map<std::string, Signature>& found) const;
  void check_signature() const;
  void check_tensors(const std::vector<TensorSpec>& specs, const std::map<std::string, Signature>& found) const;
  Owned<OrtValue> wrap(Tensor& tensor) const;

  const OrtApi& api_;
  Owned<OrtSession> session_;
  Owned<OrtIoBinding> binding_;
  const Component& component_;
  std::string backend_;
  std::vector<Tensor> inputs_;  // bound: they are neither moved nor resized
  std::vector<Tensor> outputs_;
};

void OnnxSession::add_signatures(Count count, Name name, TypeInfo info,
                                 std::map<std::string, Signature>& found) const {
  OrtAllocator* allocator = nullptr;
  check(api_, api_.GetAllocatorWithDefaultOptions(&allocator), "allocate");
  size_t size = 0;
  check(api_, count(session_.get(), &size), "count its tensors");
  for (size_t i = 0; i < size; ++i) {
    char* text = nullptr;
    check(api_, name(session_.get(), i, allocator, &text), "name its tensors");
    const std::string key = text;
    allocator->Free(allocator, text);
    OrtTypeInfo* raw = nullptr;
    check(api_, info(session_.get(), i, &raw), "describe " + key);
    const Owned<OrtTypeInfo> owned(raw, api_.ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api_, api_.CastTypeInfoToTensorInfo(raw, &tensor), "describe " + key);
    if (tensor == nullptr) continue;  // not a tensor: no bundle has one
    Signature signature = {};
    size_t dimensions = 0;
    check(api_, api_.GetTensorElementType(tensor, &signature.type), "describe " + key);
    check(api_, api_.GetDimensionsCount(tensor, &dimensions), "describe " + key);
    signature.shape.resize(dimensions);
    check(api_, api_.GetDimensions(tensor, signature.shape.data(), dimensions), "describe " + key);
    found[key] = signature;
  }
}

void OnnxSession::check_signature() const {
  std::map<std::string, Signature> inputs, outputs;
  add_signatures(api_.SessionGetInputCount, api_.SessionGetInputName, api_.SessionGetInputTypeInfo, inputs);
  add_signatures(api_.SessionGetOutputCount, api_.SessionGetOutputName, api_.SessionGetOutputTypeInfo, outputs);
  check_tensors(component_.inputs, inputs);
  check_tensors(component_.outputs, outputs);
}

void OnnxSession::check_tensors(const std::vector<TensorSpec>& specs,
                                const std::map<std::string, Signature>& found) const {
  for (const TensorSpec& spec : specs) {
    const auto at = found.find(spec.name);
    bool same = at != found.end() && at->second.type == element_type(spec.dtype) &&
                at->second.shape.size() == spec.shape.size();
    for (size_t i = 0; same && i < spec.shape.size(); ++i) {
      same = at->second.shape[i] < 0 || at->second.shape[i] == spec.shape[i];
    }
    if (!same) {
      throw bad_input(component_.artifact.path.string() + ": " + spec.name +
                      " is not as the manifest says; export the bundle again");
    }
  }
}

Owned<OrtValue> OnnxSession::wrap(Tensor& tensor) const {
  OrtMemoryInfo* memory = nullptr;
  check(api_, api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "describe memory");
  const Owned<OrtMemoryInfo> owned(memory, api_.ReleaseMemoryInfo);
  OrtValue* value = nullptr;
  check(api_,
        api_.CreateTensorWithDataAsOrtValue(memory, tensor.data.data(), tensor.data.size(), tensor.shape.data(),
                                            tensor.shape.size(), element_type(tensor.dtype), &value),
        "take a tensor");
  return {value, api_.ReleaseValue};
}

void OnnxSession::set_inputs(std::vector<Tensor> inputs) {
  OrtIoBinding* binding = nullptr;
  check(api_, api_.CreateIoBinding(session_.get(), &binding), "bind tensors");
  binding_.reset(binding);
  inputs_ = std::move(inputs);
  outputs_.clear();
  for (const TensorSpec& spec : component_.outputs) outputs_.emplace_back(spec.dtype, spec.shape);
  // The binding shares each value, and the value its tensor's memory.
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::string& name = component_.inputs[i].name;
    check(api_, api_.BindInput(binding, name.c_str(), wrap(inputs_[i]).get()), "take " + name);
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const std::string& name = component_.outputs[i].name;
    check(api_, api_.BindOutput(binding, name.c_str(), wrap(outputs_[i]).get()), "give " + name);
  }
}

class OnnxRuntime : public Runtime {
 public:
  OnnxRuntime(const OrtApiBase& base, const OrtApi& api, std::optional<int> threads)
      : base_(base), api_(api), environment_(nullptr, api.ReleaseEnv), threads_(threads) {
    OrtEnv* environment = nullptr;
    check(api_, api_.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "lorarar-runner", &environment), "start");
    environment_.reset(environment);
  }

  std::string name() const override { return "onnxruntime"; }
  std::string version() const override { return base_.GetVersionString(); }

  std::unique_ptr<Session> load(const Component& component) override {
    OrtSessionOptions* options = nullptr;
    check(api_, api_.CreateSessionOptions(&options), "take options");
    const Owned<OrtSessionOptions> owned(options, api_.ReleaseSessionOptions);
    // It would plan a second run's results as one block, beside the memory of the first run's, which is kept.
    check(api_, api_.DisableMemPattern(options), "plan no memory");
    if (threads_) check(api_, api_.SetIntraOpNumThreads(options, *threads_), "take a number of threads");
    add_provider(options, component);
    const fs::path& artifact = component.artifact.path;
    const fs::path model = fs::is_directory(artifact) ? artifact / kModel : artifact;
    OrtSession* session = nullptr;
    check(api_, api_.CreateSession(environment_.get(), model.c_str(), options, &session), "load " + model.string());
    return std::make_unique<OnnxSession>(api_, Owned<OrtSession>(session, api_.ReleaseSession), component, provider());
  }

 protected:
  virtual std::string provider() const { return "CPUExecutionProvider"; }
  virtual void add_provider(OrtSessionOptions* options, const Component& component) {
    const std::string left_out = disabled_optimizers(component);
    if (left_out.empty()) return;
    const char* key = "optimization.disable_specified_optimizers";
    check(api_, api_.AddSessionConfigEntry(options, key, left_out.c_str()), "leave optimizers out");
  }

  const OrtApiBase& base_;
  const OrtApi& api_;
  Owned<OrtEnv> environment_;

 private:
  std::optional<int> threads_;
};

// Qualcomm's provider, whose library and QNN's lie beside this program or where the loader finds them.
class QnnRuntime : public OnnxRuntime {
 public:
  QnnRuntime(const OrtApiBase& base, const OrtApi& api, std::optional<int> threads) : OnnxRuntime(base, api, threads) {
    // Where the NPU's own system looks for what it loads.
    setenv("ADSP_LIBRARY_PATH", beside("").c_str(), /*overwrite=*/0);
    const fs::path library = beside(kQnnLibrary);
    check(api_, api_.RegisterExecutionProviderLibrary(environment_.get(), kQnn, library.c_str()),
          "take Qualcomm's provider");
  }

  std::string compute_unit() const override { return "npu"; }

 protected:
  std::string provider() const override { return kQnn; }

  void add_provider(OrtSessionOptions* options, const Component&) override {
    const OrtEpDevice* const* devices = nullptr;
    size_t count = 0;
    check(api_, api_.GetEpDevices(environment_.get(), &devices, &count), "find an NPU");
    const auto* found = std::find_if(devices, devices + count, [this](const OrtEpDevice* device) {
      return std::string(api_.EpDevice_EpName(device)) == kQnn;
    });
    if (found == devices + count) throw runtime_failed("Qualcomm's provider finds no NPU on this device");
    const std::string backend = beside(kQnnBackend).string();
    const char* key = "backend_path";
    const char* value = backend.c_str();
    check(api_,
          api_.SessionOptionsAppendExecutionProvider_V2(options, environment_.get(), found, 1, &key, &value, 1),
          "use Qualcomm's provider");
    check(api_, api_.AddSessionConfigEntry(options, "session.disable_cpu_ep_fallback", "1"), "leave the CPU out");
  }
};

// Never closed: its threads and thread-local objects must not lose their code before the program ends.
void* open_library(const fs::path& given) {
  const fs::path path = given.empty() ? beside(kLibrary) : given;
  // From 1.29 on, packages of ONNX Runtime tell its maker what they run, unless this is set before they are loaded.
  setenv("ORT_DISABLE_TELEMETRY", "1", /*overwrite=*/0);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw runtime_failed("ONNX Runtime's library can't be loaded (" + std::string(dlerror()) +
                         "); give its place with --library or put " + kLibrary + " beside this program");
  }
  return library;
}

template <typename Kind>
std::unique_ptr<Runtime> open(const RuntimeOptions& options, uint32_t api_version) {
  using GetApiBase = const OrtApiBase* (*)();
  const auto get = reinterpret_cast<GetApiBase>(dlsym(open_library(options.library), "OrtGetApiBase"));
  if (get == nullptr) throw runtime_failed("the library given is not ONNX Runtime's (it has no OrtGetApiBase)");
  const OrtApiBase* base = get();
  const OrtApi* api = base->GetApi(api_version);
  if (api == nullptr) {
    throw runtime_failed("ONNX Runtime " + std::string(base->GetVersionString()) + " is too old; use 1." +
                         std::to_string(api_version) + " or later");
  }
  return std::make_unique<Kind>(*base, *api, options.threads);
}

}  // namespace

std::string disabled_optimizers(const Component& component) {
  constexpr uint64_t kWidenAtLoad = 2'000'000'000;
  const bool half = std::any_of(component.inputs.begin(), component.inputs.end(),
                                [](const TensorSpec& input) { return input.dtype == DType::kFloat16; });
  if (!half || component.artifact.bytes <= kWidenAtLoad) return "";
  return "ConstantFolding;FuseFp16InitializerToFp32NodeTransformer";
}

std::unique_ptr<Runtime> open_onnxruntime(const RuntimeOptions& options) {
  return open<OnnxRuntime>(options, kApiVersion);
}

std::unique_ptr<Runtime> open_qnn(const RuntimeOptions& options) {
  return open<QnnRuntime>(options, kProviderApiVersion);
}

}  // namespace lorarar
