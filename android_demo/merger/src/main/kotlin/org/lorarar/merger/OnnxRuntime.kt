package org.lorarar.merger

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import ai.onnxruntime.NodeInfo
import ai.onnxruntime.TensorInfo

/** A session, and the options that have to outlive it. */
class OnnxSession(val session: OrtSession, val options: OrtSession.SessionOptions)

/** What runs a graph for ONNX Runtime in place of its own CPU kernels. */
interface OnnxProvider {
    val name: String
    val computeUnit: String

    fun addTo(options: OrtSession.SessionOptions, environment: OrtEnvironment)
}

/** ONNX Runtime, on the CPU unless there is a [provider]. */
class OnnxRuntime(
    component: Component, override val threads: Int?, private val provider: OnnxProvider? = null,
) : OwningRuntime<OnnxSession>(component) {
    private val environment by lazy {
        OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR).also { it.setTelemetry(false) }
    }
    private val guard = Any()
    private var running: OrtSession.RunOptions? = null
    override val name = "onnxruntime"
    override val version: String get() = environment.version
    override val backend = provider?.name ?: "CPUExecutionProvider"
    override val computeUnit = provider?.computeUnit ?: super.computeUnit

    override fun open(): OnnxSession {
        val options = OrtSession.SessionOptions()
        // It would plan a second run's results as one block, beside the memory of the first run's, which is kept.
        options.setMemoryPatternOptimization(false)
        threads?.let { options.setIntraOpNumThreads(it) }
        if (provider == null && component.isHalf && component.artifact.bytes > WIDEN_AT_LOAD) {
            options.addConfigEntry("optimization.disable_specified_optimizers", WIDENERS)
        }
        var made: OrtSession? = null
        try {
            provider?.addTo(options, environment)
            made = environment.createSession(graphFile().path, options)
            checkSignature(made)
            return OnnxSession(made, options)
        } catch (error: Exception) {
            made?.close()
            options.close()
            throw error
        }
    }

    override fun close(session: OnnxSession) {
        session.session.close()
        session.options.close()
    }

    override fun execute(session: OnnxSession, inputs: Map<String, Tensor>): Map<String, Tensor> {
        val resources = ArrayList<AutoCloseable>()
        val options = OrtSession.RunOptions()
        try {
            synchronized(guard) { running = options }
            val given = inputs.mapValues { (_, tensor) -> wrap(tensor).also { resources += it } }
            session.session.run(given, options).use { result ->
                return component.outputs.associate { spec ->
                    spec.name to copy(result.get(spec.name).get() as OnnxTensor, spec)
                }
            }
        } finally {
            synchronized(guard) { running = null }
            resources.forEach { it.close() }
            options.close()
        }
    }

    /** ONNX Runtime looks at this before each operator, and within loops. */
    override fun interrupt() = synchronized(guard) { running?.setTerminate(true) ?: Unit }

    private fun wrap(tensor: Tensor): OnnxTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        val type = when (tensor.dtype) {
            DType.FLOAT32 -> OnnxJavaType.FLOAT
            DType.FLOAT16 -> OnnxJavaType.FLOAT16
            DType.INT32 -> OnnxJavaType.INT32
        }
        val view = tensor.buffer.duplicate().order(tensor.buffer.order())
        return OnnxTensor.createTensor(environment, view, shape, type)
    }

    private fun copy(value: OnnxTensor, spec: TensorSpec): Tensor {
        val made = Tensor.zeros(spec.dtype, value.info.shape.map { it.toInt() })
        made.buffer.duplicate().put(value.byteBuffer)
        return made
    }

    private fun checkSignature(session: OrtSession) {
        val (inputs, outputs) = session.inputInfo to session.outputInfo
        for (spec in component.inputs) compare(spec, inputs[spec.name])
        for (spec in component.outputs) compare(spec, outputs[spec.name])
        val unknown = session.inputNames.firstOrNull { name -> component.inputs.none { it.name == name } }
        if (unknown != null) {
            throw InputError("%s: its input %s is not in the manifest; export the bundle again", component.path, unknown)
        }
    }

    private fun compare(spec: TensorSpec, node: NodeInfo?) {
        val info = node?.info as? TensorInfo
        val same = info != null && TYPES[info.type] == spec.dtype && info.shape.size == spec.shape.size &&
            info.shape.toList().zip(spec.shape).all { (have, want) ->
                want is Size.Named || have == (want as Size.Fixed).value.toLong()
            }
        if (!same) throw InputError("%s: %s is not as the manifest says; export the bundle again", component.path, spec.name)
    }

    private companion object {
        /** ONNX Runtime's CPU computes fp16 in fp32: widened at load, such weights take three times their file. */
        const val WIDEN_AT_LOAD = 2_000_000_000L
        const val WIDENERS = "ConstantFolding;FuseFp16InitializerToFp32NodeTransformer"
        val TYPES = mapOf(
            OnnxJavaType.FLOAT to DType.FLOAT32, OnnxJavaType.FLOAT16 to DType.FLOAT16, OnnxJavaType.INT32 to DType.INT32,
        )
    }
}
