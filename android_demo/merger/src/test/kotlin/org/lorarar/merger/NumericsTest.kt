package org.lorarar.merger

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Numbers that Python computed, from the same inputs. */
class NumericsTest {
    private val numbers = TestData.json(File(TestData.exported, "numbers.json"))

    @Test
    fun goldenInputs() {
        for (entry in numbers.children("generated")) {
            val shape = entry.numbers("shape").map { it.toInt() }
            val tensor = Tensor.zeros(DType.of(entry.text("dtype")), shape)
            Golden.input(tensor, GoldenInput.of(entry.child("entry")).source)
            assertEquals(entry.numbers("values"), tensor.floats().doubles())
        }
        val positions = numbers.child("positions")
        assertEquals(positions.numbers("places"), Golden.positions(positions.whole("size").toInt()).map { it.toDouble() })
    }

    @Test
    fun noiseIsTheSameForASeed() {
        for (entry in numbers.children("noise")) {
            val wanted = entry.numbers("values")
            assertClose("noise", wanted, Noise.normal(wanted.size, entry.whole("seed")).doubles(), 1e-7)
        }
        assertTrue("out of range" in refusal { Noise.normal(1, -1) })
        assertTrue("out of range" in refusal { Noise.normal(1, 1L shl 32) })
    }

    @Test
    fun schedules() {
        val schedules = numbers.children("schedules")
        assertTrue(schedules.size >= 12)
        for (entry in schedules) {
            val settings = SchedulerSettings.of(entry.child("settings"))
            val steps = entry.whole("steps").toInt()
            val scheduler = Scheduler.make(settings, steps)
            val what = "${settings.kind} ${settings.spacing} ${settings.prediction} $steps"
            assertClose(what, entry.numbers("timesteps"), scheduler.timesteps.doubles(), 0.0)
            var latents = scheduler.start(entry.floats("noise"))
            assertClose("$what: start", entry.numbers("start"), latents.doubles(), 1e-6)
            entry.children("course").forEachIndexed { i, step ->
                val given = scheduler.scale(latents, i)
                assertClose("$what: scale $i", step.numbers("scaled"), given.doubles(), 2e-6)
                latents = scheduler.step(step.floats("predicted"), i, latents)
                assertClose("$what: step $i", step.numbers("latents"), latents.doubles(), 5e-6)
            }
            val most = if (what.startsWith("ddim leading") && settings.stepsOffset == 1) 999 else 1000
            assertEquals(what, most, Scheduler.make(settings, most).timesteps.size)
            val sentence = refusal { Scheduler.make(settings, most + 1) }
            assertTrue(sentence, "valid are 1 to $most" in sentence)
        }
    }

    /** Of every number of steps up to 300, so that each tie in the rounding is met. */
    @Test
    fun timesteps() {
        val entries = numbers.children("timesteps")
        assertEquals(listOf("trailing", "leading", "linspace", "linspace"), entries.map { it.text("spacing") })
        for (entry in entries) {
            val settings = SchedulerSettings.of(entry.child("settings"))
            entry.children("of").forEach { made ->
                val wanted = made.numbers("timesteps")
                val what = "${settings.kind} ${settings.spacing} ${wanted.size}"
                assertEquals(what, wanted, settings.timesteps(wanted.size).doubles())
            }
        }
    }

    @Test
    fun tiles() {
        val cases = numbers.children("tiles")
        assertEquals(4, cases.size)
        for (case in cases) {
            val (height, width, tile) = listOf("height", "width", "tile").map { case.whole(it).toInt() }
            val image = Tiles.decode(case.floats("latents"), height, width, tile) { part ->
                // Two pixels a latent, of its first three channels, brighter to the right.
                val side = 2 * tile
                val pixels = FloatArray(3 * side * side) {
                    val (color, y, x) = Triple(it / (side * side), it / side % side, it % side)
                    part[(color * tile + y / 2) * tile + x / 2] + x
                }
                Tensor.of(pixels, listOf(1, 3, side, side))
            }
            assertEquals(listOf(1, 3, 2 * height, 2 * width), image.shape)
            assertClose("$height × $width in $tile", case.numbers("image"), image.floats().doubles(), 1e-5)
        }
    }

