import Foundation

#if canImport(Darwin)
import Darwin
#endif
#if os(iOS)
import os
#endif

/// What the system says of this device and of its state now; nil where it does not tell.
public enum DeviceFacts {
    public static var osName: String {
        #if os(iOS)
        "iOS"
        #elseif os(macOS)
        "macOS"
        #else
        "Linux"
        #endif
    }

    /// The record's `device`.
    static func device() -> Json {
        let system = ProcessInfo.processInfo.operatingSystemVersion
        let version = "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)"
        return .object(
            JsonObject([
                ("model", .text(control("hw.machine", "hw.model") ?? machine)),
                ("manufacturer", isApple ? .text("Apple") : .null),
                ("soc", .null),
                ("os", .text(osName.lowercased())),
                ("os_version", .text(version)),
                ("os_build", control("kern.osversion").map { .text($0) } ?? .null),
                ("abi", .text(abi)),
                ("cpu", control("machdep.cpu.brand_string").map { .text($0) } ?? .null),
                ("cores", .integer(ProcessInfo.processInfo.processorCount)),
                ("ram_bytes", .integer(Int(clamping: ProcessInfo.processInfo.physicalMemory))),
            ]))
    }

    /// Whether this is a Simulator, whose times say nothing of a phone.
    static var isEmulated: Bool {
        #if targetEnvironment(simulator)
        true
        #else
        false
        #endif
    }

    /// iOS's name of the thermal state; nil on systems without one.
    public static var thermalState: String? {
        #if canImport(Darwin)
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: "nominal"
        case .fair: "fair"
        case .serious: "serious"
        case .critical: "critical"
        @unknown default: nil
        }
        #else
        nil
        #endif
    }

    /// The system's name and version, which Apple's frameworks have no others than.
    static var system: String {
        let version = ProcessInfo.processInfo.operatingSystemVersion
        return "\(osName) \(version.majorVersion).\(version.minorVersion).\(version.patchVersion)"
    }

    /// One-minute load average over the number of cores.
    static var load: Double? {
        var averages = [0.0]
        guard getloadavg(&averages, 1) == 1 else { return nil }
        return averages[0] / Double(max(1, ProcessInfo.processInfo.processorCount))
    }

    /// The process's largest footprint so far.
    public static func peakMemory() -> PeakMemory {
        #if canImport(Darwin)
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        // Not mach_task_self_, which SDKs before macOS 15.4 declare as a variable that Swift 6 lets nobody read.
        let task = task_self_trap()
        defer { mach_port_deallocate(task, task) }
        let code = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(task, task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        let isKnown = code == KERN_SUCCESS && info.ledger_phys_footprint_peak > 0
        return PeakMemory(
            bytes: isKnown ? Int(info.ledger_phys_footprint_peak) : nil, measure: "phys_footprint")
        #else
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        let kilobytes = line?.split(separator: " ").compactMap { Int($0) }.first
        return PeakMemory(bytes: kilobytes.map { $0 * 1024 }, measure: "rss")
        #endif
    }

    /// Bytes that this process may still take before the system ends it; nil where the system does not say.
    @Sendable
    public static func availableMemory() -> Int? {
        #if os(iOS) && !targetEnvironment(simulator)
        let free = os_proc_available_memory()
        return free > 0 ? free : nil  // 0 where there is no limit, as for an iPad's app on a Mac
        #else
        return nil
        #endif
    }

    private static var isApple: Bool {
        #if canImport(Darwin)
        true
        #else
        false
        #endif
    }

    private static var abi: String {
        #if arch(arm64)
        "arm64"
        #elseif arch(x86_64)
        "x86_64"
        #else
        #error("Core ML and ONNX Runtime are there for arm64 and x86-64 alone")
        #endif
    }

    /// What uname calls this machine.
    private static var machine: String {
        var facts = utsname()
        uname(&facts)
        return withUnsafeBytes(of: facts.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// The first of these values that the kernel has: a phone's product type is its hw.machine, a Mac's its hw.model.
    private static func control(_ names: String...) -> String? {
        #if canImport(Darwin)
        #if os(macOS)
        let wanted = names.last
        #else
        let wanted = names.first
        #endif
        guard let wanted else { return nil }
        var size = 0
        guard sysctlbyname(wanted, nil, &size, nil, 0) == 0, size > 1 else { return nil }
        var bytes = [UInt8](repeating: 0, count: size)
        guard sysctlbyname(wanted, &bytes, &size, nil, 0) == 0 else { return nil }
        let text = String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        return text.isEmpty ? nil : text
        #else
        return nil
        #endif
    }
}
