import CoreAI
import XCTest

@testable import Merger

#if os(Linux)
/// The engine's Core AI code against the stand-in for Core AI, whose models are Swift functions.
final class CoreAITests: XCTestCase {
    private let shape = [2, 3]

    override func setUp() {
        StandIn.padding = 0
        StandIn.forget()
        _ = StandIn.takeEvents()
    }

    /// y = 2x + b
    private func component(_ dtype: DType = .float32) -> Component {
        let spec = { (name: String) in TensorSpec(name: name, dtype: dtype, shape: [.size(2), .size(3)]) }
        let file = FileEntry(file: "line.aimodel", bytes: 1, sha256: "hash-\(dtype.rawValue)")
        return Component(
            name: "line", artifact: file, inputs: [spec("x"), spec("b")], outputs: [spec("y")], golden: file,
            goldenInputs: [:], tolerance: Tolerance(psnrDb: 20, maxError: 0.1))
    }

    private func setLine(
        _ type: NDArray.ScalarType = .float32, shape: [Int] = [2, 3], function: String = "main", output: String = "y"
    ) {
        let features = ["x", "b"].map { StandIn.Feature($0, shape, type) }
        let result = StandIn.Feature("y", shape, type)
        StandIn.set(
            "line",
            .init(function: function, inputs: features, outputs: [result]) { given in
                [output: try line(given["x"]!, given["b"]!, result.descriptor)]
            })
    }

    private func model(_ component: Component, units: ComputeUnits? = nil) -> Model {
        Model(component, at: URL(fileURLWithPath: "/nowhere/line.aimodel"), runtime: CoreAIRuntime(units: units))
    }

    func testTheSystemSpecialisesOnce() throws {
        setLine()
        let first = model(component(), units: .cpuAndNeuralEngine)
        try first.load()
        XCTAssertNotNil(first.times?.compileSeconds)
        let second = model(component(), units: .cpuAndNeuralEngine)
        try second.load()
        XCTAssertNil(second.times?.compileSeconds)
        for (units, kind) in [(ComputeUnits.all, nil), (.cpuAndGPU, .gpu), (.cpuOnly, .cpu)] as [(_, ComputeUnitKind?)]
        {
            _ = StandIn.takeEvents()
            let other = model(component(), units: units)
            try other.load()
            XCTAssertNotNil(other.times?.compileSeconds, "other options are another specialisation")
            XCTAssertEqual(StandIn.takeEvents(), [.loaded("line", kind)])
        }
        var made = component()
        made.units = .cpuAndGPU
        try model(made).load()
        XCTAssertEqual(StandIn.takeEvents(), [.loaded("line", .gpu)], "those that it is made for")
    }

    func testRunsWithStridesOfCoreAIsOwn() throws {
        for padding in [0, 5] {
            StandIn.padding = padding
            for (dtype, type) in [(DType.float32, NDArray.ScalarType.float32), (.float16, .float16)] {
                setLine(type)
                let model = model(component(dtype))
                try model.bind(["b": Tensor([1, 1, 1, 2, 2, 2], shape: shape, dtype: dtype)])
                for run in 0..<2 {
                    let x = Tensor((0..<6).map { Float($0 + run) }, shape: shape, dtype: dtype)
                    let y = try model.perform(["x": x])["y"]!
                    let expected = (0..<6).map { (i: Int) -> Float in Float(2 * (i + run)) + (i < 3 ? 1 : 2) }
                    XCTAssertEqual(y, Tensor(expected, shape: shape, dtype: dtype), "padding \(padding), \(dtype)")
                }
            }
        }
    }

    func testWhatIsBoundIsCopiedOnce() throws {
        setLine()
        let model = model(component())
        try model.bind(["b": Tensor.zeros(shape)])
        _ = StandIn.takeEvents()
        for _ in 0..<3 { _ = try model.perform(["x": Tensor.zeros(shape)]) }
        // One array for x and the result's own, each time; none for b.
        let step: [StandIn.Event] = [.made(shape), .ran("line"), .made(shape)]
        XCTAssertEqual(StandIn.takeEvents(), step + step + step)
    }

    func testAnAssetThatIsNotTheManifestsIsRefused() throws {
        setLine(.float16)
        XCTAssertTrue(
            refusal { try model(component()).load() }.contains("line.aimodel: x is not as the manifest says"))
        setLine(shape: [2, 4])
        XCTAssertTrue(refusal { try model(component()).load() }.contains("x is not as the manifest says"))
        setLine(function: "other")
        XCTAssertTrue(refusal { try model(component()).load() }.contains("it has no function 'main'"))
    }

    func testFailuresAreOneSentence() throws {
        StandIn.set("line", nil)
        let damaged = refusal { try model(component()).load() }
        XCTAssertTrue(damaged.contains("Core AI can't load it (the asset is damaged); try again"), damaged)
        let inputs = ["x": Tensor.zeros(shape), "b": Tensor.zeros(shape)]
        let features = ["x", "b"].map { StandIn.Feature($0, shape, .float32) }
        StandIn.set(
            "line",
            .init(inputs: features, outputs: [.init("y", shape, .float32)]) { _ in
                throw StandIn.Fault("out of memory")
            })
        let failed = refusal { _ = try model(component()).perform(inputs) }
        XCTAssertTrue(failed.contains("Core AI can't run it (out of memory); close other apps"), failed)
        setLine(output: "z")
        XCTAssertTrue(refusal { _ = try model(component()).perform(inputs) }.contains("Core AI gave no y"))
    }

    func testWhatARecordSaysOfIt() {
        let runtime = CoreAIRuntime(units: .cpuOnly)
        XCTAssertEqual([runtime.name, runtime.backend, runtime.computeUnit], ["coreai", "Core AI", "cpu"])
        XCTAssertEqual(CoreAIRuntime().computeUnit, "all")
        XCTAssertTrue(runtime.version.hasPrefix("Linux "))
    }
}

/// 2x + b in an array of Core AI's own layout.
private func line(_ x: NDArray, _ b: NDArray, _ descriptor: NDArrayDescriptor) throws -> NDArray {
    var made = NDArray(descriptor: descriptor)
    switch descriptor.scalarType {
    case .float16: write(&made, x, b, Float16.self)
    case .float32: write(&made, x, b, Float.self)
    case .int32: throw StandIn.Fault("a line has no whole numbers")
    }
    return made
}

private func write<Number: BinaryFloatingPoint & BitwiseCopyable>(
    _ made: inout NDArray, _ x: NDArray, _ b: NDArray, _: Number.Type
) {
    let (left, right) = (values(x, Number.self), values(b, Number.self))
    var view = made.mutableView(as: Number.self)
    view.withUnsafeMutablePointer { target, shape, strides in
        for row in 0..<shape[0] {
            for column in 0..<shape[1] {
                let at = row * shape[1] + column
                target[row * strides[0] + column * strides[1]] = 2 * left[at] + right[at]
            }
        }
    }
}

private func values<Number: BitwiseCopyable>(_ array: NDArray, _: Number.Type) -> [Number] {
    array.view(as: Number.self).withUnsafePointer { source, shape, strides in
        (0..<shape[0]).flatMap { row in
            (0..<shape[1]).map { source[row * strides[0] + $0 * strides[1]] }
        }
    }
}
#endif
