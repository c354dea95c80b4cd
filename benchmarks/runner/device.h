// What the system tells of the device and its state, for the record. What it does not tell is null.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace lorarar {

using Json = nlohmann::ordered_json;  // a record reads in the schema's order
using Properties = std::map<std::string, std::string>;

// Android's system properties; none where there is no getprop.
Properties system_properties();

// True where the system says that it runs in an emulator. qemu-user says so only in its environment.
bool is_emulated(const Properties& properties);

Json device_facts(const Properties& properties);
Json conditions();      // heat, battery, clocks and load, now
Json peak_memory();     // of this process until now
Json affinity_notes();  // which cores this process may use

}  // namespace lorarar
