import Foundation

/// What the stand-in's models do, which tests say. Not part of Core AI.
public enum StandIn {
    public struct Fault: LocalizedError {
        public let errorDescription: String?

        public init(_ text: String) {
            errorDescription = text
        }
    }

    public struct Feature: Sendable {
        public let name: String
        public let descriptor: NDArrayDescriptor

        public init(_ name: String, _ shape: [Int], _ scalarType: NDArray.ScalarType) {
            self.name = name
            descriptor = NDArrayDescriptor(shape: shape, scalarType: scalarType)
        }
    }

    public struct Model: Sendable {
        public let function: String
        public let inputs: [Feature]
        public let outputs: [Feature]
        public let run: @Sendable ([String: NDArray]) throws -> [String: NDArray]

        public init(
            function: String = "main", inputs: [Feature], outputs: [Feature],
            run: @escaping @Sendable ([String: NDArray]) throws -> [String: NDArray]
        ) {
            (self.function, self.inputs, self.outputs, self.run) = (function, inputs, outputs, run)
        }
    }

    public enum Event: Equatable, Sendable {
        case loaded(String, ComputeUnitKind?)
        case made([Int])
        case ran(String)
    }

    /// Elements between the rows of arrays that are made from now on.
    public static var padding: Int {
        get { locked { $0.padding } }
        set { locked { $0.padding = newValue } }
    }

    public static func set(_ name: String, _ model: Model?) { locked { $0.models[name] = model } }

    /// Forget what was specialised, as a system does after an update.
    public static func forget() { locked { $0.kept = [] } }

    /// What happened since the last time that this was asked.
    public static func takeEvents() -> [Event] {
        locked { state in
            defer { state.events = [] }
            return state.events
        }
    }

    static func model(_ name: String) -> Model? { locked { $0.models[name] } }
    static func note(_ event: Event) { locked { $0.events.append(event) } }
    static func keep(_ url: URL, _ options: SpecializationOptions) { locked { $0.kept.insert(key(url, options)) } }

    static func isKept(_ url: URL, _ options: SpecializationOptions) -> Bool {
        locked { $0.kept.contains(key(url, options)) }
    }

    private static func key(_ url: URL, _ options: SpecializationOptions) -> String {
        "\(url.path) \(options.preferredComputeUnitKind.map { "\($0)" } ?? "default")"
    }

    private struct State {
        var models: [String: Model] = [:]
        var events: [Event] = []
        var kept: Set<String> = []
        var padding = 0
    }

    private static let lock = NSLock()
    private nonisolated(unsafe) static var state = State()

    private static func locked<Result>(_ body: (inout State) -> Result) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return body(&state)
    }
}
