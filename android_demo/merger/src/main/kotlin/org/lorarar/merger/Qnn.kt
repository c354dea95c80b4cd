package org.lorarar.merger

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession

/**
 * Qualcomm's provider for ONNX Runtime, which runs contexts of `--target qnn` on a Snapdragon's NPU.
 *
 * It is a library of its own: [library] is its path or name, and [backend] that of QNN's library for the NPU.
 */
class QnnProvider(private val library: String, private val backend: String) : OnnxProvider {
    override val name = NAME
    override val computeUnit = "npu"

    /** The NPU takes the whole graph, or it is not run. */
    override fun addTo(options: OrtSession.SessionOptions, environment: OrtEnvironment) {
        register(environment, library)
        val device = environment.epDevices.firstOrNull { it.epName == NAME }
            ?: throw InputError("Qualcomm's provider finds no NPU on this phone; take a bundle for onnx")
        options.addExecutionProvider(listOf(device), mapOf("backend_path" to backend))
        options.addConfigEntry("session.disable_cpu_ep_fallback", "1")
    }

    companion object {
        const val NAME = "QNNExecutionProvider"
        private val registered = HashSet<String>()

        /** Once in a process: a second time is an error. */
        private fun register(environment: OrtEnvironment, library: String) = synchronized(registered) {
            if (library !in registered) environment.registerExecutionProviderLibrary(NAME, library)
            registered += library
        }
    }
}

/**
 * Makes the runtimes of contexts, each of which is compiled for one chip by one version of Qualcomm's libraries.
 *
 * [chip] is what Android calls the phone's (`Build.SOC_MODEL`), and [sdk] the version of the libraries in the app.
 */
class QnnFactory(private val chip: String, private val sdk: String, private val provider: QnnProvider) : RuntimeFactory {
    override fun create(component: Component, threads: Int?): Runtime = OnnxRuntime(component, threads, provider)

    override fun refusal(manifest: Manifest): Sentence? {
        val (made, by) = manifest.soc!!
        return when {
            !made.equals(chip, ignoreCase = true) ->
                Sentence(
                    "it is compiled for %s, and this phone's chip is %s; export it with  --soc %s  or take a bundle for " +
                        "onnx, which runs on the CPU",
                    made, chip.lowercase(), chip.lowercase(),
                )
            older(sdk, by) ->
                Sentence(
                    "it is compiled by version %s of Qualcomm's libraries, and this app has %s; update the app, or export " +
                        "the bundle with that version",
                    by, sdk,
                )
            else -> null
        }
    }

    /** By the numbers of a version: 2.9 is older than 2.10. */
    private fun older(have: String, wanted: String): Boolean {
        val (mine, theirs) = numbers(have) to numbers(wanted)
        val first = mine.indices.firstOrNull { it < theirs.size && mine[it] != theirs[it] }
        return if (first == null) mine.size < theirs.size else mine[first] < theirs[first]
    }

    private fun numbers(version: String): List<Int> = version.split('.').mapNotNull { it.toIntOrNull() }
}
