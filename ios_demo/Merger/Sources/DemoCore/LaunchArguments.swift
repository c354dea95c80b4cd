import Foundation
import Merger

/// What the app was launched to do: show its screens, or a benchmark without any (`lorarar bench device`).
public enum Launch: Equatable, Sendable {
    case screens
    case benchmark(BenchmarkLaunch)
    case clean  // remove what benchmarks left
}

/// A benchmark by launch arguments.
public struct BenchmarkLaunch: Equatable, Sendable {
    public let bundle: String
    public let plan: BenchmarkPlan
    public let nonce: String?  // in the record's name, so that an old record is not taken for the new one
}

extension Launch {
    /// Throws InputError for arguments that begin with `--benchmark` and are wrong. What the system or Xcode adds to
    /// other launches is none of the app's business.
    public init(_ arguments: [String]) throws {
        // Xcode 15.0 passes on the "--" that separates its own arguments from the app's.
        let given = arguments.filter { $0 != "--" }
        if given.contains("--benchmark-clean") {
            self = .clean
        } else if let start = given.firstIndex(of: "--benchmark") {
            self = .benchmark(try BenchmarkLaunch(Array(given[(start + 1)...])))
        } else {
            self = .screens
        }
    }
}

extension BenchmarkLaunch {
    private static let known = [
        "--bundle", "--component", "--runs", "--warmup", "--threads", "--cooldown", "--units", "--record-nonce",
    ]

    fileprivate init(_ arguments: [String]) throws {
        var values: [String: String] = [:]
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard Self.known.contains(name) else {
                throw InputError("\(name) is no option; valid are \(Self.known.joined(separator: ", "))")
            }
            guard let value = rest.popFirst() else { throw InputError("\(name) needs a value") }
            values[name] = value
        }
        func whole(_ name: String, least: Int) throws -> Int? {
            guard let text = values[name] else { return nil }
            guard let number = Int(text), number >= least else {
                throw InputError("\(name) is '\(text)'; give a whole number from \(least)")
            }
            return number
        }
        guard let component = values["--component"] else { throw InputError("give --component NAME, such as hypernet") }
        var plan = BenchmarkPlan(component: component)
        plan.runs = try whole("--runs", least: 1) ?? plan.runs
        plan.warmup = try whole("--warmup", least: 0) ?? plan.warmup
        plan.threads = try whole("--threads", least: 1)
        plan.cooldownSeconds = try Self.seconds(values["--cooldown"]) ?? plan.cooldownSeconds
        plan.units = try Self.units(values["--units"]) ?? plan.units
        self.plan = plan
        bundle = try Self.plainName(values["--bundle"] ?? "coreml", "--bundle")
        nonce = try values["--record-nonce"].map { try Self.plainName($0, "--record-nonce") }
    }

    private static func seconds(_ text: String?) throws -> Double? {
        guard let text else { return nil }
        guard let seconds = Double(text), seconds >= 0, seconds <= 86_400 else {
            throw InputError("--cooldown is '\(text)'; give seconds from 0 to 86400")
        }
        return seconds
    }

    private static func units(_ text: String?) throws -> ComputeUnits? {
        guard let text else { return nil }
        guard let units = ComputeUnits(rawValue: text) else {
            let valid = ComputeUnits.allCases.map(\.rawValue).joined(separator: ", ")
            throw InputError("--units is '\(text)'; valid are \(valid)")
        }
        return units
    }

    /// A name that leads to no other folder.
    private static func plainName(_ text: String, _ option: String) throws -> String {
        let plain = text.unicodeScalars.allSatisfy { scalar in
            scalar.isASCII
                && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil
                    || "-_.".unicodeScalars.contains(scalar))
        }
        guard plain, !text.isEmpty, text.count <= 128, !text.hasPrefix(".") else {
            throw InputError("\(option) is not a plain name; give letters, digits, - and _")
        }
        return text
    }
}
