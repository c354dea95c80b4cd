package org.lorarar.merger

import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.io.FileNotFoundException
import java.io.InputStream
import java.io.ObjectInputStream
import java.io.ObjectOutputStream
import java.io.Serializable
import java.nio.channels.FileChannel
import java.util.concurrent.Executors

/** What a screen asks of the studio. */
sealed interface Command : Serializable {
    /** Find and open a bundle, where that was not asked before. */
    data object Start : Command

    /** Find and open a bundle again, where that failed. */
    data object Retry : Command

    /** Open another of the bundles that are there, now and at the next start. */
    data class Open(val bundle: BundleChoice) : Command

    /** Choose a LoRA for a role, or none. */
    data class Choose(val role: String, val sample: Sample?) : Command

    /** Set a strength, and merge with it: 1 is the paper. */
    data class Strength(val role: String, val scale: Float) : Command

    /**
     * Take a LoRA of [total] bytes at [place], another app's, over, and choose it; null where the total is not known.
     * [config] is the place of PEFT's configuration, where it was picked too.
     */
    data class Import(
        val role: String, val name: String, val total: Long?, val place: String, val config: String? = null,
    ) : Command

    /** Remove the LoRA that is chosen for a role, where it was imported; none is chosen then. */
    data class Remove(val role: String) : Command

    /** Stop copying the LoRAs, or the bundle, that the user picked; nothing is kept of those that are not whole. */
    data object StopImport : Command

    /** Copy a bundle from a folder that the user picked, and open it. */
    data class AddBundle(val name: String, val place: String) : Command

    /** Delete a bundle that was copied by hand or picked, and open another. */
    data class RemoveBundle(val bundle: BundleChoice) : Command

    /** Merge what is chosen. Of those that come faster than merges are made, the last one counts. */
    data object Merge : Command

    /**
     * Draw with what is chosen, which is merged first where it has changed; without the composed start where the prompt
     * lacks its subject, which the picture's notes say.
     */
    data class Draw(
        val prompt: String, val steps: Int, val seed: Long,
        val guidanceWithoutLora: Boolean = false, val composed: ComposedStart? = null,
    ) : Command

    /** Stop drawing, checking or measuring: at the next operator, or after the run where the runtime can't end one. */
    data object Stop : Command

    /** Run every part on its golden inputs. */
    data object Check : Command

    data class Measure(val component: String) : Command

    /** The screens are not seen any more: what is measured ends, and that is told. */
    data object Leave : Command

    /** A complaint has been read. */
    data class Acknowledge(val said: Sentence) : Command

    /** Free networks that wait for the next image: the system is short of memory. */
    data object Trim : Command
}

/** The app without its screens, in their process ([Studio]) or in one of its own ([RemoteStudio]). For the screens' thread. */
interface StudioApi {
    val state: StudioState

    fun ask(command: Command)

    /** Hear of every state from now on, and of this one at once. */
    fun watch(listener: (StudioState) -> Unit)

    fun unwatch(listener: (StudioState) -> Unit)
}

/** Files and folders of other apps, by the texts that the system names them with. */
interface Strangers {
    /** FileNotFoundException when there is none, or when it may not be read. */
    fun open(place: String): InputStream

    /** A file that can be mapped as it lies, now and after the next start; null where it has to be copied. */
    fun map(place: String): FileChannel? = null

    /** A file that was mapped is not asked for any more. */
    fun release(place: String) = Unit

    fun folder(place: String): Packaged
}

/** Where no other app's files are asked for. */
object NoStrangers : Strangers {
    override fun open(place: String): InputStream = throw FileNotFoundException(place)

    override fun folder(place: String): Packaged = PackagedFolder(File(""))
}

/** Takes messages to the other process. */
fun interface Wire {
    /** False where a message could not be sent. */
    fun send(message: ByteArray): Boolean
}

/** A state as it is told to another process: its picture is in the file of [KeptPicture], and [picture] counts them. */
private class News(val state: StudioState, val picture: Int) : Serializable

/** What the screens' process answers when it has shown a state. */
private data object Shown : Serializable

/**
 * Lets another process's [RemoteStudio] ask a studio, and tells it the states: the next one, which is then the newest,
 * when the last is shown. A process that is frozen is told one, and Android's room for messages stays free.
 */
class StudioServer(private val studio: StudioApi) {
    private var wire: Wire? = null
    private var isOnTheWay = false
    private var told: StudioState? = null
    private var shown: PictureView? = null
    private var pictures = 0
    private val listener: (StudioState) -> Unit = { tellNewest() }

    /** Tell the states from now on, in the place of a process or of a message that was lost. */
    fun tell(wire: Wire) {
        this.wire = wire
        isOnTheWay = false
        told = null
        end()
        studio.watch(listener)
    }

    /** Tell nobody any more. */
    fun end() = studio.unwatch(listener)

