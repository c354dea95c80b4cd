// A bounds-checked reader of small safetensors files of F32 and F64 tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace lorarar {

class Safetensors {
 public:
  // Reads a file of at most `most` bytes; Failure when it is larger or not a valid one.
  Safetensors(const std::filesystem::path& path, uint64_t most);

  std::vector<double> read(const std::string& name) const;  // Failure when there is none of this name

 private:
  struct Entry {
    bool wide;  // F64
    std::string_view data;
  };

  std::filesystem::path path_;
  std::string file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace lorarar
