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

/** What a screen asks of the studio. */
sealed interface Command : Serializable {
    /** Find and open a bundle; it can be asked again where that failed. */
    data object Start : Command

    data class Choose(val role: String, val sample: Sample) : Command

    /** Set a strength, and merge with it: 1 is the paper. */
    data class Strength(val role: String, val scale: Float) : Command

    /**
     * Take a LoRA of [total] bytes at [place], another app's, over, and choose it; null where the total is not known.
     * [config] is the place of PEFT's configuration, where it was picked too.
     */
    data class Import(
        val role: String, val name: String, val total: Long?, val place: String, val config: String? = null,
    ) : Command

    /** Stop copying a LoRA; nothing of it is kept. */
    data object StopImport : Command

    /** Copy a bundle from a folder that the user picked, and open it. */
    data class AddBundle(val name: String, val place: String) : Command

    /** Merge what is chosen. Of those that come faster than merges are made, the last one counts. */
    data object Merge : Command

    /** Draw with what is chosen, which is merged first where it has changed. */
    data class Draw(
        val prompt: String, val steps: Int, val seed: Long,
        val guidanceWithoutLora: Boolean = false, val composed: ComposedStart? = null,
    ) : Command

    /** Stop drawing: at the next operator, or after the step that runs where the runtime can't end one. */
    data object Stop : Command

    /** Run every part on its golden inputs. */
    data object Check : Command

    data class Measure(val component: String) : Command

    /** The complaint has been read. */
    data object Acknowledge : Command

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

    fun folder(place: String): Packaged
}

/** Where no other app's files are asked for. */
object NoStrangers : Strangers {
    override fun open(place: String): InputStream = throw FileNotFoundException(place)

    override fun folder(place: String): Packaged = PackagedFolder(File(""))
}

/** Takes messages to the other process. */
fun interface Wire {
    fun send(message: ByteArray)
}

/** A state as it is told to another process: its picture is in the file of [KeptPicture], and [picture] counts them. */
private class News(val state: StudioState, val picture: Int) : Serializable

/** Lets another process's [RemoteStudio] ask a studio. */
class StudioServer(private val studio: StudioApi) {
    private var shown: PictureView? = null
    private var pictures = 0

    /** Tell every state from now on; what is returned is called when nobody hears any more. */
    fun tell(wire: Wire): () -> Unit {
        val listener = { state: StudioState ->
            if (state.picture !== shown) {
                shown = state.picture
                pictures++
            }
            wire.send(bytes(News(state.copy(picture = null), if (state.picture == null) 0 else pictures)))
        }
        studio.watch(listener)
        return { studio.unwatch(listener) }
    }

    fun heard(message: ByteArray) = studio.ask(read(message) as Command)
}

/**
 * The studio of another process, which the system may end: that is one sentence, and Start begins anew with what was chosen.
 *
 * [connect] is to bring the process up, and then to call [connected].
 */
class RemoteStudio(private val kept: KeptPicture, private val connect: () -> Unit) : StudioApi {
    private val listeners = LinkedHashSet<(StudioState) -> Unit>()
    private val waiting = ArrayList<Command>()
    private var wire: Wire? = null
    private var isConnecting = false
    private var picture = 0
    override var state = StudioState()
        private set

    override fun ask(command: Command) {
        val there = wire
        if (there != null) return there.send(bytes(command))
        // What was chosen before the process was lost comes after its start.
        if (command is Command.Start) waiting.add(0, command) else waiting += command
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
        val news = read(message) as News
        val image = if (news.picture == picture) state.picture else kept.get()
        picture = news.picture
        show(news.state.copy(picture = image ?: state.picture))
    }

    /** The process was ended. */
    fun lost() {
        wire = null
        picture = 0
        val sentence = if (state.drawing == null) ENDED else Sentence("The drawing was lost: %s", ENDED)
        waiting += listOfNotNull(
            state.content?.let { Command.Choose(Catalogue.CONTENTS, it) },
            state.style?.let { Command.Choose(Catalogue.STYLES, it) },
            Command.Strength(Catalogue.CONTENTS, state.contentScale), Command.Strength(Catalogue.STYLES, state.styleScale),
        )
        show(StudioState(Opening.Failed(sentence), picture = state.picture))
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
    }
}

private fun bytes(message: Serializable): ByteArray =
    ByteArrayOutputStream().also { stream -> ObjectOutputStream(stream).use { it.writeObject(message) } }.toByteArray()

/** Of this app's own other process: both are of one build. */
private fun read(message: ByteArray): Any = ObjectInputStream(ByteArrayInputStream(message)).use { it.readObject() }
