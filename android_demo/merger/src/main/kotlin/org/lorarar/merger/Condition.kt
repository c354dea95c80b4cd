package org.lorarar.merger

import kotlin.math.sqrt

/** What the UNet is told of a prompt. */
internal class Row(val states: FloatArray, val pooled: FloatArray)

/** What the UNet is told of a request: a row for each of its readings, and what of the prompts was cut off. */
internal class Condition(val rows: Map<Reading, Row>, val notes: List<Sentence>)

/** Reads a prompt with a bundle's text encoders, and keeps what it read last. */
internal class TextCondition(private val bundle: Bundle, private val residency: Residency) {
    private var last: Pair<List<Any?>, Condition>? = null

    private class Encoded(val row: Row, val cut: String)

    /** Encode the prompts of a request with the image's own LoRAs, where the text encoders take any. */
    fun read(request: Request, facts: PipelineFacts, inputs: Inputs, progress: Progress): Condition {
        val readings = (0 until request.steps).flatMap { step -> request.terms(step).map { it.reading } }.distinct()
        val key = listOf(readings, inputs.takenAs(facts))
        last?.let { (known, told) -> if (known == key) return told }
        return told(readings, facts, inputs, progress).also { last = key to it }
    }

    /** Where the text encoders take LoRAs, other inputs are another reading. */
    private fun Inputs.takenAs(facts: PipelineFacts): Any? =
        identity.takeIf { facts.tokenizers.keys.any { bundle.component(it).takesLoras } }

    private fun told(
        readings: List<Reading>, facts: PipelineFacts, inputs: Inputs, progress: Progress,
    ): Condition {
        val (zeros, words) = readings.partition { it.prompt == null && facts.isNegativeZeros }
        val encoded = encode(words, facts, inputs, progress)
        val empty = encoded.first().row.let { Row(FloatArray(it.states.size), FloatArray(it.pooled.size)) }
        val notes = encoded.map { it.cut }.filter { it.isNotEmpty() }.distinct()
            .map { Sentence("the prompt is too long for CLIP, this was cut off: %s", it) }
        return Condition(words.zip(encoded.map { it.row }).toMap() + zeros.associateWith { empty }, notes)
    }

    /** Each encoder is loaded once, for all prompts. */
    private fun encode(
        readings: List<Reading>, facts: PipelineFacts, inputs: Inputs, progress: Progress,
    ): List<Encoded> {
        val parts = facts.tokenizers.entries.mapIndexed { at, (name, entry) ->
            Drawing.report(progress, Stage.READING_THE_PROMPT, at, facts.tokenizers.size)
            val tokenizer = residency.tokenizer(name, entry)
            residency.use(name) { runtime ->
                readings.map { reading ->
                    val tokens = tokenizer.encode(reading.prompt ?: "")
                    val ids = Tensor.of(tokens.ids, listOf(1, tokens.ids.size))
                    tokens to runtime.run(inputs.of(runtime.component, listOf(reading.share)) + ("input_ids" to ids))
                }
            }
        }
        return readings.indices.map { at ->
            val outputs = parts.map { it[at].second }
            val states = join(outputs.map { it.getValue("hidden_states") })
            Encoded(Row(states, outputs.last().getValue("text_embeds").floats()), parts.last()[at].first.cut)
        }
    }

    /** (1, tokens, d₁) and (1, tokens, d₂) → tokens × (d₁ + d₂). */
    private fun join(parts: List<Tensor>): FloatArray {
        val tokens = parts.first().shape[1]
        val widths = parts.map { it.shape[2] }
        val joined = FloatArray(tokens * widths.sum())
        var from = 0
        for ((part, width) in parts.zip(widths)) {
            val values = part.floats()
            for (token in 0 until tokens) {
                values.copyInto(joined, token * widths.sum() + from, token * width, (token + 1) * width)
            }
            from += width
        }
        return joined
    }
}

/**
 * What the networks take beside latents and prompts: a stack's tensors, and the coefficients (N, K, in), by name; of the
 * merge, and by [apart] the others, which are made when they are asked for.
 */
