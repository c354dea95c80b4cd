package org.lorarar.demo

import android.view.View
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.Spinner
import android.widget.TextView
import org.lorarar.merger.BenchmarkPlan
import org.lorarar.merger.CheckRow
import org.lorarar.merger.Opening
import org.lorarar.merger.RecordText
import org.lorarar.merger.Studio
import org.lorarar.merger.StudioState

/** Compare this phone's results with PyTorch's. */
class CheckScreen(root: View, private val host: ScreenHost, studio: Studio) : Screen {
    private val run = root.findViewById<Button>(R.id.run_check)
    private val rows = root.findViewById<TextView>(R.id.check_rows)

    init {
        run.setOnClickListener { studio.check() }
    }

    override fun show(state: StudioState) {
        run.isEnabled = state.ready && !state.busy
        val lines = state.rows.map { line(it) }
        rows.text = (if (state.checking) lines + host.activity.getString(R.string.checking) else lines).joinToString("\n\n")
    }

    private fun line(row: CheckRow): String {
        val activity = host.activity
        val psnr = row.psnrDb
        return when {
            row.status != CheckRow.Status.PASSED -> {
                val word = if (row.status == CheckRow.Status.FAILED) R.string.failed else R.string.not_run
                activity.getString(R.string.check_not_passed, row.component, activity.getString(word), row.reason)
            }
            psnr == null || psnr.isInfinite() ->
                activity.getString(R.string.check_equal, row.component, row.runSeconds, row.runtime)
            else -> activity.getString(
                R.string.check_passed, row.component, psnr, row.maxError, row.runSeconds, row.runtime,
            )
        }
    }
}

/** Measure a part and share the record. */
class BenchmarkScreen(root: View, private val host: ScreenHost, private val studio: Studio) : Screen {
    private val component = root.findViewById<Spinner>(R.id.component)
    private val measure = root.findViewById<Button>(R.id.measure)
    private val record = root.findViewById<TextView>(R.id.record)
    private val share = root.findViewById<Button>(R.id.share_record)
    private var components: List<String> = emptyList()

    init {
        measure.setOnClickListener {
            components.getOrNull(component.selectedItemPosition)?.let { studio.benchmark(BenchmarkPlan(it)) }
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
        record.text = state.measuring ?: state.record?.let { RecordText.summary(it) } ?: ""
    }
}

/** What this is, whose it is, and what its numbers mean. */
class AboutScreen(root: View, private val host: ScreenHost) : Screen {
    private val bundle = root.findViewById<TextView>(R.id.about_bundle)

    override fun show(state: StudioState) {
        val ready = state.opening as? Opening.Ready
        bundle.showIf(ready != null)
        bundle.text = ready?.let { host.activity.getString(R.string.about_bundle, it.title) } ?: ""
    }
}
