package org.lorarar.demo

import android.app.Activity
import android.os.Build
import android.os.Bundle
import android.widget.TextView
import org.lorarar.merger.BenchmarkEntry
import java.io.File
import kotlin.concurrent.thread

/**
 * Measures a component without a hand on the phone, for benchmarks.device:
 *
 *     adb shell am start -W -S -n org.lorarar.demo/.BenchmarkActivity --es bundle FOLDER --es component hypernet
 *         --ei runs 20 --ei warmup 3 [--ei threads N]
 *
 * Writes the record, or {"error": …}, to files/benchmark.json, which `run-as` reads of a debuggable build. Without
 * `bundle` it measures the app's own.
 */
class BenchmarkActivity : Activity() {
    private var entry: BenchmarkEntry? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val text = TextView(this)
        text.keepScreenOn = true // a dark phone runs its slow cores
        if (Build.VERSION.SDK_INT >= 27) {
            setTurnScreenOn(true)
            setShowWhenLocked(true)
        }
        setContentView(text)
        if (savedInstanceState != null) return // the system has ended the app: this starts no second run
        val app = application as DemoApplication
        val entry = BenchmarkEntry(
            app.places(), app.runtimes, AndroidReport(app), DemoApplication.VERSION, File(filesDir, "benchmark.json"),
        ).also { this.entry = it }
        val folder = intent.getStringExtra("bundle")
        val component = intent.getStringExtra("component") ?: "hypernet"
        val runs = intent.getIntExtra("runs", 20)
        val warmup = intent.getIntExtra("warmup", 3)
        val threads = intent.getIntExtra("threads", 0)
        thread(name = "benchmark") {
            val said = entry.run(folder?.let { File(it) }, component, runs, warmup, threads) { stage ->
                runOnUiThread { text.text = words(stage) }
            }
            runOnUiThread { text.text = said }
        }
    }

    override fun onStart() {
        super.onStart()
        entry?.seen(true)
    }

    override fun onStop() {
        entry?.seen(false)
        super.onStop()
    }
}
