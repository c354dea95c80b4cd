package org.lorarar.merger

import java.io.File
import java.text.Normalizer
import java.util.Locale

/** A prompt's tokens, padded, and the words that did not fit. */
class Tokens(val ids: IntArray, val cut: String)

/**
 * CLIP's tokenizer, from a bundle's tokenizer.json (the format of the `tokenizers` library): byte-level BPE over
 * lower-case words between a start and an end token, padded.
 *
 * The words are found without regular expressions: those of Android and of a computer's Java differ on what is a space.
 */
class ClipTokenizer private constructor(
    private val vocabulary: Map<String, Int>,
    private val ranks: Map<Pair<String, String>, Int>,
    private val special: Map<String, Int>,
    private val unknown: Int,
    private val entry: TokenizerEntry,
) {
    private val cache = HashMap<String, List<Found>>()

    /** One token and where it begins. */
    private class Found(val id: Int, val place: Int)

    /** The tokens of a prompt: [TokenizerEntry.length] ids, and what of the prompt was cut off. */
    fun encode(prompt: String): Tokens {
        val found = pieces(prompt)
        val room = entry.length - 2
        val cut = if (found.size > room) prompt.substring(found[room].place) else ""
        val ids = IntArray(entry.length) { entry.pad }
        ids[0] = entry.start
        for ((i, token) in found.take(room).withIndex()) ids[i + 1] = token.id
        ids[minOf(found.size, room) + 1] = entry.end
        return Tokens(ids, cut)
    }

    /** Special tokens are looked for first, in the prompt as it was written. */
    private fun pieces(prompt: String): List<Found> {
        val found = ArrayList<Found>()
        var at = 0
        while (at < prompt.length) {
            val next = special.keys.map { it to prompt.indexOf(it, at) }.filter { it.second >= 0 }.minByOrNull { it.second }
            words(prompt, at, next?.second ?: prompt.length, found)
            if (next == null) break
            found += Found(special.getValue(next.first), next.second)
            at = next.second + next.first.length
        }
        return found
    }

    private fun words(prompt: String, from: Int, to: Int, found: MutableList<Found>) {
        var at = from
        while (at < to) {
            if (prompt[at] in SPACES) {
                at++
                continue
            }
            var stop = at
            while (stop < to && prompt[stop] !in SPACES) stop++
            val word = prompt.substring(at, stop)
            val plain = lowered(Normalizer.normalize(word, Normalizer.Form.NFC))
            // A word that grew or shrank has no letter-by-letter places: its own beginning stands for them.
            val same = plain.length == word.length
            for ((offset, piece) in split(plain)) {
                val parts = if (piece in special) split(piece, whole = false) else listOf(0 to piece)
                for ((more, part) in parts) for (token in bytePairs(part)) {
                    found += Found(token.id, if (same) at + offset + more + token.place else at)
                }
            }
            at = stop
        }
    }

    /** Lower case, letter by letter: no letter looks at its neighbours, as Java's final sigma would. */
    private fun lowered(text: String): String {
        val out = StringBuilder()
        text.codePoints().forEach { out.append(String(Character.toChars(it)).lowercase(Locale.ROOT)) }
        return out.toString()
    }

    /** A word's pieces and their places: special texts, contractions, runs of letters, single digits, runs of the rest. */
    private fun split(word: String, whole: Boolean = true): List<Pair<Int, String>> {
        val found = ArrayList<Pair<Int, String>>()
        var at = 0
        while (at < word.length) {
            val fixed = (if (whole) special.keys + CONTRACTIONS else CONTRACTIONS).firstOrNull { word.startsWith(it, at) }
            val stop = if (fixed != null) at + fixed.length else run(word, at)
            found += at to word.substring(at, stop)
            at = stop
        }
        return found
    }

    /** Where the run of one kind of character that begins at [at] ends. A digit is a run of its own. */
    private fun run(word: String, at: Int): Int {
        val kind = kind(word.codePointAt(at))
        var stop = at + Character.charCount(word.codePointAt(at))
        while (kind != DIGIT && stop < word.length && kind(word.codePointAt(stop)) == kind) {
            stop += Character.charCount(word.codePointAt(stop))
        }
        return stop
    }

    private fun kind(character: Int): Int = when (Character.getType(character).toByte()) {
        Character.UPPERCASE_LETTER, Character.LOWERCASE_LETTER, Character.TITLECASE_LETTER, Character.MODIFIER_LETTER,
        Character.OTHER_LETTER -> LETTER
        Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> DIGIT
        else -> OTHER
    }

    /** Byte-pair encoding of one piece: the pair of the lowest rank is merged until there is none. */
    private fun bytePairs(piece: String): List<Found> = cache.getOrPut(piece) {
        val symbols = piece.toByteArray().map { BYTES[it.toInt() and 0xff].toString() }.toMutableList()
        symbols[symbols.size - 1] += END_OF_WORD
        while (symbols.size > 1) {
            val best = (0 until symbols.size - 1).minByOrNull { rank(symbols, it) }!!
            val rank = rank(symbols, best)
            if (rank == Int.MAX_VALUE) break
            symbols[best] += symbols.removeAt(best + 1)
        }
        val places = places(piece)
        var at = 0
        symbols.map { symbol ->
            Found(vocabulary[symbol] ?: unknown, places[at]).also { at += symbol.removeSuffix(END_OF_WORD).length }
        }
    }

    /** For each byte of a text in UTF-8, where its letter begins. */
    private fun places(text: String): List<Int> {
        val found = ArrayList<Int>()
        var at = 0
        while (at < text.length) {
            val letter = String(Character.toChars(text.codePointAt(at)))
            repeat(letter.toByteArray().size) { found += at }
            at += letter.length
        }
        return found
    }

    private fun rank(symbols: List<String>, at: Int): Int = ranks[symbols[at] to symbols[at + 1]] ?: Int.MAX_VALUE

    companion object {
        private const val MAX_BYTES = 16L shl 20
        private const val END_OF_WORD = "</w>"
        private const val LETTER = 0
        private const val DIGIT = 1
        private const val OTHER = 2
        private val CONTRACTIONS = listOf("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

        /** Unicode's White_Space. */
        private val SPACES = ("\u0009\u000a\u000b\u000c\u000d\u0020\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" +
            ('\u2000'..'\u200a').joinToString("")).toSet()

        /** A printable character for every byte, as GPT-2 chose them: itself, or one from U+0100 on. */
        private val BYTES: CharArray by lazy {
            val printable = ('!'..'~') + ('¡'..'¬') + ('®'..'ÿ')
            var next = 0x100
            CharArray(256) { if (it.toChar() in printable) it.toChar() else (next++).toChar() }
        }

        /** Read a tokenizer file; [entry] is its manifest entry. InputError when it is not CLIP's kind of tokenizer. */
        fun open(file: File, entry: TokenizerEntry): ClipTokenizer {
            if (!file.isFile || file.length() > MAX_BYTES) throw refusal(file)
            val root = try {
                Json.parseObject(file.readBytes())
            } catch (_: JsonError) {
                throw refusal(file)
            }
            val model = root["model"].asObject() ?: throw refusal(file)
            if (model["type"] != "BPE" || model["end_of_word_suffix"] != END_OF_WORD) throw refusal(file)
            val vocabulary = HashMap<String, Int>()
            for ((token, id) in model["vocab"].asObject() ?: throw refusal(file)) {
                vocabulary[token] = (id as? Long ?: throw refusal(file)).toInt()
            }
            val ranks = HashMap<Pair<String, String>, Int>()
            for (merge in model["merges"] as? List<*> ?: throw refusal(file)) {
                // Older files write a pair as one text with a space.
                val pair = (if (merge is String) merge.split(' ') else merge as? List<*>).orEmpty()
                if (pair.size != 2 || pair.any { it !is String }) throw refusal(file)
                ranks.putIfAbsent((pair[0] as String) to (pair[1] as String), ranks.size)
            }
            val unknown = vocabulary[model["unk_token"]] ?: throw refusal(file)
            return ClipTokenizer(vocabulary, ranks, special(root, file), unknown, entry)
        }

        private fun special(root: Map<String, Any?>, file: File): Map<String, Int> {
            val tokens = root["added_tokens"] as? List<*> ?: throw refusal(file)
            return tokens.associate { token ->
                val content = token.asObject()?.get("content") as? String
                val id = token.asObject()?.get("id") as? Long
                if (content.isNullOrEmpty() || id == null) throw refusal(file)
                content to id.toInt()
            }
        }

        private fun refusal(file: File) =
            InputError("%s: not CLIP's tokenizer file; export the bundle again", file)
    }
}
