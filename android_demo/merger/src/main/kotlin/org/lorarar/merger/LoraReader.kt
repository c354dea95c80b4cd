package org.lorarar.merger

import java.io.File
import java.io.IOException

/** What a tensor is to its layer → its name in the file, and what that says. */
private typealias Tensors = MutableMap<Role, Pair<String, Key>>

/**
 * Reads a LoRA of any dialect: keys to layers, alpha folded into `up`, everything else refused by name.
 *
 * ΔW = scale · up @ down, where scale is the layer's alpha/rank, or what PEFT's configuration says, else 1.
 */
class LoraReader private constructor(
    private val file: SafeTensors, private val component: String, private val scalings: Map<String, PeftScaling>,
    private val values: Boolean,
) {
    private fun read(): Lora {
        val (groups, extra) = group()
        val layers = groups.mapValues { (module, tensors) -> layer(module, tensors) }
        return Lora(layers, dialect(groups), file.source, warnings(groups, extra))
    }

    /**
     * Every tensor under its module and role, and those of no layer: alphas alone, and what is no factor.
     *
     * Refuses foreign formats, factors of unknown modules and layers that occur twice.
     */
    private fun group(): Pair<Map<String, Tensors>, List<String>> {
        refuseForeign()
        val groups = LinkedHashMap<String, Tensors>()
        val extra = mutableListOf<String>()
        for (name in file.entries.keys) {
            val key = parse(name)
            if (key == null) {
                extra += name
                continue
            }
            val tensors = groups.getOrPut(key.module) { LinkedHashMap() }
            tensors.put(key.role, name to key)?.let { (other, _) ->
                throw InputError(
                    "%s: '%s' and '%s' are the same layer named in two ways; remove one of them",
                    file.source, shorten(other), shorten(name),
                )
            }
        }
        val (alone, whole) = groups.entries.partition { it.value.keys == setOf(Role.ALPHA) }
        val layers = whole.associate { it.toPair() }
        extra.addAll(0, alone.map { it.value.getValue(Role.ALPHA).first })
        checkExtra(layers, extra)
        return layers to extra
    }

    /** Sentences that name the tensors that belong to no layer, and tell of a scale that PEFT has kept elsewhere. */
    private fun warnings(groups: Map<String, Tensors>, extra: List<String>): List<Sentence> {
        val shown = extra.take(3).joinToString { "'${shorten(it)}'" } + if (extra.size > 3) ", …" else ""
        val isBare = scalings.isEmpty() && groups.values.none { Role.ALPHA in it } &&
            groups.values.any { it.getValue(Role.DOWN).second.raw.startsWith(Dialects.WRAPPED) }
        return listOfNotNull(
            if (extra.isEmpty()) null else Sentence(
                "%s: %s of its tensors belong to no layer of the LoRA and are left out (%s)",
                file.source, extra.size, shown,
            ),
            if (!isBare) null else Sentence(
                "%s: its scale (alpha / rank) is in PEFT's adapter_config.json, which is not beside it; 1 is taken",
                file.source,
            ),
        )
    }

    /** Refuses tensors of no layer where there is no layer, where they are factors, and where one may be an alpha. */
    private fun checkExtra(layers: Map<String, Tensors>, extra: List<String>) {
        val known = Dialects.names.joinToString()
        val unknown = extra.firstOrNull(Dialects::isFactor)
        if (layers.values.none { it.size > 1 } && (extra.isNotEmpty() || layers.isEmpty())) {
            val first = (unknown ?: file.entries.keys.firstOrNull())?.let { " (its first key is '${shorten(it)}')" } ?: ""
            throw InputError(
                "%s has no LoRA keys%s; it may be a full checkpoint or a LoRA for another kind of model, known dialects: " +
                    "%s",
                file.source, first, known,
            )
        }
        if (unknown != null) {
            throw InputError(
                "%s: the key '%s' belongs to no known dialect (%s) of a LoRA for SDXL; remove it or use another file",
                file.source, shorten(unknown), known,
            )
        }
        val bare = layers.filterValues { Role.ALPHA !in it }.keys
        if (extra.isNotEmpty() && bare.isNotEmpty() && bare.size < layers.size) {
            throw InputError(
                "%s: '%s' has no alpha, as other layers have, and '%s' belongs to no layer; a name is damaged, get the " +
                    "file again",
                file.source, shorten(bare.first()), shorten(extra[0]),
            )
        }
    }

    private fun refuseForeign() {
        for (name in file.entries.keys) {
            val foreign = Dialects.foreign(name) ?: continue
            throw InputError(
                "%s is no plain LoRA but holds a %s layer ('%s'); %s", file.source, foreign.name, shorten(name), foreign.advice,
            )
        }
    }

    private fun parse(name: String): Key? = try {
        Dialects.parseKey(name, component)
    } catch (_: AmbiguousName) {
        throw InputError(
            "%s: '%s' doesn't say which text encoder it is for; put text_encoder. or text_encoder_2. before its keys",
            file.source, shorten(name),
        )
    }

    /** One layer, its scale in `up`. Shapes are checked before a tensor is read, and every value once. */
    private fun layer(module: String, tensors: Tensors): LoraLayer {
        for ((role, other) in listOf(Role.DOWN to Role.UP, Role.UP to Role.DOWN)) {
            if (role in tensors) continue
            val present = tensors.getValue(other).first
            throw InputError(
                "%s: '%s' has no matching %s tensor; a layer needs both, get the file again",
                file.source, shorten(present), role.name.lowercase(),
            )
        }
        val (downName, downKey) = tensors.getValue(Role.DOWN)
        val (upName, upKey) = tensors.getValue(Role.UP)
        if (downKey.dialect != upKey.dialect) {
            throw InputError(
                "%s: '%s' is in two dialects at once (%s and %s); save the file in one",
                file.source, shorten(module), downKey.dialect, upKey.dialect,
            )
        }
        val rank = checkShapes(module, downName, upName)
        val scale = tensors[Role.ALPHA]?.let { alpha(it.first) / rank } ?: configured(downKey, rank)
        val layer = shaped(module, downName, upName, scale.toFloat())
        if (values) listOf(layer.down, layer.up).forEach { it.read() }
        return layer
    }

    /** A layer that may be stored otherwise: a linear as a 1×1 convolution, a convolution's up (DyLoRA) as a matrix. */
    private fun shaped(module: String, downName: String, upName: String, scale: Float): LoraLayer {
        val down = file.entries.getValue(downName).shape.map { it.toInt() }
        val up = file.entries.getValue(upName).shape.map { it.toInt() }
        val shape = if (KohyaNames.isConvolution(module)) down else down.take(2)
        val ones = List(shape.size - 2) { 1 }
        return LoraLayer(Factor(file, downName, 1f, shape), Factor(file, upName, scale, up.take(2) + ones))
    }

    /** The rank of a layer, from the header alone; refuses factors that don't fit together. */
    private fun checkShapes(module: String, downName: String, upName: String): Int {
        val down = file.entries.getValue(downName).shape
        val up = file.entries.getValue(upName).shape
        val both = Sentence("%s: '%s' %s and '%s' %s", file.source, shorten(downName), down, shorten(upName), up)
        if (down.size !in listOf(2, 4) || up.size !in listOf(2, down.size)) {
            throw InputError("%s must both have 2 dimensions, or 4 for a convolution; get the file again", both)
        }
        if (0L in down || 0L in up) {
            throw InputError("%s have a size of 0; a layer needs a rank of at least 1, get the file again", both)
        }
        if (down[0] != up[1] && down[1] == up[0]) {
            throw InputError("%s look swapped: down must be (rank, in) and up (out, rank); swap their names", both)
        }
        if (down[0] != up[1]) {
            throw InputError("%s have ranks %s and %s, which must be equal; get the file again", both, down[0], up[1])
        }
        if (up.drop(2).any { it != 1L }) {
            throw InputError("%s look swapped or damaged: up's kernel must be 1×1; get the file again", both)
        }
        if (down.drop(2).any { it != 1L } && !KohyaNames.isConvolution(module)) {
            throw InputError("%s are a convolution's, but the module is linear; the LoRA is for another base model", both)
        }
        if ((down + up).any { it > Int.MAX_VALUE }) {
            throw InputError("%s are too large for a factor of a LoRA; this is another kind of file", both)
        }
        return down[0].toInt()
    }

    private fun alpha(name: String): Double {
        val entry = file.entries.getValue(name)
        if (entry.elements != 1L) {
            throw InputError("%s: '%s' has shape %s; an alpha must be one number", file.source, shorten(name), entry.shape)
        }
        return file.number(name)
    }

    /** PEFT's configuration is carried by these two kinds of file; diffusers and ComfyUI ignore it for kohya's names. */
    private fun configured(key: Key, rank: Int): Double {
        val component = key.module.substringBefore('.')
        val scaling = scalings[component] ?: scalings[""]
        if (scaling == null || key.dialect !in listOf("peft", "diffusers")) return 1.0
        var name = key.raw.removePrefix(Dialects.WRAPPED)
        while (name.startsWith("$component.")) name = name.removePrefix("$component.")
        return scaling.scale(name, rank)
    }

    /** The dialects in the file, in the table's order; text encoders are named alike in both of kohya's. */
    private fun dialect(groups: Map<String, Tensors>): String {
        val found = groups.values.map { it.getValue(Role.DOWN).second.dialect }.toMutableSet()
        if ("kohya-sgm" in found || "kohya-diffusers" in found) found.remove("kohya-text")
        return Dialects.names.filter { it in found }.joinToString(" + ")
    }

    companion object {
        internal const val CONFIG = "adapter_config.json"
        private val BOM = byteArrayOf(0xEF.toByte(), 0xBB.toByte(), 0xBF.toByte()) // Windows' editors write it before UTF-8
        internal const val WEIGHTS = "adapter_model.safetensors"
        private const val PICKLE = "adapter_model.bin"
        internal const val MAX_CONFIG_BYTES = 4L shl 20

        /**
         * Read a LoRA file of any dialect, or a PEFT folder; PEFT's weights with the configuration that is beside them.
         *
         * Raises InputError, one sentence that names the file and what is wrong, for everything that can't be read
         * exactly; shapes are not compared with a base here ([Stack] does that). Without [values] only what they are is
         * read: NaN and overflows are found when a layer is.
         */
        fun read(path: File, values: Boolean = true): Lora {
            if (path.isDirectory) return readFolder(path, values)
            val beside = path.absoluteFile.parentFile
            if (path.name == WEIGHTS && File(beside, CONFIG).isFile) return readFolder(beside, values)
            return read(SafeTensors.open(path), values)
        }

        /** The same of an open file. */
        fun read(file: SafeTensors, values: Boolean = true): Lora =
            LoraReader(file, "", PeftScaling.ofMetadata(file.metadata, file.source), values).read()

        private fun readFolder(folder: File, values: Boolean): Lora {
            val config = File(folder, CONFIG)
            if (!config.isFile) {
                throw InputError("%s is a folder without %s; give a .safetensors file or a PEFT folder", folder, CONFIG)
            }
            if (!File(folder, WEIGHTS).exists() && File(folder, PICKLE).exists()) {
                throw InputError("%s is a Python pickle, which may run code; save it as safetensors first", File(folder, PICKLE))
            }
            val fields = PeftScaling.parseConfig(configBytes(config), Sentence("%s", config.path))
            val scaling = PeftScaling.parse(fields, config.path)
            val weights = SafeTensors.open(File(folder, WEIGHTS))
            return LoraReader(weights, PeftScaling.component(fields), mapOf("" to scaling), values).read()
        }

        private fun ByteArray.startsWith(other: ByteArray) = size >= other.size && other.indices.all { this[it] == other[it] }

        private fun configBytes(config: File): ByteArray {
            if (config.length() > MAX_CONFIG_BYTES) {
                throw InputError("%s is too large to be a PEFT configuration; get the folder again", config)
            }
            try {
                val bytes = config.readBytes()
                return if (bytes.startsWith(BOM)) bytes.copyOfRange(BOM.size, bytes.size) else bytes
            } catch (error: IOException) {
                throw InputError("%s can't be read (%s); check the file and try again", config, error.message)
            }
        }
    }
}
