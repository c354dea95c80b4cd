package org.lorarar.demo

import android.app.Application
import android.os.Handler
import android.os.Looper
import android.system.Os
import org.lorarar.merger.ExecuTorchRuntime
import org.lorarar.merger.OnnxRuntime
import org.lorarar.merger.RuntimeFactory
import org.lorarar.merger.Runtimes
import org.lorarar.merger.Studio
import org.lorarar.merger.StudioPlaces
import java.io.File

/** Keeps the studio, so that turning the phone restarts nothing. */
class DemoApplication : Application() {
    init {
        // ONNX Runtime's telemetry begins when its library is loaded. Without a network it would only fill a file.
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", true)
    }

    val runtimes = Runtimes(
        mapOf(
            "onnx" to RuntimeFactory { component, threads -> OnnxRuntime(component, threads) },
            "executorch" to RuntimeFactory { component, threads ->
                ExecuTorchRuntime(component, threads, EXECUTORCH_VERSION)
            },
        ),
    )

    /** Started when a screen first asks for it. */
    val studio: Studio by lazy {
        val main = Handler(Looper.getMainLooper())
        Studio(places(), runtimes, AndroidReport(this), VERSION) { main.post(it) }.also { it.start() }
    }

    fun places() = StudioPlaces(
        filesDir, File(cacheDir, "stacks"), getExternalFilesDir("bundles"), PackagedAssets(assets),
    )

    companion object {
        /** The toolkit's, which records state. */
        const val VERSION = "0.1.0"

        /** Of the library in gradle/libs.versions.toml: it does not tell its version itself. */
        const val EXECUTORCH_VERSION = "1.4.0"
    }
}
