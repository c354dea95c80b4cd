import Foundation

// Mach, as task.h, task_info.h and mach_traps.h declare it for Swift.
public typealias natural_t = UInt32
public typealias integer_t = Int32
public typealias kern_return_t = Int32
public typealias mach_port_name_t = UInt32
public typealias mach_port_t = UInt32
public typealias mach_msg_type_number_t = UInt32
public typealias task_flavor_t = UInt32

public let KERN_SUCCESS: kern_return_t = 0
public let TASK_VM_INFO: Int32 = 22

public struct task_vm_info_data_t {
  public init() {}
  public var phys_footprint: UInt64 = 0
  public var ledger_phys_footprint_peak: Int64 = 0
}

public func task_self_trap() -> mach_port_name_t { 0 }

@discardableResult
public func mach_port_deallocate(_ task: mach_port_t, _ name: mach_port_name_t) -> kern_return_t {
  0
}

public func task_info(
  _ task: mach_port_t, _ flavor: task_flavor_t, _ info: UnsafeMutablePointer<integer_t>!,
  _ count: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t { 0 }

public func sysctlbyname(
  _ name: UnsafePointer<CChar>!, _ old: UnsafeMutableRawPointer!,
  _ oldSize: UnsafeMutablePointer<Int>!,
  _ new: UnsafeMutableRawPointer!, _ newSize: Int
) -> Int32 { -1 }

extension ProcessInfo {
  public enum ThermalState: Int, Sendable {
    case nominal, fair, serious, critical
  }

  public var thermalState: ThermalState { .nominal }
}

public final class DispatchSerialQueue: SerialExecutor {
  public init(label: String) {}
  public func enqueue(_ job: consuming ExecutorJob) {}
  public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: self)
  }
}
