package org.lorarar.merger

import java.io.Serializable

/**
 * What the engine says: a text of the app's resources, and the values that it speaks of.
 *
 * [template] is English, with `%s` in the place of each value and `%%` for a percent sign. [toString] says it so.
 */
class Sentence(val template: String, vararg values: Any?) : Serializable {
    private val values: List<Serializable> = values.map { it as? Sentence ?: it.toString() }

    /** The sentence in an app's words: the translation of a template, or null. There `%2\$s` is the second value. */
    fun said(words: (String) -> String?): String {
        val said = values.map { (it as? Sentence)?.said(words) ?: it.toString() }
        var next = 0
        return PLACEHOLDER.replace(words(template) ?: template) { found ->
            val place = found.groupValues[1]
            when {
                found.value == "%%" -> "%"
                place.isEmpty() -> said.getOrNull(next++)
                else -> said.getOrNull(place.toInt() - 1)
            } ?: found.value
        }
    }

    /** The same with another text in the place of one in its values. */
    fun replacing(old: String, new: String): Sentence {
        val replaced = values.map { (it as? Sentence)?.replacing(old, new) ?: it.toString().replace(old, new) }
        return Sentence(template, *replaced.toTypedArray())
    }

    override fun toString(): String = said { null }

    override fun equals(other: Any?): Boolean = other is Sentence && template == other.template && values == other.values

    override fun hashCode(): Int = 31 * template.hashCode() + values.hashCode()

    companion object {
        private val PLACEHOLDER = Regex("""%(?:%|s|(\d)[$]s)""")

        private val NO_WORD = Regex("[^a-z0-9]+")

        /** The name of a template's resource: its words, and an x for each value. */
        fun resource(template: String): String {
            val words = template.lowercase().replace("%s", " x ").split(NO_WORD)
            return "said_" + words.filter { it.isNotEmpty() }.joinToString("_")
        }
    }
}