    fun heard(message: ByteArray) {
        val said = read(message)
        if (said is Command) return studio.ask(said)
        isOnTheWay = false
        tellNewest()
    }

    private fun tellNewest() {
        val state = studio.state
        if (isOnTheWay || state === told) return
        if (state.picture !== shown) {
            shown = state.picture
            pictures++
        }
        isOnTheWay = wire!!.send(bytes(News(state.copy(picture = null), if (state.picture == null) 0 else pictures)))
        if (isOnTheWay) told = state
    }
}

/**
 * The studio of another process, which the system may end: that is one sentence, and Retry begins anew with what was chosen.
 *
 * [connect] is to bring the process up, and then to call [connected]; [post] to call on the screens' thread.
 */
class RemoteStudio(
    private val kept: KeptPicture, private val post: (() -> Unit) -> Unit, private val connect: () -> Unit,
) : StudioApi {
    private val listeners = LinkedHashSet<(StudioState) -> Unit>()
    private val waiting = ArrayList<Command>()
    private var wire: Wire? = null
    private var isConnecting = false

    /** Reads messages in their order, and pictures, which take too long for the screens' thread. */
    private val reader = Executors.newSingleThreadExecutor()

    // On the reader's thread only.
    private var picture = 0
    override var state = StudioState()
        private set

    override fun ask(command: Command) {
        wire?.let { there ->
            // The process may have ended just now, which is told after this: what was picked is taken then.
            val isPicked = command is Command.Import || command is Command.AddBundle
            if (!there.send(bytes(command)) && isPicked) waiting += command
            return
        }
        if (command == Command.Leave) return // nothing is measured there
        // Whatever is asked, the studio begins with its start; then come the strengths from before the process was lost.
        if (Command.Start !in waiting) waiting.add(0, Command.Start)
        if (command != Command.Start && command != Command.Retry) waiting += command
        if (!isConnecting) connect()
        isConnecting = true
    }

    override fun watch(listener: (StudioState) -> Unit) {
        listeners += listener
        listener(state)
    }

    override fun unwatch(listener: (StudioState) -> Unit) {
        listeners -= listener
    }

    /** The process is there, for the first time or again. */
    fun connected(wire: Wire) {
        this.wire = wire
        isConnecting = false
        waiting.forEach { wire.send(bytes(it)) }
        waiting.clear()
    }

    fun heard(message: ByteArray) {
        val from = wire
        reader.execute {
            val news = read(message) as News
            val isNew = news.picture > 0 && news.picture != picture
            picture = news.picture
            val image = if (isNew) kept.get() else null
            post { if (wire === from) take(news.state, isNew, image) }
        }
    }

    private fun take(told: StudioState, isNew: Boolean, image: PictureView?) {
        wire?.send(bytes(Shown))
        val isLost = isNew && image == null
        val unread = listOf(NOT_KEPT) + told.complaints
        show(if (isLost) told.copy(complaints = unread) else told.copy(picture = image ?: state.picture))
    }

    /** The process was ended. */
    fun lost() {
        wire = null
        reader.execute { picture = 0 }
        val sentence = when {
            state.drawing != null -> Sentence("The drawing was lost: %s", ENDED)
            state.importing != null -> Sentence("The LoRA was not imported: %s", ENDED)
            else -> ENDED
        }
        if (state.ready) { // else they may not be told yet: the studio has what it kept
            waiting += Command.Strength(Catalogue.CONTENTS, state.contentScale)
            waiting += Command.Strength(Catalogue.STYLES, state.styleScale)
        }
        val failed = Opening.Failed(sentence, isOfBundle = false)
        val (content, style) = state.contentScale to state.styleScale
        show(StudioState(failed, contentScale = content, styleScale = style, picture = state.picture))
    }

    private fun show(next: StudioState) {
        state = next
        listeners.toList().forEach { it(next) }
    }

    private companion object {
        val ENDED = Sentence(
            "the system ended the app's engine, most often for its memory; close other apps and try again, or " +
                "use a bundle of a smaller precision",
        )
        val NOT_KEPT = Sentence("the image was drawn, but could not be kept; free some space and draw it again")
    }
}

private fun bytes(message: Serializable): ByteArray =
    ByteArrayOutputStream().also { stream -> ObjectOutputStream(stream).use { it.writeObject(message) } }.toByteArray()

/** Of this app's own other process: both are of one build. */
private fun read(message: ByteArray): Any = ObjectInputStream(ByteArrayInputStream(message)).use { it.readObject() }

/** Where a studio finds and keeps things. */
class StudioPlaces(
    /** Survives: bundles and LoRAs. */
    val home: File,
    /** May be emptied by the system: stacks. */
    val scratch: File,
    /** Bundles that were copied to the phone by hand; the first is used in place of the app's own. */
    val sideLoaded: File?,
    val packaged: Packaged,
    val strangers: Strangers = NoStrangers,
)
