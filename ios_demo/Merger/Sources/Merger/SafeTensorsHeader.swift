import Foundation

/// The header of a safetensors file, checked completely before anything is allocated.
struct SafeTensorsHeader {
    let names: [String]
    let entries: [String: SafeTensors.Entry]
    let metadata: [String: String]

    static let maxBytes = 100_000_000  // the format's own limit
    static let maxDimensions = 8
    private static let sniffed = 512  // bytes looked at to say what a file that is no safetensors is

    /// Bits an element, for every dtype of the format; a LoRA may use only the floating-point ones.
    private static let bits: [String: Int] = [
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
        "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    ]

    /// First bytes → what such a file is and what to do; looked at only when it does not open like a safetensors.
    private static let lookalikes: [(start: [UInt8], sentence: Sentence)] = [
        ([0x1F, 0x8B], Sentence("is gzip-compressed; unpack it and use the .safetensors inside")),
        (
            Array("PK\u{3}\u{4}".utf8),
            Sentence("is a zip or a PyTorch .pt/.ckpt file, which may run code; convert it to safetensors first")
        ),
        ([0x80], Sentence("is a Python pickle, which may run code; convert it to safetensors first")),
        (
            Array("version https://git-lfs".utf8),
            Sentence("is a git-lfs pointer, not the file itself; download the file that it points to")
        ),
        (
            Array("<".utf8),
            Sentence("is a web page, not a LoRA; the download failed or needs a login, get the file again")
        ),
        (Array("GGUF".utf8), Sentence("is a GGUF model, not a LoRA; use a .safetensors LoRA")),
    ]

    /// Bytes of the header, which the file is known to hold. Throws InputError for a file of another kind.
    static func length(_ data: Data, source: String) throws -> Int {
        guard !data.isEmpty else {
            throw InputError("\(source) is empty; the download failed, get the file again")
        }
        let first = Array(data.prefix(sniffed))
        if first.count < 9 || first[8] != UInt8(ascii: "{") {
            let text = Array(first.drop { [0x20, 0x09, 0x0A, 0x0D].contains($0) })
            for (start, sentence) in lookalikes where first.starts(with: start) || text.starts(with: start) {
                throw InputError("\(source) \(sentence)")
            }
        }
        guard first.count >= 8 else {
            throw InputError("\(source) has only \(data.count) bytes, so it is cut short; get the file again")
        }
        let length = first[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(maxBytes) else {
            throw InputError(
                "\(source) is not a safetensors file, or a damaged one (its header would have \(length) bytes); give "
                    + "a LoRA in .safetensors")
        }
        guard Int(length) <= data.count - 8 else {
            throw InputError(
                "\(source) is cut short: its header has \(length) bytes and the file \(data.count); get the file again")
        }
        return Int(length)
    }

    /// Throws InputError for anything that the format forbids, a tensor that the file does not hold included.
    static func parse(_ header: Data, dataBytes: Int, source: String) throws -> SafeTensorsHeader {
        let object = try Json.parseObject(header, what: "\(source): its header")
        var names: [String] = []
        var entries: [String: SafeTensors.Entry] = [:]
        var metadata: [String: String] = [:]
        for (name, value) in object.pairs {
            if name == "__metadata__" {
                metadata = try texts(value, source: source)
            } else {
                names.append(name)
                entries[name] = try entry(name, value, dataBytes: dataBytes, source: source)
            }
        }
        let sorted = names.map { (name: $0, entry: entries[$0]!) }
            .sorted { ($0.entry.begin, $0.entry.end) < ($1.entry.begin, $1.entry.end) }
        var (position, last) = (0, Sentence("the header"))
        for (name, entry) in sorted {
            guard entry.begin == position else {
                let fault = entry.begin < position ? Sentence("overlap") : Sentence("leave a gap")
                throw InputError(
                    "\(source): '\(last)' and '\(shorten(name))' \(fault) in the data; the file is damaged, "
                        + "get it again")
            }
            (position, last) = (entry.end, Sentence("\(shorten(name))"))
        }
        guard position == dataBytes else {
            throw InputError(
                "\(source): the tensors take \(position) bytes but \(dataBytes) follow the header; the file is "
                    + "damaged, get it again")
        }
        return SafeTensorsHeader(names: names, entries: entries, metadata: metadata)
    }

    private static func texts(_ value: Json, source: String) throws -> [String: String] {
        let fault = InputError("\(source): __metadata__ holds something other than strings; save the file again")
        guard case .object(let object) = value else { throw fault }
        var found: [String: String] = [:]
        for (key, value) in object.pairs {
            guard case .text(let text) = value else { throw fault }
            found[key] = text
        }
        return found
    }

    private static func entry(_ name: String, _ value: Json, dataBytes: Int, source: String) throws -> SafeTensors.Entry
    {
        let place = Sentence("\(source): the header's entry for '\(shorten(name))'")
        let damaged = Sentence("the file is damaged, get it again")
        guard case .object(let object) = value, Set(object.keys) == ["dtype", "shape", "data_offsets"] else {
            throw InputError("\(place) must have dtype, shape and data_offsets only; \(damaged)")
        }
        guard case .text(let dtype)? = object["dtype"], let width = bits[dtype] else {
            let given = object["dtype"]?.serialised ?? "null"
            throw InputError(
                "\(place) has the unknown dtype \(shorten(given, limit: 40)); valid for a LoRA: "
                    + "\(SafeTensors.floats.joined(separator: ", "))")
        }
        guard let shape = naturals(object["shape"]), shape.count <= maxDimensions else {
            throw InputError("\(place) has a shape that is not a short list of sizes; \(damaged)")
        }
        guard let offsets = naturals(object["data_offsets"]), offsets.count == 2, offsets[0] <= offsets[1] else {
            throw InputError("\(place) has offsets that are no byte range; \(damaged)")
        }
        guard offsets[1] <= dataBytes else {
            throw InputError(
                "\(place) ends at byte \(offsets[1]) but the file holds \(dataBytes); it is cut short, get it again")
        }
        guard let size = product(shape + [width]), size == 8 * (offsets[1] - offsets[0]) else {
            throw InputError("\(place) has shape \(shape) in \(dtype) but \(offsets[1] - offsets[0]) bytes; \(damaged)")
        }
        return SafeTensors.Entry(dtype: dtype, shape: shape, begin: offsets[0], end: offsets[1])
    }

    private static func naturals(_ value: Json?) -> [Int]? {
        guard case .array(let items)? = value else { return nil }
        let numbers = items.prefix(maxDimensions + 1).compactMap { item -> Int? in
            if case .integer(let number) = item, number >= 0 { return number }
            return nil
        }
        return numbers.count == items.count ? numbers : nil
    }
}

/// The product of sizes; nil where it is over 2^62.
func product(_ sizes: [Int]) -> Int? {
    if sizes.contains(0) { return 0 }
    return sizes.reduce(Optional(1)) { total, size in
        guard let total else { return nil }
        let (next, overflow) = total.multipliedReportingOverflow(by: size)
        return overflow || next > 1 << 62 ? nil : next
    }
}
