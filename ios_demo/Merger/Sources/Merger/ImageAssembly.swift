import Foundation

/// An image's bytes: red, green, blue, alpha of each pixel, rows from the top.
public struct PixelImage: Equatable, Sendable {
    public let width: Int
    public let height: Int
    public let rgba: [UInt8]

    /// From pixels (1, 3, h, w) in [0, 1]. The shape was checked with the manifest.
    public init(_ pixels: Tensor) {
        height = pixels.shape[2]
        width = pixels.shape[3]
        let values = pixels.floats
        let plane = width * height
        var bytes = [UInt8](repeating: 255, count: 4 * plane)
        for colour in 0..<3 {
            for i in 0..<plane {
                let value = (values[colour * plane + i] * 255).rounded(.toNearestOrEven)
                bytes[4 * i + colour] = UInt8(min(max(value, 0), 255))
            }
        }
        rgba = bytes
    }

    /// Nil for bytes of another number than the pixels have.
    public init?(width: Int, height: Int, rgba: [UInt8]) {
        let (plane, overflows) = width.multipliedReportingOverflow(by: height)
        guard width > 0, height > 0, !overflows, rgba.count % 4 == 0, rgba.count / 4 == plane else { return nil }
        (self.width, self.height, self.rgba) = (width, height, rgba)
    }
}
