package org.pytorch.executorch

/** Stands in for ExecuTorch's own, whose library can't be loaded on a computer. A test says what it computes. */
class Module private constructor(val path: String, val threads: Int) {
    var destroyed = false
        private set

    fun loadMethod(name: String): Int = if (name == "forward") loadError else 1

    fun getMethodMetadata(name: String): MethodMetadata =
        MethodMetadata().setName(name).setBackends(arrayOf("XnnpackBackend", "XnnpackBackend"))

    fun forward(vararg inputs: EValue): Array<EValue> =
        compute(inputs.map { it.toTensor() }).map { EValue.from(it) }.toTypedArray()

    fun destroy() {
        destroyed = true
    }

    companion object {
        var loadError = 0
        var compute: (List<Tensor>) -> List<Tensor> = { emptyList() }
        val loaded = ArrayList<Module>()

        @JvmStatic
        fun load(path: String, mode: Int, threads: Int): Module {
            check(mode == 1) { "memory-mapped is mode 1" }
            return Module(path, threads).also { loaded += it }
        }
    }
}
