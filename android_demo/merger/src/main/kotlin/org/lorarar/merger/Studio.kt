package org.lorarar.merger

import java.io.File
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.Executor
import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicReference

/**
 * The app without its screens: opens the bundle, merges, draws, checks and measures, one after the other on a thread of its
 * own, and tells a new state for every change through [post], which is to call on the screens' thread.
 */
class Studio(
    private val places: StudioPlaces,
    private val runtimes: Runtimes,
    private val report: DeviceReport,
    private val version: String,
    private val memory: Memory? = null,
    private val threads: Int? = null,
    private val post: (() -> Unit) -> Unit,
) : StudioApi {
    private val worker = oneThread()
    private val aside = oneThread() // what nothing waits for
    private val importer = oneThread()
    private val kept = KeptPicture(KeptPicture.place(places.home))
    private val edits = ConcurrentLinkedQueue<StudioState.() -> StudioState>()
    private val isPosted = AtomicBoolean()
    private val toMeasure = ConcurrentHashMap<String, Sample>() // the last of each role
    private val toKeep = ConcurrentHashMap<String, Float>() // the last strength of each role
    private val catalogue = Catalogue(places.home, places.strangers)
    private val bundles = Bundles(places, runtimes) { stage, done, total -> opening(stage, done, total) }
    private val listeners = LinkedHashSet<(StudioState) -> Unit>()

    /** Read and written on the screens' thread. */
    override var state = StudioState()
        private set

    private var isBegun = false

    /** What is to be merged, until the worker takes it. */
    private val wanted = AtomicReference<StudioState?>()

    @Volatile
    private var pipeline: LoraRarPipeline? = null

    // On the worker's thread only.
    private var loaded: List<Sample>? = emptyList() // null: not known

    /** LoRAs that could not be loaded: they are not loaded again at each step of a slider. */
    @Volatile
    private var refused: List<Sample>? = null

    @Volatile
    private var bundle: Bundle? = null

    @Volatile
    private var benchmark: Benchmark? = null

    /** Whether the system is short of memory: a drawing that is under way looks at it too. */
    private val isShort = AtomicBoolean()

    @Volatile
    private var stopping = false

    /** How often the copying of LoRAs or bundles was stopped: of those that were asked for before. */
    private val importStops = AtomicInteger()

    init {
        catalogue.sweep() // before an import can be under way
    }

    override fun ask(command: Command) = when (command) {
        Command.Start -> start()
        Command.Retry -> retry()
        is Command.Open -> reopen { bundles.keep(command.bundle) }
        is Command.Choose -> pick(command.role, command.sample)
        is Command.Strength -> scale(command.role, command.scale)
        is Command.Import -> copyLora(command)
        is Command.Remove -> remove(command.role)
        Command.StopImport -> stopImports()
        is Command.AddBundle -> copyBundle(command.name, command.place)
        is Command.RemoveBundle -> reopen { bundles.remove(command.bundle) }
        Command.Merge -> {
            refused = null
            follow()
        }
        is Command.Draw -> draw(command)
        Command.Stop -> end()
        Command.Check -> checkAll()
        is Command.Measure -> measureTimes(BenchmarkPlan(command.component, threads = threads))
        Command.Leave -> withState { benchmark?.leave() }
        is Command.Acknowledge -> change { copy(complaints = complaints - command.said) }
        Command.Trim -> {
            isShort.set(true)
            work { trim() }
        }
    }

    override fun watch(listener: (StudioState) -> Unit) {
        listeners += listener
        listener(state)
    }

    override fun unwatch(listener: (StudioState) -> Unit) {
        listeners -= listener
    }

    /** A screen that comes back finds what is there, and what is being done, as it is. */
    private fun start() {
        if (isBegun) return
        isBegun = true
        val (content, style) = listOf(Catalogue.CONTENTS, Catalogue.STYLES).map { catalogue.strength(it) }
        change { copy(contentScale = content, styleScale = style) }
        begin()
    }

    private fun retry() = withState { now ->
        if (now.opening !is Opening.Failed) return@withState
        opening(Stage.STARTING, 0, 1) // so that a second tap does nothing
        begin()
    }

    private fun reopen(first: () -> Unit) = withState { now ->
        if (!now.ready || now.busy) return@withState
        opening(Stage.STARTING, 0, 1)
        change { copy(content = null, style = null, merge = null, carried = emptyMap(), rows = emptyList(), record = null) }
        work {
            pipeline?.close()
            pipeline = null
            first()
        }
        begin()
    }

    private fun begin() = work(onFailure = { sentence -> copy(opening = Opening.Failed(sentence)) }) {
        kept.get()?.let { picture -> change { copy(picture = this.picture ?: picture) } }
        places.scratch.listFiles()?.forEach { it.delete() } // stacks of a process that was killed
        bundles.sweep()
        Install(places.packaged, places.home).samples()
        change { copy(contents = catalogue.contents, styles = catalogue.styles) }
        pipeline?.close()
        pipeline = null
        loaded = emptyList()
        refused = null
        val found = bundles.open()
        val opened = found.bundle
        bundle = opened
        pipeline = LoraRarPipeline(opened, runtimes, places.scratch, threads, memory)
        choose(opened)
        val facts = opened.pipeline
        val ready = Opening.Ready(
            "${opened.base} · ${opened.target} · ${opened.precision}", opened.components.toList(), facts != null,
            facts?.steps ?: 1, opened.trained != false, found.choice, found.there, found.passedOver,
        )
        change { copy(opening = ready) }
        listOf(Catalogue.CONTENTS, Catalogue.STYLES).forEach { measure(it) }
    }

    /** Choose what was chosen last, else the first LoRAs, where the bundle takes them. */
    private fun choose(bundle: Bundle) {
        val content = catalogue.last(Catalogue.CONTENTS) { fit(bundle, listOf(it)) }
        val style = catalogue.last(Catalogue.STYLES) { fit(bundle, listOfNotNull(content, it)) }
        change { copy(content = this.content ?: content, style = this.style ?: style) }
    }

    private fun fit(bundle: Bundle, samples: List<Sample>): Boolean = try {
        Stack.sizes(bundle, samples.map { catalogue.read(it, values = false) })
        true
    } catch (_: Exception) {
        false
    }

    private fun copyBundle(name: String, place: String) {
        val goesOn = untilStopped()
        work(onFailure = { sentence -> copy(opening = Opening.Failed(sentence)) }) {
            try {
                bundles.add(name, place, goesOn) { done, total ->
                    change { copy(opening = Opening.Working(Stage.COPYING_THE_BUNDLE, done, total, canStop = true)) }
                }
            } catch (_: Stopped) {
                // What is there is opened.
            }
            begin()
        }
    }

    private fun stopImports() {
        importStops.incrementAndGet()
    }

    private fun untilStopped(): () -> Boolean = importStops.get().let { before -> { importStops.get() == before } }

    private fun pick(role: String, sample: Sample?) {
        catalogue.keep(role, sample)
        change {
            val chosen = if (role == Catalogue.CONTENTS) copy(content = sample) else copy(style = sample)
            chosen.copy(merge = null, carried = carried - role)
        }
        measure(role)
    }

    private fun scale(role: String, scale: Float) {
        change { if (role == Catalogue.CONTENTS) copy(contentScale = scale) else copy(styleScale = scale) }
        if (toKeep.put(role, scale) == null) work(aside) { catalogue.keep(role, toKeep.remove(role)!!) }
        follow()
    }

    private fun copyLora(wanted: Command.Import) {
        val goesOn = untilStopped()
        work(importer, onFailure = { copy(importing = null).complaining(it) }) {
            if (!goesOn()) return@work
            change { copy(importing = ImportView(wanted.name, 0, wanted.total)) }
            val sample = try {
                catalogue.import(wanted.role, wanted.name, wanted.place, wanted.config) { done ->
                    change { copy(importing = importing?.copy(done = done)) }
                    goesOn()
                }
            } catch (_: Stopped) {
                null
            }
            change { copy(importing = null, contents = catalogue.contents, styles = catalogue.styles) }
            sample?.let { pick(wanted.role, it) }
        }
    }

    private fun remove(role: String) = withState { now ->
        val sample = now.chosen(role)?.takeIf { it.isImported } ?: return@withState
        pick(role, null)
        work { // the next file may have its name
            if (sample in loaded.orEmpty()) loaded = null
            if (sample in refused.orEmpty()) refused = null
        }
        work(importer) {
            catalogue.remove(sample)
            change { copy(contents = catalogue.contents, styles = catalogue.styles) }
        }
    }

    private fun follow() = withState { chosen ->
        if (!chosen.canMerge || wanted.getAndSet(chosen) != null) return@withState
        work(onFailure = { sentence -> copy(merging = false).complaining(sentence) }) {
            val next = wanted.getAndSet(null)!!
            if (next.samples != refused) mergeNow(next)
        }
    }

    private fun draw(wanted: Command.Draw) = withState { chosen ->
        if (!chosen.canDraw) return@withState
        stoppable({ copy(drawing = DrawingView(Stage.MERGING, 0, 1)) }) {
            val start = wanted.composed?.takeIf { it.fits(wanted.prompt) }
            val request = Request.of(bundle!!, wanted.copy(composed = start))
            mergeNow(chosen)
            val drawn = pipeline!!.generate(request) { stage, done, total ->
                trim()
                change { copy(drawing = drawing?.copy(stage = stage, done = done, total = total)) }
                !stopping
            }
            val picture = PictureView.of(drawn, wanted, isComposed = start != null)
            kept.put(picture)
            change { copy(picture = picture) }
        }
    }

    /** Do what a user may stop; [begun] tells that it is under way. */
    private fun stoppable(begun: StudioState.() -> StudioState, task: () -> Unit) {
        stopping = false
        change { begun().copy(stopping = false) }
        work(onFailure = { sentence -> ended().complaining(sentence) }) {
            try {
                task()
            } catch (_: Stopped) {
                // Nothing is told: the user knows.
            }
            change { ended() }
        }
    }

    private fun trim() {
        if (isShort.getAndSet(false)) pipeline?.residency?.shrink()
    }

    private fun end() = withState { now ->
        if (!now.canStop) return@withState
        stopping = true
        change { copy(stopping = canStop) }
        pipeline?.stop()
        benchmark?.stop()
    }

    private fun checkAll() = withState { now ->
        if (!now.ready || now.busy) return@withState
        stoppable({ copy(checking = true, rows = emptyList()) }) {
            pipeline!!.check({ !stopping }) { row -> change { copy(rows = rows + row) } }
        }
    }

    private fun measureTimes(plan: BenchmarkPlan) = withState { now ->
        if (!now.ready || now.busy) return@withState
        val running = Benchmark(bundle!!, runtimes, places.scratch, report, version, hasWorked = true)
        benchmark = running
        stoppable({ copy(measuring = Stage.STARTING, record = null) }) {
            pipeline!!.residency.clearFor(plan.component)
            val record = running.run(plan) { stage -> change { copy(measuring = stage) } }
            change { copy(record = Json.write(record)) }
        }
    }

    /** End what runs, and give everything back; nothing can be asked any more. */
    fun close() {
        stopping = true
        stopImports()
        pipeline?.stop()
        benchmark?.stop()
        val threads = listOf(worker, aside, importer)
        threads.forEach { it.queue.clear() }
        worker.execute { pipeline?.close() }
        threads.forEach { it.shutdown() }
    }

    /** LoRAs stay loaded until others are chosen, so that another strength only writes coefficients. */
    private fun mergeNow(chosen: StudioState) {
        val samples = chosen.samples
        if (loaded != samples) load(samples)
        if (samples.isEmpty()) return change { copy(merging = false) }
        val start = System.nanoTime()
        val blender = pipeline!!.merge(chosen.loras.map { it.second })
        val seconds = (System.nanoTime() - start) * 1e-9
        val view = MergeView(seconds, pipeline!!.stack!!.rank, blender.means(bundle!!.learned))
        change { copy(merging = false, merge = if (this.samples == samples) view else merge) }
    }

    private fun load(samples: List<Sample>) {
        change { copy(merging = true) }
        loaded = null
        refused = samples
        pipeline!!.load(samples.map { catalogue.read(it) })
        refused = null
        loaded = samples
    }

    /** Measure what the bundle takes of a role's LoRA. */
    private fun measure(role: String) = withState { now ->
        val sample = now.chosen(role)
        val layout = bundle?.layout
        if (sample == null || layout == null) return@withState
        toMeasure[role] = sample
        work(aside, onFailure = { if (chosen(role) == sample) complaining(it) else this }) {
            if (toMeasure[role] != sample) return@work // it takes seconds, and another was chosen since
            val found = Carried.of(catalogue.read(sample), layout, sample.name)
            change { if (chosen(role) == sample) copy(carried = carried + (role to found)) else this }
        }
    }

    private fun opening(stage: Stage, done: Long, total: Long) = change { copy(opening = Opening.Working(stage, done, total)) }

    /** What was posted before the studio was closed may be called after it, when nothing can be asked any more. */
    private fun withState(act: (StudioState) -> Unit) = post {
        if (!worker.isShutdown) {
            settle() // else a second tap would find the state before the first
            act(state)
        }
    }

    /** Changes that come faster than the screens' thread shows them are told together. */
    private fun change(edit: StudioState.() -> StudioState) {
        edits += edit
        if (isPosted.compareAndSet(false, true)) post { showChanges() }
    }

    private fun showChanges() {
        isPosted.set(false)
        settle()
        listeners.toList().forEach { it(state) }
    }

    private fun settle() {
        while (true) state = (edits.poll() ?: break)(state)
    }

    private fun work(
        thread: Executor = worker, onFailure: StudioState.(Sentence) -> StudioState = { complaining(it) }, task: () -> Unit,
    ) = thread.execute {
        val sentence = try {
            task()
            null
        } catch (error: OutOfMemoryError) {
            said(error)
        } catch (error: Exception) {
            said(error)
        }
        if (sentence != null) change { onFailure(sentence) }
    }
}