    @Test
    fun sinusoids() {
        val cases = numbers.children("sinusoids")
        assertEquals(3, cases.size)
        for (case in cases) {
            val found = Sinusoids.of(case.floats("values"), case.whole("width").toInt())
            assertClose("width ${case.whole("width")}", case.numbers("sinusoids"), found.doubles(), 1e-7)
        }
    }

    @Test
    fun aTensorTooLargeForAPhoneIsRefused() {
        assertTrue("too large for a phone" in refusal { Tensor.zeros(DType.FLOAT32, listOf(1 shl 20, 1 shl 20)) })
    }

    @Test
    fun halfPrecision() {
        for (bits in 0..0xffff) {
            val value = Half.toFloat(bits.toShort())
            if (!value.isNaN()) assertEquals(bits.toShort(), Half.fromFloat(value))
        }
        for (pair in numbers.children("halves")) {
            assertEquals(pair.whole("bits").toShort(), Half.fromFloat(pair.number("value").toFloat()))
        }
        assertEquals(Float.POSITIVE_INFINITY, Half.toFloat(Half.fromFloat(65520f)))
        assertTrue(Half.toFloat(Half.fromFloat(Float.NaN)).isNaN())
        assertEquals(-1.5f, Half.brainToFloat(0xbfc0.toShort()))
    }

    @Test
    fun parity() {
        for (entry in numbers.children("parity")) {
            val golden = entry.child("golden")
            val summary = Summary(
                golden.floats("values"), golden.numbers("mean").toDoubleArray(), golden.numbers("rms").toDoubleArray(),
            )
            val tensor = Tensor.of(entry.floats("tensor"), entry.numbers("shape").map { it.toInt() })
            val found = Parity.compare("x", summary, tensor)
            assertEquals(entry["psnr_db"] as Double? ?: Double.POSITIVE_INFINITY, found.psnrDb, 1e-6)
            assertEquals(entry.number("max_error"), found.maxError, 1e-9)
        }
    }

    @Test
    fun deltas() {
        for (entry in numbers.children("deltas")) {
            val (reference, referenceWithout, output, without) =
                listOf("reference", "reference_without", "output", "without").map { entry.floats(it) }
            val found = Parity.delta(reference, referenceWithout, output, without).toJson()
            for ((key, value) in found) {
                if (value == null) assertNull(key, entry[key]) else assertEquals(key, entry.number(key), value, 1e-6)
            }
        }
        val allowed = Tolerance(0.0, 1.0, DeltaTolerance(0.02, 0.999))
        fun isGood(delta: Delta?) = Difference("x", 50.0, 0.1, delta).within(allowed)
        assertTrue(isGood(Delta(0.99, 0.9995, 40.0)))
        val bad = listOf(0.97 to 1.0, 1.03 to 1.0, 1.0 to 0.9, Double.NaN to 1.0).map { Delta(it.first, it.second, 40.0) }
        assertTrue((bad + null).none { isGood(it) })
        val sentence = Difference("x", 50.0, 0.1, Delta(0.5, 0.9, 6.0)).complaint(allowed).toString()
        assertEquals("the LoRAs' effect on x has gain 0.5000 and cosine 0.9000; allowed are 1 ± 0.02 and 0.999", sentence)
    }

    @Test
    fun whatIsNotFiniteOrOfAnotherSizeIsInfinitelyFar() {
        val good = Tensor.of(floatArrayOf(1f, 2f), listOf(2))
        val golden = Golden.summarise(good)
        for (bad in listOf(floatArrayOf(1f, Float.NaN), floatArrayOf(Float.POSITIVE_INFINITY, 2f), floatArrayOf(1f, 2f, 3f))) {
            val found = Parity.compare("x", golden, Tensor.of(bad, listOf(bad.size)))
            assertEquals(Double.POSITIVE_INFINITY, found.maxError, 0.0)
            assertTrue(!found.within(Tolerance(20.0, 0.5)))
        }
        assertTrue(Parity.compare("x", golden, good).within(Tolerance(200.0, 1e-12)))
    }

