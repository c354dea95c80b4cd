package org.lorarar.demo

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Intent
import android.graphics.drawable.Icon
import android.os.Bundle
import android.os.Handler
import android.os.IBinder
import android.os.Looper
import android.os.Message
import android.os.Messenger
import android.os.PowerManager
import android.os.RemoteException
import org.lorarar.merger.Command
import org.lorarar.merger.Studio
import org.lorarar.merger.StudioServer
import org.lorarar.merger.StudioState

/**
 * The engine, in a process of its own: the system can end it for its memory without the screens.
 *
 * While it draws it is in the foreground, with a notification that tells the step and can stop it, so that it goes on when the
 * screen is dark. Messages: [ASK] with a command, [WATCH] with the messenger that is told the states.
 */
class EngineService : Service() {
    private lateinit var studio: Studio
    private lateinit var server: StudioServer
    private lateinit var messenger: Messenger
    private var isDrawing = false
    private val awake by lazy {
        (getSystemService(POWER_SERVICE) as PowerManager).newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "lorarar:drawing")
            .also { it.setReferenceCounted(false) }
    }
    private val listener: (StudioState) -> Unit = { show(it) }

    override fun onCreate() {
        super.onCreate()
        studio = (application as DemoApplication).newStudio()
        server = StudioServer(studio)
        messenger = Messenger(
            object : Handler(Looper.getMainLooper()) {
                override fun handleMessage(message: Message) = receive(message)
            },
        )
        val name = getString(R.string.drawing_channel)
        notifications().createNotificationChannel(NotificationChannel(CHANNEL, name, NotificationManager.IMPORTANCE_LOW))
        studio.watch(listener)
    }

    override fun onBind(intent: Intent?): IBinder = messenger.binder

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        if (intent?.action == STOP) studio.ask(Command.Stop) else startForeground(NOTIFICATION, notification(studio.state))
        if (studio.state.drawing == null) leave() // it has ended meanwhile
        return START_NOT_STICKY
    }

    /** Android 15 lets a service of this type run for six hours a day, and then ends an app that does not stop. */
    override fun onTimeout(startId: Int, fgsType: Int) {
        studio.ask(Command.Stop)
        stopForeground(STOP_FOREGROUND_REMOVE)
        stopSelf()
    }

    override fun onDestroy() {
        studio.unwatch(listener)
        (application as DemoApplication).engine = null
        studio.close()
        awake.release()
        super.onDestroy()
    }

    private fun receive(message: Message) {
        when (message.what) {
            ASK -> server.heard(message.data.getByteArray(CONTENT)!!)
            WATCH -> tell(message.replyTo)
        }
    }

    private fun tell(screens: Messenger) = server.tell { content ->
        try {
            screens.send(message(ASK, content))
            true
        } catch (_: RemoteException) {
            if (!screens.binder.isBinderAlive) server.end()
            false
        }
    }

    private fun show(state: StudioState) {
        if (state.drawing == null) return if (isDrawing) leave() else Unit
        if (!isDrawing) startForegroundService(Intent(this, EngineService::class.java))
        isDrawing = true
        awake.acquire(AWAKE_MS) // anew with each state
        notifications().notify(NOTIFICATION, notification(state))
    }

    private fun leave() {
        isDrawing = false
        awake.release()
        stopForeground(STOP_FOREGROUND_REMOVE)
        notifications().cancel(NOTIFICATION) // after a timeout it is not the foreground's any more
        stopSelf()
    }

    private fun notification(state: StudioState): Notification {
        val drawing = state.drawing
        val stop = Intent(this, EngineService::class.java).setAction(STOP)
        val pending = PendingIntent.getService(this, 0, stop, PendingIntent.FLAG_IMMUTABLE)
        val screens = packageManager.getLaunchIntentForPackage(packageName)
        val open = PendingIntent.getActivity(this, 0, screens, PendingIntent.FLAG_IMMUTABLE)
        val icon = Icon.createWithResource(this, R.drawable.ic_drawing)
        val action = Notification.Action.Builder(icon, getString(R.string.stop), pending).build()
        val text = drawing?.let { getString(R.string.progress_of, words(it.stage), it.done, it.total) } ?: ""
        return Notification.Builder(this, CHANNEL).setSmallIcon(icon).setContentTitle(getString(R.string.app_name))
            .setContentText(text).setContentIntent(open).setOngoing(true).addAction(action)
            .setProgress(drawing?.total ?: 0, drawing?.done ?: 0, drawing == null).build()
    }

    private fun notifications() = getSystemService(NOTIFICATION_SERVICE) as NotificationManager

    companion object {
        const val ASK = 1
        const val WATCH = 2
        const val CONTENT = "content"
        private const val STOP = "org.lorarar.demo.STOP"
        private const val CHANNEL = "drawing"
        private const val NOTIFICATION = 1

        /** For a step and for loading, which tell nothing on the way. */
        private const val AWAKE_MS = 20 * 60_000L

        /** A message with content for the other process. */
        fun message(what: Int, content: ByteArray): Message = Message.obtain(null, what).also { message ->
            message.data = Bundle().also { it.putByteArray(CONTENT, content) }
        }
    }
}
