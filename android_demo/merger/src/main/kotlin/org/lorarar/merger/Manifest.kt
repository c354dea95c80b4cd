package org.lorarar.merger

/** A bundle's manifest in types. What the schema can't relate is checked by [BundleChecks]. */
class Manifest private constructor(
    val base: String,
    val target: String,
    val precision: String,
    val layout: Layout,
    /** null in a bundle that can't merge. */
    val hypernetwork: HypernetworkFacts?,
    val components: Map<String, ComponentFacts>,
    /** null in a bundle that can't draw. */
    val pipeline: PipelineFacts?,
    /** What the contexts of a bundle for QNN are compiled for; null for any other target. */
    val soc: SocFacts?,
) {
    companion object {
        /** Read JSON that is valid by the schema. InputError when a group of its layout contradicts its name. */
        fun of(json: Map<String, Any?>): Manifest = Manifest(
            json.text("base"), json.text("target"), json.text("precision"),
            Layout.parse(json.text("base"), json.child("layout")),
            json["hypernetwork"].asObject()?.let { HypernetworkFacts.of(it) },
            json.objects("components").mapValues { ComponentFacts.of(it.value) },
            json["pipeline"].asObject()?.let { PipelineFacts.of(it) },
            json["soc"].asObject()?.let { SocFacts(it.text("name"), it.text("sdk")) },
        )
    }
}

/** A file or folder of a bundle: its place there, and what its bytes are. */
data class FileEntry(val file: String, val bytes: Long, val sha256: String) {
    fun toJson(): Map<String, Any?> = mapOf("file" to file, "bytes" to bytes, "sha256" to sha256)

    companion object {
        fun of(json: Map<String, Any?>) = FileEntry(json.text("file"), json.whole("bytes"), json.text("sha256"))
    }
}

/** Which coefficients the hypernetwork predicts, of which [kinds][learned] of attention linears. */
data class HypernetworkFacts(val trained: Boolean, val learned: List<String>, val kvRule: String) {
    companion object {
        fun of(json: Map<String, Any?>): HypernetworkFacts {
            val learned = (json.getValue("learned") as List<*>).map { it as String }
            return HypernetworkFacts(json.getValue("trained") as Boolean, learned, json.text("kv_rule"))
        }
    }
}

/** A Snapdragon by Qualcomm's number, in lower case, and the version of their libraries that compiled for it. */
data class SocFacts(val name: String, val sdk: String)

/** One artifact, its inputs and outputs in the artifact's order, and its golden tensors. */
class ComponentFacts(
    val artifact: FileEntry,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    val golden: FileEntry,
    val goldenInputs: Map<String, GoldenInput>,
    val tolerance: Tolerance,
    /** What is in memory while it runs, counted when it was exported; its file alone, where that was not done. */
    val runningBytes: Long,
) {
    companion object {
        fun of(json: Map<String, Any?>): ComponentFacts {
            val (artifact, golden) = FileEntry.of(json) to json.child("golden")
            return ComponentFacts(
                artifact, specs(json.children("inputs")), specs(json.children("outputs")), FileEntry.of(golden),
                golden.objects("inputs").mapValues { GoldenInput.of(it.value) }, Tolerance.of(json.child("tolerance")),
                (json["running_bytes"] as Number?)?.toLong() ?: artifact.bytes,
            )
        }

        private fun specs(tensors: List<Map<String, Any?>>): List<TensorSpec> = tensors.map { tensor ->
            val shape = (tensor.getValue("shape") as List<*>).map { size ->
                if (size is String) Size.Named(size) else Size.Fixed((size as Number).toInt())
            }
            TensorSpec(tensor.text("name"), DType.of(tensor.text("dtype")), shape)
        }
    }
}

/** How a golden input of a shape is filled. */
class GoldenInput(val shape: List<Int>, val source: Source) {
    sealed interface Source {
        data class Constant(val value: Float) : Source

        /** All of them, row-major. */
        data class Listed(val values: List<Float>) : Source

        data class Generated(val seed: UInt, val scale: Double) : Source
    }

    companion object {
        fun of(json: Map<String, Any?>): GoldenInput {
            val (value, values) = json["value"] to json["values"]
            val source = when {
                value != null -> Source.Constant((value as Number).toFloat())
                values != null -> Source.Listed((values as List<*>).map { (it as Number).toFloat() })
                else -> Source.Generated(json.whole("seed").toUInt(), json.number("scale"))
            }
            return GoldenInput((json.getValue("shape") as List<*>).map { (it as Number).toInt() }, source)
        }
    }
}

/** What drawing needs to know: the image, the schedule, the tokenizers by their text encoder, and a golden image. */
class PipelineFacts private constructor(
    /** Of the image's side. */
    val pixels: Int,
    val steps: Int,
    val guidance: Float,
    /** 0 where a bundle says nothing of it. */
    val guidanceRescale: Float,
    /** What guidance compares with: zero embeddings, or the empty prompt's. */
    val isNegativeZeros: Boolean,
    val scheduler: SchedulerSettings,
    val tokenizers: Map<String, TokenizerEntry>,
    val golden: GoldenImage,
) {
    companion object {
        fun of(json: Map<String, Any?>) = PipelineFacts(
            json.whole("pixels").toInt(), json.whole("steps").toInt(), json.number("guidance").toFloat(), json.rescale(),
            json.text("negative") == "zeros", SchedulerSettings.of(json.child("scheduler")),
            json.objects("tokenizers").mapValues { TokenizerEntry.of(it.value) }, GoldenImage.of(json.child("golden")),
        )
    }
}

/** A tokenizer's file, the tokens of a prompt, and the ids of the special ones. */
data class TokenizerEntry(val file: FileEntry, val length: Int, val start: Int, val end: Int, val pad: Int) {
    companion object {
        fun of(json: Map<String, Any?>): TokenizerEntry {
            val (length, start, end, pad) = listOf("length", "start", "end", "pad").map { json.whole(it).toInt() }
            return TokenizerEntry(FileEntry.of(json), length, start, end, pad)
        }
    }
}

/** An image that diffusers drew, and how. */
class GoldenImage(val file: FileEntry, val request: Request, val tolerance: Tolerance) {
    companion object {
        fun of(json: Map<String, Any?>): GoldenImage {
            val (steps, guidance) = json.whole("steps").toInt() to json.number("guidance").toFloat()
            val request =
                Request(json.text("prompt"), json.whole("seed"), steps, guidance, guidanceRescale = json.rescale())
            return GoldenImage(FileEntry.of(json), request, Tolerance.of(json.child("tolerance")))
        }
    }
}

private fun Map<String, Any?>.rescale(): Float = (get("guidance_rescale") as Number?)?.toFloat() ?: 0f

/** A map whose values are objects. */
private fun Map<String, Any?>.objects(key: String): Map<String, Map<String, Any?>> =
    child(key).mapValues { it.value.asObject()!! }
