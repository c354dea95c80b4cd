package org.lorarar.merger

/** One image to draw. */
class Request(
    val prompt: String,
    val seed: Long = 0,
    val steps: Int,
    /** Classifier-free guidance; 1 turns it off. */
    val guidance: Float,
    /** null: what the base was made for, zeros or the empty prompt. */
    val negative: String? = null,
    /** What guidance compares with is predicted without LoRAs (ACFG). */
    val guidanceWithoutLora: Boolean = false,
    /** The first steps with each LoRA alone; null: all with the merge. */
    val composed: ComposedStart? = null,
    /** How much of what guidance adds to the spread is taken off, 0 to 1. */
    val guidanceRescale: Float = 0f,
) {
    /** InputError for numbers that are not possible. */
    fun check() {
        if (seed !in 0..Noise.MAX_SEED) throw InputError("the seed %s is out of range; valid are 0 to %s", seed, Noise.MAX_SEED)
        if (!guidance.isFinite() || guidance < 1) {
            throw InputError("a guidance of %s is not possible; give 1 (off) or more, 3 to 7 are usual", guidance)
        }
        if (guidanceRescale !in 0f..1f) {
            throw InputError("a guidance rescale of %s is not possible; give 0 (off) to 1", guidanceRescale)
        }
        if (negative != null && guidance == 1f) {
            throw InputError("a negative prompt means nothing without guidance; give a guidance above 1, or leave it out")
        }
        composed?.check(prompt)
    }

    companion object {
        /** What a screen asks for, with the bundle's own guidance and its rescaling. */
        fun of(bundle: Bundle, wanted: Command.Draw): Request {
            val facts = Drawing.facts(bundle)
            return with(wanted) {
                Request(prompt, seed, steps, facts.guidance, null, guidanceWithoutLora, composed, facts.guidanceRescale)
            }
        }
    }
}

/** An image in [0, 1], channels first, the latents it was decoded from, seconds by stage, and what a user must know. */
class Drawn(
    val pixels: Tensor, val latents: FloatArray, val seconds: Map<String, Double>, val notes: List<Sentence>,
) {
    val height: Int get() = pixels.shape[2]
    val width: Int get() = pixels.shape[3]

    /** The image as 0xAARRGGBB, rows first. */
    fun argb(): IntArray {
        val values = pixels.floats()
        val area = width * height
        fun byte(at: Int): Int = Math.rint((values[at] * 255f).toDouble()).toInt().coerceIn(0, 255)
        return IntArray(area) { at ->
            (0xff shl 24) or (byte(at) shl 16) or (byte(area + at) shl 8) or byte(2 * area + at)
        }
    }
}

/** Hears of a drawing's stage, how many of its steps are done of how many; drawing stops when it returns false. */
typealias Progress = (stage: Stage, done: Int, total: Int) -> Boolean

/**
 * Text to image with a bundle alone: text encoders, the UNet in the scheduler's loop, the VAE's decoder.
 *
 * What the last prompt was read as is kept: another seed reads nothing.
 */
internal class Drawing(private val bundle: Bundle, private val residency: Residency) {
    private val facts = facts(bundle)
    private val text = TextCondition(bundle, residency)
    private val seconds = LinkedHashMap<String, Double>()

    /**
     * Draw one image with these inputs; a network that takes no LoRA gets none.
     *
     * Raises InputError for a request that is not possible or a bundle that overflows, Stopped when [progress] says so.
     */
    fun draw(request: Request, inputs: Inputs, progress: Progress): Drawn {
        request.check()
        val scheduler = Scheduler.make(facts.scheduler, request.steps)
        seconds.clear()
        val told = timed("text") { text.read(request, facts, inputs, progress) }
        val latents = loop(request, scheduler, told, inputs, progress)
        return Drawn(decode(latents, progress), latents, LinkedHashMap(seconds), told.notes)
    }

    private fun loop(
        request: Request, scheduler: Scheduler, told: Condition, inputs: Inputs, progress: Progress,
    ): FloatArray {
        if ("unet" !in residency.names) report(progress, Stage.LOADING_THE_UNET, 0, 1)
        val start = System.nanoTime()
        return residency.use("unet") { runtime ->
            seconds["load the UNet"] = (System.nanoTime() - start) * 1e-9
            steps(runtime, request, scheduler, told, inputs, progress)
        }
    }

    private fun steps(
        runtime: Runtime, request: Request, scheduler: Scheduler, told: Condition, inputs: Inputs, progress: Progress,
    ): FloatArray {
        val step = Step(runtime, told, inputs, request, facts.pixels.toFloat())
        val noise = Noise.normal(step.elements, request.seed)
        return timed("steps") {
            var latents = scheduler.start(noise)
            for ((i, time) in scheduler.timesteps.withIndex()) {
                report(progress, Stage.DRAWING, i, scheduler.timesteps.size)
                latents = scheduler.step(step.predict(scheduler.scale(latents, i), time, i), i, latents)
            }
            latents
        }.also(::requireFinite)
    }

    private fun decode(latents: FloatArray, progress: Progress): Tensor =
        residency.use("vae_decoder") { runtime ->
            report(progress, Stage.DECODING, 0, 1)
            val spec = runtime.component.input("latents")
            val (height, width) = bundle.component("unet").input("sample").shape.fixed().takeLast(2)
            val pixels = timed("decode") {
                Tiles.decode(latents, height, width, spec.shape.fixed().last()) { part ->
                    val input = Tensor.of(part, spec.shape.fixed(), spec.dtype)
                    runtime.run(mapOf("latents" to input)).getValue("image")
                }
            }
            pixels.also { requireFinite(it.floats()) }
        }

    /** Refuses latents or pixels with NaN or ∞. The decoder's own clamp makes a picture of some such latents. */
    private fun requireFinite(values: FloatArray) {
        if (values.all(Float::isFinite)) return
        val mend = if (bundle.component("unet").isHalf) {
            Sentence("this bundle's precision overflows; export it in fp32, which all targets but QNN have")
        } else {
            Sentence("use smaller strengths or less guidance")
        }
        throw NotFinite(Sentence("the image is not finite: %s", mend))
    }

    private fun <T> timed(stage: String, work: () -> T): T {
        val start = System.nanoTime()
        return work().also { seconds[stage] = (System.nanoTime() - start) * 1e-9 }
    }

    companion object {
        /** The manifest's `pipeline`. InputError for a bundle that can't draw. */
        fun facts(bundle: Bundle): PipelineFacts = bundle.pipeline ?: throw InputError(
            "%s: this bundle can't draw, it holds %s alone; make a whole one with  lorarar export pipeline",
            bundle.path, bundle.components.joinToString(),
        )

        internal fun report(progress: Progress, stage: Stage, done: Int, total: Int) {
            if (!progress(stage, done, total)) throw Stopped()
        }
    }
}
