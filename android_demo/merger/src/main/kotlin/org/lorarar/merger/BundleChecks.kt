package org.lorarar.merger

/** What a schema can't relate: the layout, the components' tensors and their golden inputs, the parts of a pipeline. */
internal class BundleChecks(private val bundle: Bundle) {
    private val layout = bundle.layout

    /** Raises InputError naming what does not fit together. */
    fun check() {
        checkLayout()
        for (name in bundle.components) checkComponent(bundle.component(name))
        bundle.pipeline?.let { checkPipeline(it) }
    }

    private fun checkLayout() {
        val names = layout.groups.map { it.name }
        if (names.toSet().size != names.size || layout.layers.toSet().size != layout.layers.size) {
            refuse("its layout repeats a name")
        }
    }

    private fun checkComponent(component: Component) {
        val name = component.name
        for (input in component.goldenInputs.values) {
            val values = (input.source as? GoldenInput.Source.Listed ?: continue).values
            if (values.size.toLong() != product(input.shape)) refuse("%s's golden values don't fill their shape", name)
        }
        val golden = component.goldenInputs.mapValues { it.value.shape }
        if (golden != component.inputs.associate { it.name to it.shape.fixed(layout.sizes) }) {
            refuse("%s's golden inputs are not its inputs", name)
        }
        if (name == "hypernet") checkHypernet(component) else checkAdapter(component)
        val total = golden.values.fold(0L) { sum, shape -> minOf(sum + product(shape), MAX_ELEMENTS + 1) }
        if (total > MAX_ELEMENTS) {
            throw InputError("%s: %s's inputs hold over %s numbers; lower --rank", bundle.path, name, grouped(MAX_ELEMENTS))
        }
    }

    private fun checkHypernet(hypernet: Component) {
        val groups = layout.withKinds(bundle.learned)
        if (!states(hypernet.inputs, layout.stackShapes(groups))) refuse("the hypernet's inputs are not its layout's")
        if (!states(hypernet.outputs, layout.coefficientShapes(groups))) refuse("the hypernet's outputs are not its layout's")
    }

    /** Compare the inputs for LoRAs of a UNet or a text encoder with the layout. */
    private fun checkAdapter(component: Component) {
        val groups = layout.of(component.name)
        val stated = component.inputs.filter { spec -> OF_STACKS.any { spec.name.startsWith(it) } }
        // A UNet without any is the base model alone, or one that a LoRA was fused into.
        if (stated.isEmpty() && (component.name == "unet" || groups.isEmpty())) return
        // A prompt is encoded alone; a UNet has a row for each image.
        val sample = component.inputs.firstOrNull { it.name == "sample" }
        val batch = if (sample == null) 1 else (sample.shape.firstOrNull() as? Size.Fixed)?.value
        val shapes = layout.stackShapes(groups) + layout.coefficientShapes(groups, batch)
        if (groups.isEmpty() || !states(stated, shapes)) {
            refuse("the %s's inputs for LoRAs are not its layout's", component.name)
        }
    }

    /** Whether specs are these shapes, in their order, with the rank named in all of them or in none. */
    private fun states(specs: List<TensorSpec>, shapes: Map<String, List<Size>>): Boolean {
        val stated = specs.map { it.name to it.shape }
        val fixed = shapes.map { (name, shape) -> name to shape.fixed(layout.sizes).map { Size.Fixed(it) } }
        return stated == shapes.toList() || stated == fixed
    }

    /** The components that drawing needs, and that they fit together. */
    private fun checkPipeline(facts: PipelineFacts) {
        val tokenizers = facts.tokenizers
        val missing = (tokenizers.keys + listOf("unet", "vae_decoder")).filter { it !in bundle.components }
        if (missing.isNotEmpty()) refuse("its pipeline has no %s", missing.joinToString())
        val lengths = tokenizers.values.map { it.length }
        if (lengths.toSet().size != 1) refuse("the tokenizers' length doesn't fit the other parts")
        val wanted = wantedShapes(facts, tokenizers.keys.toList(), lengths.first())
        for ((place, shape) in wanted) {
            if (shape == null || shape(place) != shape) {
                refuse("%s's %s doesn't fit the other parts", place.first, place.second)
            }
        }
    }

    private fun wantedShapes(
        facts: PipelineFacts, encoders: List<String>, length: Int,
    ): Map<Pair<String, String>, List<Int>?> {
        val sample = shape("unet" to "sample") ?: refuse("unet has no sample of fixed size")
        val (batch, latents) = sample.first() to sample.drop(1)
        val width = encoders.sumOf { shape(it to "hidden_states")?.last() ?: 0 }
        val pooled = shape(encoders.last() to "text_embeds")?.drop(1)
        // A decoder may take a part of the image, as many times as it has parts.
        val tile = minOf(latents.last(), maxOf(1, shape("vae_decoder" to "latents")?.last() ?: 1))
        val side = facts.pixels / latents.last() * tile
        return mapOf(
            ("unet" to Sinusoids.TIMESTEP) to multiple(Sinusoids.TIMESTEP, 2)?.let { listOf(batch, it) },
            ("unet" to Sinusoids.SIZE) to multiple(Sinusoids.SIZE, 2 * Sinusoids.SIZES)?.let { listOf(batch, it) },
            ("unet" to "encoder_hidden_states") to listOf(batch, length, width),
            ("unet" to "text_embeds") to pooled?.let { listOf(batch) + it },
            ("unet" to "noise_pred") to sample,
            ("vae_decoder" to "latents") to listOf(1) + latents.dropLast(2) + tile + tile,
            ("vae_decoder" to "image") to listOf(1, 3, side, side),
        ) + encoders.associate { (it to "input_ids") to listOf(1, length) }
    }

    /** The multiple of a number that the last size of a UNet's input must be: itself, or the next one below. */
    private fun multiple(input: String, of: Int): Int? =
        shape("unet" to input)?.let { maxOf(of, it.last() - it.last() % of) }

    /** The shape of a component's input or output; null when there is none or a size of it is given by name. */
    private fun shape(place: Pair<String, String>): List<Int>? {
        val component = bundle.component(place.first)
        val spec = (component.inputs + component.outputs).firstOrNull { it.name == place.second } ?: return null
        return spec.shape.map { (it as? Size.Fixed)?.value ?: return null }.ifEmpty { null }
    }

    /** Of a shape, capped where it is too large for anything. */
    private fun product(shape: List<Int>): Long =
        shape.fold(1L) { product, size -> minOf(product * size, MAX_ELEMENTS + 1) }

    private fun refuse(template: String, vararg values: Any): Nothing =
        throw InputError("%s: %s; export the bundle again", bundle.path, Sentence(template, *values))

    private companion object {
        val OF_STACKS = listOf(Layout.ROLES, Layout.ADAPTER, Layout.COEFFICIENTS)

        /** Of a component's golden inputs together: 4 SDXL stacks of rank 128 fit. */
        const val MAX_ELEMENTS = Int.MAX_VALUE.toLong() + 1
    }
}
