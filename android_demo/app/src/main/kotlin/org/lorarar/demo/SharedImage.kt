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

/** Lets the app that the user shares the image with read that image, and nothing else. */
class SharedImage : ContentProvider() {
    override fun onCreate(): Boolean = true

    override fun getType(uri: Uri): String = "image/png"

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (uri != URI || mode != "r") throw FileNotFoundException(uri.toString())
        return ParcelFileDescriptor.open(file(context!!), ParcelFileDescriptor.MODE_READ_ONLY)
    }

    override fun query(
        uri: Uri, projection: Array<String>?, selection: String?, selectionArgs: Array<String>?, sortOrder: String?,
    ): Cursor {
        val columns = projection ?: arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val cursor = MatrixCursor(columns, 1)
        val values = columns.map<String, Any?> { column ->
            when (column) {
                OpenableColumns.DISPLAY_NAME -> "lorarar.png"
                OpenableColumns.SIZE -> file(context!!).length()
                else -> null
            }
        }
        cursor.addRow(values.toTypedArray())
        return cursor
    }

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<String>?): Int = 0

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<String>?): Int = 0

    companion object {
        val URI: Uri = Uri.parse("content://org.lorarar.demo.image/lorarar.png")

        /** Put the image where the other app will find it. IOException when there is no room for it. */
        fun write(context: Context, image: Bitmap) {
            val file = file(context)
            file.parentFile!!.mkdirs()
            file.outputStream().use { compress(image, it) }
        }

        /** Write a PNG. IOException when it can't be written, which Android itself tells by a result. */
        fun compress(image: Bitmap, stream: OutputStream) {
            if (!image.compress(Bitmap.CompressFormat.PNG, 100, stream)) throw IOException("it could not be written")
        }

        private fun file(context: Context) = File(context.cacheDir, "shared/lorarar.png")
    }
}
