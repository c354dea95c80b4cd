// Reading JSON that comes from strangers: every access is checked, and what is wrong is named with its place.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace lorarar {

class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string place) : value_(value), place_(std::move(place)) {}

  bool has(const std::string& key) const { return value_.is_object() && value_.contains(key); }
  JsonNode operator[](const std::string& key) const;
  std::vector<JsonNode> items() const;  // of an array

  std::string text() const;                              // not empty
  uint64_t count(uint64_t least, uint64_t most) const;   // a whole number in these bounds
  double number() const;                                 // finite
  bool is_text() const { return value_.is_string(); }
  const nlohmann::json& value() const { return value_; }

  [[noreturn]] void refuse(const std::string& what) const;  // Failure: "PLACE WHAT; export the bundle again"

 private:
  const nlohmann::json& value_;  // of a document that outlives this
  std::string place_;
};

// The document in `text`; Failure names `place` when it is not valid JSON.
nlohmann::json parse_json(const std::string& text, const std::string& place);

}  // namespace lorarar
