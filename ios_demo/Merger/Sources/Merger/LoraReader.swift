import Foundation

/// Reads a LoRA of any dialect: keys to layers, alpha folded into `up`, everything else refused by name.
public enum LoraReader {
    public static let config = "adapter_config.json"
    public static let weights = "adapter_model.safetensors"
    static let peftPrefix = "base_model.model."
    private static let maxConfigBytes = 10_000_000

    /// Reads a LoRA file of any dialect, or a PEFT folder. PEFT's weights alone are read with the configuration that
    /// lies beside them. Only the header and the alphas are read; values are read, and refused where they are not
    /// finite, layer by layer (`Lora.layer`).
    ///
    /// ΔW = scale · up @ down, where scale is the layer's alpha/rank, or what PEFT's configuration says, else 1. Throws
    /// InputError, one sentence that names the file and what is wrong, for everything that can't be read exactly;
    /// shapes are compared with a base by `Stack`.
    public static func read(_ url: URL) throws -> Lora {
        if let folder = folder(of: url) { return try readFolder(folder) }
        let file = try SafeTensors(url)
        return try build(file, component: nil) { try metadataScalings(file) }
    }

    /// The PEFT folder that is read for what was picked: itself, or the one around its weights; nil for another file.
    public static func folder(of url: URL) -> URL? {
        var isFolder: ObjCBool = false
        if FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder), isFolder.boolValue { return url }
        let around = url.deletingLastPathComponent()
        // An app that was given a file alone may see what lies beside it and not read it.
        let isConfigured = FileManager.default.isReadableFile(atPath: around.appendingPathComponent(config).path)
        return url.lastPathComponent == weights && isConfigured ? around : nil
    }

    private static func readFolder(_ folder: URL) throws -> Lora {
        let place = folder.appendingPathComponent(config)
        guard FileManager.default.fileExists(atPath: place.path) else {
            throw InputError(
                "\(folder.lastPathComponent) is a folder without \(config); give a .safetensors file or a PEFT folder")
        }
        let pickle = folder.appendingPathComponent("adapter_model.bin")
        let tensors = folder.appendingPathComponent(weights)
        if !FileManager.default.fileExists(atPath: tensors.path), FileManager.default.fileExists(atPath: pickle.path) {
            throw InputError(
                "\(pickle.lastPathComponent) is a Python pickle, which may run code; save it as safetensors first")
        }
        guard try Files.size(place) <= maxConfigBytes else {
            throw InputError("\(config) is too large to be a PEFT configuration; get the folder again")
        }
        let bytes = try Files.mapped(place)
        let bom = Data([0xEF, 0xBB, 0xBF])  // which Windows' editors write before UTF-8
        let object = try Json.parseObject(bytes.starts(with: bom) ? bytes.dropFirst(bom.count) : bytes, what: config)
        let file = try SafeTensors(tensors, source: "\(folder.lastPathComponent)/\(weights)")
        let component = componentOf(object)
        return try build(file, component: component) {
            ["": try PeftScaling(object, source: config, layers: file.names.count / 2)]  // two factors each, at least
        }
    }

    /// The component that a PEFT folder's configuration names by its model's class.
    private static func componentOf(_ config: JsonObject) -> String? {
        guard case .object(let mapping)? = config["auto_mapping"], let name = mapping["base_model_class"]?.text else {
            return nil
        }
        return [
            "UNet2DConditionModel": "unet", "CLIPTextModel": "text_encoder",
            "CLIPTextModelWithProjection": "text_encoder_2",
        ][name]
    }

    /// Component → scaling, from the metadata that current diffusers writes. What it writes of a single model names no
    /// component: its scaling is that of "".
    private static func metadataScalings(_ file: SafeTensors) throws -> [String: PeftScaling] {
        guard let text = file.metadata["lora_adapter_metadata"] else { return [:] }
        let what = "\(file.source): its lora_adapter_metadata"
        let told = try Json.parseObject(Data(text.utf8), what: what)
        let layers = file.names.count / 2
        if told["r"] != nil || told["peft_type"] != nil {
            return ["": try PeftScaling(told, source: file.source, layers: layers)]
        }
        var fields: [String: JsonObject] = [:]
        for (key, value) in told.pairs {
            let parts = key.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
            fields[String(parts[0]), default: JsonObject()][parts.count > 1 ? String(parts[1]) : ""] = value
        }
        return try fields.mapValues { try PeftScaling($0, source: file.source, layers: layers) }
    }

    private static func build(
        _ file: SafeTensors, component: String?, scalings: () throws -> [String: PeftScaling]
    ) throws -> Lora {
        let groups = try LoraGroups(file, component: component)
        let scalings = try scalings()
        var entries: [String: LayerEntry] = [:]
        for module in groups.modules {
            entries[module] = try entry(file, module, groups.tensors[module]!, scalings)
        }
        return Lora(
            file: file, dialect: groups.dialect, names: groups.modules, entries: entries,
            notes: groups.notes(file, ranks: entries.values.map(\.rank)),
            warnings: groups.warnings(file.source, isConfigured: !scalings.isEmpty))
    }

    private static func entry(
        _ file: SafeTensors, _ module: String, _ tensors: LoraGroups.Tensors, _ scalings: [String: PeftScaling]
    ) throws -> LayerEntry {
        guard let down = tensors[.down], let up = tensors[.up] else {
            let missing = tensors[.down] == nil ? Role.down : .up
            let present = (tensors[.up] ?? tensors[.down])!
            throw InputError(
                "\(file.source): '\(shorten(present.name))' has no matching \(missing.rawValue) tensor; a layer needs "
                    + "both, get the file again")
        }
        guard down.key.dialect == up.key.dialect else {
            throw InputError(
                "\(file.source): '\(shorten(module))' is in two dialects at once (\(down.key.dialect) and "
                    + "\(up.key.dialect)); save the file in one")
        }
        let (downShape, upShape) = (file[down.name]!.shape, file[up.name]!.shape)
        try checkShapes(file.source, module, down.name, downShape, up.name, upShape)
        let rank = downShape[0]
        let scale: Double
        if let alpha = tensors[.alpha] {
            scale = try self.alpha(file, alpha.name) / Double(rank)
        } else {
            scale = try configured(down.key, rank: rank, scalings)
        }
        return LayerEntry(
            down: down.name, up: up.name, scale: Float(scale), rank: rank,
            weightShape: [upShape[0]] + (ModuleNames.isConvolution(module) ? downShape[1...] : downShape[1..<2]))
    }

    /// PEFT's scale; only two kinds of file carry its configuration, diffusers and ComfyUI ignore it for kohya's names.
    private static func configured(_ key: LoraKey, rank: Int, _ scalings: [String: PeftScaling]) throws -> Double {
        let component = String(key.module.prefix { $0 != "." })
        guard ["peft", "diffusers"].contains(key.dialect), let scaling = scalings[component] ?? scalings[""] else {
            return 1
        }
        var name = String(key.raw.dropFirst(key.raw.hasPrefix(peftPrefix) ? peftPrefix.count : 0))
        while name.hasPrefix(component + ".") {
            name = String(name.dropFirst(component.count + 1))
        }
        return try scaling.scale(name, rank: rank)
    }

    /// Refuses factors that don't fit together, from the header alone.
    ///
    /// A linear may be stored as a 1×1 convolution, and a convolution's up (by DyLoRA) as a matrix.
    private static func checkShapes(
        _ source: String, _ module: String, _ downName: String, _ down: [Int], _ upName: String, _ up: [Int]
    ) throws {
        let both = "\(source): '\(shorten(downName))' \(down) and '\(shorten(upName))' \(up)"
        guard down.count == 2 || down.count == 4, up.count == 2 || up.count == down.count else {
            throw InputError("\(both) must both have 2 dimensions, or 4 for a convolution; get the file again")
        }
        guard !down.contains(0), !up.contains(0) else {
            throw InputError("\(both) have a size of 0; a layer needs a rank of at least 1, get the file again")
        }
        guard down[0] == up[1] else {
            if down[1] == up[0] {
                throw InputError("\(both) look swapped: down must be (rank, in) and up (out, rank); swap their names")
            }
            throw InputError("\(both) have ranks \(down[0]) and \(up[1]), which must be equal; get the file again")
        }
        guard up[2...].allSatisfy({ $0 == 1 }) else {
            throw InputError("\(both) look swapped or damaged: up's kernel must be 1×1; get the file again")
        }
        guard down[2...].allSatisfy({ $0 == 1 }) || ModuleNames.isConvolution(module) else {
            throw InputError(
                "\(both) are a convolution's, but the module is linear; the LoRA is for another base model")
        }
    }

    private static func alpha(_ file: SafeTensors, _ name: String) throws -> Double {
        let shape = file[name]!.shape
        guard product(shape) == 1 else {
            throw InputError("\(file.source): '\(shorten(name))' has shape \(shape); an alpha must be one number")
        }
        return try file.number(name)
    }
}

