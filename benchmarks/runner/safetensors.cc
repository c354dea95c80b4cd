#include "safetensors.h"

#include <cstring>

#include "failure.h"
#include "files.h"
#include "json_node.h"

namespace lorarar {
namespace {

constexpr size_t kLengthBytes = 8;

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

Safetensors::Safetensors(const std::filesystem::path& path, uint64_t most)
    : path_(path), file_(read_file(path, most)) {
  const std::string_view all = file_;
  const uint64_t header = little_endian(all.substr(0, kLengthBytes));
  if (all.size() < kLengthBytes || header > all.size() - kLengthBytes) {
    throw bad_input(path.string() + ": not a safetensors file (its header is cut); export the bundle again");
  }
  const std::string_view data = all.substr(kLengthBytes + header);
  const auto document = parse_json(file_.substr(kLengthBytes, header), path.string());
  if (!document.is_object()) throw bad_input(path.string() + ": not a safetensors file; export the bundle again");
  for (const auto& [name, value] : document.items()) {
    if (name == "__metadata__") continue;
    const JsonNode entry(value, path.string() + ": " + name);
    const std::string dtype = entry["dtype"].text();
    if (dtype != "F32" && dtype != "F64") entry.refuse("is of type " + dtype + ", not F32 or F64");
    const uint64_t width = dtype == "F64" ? 8 : 4;
    uint64_t bytes = width;
    for (const JsonNode& size : entry["shape"].items()) {
      bytes *= size.count(0, most);  // at most 2^46 before the check
      if (bytes > data.size()) entry.refuse("is larger than its file");
    }
    const auto offsets = entry["data_offsets"].items();
    if (offsets.size() != 2) entry.refuse("has not two offsets");
    const uint64_t begin = offsets[0].count(0, data.size());
    const uint64_t end = offsets[1].count(begin, data.size());
    if (end - begin != bytes) entry.refuse("has offsets that are not its size");
    entries_[name] = {width == 8, data.substr(begin, bytes)};
  }
}

std::vector<double> Safetensors::read(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw bad_input(path_.string() + ": not a golden file of this bundle (no " + name + "); export the bundle again");
  }
  const auto& [wide, data] = found->second;
  const size_t width = wide ? 8 : 4;
  std::vector<double> values(data.size() / width);
  for (size_t i = 0; i < values.size(); ++i) {
    float narrow = 0;
    std::memcpy(wide ? static_cast<void*>(&values[i]) : &narrow, data.data() + i * width, width);
    if (!wide) values[i] = narrow;
  }
  return values;
}

}  // namespace lorarar
