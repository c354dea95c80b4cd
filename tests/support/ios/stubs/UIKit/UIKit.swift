import CoreGraphics
import Foundation

public final class UIImage {
  public init?(contentsOfFile path: String) { return nil }
  public init(cgImage: CGImage) {}
}

@MainActor
public final class UIDevice {
  public enum BatteryState: Int, Sendable {
    case unknown, unplugged, charging, full
  }

  public static var current: UIDevice { fatalError() }
  public var isBatteryMonitoringEnabled = false
  public var batteryLevel: Float { -1 }
  public var batteryState: BatteryState { .unknown }
}

@MainActor
public final class UIApplication {
  public static var shared: UIApplication { fatalError() }
  public var isIdleTimerDisabled = false
  nonisolated public static let didReceiveMemoryWarningNotification = Notification.Name("")
}

public enum UIKeyboardType: Int, Sendable {
  case `default` = 0
  case numberPad = 4
}
