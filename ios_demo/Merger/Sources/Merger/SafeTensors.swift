import Foundation

/// An opened safetensors file from a stranger: its header is checked completely, its data is mapped, not read.
///
/// The format: eight bytes with the header's length (little endian), the header (a JSON object: tensor name → dtype,
/// shape, data_offsets; `__metadata__` → strings), then the tensors' bytes without gap or overlap.
public struct SafeTensors: Sendable {
    /// Where one tensor lies: its first and last-plus-one byte after the header.
    public struct Entry: Equatable, Sendable {
        public let dtype: String
        public let shape: [Int]
        let begin: Int
        let end: Int
    }

    static let floats = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"]
    static let maxElements = 1 << 25  // of one tensor; rank 1024 of SDXL's widest linear has 2^23.3

    public let source: String
    public let names: [String]  // in the header's order
    public let metadata: [String: String]
    private let entries: [String: Entry]
    private let data: Data  // the whole file
    private let start: Int  // of the tensors' bytes

    /// Throws InputError when the file is missing, is of another kind, or breaks the format. `source` is what it is
    /// called in messages, where its name alone does not tell it apart.
    public init(_ url: URL, source: String? = nil) throws {
        self.source = source ?? url.lastPathComponent
        data = try Files.mapped(url)
        let length = try SafeTensorsHeader.length(data, source: self.source)
        start = 8 + length
        let header = try SafeTensorsHeader.parse(
            data.subdata(in: 8..<start), dataBytes: data.count - start, source: self.source)
        names = header.names
        entries = header.entries
        metadata = header.metadata
    }

    public subscript(name: String) -> Entry? { entries[name] }

    /// One tensor as float32: exact but for F64, which is rounded.
    ///
    /// Throws InputError when there is none, when it is no floating-point tensor, or when it holds NaN, infinity or a
    /// value over float32.
    public func floats(_ name: String) throws -> [Float] {
        let values = try numbers(name)
        guard values.allSatisfy(\.isFinite) else {
            throw InputError(
                "\(source): '\(shorten(name))' holds NaN, infinity or values over float32; the training diverged or "
                    + "the file is damaged, use another one")
        }
        return values
    }

    /// The values of an F32 or F64 tensor as they are, which may be NaN. Throws InputError for another type or none.
    func doubles(_ name: String) throws -> [Double] {
        guard let entry = entries[name] else {
            throw InputError("\(source): not a golden file of this bundle (no \(name)); export the bundle again")
        }
        switch entry.dtype {
        case "F32": return read(entry, as: UInt32.self) { Double(Float(bitPattern: $0)) }
        case "F64": return read(entry, as: UInt64.self) { Double(bitPattern: $0) }
        default: throw InputError("\(source): \(name) is of type \(entry.dtype); export the bundle again")
        }
    }

    private func numbers(_ name: String) throws -> [Float] {
        guard let entry = entries[name] else {
            throw InputError("\(source): there is no tensor '\(shorten(name))'; get the file again")
        }
        guard Self.floats.contains(entry.dtype) else {
            throw InputError(
                "\(source): '\(shorten(name))' has dtype \(entry.dtype); a LoRA's tensors must be "
                    + "\(Self.floats.joined(separator: ", ")), so save it in one of these")
        }
        guard (product(entry.shape) ?? .max) <= Self.maxElements else {
            throw InputError(
                "\(source): '\(shorten(name))' has shape \(entry.shape), too large for a factor of a LoRA; this is "
                    + "another kind of file")
        }
        return switch entry.dtype {
        case "F32": read(entry, as: UInt32.self) { Float(bitPattern: $0) }
        case "F16": read(entry, as: UInt16.self) { Float(Float16(bitPattern: $0)) }
        case "F8_E4M3": read(entry, as: UInt8.self, Self.e4m3)
        case "F8_E5M2": read(entry, as: UInt8.self) { Float(Float16(bitPattern: UInt16($0) << 8)) }  // its upper half
        case "BF16": read(entry, as: UInt16.self) { Float(bitPattern: UInt32($0) << 16) }  // a float32's upper half
        default: read(entry, as: UInt64.self) { Float(Double(bitPattern: $0)) }
        }
    }

    /// A float of 8 bits with 4 of exponent, which has a NaN and no infinity.
    private static func e4m3(_ bits: UInt8) -> Float {
        let (exponent, fraction) = (Int(bits >> 3) & 15, Float(bits & 7))
        let magnitude: Float =
            if exponent == 15, fraction == 7 {
                .nan
            } else if exponent == 0 {
                Float(sign: .plus, exponent: -9, significand: fraction)
            } else {
                Float(sign: .plus, exponent: exponent - 10, significand: 8 + fraction)
            }
        return bits < 128 ? magnitude : -magnitude
    }

    /// A tensor of one number, which may be whole, as current trainers write alphas. Throws InputError as `floats`.
    func number(_ name: String) throws -> Double {
        guard let entry = entries[name] else { return Double(try floats(name)[0]) }
        return switch entry.dtype {
        case "I64": read(entry, as: UInt64.self) { Double(Int64(bitPattern: $0)) }[0]
        case "I32": read(entry, as: UInt32.self) { Double(Int32(bitPattern: $0)) }[0]
        case "I16": read(entry, as: UInt16.self) { Double(Int16(bitPattern: $0)) }[0]
        case "I8": read(entry, as: UInt8.self) { Double(Int8(bitPattern: $0)) }[0]
        case "U8": read(entry, as: UInt8.self) { Double($0) }[0]
        default: Double(try floats(name)[0])
        }
    }

    private func read<Bits: FixedWidthInteger, Value>(
        _ entry: Entry, as: Bits.Type, _ value: (Bits) -> Value
    ) -> [Value] {
        let size = MemoryLayout<Bits>.size
        return data.withUnsafeBytes { bytes in
            // The file's bytes need not be aligned.
            stride(from: start + entry.begin, to: start + entry.end, by: size).map {
                value(Bits(littleEndian: bytes.loadUnaligned(fromByteOffset: $0, as: Bits.self)))
            }
        }
    }
}