/// Every tensor of a file under its module and role.
struct LoraGroups {
    typealias Tensors = [Role: (name: String, key: LoraKey)]

    private(set) var modules: [String] = []  // in the file's order
    private(set) var tensors: [String: Tensors] = [:]
    /// The tensors of no layer: alphas alone, and what is no factor.
    private(set) var extra: [String] = []

    /// Throws InputError for foreign formats, factors of unknown modules and layers that occur twice.
    init(_ file: SafeTensors, component: String?) throws {
        try Self.refuseForeign(file)
        for name in file.names {
            guard let key = try Self.parse(file.source, name, component) else {
                extra.append(name)
                continue
            }
            try add(name, key, source: file.source)
        }
        let unknown = extra.first(where: Dialects.isFactor)
        takeOutAlphasAlone()
        if !tensors.values.contains(where: { $0.count > 1 }), !extra.isEmpty || tensors.isEmpty {
            let first = (unknown ?? file.names.first).map { " (its first key is '\(shorten($0))')" } ?? ""
            throw InputError(
                "\(file.source) has no LoRA keys\(first); it may be a full checkpoint or a LoRA for another kind of "
                    + "model, known dialects: \(Dialects.names)")
        }
        if let unknown {
            throw InputError(
                "\(file.source): the key '\(shorten(unknown))' belongs to no known dialect (\(Dialects.names)) of a "
                    + "LoRA for SDXL; remove it or use another file")
        }
        let bare = modules.filter { tensors[$0]![.alpha] == nil }
        if let first = extra.first, !bare.isEmpty, bare.count < modules.count {
            throw InputError(
                "\(file.source): '\(shorten(bare[0]))' has no alpha, as other layers have, and '\(shorten(first))' "
                    + "belongs to no layer; a name is damaged, get the file again")
        }
    }

