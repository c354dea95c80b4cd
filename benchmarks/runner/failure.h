// How the program ends. Scripts and benchmarks/devices/adb.py rely on the codes.
#pragma once

#include <stdexcept>
#include <string>

namespace lorarar {

enum class Exit { kOk = 0, kNoResult = 1, kBadInput = 2, kRuntimeFailed = 3 };

// One plain sentence for the user, and the code to exit with.
class Failure : public std::runtime_error {
 public:
  Failure(Exit code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

inline Failure bad_input(const std::string& sentence) { return Failure(Exit::kBadInput, sentence); }
inline Failure runtime_failed(const std::string& sentence) { return Failure(Exit::kRuntimeFailed, sentence); }

}  // namespace lorarar
