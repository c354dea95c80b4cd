#include "manifest.h"

#include <algorithm>
#include <set>

#include "failure.h"
#include "files.h"
#include "json_node.h"

namespace lorarar {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kSchemaVersion = 2;
constexpr uint64_t kMaxManifestBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxSize = uint64_t{1} << 20;      // of one dimension
constexpr uint64_t kMaxElements = uint64_t{1} << 31;  // of all inputs together, and of all outputs
constexpr uint64_t kMaxRank = 6;
constexpr uint64_t kMaxBytes = uint64_t{1} << 50;
constexpr uint64_t kMaxStackedRank = 1024;
constexpr char kStackedRank[] = "stacked_rank";  // the one size that shapes give by name

Target to_target(const JsonNode& node) {
  const std::string name = node.text();
  if (name == "onnx") return Target::kOnnx;
  if (name == "executorch") return Target::kExecutorch;
  if (name == "qnn") return Target::kQnn;
  if (name == "coreml" || name == "coreai") {
    throw bad_input("a " + name + " bundle runs on Apple's systems alone; export the bundle for onnx or executorch");
  }
  node.refuse("is '" + name + "', not onnx, executorch or qnn");
}

DType to_dtype(const JsonNode& node) {
  const std::string name = node.text();
  if (name == "float32") return DType::kFloat32;
  if (name == "float16") return DType::kFloat16;
  if (name == "int32") return DType::kInt32;
  node.refuse("is '" + name + "', not float32, float16 or int32");
}

std::string to_one_of(const JsonNode& node, const std::set<std::string>& names) {
  const std::string name = node.text();
  if (names.count(name) == 0) node.refuse("is '" + name + "', which this runner does not know");
  return name;
}

// Refuses more dimensions or elements than a bundle may have; `total` counts on.
void check_shape(const JsonNode& node, const Shape& shape, uint64_t& total) {
  uint64_t elements = shape.size() > kMaxRank ? kMaxElements + 1 : 1;
  for (const int64_t size : shape) {
    if (elements <= kMaxElements) elements *= static_cast<uint64_t>(size);  // below 2^51
  }
  total += elements;
  if (elements > kMaxElements || total > kMaxElements) {
    node.refuse("makes its tensors hold more than " + std::to_string(kMaxElements) + " numbers");
  }
}

Shape to_shape(const JsonNode& node, uint64_t stacked_rank) {
  Shape shape;
  for (const JsonNode& item : node.items()) {
    const bool named = item.is_text();
    if (named && item.text() != kStackedRank) item.refuse("is '" + item.text() + "', which is no size");
    shape.push_back(static_cast<int64_t>(named ? stacked_rank : item.count(1, kMaxSize)));
  }
  return shape;
}

GoldenInput to_golden_input(const JsonNode& node, uint64_t stacked_rank) {
  using Source = GoldenInput::Source;
  Shape shape = to_shape(node["shape"], stacked_rank);
  if (node.has("value")) return {Source::kConstant, shape, {node["value"].number()}, 0, 0};
  if (node.has("values")) {
    std::vector<double> values;
    for (const JsonNode& value : node["values"].items()) values.push_back(value.number());
    return {Source::kListed, shape, values, 0, 0};
  }
  const auto seed = static_cast<uint32_t>(node["seed"].count(0, UINT32_MAX));
  return {Source::kGenerated, shape, {}, seed, node["scale"].number()};
}

void read_inputs(const JsonNode& entry, Component& component, uint64_t stacked_rank) {
  uint64_t total = 0;
  for (const JsonNode& input : entry["inputs"].items()) {
    const std::string name = input["name"].text();
    const GoldenInput golden = to_golden_input(entry["golden"]["inputs"][name], stacked_rank);
    const Shape shape = to_shape(input["shape"], stacked_rank);
    check_shape(input, shape, total);
    if (shape != golden.shape) input.refuse("has not the shape of its golden input");
    const bool listed = golden.source == GoldenInput::Source::kListed;
    if (listed && golden.values.size() != static_cast<size_t>(element_count(shape))) {
      input.refuse("has golden values that don't fill it");
    }
    component.inputs.push_back({name, to_dtype(input["dtype"]), shape});
    component.golden_inputs.push_back(golden);
  }
}

void read_outputs(const JsonNode& entry, Component& component, uint64_t stacked_rank) {
  uint64_t total = 0;
  for (const JsonNode& output : entry["outputs"].items()) {
    const Shape shape = to_shape(output["shape"], stacked_rank);
    check_shape(output, shape, total);
    component.outputs.push_back({output["name"].text(), to_dtype(output["dtype"]), shape});
  }
  if (component.outputs.empty()) entry["outputs"].refuse("is empty");
}

Tolerance to_tolerance(const JsonNode& node) {
  Tolerance tolerance{node["psnr_db"].number(), node["max_error"].number(), {}};
  if (node.has("delta")) {
    tolerance.delta = {node["delta"]["gain_error"].number(), node["delta"]["cosine"].number()};
  }
  return tolerance;
}

// Before hashing: a wrong size is cheaper to find than a wrong hash.
Artifact verify(const fs::path& folder, const std::string& what, const JsonNode& entry, uint64_t most) {
  Artifact artifact{{}, entry["file"].text(), entry["bytes"].count(1, most), entry["sha256"].text()};
  artifact.path = path_inside(folder, artifact.file, what);
  const bool is_file = fs::is_regular_file(artifact.path);
  const bool same_size = !is_file || fs::file_size(artifact.path) == artifact.bytes;
  const Digest found = same_size ? tree_digest(artifact.path) : Digest{0, ""};
  if (found.bytes != artifact.bytes || found.sha256 != artifact.sha256) {
    throw bad_input(artifact.path.string() +
                    ": damaged or changed since its export (its size or SHA-256 differs); export the bundle again");
  }
  return artifact;
}

Component read_component(const fs::path& folder, const std::string& name, const JsonNode& entry,
                         uint64_t stacked_rank) {
  Component component;
  component.name = name;
  read_inputs(entry, component, stacked_rank);
  read_outputs(entry, component, stacked_rank);
  component.tolerance = to_tolerance(entry["tolerance"]);
  component.artifact = verify(folder, name, entry, kMaxBytes);
  component.golden = verify(folder, name + "'s golden file", entry["golden"], kMaxGoldenBytes);
  return component;
}

}  // namespace

