package org.lorarar.demo

import android.content.Context
import android.os.Build
import android.system.Os
import org.lorarar.merger.OnnxRuntime
import org.lorarar.merger.QnnFactory
import org.lorarar.merger.QnnProvider
import org.lorarar.merger.RuntimeFactory
import org.lorarar.merger.Runtimes
import java.io.File

/** The runtimes whose libraries are in this app. */
class Libraries(private val context: Context) {
    fun runtimes() = Runtimes(
        mapOf(
            "onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) },
            "executorch" to RuntimeFactory { component, threads ->
                ExecuTorchRuntime(component, threads, EXECUTORCH_VERSION)
            },
        ) + qnn(),
    )

    /** Qualcomm's, in an app that was built with -Pqnn, on an Android that tells its chip. */
    private fun qnn(): Map<String, RuntimeFactory> {
        val folder = File(context.applicationInfo.nativeLibraryDir)
        val provider = File(folder, "libonnxruntime_providers_qnn.so")
        if (!provider.isFile || Build.VERSION.SDK_INT < 31) return emptyMap()
        // Where the NPU's loader finds the programs of its own that come with the app.
        Os.setenv("ADSP_LIBRARY_PATH", folder.path, true)
        val libraries = QnnProvider(provider.path, File(folder, "libQnnHtp.so").path)
        return mapOf("qnn" to QnnFactory(Build.SOC_MODEL, QNN_VERSION, libraries))
    }

    companion object {
        /** Of the library in gradle/libs.versions.toml: it does not tell its version itself. */
        const val EXECUTORCH_VERSION = "1.5.1"

        /** Of Qualcomm's libraries there. */
        const val QNN_VERSION = "2.51.0"
    }
}
