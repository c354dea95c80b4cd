#if os(Linux)
import CoreML
import XCTest

@testable import DemoCore
@testable import Merger

/// The app's folders for a test, and what it finds in them.
struct TestApp {
    let root: URL
    let places: Places

    init(_ test: XCTestCase) throws {
        root = try scratchFolder(test)
        let folders = ["resources", "documents", "support"].map { [root] in root.appendingPathComponent($0) }
        for folder in folders {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        }
        places = Places(resources: folders[0], documents: folders[1], support: folders[2])
    }

    var options: RuntimeOptions { RuntimeOptions(cache: places.runtimeCache) }

    static let runtimes: RuntimeMaker = { target, options in
        target == .coreml
            ? CoreMLRuntime(units: options.units, cache: options.cache) : try Runtimes.make(target, options)
    }

    func bundle(_ dtype: DType = .float32, lie: Float = 0) throws -> StandInBundle {
        try StandInBundle(places.resources.appendingPathComponent("bundles/coreml"), dtype: dtype, lie: lie)
    }

    func samples(layers: [String] = StandInBundle.layout.layers) throws {
        let dataset = places.resources.appendingPathComponent("dataset")
        for (folder, value) in [("loras/contents", Float(0.25)), ("loras/styles", 0.5)] {
            let place = dataset.appendingPathComponent(folder)
            try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
            try standInLora(value, layers: layers).write(to: place.appendingPathComponent("a_1.safetensors"))
        }
        let index = """
            {"contents": [{"name": "a_1", "class": "dog", "token": "sks", "images": ["images/a.png"],
                           "lora": "loras/contents/a_1.safetensors"},
                          {"name": "out", "class": "x", "token": "x", "images": [], "lora": "../../x.safetensors"}],
             "styles": [{"name": "a_1", "description": "watercolor painting", "images": [],
                         "lora": "loras/styles/a_1.safetensors"}]}
            """
        try Data(index.utf8).write(to: dataset.appendingPathComponent("dataset.json"))
    }

    @MainActor
    func model() -> DemoModel { DemoModel(places, options: options, runtimes: Self.runtimes, memory: { .max }) }
}
#endif
