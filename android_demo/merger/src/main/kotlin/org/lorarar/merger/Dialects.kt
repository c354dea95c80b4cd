package org.lorarar.merger

/** What a tensor is to its layer. */
enum class Role { DOWN, UP, ALPHA }

/** What a tensor's name says. [module] is the full name; [raw] the name before any prefix was removed. */
class Key(val dialect: String, val module: String, val role: Role, val raw: String)

/** A text-encoder module without its component: CLIP-L and CLIP-G share these names. */
class AmbiguousName : Exception()

/** A format that is refused: its name, what marks a key of it, and what to do instead. */
class Foreign(val name: String, pattern: String, val advice: Sentence) {
    private val pattern = Regex(pattern)

    fun marks(key: String): Boolean = pattern.containsMatchIn(key)
}

/** The dialects of LoRA files, and the formats that are no LoRA but look like one. */
object Dialects {
    /** Characters; real keys have up to 130, and PEFT's patterns are matched in cubic time. */
    private const val MAX_KEY = 512

    /** What PEFT puts before the names of its own files, and nobody else does. */
    const val WRAPPED = "base_model.model."
    private const val KOHYA_TAIL = """\.(lora_down\.weight|lora_up\.weight|alpha)"""
    private const val FACTOR = """(down\.weight|up\.weight|alpha)"""

    private class Dialect(val name: String, pattern: String, val resolve: (MatchResult, String) -> String?) {
        val pattern = Regex(pattern)
    }

    /** Group 1 of every pattern is the module, the last one the role. The order is that of files in error messages. */
    private val TABLE = listOf(
        Dialect("peft", """(.+)\.(lora_A|lora_B)(?:\.default)?\.weight""", ::dotted),
        Dialect("diffusers", """(.+)\.lora(?:_linear_layer)?\.$FACTOR""", ::dotted),
        Dialect("diffusers-processors", """(.+?)(?:\.processor)?\.to_(q|k|v|out)_lora\.$FACTOR""", ::processor),
        // Some tools put diffusers' `unet.` before kohya's names.
        Dialect("kohya-sgm", """(?:unet\.)?(lora_unet_[^.]+)$KOHYA_TAIL""", flat("kohya-sgm")),
        Dialect("kohya-diffusers", """(?:unet\.)?(lora_unet_[^.]+)$KOHYA_TAIL""", flat("kohya-diffusers")),
        Dialect("kohya-text", """(lora_te[12]?_[^.]+)$KOHYA_TAIL""", flat("kohya-text")),
        Dialect("lycoris", """(lycoris_[^.]+)$KOHYA_TAIL""", ::lycoris),
        Dialect(
            "comfy",
            """((diffusion_model|text_encoders\.clip_[lg]\.transformer)\.(.+))""" +
                """\.((?:lora_down|lora_A|lora_up|lora_B)\.weight|alpha)""",
            ::rooted,
        ),
        Dialect("omi", """((unet|clip_[lg])\.(.+))$KOHYA_TAIL""", ::rooted),
        Dialect("onetrainer", """((lora_unet|lora_te[12]?)\.(.+))$KOHYA_TAIL""", ::rooted),
    )

    /** `….alpha` beside dotted factors says nothing of their dialect, so it belongs to whichever layer it names. */
    private val DOTTED_ALPHA = Dialect("", """((?!lora_).+)\.(alpha)""") { match, component ->
        fullName(match.groupValues[1].replace(".processor.", "."), component)
    }
    private val ROLES = mapOf(
        "lora_A" to Role.DOWN, "lora_A.weight" to Role.DOWN, "lora_down.weight" to Role.DOWN, "down.weight" to Role.DOWN,
        "lora_B" to Role.UP, "lora_B.weight" to Role.UP, "lora_up.weight" to Role.UP, "up.weight" to Role.UP,
        "alpha" to Role.ALPHA,
    )

    /** What ComfyUI and OneTrainer put before the names of a component. */
    private val COMPONENTS = mapOf(
        "text_encoders.clip_l.transformer" to "text_encoder", "clip_l" to "text_encoder", "lora_te" to "text_encoder",
        "lora_te1" to "text_encoder", "text_encoders.clip_g.transformer" to "text_encoder_2",
        "clip_g" to "text_encoder_2", "lora_te2" to "text_encoder_2", "lora_unet" to "unet",
    )

