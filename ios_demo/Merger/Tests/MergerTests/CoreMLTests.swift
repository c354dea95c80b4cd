import CoreML
import XCTest

@testable import Merger

#if os(Linux)
/// The engine's Core ML code against the stand-in for Core ML, whose models are Swift functions.
final class CoreMLTests: XCTestCase {
    private var cache: URL!
    private var package: URL!
    private let shape = [2, 3]

    override func setUpWithError() throws {
        let folder = try scratchFolder(self)
        (cache, package) = (folder.appendingPathComponent("compiled"), folder.appendingPathComponent("line.mlpackage"))
        try FileManager.default.createDirectory(at: package, withIntermediateDirectories: true)
        StandIn.padding = 0
        _ = StandIn.takeEvents()
    }

    /// y = 2x + b
    private func component(_ dtype: DType = .float32) -> Component {
        let spec = { (name: String) in TensorSpec(name: name, dtype: dtype, shape: [.size(2), .size(3)]) }
        let file = FileEntry(file: "line.mlpackage", bytes: 1, sha256: "hash-\(dtype.rawValue)")
        return Component(
            name: "line", artifact: file, inputs: [spec("x"), spec("b")], outputs: [spec("y")], golden: file,
            goldenInputs: [:], tolerance: Tolerance(psnrDb: 20, maxError: 0.1))
    }

    private func setLine(_ dataType: MLMultiArrayDataType = .float32, shape: [Int] = [2, 3]) {
        let features = ["x", "b"].map { StandIn.Feature($0, shape, dataType) }
        StandIn.set(
            "line",
            .init(inputs: features, outputs: [StandIn.Feature("y", shape, dataType)]) { given in
                let (x, b) = (values(given, "x"), values(given, "b"))
                let y = zip(x, b).map { 2 * $0 + $1 }
                return try MLDictionaryFeatureProvider(dictionary: [
                    "y": MLFeatureValue(multiArray: array(y, shape, dataType))
                ])
            })
    }

    private func model(_ component: Component, units: ComputeUnits? = nil) -> Model {
        Model(
            component, at: package,
            runtime: CoreMLRuntime(units: units, cache: cache))
    }

    func testAModelIsCompiledOnceAndKept() throws {
        setLine()
        let first = model(component(), units: .cpuAndNeuralEngine)
        try first.load()
        XCTAssertNotNil(first.times?.compileSeconds)
        XCTAssertEqual(StandIn.takeEvents(), [.compiled("line"), .loaded("line", .cpuAndNeuralEngine)])
        let second = model(component())
        try second.load()
        XCTAssertNil(second.times?.compileSeconds)
        XCTAssertEqual(StandIn.takeEvents(), [.loaded("line", .all)])
    }

    func testAComponentRunsOnTheProcessorsThatItIsMadeForUnlessOthersAreGiven() throws {
        setLine()
        var component = component()
        component.units = .cpuAndGPU
        for (given, expected) in [(nil, .cpuAndGPU), (.cpuOnly, .cpuOnly)] as [(ComputeUnits?, MLComputeUnits)] {
            try model(component, units: given).load()
            XCTAssertEqual(StandIn.takeEvents().last, .loaded("line", expected))
        }
    }

    func testRunsWithStridesOfCoreMLsOwn() throws {
        for padding in [0, 5] {
            StandIn.padding = padding
            for (dtype, dataType) in [(DType.float32, MLMultiArrayDataType.float32), (.float16, .float16)] {
                setLine(dataType)
                let model = model(component(dtype))
                try model.bind(["b": Tensor([1, 1, 1, 2, 2, 2], shape: shape, dtype: dtype)])
                for run in 0..<2 {
                    let x = Tensor((0..<6).map { Float($0 + run) }, shape: shape, dtype: dtype)
                    let y = try model.perform(["x": x])["y"]!
                    // Without its types, the compiler takes half a minute for this line.
                    let expected = (0..<6).map { (i: Int) -> Float in Float(2 * (i + run)) + (i < 3 ? 1 : 2) }
                    XCTAssertEqual(y, Tensor(expected, shape: shape, dtype: dtype), "padding \(padding), \(dtype)")
                }
            }
        }
    }

    func testInputsAreCheckedBeforeCoreMLSeesThem() throws {
        setLine()
        let model = model(component())
        let good = Tensor.zeros(shape)
        XCTAssertTrue(refusal { _ = try model.perform(["x": good]) }.contains("line got no b"))
        XCTAssertTrue(
            refusal { _ = try model.perform(["x": good, "b": good, "c": good]) }.contains("has no input c"))
        XCTAssertTrue(
            refusal { try model.bind(["x": Tensor.zeros([3, 2])]) }
                .contains("x is float32 of shape [3, 2], it needs float32 of shape [2, 3]"))
        XCTAssertTrue(
            refusal { try model.bind(["x": Tensor.zeros(shape, dtype: .float16)]) }.contains(
                "x is float16 of shape"))
    }

    func testAPackageThatIsNotTheManifestsIsRefused() throws {
        setLine(.float16)
        XCTAssertTrue(
            refusal { try model(component()).load() }.contains("line.mlpackage: x is not as the manifest says"))
        setLine(shape: [2, 4])
        try? FileManager.default.removeItem(at: cache)
        XCTAssertTrue(refusal { try model(component()).load() }.contains("x is not as the manifest says"))
    }

