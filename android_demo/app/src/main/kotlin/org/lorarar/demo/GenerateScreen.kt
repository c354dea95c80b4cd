package org.lorarar.demo

import android.graphics.Bitmap
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.CheckBox
import android.widget.EditText
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.SeekBar
import android.widget.TextView
import org.lorarar.merger.BundleChoice
import org.lorarar.merger.Catalogue
import org.lorarar.merger.Command
import org.lorarar.merger.ComposedStart
import org.lorarar.merger.Noise
import org.lorarar.merger.Opening
import org.lorarar.merger.PictureView
import org.lorarar.merger.Sample
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState
import java.io.Serializable
import kotlin.random.Random

/** Draw with the merged LoRA. */
class GenerateScreen(
    private val root: View, private val host: ScreenHost, private val studio: StudioApi, before: Bundle?,
) : Screen, SeekBar.OnSeekBarChangeListener {
    private val prompt = Suggested(root.findViewById(R.id.prompt))
    private val subject = Suggested(root.findViewById(R.id.subject))
    private val subjectClass = Suggested(root.findViewById(R.id.subject_class))
    private val guidanceWithoutLora = root.findViewById<CheckBox>(R.id.guidance_without_lora)
    private val composed = root.findViewById<CheckBox>(R.id.composed)
    private val composedWords = root.findViewById<View>(R.id.composed_words)
    private val steps = root.findViewById<SeekBar>(R.id.steps)
    private val stepsLabel = root.findViewById<TextView>(R.id.steps_label)
    private val seed = root.findViewById<EditText>(R.id.seed)
    private val generate = root.findViewById<Button>(R.id.generate)
    private val text = root.findViewById<TextView>(R.id.drawing_text)
    private val progress = root.findViewById<ProgressBar>(R.id.drawing_progress)
    private val picture = root.findViewById<ImageView>(R.id.picture)
    private val save = root.findViewById<Button>(R.id.save)
    private val share = root.findViewById<Button>(R.id.share)
    private var shown: PictureView? = null

    // What the views' own state was made for, which the system keeps for the next process.
    private var content: Sample? = before.kept(CONTENT)

    /** Whose steps the slider began with. */
    private var stepsOf: BundleChoice? = before.kept(STEPS_OF)

    init {
        steps.setOnSeekBarChangeListener(this)
        root.findViewById<Button>(R.id.new_seed).setOnClickListener {
            seed.setText(Random.nextLong(Noise.MAX_SEED + 1).toString())
        }
        composed.setOnCheckedChangeListener { _, _ -> show(studio.state) }
        generate.setOnClickListener { pressed() }
        save.setOnClickListener { host.saveImage() }
        share.setOnClickListener { host.shareImage() }
        onProgressChanged(steps, steps.progress, false)
    }

    /** Keep, beside what the views keep by themselves, what it was made for. */
    fun save(state: Bundle) {
        state.putSerializable(CONTENT, content)
        state.putSerializable(STEPS_OF, stepsOf)
    }

    @Suppress("DEPRECATION") // the call that replaces it is of Android 13
    private inline fun <reified T : Serializable> Bundle?.kept(key: String): T? = this?.getSerializable(key) as? T

    private fun pressed() {
        if (studio.state.drawing != null) {
            studio.ask(Command.Stop)
        } else {
            host.allowNotifications()
            val number = seed.text.toString().toLongOrNull() ?: 0
            val start = ComposedStart(subject.text.trim(), subjectClass.text.trim()).takeIf { isComposed(studio.state) }
            studio.ask(Command.Draw(prompt.text, steps.progress + 1, number, guidanceWithoutLora.isChecked, start))
        }
    }

    override fun show(state: StudioState) {
        prompt.suggest(Catalogue.prompt(state.content, state.style))
        subject.suggest(state.content?.subject ?: "")
        subjectClass.suggest(state.content?.subjectClass ?: "")
        if (state.ready) startFits(state.content)
        composed.isEnabled = state.hasPair
        composedWords.showIf(isComposed(state))
        (state.opening as? Opening.Ready)?.takeIf { it.bundle != stepsOf }?.let {
            steps.progress = it.steps - 1
            stepsOf = it.bundle
        }
        val drawing = state.drawing
        generate.text = host.activity.getString(if (drawing != null) R.string.stop else R.string.generate)
        generate.isEnabled = if (drawing != null) !state.stopping else state.canDraw
        progress.showIf(drawing != null)
        if (drawing != null) {
            progress.max = drawing.total
            progress.progress = drawing.done
        }
        val lines = listOf(said(state)) + state.loraNotes.map { host.activity.words(it) }
        text.say(lines.filter { it.isNotEmpty() }.joinToString("\n"), isNews = drawing == null)
        state.picture?.takeIf { it !== shown }?.let { display(it) }
        picture.showIf(state.picture != null)
        save.showIf(state.picture != null)
        share.showIf(state.picture != null)
    }

    /** A composed start needs the content's words, which only the user knows where its LoRA was imported. */
    private fun startFits(chosen: Sample?) {
        val before = content
        content = chosen
        if (chosen == before) return
        if (chosen?.isImported == true) composed.isChecked = false else if (before?.isImported == true) composed.isChecked = true
    }

    private fun isComposed(state: StudioState) = composed.isChecked && state.hasPair

    private fun said(state: StudioState): String {
        val drawing = state.drawing
        val done = state.picture
        return when {
            drawing != null && state.stopping -> host.activity.getString(R.string.stopping)
            drawing != null -> host.activity.run {
                getString(R.string.progress_of, words(drawing.stage), drawing.done, drawing.total)
            }
            (state.opening as? Opening.Ready)?.canDraw == false -> host.activity.getString(R.string.cannot_draw)
            done != null -> {
                val size = host.activity.getString(R.string.drawn, done.width, done.height, done.seconds)
                (listOf(size) + done.notes.map { host.activity.words(it) }).joinToString("\n")
            }
            else -> ""
        }
    }

    private fun display(image: PictureView) {
        shown = image
        picture.setImageBitmap(Bitmap.createBitmap(image.argb, image.width, image.height, Bitmap.Config.ARGB_8888))
        picture.contentDescription = host.activity.getString(R.string.image_described, image.prompt)
    }

    override fun onProgressChanged(bar: SeekBar?, progress: Int, fromUser: Boolean) {
        stepsLabel.text = host.activity.getString(R.string.steps, progress + 1)
        steps.speak((progress + 1).toString())
    }

    override fun onStartTrackingTouch(bar: SeekBar?) = Unit

    override fun onStopTrackingTouch(bar: SeekBar?) = Unit

    private companion object {
        const val CONTENT = "content"
        const val STEPS_OF = "stepsOf"
    }
}

/** A field with the samples' own words in it, unless the user has written others. */
private class Suggested(private val input: EditText) {
    private var words = ""
    val text: String get() = input.text.toString()

    fun suggest(words: String) {
        if (text == this.words && words != this.words) input.setText(words)
        this.words = words
    }
}
