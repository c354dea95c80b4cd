package org.lorarar.demo

import android.view.View
import android.widget.Button
import android.widget.TextView
import org.lorarar.merger.CheckRow
import org.lorarar.merger.Command
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState

/** Compare this phone's results with PyTorch's. */
class CheckScreen(root: View, private val host: ScreenHost, private val studio: StudioApi) : Screen {
    private val run = root.findViewById<Button>(R.id.run_check)
    private val rows = root.findViewById<TextView>(R.id.check_rows)

    init {
        run.setOnClickListener { studio.ask(if (studio.state.checking) Command.Stop else Command.Check) }
    }

    override fun show(state: StudioState) {
        run.text = host.activity.getString(if (state.checking) R.string.stop else R.string.run_check)
        run.isEnabled = if (state.checking) !state.stopping else state.ready && !state.busy
        val lines = state.rows.map { row -> listOfNotNull(line(row), effect(row)).joinToString("\n") }
        val now = if (state.stopping) R.string.stopping else R.string.checking
        val all = if (state.checking) lines + host.activity.getString(now) else lines
        rows.say(all.joinToString("\n\n"), isNews = !state.checking)
    }

    /** What the LoRAs change, where the part takes any. */
    private fun effect(row: CheckRow): String? =
        row.delta?.let { host.activity.getString(R.string.check_effect, it.gain, it.cosine) }

    private fun line(row: CheckRow): String {
        val activity = host.activity
        val psnr = row.psnrDb
        return when {
            row.status != CheckRow.Status.PASSED -> {
                val word = if (row.status == CheckRow.Status.FAILED) R.string.failed else R.string.not_run
                val reason = row.reason?.let { activity.words(it) } ?: ""
                activity.getString(R.string.check_not_passed, row.component, activity.getString(word), reason)
            }
            psnr == null || psnr.isInfinite() ->
                activity.getString(R.string.check_equal, row.component, row.runSeconds, row.runtime)
            else -> activity.getString(
                R.string.check_passed, row.component, psnr, row.maxError, row.runSeconds, row.runtime,
            )
        }
    }
}
