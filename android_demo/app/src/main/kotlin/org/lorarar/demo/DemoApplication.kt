package org.lorarar.demo

import android.app.Application
import android.content.ComponentCallbacks2.TRIM_MEMORY_BACKGROUND
import android.os.Handler
import android.os.Looper
import android.system.Os
import org.lorarar.merger.Cores
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

    val runtimes: Runtimes by lazy { Libraries(this).runtimes() }

    /** Started when a screen first asks for it. */
    val studio: Studio by lazy {
        val main = Handler(Looper.getMainLooper())
        val report = AndroidReport(this)
        Studio(places(), runtimes, report, VERSION, report, Cores.fast()) { main.post(it) }
            .also { it.start() }
    }

    /** The system is short of memory: networks that only wait for the next image go. */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_BACKGROUND) studio.trim()
    }

    fun places() = StudioPlaces(
        filesDir, File(cacheDir, "stacks"), getExternalFilesDir("bundles"), PackagedAssets(assets),
    )

    companion object {
        /** The toolkit's, which records state. */
        const val VERSION = "0.1.0"
    }
}
