package org.lorarar.demo

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import org.lorarar.merger.DeviceReport
import org.lorarar.merger.Memory
import java.io.File
import java.io.IOException

/** What Android tells of the phone. What it does not tell an app is null. */
class AndroidReport(private val context: Context) : DeviceReport, Memory {
    override fun device(): Map<String, Any?> = mapOf(
        "model" to Build.MODEL,
        "manufacturer" to Build.MANUFACTURER,
        "soc" to if (Build.VERSION.SDK_INT >= 31) Build.SOC_MODEL else null,
        "os" to "android",
        "os_version" to Build.VERSION.RELEASE,
        "os_build" to Build.ID,
        "abi" to Build.SUPPORTED_ABIS.first(),
        "cpu" to null,
        "cores" to Runtime.getRuntime().availableProcessors(),
        "ram_bytes" to memoryInfo().totalMem,
    )

    /** The kernel's high-water mark. benchmarks.device puts the PSS that it saw in its place. */
    override fun memory(): Map<String, Any?> {
        val line = read("/proc/self/status").lineSequence().firstOrNull { it.startsWith("VmHWM:") }
        val kilobytes = line?.filter { it.isDigit() }?.toLongOrNull()
        return mapOf("peak_bytes" to kilobytes?.times(1024), "measure" to if (kilobytes == null) null else "rss")
    }

    override fun condition(): Map<String, Any?> {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        fun extra(name: String): Int? = battery?.getIntExtra(name, -1)?.takeIf { it >= 0 }
        val level = extra(BatteryManager.EXTRA_LEVEL)
        val scale = extra(BatteryManager.EXTRA_SCALE)
        return mapOf(
            "thermal_status" to thermalStatus(),
            "temperatures_c" to (extra(BatteryManager.EXTRA_TEMPERATURE)?.let { mapOf("battery" to it / 10.0) } ?: emptyMap()),
            "battery_percent" to if (level != null && scale != null && scale > 0) 100.0 * level / scale else null,
            "charging" to extra(BatteryManager.EXTRA_PLUGGED)?.let { it != 0 },
            "cpu_mhz" to megahertz(),
            "load" to null, // not for apps to see
        )
    }

    /** What is free before the system begins to end apps. */
    override fun available(): Long = memoryInfo().let { it.availMem - it.threshold }

    override fun emulated(): Boolean =
        Build.HARDWARE in EMULATORS || Build.FINGERPRINT.startsWith("generic") || Build.MODEL.startsWith("sdk_")

    private fun memoryInfo() = ActivityManager.MemoryInfo().also {
        service<ActivityManager>(Context.ACTIVITY_SERVICE).getMemoryInfo(it)
    }

    private fun thermalStatus(): String? {
        if (Build.VERSION.SDK_INT < 29) return null
        return STATUSES.getOrNull(service<PowerManager>(Context.POWER_SERVICE).currentThermalStatus)
    }

    /** Of every core, where the system lets an app read it. */
    private fun megahertz(): List<Double> = (0 until Runtime.getRuntime().availableProcessors()).mapNotNull { core ->
        read("/sys/devices/system/cpu/cpu$core/cpufreq/scaling_cur_freq").trim().toLongOrNull()?.div(1000.0)
    }

    private fun read(path: String): String = try {
        File(path).readText()
    } catch (_: IOException) {
        ""
    }

    @Suppress("UNCHECKED_CAST")
    private fun <T> service(name: String): T = context.getSystemService(name) as T

    private companion object {
        val EMULATORS = setOf("goldfish", "ranchu", "cutf_cvm")

        /** By PowerManager's numbers. */
        val STATUSES = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
    }
}
