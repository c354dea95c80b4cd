package org.pytorch.executorch

/** Stands in for ExecuTorch's own, whose library can't be loaded on a computer. A test says what it computes. */
class Module private constructor(val path: String?, val threads: Int) {
    var destroyed = false
        private set

    /** Since version 1.3 a method that can't be loaded is an exception; before, its number was returned. */
    fun loadMethod(methodName: String) {
        if (methodName != "forward" || refuses) throw IllegalStateException("no such operator")
    }

    fun getMethodMetadata(name: String) = MethodMetadata(name, arrayOf("XnnpackBackend", "XnnpackBackend"))

    fun forward(vararg inputs: EValue): Array<EValue> =
        compute(inputs.map { it.toTensor() }).map { EValue.from(it) }.toTypedArray()

    fun destroy() {
        destroyed = true
    }

    companion object {
        const val LOAD_MODE_MMAP = 1

        var refuses = false
        var compute: (List<Tensor>) -> List<Tensor> = { emptyList() }
        val loaded = ArrayList<Module>()

        @JvmStatic
        fun load(modelPath: String?, loadMode: Int, numThreads: Int): Module {
            check(loadMode == LOAD_MODE_MMAP) { "models are mapped" }
            return Module(modelPath, numThreads).also { loaded += it }
        }
    }
}

/** As ExecuTorch's, whose constructor is its own alone. */
class MethodMetadata(val name: String, val backends: Array<String>)
