#include "device.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <system_error>
#include <vector>

namespace lorarar {
namespace fs = std::filesystem;
namespace {

std::string trimmed(const std::string& text) {
  constexpr char kBlank[] = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// The first line of a file of /proc or /sys, up to a NUL (which ends a device tree's texts); empty where unreadable.
std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return trimmed(line.substr(0, line.find('\0')));
}

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

// A number that starts the file, or null.
Json number_or_null(const fs::path& path) {
  std::istringstream text(first_line(path));
  double value = 0;
  return text >> value ? Json(value) : Json();
}

// Entries of a folder whose names start so, in the order of the numbers that follow; none where it can't be read.
std::vector<fs::path> entries(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    if (item->path().filename().string().rfind(prefix, 0) == 0) found.push_back(item->path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    const auto key = [](const fs::path& p) { return std::make_pair(p.string().size(), p.string()); };
    return key(a) < key(b);
  });
  return found;
}

// The values of one key of /proc/cpuinfo, /proc/meminfo or /proc/self/status, one for each line that has it.
std::vector<std::string> values_of(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  std::vector<std::string> values;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon != std::string::npos && trimmed(line.substr(0, colon)) == key) {
      values.push_back(trimmed(line.substr(colon + 1)));
    }
  }
  return values;
}

// A value in kB, as bytes.
Json kilobytes(const fs::path& path, const std::string& key) {
  const auto values = values_of(path, key);
  const long long value = values.empty() ? 0 : std::strtoll(values[0].c_str(), nullptr, 10);
  return value > 0 ? Json(value * 1024) : Json();
}

// The kinds of ARM cores, "4× 0x41 0xd05, 4× 0x41 0xd0b" (implementer and part), or the processor's name: on ARM the
// kernel gives all of them one that says nothing.
std::string cpu_name() {
  const auto implementers = values_of("/proc/cpuinfo", "CPU implementer");
  const auto parts = values_of("/proc/cpuinfo", "CPU part");
  std::map<std::string, int> kinds;
  for (size_t i = 0; i < std::min(implementers.size(), parts.size()); ++i) ++kinds[implementers[i] + " " + parts[i]];
  std::string text;
  for (const auto& [kind, count] : kinds) {
    text += (text.empty() ? "" : ", ") + std::to_string(count) + "× " + kind;
  }
  const auto names = values_of("/proc/cpuinfo", "model name");
  return !text.empty() ? text : names.empty() ? "" : names[0];
}

std::string property(const Properties& properties, const std::string& name) {
  const auto found = properties.find(name);
  return found == properties.end() ? "" : found->second;
}

int core_count() { return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_CONF))); }

Json temperatures() {
  constexpr double kAbsoluteZero = -273.15;  // zones that are switched off report less
  Json found = Json::object();
  for (const fs::path& zone : entries("/sys/class/thermal", "thermal_zone")) {
    const std::string type = first_line(zone / "type");
    const Json thousandths = number_or_null(zone / "temp");
    if (thousandths.is_null() || thousandths.get<double>() / 1000 < kAbsoluteZero) continue;
    const std::string name = type.empty() || found.contains(type) ? zone.filename().string() : type;
    found[name] = thousandths.get<double>() / 1000;
  }
  return found;
}

// Percent and whether it is charging, of the first battery.
std::pair<Json, Json> battery() {
  for (const fs::path& supply : entries("/sys/class/power_supply", "")) {
    if (first_line(supply / "type") != "Battery") continue;
    const std::string status = first_line(supply / "status");
    const bool known = !status.empty() && status != "Unknown";
    return {number_or_null(supply / "capacity"), known ? Json(status == "Charging") : Json()};
  }
  return {};
}

}  // namespace

Properties system_properties() {
  Properties properties;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen("getprop 2>/dev/null", "r"), pclose);
  if (pipe == nullptr) return properties;
  std::string line;
  for (int c; (c = std::fgetc(pipe.get())) != EOF;) {
    line += static_cast<char>(c);
    if (c != '\n') continue;
    // [name]: [value]
    const size_t middle = line.find("]: [");
    const size_t end = line.rfind(']');
    if (line[0] == '[' && middle != std::string::npos && end >= middle + 4) {
      properties[line.substr(1, middle - 1)] = trimmed(line.substr(middle + 4, end - middle - 4));
    }
    line.clear();
  }
  return properties;
}

bool is_emulated(const Properties& properties) {
  if (property(properties, "ro.kernel.qemu") == "1" || property(properties, "ro.boot.qemu") == "1") return true;
  if (std::getenv("QEMU_CPU") != nullptr) return true;
  for (const char* key : {"model name", "Hardware"}) {
    for (const std::string& value : values_of("/proc/cpuinfo", key)) {
      for (const char* emulator : {"QEMU", "ranchu", "Goldfish"}) {
        if (value.find(emulator) != std::string::npos) return true;
      }
    }
  }
  return false;
}

Json device_facts(const Properties& properties) {
  utsname system = {};
  uname(&system);
  const bool android = !property(properties, "ro.build.version.sdk").empty();
  std::string model = property(properties, "ro.product.model");
  for (const char* file : {"/proc/device-tree/model", "/sys/class/dmi/id/product_name"}) {
    if (model.empty()) model = first_line(file);
  }
  const std::string abi = property(properties, "ro.product.cpu.abi");
  return {
      {"model", model.empty() ? std::string("unknown ") + system.machine : model},
      {"manufacturer", text_or_null(property(properties, "ro.product.manufacturer"))},
      {"soc", text_or_null(property(properties, "ro.soc.model"))},
      {"os", android ? "android" : "linux"},
      {"os_version", text_or_null(android ? property(properties, "ro.build.version.release") : system.release)},
      {"os_build", text_or_null(android ? property(properties, "ro.build.display.id") : system.version)},
      {"abi", abi.empty() ? std::string(system.machine) : abi},
      {"cpu", text_or_null(cpu_name())},
      {"cores", core_count()},
      {"ram_bytes", kilobytes("/proc/meminfo", "MemTotal")},
  };
}

Json conditions() {
  Json clocks = Json::array();
  for (const fs::path& core : entries("/sys/devices/system/cpu", "cpu")) {
    const Json kilohertz = number_or_null(core / "cpufreq" / "scaling_cur_freq");
    if (!kilohertz.is_null()) clocks.push_back(kilohertz.get<double>() / 1000);
  }
  const Json load = number_or_null("/proc/loadavg");
  const auto [percent, charging] = battery();
  return {
      {"thermal_status", nullptr},  // Android tells it through binder alone: the host asks dumpsys
      {"temperatures_c", temperatures()},
      {"battery_percent", percent},
      {"charging", charging},
      {"cpu_mhz", clocks},
      {"load", load.is_null() ? Json() : Json(load.get<double>() / core_count())},
  };
}

Json peak_memory() {
  // The largest resident set. PSS counts shared pages fairly, but the system keeps no peak of it.
  const Json peak = kilobytes("/proc/self/status", "VmHWM");
  return {{"peak_bytes", peak}, {"measure", peak.is_null() ? Json() : Json("rss")}};
}

Json affinity_notes() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) >= core_count()) {
    return Json::array({"cores not pinned"});
  }
  std::string cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<size_t>(core), &allowed)) cores += (cores.empty() ? "" : ", ") + std::to_string(core);
  }
  return Json::array({"pinned to cores " + cores});
}

}  // namespace lorarar
