import Foundation

/// What the stand-in's models do, which tests say. Not part of Core ML.
public enum StandIn {
    public struct Fault: LocalizedError {
        public let errorDescription: String?

        public init(_ text: String) {
            errorDescription = text
        }
    }

    public struct Feature: Sendable {
        public let name: String
        public let shape: [Int]
        public let dataType: MLMultiArrayDataType

        public init(_ name: String, _ shape: [Int], _ dataType: MLMultiArrayDataType) {
            self.name = name
            self.shape = shape
            self.dataType = dataType
        }

        var description: MLFeatureDescription {
            let constraint = MLMultiArrayConstraint(shape: shape.map { NSNumber(value: $0) }, dataType: dataType)
            return MLFeatureDescription(name: name, multiArrayConstraint: constraint)
        }
    }

    public struct Model: Sendable {
        public let inputs: [Feature]
        public let outputs: [Feature]
        public let run: @Sendable (any MLFeatureProvider) throws -> any MLFeatureProvider

        public init(
            inputs: [Feature], outputs: [Feature],
            run: @escaping @Sendable (any MLFeatureProvider) throws -> any MLFeatureProvider
        ) {
            self.inputs = inputs
            self.outputs = outputs
            self.run = run
        }
    }

    public enum Event: Equatable, Sendable {
        case compiled(String)
        case loaded(String, MLComputeUnits)
        case ran(String)
    }

    /// Elements between the rows of arrays that are made from now on.
    public static var padding: Int {
        get { locked { $0.padding } }
        set { locked { $0.padding = newValue } }
    }

    /// What a compute plan is of; nil where the system makes none.
    public static var plan: (@Sendable () -> MLModelStructure)? {
        get { locked { $0.plan } }
        set { locked { $0.plan = newValue } }
    }

    public static func set(_ name: String, _ model: Model?) { locked { $0.models[name] = model } }

    /// What happened since the last time that this was asked.
    public static func takeEvents() -> [Event] {
        locked { state in
            defer { state.events = [] }
            return state.events
        }
    }

    static func model(_ name: String) -> Model? { locked { $0.models[name] } }
    static func note(_ event: Event) { locked { $0.events.append(event) } }

    private struct State {
        var models: [String: Model] = [:]
        var events: [Event] = []
        var padding = 0
        var plan: (@Sendable () -> MLModelStructure)?
    }

    private static let lock = NSLock()
    private nonisolated(unsafe) static var state = State()

    private static func locked<Result>(_ body: (inout State) -> Result) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return body(&state)
    }
}
