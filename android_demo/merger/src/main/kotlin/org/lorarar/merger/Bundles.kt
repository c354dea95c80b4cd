package org.lorarar.merger

import java.io.File
import java.io.IOException
import java.io.Serializable

/** A bundle of this phone: one in a [folder], copied there by hand, or the app's own for the target [name]. */
data class BundleChoice(val name: String, val folder: File?) : Serializable {
    internal val key: String get() = folder?.path ?: name
}

/** An opened bundle, all that are there, and why those that would have come first are not used. */
internal class FoundBundle(
    val bundle: Bundle, val choice: BundleChoice, val there: List<BundleChoice>, val passedOver: List<Sentence>,
)

/** The bundles of this phone. [tell] hears what is being done, and how far. */
internal class Bundles(
    private val places: StudioPlaces, private val runtimes: Runtimes, private val tell: (Stage, Long, Long) -> Unit,
) {
    private val seals = Seals(File(places.home, "seals"))
    private val install = Install(places.packaged, places.home)
    private val chosen = File(places.home, "chosen/bundle")
    private val folders = listOfNotNull(places.sideLoaded, File(places.home, "picked"))

    /** Delete what copies that were cut short have left. */
    fun sweep() = folders.forEach { Install.sweep(it) }

    /**
     * Copy a bundle from a folder that the user picked, and choose it. What its manifest says against it is told before it
     * is copied. [progress] hears the bytes copied, of how many; Stopped as soon as [goesOn] says no.
     */
    fun add(name: String, place: String, goesOn: () -> Boolean, progress: (Long, Long) -> Unit) {
        val folder = File(folders.first(), Catalogue.plain(name).ifEmpty { "picked" })
        install.picked(places.strangers.folder(place), folder, { checkManifest(it, folder.name) }, goesOn, progress)
        keep(BundleChoice(folder.name, folder))
    }

    /** InputError where the manifest in a folder, which the user knows by another name, is wrong or can't be run here. */
    private fun checkManifest(copy: File, shown: String) {
        val manifest = try {
            Bundle.readManifest(copy)
        } catch (error: InputError) {
            throw InputError(error.sentence.replacing(copy.path, shown))
        }
        runtimes.refusal(manifest)?.let { throw InputError("%s: %s", shown, it) }
    }

    /** Delete a bundle that was copied by hand or picked; the app's own stay. */
    fun remove(choice: BundleChoice) {
        val folder = choice.folder?.takeIf { it in copiedByHand() } ?: return
        // By the name of what is unfinished: where the process ends on the way, the next start deletes the rest.
        val left = File("${folder.path}.${Install.UNFINISHED}")
        left.deleteRecursively()
        if (!folder.renameTo(left)) throw InputError("%s can't be removed; remove it by a computer", folder)
        left.deleteRecursively()
    }

    /** Keep which bundle is chosen, for this and the next start; without room it is forgotten. */
    fun keep(choice: BundleChoice) = try {
        chosen.also { it.parentFile!!.mkdirs() }.writeText(choice.key)
    } catch (_: IOException) {
        Unit
    }

    /**
     * The bundle that was chosen last, else the first that can be run here, those copied by hand before the app's own.
     *
     * One that is wrong in whatever way does not keep the others from being used. InputError when there is none.
     */
    fun open(): FoundBundle {
        val there = copiedByHand().map { BundleChoice(it.name, it) } + install.targets().map { BundleChoice(it, null) }
        val last = chosen.takeIf { it.isFile }?.readText()
        val passedOver = ArrayList<Sentence>()
        for (choice in there.sortedBy { it.key != last }) {
            try {
                val opened = choice.folder?.let { runnable(it) } ?: own(choice.name)
                return FoundBundle(opened, choice, there, passedOver)
            } catch (error: InputError) {
                passedOver += error.sentence
            } catch (error: Exception) {
                passedOver += Sentence("%s: %s", choice.key, said(error))
            }
        }
        if (there.none { it.folder == null }) passedOver += Install.none().sentence
        throw InputError(passedOver.reduce { told, next -> Sentence("%s\n\n%s", told, next) })
    }

    private fun copiedByHand(): List<File> = folders.flatMap { it.listFiles().orEmpty().toList() }
        .filter { File(it, Bundle.MANIFEST).isFile && it.extension != Install.UNFINISHED }.sortedBy { it.name }

    private fun runnable(folder: File): Bundle {
        val opened = verified(folder)
        runtimes.refusal(opened.manifest)?.let { throw InputError("%s: %s", folder, it) }
        return opened
    }

    /** One of the app's own, copied where it is not yet, and once more where its copy is damaged. */
    private fun own(target: String): Bundle {
        val refusal = install.manifest(target)?.let { runtimes.refusal(it) }
        if (refusal != null) throw InputError("the app's bundle for %s: %s", target, refusal)
        val isThere = install.isCopied(target)
        try {
            return verified(copied(target))
        } catch (error: InputError) {
            if (!isThere) throw error
        }
        install.remove(target)
        return verified(copied(target))
    }

    private fun copied(target: String): File =
        install.bundle(target) { done, total -> tell(Stage.COPYING_THE_BUNDLE, done, total) }

    private fun verified(folder: File): Bundle =
        Bundle.open(folder, seals = seals) { done, total -> tell(Stage.VERIFYING_THE_BUNDLE, done, total) }
}
