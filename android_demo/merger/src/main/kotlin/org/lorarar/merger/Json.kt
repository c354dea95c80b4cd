package org.lorarar.merger

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** Text that is not the JSON that was expected; the caller says of what. */
class JsonError(message: String) : Exception(message)

/**
 * A strict reader of JSON from untrusted bytes.
 *
 * Android's org.json takes unquoted names, keys that occur twice and any depth; a stranger's file must not. Objects
 * become maps in their own order, arrays lists, whole numbers Long, other numbers Double.
 */
object Json {
    /** Deeper nesting is refused: no file of ours has over ten levels. */
    const val MAX_DEPTH = 64

    /** A parsed value takes up to 100 bytes, so this bounds the memory of reading. */
    const val MAX_VALUES = 500_000

    /** Read one value. Raises JsonError for anything that RFC 8259 forbids, a key that occurs twice, too much depth. */
    fun parse(bytes: ByteArray, maxValues: Int = MAX_VALUES): Any? {
        val marks = bytes.count { it == ','.code.toByte() || it == '['.code.toByte() || it == '{'.code.toByte() }
        if (marks > maxValues) throw JsonError("it has over ${grouped(maxValues.toLong())} values")
        return JsonParser(decode(bytes)).document()
    }

    /** Read an object. Raises JsonError for anything else. */
    fun parseObject(bytes: ByteArray, maxValues: Int = MAX_VALUES): Map<String, Any?> =
        parse(bytes, maxValues).asObject() ?: throw JsonError("it is not a JSON object")

    /** Write a value that is made of maps, lists, strings, numbers, booleans and null. Raises for NaN and infinity. */
    fun write(value: Any?): String = StringBuilder().also { append(it, value) }.toString()

    private fun append(out: StringBuilder, value: Any?) {
        when (value) {
            null, is Boolean, is Int, is Long -> out.append(value)
            is Number -> {
                require(value.toDouble().isFinite()) { "$value is not JSON" }
                out.append(value)
            }
            is String -> quote(out, value)
            is Map<*, *> -> joined(out, '{', '}', value.entries) { (key, item) ->
                quote(out, key as String)
                out.append(": ")
                append(out, item)
            }
            is List<*> -> joined(out, '[', ']', value) { append(out, it) }
            else -> throw IllegalArgumentException("${value.javaClass.name} has no JSON")
        }
    }

    private fun <T> joined(out: StringBuilder, open: Char, close: Char, items: Collection<T>, each: (T) -> Unit) {
        out.append(open)
        items.forEachIndexed { at, item ->
            if (at > 0) out.append(", ")
            each(item)
        }
        out.append(close)
    }

    private fun quote(out: StringBuilder, text: String) {
        out.append('"')
        for (character in text) {
            when {
                character == '"' || character == '\\' -> out.append('\\').append(character)
                character < ' ' || character.isSurrogate() -> out.append(String.format("\\u%04x", character.code))
                else -> out.append(character)
            }
        }
        out.append('"')
    }

    private fun decode(bytes: ByteArray): String {
        val decoder = Charsets.UTF_8.newDecoder()
        decoder.onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
        try {
            return decoder.decode(ByteBuffer.wrap(bytes)).toString()
        } catch (_: CharacterCodingException) {
            throw JsonError("it is not UTF-8 text")
        }
    }
}

/** The value as an object, or null when it is none. Keys of a parsed object are always strings. */
@Suppress("UNCHECKED_CAST")
internal fun Any?.asObject(): Map<String, Any?>? = this as? Map<String, Any?>

/** A value that a schema has found to be an object. */
internal fun Map<String, Any?>.child(key: String): Map<String, Any?> = getValue(key).asObject()!!

/** A value that a schema has found to be a list of objects. */
internal fun Map<String, Any?>.children(key: String): List<Map<String, Any?>> =
    (getValue(key) as List<*>).map { it.asObject()!! }

/** A value that a schema has found to be a text. */
internal fun Map<String, Any?>.text(key: String): String = getValue(key) as String

/** A value that a schema has found to be a number. */
internal fun Map<String, Any?>.number(key: String): Double = (getValue(key) as Number).toDouble()

/** A value that a schema has found to be a whole number. */
internal fun Map<String, Any?>.whole(key: String): Long = (getValue(key) as Number).toLong()

private class JsonParser(private val text: String) {
    private var at = 0
    private var depth = 0

    fun document(): Any? {
        val value = value()
        skipSpace()
        if (at < text.length) fail()
        return value
    }

    private fun value(): Any? {
        skipSpace()
        return when (peek()) {
            '{' -> nested { members() }
            '[' -> nested { elements() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun <T> nested(read: () -> T): T {
        if (++depth > Json.MAX_DEPTH) throw JsonError("it is nested too deeply")
        at++
        return read().also { depth-- }
    }

    private fun members(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        skipSpace()
        if (taken('}')) return found
        while (true) {
            skipSpace()
            val key = string()
            if (key in found) throw JsonError("it has the key '${shorten(key)}' twice")
            skipSpace()
            if (!taken(':')) fail()
            found[key] = value()
            skipSpace()
            if (taken('}')) return found
            if (!taken(',')) fail()
        }
    }

    private fun elements(): List<Any?> {
        val found = ArrayList<Any?>()
        skipSpace()
        if (taken(']')) return found
        while (true) {
            found.add(value())
            skipSpace()
            if (taken(']')) return found
            if (!taken(',')) fail()
        }
    }

    private fun string(): String {
        if (!taken('"')) fail()
        val start = at
        while (peek() != '"' && peek() != '\\') plain()
        if (taken('"')) return text.substring(start, at - 1)
        val out = StringBuilder(text.substring(start, at))
        while (!taken('"')) out.append(if (taken('\\')) escaped() else plain())
        return out.toString()
    }

    private fun plain(): Char = peek().also { if (it < ' ') fail() else at++ }

    private fun escaped(): Char {
        val mark = peek()
        at++
        val place = "\"\\/bfnrt".indexOf(mark)
        if (place >= 0) return "\"\\/\b\u000c\n\r\t"[place]
        if (mark != 'u' || at + 4 > text.length) fail()
        val digits = text.substring(at, at + 4)
        if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail()
        at += 4
        return digits.toInt(16).toChar()
    }

    private fun number(): Number {
        val start = at
        taken('-')
        if (!taken('0')) digits()
        val whole = at
        if (taken('.')) digits()
        if (taken('e') || taken('E')) {
            if (!taken('+')) taken('-')
            digits()
        }
        val found = text.substring(start, at)
        if (whole == at) found.toLongOrNull()?.let { return it }
        return found.toDouble().also { if (!it.isFinite()) throw JsonError("it has a number over float64") }
    }

    private fun digits() {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        if (at == start) fail()
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail()
        at += word.length
        return value
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail()

    private fun taken(character: Char): Boolean = (at < text.length && text[at] == character).also { if (it) at++ }

    private fun skipSpace() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun fail(): Nothing = throw JsonError("it is not valid JSON")
}
