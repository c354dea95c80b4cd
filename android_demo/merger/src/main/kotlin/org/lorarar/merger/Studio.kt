package org.lorarar.merger

import java.io.File
import java.io.InputStream
import java.util.concurrent.Executors

/** Where a studio finds and keeps things. */
class StudioPlaces(
    /** Survives: bundles and LoRAs. */
    val home: File,
    /** May be emptied by the system: adapters. */
    val scratch: File,
    /** Bundles that were copied to the phone by hand; the first is used in place of the app's own. */
    val sideLoaded: File?,
    val packaged: Packaged,
)

/**
 * The app without its screens: opens the bundle, merges, draws, checks and measures, one after the other on a thread of its
 * own, and tells a new state for every change through [post], which is to call on the screens' thread.
 */
class Studio(
    private val places: StudioPlaces,
    private val runtimes: Runtimes,
    private val report: DeviceReport,
    private val version: String,
    private val post: (() -> Unit) -> Unit,
) {
    private val worker = Executors.newSingleThreadExecutor()
    private val catalogue = Catalogue(places.home)
    private val listeners = LinkedHashSet<(StudioState) -> Unit>()

    /** Read and written on the screens' thread. */
    var state = StudioState()
        private set

    // On the worker's thread only.
    private var bundle: Bundle? = null
    private var merger: Merger? = null
    private var merged: Merged? = null
    private var mergedOf: Any? = null
    private val prepared = HashMap<String, Packed>()

    @Volatile
    private var stopping = false

    /** Hear of every state from now on, and of this one at once. */
    fun watch(listener: (StudioState) -> Unit) {
        listeners += listener
        listener(state)
    }

    fun unwatch(listener: (StudioState) -> Unit) {
        listeners -= listener
    }

    /** Find, verify and open the bundle, and load its merger. */
    fun start() = work(onFailure = { sentence -> copy(opening = Opening.Failed(sentence)) }) {
        places.scratch.listFiles()?.forEach { it.delete() } // adapters of a process that was killed
        val install = Install(places.packaged, places.home)
        install.samples()
        change { copy(contents = catalogue.contents, styles = catalogue.styles) }
        change { copy(content = contents.firstOrNull(), style = styles.firstOrNull()) }
        val folder = sideLoaded() ?: install.bundle { done, total -> opening("copying the bundle", done, total) }
        val opened = Bundle.open(folder) { done, total -> opening("verifying the bundle", done, total) }
        opening("loading the merger", 0, 1)
        val made = Merger(opened, runtimes.open(opened, "merger"), places.scratch)
        made.load()
        bundle = opened
        merger = made
        val facts = opened.pipeline
        val ready = Opening.Ready(
            "${opened.base} · ${opened.target} · ${opened.precision}", opened.components.toList(), facts != null,
            facts?.whole("steps")?.toInt() ?: 1, opened.trained ?: false,
        )
        change { copy(opening = ready) }
    }

    fun choose(role: String, sample: Sample) = change {
        if (role == Catalogue.CONTENTS) copy(content = sample, merge = null) else copy(style = sample, merge = null)
    }

    /** Set a strength: 1 is the paper. */
    fun strength(role: String, scale: Float) = change {
        if (role == Catalogue.CONTENTS) copy(contentScale = scale, merge = null) else copy(styleScale = scale, merge = null)
    }

    /** Import a LoRA and choose it. */
    fun import(role: String, name: String, stream: () -> InputStream) = work {
        val sample = catalogue.import(role, name, stream)
        change { copy(contents = catalogue.contents, styles = catalogue.styles) }
        choose(role, sample)
    }

    /** Merge what is chosen. */
    fun merge() = withState { chosen ->
        if (!chosen.canMerge) return@withState
        change { copy(merging = true, complaint = null) }
        work(onFailure = { sentence -> copy(merging = false, complaint = sentence) }) {
            mergeNow(chosen)
            change { copy(merging = false) }
        }
    }

    /** Draw with what is chosen, which is merged first where it has changed. */
    fun draw(prompt: String, steps: Int, seed: Long) = withState { chosen ->
        if (!chosen.canDraw) return@withState
        stopping = false
        change { copy(drawing = DrawingView("merging", 0, 1), complaint = null) }
        work(onFailure = { sentence -> copy(drawing = null, complaint = sentence) }) {
            val opened = bundle!!
            val adapter = if (chosen.canMerge) mergeNow(chosen) else null
            merger!!.close() // a large one must make room for the UNet, and loads again for the next merge
            val request = Request.of(opened, prompt).with(steps, seed)
            val drawn = try {
                Pipeline(opened, runtimes, places.scratch).draw(request, adapter) { stage, done, total ->
                    change { copy(drawing = DrawingView(stage, done, total)) }
                    !stopping
                }
            } catch (_: Stopped) {
                change { copy(drawing = null) }
                return@work
            }
            val picture = PictureView(drawn.width, drawn.height, drawn.argb(), drawn.notes, drawn.seconds.values.sum())
            change { copy(drawing = null, picture = picture) }
        }
    }

    /** Stop drawing after the step that runs. */
    fun stop() {
        stopping = true
    }

    /** Run every part on its golden inputs. */
    fun check() = withState { now ->
        if (!now.ready || now.busy) return@withState
        change { copy(checking = true, rows = emptyList(), complaint = null) }
        work(onFailure = { sentence -> copy(checking = false, complaint = sentence) }) {
            Check(bundle!!, runtimes, places.scratch).all { row -> change { copy(rows = rows + row) } }
            change { copy(checking = false) }
        }
    }

    /** Measure one component. */
    fun benchmark(plan: BenchmarkPlan) = withState { now ->
        if (!now.ready || now.busy) return@withState
        change { copy(measuring = "starting", record = null, complaint = null) }
        work(onFailure = { sentence -> copy(measuring = null, complaint = sentence) }) {
            val benchmark = Benchmark(bundle!!, runtimes, places.scratch, report, version)
            val record = benchmark.run(plan) { what -> change { copy(measuring = what) } }
            change { copy(measuring = null, record = Json.write(record)) }
        }
    }

    /** The complaint has been read. */
    fun acknowledge() = change { copy(complaint = null) }

    /** Give everything back; nothing can be asked any more. */
    fun close() {
        worker.execute {
            (listOf(merger, merged) + prepared.values).forEach { it?.close() }
        }
        worker.shutdown()
    }

    private fun sideLoaded(): File? = places.sideLoaded?.listFiles()
        ?.filter { File(it, Bundle.MANIFEST).isFile }?.minByOrNull { it.name }

    private fun mergeNow(chosen: StudioState): Merged {
        val key = listOf(chosen.content, chosen.style, chosen.contentScale, chosen.styleScale)
        merged?.takeIf { mergedOf == key }?.let { return it }
        val content = prepare("content", chosen.content!!)
        val style = prepare("style", chosen.style!!)
        val made = merger!!.merge(content, style, chosen.contentScale, chosen.styleScale)
        merged?.close()
        merged = made
        mergedOf = key
        val warnings = listOf(content, style).flatMap { it.lora.warnings + listOfNotNull(it.warning()) }
        val view = MergeView(made.seconds, made.rank, warnings, made.coefficients)
        change { copy(merge = view) }
        return made
    }

    /** The LoRA of each role stays prepared until another is chosen for it. */
    private fun prepare(role: String, sample: Sample): Packed {
        prepared[role]?.let { if (it.lora.source == sample.file.path) return it else it.close() }
        prepared.remove(role)
        return merger!!.prepare(role, LoraReader.read(sample.file)).also { prepared[role] = it }
    }

    private fun opening(what: String, done: Long, total: Long) = change { copy(opening = Opening.Working(what, done, total)) }

    private fun withState(act: (StudioState) -> Unit) = post { act(state) }

    private fun change(edit: StudioState.() -> StudioState) = post {
        state = state.edit()
        listeners.toList().forEach { it(state) }
    }

    private fun work(
        onFailure: StudioState.(String) -> StudioState = { copy(complaint = it) }, task: () -> Unit,
    ) = worker.execute {
        val sentence = try {
            task()
            null
        } catch (error: InputError) {
            error.message
        } catch (error: OutOfMemoryError) {
            "this phone has too little memory for that; close other apps, or use LoRAs of lower rank"
        } catch (error: Exception) {
            "unexpected: ${shorten(error.toString(), 200)}; please report it"
        }
        if (sentence != null) change { onFailure(sentence) }
    }
}
