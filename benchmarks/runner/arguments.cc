#include "arguments.h"

#include <getopt.h>

#include <charconv>
#include <cstring>
#include <iostream>

#include "failure.h"

namespace lorarar {
namespace {

constexpr int kMostRuns = 100000;
constexpr int kMostThreads = 1024;

constexpr char kHelp[] =
    "usage: lorarar-runner BUNDLE --component NAME [options]\n"
    "\n"
    "Runs one component of an exported bundle on its golden inputs, compares the outputs with PyTorch's,\n"
    "times it and writes a benchmark record (JSON).\n"
    "\n"
    "  BUNDLE            the folder with manifest.json\n"
    "  --component NAME  hypernet, unet, ... as the manifest names them\n"
    "  --library PATH    ONNX Runtime's shared library (default: libonnxruntime.so beside this program, then\n"
    "                    where the loader finds it)\n"
    "  --threads N       threads of the runtime (default: it chooses)\n"
    "  --warmup N        runs before the timed ones, the first included (default 3)\n"
    "  --runs N          timed runs (default 20)\n"
    "  --kind KIND       measured or emulated (default: emulated where the system says so)\n"
    "  --output FILE     where the record goes (default: standard output)\n"
    "  --help, --version\n"
    "\n"
    "Exits 0 when the record is written, 1 when an output is no result, 2 for bad input, 3 when the runtime fails.\n";

int to_int(const char* option, const char* text, int least, int most) {
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    throw bad_input(std::string(option) + " is '" + text + "'; give a whole number from " + std::to_string(least) +
                    " to " + std::to_string(most));
  }
  return value;
}

std::string to_kind(const std::string& text) {
  if (text != "measured" && text != "emulated") {
    throw bad_input("--kind is '" + text + "'; give measured or emulated");
  }
  return text;
}

// A missing folder is better known before the measurement than after it.
std::filesystem::path to_output(const std::filesystem::path& path) {
  const auto folder = path.has_parent_path() ? path.parent_path() : ".";
  if (std::filesystem::is_directory(path) || !std::filesystem::is_directory(folder)) {
    throw bad_input("--output " + path.string() + " is a folder or lies in none; name a file in an existing folder");
  }
  return path;
}

}  // namespace

std::optional<Arguments> parse_arguments(int argc, char** argv) {
  static const option kOptions[] = {
      {"component", required_argument, nullptr, 'c'}, {"library", required_argument, nullptr, 'l'},
      {"threads", required_argument, nullptr, 't'},   {"warmup", required_argument, nullptr, 'w'},
      {"runs", required_argument, nullptr, 'r'},      {"kind", required_argument, nullptr, 'k'},
      {"output", required_argument, nullptr, 'o'},    {"help", no_argument, nullptr, 'h'},
      {"version", no_argument, nullptr, 'v'},         {nullptr, 0, nullptr, 0}};
  Arguments arguments;
  opterr = 0;  // the sentences are ours
  for (int found; (found = getopt_long(argc, argv, ":", kOptions, nullptr)) != -1;) {
    switch (found) {
      case 'c': arguments.component = optarg; break;
      case 'l': arguments.library = optarg; break;
      case 't': arguments.threads = to_int("--threads", optarg, 1, kMostThreads); break;
      case 'w': arguments.warmup = to_int("--warmup", optarg, 0, kMostRuns); break;
      case 'r': arguments.runs = to_int("--runs", optarg, 1, kMostRuns); break;
      case 'k': arguments.kind = to_kind(optarg); break;
      case 'o': arguments.output = to_output(optarg); break;
      case 'h': std::cout << kHelp; return std::nullopt;
      case 'v': std::cout << "lorarar-runner " LORARAR_VERSION "\n"; return std::nullopt;
      case ':': throw bad_input(std::string(argv[optind - 1]) + " needs a value; see lorarar-runner --help");
      default: throw bad_input(std::string(argv[optind - 1]) + " is no option; see lorarar-runner --help");
    }
  }
  if (argc - optind != 1) throw bad_input("give one BUNDLE, the folder with manifest.json; see lorarar-runner --help");
  if (arguments.component.empty()) throw bad_input("give --component NAME, for example hypernet or unet");
  arguments.bundle = argv[optind];
  return arguments;
}

}  // namespace lorarar
