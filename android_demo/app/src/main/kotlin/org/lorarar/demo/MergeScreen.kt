package org.lorarar.demo

import android.view.View
import android.widget.AdapterView
import android.widget.Button
import android.widget.SeekBar
import android.widget.Spinner
import android.widget.TextView
import org.lorarar.merger.Catalogue
import org.lorarar.merger.Command
import org.lorarar.merger.ImportView
import org.lorarar.merger.MergeView
import org.lorarar.merger.Opening
import org.lorarar.merger.Sample
import org.lorarar.merger.Sentence
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState

/** Choose two LoRAs and their strengths; see what is left out of them, the merge's time and its coefficients. */
class MergeScreen(private val root: View, private val host: ScreenHost, private val studio: StudioApi) : Screen {
    private val content = Picker(R.id.content, Catalogue.CONTENTS)
    private val style = Picker(R.id.style, Catalogue.STYLES)
    private val contentStrength = Strength(
        R.id.content_strength, R.id.content_strength_label, R.string.content_strength, Catalogue.CONTENTS,
    )
    private val styleStrength = Strength(
        R.id.style_strength, R.id.style_strength_label, R.string.style_strength, Catalogue.STYLES,
    )
    private val importing = root.findViewById<TextView>(R.id.importing)
    private val stopImport = root.findViewById<Button>(R.id.stop_import)
    private val removeContent = root.findViewById<Button>(R.id.remove_content)
    private val removeStyle = root.findViewById<Button>(R.id.remove_style)
    private val merge = root.findViewById<Button>(R.id.merge)
    private val result = root.findViewById<TextView>(R.id.merge_result)
    private val notes = root.findViewById<TextView>(R.id.merge_notes)

    /** Whether the merge was asked for by its button, and did not follow a slider. */
    private var isAsked = false
    private val chart = root.findViewById<CoefficientChart>(R.id.chart)

    init {
        stopImport.setOnClickListener { studio.ask(Command.StopImport) }
        root.findViewById<Button>(R.id.import_content).setOnClickListener { host.pickLora(Catalogue.CONTENTS) }
        root.findViewById<Button>(R.id.import_style).setOnClickListener { host.pickLora(Catalogue.STYLES) }
        removeContent.setOnClickListener { remove(Catalogue.CONTENTS) }
        removeStyle.setOnClickListener { remove(Catalogue.STYLES) }
        merge.setOnClickListener {
            isAsked = true
            studio.ask(Command.Merge)
        }
    }

    override fun show(state: StudioState) {
        content.show(state.contents, state.content)
        style.show(state.styles, state.style)
        contentStrength.show(state.contentScale)
        styleStrength.show(state.styleScale)
        removeContent.showIf(state.content?.isImported == true)
        removeStyle.showIf(state.style?.isImported == true)
        merge.isEnabled = state.canMerge && !state.busy
        val untrained = (state.opening as? Opening.Ready)?.trained == false
        importing.showIf(state.importing != null)
        stopImport.showIf(state.importing != null)
        state.importing?.let { importing.text = said(it) }
        val passedOver = (state.opening as? Opening.Ready)?.passedOver.orEmpty()
        val taken = state.carried.values.map { it.taken }
        val lines = said(passedOver + taken + state.loraNotes) + listOfNotNull(if (untrained) text(R.string.untrained) else null)
        notes.showIf(lines.isNotEmpty())
        notes.say(lines.joinToString("\n"))
        result.say(outcome(state), isNews = isAsked && !state.merging)
        chart.show(state.merge?.layers ?: emptyList())
    }

    private fun remove(role: String) {
        val name = studio.state.chosen(role)?.name ?: return
        host.confirm(text(R.string.remove_asked, name)) { studio.ask(Command.Remove(role)) }
    }

    private fun said(sentences: List<Sentence>) = sentences.map { host.activity.words(it) }

    private fun outcome(state: StudioState): String {
        val done: MergeView? = state.merge
        return when {
            state.merging -> text(R.string.merging)
            done == null -> text(R.string.not_merged)
            else -> text(R.string.merged, done.seconds * 1000, done.rank)
        }
    }

    private fun said(copied: ImportView): String {
        val (done, total) = listOf(copied.done, copied.total ?: 0).map { it / 1_000_000 }
        val known = copied.total != null
        return if (known) text(R.string.importing_of, copied.name, done, total) else text(R.string.importing, copied.name, done)
    }

    private fun text(id: Int, vararg values: Any): String = host.activity.getString(id, *values)

    /** A spinner of samples with their pictures. */
    private inner class Picker(id: Int, private val role: String) : AdapterView.OnItemSelectedListener {
        private val spinner = root.findViewById<Spinner>(id)
        private val samples = SampleAdapter(host.activity)

        init {
            spinner.adapter = samples
            spinner.onItemSelectedListener = this
        }

        fun show(all: List<Sample>, chosen: Sample?) {
            samples.show(all)
            val place = samples.samples.indexOf(chosen)
            if (place >= 0 && spinner.selectedItemPosition != place) spinner.setSelection(place)
        }

        override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) {
            if (position !in samples.samples.indices) return
            val sample = samples.samples[position]
            val chosen = if (role == Catalogue.CONTENTS) studio.state.content else studio.state.style
            if (sample != chosen) studio.ask(Command.Choose(role, sample))
        }

        override fun onNothingSelected(parent: AdapterView<*>?) = Unit
    }

    /** A slider in hundredths. */
    private inner class Strength(id: Int, label: Int, private val words: Int, private val role: String) :
        SeekBar.OnSeekBarChangeListener {
        private val bar = root.findViewById<SeekBar>(id)
        private val label = root.findViewById<TextView>(label)
        private var isHeld = false

        init {
            bar.setOnSeekBarChangeListener(this)
        }

        /** Under the finger the slider is ahead of the state. */
        fun show(scale: Float) {
            if (!isHeld) bar.progress = Math.round(scale * HUNDRED)
            label.text = text(words, bar.progress / HUNDRED)
            bar.speak(text(R.string.strength_spoken, bar.progress / HUNDRED))
        }

        /** Another strength only writes coefficients, so the merge follows the finger. */
        override fun onProgressChanged(bar: SeekBar?, progress: Int, fromUser: Boolean) {
            if (!fromUser) return
            isAsked = false
            studio.ask(Command.Strength(role, progress / HUNDRED))
            show(progress / HUNDRED)
        }

        override fun onStartTrackingTouch(bar: SeekBar?) {
            isHeld = true
        }

        override fun onStopTrackingTouch(bar: SeekBar?) {
            isHeld = false
        }
    }

    private companion object {
        const val HUNDRED = 100f
    }
}
