package org.lorarar.demo

import android.content.ContentResolver
import android.content.Intent
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.os.ParcelFileDescriptor.AutoCloseInputStream
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import org.lorarar.merger.Packaged
import org.lorarar.merger.Strangers
import java.io.FileNotFoundException
import java.io.InputStream
import java.nio.channels.FileChannel

/** A folder that the user picked, with all that is in it. Not for the screens' thread. */
class DocumentTree(private val resolver: ContentResolver, private val root: Uri) : Packaged {
    private class Entry(val id: String, val isFolder: Boolean)

    private val folders = HashMap<String, Map<String, Entry>>()

    override fun list(folder: String): List<String> =
        if (entry(folder)?.isFolder == true) children(folder).keys.sorted() else emptyList()

    override fun isFolder(path: String): Boolean = entry(path)?.isFolder == true

    override fun open(path: String): InputStream {
        val found = entry(path)?.takeIf { !it.isFolder } ?: throw FileNotFoundException(path)
        try {
            val uri = DocumentsContract.buildDocumentUriUsingTree(root, found.id)
            return resolver.openInputStream(uri) ?: throw FileNotFoundException(path)
        } catch (error: SecurityException) {
            throw FileNotFoundException(error.message)
        }
    }

    private fun entry(path: String): Entry? =
        if (path.isEmpty()) Entry(DocumentsContract.getTreeDocumentId(root), true)
        else children(path.substringBeforeLast('/', ""))[path.substringAfterLast('/')]

    private fun children(folder: String): Map<String, Entry> = folders.getOrPut(folder) {
        val found = HashMap<String, Entry>()
        val parent = entry(folder)?.takeIf { it.isFolder } ?: return@getOrPut found
        val uri = DocumentsContract.buildChildDocumentsUriUsingTree(root, parent.id)
        val columns = arrayOf(Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID, Document.COLUMN_MIME_TYPE)
        resolver.query(uri, columns, null, null, null)?.use { cursor ->
            while (cursor.moveToNext()) {
                found[cursor.getString(0)] = Entry(cursor.getString(1), cursor.getString(2) == Document.MIME_TYPE_DIR)
            }
        }
        found
    }
}

/** Files and folders that the user picked, by their URIs. */
class Picked(private val resolver: ContentResolver) : Strangers {
    override fun open(place: String): InputStream = try {
        resolver.openInputStream(Uri.parse(place)) ?: throw FileNotFoundException(place)
    } catch (error: SecurityException) {
        throw FileNotFoundException(error.message)
    }

    /** A file of this phone, which the user lets the app read from now on; a cloud's may have a copy that its app removes. */
    override fun map(place: String): FileChannel? = try {
        val uri = Uri.parse(place)
        if (uri.authority !in OF_THIS_PHONE) return null
        resolver.takePersistableUriPermission(uri, Intent.FLAG_GRANT_READ_URI_PERMISSION)
        resolver.openFileDescriptor(uri, "r")?.let { mappable(it) }
    } catch (_: SecurityException) {
        null
    }

    override fun release(place: String) = try {
        resolver.releasePersistableUriPermission(Uri.parse(place), Intent.FLAG_GRANT_READ_URI_PERMISSION)
    } catch (_: SecurityException) {
        Unit // it was taken back already
    }

    private fun mappable(file: ParcelFileDescriptor): FileChannel? {
        if (file.statSize >= 0) return AutoCloseInputStream(file).channel
        file.close()
        return null
    }

    override fun folder(place: String): Packaged = DocumentTree(resolver, Uri.parse(place))

    private companion object {
        /** The system's own providers, whose files stay where they are. */
        val OF_THIS_PHONE = listOf(
            "com.android.externalstorage.documents",
            "com.android.providers.downloads.documents",
            "com.android.providers.media.documents",
        )
    }
}
