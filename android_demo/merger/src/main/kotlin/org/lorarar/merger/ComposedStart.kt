package org.lorarar.merger

import java.io.Serializable

/**
 * A composed start: each LoRA draws the first steps alone, and their answers are put together; the merge draws the rest.
 *
 * [subject] is what the prompt calls the content, "a sks dog", [subjectClass] the same without its token, "a dog". A composed
 * step takes four passes of the UNet in the place of guidance's two.
 */
data class ComposedStart(
    val subject: String, val subjectClass: String, /** Of the steps. */ val share: Double = 0.5,
) : Serializable {
    /** InputError for what can't be, and for a prompt without the subject. */
    internal fun check(prompt: String) {
        if (!share.isFinite() || share <= 0 || share > 1) {
            throw InputError("a composed share of %s is not possible; give a share of the steps above 0, at most 1", share)
        }
        if (!fits(prompt)) {
            throw InputError(
                "the prompt %s does not have the subject %s in it, or there is no class for it; a composed start needs both",
                prompt, subject,
            )
        }
    }

    /** Whether a prompt has the subject in it, and there is a class for it. */
    fun fits(prompt: String): Boolean = subject.isNotBlank() && subjectClass.isNotBlank() && places(prompt).isNotEmpty()

    /** A prompt with the class in the place of the subject. */
    internal fun withClass(prompt: String): String =
        places(prompt).reversed().fold(prompt) { text, at -> text.replaceRange(at, at + subject.length, subjectClass) }

    /** Where a prompt has the subject; a part of a word is none, "a dog" in "a doghouse". */
    private fun places(prompt: String): List<Int> =
        generateSequence(prompt.indexOf(subject)) { prompt.indexOf(subject, it + subject.length) }.takeWhile { it >= 0 }
            .filter { !isLetter(prompt.getOrNull(it - 1)) && !isLetter(prompt.getOrNull(it + subject.length)) }.toList()

    /** Whether it is a letter or digit of a script with blanks between words: those before U+0590. */
    private fun isLetter(char: Char?): Boolean = char != null && char < '\u0590' && char.isLetterOrDigit()

    /** 0.28 of 25 steps is a little above 7 in doubles, and must be 7. */
    internal fun holds(step: Int, steps: Int): Boolean = step < maxOf(1.0, Math.ceil(share * steps - 1e-6))

    internal companion object {
        fun notTwo() = InputError("a composed start puts two LoRAs' answers together; load a content and a style LoRA")
    }
}

/** Whose coefficients a row has: no LoRA's, the merge's, those of one LoRA alone, or of those beside these two. */
internal enum class Share { NONE, MERGE, CONTENT, STYLE, NEITHER }

/** A prompt as LoRAs read it; without a prompt, what the base was made for where there is no negative one. */
internal data class Reading(val prompt: String?, val share: Share)

/** One of the predictions that a step is put together from. */
internal class Term(val reading: Reading, val sign: Float = 1f)

/** The terms of a step. With guidance the first is what it compares the sum of the others with. */
internal fun Request.terms(step: Int): List<Term> {
    val start = composed?.takeIf { it.holds(step, steps) }
    val said = if (start == null) {
        listOf(Term(Reading(prompt, Share.MERGE)))
    } else {
        listOf(
            Term(Reading(start.subject, Share.CONTENT)),
            Term(Reading(start.withClass(prompt), Share.STYLE)),
            Term(Reading(start.subjectClass, Share.NEITHER), sign = -1f),
        )
    }
    if (guidance == 1f) return said
    val compared = if (start == null) Share.MERGE else Share.NEITHER
    return listOf(Term(Reading(negative, if (guidanceWithoutLora) Share.NONE else compared))) + said
}
