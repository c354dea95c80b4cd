package org.lorarar.demo

import android.app.Activity
import android.content.Context
import android.os.Build
import android.view.View
import android.widget.TextView
import org.lorarar.merger.Sentence
import org.lorarar.merger.Stage
import org.lorarar.merger.StudioState

/** One tab: it shows a state, and tells the studio what its user does. */
interface Screen {
    fun show(state: StudioState)
}

/** What a screen needs of its activity. */
interface ScreenHost {
    val activity: Activity

    /** Let the user pick a LoRA file for a role. */
    fun pickLora(role: String)

    /** Do something that can't be undone, if the user agrees. */
    fun confirm(question: String, act: () -> Unit)

    /** Let the user choose where to save the image. */
    fun saveImage()

    fun shareImage()

    fun shareText(text: String)

    /** Ask once whether a drawing may be told of in a notification; it is drawn either way. */
    fun allowNotifications()
}

/** What the engine is doing, in the user's language. */
internal fun Context.words(stage: Stage): String = getString(
    when (stage) {
        Stage.STARTING -> R.string.stage_starting
        Stage.COPYING_THE_BUNDLE -> R.string.stage_copying_the_bundle
        Stage.VERIFYING_THE_BUNDLE -> R.string.stage_verifying_the_bundle
        Stage.MERGING -> R.string.stage_merging
        Stage.READING_THE_PROMPT -> R.string.stage_reading_the_prompt
        Stage.LOADING_THE_UNET -> R.string.stage_loading_the_unet
        Stage.DRAWING -> R.string.stage_drawing
        Stage.DECODING -> R.string.stage_decoding
        Stage.LOADING_COLD -> R.string.stage_loading_cold
        Stage.LOADING_WARM -> R.string.stage_loading_warm
        Stage.WARMING_UP -> R.string.stage_warming_up
        Stage.TIMING -> R.string.stage_timing
        Stage.COMPARING -> R.string.stage_comparing
    },
)

/** What the engine says, in the user's language where the app's resources have it, else in English. */
internal fun Context.words(sentence: Sentence): String = sentence.said { template ->
    // By name: a table of the sentences would say each of them once more.
    @Suppress("DiscouragedApi")
    val found = resources.getIdentifier(Sentence.resource(template), "string", packageName)
    if (found == 0) null else resources.getString(found)
}

/** Have a slider's value read aloud in its own unit, where Android would say a percentage. */
internal fun View.speak(value: String) {
    if (Build.VERSION.SDK_INT >= 30) stateDescription = value
}

/**
 * Show a text. Where a screen reader says it by itself, it does so when the text is another one, and only where it [isNews]:
 * not at each step on the way.
 */
internal fun TextView.say(words: String, isNews: Boolean = true) {
    accessibilityLiveRegion = if (isNews) View.ACCESSIBILITY_LIVE_REGION_POLITE else View.ACCESSIBILITY_LIVE_REGION_NONE
    if (text.toString() != words) text = words
}

internal fun View.showIf(shown: Boolean) {
    visibility = if (shown) View.VISIBLE else View.GONE
}
