#include "files.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <system_error>

#include "failure.h"
#include "sha256.h"

namespace lorarar {
namespace fs = std::filesystem;
namespace {

constexpr size_t kChunk = size_t{1} << 20;

Failure unreadable(const fs::path& path) {
  return bad_input(path.string() + ": can't be read (" + std::strerror(errno) + "); check it and its permissions");
}

std::string sha256_of_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw unreadable(path);
  Sha256 hash;
  std::string chunk(kChunk, '\0');
  while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount() > 0) {
    hash.update(chunk.data(), static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) throw unreadable(path);
  return hash.hex_digest();
}

// What a manifest may name: letters, digits, _ . - in parts that start with none of the last two.
bool is_plain(const std::string& relative) {
  bool starts = true;
  for (const char c : relative) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    if (starts ? !word : !(word || c == '.' || c == '-' || c == '/')) return false;
    starts = c == '/';
  }
  return !starts;
}

}  // namespace

std::string read_file(const fs::path& path, uint64_t most) {
  if (!fs::is_regular_file(path)) throw bad_input(path.string() + ": no such file; check the path");
  const uint64_t size = fs::file_size(path);
  if (size > most) {
    throw bad_input(path.string() + ": " + std::to_string(size) + " bytes is too large, at most " +
                    std::to_string(most) + " are read; export the bundle again");
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(size, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(size))) throw unreadable(path);
  return text;
}

std::string sha256_of(const std::string& text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex_digest();
}

Digest tree_digest(const fs::path& path) {
  if (fs::is_regular_file(path)) return {fs::file_size(path), sha256_of_file(path)};
  std::map<std::string, Digest> files;  // by relative path, sorted by bytes as Python sorts them
  for (const auto& item : fs::recursive_directory_iterator(path)) {
    if (item.is_symlink() || !(item.is_regular_file() || item.is_directory())) {
      throw bad_input(item.path().string() + ": links are not allowed in a bundle; export it again");
    }
    if (item.is_regular_file()) {
      files[item.path().lexically_relative(path).generic_string()] = {item.file_size(), sha256_of_file(item.path())};
    }
  }
  Digest all{0, ""};
  std::string lines;
  for (const auto& [name, digest] : files) {
    all.bytes += digest.bytes;
    lines += digest.sha256 + "  " + name + "\n";
  }
  all.sha256 = sha256_of(lines);
  return all;
}

fs::path path_inside(const fs::path& folder, const std::string& relative, const std::string& what) {
  std::error_code error;
  const fs::path path = folder / relative;
  const fs::path root = fs::canonical(folder, error);
  const fs::path real = is_plain(relative) ? fs::canonical(path, error) : fs::path();
  const auto [end, unused] = std::mismatch(root.begin(), root.end(), real.begin(), real.end());
  const bool inside = !error && !root.empty() && !real.empty() && end == root.end() && real != root;
  if (!inside || !(fs::is_regular_file(real) || fs::is_directory(real))) {
    throw bad_input(folder.string() + ": " + what + " (" + relative +
                    ") is missing or outside the bundle; export the bundle again");
  }
  return path;
}

void write_atomically(const fs::path& path, const std::string& text) {
  const fs::path beside = path.string() + ".part" + std::to_string(getpid());
  std::ofstream file(beside, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  std::error_code error = file ? std::error_code() : std::error_code(errno, std::generic_category());
  if (!error) fs::rename(beside, path, error);
  if (error) {
    std::error_code ignored;
    fs::remove(beside, ignored);
    throw bad_input(path.string() + ": can't be written (" + error.message() + "); give --output another place");
  }
}

}  // namespace lorarar
