package org.lorarar.demo

import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.Intent
import android.content.pm.PackageManager.PERMISSION_GRANTED
import android.graphics.Bitmap
import android.net.Uri
import android.os.Build
import android.os.Bundle
import android.provider.DocumentsContract
import android.provider.OpenableColumns
import android.view.View
import android.widget.ProgressBar
import android.widget.RadioGroup
import android.widget.TextView
import android.widget.Toast
import org.lorarar.merger.Catalogue
import org.lorarar.merger.Opening
import org.lorarar.merger.Command
import org.lorarar.merger.Sentence
import org.lorarar.merger.StudioApi
import org.lorarar.merger.StudioState
import kotlin.concurrent.thread

/** The five screens, and what they need of the system. */
class MainActivity : Activity(), ScreenHost {
    private val link: EngineLink get() = (application as DemoApplication).link
    private lateinit var studio: StudioApi
    private lateinit var screens: List<Screen>
    private lateinit var generating: GenerateScreen
    private lateinit var tabs: RadioGroup
    private var dialog: AlertDialog? = null

    /** Where the image is to be saved as soon as it is there: the process may be a new one. */
    private var saving: Uri? = null
    private val listener: (StudioState) -> Unit = { show(it) }
    override val activity: Activity get() = this

    /** Work on another thread may end after the screens have. */
    private val isGone: Boolean get() = isFinishing || isDestroyed

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        studio = link.studio
        tabs = findViewById(R.id.tabs)
        tabs.setOnCheckedChangeListener { _, _ -> showChosen() }
        showChosen()
        findViewById<View>(R.id.retry).setOnClickListener { studio.ask(Command.Retry) }
        findViewById<View>(R.id.stop_copying).setOnClickListener { studio.ask(Command.StopImport) }
        findViewById<View>(R.id.pick_bundle).setOnClickListener {
            pick(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK_BUNDLE)
        }
        generating = GenerateScreen(findViewById(R.id.screen_generate), this, studio, savedInstanceState)
        screens = listOf(
            MergeScreen(findViewById(R.id.screen_merge), this, studio),
            generating,
            CheckScreen(findViewById(R.id.screen_check), this, studio),
            BenchmarkScreen(findViewById(R.id.screen_benchmark), this, studio),
            AboutScreen(findViewById(R.id.screen_about), this, studio),
        )
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        generating.save(outState)
    }

    override fun onStart() {
        super.onStart()
        link.watch()
        studio.watch(listener)
    }

    override fun onStop() {
        if (!isChangingConfigurations) studio.ask(Command.Leave)
        studio.unwatch(listener)
        dialog?.dismiss()
        dialog = null
        super.onStop()
    }

    /** The buttons keep which of them is chosen when the phone is turned. */
    private fun showChosen() {
        for ((tab, screen) in TABS) findViewById<View>(screen).showIf(tabs.checkedRadioButtonId == tab)
    }

    private fun show(state: StudioState) {
        val opening = state.opening
        findViewById<View>(R.id.opening).showIf(!state.ready)
        val text = findViewById<TextView>(R.id.opening_text)
        val progress = findViewById<ProgressBar>(R.id.opening_progress)
        progress.showIf(opening is Opening.Working)
        if (opening is Opening.Working) {
            text.say(getString(R.string.opening, words(opening.stage)))
            progress.progress = (1000 * opening.done / maxOf(opening.total, 1)).toInt()
        }
        findViewById<View>(R.id.stop_copying).showIf(opening is Opening.Working && opening.canStop)
        findViewById<View>(R.id.retry).showIf(opening is Opening.Failed)
        findViewById<View>(R.id.pick_bundle).showIf(opening is Opening.Failed && opening.isOfBundle)
        if (opening is Opening.Failed) {
            val title = if (opening.isOfBundle) "${getString(R.string.failed_title)}\n\n" else ""
            text.say(title + words(opening.sentence))
        }
        screens.forEach { it.show(state) }
        tabs.keepScreenOn = state.busy || state.importing != null || opening is Opening.Working
        state.complaint?.let { complain(words(it), it) }
        saving?.takeIf { opening !is Opening.Working || state.picture != null }?.let {
            saving = null
            save(it)
        }
    }

    /** Say what went wrong; [said] is the studio's own complaint, where it is one. */
    private fun complain(text: String, said: Sentence? = null) {
        if (dialog != null || isGone) return
        dialog = AlertDialog.Builder(this).setTitle(R.string.complaint_title).setMessage(text)
            .setPositiveButton(R.string.ok) { _, _ -> closed(said) }
            .setOnCancelListener { closed(said) }
            .show()
    }

    /** The user has closed the dialog; when the phone was turned instead, it is shown again. The next one may wait. */
    private fun closed(said: Sentence? = null) {
        dialog = null
        said?.let { studio.ask(Command.Acknowledge(it)) }
        studio.state.complaint?.takeIf { it != said }?.let { complain(words(it), it) }
    }

    override fun confirm(question: String, act: () -> Unit) {
        if (dialog != null) return
        dialog = AlertDialog.Builder(this).setMessage(question)
            .setPositiveButton(R.string.remove) { _, _ ->
                act()
                closed()
            }
            .setNegativeButton(R.string.cancel) { _, _ -> closed() }
            .setOnCancelListener { closed() }
            .show()
    }

    override fun pickLora(role: String) {
        // Files of this format have no media type of their own, and PEFT's have a second one beside them.
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*")
            .putExtra(Intent.EXTRA_ALLOW_MULTIPLE, true)
        pick(intent, if (role == Catalogue.CONTENTS) PICK_CONTENT else PICK_STYLE)
    }

    /** Ask the system's picker, which a phone's maker or its owner may have taken out. */
    private fun pick(intent: Intent, code: Int) = try {
        startActivityForResult(intent, code)
    } catch (_: ActivityNotFoundException) {
        complain(getString(R.string.no_picker))
    }

    override fun saveImage() {
        val image = bitmap()
        if (image != null && Build.VERSION.SDK_INT >= 29) {
            return aside {
                SavedImage.toPictures(contentResolver, image)
                tell(R.string.image_saved_to_pictures)
            }
        }
        val intent = Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType(PNG)
        pick(intent.putExtra(Intent.EXTRA_TITLE, "lorarar.png"), SAVE)
    }

    override fun shareImage() {
        val image = bitmap() ?: return
        aside {
            val uri = SharedImage.write(this, image)
            runOnUiThread { if (!isGone) share(uri) }
        }
    }

    private fun share(uri: Uri) {
        val intent = Intent(Intent.ACTION_SEND).setType(PNG).putExtra(Intent.EXTRA_STREAM, uri)
        intent.clipData = ClipData.newRawUri(null, uri) // what the system's own sheet shows beforehand
        startActivity(Intent.createChooser(intent.addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION), null))
    }

    override fun shareText(text: String) {
        val intent = Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, text)
        startActivity(Intent.createChooser(intent, null))
    }

    override fun allowNotifications() {
        if (Build.VERSION.SDK_INT < 33 || checkSelfPermission(NOTIFICATIONS) == PERMISSION_GRANTED) return
        requestPermissions(arrayOf(NOTIFICATIONS), 0)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        super.onActivityResult(requestCode, resultCode, data)
        val clip = data?.clipData
        val picked = clip?.let { List(it.itemCount) { at -> it.getItemAt(at).uri } } ?: listOfNotNull(data?.data)
        if (resultCode != RESULT_OK || picked.isEmpty()) return
        val uri = picked.first()
        when (requestCode) {
            PICK_BUNDLE ->
                studio.ask(Command.AddBundle(uri.lastPathSegment?.substringAfterLast('/') ?: "", uri.toString()))
            PICK_CONTENT -> take(Catalogue.CONTENTS, picked)
            PICK_STYLE -> take(Catalogue.STYLES, picked)
            SAVE -> {
                saving = uri // for when a state with the picture is shown, which a new process has later
                show(studio.state)
            }
        }
    }

    /** A configuration is kept with the LoRA that was picked together with it, where that is one. */
    private fun take(role: String, picked: List<Uri>) = aside {
        val files = picked.associateWith { described(it) }
        val (configs, loras) = files.entries.partition { it.value.first.endsWith(".json") }
        val config = configs.firstOrNull()?.key?.toString()?.takeIf { loras.size == 1 }
        val imports = loras.ifEmpty { configs }.map { (uri, facts) ->
            Command.Import(role, facts.first, facts.second, uri.toString(), config)
        }
        runOnUiThread { imports.forEach { studio.ask(it) } }
    }

    /** A file's name and size, where its provider tells them: a cloud's may take long, and may fail in any way. */
    private fun described(uri: Uri): Pair<String, Long?> {
        val columns = arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val found = try {
            contentResolver.query(uri, columns, null, null, null)?.use { cursor ->
                if (cursor.moveToFirst()) cursor.getString(0) to cursor.getLong(1).takeIf { it > 0 } else null
            }
        } catch (_: Exception) {
            null // whether the file itself can be read is told by its import
        }
        return (found?.first ?: getString(R.string.untitled)) to found?.second
    }

    /** The image was lost with the process where none is kept: the file that the picker has made would stay empty. */
    private fun save(uri: Uri) {
        val image = bitmap()
        aside {
            if (image != null) {
                SavedImage.to(contentResolver, uri, image)
                tell(R.string.image_saved)
            } else {
                DocumentsContract.deleteDocument(contentResolver, uri)
                runOnUiThread { complain(getString(R.string.image_lost)) }
            }
        }
    }

    /** Do what takes long on a thread of its own, and tell why it failed. */
    private fun aside(work: () -> Unit) {
        thread {
            try {
                work()
            } catch (error: Exception) { // of another app's provider, which may throw what it likes
                val said = getString(R.string.image_not_written, error.message ?: "")
                runOnUiThread { complain(said) }
            }
        }
    }

    private fun tell(words: Int) = runOnUiThread { Toast.makeText(this, words, Toast.LENGTH_SHORT).show() }

    private fun bitmap(): Bitmap? = studio.state.picture?.let {
        Bitmap.createBitmap(it.argb, it.width, it.height, Bitmap.Config.ARGB_8888)
    }

    private companion object {
        val TABS = listOf(
            R.id.tab_merge to R.id.screen_merge,
            R.id.tab_generate to R.id.screen_generate,
            R.id.tab_check to R.id.screen_check,
            R.id.tab_benchmark to R.id.screen_benchmark,
            R.id.tab_about to R.id.screen_about,
        )
        const val PNG = "image/png"
        const val NOTIFICATIONS = "android.permission.POST_NOTIFICATIONS"
        const val PICK_CONTENT = 1
        const val PICK_STYLE = 2
        const val SAVE = 3
        const val PICK_BUNDLE = 4
    }
}
