package org.lorarar.demo

import android.view.View
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.Spinner
import android.widget.TextView
import org.lorarar.merger.Command
import org.lorarar.merger.Opening
import org.lorarar.merger.RecordText
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState

/** Measure a part and share the record. */
class BenchmarkScreen(root: View, private val host: ScreenHost, private val studio: StudioApi) : Screen {
    private val component = root.findViewById<Spinner>(R.id.component)
    private val measure = root.findViewById<Button>(R.id.measure)
    private val record = root.findViewById<TextView>(R.id.record)
    private val share = root.findViewById<Button>(R.id.share_record)
    private var components: List<String> = emptyList()

    init {
        measure.setOnClickListener { pressed() }
        share.setOnClickListener { studio.state.record?.let { host.shareText(it) } }
    }

    private fun pressed() {
        if (studio.state.measuring != null) return studio.ask(Command.Stop)
        components.getOrNull(component.selectedItemPosition)?.let { studio.ask(Command.Measure(it)) }
    }

    override fun show(state: StudioState) {
        val all = (state.opening as? Opening.Ready)?.components ?: emptyList()
        if (all != components) {
            components = all
            component.adapter = ArrayAdapter(host.activity, android.R.layout.simple_spinner_dropdown_item, all)
        }
        val isMeasuring = state.measuring != null
        measure.text = host.activity.getString(if (isMeasuring) R.string.stop else R.string.measure)
        measure.isEnabled = if (isMeasuring) !state.stopping else all.isNotEmpty() && !state.busy
        share.showIf(state.record != null)
        record.say(told(state), isNews = !isMeasuring)
    }

    private fun told(state: StudioState): String {
        val stage = state.measuring ?: return state.record?.let { RecordText.summary(it) } ?: ""
        return if (state.stopping) host.activity.getString(R.string.stopping) else host.activity.words(stage)
    }
}
