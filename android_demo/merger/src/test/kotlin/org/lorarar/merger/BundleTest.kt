package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Bundles: the golden one, and those that Python refuses. */
class BundleTest {
    @Test
    fun theGoldenBundle() {
        val bundle = Bundle.open(File(TestData.golden, "hypernet/bundle"))
        assertEquals(setOf("hypernet"), bundle.components)
        assertEquals(listOf("tiny", "onnx", "fp32"), listOf(bundle.base, bundle.target, bundle.precision))
        val layout = bundle.layout
        assertEquals(listOf(2, 8), listOf(layout.loras, layout.stackedRank))
        assertEquals(listOf("qo", "kv", "ff", "proj"), layout.parts)
        assertEquals(listOf("q", "out"), bundle.learned)
        val hypernet = bundle.component("hypernet")
        assertEquals(layout.stackShapes(layout.groups.take(2)), hypernet.inputs.associate { it.name to it.shape })
        assertEquals(hypernet.outputs.map { it.name }.toSet(), hypernet.goldenOutputs().keys)
        val sentence = refusal { bundle.component("vae") }
        assertTrue(sentence, sentence.endsWith("the bundle has no vae, only hypernet"))
        assertTrue("can't draw" in refusal { Drawing.facts(bundle) })
    }

    @Test
    fun bundlesThatPythonRefusesAreRefused() {
        val names = TestData.json(File(TestData.exported, "bundles/index.json"))
        assertTrue(names.size >= 60)
        for ((name, place) in names) {
            val sentence = refusal(name) {
                val bundle = Bundle.open(File(TestData.exported, "bundles/${place as String}"))
                for (component in bundle.components) bundle.component(component).goldenOutputs()
            }
            assertTrue("$name: $sentence", sentence.length < 600 && '\n' !in sentence)
        }
    }

    @Test
    fun theWholeBundleIsVerifiedOrOneComponent() {
        val source = File(TestData.exported, "onnx/bundle")
        val whole = Bundle.open(source)
        assertTrue(whole.components.containsAll(listOf("hypernet", "text_encoder", "unet", "vae_decoder")))
        var last = 0L to 0L
        Bundle.open(source, "hypernet") { done, total -> last = done to total }
        val facts = whole.manifest.components.getValue("hypernet")
        val bytes = facts.artifact.bytes + facts.golden.bytes
        assertEquals(bytes to bytes, last)
        assertTrue("only hypernet" in refusal { Bundle.open(File(TestData.golden, "hypernet/bundle"), "unet") })
    }

    @Test
    fun aBundleOfOneComponentsFilesCanBeMeasured() {
        val source = File(TestData.exported, "onnx/bundle")
        val part = File(TestData.scratch, "part")
        val hypernet = Bundle.open(source).manifest.components.getValue("hypernet")
        for (file in listOf("manifest.json", hypernet.artifact.file, hypernet.golden.file)) {
            File(source, file).copyRecursively(File(part, file), overwrite = true)
        }
        assertEquals("hypernet", Bundle.open(part, "hypernet").component("hypernet").name)
        assertTrue("missing or outside" in refusal { Bundle.open(part) })
    }

    /** JSON Schema takes 8.0 for a whole number. */
    @Test
    fun aWholeNumberMayBeWrittenWithAPoint() {
        val part = File(TestData.scratch, "point")
        File(TestData.golden, "hypernet/bundle").copyRecursively(part, overwrite = true)
        val manifest = File(part, "manifest.json")
        manifest.writeText(manifest.readText().replaceFirst("\"golden\":", "\"running_bytes\": 8.0, \"golden\":"))
        assertEquals(8L, Bundle.open(part).component("hypernet").runningBytes)
    }

    @Test
    fun noBundle() {
        val sentence = refusal { Bundle.open(File(TestData.golden, "lora")) }
        assertTrue(sentence, "not a bundle (no manifest.json); make one with  lorarar export pipeline" in sentence)
    }
}
