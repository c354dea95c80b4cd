import Foundation
import Merger

extension DemoModel.BenchmarkResult {
    /// Of a record as the engine makes it.
    init(_ record: Json) {
        func seconds(_ part: String, _ key: String) -> String {
            guard case .object(let root) = record, case .object(let fields)? = root[part],
                case .number(let value)? = fields[key]
            else { return "–" }
            return String(format: value < 1 ? "%.1f ms" : "%.2f s", value < 1 ? value * 1000 : value)
        }
        var near = "–"
        if case .object(let root) = record, case .object(let parity)? = root["parity"],
            case .text(let status)? = parity["status"], let psnr = parity["psnr_db"]
        {
            let told = if case .number(let value) = psnr { String(format: "%.1f dB", value) } else { "equal" }
            near = status == "passed" ? told : "\(told), too far off"
        }
        var megabytes = "–"
        if case .object(let root) = record, case .object(let memory)? = root["memory"],
            case .integer(let bytes)? = memory["peak_bytes"]
        {
            megabytes = "\(bytes / 1_000_000) MB"
        }
        text = record.serialised
        numbers = [
            Number(name: "First load", value: seconds("load", "cold_s")),
            Number(name: "Load again", value: seconds("load", "warm_s")),
            Number(name: "First run", value: seconds("runs", "first_s")),
            Number(name: "Median run", value: seconds("runs", "p50_s")),
            Number(name: "9 of 10 runs within", value: seconds("runs", "p90_s")),
            Number(name: "Most memory so far", value: megabytes),
            Number(name: "Against PyTorch", value: near),
        ]
    }
}
