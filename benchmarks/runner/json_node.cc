#include "json_node.h"

#include <cmath>

#include "failure.h"

namespace lorarar {

JsonNode JsonNode::operator[](const std::string& key) const {
  if (!has(key)) refuse("has no " + key);
  return {value_.at(key), place_ + "." + key};
}

std::vector<JsonNode> JsonNode::items() const {
  if (!value_.is_array()) refuse("is not a list");
  std::vector<JsonNode> nodes;
  for (size_t i = 0; i < value_.size(); ++i) nodes.emplace_back(value_[i], place_ + "[" + std::to_string(i) + "]");
  return nodes;
}

std::string JsonNode::text() const {
  if (!value_.is_string() || value_.get_ref<const std::string&>().empty()) refuse("is not a text");
  return value_.get<std::string>();
}

uint64_t JsonNode::count(uint64_t least, uint64_t most) const {
  const bool whole = value_.is_number_unsigned();
  if (!whole || value_.get<uint64_t>() < least || value_.get<uint64_t>() > most) {
    refuse("is not a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value_.get<uint64_t>();
}

double JsonNode::number() const {
  if (!value_.is_number() || !std::isfinite(value_.get<double>())) refuse("is not a number");
  return value_.get<double>();
}

void JsonNode::refuse(const std::string& what) const {
  throw bad_input(place_ + " " + what + "; export the bundle again");
}

nlohmann::json parse_json(const std::string& text, const std::string& place) {
  auto document = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) throw bad_input(place + ": not valid JSON; export the bundle again");
  return document;
}

}  // namespace lorarar
