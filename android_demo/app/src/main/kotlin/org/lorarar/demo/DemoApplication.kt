package org.lorarar.demo

import android.app.Application
import android.content.ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL
import android.content.ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN
import android.os.Handler
import android.os.Looper
import android.system.Os
import org.lorarar.merger.Command
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

    /** The engine's process, as the screens' has it. Started when a screen first asks for it. */
    val link: EngineLink by lazy { EngineLink(this).also { it.studio.ask(Command.Start) } }

    /** The studio itself, in the engine's process: it is made when the service is. */
    var engine: Studio? = null

    /** Make the studio; [EngineService] does, in a process of its own. */
    fun newStudio(): Studio {
        val main = Handler(Looper.getMainLooper())
        val report = AndroidReport(this)
        return Studio(places(), runtimes, report, VERSION, report, Cores.fast()) { main.post(it) }.also { engine = it }
    }

    /**
     * The system is short of memory: networks that only wait for the next image go. That the screens are hidden is no
     * shortage. Android 14 and later tell of none while an app is in use.
     */
    @Suppress("DEPRECATION") // Android 8 to 13 do
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= TRIM_MEMORY_RUNNING_CRITICAL && level != TRIM_MEMORY_UI_HIDDEN) engine?.ask(Command.Trim)
    }

    override fun onLowMemory() {
        super.onLowMemory()
        engine?.ask(Command.Trim)
    }

    fun places() = StudioPlaces(
        filesDir, File(cacheDir, "stacks"), getExternalFilesDir("bundles"), PackagedAssets(assets), Picked(contentResolver),
    )

    companion object {
        /** The toolkit's, which records state. */
        const val VERSION = "0.1.0"
    }
}
