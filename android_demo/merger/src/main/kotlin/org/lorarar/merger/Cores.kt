package org.lorarar.merger

import java.io.File
import java.io.IOException

/** The processor's cores. */
object Cores {
    /** What a fast core can do at least, in shares of the fastest: small cores do less than half, middle ones more. */
    private const val CAPACITY = 0.5

    /** The least share of the fastest clock that is no small core: Snapdragon 778G has small ones at 1.9 of 2.4 GHz. */
    private const val CLOCK = 0.8

    /**
     * How many of the cores are fast ones, by what the system says that each can do, else by its highest clock; all of them
     * where it tells neither. A network that has a thread on a slow core waits for it in every operator.
     */
    fun fast(cpus: File = File("/sys/devices/system/cpu")): Int {
        val cores = cpus.listFiles { file -> Regex("cpu[0-9]+").matches(file.name) }.orEmpty().toList()
        val capacities = cores.mapNotNull { number(File(it, "cpu_capacity")) }
        if (capacities.isNotEmpty() && capacities.size == cores.size) {
            return capacities.count { it >= CAPACITY * capacities.max() }
        }
        val clocks = cores.mapNotNull { number(File(it, "cpufreq/cpuinfo_max_freq")) }
        val slowest = clocks.minOrNull() ?: return java.lang.Runtime.getRuntime().availableProcessors()
        return if (slowest >= CLOCK * clocks.max()) clocks.size else clocks.count { it > slowest }
    }

    private fun number(file: File): Long? = try {
        file.readText().trim().toLongOrNull()
    } catch (_: IOException) {
        null
    }
}
