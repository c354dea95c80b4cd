/// Element types that bundles use.
public enum DType: String, Sendable, CaseIterable {
    case float32, float16, int32
}

/// Values in row-major order, and their shape.
public struct Tensor: Equatable, Sendable {
    public enum Values: Equatable, Sendable {
        case float32([Float])
        case float16([Float16])
        case int32([Int32])
    }

    public let shape: [Int]
    public let values: Values

    /// The number of values must be the product of the shape, which every caller has checked or made.
    public init(_ values: Values, shape: [Int]) {
        self.values = values
        self.shape = shape
        precondition(count == shape.reduce(1, *), "a tensor's values must fill its shape")
    }

    /// Float32 values, rounded to `dtype` once. What int32 does not hold is 0: a network that a manifest gives whole
    /// numbers, and that makes others of them, must not end the app.
    public init(_ floats: [Float], shape: [Int], dtype: DType = .float32) {
        switch dtype {
        case .float32: self.init(.float32(floats), shape: shape)
        case .float16: self.init(.float16(floats.map { Float16($0) }), shape: shape)
        case .int32: self.init(.int32(floats.map { Int32(exactly: $0.rounded(.towardZero)) ?? 0 }), shape: shape)
        }
    }

    public static func zeros(_ shape: [Int], dtype: DType = .float32) -> Tensor {
        let count = shape.reduce(1, *)
        return switch dtype {
        case .float32: Tensor(.float32([Float](repeating: 0, count: count)), shape: shape)
        case .float16: Tensor(.float16([Float16](repeating: 0, count: count)), shape: shape)
        case .int32: Tensor(.int32([Int32](repeating: 0, count: count)), shape: shape)
        }
    }

    public var dtype: DType {
        switch values {
        case .float32: .float32
        case .float16: .float16
        case .int32: .int32
        }
    }

    public var count: Int {
        switch values {
        case .float32(let array): array.count
        case .float16(let array): array.count
        case .int32(let array): array.count
        }
    }

    /// The values as float32, which holds every half exactly.
    public var floats: [Float] {
        switch values {
        case .float32(let array): array
        case .float16(let array): array.map { Float($0) }
        case .int32(let array): array.map { Float($0) }
        }
    }

    /// The same values in another type, rounded once.
    public func converted(to dtype: DType) -> Tensor {
        dtype == self.dtype ? self : Tensor(floats, shape: shape, dtype: dtype)
    }

    /// The values of one entry of the first axis, as float32.
    func row(_ index: Int) -> ArraySlice<Float> {
        let length = shape[0] == 0 ? 0 : count / shape[0]
        let range = index * length..<(index + 1) * length
        switch values {
        case .float32(let array): return array[range]
        case .float16(let array): return ArraySlice(array[range].map { Float($0) })
        case .int32(let array): return ArraySlice(array[range].map { Float($0) })
        }
    }

    /// Whether no value is NaN or infinite.
    var isFinite: Bool {
        switch values {
        case .float32(let array): array.allSatisfy(\.isFinite)
        case .float16(let array): array.allSatisfy(\.isFinite)
        case .int32: true
        }
    }

    /// Whether it is the other one, values and memory: a copy that nobody wrote to shares it.
    func isSame(as other: Tensor) -> Bool {
        withUnsafeBytes { mine in
            other.withUnsafeBytes { mine.baseAddress == $0.baseAddress } && shape == other.shape
        }
    }

    func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        switch values {
        case .float32(let array): try array.withUnsafeBytes(body)
        case .float16(let array): try array.withUnsafeBytes(body)
        case .int32(let array): try array.withUnsafeBytes(body)
        }
    }

    /// Copies as many bytes as the shape needs; the buffer must hold them.
    init(copying bytes: UnsafeRawBufferPointer, dtype: DType, shape: [Int]) {
        let count = shape.reduce(1, *)
        switch dtype {
        case .float32: self.init(.float32(Self.array(bytes, count)), shape: shape)
        case .float16: self.init(.float16(Self.array(bytes, count)), shape: shape)
        case .int32: self.init(.int32(Self.array(bytes, count)), shape: shape)
        }
    }

    private static func array<Element>(_ bytes: UnsafeRawBufferPointer, _ count: Int) -> [Element] {
        [Element](unsafeUninitializedCapacity: count) { buffer, filled in
            let target = UnsafeMutableRawBufferPointer(buffer)
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<target.count]))
            filled = count
        }
    }
}
