import Foundation
import Merger

extension DemoModel.BenchmarkResult {
    /// Of a record as the engine makes it.
    init(_ record: Json) {
        func fixed(_ value: Double, _ digits: Int) -> String { String(format: "%.\(digits)f", value) }
        func seconds(_ part: String, _ key: String) -> Sentence {
            guard case .object(let root) = record, case .object(let fields)? = root[part],
                case .number(let value)? = fields[key]
            else { return "–" }
            return value < 1 ? Sentence("\(fixed(value * 1000, 1)) ms") : Sentence("\(fixed(value, 2)) s")
        }
        var near = Sentence("–")
        if case .object(let root) = record, case .object(let parity)? = root["parity"],
            case .text(let status)? = parity["status"], let psnr = parity["psnr_db"]
        {
            var told = Sentence("equal")
            if case .number(let value) = psnr { told = Sentence("\(fixed(value, 1)) dB") }
            near = status == "passed" ? told : Sentence("\(told), too far off")
        }
        var megabytes = Sentence("–")
        if case .object(let root) = record, case .object(let memory)? = root["memory"],
            case .integer(let bytes)? = memory["peak_bytes"]
        {
            megabytes = Sentence("\(bytes / 1_000_000) MB")
        }
        text = record.serialised
        numbers = [
            Number(name: Sentence("First load"), value: seconds("load", "cold_s")),
            Number(name: Sentence("Load again"), value: seconds("load", "warm_s")),
            Number(name: Sentence("First run"), value: seconds("runs", "first_s")),
            Number(name: Sentence("Median run"), value: seconds("runs", "p50_s")),
            Number(name: Sentence("9 of 10 runs within"), value: seconds("runs", "p90_s")),
            Number(name: Sentence("Most memory so far"), value: megabytes),
            Number(name: Sentence("Against PyTorch"), value: near),
        ]
    }
}
