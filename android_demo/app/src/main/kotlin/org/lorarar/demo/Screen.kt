package org.lorarar.demo

import android.app.Activity
import android.view.View
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

    /** Let the user choose where to save the image. */
    fun saveImage()

    fun shareImage()

    fun shareText(text: String)

    /** Ask once whether a drawing may be told of in a notification; it is drawn either way. */
    fun allowNotifications()
}

internal fun View.showIf(shown: Boolean) {
    visibility = if (shown) View.VISIBLE else View.GONE
}
