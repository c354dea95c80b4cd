// What the engine uses of Core Video, declared as Apple's headers declare it, for Linux alone.
import Foundation

public typealias CVReturn = Int32
public typealias CFDictionary = [String: Any]

public let kCFAllocatorDefault: Int? = nil
public let kCVReturnSuccess: CVReturn = 0
public let kCVPixelFormatType_OneComponent16Half: UInt32 = 0x4C30_3068  // 'L00h'
public let kCVPixelBufferIOSurfacePropertiesKey = "IOSurfaceProperties"

/// Memory with rows of its own length.
public final class CVPixelBuffer {
    public let width: Int
    public let height: Int
    public let bytesPerRow: Int
    public let memory: UnsafeMutableRawBufferPointer

    init(width: Int, height: Int) {
        (self.width, self.height) = (width, height)
        bytesPerRow = (2 * width + 63) / 64 * 64  // as surfaces have it
        memory = .allocate(byteCount: bytesPerRow * height, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0xFF)
    }

    deinit { memory.deallocate() }
}

public func CVPixelBufferCreate(
    _: Int?, _ width: Int, _ height: Int, _ format: UInt32, _ attributes: CFDictionary?,
    _ made: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn {
    guard Surfaces.mostRows >= height, format == kCVPixelFormatType_OneComponent16Half,
        attributes?[kCVPixelBufferIOSurfacePropertiesKey] != nil
    else { return -6680 }  // kCVReturnInvalidPixelFormat, or the like
    made.pointee = CVPixelBuffer(width: width, height: height)
    Surfaces.made += 1
    return kCVReturnSuccess
}

/// What tests say and ask. Not part of Core Video.
public enum Surfaces {
    public nonisolated(unsafe) static var mostRows = Int.max
    public nonisolated(unsafe) static var made = 0
}
