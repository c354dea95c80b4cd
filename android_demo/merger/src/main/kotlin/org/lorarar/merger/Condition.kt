package org.lorarar.merger

/** What the UNet is told: the prompt's row last, before it the negative's where there is guidance. */
class Condition(val states: List<FloatArray>, val pooled: List<FloatArray>, val notes: List<Sentence>)

/** Reads a prompt with a bundle's text encoders, and keeps what it read last. */
internal class TextCondition(private val bundle: Bundle, private val residency: Residency) {
    private var last: Pair<List<Any?>, Condition>? = null

    /** A prompt to encode; with [off], the text encoders are without LoRAs meanwhile. */
    private class Reading(val prompt: String, val off: Boolean)

    private class Encoded(val states: FloatArray, val pooled: FloatArray, val cut: String)

    /** Encode the prompts of a request with the image's own LoRAs, where the text encoders take any. */
    fun read(request: Request, facts: PipelineFacts, inputs: Inputs, progress: Progress): Condition {
        val guided = request.guidance > 1
        val key = listOf(request.prompt, request.negative, guided, request.guidanceWithoutLora, inputs.takenAs(facts))
        last?.let { (known, told) -> if (known == key) return told }
        return told(request, guided, facts, inputs, progress).also { last = key to it }
    }

    /** Where the text encoders take LoRAs, other inputs are another reading. */
    private fun Inputs.takenAs(facts: PipelineFacts): Any? =
        identity.takeIf { facts.tokenizers.keys.any { bundle.component(it).takesLoras } }

    private fun told(
        request: Request, guided: Boolean, facts: PipelineFacts, inputs: Inputs, progress: Progress,
    ): Condition {
        val zeros = guided && request.negative == null && facts.isNegativeZeros
        val negative = Reading(request.negative ?: "", off = request.guidanceWithoutLora)
        val readings = listOfNotNull(negative.takeIf { guided && !zeros }, Reading(request.prompt, off = false))
        val encoded = encode(readings, facts, inputs, progress)
        val rows = if (zeros) listOf(empty(encoded.first())) + encoded else encoded
        val notes = encoded.filter { it.cut.isNotEmpty() }
            .map { Sentence("the prompt is too long for CLIP, this was cut off: %s", it.cut) }
        return Condition(rows.map { it.states }, rows.map { it.pooled }, notes)
    }

    private fun empty(like: Encoded) = Encoded(FloatArray(like.states.size), FloatArray(like.pooled.size), "")

    /** Each encoder is loaded once, for all prompts. */
    private fun encode(
        readings: List<Reading>, facts: PipelineFacts, inputs: Inputs, progress: Progress,
    ): List<Encoded> {
        val parts = facts.tokenizers.entries.mapIndexed { at, (name, entry) ->
            Drawing.report(progress, Stage.READING_THE_PROMPT, at, facts.tokenizers.size)
            val tokenizer = residency.tokenizer(name, entry)
            residency.use(name) { runtime ->
                readings.map { reading ->
                    val tokens = tokenizer.encode(reading.prompt)
                    val ids = Tensor.of(tokens.ids, listOf(1, tokens.ids.size))
                    tokens to runtime.run(inputs.of(runtime.component, listOf(reading.off)) + ("input_ids" to ids))
                }
            }
        }
        return readings.indices.map { at ->
            val outputs = parts.map { it[at].second }
            val states = join(outputs.map { it.getValue("hidden_states") })
            Encoded(states, outputs.last().getValue("text_embeds").floats(), parts.last()[at].first.cut)
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

/** What the networks take beside latents and prompts: a stack's tensors, and the coefficients (N, K, in), by name. */
class Inputs(private val stack: Map<String, Tensor>, private val coefficients: Map<String, FloatArray>) {
    /** Equal to that of the same inputs alone, and kept without them: they may take gigabytes. */
    val identity = Any()

    /** Those that a network takes: the stack, and the coefficients of a row for each of [off], zeros where it is true. */
    internal fun of(network: Component, off: List<Boolean>): Map<String, Tensor> {
        val taken = network.inputs.filter { it.name in coefficients }
        val rows = taken.associate { spec ->
            val values = coefficients.getValue(spec.name)
            spec.name to batched(spec, off.map { if (it) null else values })
        }
        return stack.filterKeys { name -> network.inputs.any { it.name == name } } + rows
    }
}

/** Rows as one tensor; null is a row of zeros. */
private fun batched(spec: TensorSpec, rows: List<FloatArray?>): Tensor {
    val tensor = Tensor.zeros(spec.dtype, spec.shape.fixed())
    rows.forEachIndexed { row, values -> values?.let { tensor.write(row * it.size, it) } }
    return tensor
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
    private val kept = HashMap<List<Boolean>, Map<String, Tensor>>()

    /** Of one image's latents. */
    val elements: Int = sample.shape.fixed().drop(1).fold(1) { product, size -> product * size }

    private fun width(input: String): Int = runtime.component.input(input).shape.fixed().last()

    fun predict(latents: FloatArray, time: Float): FloatArray {
        val rows = told.states.size
        val predicted = if (rows <= batch) {
            // A single row in a UNet of batch 2 fills it twice; the second result is dropped.
            run(latents, time, List(batch) { minOf(it, rows - 1) }).take(rows)
        } else {
            (0 until rows).map { run(latents, time, listOf(it)).single() }
        }
        if (rows == 1) return predicted.single()
        val (without, with) = predicted
        return FloatArray(elements) { without[it] + request.guidance * (with[it] - without[it]) }
    }

    private fun run(latents: FloatArray, time: Float, index: List<Int>): List<FloatArray> {
        val times = Sinusoids.of(floatArrayOf(time), width(Sinusoids.TIMESTEP))
        val values = mapOf(
            "sample" to index.map { latents },
            Sinusoids.TIMESTEP to index.map { times },
            "encoder_hidden_states" to index.map { told.states[it] },
            "text_embeds" to index.map { told.pooled[it] },
            Sinusoids.SIZE to index.map { sizes },
        )
        val given = values.mapValues { (name, rows) -> batched(runtime.component.input(name), rows) } + adapter(index)
        val output = runtime.run(given).getValue("noise_pred")
        return index.indices.map { row -> FloatArray(elements).also { output.read(row * elements, it) } }
    }

    /** The LoRAs of each row; none in the row that guidance compares with, where the request wants it without them. */
    private fun adapter(index: List<Int>): Map<String, Tensor> {
        val off = index.map { request.guidanceWithoutLora && told.states.size == 2 && it == 0 }
        return kept.getOrPut(off) { inputs.of(runtime.component, off) }
    }
}
