package org.lorarar.merger

import java.io.File
import java.io.IOException

/** The processor's cores. */
object Cores {
    /** What a fast core can do at least, in shares of the fastest: small cores do less than half, middle ones more. */
    private const val CAPACITY = 0.5

    /** The same by clocks: Snapdragon 778G's small cores have 1.9 of 2.4 GHz (0.79), Tensor's middle ones 2.25 of 2.8 (0.80). */
    private const val CLOCK = 0.8

    /**
     * How many of the cores are fast ones, by what the system says that each can do, else by its highest clock; all of them
     * where it tells neither. A network that has a thread on a slow core waits for it in every operator.
     */
    fun fast(cpus: File = File("/sys/devices/system/cpu")): Int {
        val cores = cpus.listFiles { file -> Regex("cpu[0-9]+").matches(file.name) }.orEmpty().toList()
        return count(cores, "cpu_capacity", CAPACITY) ?: count(cores, "cpufreq/cpuinfo_max_freq", CLOCK)
            ?: java.lang.Runtime.getRuntime().availableProcessors()
    }

    /** How many cores have at least a [share] of the largest number in a file of theirs; null where one has none. */
    private fun count(cores: List<File>, file: String, share: Double): Int? {
        val numbers = cores.map { number(File(it, file)) ?: return null }
        val least = share * (numbers.maxOrNull() ?: return null)
        return numbers.count { it >= least }
    }

    private fun number(file: File): Long? = try {
        file.readText().trim().toLongOrNull()
    } catch (_: IOException) {
        null
    }
}
