package org.lorarar.demo

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.database.MatrixCursor
import android.graphics.Bitmap
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.OutputStream

/** Lets the app that the user shares an image with read that image, and nothing else: each has a name of its own. */
class SharedImage : ContentProvider() {
    override fun onCreate(): Boolean = true

    override fun getType(uri: Uri): String = "image/png"

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (mode != "r") throw FileNotFoundException(uri.toString())
        return ParcelFileDescriptor.open(file(uri), ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun query(
        uri: Uri, projection: Array<String>?, selection: String?, selectionArgs: Array<String>?, sortOrder: String?,
    ): Cursor {
        val columns = projection ?: arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val cursor = MatrixCursor(columns, 1)
        val values = columns.map<String, Any?> { column ->
            when (column) {
                OpenableColumns.DISPLAY_NAME -> "lorarar.png"
                OpenableColumns.SIZE -> file(uri).length()
                else -> null
            }
        }
        cursor.addRow(values.toTypedArray())
        return cursor
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<String>?): Int = 0

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<String>?): Int = 0

    /** One of the shared images: a name without a folder. */
    private fun file(uri: Uri): File {
        val folder = folder(context!!)
        val file = File(folder, uri.lastPathSegment ?: "")
        if (file.parentFile != folder || !file.isFile) throw FileNotFoundException(uri.toString())
        return file
    }

    companion object {
        private const val KEPT = 8 // an app may read what it was given minutes ago

        /** Put an image where the other app will find it, by the URI returned. IOException when there is no room for it. */
        fun write(context: Context, image: Bitmap): Uri {
            val folder = folder(context)
            folder.mkdirs()
            folder.listFiles().orEmpty().sortedByDescending { it.lastModified() }.drop(KEPT - 1).forEach { it.delete() }
            val file = File(folder, "lorarar-${System.currentTimeMillis()}.png")
            file.outputStream().use { compress(image, it) }
            return Uri.parse("content://org.lorarar.demo.image/${file.name}")
        }

        /** Write a PNG. IOException when it can't be written, which Android itself tells by a result. */
        fun compress(image: Bitmap, stream: OutputStream) {
            if (!image.compress(Bitmap.CompressFormat.PNG, 100, stream)) throw IOException("it could not be written")
        }

        private fun folder(context: Context) = File(context.cacheDir, "shared")
    }
}