    func testFailuresAreOneSentence() throws {
        StandIn.set("line", nil)
        let damaged = refusal { try model(component()).load() }
        XCTAssertTrue(
            damaged.contains("Core ML can't compile it (the package is damaged); free some space"), damaged)
        setLine()
        try model(component()).load()
        StandIn.set("line", nil)  // what the system does to a cache after an update
        try FileManager.default.removeItem(at: package)
        let kept = refusal { try model(component()).load() }
        XCTAssertTrue(kept.contains("Core ML can't load it"), kept)
        XCTAssertTrue(
            FileManager.default.fileExists(atPath: component().artifact.compiled(in: cache).path), "all there is")
        try FileManager.default.createDirectory(at: package, withIntermediateDirectories: true)
        let again = model(component())
        for (tries, isKept) in [(1, true), (2, false)] {
            let gone = refusal { try model(component()).load() }  // by a runtime of its own, as after a new start
            XCTAssertTrue(gone.contains("Core ML can't load it (there is no compiled model); try again"), gone)
            let compiled = component().artifact.compiled(in: cache).path
            XCTAssertEqual(FileManager.default.fileExists(atPath: compiled), isKept, "after \(tries)")
        }
        setLine()
        _ = StandIn.takeEvents()
        try again.load()
        XCTAssertEqual(
            StandIn.takeEvents(), [.compiled("line"), .loaded("line", .all)], "the broken one was removed")
        again.unload()
        StandIn.set("line", nil)
        _ = refusal { try again.load() }
        setLine()
        try again.load()
        XCTAssertEqual(StandIn.takeEvents(), [.loaded("line", .all)], "a good one that failed once stays")
        StandIn.set(
            "line",
            .init(inputs: features(), outputs: [.init("y", shape, .float32)]) { _ in
                throw StandIn.Fault("out of memory")
            })
        let inputs = ["x": Tensor.zeros(shape), "b": Tensor.zeros(shape)]
        let failed = refusal { _ = try model(component()).perform(inputs) }
        XCTAssertTrue(failed.contains("Core ML can't run it (out of memory); close other apps"), failed)
        StandIn.set("line", .init(inputs: features(), outputs: [.init("y", shape, .float32)]) { given in given })
        XCTAssertTrue(refusal { _ = try model(component()).perform(inputs) }.contains("Core ML gave no y"))
    }

    /// Core ML may leave an output's shape open, and then gives what the model makes.
    func testAnOutputOfAnotherSizeIsRefused() throws {
        StandIn.set(
            "line",
            .init(inputs: features(), outputs: [.init("y", [], .float32)]) { _ in
                let short = try array([1, 2], [1, 2], .float32)
                return try MLDictionaryFeatureProvider(dictionary: ["y": MLFeatureValue(multiArray: short)])
            })
        let inputs = ["x": Tensor.zeros(shape), "b": Tensor.zeros(shape)]
        let sentence = refusal { _ = try model(component()).perform(inputs) }
        XCTAssertTrue(sentence.contains("line.mlpackage: y is not as the manifest says"), sentence)
    }

    private func features() -> [StandIn.Feature] {
        ["x", "b"].map { StandIn.Feature($0, shape, .float32) }
    }

    func testWhatARecordSaysOfIt() {
        let runtime = CoreMLRuntime(units: .cpuOnly, cache: cache)
        XCTAssertEqual([runtime.name, runtime.backend, runtime.computeUnit], ["coreml", "Core ML", "cpu"])
        XCTAssertEqual(CoreMLRuntime(cache: cache).computeUnit, "all")
        XCTAssertTrue(runtime.version.hasPrefix("Linux "))
    }
}

/// The values of a feature, by its strides.
func values(_ provider: any MLFeatureProvider, _ name: String) -> [Float] {
    guard let array = provider.featureValue(for: name)?.multiArrayValue else { return [] }
    let (shape, strides) = (array.shape.map(\.intValue), array.strides.map(\.intValue))
    return array.withUnsafeBytes { bytes in
        places(shape, strides).map { place in
            array.dataType == .float16
                ? Float(bytes.loadUnaligned(fromByteOffset: 2 * place, as: Float16.self))
                : array.dataType == .int32
                    ? Float(bytes.loadUnaligned(fromByteOffset: 4 * place, as: Int32.self))
                    : bytes.loadUnaligned(fromByteOffset: 4 * place, as: Float.self)
        }
    }
}

func array(_ values: [Float], _ shape: [Int], _ dataType: MLMultiArrayDataType) throws -> MLMultiArray {
    let made = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: dataType)
    made.withUnsafeMutableBytes { bytes, strides in
        for (value, place) in zip(values, places(shape, strides)) {
            if dataType == .float16 {
                bytes.storeBytes(of: Float16(value), toByteOffset: 2 * place, as: Float16.self)
            } else {
                bytes.storeBytes(of: value, toByteOffset: 4 * place, as: Float.self)
            }
        }
    }
    return made
}

/// Where the elements of a strided array lie, in row-major order.
private func places(_ shape: [Int], _ strides: [Int]) -> [Int] {
    zip(shape, strides).reduce([0]) { places, axis in
        places.flatMap { place in (0..<axis.0).map { place + $0 * axis.1 } }
    }
}
#endif
