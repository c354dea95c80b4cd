package org.lorarar.merger

import java.io.Closeable
import java.io.File

/**
 * A bundle at work: LoRAs are loaded and merged, images are generated with them, and every part is checked. This is what an app
 * embeds; the bundle is opened by [Bundle.open], and the runtimes are those whose libraries the app has.
 *
 * Loading stacks the LoRAs once, in a file in [folder]. A merge then writes coefficients alone: the hypernetwork runs once for
 * each pair. Networks stay in memory as long as [memory] has room; without it, one is there at a time. Everything is called on
 * one thread, but for [stop].
 */
class LoraRarPipeline(
    private val bundle: Bundle, private val runtimes: Runtimes, private val folder: File, threads: Int? = null,
    memory: Memory? = null,
) : Closeable {
    /** The networks that are in memory. */
    val residency = Residency(bundle, runtimes, threads, memory)
    private val drawing by lazy { Drawing(bundle, residency) }
    private var blender: Blender? = null
    private var inputs: Inputs? = null
    private var strengths: List<Float> = emptyList()

    /** Whether the LoRAs of before are gone, and the others could not be stacked. */
    private var isLost = false

    /** The LoRAs as the artifacts take them; null before the first are loaded. */
    var stack: Stack? = null
        private set

    /**
     * Choose the LoRAs, in the place of those chosen before: a content and a style, then others beside them; none gives the
     * base. InputError as [Stack.of]; LoRAs that do not fit leave those of before as they are.
     */
    fun load(loras: List<Lora>) {
        val isStacked = loras.isNotEmpty() || bundle.roles != null
        if (isStacked) Stack.sizes(bundle, loras)
        unload() // first: two stacks of a large base would not fit in a phone's memory
        isLost = loras.isNotEmpty()
        if (isStacked) stack = Stack.of(bundle, loras, folder)
        isLost = false
        strengths = List(loras.size) { 1f }
    }

    /**
     * Merge: write the coefficients for strengths, one for each LoRA; 1 is the paper's. What is drawn from now on has them.
     *
     * InputError when nothing is loaded, for a strength that is not finite, and when the hypernetwork can't be run.
     */
    fun merge(strengths: List<Float>): Blender {
        val loaded = stack ?: throw notLoaded()
        return (blender ?: blend(loaded)).also {
            blender = it
            it.write(strengths)
            this.strengths = strengths
            inputs = null
        }
    }

    /**
     * Generate an image: the base where no LoRA is loaded, else the base with the last merge, or with strengths of 1.
     *
     * InputError for a request that is not possible or a bundle that overflows, Stopped when [progress] or [stop] says so.
     */
    fun generate(request: Request, progress: Progress): Drawn {
        if (isLost) throw notLoaded()
        if (request.composed != null && strengths.size < 2) throw ComposedStart.notTwo()
        return drawing.draw(request, inputs(), progress)
    }

    /**
     * Run every part on its golden inputs and compare with PyTorch's outputs, the golden image too; [each] hears of a row when
     * it is done. Networks that wait for the next image are freed first. Stopped when [goesOn] or [stop] says so.
     */
    fun check(goesOn: () -> Boolean = { true }, each: (CheckRow) -> Unit): List<CheckRow> {
        residency.shrink()
        return Check(bundle, residency, folder).all(goesOn, each)
    }

    /** End the run that is under way, from any thread: at ONNX Runtime's next operator, at another runtime's next step. */
    fun stop() = residency.stop()

    /** Remove the stack, and free the networks. */
    override fun close() {
        unload()
        residency.close()
    }

    private fun notLoaded() = InputError("no LoRA is loaded; load a content and a style LoRA first")

    private fun unload() {
        stack?.close()
        stack = null
        blender = null
        inputs = null
    }

    /** The same object as long as nothing is loaded or merged. */
    private fun inputs(): Inputs = inputs ?: newInputs().also { inputs = it }

    private fun newInputs(): Inputs {
        if (stack == null && bundle.roles == null) return Inputs(emptyMap(), emptyMap())
        if (stack == null) load(emptyList())
        val loaded = stack!!
        val merged = blender ?: merge(List(loaded.loras.size) { 1f })
        return Inputs(loaded.inputs, merged.values) { alone(loaded, it) }
    }

    /** The coefficients of a composed start's rows: of one LoRA, or of none of the two, each beside the others. */
    private fun alone(loaded: Stack, share: Share): Map<String, FloatArray> {
        val on = listOf(share == Share.CONTENT, share == Share.STYLE)
        val given = strengths.mapIndexed { number, strength -> if (on.getOrElse(number) { true }) strength else 0f }
        return Blender(loaded, 1f).apply { write(given) }.values
    }

    private fun blend(loaded: Stack): Blender =
        if (loaded.loras.size < 2) Blender(loaded, bundle.rule) else Blender(loaded, bundle.rule, predict(loaded))

    private fun predict(loaded: Stack): Map<String, Tensor> = residency.use("hypernet") { hypernet ->
        val outputs = hypernet.run(hypernet.component.inputs.associate { it.name to loaded.inputs.getValue(it.name) })
        if (outputs.values.any { tensor -> tensor.floats().any { !it.isFinite() } }) {
            throw if (hypernet.component.isHalf) {
                InputError("the coefficients are not finite in this bundle's precision; use fp32")
            } else {
                InputError("the coefficients are not finite for these LoRAs; choose others")
            }
        }
        outputs
    }
}