    @Test
    fun tokens() {
        for (entry in numbers.children("tokenizers")) {
            val tokenizer = ClipTokenizer.open(File(entry.text("file")), TokenizerEntry.of(entry.child("entry")))
            for (example in entry.children("prompts")) {
                val tokens = tokenizer.encode(example.text("prompt"))
                assertArrayEquals(example.text("prompt"), example.numbers("ids").map { it.toInt() }.toIntArray(), tokens.ids)
                assertEquals(example.text("cut"), tokens.cut)
            }
        }
    }

    @Test
    fun aFileThatIsNoTokenizer() {
        val entry = TokenizerEntry.of(numbers.children("tokenizers").first().child("entry"))
        val sentence = refusal { ClipTokenizer.open(File(TestData.golden, "lora/index.json"), entry) }
        assertTrue(sentence, "not CLIP's tokenizer file; export the bundle again" in sentence)
    }

    @Test
    fun percentiles() {
        for (entry in numbers.children("runs")) {
            val runs = Runs(null, 0, entry.numbers("samples_s")).toJson()
            for ((key, value) in entry) {
                if (value is Number) assertEquals(key, value.toDouble(), (runs.getValue(key) as Number).toDouble(), 1e-12)
            }
        }
    }

    /** A page of a hole in a mapped file is only asked for when it is written, where no exception can tell of a full disk. */
    @Test
    fun aMappedFileHasItsSpaceFromTheStart() {
        val folder = File(TestData.scratch, "mapped")
        TensorFile.create(folder, mapOf("a" to (DType.FLOAT32 to listOf(1000, 1000)))).use {
            val file = folder.listFiles()!!.single()
            val blocks = ProcessBuilder("stat", "-c", "%b", file.path).start().inputStream.reader().readText().trim().toLong()
            assertTrue("$blocks", 512 * blocks >= 4_000_000)
        }
        assertEquals(emptyList<String>(), folder.list()!!.toList())
    }

    @Test
    fun fastCoresAreThoseThatAreNotMuchSlowerThanTheFastest() {
        val cpus = File(TestData.results, "cpus")
        fun clocks(vararg kilohertz: Int): Int {
            cpus.deleteRecursively()
            kilohertz.forEachIndexed { core, clock ->
                File(cpus, "cpu$core/cpufreq/cpuinfo_max_freq").also { it.parentFile!!.mkdirs() }.writeText("$clock\n")
            }
            File(cpus, "cpufreq").mkdirs()
            return Cores.fast(cpus)
        }
        assertEquals(4, clocks(1_800_000, 1_800_000, 1_800_000, 1_800_000, 2_400_000, 2_400_000, 2_400_000, 3_000_000))
        assertEquals(3, clocks(2_000_000, 2_000_000, 2_000_000))
        val elite = listOf(4_320_000, 4_320_000) + List(6) { 3_530_000 } // Snapdragon 8 Elite: two kinds, none of them small
        assertEquals(8, clocks(*elite.toIntArray()))
        listOf(1024, 612, 613, 240).forEachIndexed { core, capacity ->
            File(cpus, "cpu$core/cpu_capacity").writeText("$capacity\n")
        }
        assertEquals("not every core tells it", 8, Cores.fast(cpus))
        (4 until 8).forEach { File(cpus, "cpu$it").deleteRecursively() }
        assertEquals(3, Cores.fast(cpus))
        assertEquals(java.lang.Runtime.getRuntime().availableProcessors(), clocks())
    }

    @Test
    fun `the output whose LoRAs are worst is told`() {
        fun one(gain: Double, cosine: Double) = Difference("x", 0.0, 0.0, Delta(gain, cosine, 0.0))
        val none = Difference("x", 0.0, 0.0)
        assertEquals(0.5, Parity.farthestDelta(listOf(none, one(1.01, 1.0), one(1.0, 0.5), one(0.8, 1.0)))?.cosine)
        assertEquals(1.0, Parity.farthestDelta(listOf(one(1.0, Double.NaN), one(0.0, 0.0)))?.gain)
        assertEquals(null, Parity.farthestDelta(listOf(none)))
    }
}
