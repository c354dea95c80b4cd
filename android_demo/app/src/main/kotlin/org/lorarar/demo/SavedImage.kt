package org.lorarar.demo

import android.content.ContentResolver
import android.content.ContentValues
import android.graphics.Bitmap
import android.net.Uri
import android.provider.MediaStore
import java.io.FileNotFoundException

/** Writes the image where its user wants it. Not for the screens' thread. */
object SavedImage {
    /** Into the phone's pictures, which needs no permission from Android 10 on. IOException when there is no room. */
    fun toPictures(resolver: ContentResolver, image: Bitmap) {
        val values = ContentValues().apply {
            put(MediaStore.MediaColumns.DISPLAY_NAME, "lorarar-${System.currentTimeMillis()}.png")
            put(MediaStore.MediaColumns.MIME_TYPE, "image/png")
            put(MediaStore.MediaColumns.RELATIVE_PATH, "Pictures/LoRA.rar")
            put(MediaStore.MediaColumns.IS_PENDING, 1)
        }
        val uri = resolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values)
            ?: throw FileNotFoundException("the phone's pictures can't be written to")
        try {
            to(resolver, uri, image)
        } catch (error: Exception) {
            resolver.delete(uri, null, null)
            throw error
        }
        resolver.update(uri, ContentValues().apply { put(MediaStore.MediaColumns.IS_PENDING, 0) }, null, null)
    }

    /** To a document that the user has chosen. IOException or SecurityException of the app that holds it. */
    fun to(resolver: ContentResolver, uri: Uri, image: Bitmap) {
        val stream = resolver.openOutputStream(uri) ?: throw FileNotFoundException(uri.toString())
        stream.use { SharedImage.compress(image, it) }
    }
}
