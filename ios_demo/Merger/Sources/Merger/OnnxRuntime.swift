import COnnxRuntime
import Foundation

/// ONNX Runtime's C API, on the CPU. It is there when the package was built with ONNX Runtime's headers.
public final class OnnxRuntime: Runtime {
    public let name = "onnxruntime"
    public let backend = "CPUExecutionProvider"
    public let computeUnit = "cpu"
    private let library: OnnxLibrary
    private let threads: Int?

    /// The graph's file in an artifact that is a folder: one whose weights are too large for one file.
    private static let graph = "model.onnx"
    /// ONNX Runtime's CPU computes fp16 in fp32 and keeps the widened weights beside the stored ones, three times the
    /// file. From this many bytes on they are widened in each run instead.
    private static let widenedAtLoad = 2_000_000_000

    /// `library` is the path of ONNX Runtime's shared library; nil where it is linked into the program. `threads` nil
    /// leaves the number to the runtime.
    ///
    /// Throws InputError when the library can't be loaded or was not built in.
    public init(library: String? = nil, threads: Int? = nil) throws {
        self.library = try OnnxLibrary(library)
        self.threads = threads
    }

    public var version: String { String(cString: lorarar_ort_version(library.handle)) }

    public func load(_ component: Component, at url: URL) throws -> Loaded {
        var isFolder: ObjCBool = false
        _ = FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder)
        let path = isFolder.boolValue ? url.appendingPathComponent(Self.graph).path : url.path
        let without = optimizersToLeaveOut(component).joined(separator: ";")
        var handle: OpaquePointer?
        if let fault = lorarar_ort_load(library.handle, path, Int32(threads ?? 0), without, &handle) {
            throw InputError(
                "\(component.artifact.file): ONNX Runtime can't load it (\(taken(fault))); export the bundle again")
        }
        let session = OnnxSession(component, handle!, library)
        try session.checkSignature()
        return Loaded(session: session, compileSeconds: nil)
    }

    /// Those that a large graph in fp16 can't afford.
    private func optimizersToLeaveOut(_ component: Component) -> [String] {
        guard component.isHalf, component.artifact.bytes > Self.widenedAtLoad else { return [] }
        return ["FuseFp16InitializerToFp32NodeTransformer", "ConstantFolding"]
    }
}

/// The library and its environment; sessions keep it alive.
private final class OnnxLibrary {
    let handle: OpaquePointer

    init(_ path: String?) throws {
        var handle: OpaquePointer?
        if let fault = lorarar_ort_open(path, &handle) {
            throw InputError("\(taken(fault))")
        }
        self.handle = handle!
    }

    deinit {
        lorarar_ort_close(handle)
    }
}

/// A sentence of the C side, which is freed.
private func taken(_ text: UnsafeMutablePointer<CChar>) -> String {
    defer { lorarar_ort_free_text(text) }
    return String(cString: text)
}

private final class OnnxSession: Session {
    private let component: Component
    private let handle: OpaquePointer
    private let library: OnnxLibrary

    init(_ component: Component, _ handle: OpaquePointer, _ library: OnnxLibrary) {
        self.component = component
        self.handle = handle
        self.library = library
    }

    deinit {
        lorarar_ort_unload(handle)
    }

    /// Throws InputError when the graph's tensors are not the manifest's.
    func checkSignature() throws {
        for (specs, isInput) in [(component.inputs, true), (component.outputs, false)] {
            for spec in specs {
                var signature = lorarar_ort_tensor()
                let known = lorarar_ort_signature(handle, isInput, spec.name, &signature)
                let shape = withUnsafeBytes(of: signature.shape) { Array($0.bindMemory(to: Int64.self)) }
                let same =
                    known && signature.type == type(spec.dtype) && signature.rank == spec.shape.count
                    && zip(shape, spec.shape).allSatisfy { have, want in
                        if case .size(let size) = want { return have == Int64(size) }
                        return true  // open in the graph
                    }
                guard same else {
                    throw InputError(
                        "\(component.artifact.file): \(spec.name) is not as the manifest says; export the bundle again")
                }
            }
        }
    }

    func bind(_ inputs: [String: Tensor]) throws {
        for (name, tensor) in inputs {
            let shape = tensor.shape.map { Int64($0) }
            let fault = tensor.withUnsafeBytes { bytes in
                lorarar_ort_bind(handle, name, type(tensor.dtype), shape, shape.count, bytes.baseAddress, bytes.count)
            }
            if let fault {
                throw InputError(
                    "\(component.name): ONNX Runtime can't take \(name) (\(taken(fault))); export the bundle again")
            }
        }
    }

    /// ONNX Runtime's binding lets inputs go when others take their place, or all of them: it has no call for some.
    func unbind(_ names: Set<String>) {}

    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        try bind(inputs)
        let names = component.outputs.map(\.name)
        if let fault = lorarar_ort_run(handle) {
            throw InputError(
                "\(component.name): ONNX Runtime can't run it (\(taken(fault))); close other apps or "
                    + "export the bundle again"
            )
        }
        var outputs: [String: Tensor] = [:]
        for (spec, name) in zip(component.outputs, names) {
            var found = lorarar_ort_tensor()
            var data: UnsafeRawPointer?
            guard lorarar_ort_output(handle, name, &found, &data), found.type == type(spec.dtype) else {
                throw InputError("\(component.name): ONNX Runtime gave no \(name); export the bundle again")
            }
            let shape = withUnsafeBytes(of: found.shape) { bytes in
                bytes.bindMemory(to: Int64.self).prefix(found.rank).map { Int($0) }
            }
            let size = shape.reduce(1, *) * bytesEach(spec.dtype)
            let bytes = UnsafeRawBufferPointer(start: data, count: size)
            outputs[name] = Tensor(copying: bytes, dtype: spec.dtype, shape: shape)
        }
        return outputs
    }

    private func bytesEach(_ dtype: DType) -> Int {
        dtype == .float16 ? 2 : 4
    }

    private func type(_ dtype: DType) -> lorarar_ort_type {
        switch dtype {
        case .float32: LORARAR_ORT_FLOAT32
        case .float16: LORARAR_ORT_FLOAT16
        case .int32: LORARAR_ORT_INT32
        }
    }
}
