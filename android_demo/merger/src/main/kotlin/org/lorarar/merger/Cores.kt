package org.lorarar.merger

import java.io.File
import java.io.IOException

/** The processor's cores. */
object Cores {
    /**
     * How many of the cores are fast ones: all but those of the lowest clock, where there are several kinds. A network that
     * has a thread on a slow core waits for it in every operator.
     */
    fun fast(cpus: File = File("/sys/devices/system/cpu")): Int {
        val clocks = cpus.listFiles { file -> Regex("cpu[0-9]+").matches(file.name) }.orEmpty().mapNotNull { clock(it) }
        val slowest = clocks.minOrNull() ?: return java.lang.Runtime.getRuntime().availableProcessors()
        return clocks.count { it > slowest }.takeIf { it > 0 } ?: clocks.size
    }

    /** The highest clock in kHz; null where the system keeps it to itself. */
    private fun clock(core: File): Long? = try {
        File(core, "cpufreq/cpuinfo_max_freq").readText().trim().toLongOrNull()
    } catch (_: IOException) {
        null
    }
}
