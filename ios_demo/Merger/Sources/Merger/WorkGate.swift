import Foundation

/// Holds the models' runs while the app is in the background, where iOS refuses work for the GPU.
public final class WorkGate: @unchecked Sendable {
    private let condition = NSCondition()
    private var isOpen = true
    private var closings = 0

    public init() {}

    public func set(open: Bool) {
        condition.withLock {
            if isOpen, !open { closings += 1 }
            isOpen = open
            condition.broadcast()
        }
    }

    /// Runs a model once it may. A run that failed while the gate was closed is done once more when it is open again.
    /// A cancelled task waits no longer.
    func run<Result>(_ name: String, _ work: () throws -> Result) throws -> Result {
        let before = try pass()
        do {
            return try work()
        } catch {
            guard condition.withLock({ closings }) != before else { throw error }
        }
        _ = try pass()
        do {
            return try work()
        } catch let error as InputError {
            throw InputError(
                "\(name) was stopped when the app went to the background, and failed again after it "
                    + "(\(error.sentence)); keep the app in view while it works")
        }
    }

    /// Throws InputError where the app was in the background since `pass`: what was timed meanwhile is worth nothing.
    func checkOpen(since before: Int) throws {
        guard condition.withLock({ closings }) == before else {
            throw InputError(
                "the app went to the background while it measured, so that the run is no result; keep the app in view "
                    + "and measure again")
        }
    }

    /// Waits until the gate is open; returns how often it was closed so far.
    func pass() throws -> Int {
        condition.lock()
        defer { condition.unlock() }
        while !isOpen {
            try Task.checkCancellation()
            _ = condition.wait(until: Date(timeIntervalSinceNow: 0.1))  // nothing wakes it for a cancelled task
        }
        return closings
    }
}
