package org.lorarar.merger

import java.io.Serializable

/** Whether there is a bundle to work with. */
sealed interface Opening : Serializable {
    /** What is being done, and how far: [done] of [total]; whether [Command.StopImport] ends it. */
    data class Working(val stage: Stage, val done: Long, val total: Long, val canStop: Boolean = false) : Opening

    /** One sentence that says what is wrong and which command mends it. */
    data class Failed(
        val sentence: Sentence,
        /** Whether another bundle may help; none does where the engine was ended. */
        val isOfBundle: Boolean = true,
    ) : Opening

    data class Ready(
        val title: String, val components: List<String>, val canDraw: Boolean, val steps: Int, val trained: Boolean,
        /** The one that is used, and all that are there. */
        val bundle: BundleChoice, val bundles: List<BundleChoice>,
        /** Why bundles that would have come first are not used, one sentence each. */
        val passedOver: List<Sentence> = emptyList(),
    ) : Opening
}

/** A finished merge, as the screen shows it: its time, the stack's rank, and the coefficients. */
class MergeView(val seconds: Double, val rank: Int, val layers: List<LayerMean>) : Serializable

/** How far a drawing is. */
data class DrawingView(val stage: Stage, val done: Int, val total: Int) : Serializable

/** How far the copying of a LoRA into the app is: [done] of [total] bytes, or null where the total is not known. */
data class ImportView(val name: String, val done: Long, val total: Long?) : Serializable

/** A finished image, 0xAARRGGBB, and the prompt that it was drawn from. */
class PictureView(
    val width: Int, val height: Int, val argb: IntArray, val notes: List<Sentence>, val seconds: Double, val prompt: String,
) {
    companion object {
        private val NOT_COMPOSED = Sentence(
            "this image did not begin with each LoRA alone: that needs the content's words in the prompt, and a class " +
                "for them",
        )

        /** What was drawn of what was [wanted]; a composed start is left out where the prompt lacks its subject. */
        internal fun of(drawn: Drawn, wanted: Command.Draw, isComposed: Boolean): PictureView {
            val notes = listOfNotNull(NOT_COMPOSED.takeIf { wanted.composed != null && !isComposed }) + drawn.notes
            return PictureView(drawn.width, drawn.height, drawn.argb(), notes, drawn.seconds.values.sum(), wanted.prompt)
        }
    }
}

/** All that the screens show. Immutable: a new one is made for every change. */
data class StudioState(
    val opening: Opening = Opening.Working(Stage.STARTING, 0, 1),
    val contents: List<Sample> = emptyList(),
    val styles: List<Sample> = emptyList(),
    val content: Sample? = null,
    val style: Sample? = null,
    val contentScale: Float = 1f,
    val styleScale: Float = 1f,
    /** What the bundle takes of the chosen LoRAs, by role, as soon as it is measured. */
    val carried: Map<String, Carried> = emptyMap(),
    val importing: ImportView? = null,
    val merging: Boolean = false,
    val merge: MergeView? = null,
    val drawing: DrawingView? = null,
    val picture: PictureView? = null,
    val checking: Boolean = false,
    val rows: List<CheckRow> = emptyList(),
    /** What the running benchmark is doing. */
    val measuring: Stage? = null,
    /** Whether the user has stopped what runs, which then ends soon. */
    val stopping: Boolean = false,
    /** The last benchmark's record, as JSON. */
    val record: String? = null,
    /** What went wrong and nobody has read yet, the oldest first, one sentence each. */
    val complaints: List<Sentence> = emptyList(),
) : Serializable {
    /** The one to show. */
    val complaint: Sentence? get() = complaints.firstOrNull()

    fun complaining(sentence: Sentence): StudioState =
        if (sentence in complaints) this else copy(complaints = complaints + sentence)

    /** The LoRA that is chosen for a role. */
    fun chosen(role: String): Sample? = if (role == Catalogue.CONTENTS) content else style

    /** Whether something runs that another thing has to wait for. */
    val busy: Boolean get() = merging || drawing != null || checking || measuring != null

    /** Whether something runs that can be stopped. */
    val canStop: Boolean get() = drawing != null || checking || measuring != null

    /** The same with nothing running. */
    fun ended(): StudioState = copy(merging = false, drawing = null, checking = false, measuring = null, stopping = false)

    /** What a user must know of the chosen LoRAs, one sentence each. */
    val loraNotes: List<Sentence> get() = carried.values.flatMap { it.told }
    val ready: Boolean get() = opening is Opening.Ready
    val hasPair: Boolean get() = content != null && style != null
    val canMerge: Boolean get() = ready && loras.isNotEmpty()

    /** The chosen LoRAs and their strengths: a content, a style, both or none. */
    val loras: List<Pair<Sample, Float>> get() = listOfNotNull(content?.to(contentScale), style?.to(styleScale))
    val samples: List<Sample> get() = loras.map { it.first }
    val canDraw: Boolean get() = (opening as? Opening.Ready)?.canDraw == true && !busy
}
