package org.lorarar.demo

import android.content.res.AssetManager
import org.lorarar.merger.Packaged
import java.io.InputStream

/** The app's assets. */
class PackagedAssets(private val assets: AssetManager) : Packaged {
    override fun list(folder: String): List<String> = assets.list(folder)?.toList() ?: emptyList()

    override fun open(path: String): InputStream = assets.open(path)
}
