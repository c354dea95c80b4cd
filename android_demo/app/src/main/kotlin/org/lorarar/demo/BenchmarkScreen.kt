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
        measure.setOnClickListener {
            components.getOrNull(component.selectedItemPosition)?.let { studio.ask(Command.Measure(it)) }
        }
        share.setOnClickListener { studio.state.record?.let { host.shareText(it) } }
    }

    override fun show(state: StudioState) {
        val all = (state.opening as? Opening.Ready)?.components ?: emptyList()
        if (all != components) {
            components = all
            component.adapter = ArrayAdapter(host.activity, android.R.layout.simple_spinner_dropdown_item, all)
        }
        measure.isEnabled = all.isNotEmpty() && !state.busy
        share.showIf(state.record != null)
        val told = state.measuring?.let { host.activity.words(it) } ?: state.record?.let { RecordText.summary(it) } ?: ""
        record.say(told, isNews = state.measuring == null)
    }
}
