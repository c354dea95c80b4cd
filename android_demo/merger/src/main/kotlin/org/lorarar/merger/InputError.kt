package org.lorarar.merger

/** What was given can't be used: one plain sentence that says what happened, what is valid and what to do. */
open class InputError(val sentence: Sentence) : Exception(sentence.toString()) {
    constructor(template: String, vararg values: Any?) : this(Sentence(template, *values))
}

/** An image with NaN or ∞ in it: the bundle has run, and fails. */
class NotFinite(sentence: Sentence) : InputError(sentence)

/** What a failure is told as. */
internal fun said(error: Throwable): Sentence = when (error) {
    is InputError -> error.sentence
    is OutOfMemoryError ->
        Sentence("this phone has too little memory for that; close other apps, or use LoRAs of lower rank")
    else -> Sentence("unexpected: %s; please report it", shorten(error.toString(), 200))
}

private val UNPRINTABLE =
    setOf(
        CharCategory.CONTROL,
        CharCategory.FORMAT,
        CharCategory.SURROGATE,
        CharCategory.PRIVATE_USE,
        CharCategory.UNASSIGNED,
        CharCategory.LINE_SEPARATOR,
        CharCategory.PARAGRAPH_SEPARATOR,
    )

/** A name from a stranger's file, safe to show: one line, no control characters, at most [limit] characters. */
fun shorten(text: String, limit: Int = 120): String {
    val clean = text.take(limit + 1).map { if (it.category in UNPRINTABLE) '?' else it }.joinToString("")
    return if (clean.length <= limit) clean else clean.take(limit - 1) + "…"
}

/** A whole number with its thousands set apart, as errors show sizes: 1,234,567. */
internal fun grouped(number: Long): String = String.format(java.util.Locale.ROOT, "%,d", number)
