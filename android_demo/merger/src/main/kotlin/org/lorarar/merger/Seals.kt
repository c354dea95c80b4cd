package org.lorarar.merger

import java.io.File
import java.io.IOException

/**
 * Remembers in [folder] which bundles were verified, by the sizes and times of all their files, so that a bundle of gigabytes
 * is hashed once and not at every start. Only the app itself may write to the folder.
 */
class Seals(private val folder: File) {
    /** Whether a bundle is as it was when it was sealed. */
    fun hold(bundle: File): Boolean = try {
        place(bundle).let { it.isFile && it.readText() == state(bundle) }
    } catch (_: IOException) {
        false
    }

    /** Note that a bundle was verified just now. What can't be noted is verified again at the next start. */
    fun put(bundle: File) {
        try {
            Install.write(state(bundle).byteInputStream(), place(bundle))
        } catch (_: IOException) {
            place(bundle).delete()
        }
    }

    private fun place(bundle: File) = File(folder, Digest.text(bundle.canonicalPath).take(32))

    private fun state(bundle: File): String = bundle.walkTopDown().filter { it.isFile }.sortedBy { it.path }
        .joinToString("\n") { "${it.relativeTo(bundle).path} ${it.length()} ${it.lastModified()}" }
}