bool is_coefficients(const TensorSpec& input) { return input.name.rfind("coefficients_", 0) == 0; }

bool Component::takes_loras() const { return std::any_of(inputs.begin(), inputs.end(), is_coefficients); }

Bundle open_bundle(const fs::path& folder, const std::string& component) {
  const fs::path path = folder / "manifest.json";
  if (!fs::is_regular_file(path)) {
    throw bad_input(folder.string() + ": not a bundle (no manifest.json); give the folder that the export made");
  }
  const std::string text = read_file(path, kMaxManifestBytes);
  const nlohmann::json document = parse_json(text, path.string());
  const JsonNode root(document, path.string() + ": $");
  if (!root.has("schema_version") || root["schema_version"].value() != nlohmann::json(kSchemaVersion)) {
    throw bad_input(path.string() + ": its schema version is unknown, this runner reads " +
                    std::to_string(kSchemaVersion) + "; export the bundle again with this toolkit's version");
  }
  to_one_of(root["golden_generator"]["name"], {kGenerator});
  const JsonNode components = root["components"];
  if (!components.has(component)) {
    std::string names;
    for (const auto& item : components.value().items()) names += (names.empty() ? "" : ", ") + item.key();
    throw bad_input(folder.string() + ": the bundle has no " + component + ", only " + names);
  }
  const uint64_t stacked_rank = root["layout"][kStackedRank].count(1, kMaxStackedRank);
  return {root["base"].text(),      root["target"].text(),
          to_one_of(root["precision"], {"fp32", "fp16", "w8", "w6", "w4"}),
          sha256_of(text),          to_target(root["target"]),
          root.has("soc") ? root["soc"]["name"].text() : "",
          read_component(folder, component, components[component], stacked_rank)};
}

}  // namespace lorarar
