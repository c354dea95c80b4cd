#if os(Linux)
import Foundation

@testable import Merger

/// Which inputs each model keeps between its runs. Unchecked: the engine works on one thing at a time.
final class KeptInputs: @unchecked Sendable {
    var names: [String: Set<String>] = [:]
}

/// A runtime that notes what its models keep.
final class KeepingRuntime: Runtime {
    private let runtime: any Runtime
    private let kept: KeptInputs

    init(_ runtime: any Runtime, _ kept: KeptInputs) {
        (self.runtime, self.kept) = (runtime, kept)
    }

    var name: String { runtime.name }
    var version: String { runtime.version }
    var backend: String { runtime.backend }
    var computeUnit: String { runtime.computeUnit }

    func load(_ component: Component, at url: URL) throws -> Loaded {
        let loaded = try runtime.load(component, at: url)
        return Loaded(
            session: KeepingSession(loaded.session, component.name, kept), compileSeconds: loaded.compileSeconds)
    }
}

private final class KeepingSession: Session {
    private let session: any Session
    private let name: String
    private let kept: KeptInputs

    init(_ session: any Session, _ name: String, _ kept: KeptInputs) {
        (self.session, self.name, self.kept) = (session, name, kept)
    }

    func bind(_ inputs: [String: Tensor]) throws {
        try session.bind(inputs)
        kept.names[name, default: []].formUnion(inputs.keys)
    }

    func unbind(_ names: Set<String>) {
        session.unbind(names)
        kept.names[name]?.subtract(names)
    }

    func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] { try session.run(inputs) }
}
#endif
