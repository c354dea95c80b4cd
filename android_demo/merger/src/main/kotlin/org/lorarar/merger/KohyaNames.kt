package org.lorarar.merger

/**
 * Module names of the SDXL family and what kohya calls them.
 *
 * kohya writes `_` for `.`, which can't be undone by string surgery (`to_q` holds one too). The look-up goes the other
 * way: every real name is flattened and looked up. SGM names (`input_blocks_4_1_…`, Stability's own code) always mean
 * SDXL's block structure. KOALA's modules are a subset of SDXL's.
 */
object KohyaNames {
    /** A flat name's dialect and the full module name that it means. */
    class Meaning(val dialect: String, val module: String)

    /** kohya's flat name (`lora_unet_…`) → what it means. */
    val lookup: Map<String, Meaning> by lazy {
        val found = HashMap<String, Meaning>()
        for ((name, sgm) in unetModules()) {
            found["lora_unet_${flatten(name)}"] = Meaning("kohya-diffusers", "unet.$name")
            found["lora_unet_${flatten(sgm)}"] = Meaning("kohya-sgm", "unet.$name")
        }
        for ((component, prefixes) in mapOf("text_encoder" to listOf("te", "te1"), "text_encoder_2" to listOf("te2"))) {
            // transformers 5 dropped `text_model.` from the names that trainers flatten.
            for (name in textModules(component)) for (spelling in setOf(name, name.removePrefix("text_model."))) {
                for (prefix in prefixes) {
                    found["lora_${prefix}_${flatten(spelling)}"] = Meaning("kohya-text", "$component.$name")
                }
            }
        }
        found
    }

    /** The UNet's dotted SGM names, as ComfyUI and OneTrainer write them → full module names. */
    val sgm: Map<String, String> by lazy { unetModules().associate { (name, sgm) -> sgm to "unet.$name" } }

    /** Whether a module of the UNet or of a text encoder is a convolution; all others are linear. */
    fun isConvolution(module: String): Boolean = module.substringAfterLast('.').startsWith("conv")

    private const val CLIP_L_LAYERS = 12
    private const val CLIP_G_LAYERS = 32

    /** A block's kind → (name inside the diffusers block, name inside the SGM block). */
    private val PARTS = mapOf(
        "resnet" to listOf("conv1" to "in_layers.2", "time_emb_proj" to "emb_layers.1", "conv2" to "out_layers.3"),
        "shortcut" to listOf("conv_shortcut" to "skip_connection"),
        "transformer" to listOf("proj_in" to "proj_in", "proj_out" to "proj_out"),
        "down" to listOf("conv" to "op"),
        "up" to listOf("conv" to "conv"),
    )
    private val TRANSFORMER_BLOCK = listOf("attn1", "attn2").flatMap { attention ->
        listOf("to_q", "to_k", "to_v", "to_out.0").map { "$attention.$it" }
    } + listOf("ff.net.0.proj", "ff.net.2")

    private val SINGLES = listOf(
        "conv_in" to "input_blocks.0.0",
        "time_embedding.linear_1" to "time_embed.0",
        "time_embedding.linear_2" to "time_embed.2",
        "add_embedding.linear_1" to "label_emb.0.0",
        "add_embedding.linear_2" to "label_emb.0.2",
        "conv_out" to "out.2",
    )
    private val ENCODER_LAYER = listOf("k", "v", "q", "out").map { "self_attn.${it}_proj" } + listOf("mlp.fc1", "mlp.fc2")

    /** Every linear and convolution of SDXL's UNet: (name in diffusers, name in SGM). */
    private fun unetModules(): List<Pair<String, String>> = SINGLES + downBlocks() + middle() + upBlocks()

    /** Two resnets a block, each in its own SGM block, and a third SGM block that halves the resolution. */
    private fun downBlocks(): List<Pair<String, String>> = listOf(0, 2, 10).flatMapIndexed { block, depth ->
        val layers = (0..1).flatMap { layer ->
            val name = "down_blocks.$block"
            val sgm = "input_blocks.${1 + 3 * block + layer}"
            resnet("$name.resnets.$layer", "$sgm.0", shortcut = block > 0 && layer == 0) +
                transformer("$name.attentions.$layer", "$sgm.1", depth)
        }
        val halves = if (block < 2) block("down_blocks.$block.downsamplers.0", "input_blocks.${3 + 3 * block}.0", "down")
        else emptyList()
        layers + halves
    }

    /** Three resnets a block, all with a shortcut; the last SGM block of the first two also doubles the resolution. */
    private fun upBlocks(): List<Pair<String, String>> = listOf(10, 2, 0).flatMapIndexed { block, depth ->
        val layers = (0..2).flatMap { layer ->
            val name = "up_blocks.$block"
            val sgm = "output_blocks.${3 * block + layer}"
            resnet("$name.resnets.$layer", "$sgm.0", shortcut = true) +
                transformer("$name.attentions.$layer", "$sgm.1", depth)
        }
        val doubles = if (block < 2) block("up_blocks.$block.upsamplers.0", "output_blocks.${3 * block + 2}.2", "up")
        else emptyList()
        layers + doubles
    }

    private fun middle(): List<Pair<String, String>> =
        resnet("mid_block.resnets.0", "middle_block.0", shortcut = false) +
            transformer("mid_block.attentions.0", "middle_block.1", 10) +
            resnet("mid_block.resnets.1", "middle_block.2", shortcut = false)

    private fun resnet(name: String, sgm: String, shortcut: Boolean): List<Pair<String, String>> =
        block(name, sgm, "resnet") + if (shortcut) block(name, sgm, "shortcut") else emptyList()

    private fun transformer(name: String, sgm: String, depth: Int): List<Pair<String, String>> {
        if (depth == 0) return emptyList()
        val blocks = (0 until depth).flatMap { index -> TRANSFORMER_BLOCK.map { "transformer_blocks.$index.$it" } }
        return block(name, sgm, "transformer") + blocks.map { "$name.$it" to "$sgm.$it" }
    }

    private fun block(name: String, sgm: String, kind: String): List<Pair<String, String>> =
        PARTS.getValue(kind).map { (part, sgmPart) -> "$name.$part" to "$sgm.$sgmPart" }

    /** Every linear of a text encoder: CLIP-L for `text_encoder`, CLIP-G for `text_encoder_2`. */
    private fun textModules(component: String): List<String> {
        val layers = if (component == "text_encoder") CLIP_L_LAYERS else CLIP_G_LAYERS
        val names = (0 until layers).flatMap { index -> ENCODER_LAYER.map { "text_model.encoder.layers.$index.$it" } }
        return if (component == "text_encoder") names else names + "text_projection"
    }

    private fun flatten(name: String): String = name.replace('.', '_')
}
