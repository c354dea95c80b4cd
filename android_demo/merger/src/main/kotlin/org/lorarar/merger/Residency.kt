package org.lorarar.merger

import java.io.Closeable
import java.io.File

/** What the system lets the app take. */
fun interface Memory {
    /** Bytes that can be taken before the system runs short. */
    fun available(): Long
}

/**
 * A bundle's networks and tokenizers that stay in memory between images.
 *
 * Before a network is loaded, those that were used longest ago are freed until [memory] has room for it, by what its
 * manifest says that it takes. Without [memory] one network is there at a time. Used on one thread; [stop] on any.
 */
class Residency(
    private val bundle: Bundle, private val runtimes: Runtimes, private val threads: Int? = null,
    private val memory: Memory? = null,
) : Closeable {
    private val kept = LinkedHashMap<String, Runtime>() // which was used last comes last
    private val tokenizers = HashMap<String, ClipTokenizer>()

    @Volatile
    private var working: Runtime? = null
    private var inUse: String? = null

    /** Networks loaded so far. */
    var loads = 0
        private set

    /** Tokenizers read so far. */
    var tokenizersRead = 0
        private set

    /** Names of the networks that are in memory. */
    val names: Set<String> get() = kept.keys.toSet()

    /** Work with a network, which is loaded first where it is not there. InputError where it can't be, or has no room. */
    fun <T> use(name: String, work: (Runtime) -> T): T {
        val runtime = kept.remove(name) ?: made(name)
        kept[name] = runtime
        working = runtime
        inUse = name
        try {
            return work(runtime)
        } finally {
            working = null
            inUse = null
            if (memory == null) shrink()
        }
    }

    /** The tokenizer of a text encoder. */
    fun tokenizer(name: String, entry: TokenizerEntry): ClipTokenizer = tokenizers.getOrPut(name) {
        tokenizersRead++
        ClipTokenizer.open(File(bundle.path, entry.file.file), entry)
    }

    /** End the run that is under way: it throws [Stopped] as soon as its runtime lets go of it. */
    fun stop() {
        working?.stop()
    }

    /** Free all networks for one that is to be loaded elsewhere. InputError where there is no room for it even then. */
    fun clearFor(name: String) {
        memory?.let { makeRoom(name, it) } // first, since the system counts what is freed later
        shrink()
    }

    /** Free every network but the one in use, where the system is short of memory or something else needs it. */
    fun shrink() = kept.keys.filter { it != inUse }.forEach { free(it) }

    override fun close() {
        shrink()
        tokenizers.clear()
    }

    private fun made(name: String): Runtime {
        val runtime = runtimes.open(bundle, name, threads)
        memory?.let { makeRoom(name, it) } ?: shrink()
        runtime.load()
        loads++
        return runtime
    }

    private fun makeRoom(name: String, memory: Memory) {
        val needed = needed(name)
        var free = memory.available()
        // The system counts freed pages later.
        while (free < needed && kept.isNotEmpty()) free += free(kept.keys.first())
        if (free < needed) {
            throw InputError(
                "%s: %s needs %s of memory, and this phone has %s free; close other apps, or %s",
                bundle.path, name, megabytes(needed), megabytes(free), smaller(),
            )
        }
    }

    /** What would need less. */
    private fun smaller(): Sentence = when (bundle.precision) {
        "w4" -> Sentence("export the bundle with a lower  --resolution")
        "w6" -> Sentence("export the bundle with  --precision w4")
        "w8" -> Sentence("export the bundle with  --precision w4  or a lower  --resolution")
        else -> Sentence("export the bundle with  --precision w8")
    }

    private fun free(name: String): Long {
        kept.remove(name)!!.close()
        return needed(name)
    }

    private fun needed(name: String): Long = (BESIDE * bundle.component(name).runningBytes).toLong()

    private fun megabytes(bytes: Long) = "${grouped(bytes / 1_000_000)} MB"

    private companion object {
        /** What a runtime's kernels take beside weights, inputs and results, such as weights in another order: a quarter. */
        const val BESIDE = 1.25
    }
}
