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

/** Linears of one part and one weight shape (out, in), in the UNet's `named_modules()` order. */
class Group(val part: String, val inFeatures: Int, val outFeatures: Int, val modules: List<String>) {
    val name: String get() = "${part}_${inFeatures}x$outFeatures"

    /** The name of the group's `down` factors (N, R, in), an input of the hypernetwork and of the UNet. */
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
    val modules: List<String> get() = groups.flatMap { it.modules }

    /** The parts that have a group, in the order of [PARTS]. */
    val parts: List<String> get() = PARTS.filter { part -> groups.any { it.part == part } }

    /** The sizes that shapes give by name. */
    val sizes: Map<String, Int> get() = mapOf(STACKED_RANK to stackedRank)

    /** The groups that hold attention linears of these kinds. */
    fun withKinds(kinds: List<String>): List<Group> = groups.filter { group -> group.modules.any { kindOf(it) in kinds } }

    /** The stack as inputs, in the order of every artifact: the roles, then the factors of these groups. */
    fun stackShapes(of: List<Group> = groups): Map<String, List<Size>> {
        val rank = Size.Named(STACKED_RANK)
        val shapes = linkedMapOf(ROLES to listOf(rank, Size.Fixed(loras)))
        for (group in of) {
            shapes[group.down] = listOf(Size.Fixed(group.modules.size), rank, Size.Fixed(group.inFeatures))
            shapes[group.up] = listOf(Size.Fixed(group.modules.size), Size.Fixed(group.outFeatures), rank)
        }
        return shapes
    }

    /** The coefficients of these groups: of one image, which the hypernetwork gives, or of a [batch], which the UNet takes. */
    fun coefficientShapes(of: List<Group> = groups, batch: Int? = null): Map<String, List<Size>> = of.associate {
        it.coefficients to shape(*listOfNotNull(batch, it.modules.size, loras, it.inFeatures).toIntArray())
    }

    companion object {
        /** The name of the tensor that says whose row is whose: one-hot rows, and rows of zeros where a stack is padded. */
        const val ROLES = "roles"
        const val ADAPTER = "adapter_"
        const val COEFFICIENTS = "coefficients_"
        const val UNET = "unet."

        /** The name of the size of a stack's rows. */
        const val STACKED_RANK = "stacked_rank"
        private val PARTS = listOf("qo", "kv", "ff", "proj")
        private val KINDS = mapOf("q" to ".to_q", "k" to ".to_k", "v" to ".to_v", "out" to ".to_out.0")

        /** The kind of an attention linear; null for any other module. */
        fun kindOf(module: String): String? = KINDS.entries.firstOrNull { module.endsWith(it.value) }?.key

        /** Read the manifest's `layout`; raises InputError when its groups contradict their names. */
        fun parse(base: String, layout: Map<String, Any?>): Layout = Layout(
            base,
            layout.children("groups").map { entry ->
                val name = entry.text("name")
                val modules = (entry.getValue("modules") as List<*>).map { it as String }
                val sizes = listOf("in", "out").map { entry.whole(it).toInt() }
                val group = Group(name.substringBefore('_'), sizes[0], sizes[1], modules)
                if (group.part !in PARTS || group.name != name) {
                    throw InputError("layout group '$name' does not match its sizes; export the bundle again")
                }
                group
            },
            layout.whole("loras").toInt(),
            layout.whole(STACKED_RANK).toInt(),
        )
    }
}
