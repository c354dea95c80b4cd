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
        for (end in listOf(component.inputs, component.outputs)) {
            if (end.distinctBy { it.name }.size < end.size) refuse("its %s repeats a name", name)
        }
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
        val stated = component.inputs.filter { isOfLoras(it.name) }
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
        val parts = facts.tokenizers.keys + listOf("unet", "vae_decoder")
        val missing = parts.filter { it !in bundle.components }
        if (missing.isNotEmpty()) refuse("its pipeline has no %s", missing.joinToString())
        val stated = statedShapes()
        val wanted = wantedShapes(facts, stated)
        val taken = parts.flatMap { name -> bundle.component(name).inputs.map { name to it.name } }
        val wrong = wanted.filter { (place, shape) -> stated[place] != shape }.keys +
            taken.filter { place -> place !in wanted && !isOfLoras(place.second) }
        wrong.firstOrNull()?.let { (name, tensor) -> refuse("%s's %s doesn't fit the other parts", name, tensor) }
        if (facts.tokenizers.values.map { it.length }.toSet().size != 1) {
            refuse("the tokenizers' length doesn't fit the other parts")
        }
    }

    /** All shapes but those of LoRAs, by component and tensor: the schema lets these alone give a size by name. */
    private fun statedShapes(): Map<Pair<String, String>, List<Int>> = bundle.components.flatMap { name ->
        val component = bundle.component(name)
        (component.inputs + component.outputs).filter { !isOfLoras(it.name) }.map { (name to it.name) to it.shape.fixed() }
    }.toMap()

    /**
     * The shapes that follow from others, by component and tensor; [stated] has all that are stated.
     *
     * They name all inputs but those of LoRAs. null is a tensor that there must not be.
     */
    private fun wantedShapes(
        facts: PipelineFacts, stated: Map<Pair<String, String>, List<Int>>,
    ): Map<Pair<String, String>, List<Int>?> {
        val lengths = facts.tokenizers.mapValues { it.value.length }
        val (encoders, length) = lengths.keys to lengths.values.first()
        fun last(component: String, tensor: String): Int? = stated[component to tensor]?.last()
        val widths = encoders.associateWith { last(it, "hidden_states") ?: 0 }
        val embeds = last(encoders.last(), "text_embeds") ?: 0
        val sample = stated["unet" to "sample"] ?: listOf(0)
        val (batch, latents) = sample.first() to sample.last()
        // A decoder may take a part of the image, as often as there are parts, which overlap: of two latents or more.
        val tile = minOf(latents, maxOf(2, last("vae_decoder", "latents") ?: 1))
        val side = facts.pixels / maxOf(1, latents) * tile
        return mapOf(
            ("unet" to "sample") to listOf(batch) + sample.drop(1).take(1) + latents + latents,
            ("unet" to Sinusoids.TIMESTEP) to listOf(batch, multiple(last("unet", Sinusoids.TIMESTEP), 2)),
            ("unet" to Sinusoids.SIZE) to listOf(batch, multiple(last("unet", Sinusoids.SIZE), 2 * Sinusoids.SIZES)),
            ("unet" to "encoder_hidden_states") to listOf(batch, length, widths.values.sum()),
            ("unet" to "text_embeds") to listOf(batch, embeds),
            ("unet" to "noise_pred") to stated["unet" to "sample"],
            ("vae_decoder" to "latents") to listOf(1) + sample.drop(1).dropLast(2) + tile + tile,
            ("vae_decoder" to "image") to listOf(1, 3, side, side),
        ) + lengths.map { (name, own) -> (name to "input_ids") to listOf(1, own) } +
            widths.map { (name, width) -> (name to "hidden_states") to listOf(1, length, width) } +
            encoders.map { name -> (name to "text_embeds") to listOf(1, embeds).takeIf { name == encoders.last() } }
    }

    /** The multiple of a number that the last size of a shape must be: itself, or the next one below. */
    private fun multiple(last: Int?, of: Int): Int = (last ?: of).let { maxOf(of, it - it % of) }

    private fun isOfLoras(tensor: String): Boolean = OF_STACKS.any { tensor.startsWith(it) }

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
