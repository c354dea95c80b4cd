// Files: bounded reading, hashes, paths that stay inside a folder, and writing that is never half done.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace lorarar {

struct Digest {
  uint64_t bytes;
  std::string sha256;
};

// The whole of a regular file of at most `most` bytes; Failure otherwise.
std::string read_file(const std::filesystem::path& path, uint64_t most);

std::string sha256_of(const std::string& text);

// Of a file; of a folder, over the sorted lines `<sha256>  <relative path>`. Links and special files are refused.
Digest tree_digest(const std::filesystem::path& path);

// folder / relative, which must exist and lie inside the folder even when links are followed; `what` names it in the
// Failure.
std::filesystem::path path_inside(const std::filesystem::path& folder, const std::string& relative,
                                  const std::string& what);

// Writes beside `path`, then renames; on failure neither file is left.
void write_atomically(const std::filesystem::path& path, const std::string& text);

}  // namespace lorarar
