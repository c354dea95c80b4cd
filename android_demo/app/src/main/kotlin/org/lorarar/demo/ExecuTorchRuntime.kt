package org.lorarar.demo

import org.lorarar.merger.Component
import org.lorarar.merger.DType
import org.lorarar.merger.InputError
import org.lorarar.merger.OwningRuntime
import org.lorarar.merger.Size
import org.lorarar.merger.Tensor
import org.lorarar.merger.TensorSpec
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import java.nio.ByteOrder
import org.pytorch.executorch.DType as NativeDType
import org.pytorch.executorch.Tensor as NativeTensor

/** ExecuTorch with the delegates that the artifact was exported for. [version] is that of the library in the app. */
class ExecuTorchRuntime(component: Component, override val threads: Int?, override val version: String) :
    OwningRuntime<Module>(component) {
    override val name = "executorch"
    override var backend = "not loaded"
        private set

    override fun open(): Module {
        val module = Module.load(component.path.path, Module.LOAD_MODE_MMAP, threads ?: 0)
        try {
            module.loadMethod(METHOD)
            val backends = module.getMethodMetadata(METHOD).backends
            backend = backends.distinct().joinToString(" + ").ifEmpty { "portable kernels" }
            return module
        } catch (error: RuntimeException) {
            module.destroy()
            throw error
        }
    }

    override fun close(session: Module) = session.destroy()

    override fun execute(session: Module, inputs: Map<String, Tensor>): Map<String, Tensor> {
        val values = component.inputs.map { EValue.from(wrap(inputs.getValue(it.name))) }
        val outputs = session.forward(*values.toTypedArray())
        if (outputs.size != component.outputs.size) throw IllegalStateException("it gave ${outputs.size} outputs")
        return component.outputs.zip(outputs).associate { (spec, value) ->
            spec.name to copy(value.toTensor(), spec)
        }
    }

    private fun wrap(tensor: Tensor): NativeTensor {
        val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
        val view = tensor.buffer.duplicate().order(ByteOrder.nativeOrder())
        return when (tensor.dtype) {
            DType.FLOAT32 -> NativeTensor.fromBlob(view.asFloatBuffer(), shape)
            DType.INT32 -> NativeTensor.fromBlob(view.asIntBuffer(), shape)
            DType.FLOAT16 -> NativeTensor.fromBlob(view.asShortBuffer(), shape)
        }
    }

    private fun copy(value: NativeTensor, spec: TensorSpec): Tensor {
        val shape = value.shape().map { it.toInt() }
        val fits = shape.size == spec.shape.size && shape.zip(spec.shape).all { (have, want) ->
            want is Size.Named || have == (want as Size.Fixed).value
        }
        if (!fits || value.dtype() != OUTPUTS[spec.dtype]) {
            throw InputError("%s: %s is not as the manifest says; export the bundle again", component.path, spec.name)
        }
        val target = Tensor.zeros(spec.dtype, shape)
        val view = target.buffer.duplicate().order(ByteOrder.nativeOrder())
        if (spec.dtype == DType.FLOAT16) value.copyDataInto(view.asShortBuffer()) else value.copyDataInto(view.asFloatBuffer())
        return target
    }

    private companion object {
        const val METHOD = "forward"

        /** What an output may be. */
        val OUTPUTS = mapOf(DType.FLOAT32 to NativeDType.FLOAT, DType.FLOAT16 to NativeDType.HALF)
    }
}
