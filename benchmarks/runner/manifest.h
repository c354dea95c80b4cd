// A bundle's manifest.json: what is needed to run one component, checked before anything is loaded or allocated.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "golden.h"
#include "parity.h"
#include "tensor.h"

namespace lorarar {

enum class Target { kOnnx, kExecutorch, kQnn };

struct Artifact {
  std::filesystem::path path;
  std::string file;  // as the manifest names it
  uint64_t bytes;
  std::string sha256;
};

struct Component {
  std::string name;
  Artifact artifact;
  Artifact golden;
  std::vector<TensorSpec> inputs;   // a size given by name is the layout's
  std::vector<TensorSpec> outputs;
  std::vector<GoldenInput> golden_inputs;  // in the order of `inputs`
  Tolerance tolerance;

  bool takes_loras() const;  // whether its output depends on LoRAs and their coefficients
};

// Whether an input holds coefficients: zeros there give the base model.
bool is_coefficients(const TensorSpec& input);

struct Bundle {
  std::string base;
  std::string target_name;
  std::string precision;
  std::string manifest_sha256;
  Target target;
  std::string soc;  // the chip that a context is compiled for; empty for other targets
  Component component;
};

// Opens and verifies what one component needs: schema version, paths, sizes, hashes. Failure says what is wrong.
Bundle open_bundle(const std::filesystem::path& folder, const std::string& component);

}  // namespace lorarar
