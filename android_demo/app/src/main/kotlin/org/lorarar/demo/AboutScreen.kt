package org.lorarar.demo

import android.view.View
import android.widget.TextView
import org.lorarar.merger.Opening
import org.lorarar.merger.StudioState

/** What this is, whose it is, and what its numbers mean. */
class AboutScreen(root: View, private val host: ScreenHost) : Screen {
    private val bundle = root.findViewById<TextView>(R.id.about_bundle)

    override fun show(state: StudioState) {
        val ready = state.opening as? Opening.Ready
        bundle.showIf(ready != null)
        bundle.text = ready?.let { host.activity.getString(R.string.about_bundle, it.title) } ?: ""
    }
}
