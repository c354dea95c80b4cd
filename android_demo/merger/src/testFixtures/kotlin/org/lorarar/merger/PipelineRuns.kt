package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.util.Locale

/** Merges, whole images and checks of a whole pipeline through a runtime's own library, compared with Python's. */
abstract class PipelineRuns(
    target: String, private val runtimeName: String, factory: RuntimeFactory, private val place: String = target,
) {
    protected val runtimes = Runtimes(mapOf(target to factory))
    protected val folder = File(TestData.exported, place)
    protected val whole by lazy { Bundle.open(File(folder, "bundle")) }

    protected fun pipeline(bundle: Bundle = whole) = LoraRarPipeline(bundle, runtimes, TestData.scratch)

    protected fun loras(vararg names: String) = names.map { LoraReader.read(File(folder, "loras/$it.safetensors")) }

    /** ΔW of one row of a group, row-major: up · (down ⊙ (roles · m)). */
    protected fun delta(stack: Stack, blender: Blender, group: Group, row: Int): List<Double> {
        val (down, up, roles) = listOf(group.down, group.up, Layout.ROLES).map { stack.inputs.getValue(it) }
        val (width, count) = group.inFeatures to stack.layout.loras
        val downs = FloatArray(stack.rank * width).also { down.read(row * it.size, it) }
        val ups = FloatArray(group.outFeatures * stack.rank).also { up.read(row * it.size, it) }
        val role = roles.floats()
        val coefficients = blender.values.getValue(group.coefficients)
        val scaled = DoubleArray(downs.size) { at ->
            val weights = (0 until count).sumOf {
                role[at / width * count + it].toDouble() * coefficients[(row * count + it) * width + at % width]
            }
            downs[at] * weights
        }
        return (0 until group.outFeatures).flatMap { out ->
            (0 until width).map { column ->
                (0 until stack.rank).sumOf { ups[out * stack.rank + it] * scaled[it * width + column] }
            }
        }
    }

    /** ΔW of every layer against the file's. With [lacking], those that the file lacks are zero. */
    protected fun assertLayers(
        stack: Stack, blender: Blender, expected: SafeTensors, share: Double = 1e-5, lacking: Boolean = false,
    ) {
        for (group in stack.layout.groups) group.layers.forEachIndexed { row, layer ->
            val have = delta(stack, blender, group, row)
            val isZero = lacking && layer !in expected.entries
            val wanted = if (isZero) List(have.size) { 0.0 } else expected.floats(layer).doubles()
            assertClose(layer, wanted, have, share)
        }
    }

    protected fun assertCoefficients(blender: Blender, expected: SafeTensors) {
        for ((name, values) in blender.values) assertClose(name, expected.floats(name).doubles(), values.doubles(), 1e-5)
    }

    /** Merge LoRAs with Python's strengths and compare with its merge. */
    private fun assertMerge(name: String, loras: List<Lora>): LoraRarPipeline {
        val expected = SafeTensors.open(File(folder, "$name.safetensors"))
        val pipeline = pipeline()
        pipeline.load(loras)
        val blender = pipeline.merge(listOf(1.2f, 0.8f))
        assertCoefficients(blender, expected)
        assertLayers(pipeline.stack!!, blender, expected, lacking = true)
        assertMeans(blender, expected)
        val shares = TestData.json(File(folder, "$name.json")).children("carried")
        assertEquals(loras.size, shares.size)
        for ((lora, wanted) in loras.zip(shares)) {
            val found = Carried.of(lora, whole.layout)
            assertEquals(wanted.child("parts").keys, found.parts.keys)
            for ((part, share) in found.parts) assertEquals(part, wanted.child("parts").number(part), share, 1e-9)
            assertEquals(wanted.number("share"), found.share, 1e-9)
        }
        return pipeline
    }

    private fun assertMeans(blender: Blender, expected: SafeTensors) {
        val means = blender.means(whole.learned).associateBy { it.layer }
        for (group in whole.layout.groups) group.layers.forEachIndexed { row, layer ->
            val mean = means[layer] ?: return@forEachIndexed
            val columns = expected.floats(group.coefficients).toList().chunked(group.inFeatures)
            assertEquals(layer, columns[2 * row].average(), mean.content.toDouble(), 1e-4)
            assertEquals(layer, columns[2 * row + 1].average(), mean.style.toDouble(), 1e-4)
        }
    }

    @Test
    fun theMergeIsPythons() = assertMerge("merged", loras("content", "style")).close()

    /** Files in which each LoRA lacks some of the other's layers: those are carried, not averaged. */
    @Test
    fun layersOfOneLoraAreCarried() {
        assertMerge("carried", loras("half-content", "half-style")).use { pipeline ->
            val learned = whole.layout.layers.count { Layout.kindOf(it) in whole.learned }
            assertTrue(pipeline.merge(listOf(1f, 1f)).means(whole.learned).size in 1 until learned)
        }
    }

    @Test
    fun theImageIsPythons() {
        val stages = LinkedHashSet<Stage>()
        assertPicture(images.floats("image.0"), assertImage(0) { stages.add(it) })
        assertEquals(listOf(Stage.READING_THE_PROMPT, Stage.LOADING_THE_UNET, Stage.DRAWING, Stage.DECODING), stages.toList())
    }

    /** Of the base, of layers outside the attention, and with a prompt of what not to draw or guidance without LoRAs. */
    @Test
    fun otherImagesArePythons() {
        for (number in 1 until requests.size) assertImage(number) { }
    }

    /** What the layout carries of LoRA files, and the sentence about what it leaves out, against Python's. */
    protected fun assertShares(layout: Layout, file: File) {
        val shares = TestData.json(file).children("shares")
        assertTrue(shares.any { it["warning"] == null } && shares.any { it["warning"] != null })
        for (wanted in shares) {
            val name = wanted.text("file")
            val found = Carried.of(LoraReader.read(File(name)), layout)
            assertEquals(name, wanted.child("parts").keys, found.parts.keys)
            for ((part, share) in found.parts) assertEquals("$name $part", wanted.child("parts").number(part), share, 1e-9)
            assertEquals(wanted["warning"], found.warning()?.toString())
            val told = (listOf(found.share) + found.parts.values).map { String.format(Locale.ROOT, "%.1f%%", 100 * it) }
            assertEquals(told, Regex("[0-9.]+%").findAll(found.taken.toString().removePrefix(name)).map { it.value }.toList())
        }
    }

    private fun assertImage(number: Int, onStage: (Stage) -> Unit): Drawn = pipeline().use { pipeline ->
        pipeline.load(loras(*(requests[number].getValue("loras") as List<*>).map { it as String }.toTypedArray()))
        val drawn = pipeline.generate(request(number)) { stage, _, _ ->
            onStage(stage)
            true
        }
        val tolerance = Drawing.facts(whole).golden.tolerance
        assertClose("latents $number", images.floats("latents.$number").doubles(), drawn.latents.doubles(), tolerance.maxError)
        val summary = Golden.summarise(Tensor.of(images.floats("image.$number"), drawn.pixels.shape))
        val image = Parity.compare("image", summary, drawn.pixels)
        assertTrue("$number: ${image.psnrDb} dB, ${image.maxError}", image.within(tolerance))
        drawn
    }

    private val images by lazy { SafeTensors.open(File(folder, "images.safetensors")) }

    private val requests by lazy { TestData.json(File(folder, "images.json")).children("requests") }

    protected fun request(number: Int): Request {
        val facts = requests[number]
        return Request(
            facts.text("prompt"), facts.whole("seed"), facts.whole("steps").toInt(), facts.number("guidance").toFloat(),
            facts["negative"] as String?, facts.getValue("guidance_without_lora") as Boolean,
            facts["composed"].asObject()?.let { composed(it) }, facts.number("guidance_rescale").toFloat(),
        )
    }

    private fun composed(facts: Map<String, Any?>) =
        ComposedStart(facts.text("subject"), facts.text("subject_class"), facts.number("share"))

    @Test
    fun everyPartPassesItsCheckAndTheWholeImageToo() {
        val rows = Check(whole, Residency(whole, runtimes), TestData.scratch).all { }
        assertEquals(whole.components + "pipeline", rows.map { it.component }.toSet())
        for (row in rows) assertEquals("${row.component}: ${row.reason}", CheckRow.Status.PASSED, row.status)
        assertTrue(rows.filter { it.component != "pipeline" }.all { it.runtime.startsWith("$runtimeName 1.") })
        assertTrue(rows.all { it.loadSeconds!! > 0 && it.runSeconds!! > 0 })
        val effects = rows.associate { it.component to it.delta }.filterValues { it != null }
        assertEquals(whole.layout.groups.map { it.component }.toSet(), effects.keys)
        for ((component, delta) in effects) assertEquals(component, 1.0, delta!!.gain, 1e-3)
    }

    /** Within one level of 255: what the two runtimes differ by may cross a rounding. */
    private fun assertPicture(wanted: FloatArray, drawn: Drawn) {
        val area = drawn.width * drawn.height
        drawn.argb().forEachIndexed { at, pixel ->
            assertEquals(0xff, pixel ushr 24)
            for (channel in 0..2) {
                val level = (pixel shr (16 - 8 * channel)) and 0xff
                assertEquals(wanted[channel * area + at] * 255.0, level.toDouble(), 1.5)
            }
        }
        val bytes = drawn.argb().flatMap { pixel -> listOf(16, 8, 0).map { (pixel shr it).toByte() } }
        File(TestData.results, "image-$place.rgb").writeBytes(bytes.toByteArray())
    }
}