    private mutating func takeOutAlphasAlone() {
        let alone = modules.filter { Array(tensors[$0]!.keys) == [.alpha] }
        extra = alone.map { tensors[$0]![.alpha]!.name } + extra
        modules.removeAll(where: Set(alone).contains)
        for module in alone {
            tensors[module] = nil
        }
    }

    /// Names the tensors that belong to no layer, and a scale that PEFT's weights do not say.
    func warnings(_ source: String, isConfigured: Bool) -> [Sentence] {
        var found: [Sentence] = []
        if !extra.isEmpty {
            let names = extra.prefix(3).map { "'\(shorten($0))'" }.joined(separator: ", ")
            let shown = names + (extra.count > 3 ? ", …" : "")
            found.append(
                Sentence(
                    "\(source): \(extra.count) of its tensors belong to no layer of the LoRA and are left out "
                        + "(\(shown))"))
        }
        let layers = tensors.values
        if !isConfigured, layers.allSatisfy({ $0[.alpha] == nil }),
            layers.contains(where: { $0[.down]?.key.raw.hasPrefix(LoraReader.peftPrefix) == true })
        {
            found.append(
                Sentence(
                    "\(source): its scale (alpha / rank) is in PEFT's adapter_config.json, which is not beside it; "
                        + "1 is taken"))
        }
        return found
    }

    private mutating func add(_ name: String, _ key: LoraKey, source: String) throws {
        if tensors[key.module] == nil {
            modules.append(key.module)
        }
        if let other = tensors[key.module]?[key.role] {
            throw InputError(
                "\(source): '\(shorten(other.name))' and '\(shorten(name))' are the same layer named in two ways; "
                    + "remove one of them")
        }
        tensors[key.module, default: [:]][key.role] = (name, key)
    }

    private static func refuseForeign(_ file: SafeTensors) throws {
        for name in file.names {
            if let foreign = ForeignFormat.of(name) {
                throw InputError(
                    "\(file.source) is no plain LoRA but holds a \(foreign.name) layer ('\(shorten(name))'); "
                        + "\(foreign.advice)")
            }
        }
    }

    private static func parse(_ source: String, _ name: String, _ component: String?) throws -> LoraKey? {
        do {
            return try Dialects.parse(name, component: component)
        } catch is AmbiguousName {
            throw InputError(
                "\(source): '\(shorten(name))' doesn't say which text encoder it is for; put text_encoder. or "
                    + "text_encoder_2. before its keys")
        }
    }

    /// The dialects in the file, in the table's order; text encoders are named alike in both of kohya's.
    var dialect: String {
        var found = Set(tensors.values.compactMap { $0[.down]?.key.dialect })
        if found.contains("kohya-sgm") || found.contains("kohya-diffusers") {
            found.remove("kohya-text")
        }
        return Dialects.all.map(\.name).filter(found.contains).joined(separator: " + ")
    }

    func notes(_ file: SafeTensors, ranks: [Int]) -> [Sentence] {
        let (low, high) = (ranks.min() ?? 0, ranks.max() ?? 0)
        let alphas = tensors.values.filter { $0[.alpha] != nil }.count
        let types = Set(tensors.values.compactMap { $0[.up].flatMap { file[$0.name]?.dtype } }).sorted()
        return [
            Sentence("dialect \(dialect)"),
            Sentence("\(modules.count) layers"),
            low == high ? Sentence("rank \(low)") : Sentence("ranks \(low)–\(high)"),
            alphas > 0 ? Sentence("alpha in \(alphas) layers") : Sentence("no alpha tensors"),
            Sentence("stored as \(types.joined(separator: ", "))"),
        ]
    }
}
