package org.lorarar.merger

/** One size of a shape: a number, or a name (`content_rank`) for a size that may differ from run to run. */
sealed interface Size {
    data class Fixed(val value: Int) : Size {
        override fun toString() = value.toString()
    }

    data class Named(val name: String) : Size {
        override fun toString() = name
    }
}

/** A shape with its named sizes replaced. */
fun List<Size>.fixed(sizes: Map<String, Int>): List<Int> =
    map { if (it is Size.Named) sizes.getValue(it.name) else (it as Size.Fixed).value }

/** Attention linears of one part and one weight shape (out, in), in the UNet's `named_modules()` order. */
class Group(val part: String, val inFeatures: Int, val outFeatures: Int, val rank: Int, val modules: List<String>) {
    val name: String get() = "${part}_${inFeatures}x$outFeatures"
    val down: String get() = "${name}_down"
    val up: String get() = "${name}_up"
}

/** The ordered groups of a base's attention linears, and the names and shapes of the tensors that follow from them. */
class Layout(val base: String, val groups: List<Group>) {
    val modules: List<String> get() = groups.flatMap { it.modules }

    /** The rank of the artifacts' adapter inputs: fixed, or the example one where it is dynamic. */
    val rank: Int get() = groups.first().rank

    /** The groups whose coefficients the hypernetwork predicts. */
    val learned: List<Group> get() = groups.filter { it.part == LEARNED }

    /** The sizes given by name, where both LoRAs have [rank]. */
    val rankSizes: Map<String, Int>
        get() = mapOf("content_rank" to rank, "style_rank" to rank, "merged_rank" to 2 * rank)

    /** The factors of a role (content, style or adapter), of the given rank: name → (N, rank, in) and (N, out, rank). */
    fun factors(role: String, rank: Size): Map<String, List<Size>> {
        val shapes = LinkedHashMap<String, List<Size>>()
        for (group in groups) {
            val (count, inputs, outputs) = listOf(group.modules.size, group.inFeatures, group.outFeatures).map(Size::Fixed)
            shapes["${role}_${group.down}"] = listOf(count, rank, inputs)
            shapes["${role}_${group.up}"] = listOf(count, outputs, rank)
        }
        return shapes
    }

    /** The merger's inputs, in the order of every artifact: each group's factors of both roles, then the scales. */
    fun inputShapes(): Map<String, List<Size>> {
        val byRole = ROLES.map { role -> factors(role, Size.Named("${role}_rank")).entries.toList() }
        val shapes = LinkedHashMap<String, List<Size>>()
        for (at in groups.indices) for (role in byRole) for (factor in role.subList(2 * at, 2 * at + 2)) {
            shapes[factor.key] = factor.value
        }
        for (role in ROLES) shapes["${role}_scale"] = listOf(Size.Fixed(1))
        return shapes
    }

    /** The merged adapter: outputs of the merger and inputs of the UNet, by the same names. */
    fun adapterShapes(): Map<String, List<Size>> = factors(ADAPTER, Size.Named("merged_rank"))

    /** The merger's outputs, in the order of every artifact: the merged adapter, then the coefficients. */
    fun outputShapes(): Map<String, List<Size>> = adapterShapes() + learned.associate {
        "coefficients_${it.name}" to listOf(it.modules.size, 2, it.inFeatures).map(Size::Fixed)
    }

    companion object {
        val ROLES = listOf("content", "style")
        const val ADAPTER = "adapter"
        private const val LEARNED = "qo"
        const val UNET = "unet."

        /** Read the manifest's `layout`; raises InputError when its groups contradict their names. */
        fun parse(base: String, layout: Map<String, Any?>): Layout = Layout(
            base,
            layout.children("groups").map { entry ->
                val name = entry.text("name")
                val modules = (entry.getValue("modules") as List<*>).map { it as String }
                val sizes = listOf("in", "out", "rank").map { entry.whole(it).toInt() }
                val group = Group(name.substringBefore('_'), sizes[0], sizes[1], sizes[2], modules)
                if (group.name != name) {
                    throw InputError("layout group '$name' does not match its sizes; export the bundle again")
                }
                group
            },
        )
    }
}