    /** What is in the name of a factor, whatever its module. */
    private val FACTOR_MARK = Regex("""\.lora_(A|B|up|down)|lora(_linear_layer)?\.(up|down)\.""")
    private val EXTRACT = Sentence(
        "merge it into its base model and extract a plain LoRA of the difference (kohya's and LyCORIS's tools do it)",
    )
    private val CONVERT = Sentence("make a plain LoRA of it with  lorarar convert --rank 64")
    private val FOREIGN = listOf(
        Foreign("LoHa", """\.hada_[wt][12]""", CONVERT),
        Foreign("LoKr", """\.lokr_[wt][12]""", CONVERT),
        Foreign("DoRA", """\.(dora_scale|lora_magnitude_vector)""", Sentence("train it with DoRA off, or %s", CONVERT)),
        Foreign("KaSA", """\.lora_diag""", Sentence("train it as a LoRA instead")),
        Foreign("BOFT", """\.boft_""", EXTRACT),
        Foreign("OFT", """\.oft_""", EXTRACT),
        Foreign(
            "Tucker convolution (lora_mid)", """\.lora_mid""", Sentence("train it with use_tucker off (use_cp in older)"),
        ),
        Foreign("GLoRA", """\.[ab][12]\.weight$""", EXTRACT),
        Foreign("(IA)³", """\.(ia3_l|on_input$)""", Sentence("train it as a LoRA instead")),
        Foreign("VeRA", """\.?vera_""", Sentence("train it as a LoRA instead")),
        Foreign("embedding LoRA", """\.lora_embedding_[AB]""", Sentence("train it without the embedding layer")),
        Foreign("LoRA with biases", """\.lora_(B|up)(\.default)?\.bias$""", Sentence("train it with lora_bias off")),
        Foreign("full-weight difference", """\.(diff|diff_b)$""", CONVERT),
        Foreign("whole weight", """\.set_weight$""", EXTRACT),
        Foreign("norm difference", """\.[wb]_norm$""", Sentence("train it with train_norm off")),
        Foreign("bundled textual inversion", """^bundle_emb\.""", Sentence("save it without its embeddings")),
    )
    private val UNET_ROOTS = setOf(
        "conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj", "down_blocks", "mid_block",
        "up_blocks", "conv_out",
    )

    /** transformers 5 dropped `text_model.` from CLIPTextModel's names, so both spellings occur. */
    private val TEXT_ROOTS = setOf("text_model", "text_projection", "encoder")
    private val PROJECTIONS = mapOf("q" to "q_proj", "k" to "k_proj", "v" to "v_proj", "out" to "out_proj")

    /** The dialects' names in the table's order, for error messages and notes. */
    val names: List<String> get() = TABLE.map { it.name }

    /** The refused format that a key belongs to, if any. */
    fun foreign(key: String): Foreign? = FOREIGN.firstOrNull { it.marks(key) }

    /**
     * What a tensor's name says, or null when no dialect knows it; [component] ("" if unknown) is for bare names.
     *
     * Raises AmbiguousName for a bare text-encoder name without [component].
     */
    fun parseKey(key: String, component: String): Key? {
        if (key.length > MAX_KEY) return null
        for (dialect in TABLE + DOTTED_ALPHA) {
            val match = dialect.pattern.matchEntire(key) ?: continue
            val module = dialect.resolve(match, component) ?: continue
            return Key(dialect.name, module, ROLES.getValue(match.groupValues.last()), match.groupValues[1])
        }
        return null
    }

    /** Whether a name is a factor's: one that no dialect knows is of another base's LoRA. */
    fun isFactor(key: String): Boolean = FACTOR_MARK.containsMatchIn(key)

    /** A dotted module name with its component: `unet.`, `text_encoder.` or `text_encoder_2.`; null if it has none. */
    private fun fullName(module: String, given: String): String? {
        var rest = module.removePrefix(WRAPPED)
        var component = given
        while (rest.startsWith("unet.")) { // some diffusers releases wrote `unet.unet.`
            rest = rest.removePrefix("unet.")
            component = "unet"
        }
        for (text in listOf("text_encoder", "text_encoder_2")) if (rest.startsWith("$text.")) {
            rest = rest.removePrefix("$text.").removePrefix(WRAPPED)
            component = text
        }
        val root = rest.substringBefore('.')
        if (root in UNET_ROOTS && component in listOf("", "unet")) {
            return "unet.$rest" + if (rest.endsWith(".to_out")) ".0" else ""
        }
        if (root !in TEXT_ROOTS || component == "unet") return null
        if (component.isEmpty()) throw AmbiguousName()
        return "$component.${if (root == "encoder") "text_model." else ""}$rest"
    }

    private fun dotted(match: MatchResult, component: String): String? = fullName(match.groupValues[1], component)

    /** `….attn1.processor.to_out_lora` → `….attn1.to_out.0`; in a text encoder `….self_attn.out_proj`. */
    private fun processor(match: MatchResult, component: String): String? {
        val (module, part) = match.destructured
        val inText = module.endsWith(".self_attn")
        return fullName("$module.${if (inText) PROJECTIONS.getValue(part) else "to_$part"}", component)
    }

    private fun lycoris(match: MatchResult, component: String): String? =
        KohyaNames.lookup["lora_unet_" + match.groupValues[1].removePrefix("lycoris_")]?.module

    /** A root of [COMPONENTS] is the component's; any other is the UNet's, before an SGM name. */
    private fun rooted(match: MatchResult, component: String): String? {
        val (_, root, name) = match.destructured
        val own = COMPONENTS[root] ?: return KohyaNames.sgm[name]
        return fullName("$own.$name", "")
    }

    private fun flat(dialect: String): (MatchResult, String) -> String? = { match, _ ->
        KohyaNames.lookup[match.groupValues[1]]?.takeIf { it.dialect == dialect }?.module
    }
}
