import Foundation

public typealias CFString = NSString

public final class CGColorSpace {
  public nonisolated(unsafe) static let sRGB: CFString = NSString(string: "kCGColorSpaceSRGB")
  public init?(name: CFString) {}
}

extension CGColorSpace: @unchecked Sendable {}

public enum CGImageAlphaInfo: UInt32, Sendable {
  case none = 0
  case noneSkipLast = 5
}

public final class CGImage {
  init() {}
}

public final class CGContext {
  public init?(
    data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int,
    bytesPerRow: Int,
    space: CGColorSpace, bitmapInfo: UInt32
  ) {}

  public func makeImage() -> CGImage? { nil }
}