internal class Inputs(
    private val stack: Map<String, Tensor>,
    private val coefficients: Map<String, FloatArray>,
    private val apart: (Share) -> Map<String, FloatArray> = { throw ComposedStart.notTwo() },
) {
    private val made = HashMap<Share, Map<String, FloatArray>>()

    /** Equal to that of the same inputs alone, and kept without them: they may take gigabytes. */
    val identity = Any()

    /** Those that a network takes: the stack, and the coefficients of each row. */
    fun of(network: Component, shares: List<Share>): Map<String, Tensor> {
        val taken = network.inputs.filter { it.name in coefficients }
        val rows = taken.associate { spec -> spec.name to batched(spec, shares.map { of(it)?.getValue(spec.name) }) }
        return stack.filterKeys { name -> network.inputs.any { it.name == name } } + rows
    }

    private fun of(share: Share): Map<String, FloatArray>? = when (share) {
        Share.NONE -> null
        Share.MERGE -> coefficients
        else -> made.getOrPut(share) { apart(share) }
    }
}

/** Rows as one tensor; null is a row of zeros. */
private fun batched(spec: TensorSpec, rows: List<FloatArray?>): Tensor {
    val tensor = Tensor.zeros(spec.dtype, spec.shape.fixed())
    rows.forEachIndexed { row, values -> values?.let { tensor.write(row * it.size, it) } }
    return tensor
}

/**
 * A guided prediction, brought back to the spread of the prompt's own by a share from 0 to 1. Guidance makes its numbers
 * larger, and so colours too strong (arXiv 2305.08891, section 3.4).
 */
internal fun rescaled(guided: FloatArray, told: FloatArray, share: Float): FloatArray {
    if (share == 0f) return guided
    val larger = spread(guided)
    if (larger == 0.0) return guided
    val factor = (share * spread(told) / larger + (1 - share.toDouble())).toFloat()
    return FloatArray(guided.size) { guided[it] * factor }
}

private fun spread(values: FloatArray): Double {
    val mean = values.average()
    return sqrt(values.sumOf { (it - mean) * (it - mean) } / values.size)
}

/** The UNet's guided prediction. A UNet of batch 1 is run once for each row. */
internal class Step(
    private val runtime: Runtime,
    private val told: Condition,
    private val inputs: Inputs,
    private val request: Request,
    side: Float,
) {
    private val sample = runtime.component.input("sample")
    private val sizes = floatArrayOf(side, side, 0f, 0f, side, side)
        .let { Sinusoids.of(it, width(Sinusoids.SIZE) / it.size) }
    private val batch = sample.shape.fixed().first()
    private val kept = HashMap<List<Share>, Map<String, Tensor>>()

    /** Of one image's latents. */
    val elements: Int = sample.shape.fixed().drop(1).fold(1) { product, size -> product * size }

    private fun width(input: String): Int = runtime.component.input(input).shape.fixed().last()

    fun predict(latents: FloatArray, time: Float, step: Int): FloatArray {
        val terms = request.terms(step)
        val predicted = terms.map { it.reading }.chunked(batch).flatMap { readings ->
            // The last run is filled up with its own last row, whose further results are dropped.
            val full = List(batch) { readings[minOf(it, readings.size - 1)] }
            run(latents, time, full).take(readings.size)
        }
        val signs = terms.map { it.sign }
        if (request.guidance == 1f) return sum(predicted, signs)
        val without = predicted.first()
        val said = sum(predicted.drop(1), signs.drop(1))
        val guided = FloatArray(elements) { without[it] + request.guidance * (said[it] - without[it]) }
        return rescaled(guided, said, request.guidanceRescale)
    }

    private fun sum(rows: List<FloatArray>, signs: List<Float>): FloatArray =
        FloatArray(elements) { at -> rows.indices.fold(0f) { sum, row -> sum + signs[row] * rows[row][at] } }

    private fun run(latents: FloatArray, time: Float, readings: List<Reading>): List<FloatArray> {
        val rows = readings.map { told.rows.getValue(it) }
        val times = Sinusoids.of(floatArrayOf(time), width(Sinusoids.TIMESTEP))
        val values = mapOf(
            "sample" to rows.map { latents },
            Sinusoids.TIMESTEP to rows.map { times },
            "encoder_hidden_states" to rows.map { it.states },
            "text_embeds" to rows.map { it.pooled },
            Sinusoids.SIZE to rows.map { sizes },
        )
        val given = values.mapValues { (name, each) -> batched(runtime.component.input(name), each) }
        val output = runtime.run(given + adapter(readings.map { it.share })).getValue("noise_pred")
        return rows.indices.map { row -> FloatArray(elements).also { output.read(row * elements, it) } }
    }

    /** The LoRAs of each row. */
    private fun adapter(shares: List<Share>): Map<String, Tensor> =
        kept.getOrPut(shares) { inputs.of(runtime.component, shares) }
}
