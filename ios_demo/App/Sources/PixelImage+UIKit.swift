import CoreGraphics
import Merger
import UIKit

extension PixelImage {
    /// As UIKit shows it; nil where there is no memory for it.
    var uiImage: UIImage? {
        guard let space = CGColorSpace(name: CGColorSpace.sRGB) else { return nil }
        var bytes = rgba
        let image = bytes.withUnsafeMutableBytes { buffer in
            let context = CGContext(
                data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
                space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            return context?.makeImage()  // a copy
        }
        return image.map { UIImage(cgImage: $0) }
    }
}
