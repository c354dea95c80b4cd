import Foundation

/// Writes a safetensors file: the same tensors always give the same bytes.
public enum SafeTensorsWriter {
    private static let types: [DType: String] = [.float32: "F32", .float16: "F16", .int32: "I32"]

    /// Writes beside `url`, then renames. Throws the system's error where there is no room.
    public static func write(_ tensors: [String: Tensor], to url: URL) throws {
        var header = JsonObject()
        var data = Data()
        for (name, tensor) in tensors.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
            let start = data.count
            tensor.withUnsafeBytes { data.append(contentsOf: $0) }
            header[name] = .object(
                JsonObject([
                    ("dtype", .text(types[tensor.dtype] ?? "")),
                    ("shape", .array(tensor.shape.map { .integer($0) })),
                    ("data_offsets", .array([.integer(start), .integer(data.count)])),
                ]))
        }
        var text = Data(Json.object(header).serialised.utf8)
        text.append(Data(repeating: UInt8(ascii: " "), count: (8 - text.count % 8) % 8))
        var file = Data()
        withUnsafeBytes(of: UInt64(text.count).littleEndian) { file.append(contentsOf: $0) }
        file.append(text)
        file.append(data)
        try file.write(to: url, options: .atomic)
    }
}
