package org.lorarar.merger

/** One size of a shape: a number, or a name (`stacked_rank`) for a size that may differ from run to run. */
sealed interface Size {
    data class Fixed(val value: Int) : Size {
        override fun toString() = value.toString()
    }

    data class Named(val name: String) : Size {
        override fun toString() = name
    }
}

/** A shape with its named sizes replaced. */
fun List<Size>.fixed(sizes: Map<String, Int> = emptyMap()): List<Int> =
    map { if (it is Size.Named) sizes.getValue(it.name) else (it as Size.Fixed).value }

private fun shape(vararg sizes: Int): List<Size> = sizes.map(Size::Fixed)

/** Linears of one part and one weight shape (out, in), in `named_modules()` order: [modules] inside their network. */
class Group(val part: String, val inFeatures: Int, val outFeatures: Int, modules: List<String>) {
    val name: String get() = "${part}_${inFeatures}x$outFeatures"

    /** The network that the linears are in: the UNet, or a text encoder. */
    val component: String get() = Layout.TEXT_PARTS[part] ?: "unet"

    /** The full names of the linears, as LoRAs have them: `unet.…to_q`. */
    val layers: List<String> = modules.map { "$component.$it" }

    /** The name of the group's `down` factors (N, R, in), an input of the hypernetwork and of the linears' network. */
    val down: String get() = "${Layout.ADAPTER}${name}_down"

    /** The name of the group's `up` factors (N, out, R). */
    val up: String get() = "${Layout.ADAPTER}${name}_up"

    /** The name of the group's coefficients, (N, K, in) of one image and (B, N, K, in) of a batch. */
    val coefficients: String get() = "${Layout.COEFFICIENTS}$name"
}

/** The ordered groups of a base's linears that take LoRAs, and the names and shapes of the tensors that follow from them. */
class Layout(
    val base: String,
    val groups: List<Group>,
    /** LoRAs of one stack at most. */
    val loras: Int,
    /** The rows of the artifacts' stacks, all ranks together; the examples' where the rank is free. */
    val stackedRank: Int,
) {
    /** The full names of all linears, group by group. */
    val layers: List<String> get() = groups.flatMap { it.layers }

    /** The parts that have a group, in their order. */
    val parts: List<String> get() = groups.map { it.part }.distinct()

    /** The sizes that shapes give by name. */
    val sizes: Map<String, Int> get() = mapOf(STACKED_RANK to stackedRank)

    /** The groups that hold attention linears of these kinds. */
    fun withKinds(kinds: List<String>): List<Group> = groups.filter { group -> group.layers.any { kindOf(it) in kinds } }

    /** The groups of a component: `unet`, `text_encoder` or `text_encoder_2`. */
    fun of(component: String): List<Group> = groups.filter { it.component == component }

    /** The stack as inputs, in the order of every artifact: the roles, then the factors of these groups. */
    fun stackShapes(of: List<Group> = groups): Map<String, List<Size>> {
        val rank = Size.Named(STACKED_RANK)
        val shapes = linkedMapOf(ROLES to listOf(rank, Size.Fixed(loras)))
        for (group in of) {
            shapes[group.down] = listOf(Size.Fixed(group.layers.size), rank, Size.Fixed(group.inFeatures))
            shapes[group.up] = listOf(Size.Fixed(group.layers.size), Size.Fixed(group.outFeatures), rank)
        }
        return shapes
    }

    /** The coefficients of these groups: of one image, which the hypernetwork gives, or of a [batch], which networks take. */
    fun coefficientShapes(of: List<Group>, batch: Int? = null): Map<String, List<Size>> = of.associate {
        it.coefficients to shape(*listOfNotNull(batch, it.layers.size, loras, it.inFeatures).toIntArray())
    }

    companion object {
        /** The name of the tensor that says whose row is whose: one-hot rows, and rows of zeros where a stack is padded. */
        const val ROLES = "roles"
        const val ADAPTER = "adapter_"
        const val COEFFICIENTS = "coefficients_"
        const val UNET = "unet."

        /** The name of the size of a stack's rows. */
        const val STACKED_RANK = "stacked_rank"

        // Of a stack, as lorarar/layout.py has them. Every layer is padded to the rank: a small file could fill the memory.
        const val MAX_LORAS = 8
        const val MAX_STACKED_RANK = 1024

        /** Parts of an adapter outside the UNet → the text encoder whose linears they hold. */
        internal val TEXT_PARTS = mapOf("te1" to "text_encoder", "te2" to "text_encoder_2")
        private val PARTS = listOf("qo", "kv", "ff", "proj") + TEXT_PARTS.keys
        private val KINDS = mapOf("q" to ".to_q", "k" to ".to_k", "v" to ".to_v", "out" to ".to_out.0")

        /** The kind of an attention linear of the UNet; null for any other layer. */
        fun kindOf(layer: String): String? = KINDS.entries.firstOrNull { layer.endsWith(it.value) }?.key

        /** Read the manifest's `layout`; raises InputError when its groups contradict their names. */
        fun parse(base: String, layout: Map<String, Any?>): Layout = Layout(
            base,
            layout.children("groups").map { entry ->
                val name = entry.text("name")
                val modules = (entry.getValue("modules") as List<*>).map { it as String }
                val sizes = listOf("in", "out").map { entry.whole(it).toInt() }
                val group = Group(name.substringBefore('_'), sizes[0], sizes[1], modules)
                if (group.part !in PARTS || group.name != name) {
                    throw InputError("layout group '%s' does not match its sizes; export the bundle again", name)
                }
                group
            },
            layout.whole("loras").toInt(),
            layout.whole(STACKED_RANK).toInt(),
        )
    }
}
