package org.lorarar.merger

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtLoraAdapter
import ai.onnxruntime.OrtSession
import ai.onnxruntime.NodeInfo
import ai.onnxruntime.TensorInfo

/** A session, and the options that have to outlive it. */
class OnnxSession(val session: OrtSession, val options: OrtSession.SessionOptions)

/** ONNX Runtime on the CPU. */
class OnnxRuntime(component: Component, override val threads: Int?) : OwningRuntime<OnnxSession>(component) {
    private val environment by lazy {
        OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR).also { it.setTelemetry(false) }
    }
    override val name = "onnxruntime"
    override val version: String get() = environment.version
    override val backend = "CPUExecutionProvider"

    override fun open(): OnnxSession {
        val options = OrtSession.SessionOptions()
        threads?.let { options.setIntraOpNumThreads(it) }
        if (component.inputs.any { it.dtype == DType.FLOAT16 }) {
            options.addConfigEntry("optimization.disable_specified_optimizers", withoutInHalf().joinToString(";"))
        }
        var made: OrtSession? = null
        try {
            made = environment.createSession(graphFile().path, options)
            checkSignature(made)
            return OnnxSession(made, options)
        } catch (error: Exception) {
            made?.close()
            options.close()
            throw error
        }
    }

    /**
     * The optimizers that a graph in fp16 can't have. ONNX Runtime 1.29's fusing of fp16 initializers crashes on the empty
     * ones that are the factors' defaults, where the processor lacks fp16 and the graph is widened.
     */
    private fun withoutInHalf(): List<String> = listOfNotNull(
        "FuseFp16InitializerToFp32NodeTransformer",
        "ConstantFolding".takeIf { component.entry.whole("bytes") > WIDEN_AT_LOAD },
    )

    override fun close(session: OnnxSession) {
        session.session.close()
        session.options.close()
    }

    override fun execute(
        session: OnnxSession, inputs: Map<String, Tensor>, adapters: List<AdapterFile>, into: AdapterFile?,
    ): Map<String, Tensor> = runWith(session.session, inputs, adapters, into)

    private fun runWith(
        session: OrtSession, inputs: Map<String, Tensor>, adapters: List<AdapterFile>, into: AdapterFile?,
    ): Map<String, Tensor> {
        val resources = ArrayList<AutoCloseable>()
        try {
            // A graph of fixed rank has its factors among the plain inputs.
            val (plain, named) = adapters.partition { file -> file.tensors.keys.all { it in session.inputNames } }
            val tensors = (plain.map { it.tensors } + inputs).flatMap { it.entries }.associate { (name, tensor) ->
                name to wrap(tensor).also { resources += it }
            }
            val options = OrtSession.RunOptions().also { resources += it }
            for (file in named) {
                options.addActiveLoraAdapter(OrtLoraAdapter.create(file.path.absolutePath).also { resources += it })
            }
            val pinned = into?.tensors.orEmpty().filterKeys { it in session.outputNames }
            val places = pinned.mapValues { (_, tensor) -> wrap(tensor).also { resources += it } }
            val others = session.outputNames - pinned.keys
            session.run(tensors, others, places, options).use { result ->
                return component.outputs.associate { spec ->
                    spec.name to (pinned[spec.name] ?: copy(result.get(spec.name).get() as OnnxTensor, spec))
                }
            }
        } finally {
            resources.asReversed().forEach { it.close() }
        }
    }

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

    /** Factors that have a default are no inputs of a session: the runtime itself refuses those that don't fit. */
    private fun checkSignature(session: OrtSession) {
        for (spec in component.inputs) session.inputInfo[spec.name]?.let { compare(spec, it) }
        val outputs = session.outputInfo
        for (spec in component.outputs) compare(spec, outputs[spec.name])
        val unknown = session.inputNames.firstOrNull { name -> component.inputs.none { it.name == name } }
        if (unknown != null) {
            throw InputError("${component.path}: its input $unknown is not in the manifest; export the bundle again")
        }
    }

    private fun compare(spec: TensorSpec, node: NodeInfo?) {
        val info = node?.info as? TensorInfo
        val same = info != null && TYPES[info.type] == spec.dtype && info.shape.size == spec.shape.size &&
            info.shape.toList().zip(spec.shape).all { (have, want) ->
                want is Size.Named || have == (want as Size.Fixed).value.toLong()
            }
        if (!same) throw InputError("${component.path}: ${spec.name} is not as the manifest says; export the bundle again")
    }

    private companion object {
        /** ONNX Runtime's CPU computes fp16 in fp32: widened at load, such weights take three times their file. */
        const val WIDEN_AT_LOAD = 2_000_000_000L
        val TYPES = mapOf(
            OnnxJavaType.FLOAT to DType.FLOAT32, OnnxJavaType.FLOAT16 to DType.FLOAT16, OnnxJavaType.INT32 to DType.INT32,
        )
    }
}
