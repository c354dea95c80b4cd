import Foundation

/// The scale alpha/r (alpha/√r with rsLoRA) that PEFT's configuration gives a module.
///
/// Patterns map a name, a suffix of one or a regular expression to a value; the first that fits counts.
struct PeftScaling {
    private typealias Patterns = [(pattern: ModulePattern, value: Double)]

    private static let maxPattern = 500
    private static let maxQuantifiers = 2  // more could take minutes to match, and the file is a stranger's
    private static let maxMatches = 2_000_000  // patterns times layers
    private static let matchSeconds = 3.0
    /// What a LoRA's configuration may ask for besides, which makes another ΔW of the same factors.
    private static let variants: [(key: String, name: String)] = [
        ("kasa_config", "KaSA"), ("use_bdlora", "BD-LoRA"), ("alora_invocation_tokens", "aLoRA"),
        ("arrow_config", "Arrow"),
    ]
    private static let maxPatterns = 10_000  // SDXL has fewer modules
    /// Initialisations that change the base's weights: the saved factors alone are then not the update.
    private static let changedBase = ["pissa", "olora", "corda", "loftq", "lora_ga"]

    private let source: String
    private let rank: Double
    private let alpha: Double
    private let rankPatterns: Patterns
    private let alphaPatterns: Patterns
    private let isRsLora: Bool
    private let clock: MatchClock

    /// The time that matching has taken for all modules.
    private final class MatchClock {
        let most: Double
        var spent = 0.0

        init(most: Double) { self.most = most }
    }

    /// The scaling that a LoraConfig's fields state; missing fields have PEFT's defaults (r = alpha = 8). Matching its
    /// patterns may take so many `seconds`.
    ///
    /// Throws InputError for other methods than LoRA, for DoRA, and for values that are no ranks, alphas or patterns.
    init(_ config: JsonObject, source: String, layers: Int, seconds: Double = Self.matchSeconds) throws {
        if let kind = config["peft_type"], kind != .null, kind.text?.uppercased() != "LORA" {
            let shown = shorten(kind.text ?? kind.serialised, limit: 40)
            throw InputError("\(source) is a PEFT \(shown) adapter, not a LoRA; train it as a LoRA instead")
        }
        if config["use_dora"]?.isTrue == true {
            throw InputError("\(source) is a DoRA, which no plain LoRA equals; train it with use_dora=False")
        }
        if let variant = Self.variants.first(where: { config[$0.key]?.isTrue == true })?.name {
            throw InputError("\(source) is a PEFT \(variant) adapter, not a LoRA; train it as a LoRA instead")
        }
        if let start = config["init_lora_weights"]?.text?.lowercased(),
            Self.changedBase.contains(where: start.hasPrefix)
        {
            throw InputError(
                "\(source) was trained on a changed base (\(shorten(start, limit: 40))); convert it when saving "
                    + "(PEFT's path_initial_model_for_weight_conversion)")
        }
        self.source = source
        clock = MatchClock(most: seconds)
        rank = try Self.number(config["r"] ?? .integer(8), "r", source, whole: true)
        alpha = try Self.number(config["lora_alpha"] ?? .integer(8), "lora_alpha", source)
        rankPatterns = try Self.patterns(config["rank_pattern"], "rank_pattern", source, whole: true)
        alphaPatterns = try Self.patterns(config["alpha_pattern"], "alpha_pattern", source)
        isRsLora = config["use_rslora"]?.isTrue == true
        guard (rankPatterns.count + alphaPatterns.count) * max(1, layers) <= Self.maxMatches else {
            throw InputError("\(source): it has too many patterns to match; write them as plain names")
        }
    }

    /// The factor of `up @ down` for a module (its name inside the component) whose down has `rank` rows.
    ///
    /// Throws InputError when the configured rank is another one, or when the patterns take too long; a cancelled task
    /// ends.
    func scale(_ module: String, rank: Int) throws -> Double {
        let configured = try find(rankPatterns, module) ?? self.rank
        guard configured == Double(rank) else {
            throw InputError(
                "\(source): the configuration gives '\(shorten(module))' rank \(Int(configured)) but its tensors have "
                    + "rank \(rank); the two are not of one LoRA, get the file again")
        }
        let alpha = try find(alphaPatterns, module) ?? self.alpha
        return alpha / (isRsLora ? Double(rank).squareRoot() : Double(rank))
    }

