package org.lorarar.demo

import android.content.ComponentName
import android.content.Context
import android.content.Intent
import android.content.ServiceConnection
import android.os.Handler
import android.os.IBinder
import android.os.Looper
import android.os.Message
import android.os.Messenger
import android.os.RemoteException
import org.lorarar.merger.KeptPicture
import org.lorarar.merger.RemoteStudio
import org.lorarar.merger.Studio
import org.lorarar.merger.StudioApi

/** The screens' end of [EngineService]: brings its process up when it is asked for, and again after it was ended. */
class EngineLink(private val context: Context) : ServiceConnection {
    private val main = Handler(Looper.getMainLooper())
    private val remote = RemoteStudio(KeptPicture(KeptPicture.place(context.filesDir)), { main.post(it) }) {
        context.bindService(Intent(context, EngineService::class.java), this, Context.BIND_AUTO_CREATE)
    }
    val studio: StudioApi get() = remote
    private var engine: Messenger? = null

    private val messenger = Messenger(
        object : Handler(Looper.getMainLooper()) {
            override fun handleMessage(message: Message) = remote.heard(message.data.getByteArray(EngineService.CONTENT)!!)
        },
    )

    /** Ask to be told the states, also anew: a message may have been lost while the screens were away. */
    fun watch() {
        engine?.let { there -> send(there, Message.obtain(null, EngineService.WATCH).also { it.replyTo = messenger }) }
    }

    override fun onServiceConnected(name: ComponentName?, service: IBinder?) {
        val engine = Messenger(service)
        this.engine = engine
        watch()
        remote.connected { content -> send(engine, EngineService.message(EngineService.ASK, content)) }
    }

    override fun onServiceDisconnected(name: ComponentName?) {
        engine = null
        context.unbindService(this) // else the system would start it again by itself
        remote.lost()
    }

    /** False for a process that is gone: [onServiceDisconnected] tells of that. */
    private fun send(engine: Messenger, message: Message): Boolean = try {
        engine.send(message)
        true
    } catch (_: RemoteException) {
        false
    }
}
