// The command line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace lorarar {

struct Arguments {
  std::filesystem::path bundle;
  std::string component;
  std::filesystem::path library;  // of ONNX Runtime; empty: look for it
  std::optional<int> threads;     // none: the runtime chooses
  int warmup = 3;                 // runs before the timed ones, the first included
  int runs = 20;
  std::optional<std::string> kind;  // measured or emulated; none: as the system says
  std::filesystem::path output;     // empty: standard output
};

// The arguments, or none where --help or --version was answered. Failure says what is wrong with them.
std::optional<Arguments> parse_arguments(int argc, char** argv);

}  // namespace lorarar