    private func find(_ patterns: Patterns, _ module: String) throws -> Double? {
        let letters = Array(module.unicodeScalars)
        for (pattern, value) in patterns {
            try Task.checkCancellation()
            let start = Clock.now()
            let fits = pattern.fits(module, letters)
            clock.spent += Clock.now() - start
            if fits { return value }
            guard clock.spent <= clock.most else {
                throw InputError("\(source): its patterns take too long to match; write them as plain names")
            }
        }
        return nil
    }

    private static func number(_ value: Json, _ name: String, _ source: String, whole: Bool = false) throws -> Double {
        if let number = value.double, abs(number) <= 1e9, !whole || (number >= 1 && number == number.rounded()) {
            return number
        }
        throw InputError(
            "\(source): \(name) is \(shorten(value.serialised, limit: 40)); it must be "
                + "\(whole ? Sentence("a whole number of at least 1") : Sentence("a finite number"))")
    }

    private static func patterns(
        _ value: Json?, _ name: String, _ source: String, whole: Bool = false
    ) throws -> Patterns {
        guard let value, value != .null else { return [] }
        guard case .object(let object) = value else {
            throw InputError("\(source): \(name) must map module names to numbers; correct the configuration")
        }
        guard object.pairs.count <= maxPatterns else {
            throw InputError("\(source): it has too many patterns to match; write them as plain names")
        }
        return try object.pairs.map { pattern, value in
            guard isSimple(pattern), let compiled = try? ModulePattern(pattern) else {
                throw InputError(
                    "\(source): \(name) has the pattern '\(shorten(pattern))', which is invalid or too complex; write "
                        + "plain module names")
            }
            return (compiled, try number(value, "\(name) of '\(shorten(pattern))'", source, whole: whole))
        }
    }

    /// A quantified group can take exponential time however few quantifiers there are.
    private static func isSimple(_ pattern: String) -> Bool {
        guard pattern.utf8.count <= maxPattern, pattern.filter({ "*+{?".contains($0) }).count <= maxQuantifiers else {
            return false
        }
        let characters = Array(pattern)
        // The types are named since the compiler takes seconds to find them.
        return !zip(characters, characters.dropFirst()).contains { (one: Character, two: Character) -> Bool in
            (one == ")" && "*+{?".contains(two)) || (one == "\\" && two.isNumber)
        }
    }
}

/// What a module's whole name, or its part after a dot, has to be.
enum ModulePattern {
    /// Nothing but letters, digits, `_`, `-`, and dots, which stand for any letter. A LoRA may have a name for each of
    /// its layers, and a million matches by an expression take seconds.
    case name([Unicode.Scalar])
    case expression(NSRegularExpression)

    /// Throws what NSRegularExpression throws of an invalid expression.
    init(_ text: String) throws {
        let isName = text.unicodeScalars.allSatisfy { letter in
            switch letter {
            case "a"..."z", "A"..."Z", "0"..."9", "_", "-", ".": true
            default: false
            }
        }
        self = isName ? .name(Array(text.unicodeScalars)) : .expression(try Self.expression(text))
    }

    static func expression(_ text: String) throws -> NSRegularExpression {
        try NSRegularExpression(pattern: "(.*\\.)?(\(text))$")
    }

    /// Whether a module has such a name; `letters` are the module's.
    func fits(_ module: String, _ letters: [Unicode.Scalar]) -> Bool {
        switch self {
        case .name(let name):
            let start = letters.count - name.count
            guard start == 0 || (start > 0 && letters[start - 1] == ".") else { return false }
            for index in name.indices where name[index] != "." && name[index] != letters[start + index] { return false }
            return true
        case .expression(let expression):
            let whole = NSRange(module.startIndex..., in: module)
            return expression.firstMatch(in: module, options: .anchored, range: whole) != nil
        }
    }
}

extension Json {
    /// The text of a string; nil for anything else.
    var text: String? {
        if case .text(let text) = self { return text }
        return nil
    }

    /// Whether the value is one that Python takes as true: PEFT's flags are written by hand, too.
    fileprivate var isTrue: Bool {
        switch self {
        case .null, .bool(false), .integer(0), .text(""): false
        case .number(let value): value != 0
        case .array(let items): !items.isEmpty
        case .object(let object): !object.isEmpty
        default: true
        }
    }
}
