package org.lorarar.merger

import org.junit.Assert.assertTrue
import org.junit.Assert.fail
import java.io.File
import kotlin.math.abs
import kotlin.math.max

/** Where the tests read what Python made. A property that is not set is an error: no test is left out in silence. */
object TestData {
    /** The repository's tests/golden. */
    val golden: File get() = place("lorarar.golden")

    /** What tests/android_demo exports: numbers, hostile files, the miniature's bundle, Python's own results. */
    val exported: File get() = place("lorarar.exported")

    /** Where a test leaves what Python checks. */
    val results: File get() = place("lorarar.results")

    /** For stacks and other large files of a run. */
    val scratch: File get() = File(results, "scratch")

    fun json(file: File): Map<String, Any?> = Json.parseObject(file.readBytes(), 5_000_000)

    private fun place(property: String): File = File(
        checkNotNull(System.getProperty(property)) {
            "the property $property is not set; run  pytest -m apps tests/android_demo, which sets it"
        },
    )
}

/** The sentence that [work] is refused with. */
fun refusal(what: String = "it", work: () -> Unit): String {
    try {
        work()
    } catch (error: InputError) {
        return error.message!!
    }
    fail("$what was not refused")
    throw IllegalStateException()
}

/** An input or output of fixed size. */
fun spec(name: String, dtype: String, vararg shape: Int) = TensorSpec(name, DType.of(dtype), shape.map { Size.Fixed(it) })

/** A component without golden tensors. */
fun component(name: String, file: File, inputs: List<TensorSpec>, outputs: List<TensorSpec>): Component {
    val (artifact, golden) = FileEntry(file.name, 1, "") to FileEntry("none", 1, "")
    val facts = ComponentFacts(artifact, inputs, outputs, golden, emptyMap(), Tolerance(100.0, 1e-4), artifact.bytes)
    return Component(name, file.absoluteFile.parentFile, facts)
}

/** Fails unless every number is within [share] of the largest wanted one. */
fun assertClose(what: String, wanted: List<Double>, have: List<Double>, share: Double) {
    assertTrue("$what: ${have.size} numbers, not ${wanted.size}", wanted.size == have.size)
    val peak = wanted.fold(0.0) { peak, value -> max(peak, abs(value)) }
    val worst = wanted.indices.maxOfOrNull { abs(wanted[it] - have[it]) } ?: 0.0
    assertTrue("$what differs by $worst, its peak is $peak", worst <= share * peak)
}

fun FloatArray.doubles(): List<Double> = map { it.toDouble() }

/** Numbers of a parsed JSON list. */
fun Map<String, Any?>.numbers(key: String): List<Double> = (getValue(key) as List<*>).map { (it as Number).toDouble() }

fun Map<String, Any?>.floats(key: String): FloatArray = numbers(key).map { it.toFloat() }.toFloatArray()

/** The dense update of a layer, row-major (out, in·kernel), in float64. */
fun LoraLayer.delta(): List<Double> {
    val downs = down.read()
    val ups = up.read()
    val columns = downs.size / rank
    return (0 until ups.size / rank).flatMap { row ->
        (0 until columns).map { column ->
            (0 until rank).sumOf { ups[row * rank + it].toDouble() * downs[it * columns + column] }
        }
    }
}

/** A device that tells nothing. */
object FakePhone : DeviceReport {
    override fun device() = mapOf(
        "model" to "no phone", "manufacturer" to null, "soc" to null, "os" to "android", "os_version" to "16",
        "os_build" to null, "abi" to "x86_64", "cpu" to null, "cores" to 2, "ram_bytes" to null,
    )

    override fun memory() = mapOf("peak_bytes" to 1, "measure" to "pss")

    override fun condition() = mapOf(
        "thermal_status" to "none", "temperatures_c" to emptyMap<String, Any?>(), "battery_percent" to 50,
        "charging" to false, "cpu_mhz" to emptyList<Any?>(), "load" to null,
    )

    override fun emulated() = true
}
