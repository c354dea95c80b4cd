// Runs one component of a bundle on this device and writes a benchmark record.
#include <cctype>
#include <iostream>
#include <new>
#include <string>

#include "arguments.h"
#include "device.h"
#include "failure.h"
#include "files.h"
#include "manifest.h"
#include "measure.h"
#include "record.h"
#include "runtime.h"

namespace {

using namespace lorarar;

// One line without control characters: names in the messages come from files.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  return text;
}

void progress(const std::string& stage) { std::cerr << one_line(stage) << std::endl; }

int fail(Exit code, const std::string& sentence) {
  std::cerr << "error: " << one_line(sentence) << std::endl;
  return static_cast<int>(code);
}

// A context runs on one chip. Where the system names none, as an emulator's, its runtime decides.
void check_chip(const Bundle& bundle, const Properties& properties) {
  const auto at = properties.find("ro.soc.model");
  if (bundle.soc.empty() || at == properties.end() || at->second.empty()) return;
  std::string chip = at->second;
  for (char& c : chip) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (chip != bundle.soc) {
    throw bad_input(bundle.component.artifact.path.string() + " is compiled for " + bundle.soc +
                    ", and this device's chip is " + chip + "; export it with --soc " + chip + ", or for onnx");
  }
}

void run(const Arguments& arguments) {
  progress("opening " + arguments.bundle.string());
  const Bundle bundle = open_bundle(arguments.bundle, arguments.component);
  const Properties properties = system_properties();
  check_chip(bundle, properties);
  const auto runtime = open_runtime(bundle.target, {arguments.library, arguments.threads});
  const Start start{utc_now(), properties, conditions()};
  const Measurement found = measure(*runtime, bundle.component, {arguments.warmup, arguments.runs}, progress);
  const Json record = make_record(arguments, bundle, *runtime, start, found);
  // Texts of the system may be no UTF-8, which JSON can't hold.
  const std::string text = record.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (arguments.output.empty()) {
    std::cout << text << std::flush;
    if (!std::cout) throw bad_input("standard output can't be written; give --output FILE");
  } else {
    write_atomically(arguments.output, text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (const auto arguments = parse_arguments(argc, argv)) run(*arguments);
    return static_cast<int>(Exit::kOk);
  } catch (const Failure& failure) {
    return fail(failure.code(), failure.what());
  } catch (const std::bad_alloc&) {
    return fail(Exit::kRuntimeFailed, "the device ran out of memory; close other programs or export a smaller --rank");
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(Exit::kBadInput, error.path1().string() + ": " + error.code().message() + "; check the path");
  } catch (const std::exception& error) {
    return fail(Exit::kRuntimeFailed, std::string("the runtime failed: ") + error.what());
  }
}
