package org.lorarar.merger

import java.util.regex.Pattern
import java.util.regex.PatternSyntaxException
import kotlin.math.abs
import kotlin.math.sqrt

/**
 * The scale alpha/r (alpha/√r with rsLoRA) that PEFT gives a module.
 *
 * Patterns map a name, a suffix of one or a regular expression to a value.
 */
class PeftScaling private constructor(
    private val source: String,
    private val rank: Double,
    private val alpha: Double,
    private val rankPattern: Map<ModulePattern, Double>,
    private val alphaPattern: Map<ModulePattern, Double>,
    private val rsLora: Boolean,
) {
    private var spentNs = 0L

    /**
     * The factor of `up @ down` for a module (its name inside the component) whose down has [rank] rows.
     *
     * Raises InputError when the configured rank is another one, or when a pattern takes too long.
     */
    fun scale(module: String, rank: Int): Double {
        val configured = find(rankPattern, module, this.rank)
        if (configured != rank.toDouble()) {
            throw InputError(
                "%s: the configuration gives '%s' rank %s but its tensors have rank %s; the two are not of one LoRA, get " +
                    "the file again",
                source, shorten(module), configured.toLong(), rank,
            )
        }
        val alpha = find(alphaPattern, module, alpha)
        return alpha / if (rsLora) sqrt(rank.toDouble()) else rank.toDouble()
    }

    /** PEFT's rule: the first pattern that matches the whole name or its part after a dot. */
    private fun find(patterns: Map<ModulePattern, Double>, module: String, default: Double): Double {
        val start = System.nanoTime()
        try {
            for ((pattern, value) in patterns) {
                if (pattern.fits(module)) return value
                if (spentNs + System.nanoTime() - start > MATCH_NS) {
                    throw InputError("%s: its patterns take too long to match; write them as plain names", source)
                }
            }
            return default
        } finally {
            spentNs += System.nanoTime() - start
        }
    }

    companion object {
        /** Where diffusers keeps `{component}.{field of LoraConfig}` in a file's metadata, or the fields of a single model. */
        private const val METADATA = "lora_adapter_metadata"
        private const val MAX_QUANTIFIERS = 2 // of a pattern: more could take minutes to match
        private const val MAX_PATTERN = 500
        private const val MAX_PATTERNS = 10_000 // SDXL has fewer modules
        private const val MATCH_NS = 3_000_000_000L

        /** Initialisations that change the base's weights: the saved factors alone are then not the update. */
        private val CHANGED_BASE = listOf("pissa", "olora", "corda", "loftq", "lora_ga")

        /** What a LoRA's configuration may ask for besides, which makes another ΔW of the same factors. */
        private val VARIANTS = mapOf(
            "kasa_config" to "KaSA",
            "use_bdlora" to "BD-LoRA",
            "alora_invocation_tokens" to "aLoRA",
            "arrow_config" to "Arrow",
        )
        private val CLASSES = mapOf(
            "UNet2DConditionModel" to "unet",
            "CLIPTextModel" to "text_encoder",
            "CLIPTextModelWithProjection" to "text_encoder_2",
        )

        /** A quantified group can take exponential time however few quantifiers there are. */
        private val DANGEROUS = Regex("""\)[*+?\{]|\\\d|\(\?P?[=<]|\\k""")

        /**
         * The scaling that a LoraConfig's fields state; missing fields have PEFT's defaults (r = alpha = 8).
         *
         * Raises InputError for other methods than LoRA, for DoRA, and for values that are no ranks, alphas or patterns.
         */
        fun parse(config: Map<String, Any?>, source: String): PeftScaling {
            val kind = config["peft_type"] ?: "LORA"
            if (!kind.toString().equals("LORA", ignoreCase = true)) {
                throw InputError(
                    "%s is a PEFT %s adapter, not a LoRA; train it as a LoRA instead",
                    source, shorten(kind.toString(), 40),
                )
            }
            if (isSet(config["use_dora"])) {
                throw InputError("%s is a DoRA, which no plain LoRA equals; train it with use_dora=False", source)
            }
            VARIANTS.entries.firstOrNull { isSet(config[it.key]) }?.let {
                throw InputError("%s is a PEFT %s adapter, not a LoRA; train it as a LoRA instead", source, it.value)
            }
            val start = config["init_lora_weights"].toString().lowercase()
            if (CHANGED_BASE.any { start.startsWith(it) }) {
                throw InputError(
                    "%s was trained on a changed base (%s); convert it when saving (PEFT's " +
                        "path_initial_model_for_weight_conversion)",
                    source, shorten(start, 40),
                )
            }
            return PeftScaling(
                source,
                number(config.getOrDefault("r", 8L), "r", source, whole = true),
                number(config.getOrDefault("lora_alpha", 8L), "lora_alpha", source, whole = false),
                patterns(config["rank_pattern"], "rank_pattern", source, whole = true),
                patterns(config["alpha_pattern"], "alpha_pattern", source, whole = false),
                isSet(config["use_rslora"]),
            )
        }

        /**
         * Component → scaling, from the metadata that current diffusers writes; empty when the file has none. What it writes
         * of a single model names no component: its scaling is that of "".
         */
        fun ofMetadata(metadata: Map<String, String>, source: String): Map<String, PeftScaling> {
            val text = metadata[METADATA] ?: return emptyMap()
            val fields = parseConfig(text.toByteArray(), Sentence("%s: its %s", source, METADATA))
            if ("r" in fields || "peft_type" in fields) return mapOf("" to parse(fields, source))
            val components = LinkedHashMap<String, MutableMap<String, Any?>>()
            for ((key, value) in fields) {
                val component = components.getOrPut(key.substringBefore('.')) { LinkedHashMap() }
                component[key.substringAfter('.', "")] = value
            }
            return components.mapValues { parse(it.value, source) }
        }

        /** The component that a PEFT folder's configuration names (by its model's class), or "" when it doesn't. */
        fun component(config: Map<String, Any?>): String =
            CLASSES[config["auto_mapping"].asObject()?.get("base_model_class")?.toString()] ?: ""

        /** A configuration's JSON. [what] names it in errors. Raises InputError when it is none. */
        fun parseConfig(bytes: ByteArray, what: Sentence): Map<String, Any?> = try {
            Json.parseObject(bytes)
        } catch (error: JsonError) {
            throw InputError("%s can't be read (%s); the file is damaged, get it again", what, error.message)
        }

        /** What Python takes for true: a configuration may say 1. */
        private fun isSet(value: Any?): Boolean =
            !(value == null || value == false || value == "" || value == emptyList<Any>() || value == emptyMap<Any, Any>() ||
                (value is Number && value.toDouble() == 0.0))

        private fun number(value: Any?, name: String, source: String, whole: Boolean): Double {
            val number = (value as? Number)?.toDouble()
            if (number == null || abs(number) > 1e9 || (whole && (number < 1 || number != Math.rint(number)))) {
                throw InputError(
                    "%s: %s is %s; it must be %s",
                    source, name, shorten(Json.write(value), 40),
                    if (whole) Sentence("a whole number of at least 1") else Sentence("a finite number"),
                )
            }
            return number
        }

        private fun patterns(value: Any?, name: String, source: String, whole: Boolean): Map<ModulePattern, Double> {
            if (value == null) return emptyMap()
            val given = value.asObject()
                ?: throw InputError("%s: %s must map module names to numbers; correct the configuration", source, name)
            if (given.size > MAX_PATTERNS) {
                throw InputError("%s: it has too many patterns to match; write them as plain names", source)
            }
            return given.entries.associate { (text, number) ->
                compile(text, name, source) to number(number, "$name of '${shorten(text)}'", source, whole)
            }
        }

        private fun compile(text: String, name: String, source: String): ModulePattern {
            val simple = text.length <= MAX_PATTERN && text.count { it in "*+{?" } <= MAX_QUANTIFIERS
            try {
                if (simple && !DANGEROUS.containsMatchIn(text)) return ModulePattern(text)
            } catch (_: PatternSyntaxException) {
                // Told below, with the patterns that are too complex.
            }
            throw InputError(
                "%s: %s has the pattern '%s', which is invalid or too complex; write plain module names",
                source, name, shorten(text),
            )
        }
    }
}

/**
 * What a module's whole name, or its part after a dot, has to be.
 *
 * Of nothing but letters, digits, `_`, `-`, and dots, which stand for any letter, it is compared letter by letter: a LoRA
 * may have a name for each of its layers, and a million matches by an expression take a phone seconds. Raises
 * PatternSyntaxException.
 */
internal class ModulePattern(private val text: String) {
    val isName = NAME.matches(text)
    private val expression = if (isName) null else expression(text)

    fun fits(module: String): Boolean {
        if (expression != null) return expression.matcher(module).lookingAt()
        val start = module.length - text.length
        if (start < 0 || (start > 0 && module[start - 1] != '.')) return false
        return text.indices.all { text[it] == '.' || text[it] == module[start + it] }
    }

    companion object {
        private val NAME = Regex("[A-Za-z0-9_.-]*")

        fun expression(text: String): Pattern = Pattern.compile("(.*\\.)?($text)$")
    }
}
