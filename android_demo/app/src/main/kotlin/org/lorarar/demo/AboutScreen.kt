package org.lorarar.demo

import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Spinner
import android.widget.TextView
import org.lorarar.merger.BundleChoice
import org.lorarar.merger.Command
import org.lorarar.merger.Opening
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState

/** What this is, whose it is, what its numbers mean, and which of the bundles that are there is used. */
class AboutScreen(root: View, private val host: ScreenHost, private val studio: StudioApi) :
    Screen, AdapterView.OnItemSelectedListener {
    private val bundle = root.findViewById<TextView>(R.id.about_bundle)
    private val label = root.findViewById<View>(R.id.bundles_label)
    private val bundles = root.findViewById<Spinner>(R.id.bundles)
    private val remove = root.findViewById<View>(R.id.remove_bundle)
    private var there: List<BundleChoice> = emptyList()

    init {
        bundles.onItemSelectedListener = this
        remove.setOnClickListener { used()?.let { confirmRemoval(it) } }
    }

    private fun used(): BundleChoice? = (studio.state.opening as? Opening.Ready)?.bundle

    private fun confirmRemoval(bundle: BundleChoice) {
        val question = host.activity.getString(R.string.remove_bundle_asked, bundle.name)
        host.confirm(question) { studio.ask(Command.RemoveBundle(bundle)) }
    }

    override fun show(state: StudioState) {
        val ready = state.opening as? Opening.Ready
        bundle.showIf(ready != null)
        bundle.text = ready?.let { host.activity.getString(R.string.about_bundle, it.title) } ?: ""
        for (view in listOf(label, bundles)) view.showIf(ready != null && ready.bundles.size > 1)
        remove.showIf(ready?.bundle?.folder != null)
        remove.isEnabled = !state.busy
        if (ready == null) return
        if (ready.bundles != there) {
            there = ready.bundles
            bundles.adapter = ArrayAdapter(host.activity, android.R.layout.simple_spinner_dropdown_item, there.map { named(it) })
        }
        bundles.isEnabled = !state.busy
        val place = there.indexOf(ready.bundle)
        if (bundles.selectedItemPosition != place) bundles.setSelection(place)
    }

    private fun named(choice: BundleChoice): String =
        if (choice.folder != null) choice.name else host.activity.getString(R.string.own_bundle, choice.name)

    override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) {
        val now = used() ?: return
        there.getOrNull(position)?.takeIf { it != now }?.let { studio.ask(Command.Open(it)) }
    }

    override fun onNothingSelected(parent: AdapterView<*>?) = Unit
}
