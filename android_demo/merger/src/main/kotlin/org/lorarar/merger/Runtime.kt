package org.lorarar.merger

import java.io.Closeable
import java.io.File
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * One component in one runtime. It owns the native session: it loads at the first use, runs one call at a time, and is
 * gone after [close]; a later use loads again.
 */
interface Runtime : Closeable {
    /** The record's name of the runtime: onnxruntime or executorch. */
    val name: String
    val version: String

    /** What runs the graph: an execution provider or a delegate. */
    val backend: String

    /** The record's name of what computes: cpu or npu. */
    val computeUnit: String get() = "cpu"

    /** null where the runtime chooses. */
    val threads: Int?
    val component: Component

    /** Seconds that the last load took; null before the first. */
    val loadSeconds: Double?

    /** Load now, if it is not loaded. InputError when the artifact is not one that this runtime takes. */
    fun load()

    /** Run once. InputError names a missing, unknown or misshapen input, or says what the runtime said. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor>

    /** End the run that is under way, from another thread: as soon as the runtime lets go of it, it throws [Stopped]. */
    fun stop() = Unit
}

/** The user stopped what was under way. */
class Stopped : Exception()

/** Makes the runtime of a component; nothing is loaded yet. [threads] null leaves their number to the runtime. */
fun interface RuntimeFactory {
    fun create(component: Component, threads: Int?): Runtime

    /** Why the runtime can't run a bundle here, by its valid manifest alone; null where nothing is known against it. */
    fun refusal(manifest: Manifest): Sentence? = null
}

/** The runtimes of an app, by the manifest's target. */
class Runtimes(private val byTarget: Map<String, RuntimeFactory>) {
    /** The runtime of a bundle's component. InputError where [refusal] is not null. */
    fun open(bundle: Bundle, component: String, threads: Int? = null): Runtime {
        refusal(bundle.manifest)?.let { throw InputError("%s: %s", bundle.path, it) }
        return byTarget.getValue(bundle.target).create(bundle.component(component), threads)
    }

    /** Why a bundle can't be run here, by its valid manifest alone; null where nothing is known against it. */
    fun refusal(manifest: Manifest): Sentence? {
        val target = manifest.target
        val factory = byTarget[target] ?: return Sentence(
            "this app runs %s, not %s; export it with  lorarar export pipeline --target %s",
            byTarget.keys.joinToString(), target, byTarget.keys.first(),
        )
        return factory.refusal(manifest)
    }
}

/** What both runtimes share: the life of a session of type [S], and the checks of what goes in. */
abstract class OwningRuntime<S : Any>(final override val component: Component) : Runtime {
    private val lock = ReentrantLock()
    private var session: S? = null

    @Volatile
    private var stopping = false
    final override var loadSeconds: Double? = null
        private set

    /** Load the artifact and compare it with the manifest. Anything that it throws becomes one sentence. */
    protected abstract fun open(): S

    protected abstract fun close(session: S)

    /** The tensors are checked. */
    protected abstract fun execute(session: S, inputs: Map<String, Tensor>): Map<String, Tensor>

    /** Let the running [execute] fail, where the runtime can; called on any thread. */
    protected open fun interrupt() = Unit

    final override fun load() {
        lock.withLock { loaded() }
    }

    final override fun run(inputs: Map<String, Tensor>): Map<String, Tensor> = lock.withLock {
        checkInputs(inputs)
        val session = loaded()
        stopping = false
        explained(Sentence("run")) { execute(session, inputs) }
    }

    final override fun stop() {
        stopping = true
        interrupt()
    }

    final override fun close() {
        lock.withLock {
            session?.let { close(it) }
            session = null
        }
    }

    private fun loaded(): S {
        session?.let { return it }
        val start = System.nanoTime()
        return explained(Sentence("load")) { open() }.also {
            session = it
            loadSeconds = (System.nanoTime() - start) * 1e-9
        }
    }

    private fun <T> explained(verb: Sentence, work: () -> T): T = try {
        work()
    } catch (error: InputError) {
        throw error
    } catch (error: Exception) { // each runtime raises classes of its own, all of them unrelated
        if (stopping) throw Stopped()
        val said = shorten((error.message ?: error.javaClass.simpleName).lineSequence().first(), 200)
        throw InputError("%s: %s can't %s it (%s); export the bundle again", component.path, name, verb, said)
    } catch (error: LinkageError) {
        throw InputError(
            "%s's library can't be used here (%s); install the app again",
            name, shorten(error.message.toString(), 200),
        )
    }

    private fun checkInputs(given: Map<String, Tensor>) {
        val known = component.inputs.map { it.name }
        val wrong = given.keys.firstOrNull { it !in known }?.let { Sentence("no input %s", it) }
            ?: known.firstOrNull { it !in given }?.let { Sentence("got no %s", it) }
        if (wrong != null) throw InputError("%s has %s; its inputs are listed in manifest.json", component.name, wrong)
        val sizes = HashMap<String, Int>()
        for (spec in component.inputs) checkShape(spec, given.getValue(spec.name), sizes)
    }

    /** A size given by name may be anything, but the same in every input. */
    private fun checkShape(spec: TensorSpec, tensor: Tensor, sizes: MutableMap<String, Int>) {
        val fits = tensor.dtype == spec.dtype && tensor.shape.size == spec.shape.size &&
            tensor.shape.zip(spec.shape).all { (have, want) ->
                have == if (want is Size.Named) sizes.getOrPut(want.name) { have } else (want as Size.Fixed).value
            }
        if (!fits) {
            throw InputError(
                "%s: %s is %s of shape %s, it needs %s of shape %s",
                component.name, spec.name, tensor.dtype, tensor.shape, spec.dtype, spec.shape,
            )
        }
    }

    /** The file of a graph; ONNX artifacts whose weights are too large for one file are a folder. */
    protected fun graphFile(): File =
        if (component.path.isDirectory) File(component.path, "model.onnx") else component.path
}
