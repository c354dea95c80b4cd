package org.lorarar.merger

import org.junit.After
import org.junit.Assert.assertTrue
import org.junit.Before
import java.io.File
import java.io.InputStream
import java.io.RandomAccessFile
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

/** The whole app without its screens, on a folder that stands for its assets. */
abstract class StudioCase {
    protected val folder = File(TestData.results, "studio")
    protected val assets = File(folder, "assets")
    protected val posted = LinkedBlockingQueue<() -> Unit>()
    protected lateinit var studio: Studio

    /** Other apps' files: by their paths, but for those that a test makes up. */
    protected val made = HashMap<String, () -> InputStream>()

    protected val folders = HashMap<String, Packaged>()

    /** Those that stay where they are. */
    protected val mapped = HashMap<String, File>()
    protected val released = ArrayList<String>()
    private val strangers = object : Strangers {
        override fun open(place: String) = made[place]?.invoke() ?: File(place).inputStream()

        override fun map(place: String) = mapped[place]?.let { RandomAccessFile(it, "r").channel }

        override fun release(place: String) = Unit.also { released += place }

        override fun folder(place: String) = folders[place] ?: PackagedFolder(File(place))
    }

    /** What was run, and what was freed, by the parts' names. */
    protected val ran = ConcurrentLinkedQueue<String>()
    protected val freed = ConcurrentLinkedQueue<String>()

    /** Called with a part's name before each of its runs. */
    @Volatile
    protected var beforeRun: (String) -> Unit = {}

    private inner class Counted(private val inner: Runtime) : Runtime by inner {
        override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
            beforeRun(component.name)
            return inner.run(inputs).also { ran += component.name }
        }

        override fun close() = inner.close().also { freed += component.name }
    }

    @Before
    fun install() {
        folder.deleteRecursively()
        File(TestData.exported, "onnx/bundle").copyRecursively(File(assets, "bundles/onnx"))
        for ((role, name) in listOf("contents" to "content", "styles" to "style")) {
            val sample = File(assets, "samples/$role/teapot_1.safetensors")
            File(TestData.exported, "onnx/loras/$name.safetensors").copyTo(sample)
            File(sample.parentFile, "teapot_1.png").writeText("a picture")
        }
        studio = studio()
    }

    @After
    fun close() = studio.close()

    protected fun studio(packaged: Packaged = PackagedFolder(assets)): Studio {
        val counted = RuntimeFactory { part, threads -> Counted(OnnxRuntime(part, threads)) }
        val runtimes = Runtimes(mapOf("onnx" to counted))
        return Studio(places(packaged), runtimes, FakePhone, "0.1.0", Memory { Long.MAX_VALUE }, 1) { posted.put(it) }
    }

    protected fun places(packaged: Packaged = PackagedFolder(assets)) =
        StudioPlaces(File(folder, "home"), File(folder, "scratch"), File(folder, "side-loaded"), packaged, strangers)

    /** Open the bundle that is there. */
    protected fun start() {
        studio.ask(Command.Start)
        until("ready") { it.ready }
    }

    /** Do what is posted, as a screens' thread does, until the state is as wanted. */
    protected fun until(what: String, wanted: (StudioState) -> Boolean): StudioState {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60)
        while (!(posted.isEmpty() && wanted(studio.state))) {
            posted.poll(100, TimeUnit.MILLISECONDS)?.invoke()
            assertTrue("$what: ${studio.state}", System.nanoTime() < end)
        }
        return studio.state
    }
}
