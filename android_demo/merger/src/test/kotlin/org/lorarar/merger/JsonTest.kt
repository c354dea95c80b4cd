package org.lorarar.merger

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class JsonTest {
    private fun parse(text: String): Any? = Json.parse(text.toByteArray())

    @Test
    fun valuesAndTheirTypes() {
        val text = """ {"a": [1, -2.5, 1e3, true, null], "b": "é\n\u00e9\ud83d\ude00 \"\\/", "c": {}} """
        val wanted = mapOf("a" to listOf(1L, -2.5, 1000.0, true, null), "b" to "é\né😀 \"\\/", "c" to emptyMap<String, Any?>())
        assertEquals(wanted, parse(text))
        assertEquals(wanted, parse(Json.write(wanted)))
    }

    @Test
    fun whatIsNotJsonIsRefused() {
        val texts = listOf(
            "", " ", "{", "}", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":1,}", "{a:1}", "'a'", "\"a", "\"\\x\"", "\"\\u12g4\"",
            "\"\t\"", "01", "1.", ".5", "+1", "1e", "NaN", "Infinity", "-", "tru", "nulls", "1 2", "\"\\u12", "1e999",
        )
        for (text in texts) assertTrue(text, refusalOf(text).isNotEmpty())
    }

    @Test
    fun limits() {
        assertTrue("nested too deeply" in refusalOf("[".repeat(200_000)))
        assertTrue("nested too deeply" in refusalOf("{\"a\":".repeat(200_000)))
        assertEquals(64, depth(parse("[".repeat(64) + "]".repeat(64))))
        assertTrue("twice" in refusalOf("{\"a\": 1, \"a\": 2}"))
        assertTrue("values" in refusalOf("[" + "0,".repeat(Json.MAX_VALUES + 1) + "0]"))
    }

    @Test
    fun schemas() {
        val schema = JsonSchema(parse("""{"type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"${'$'}ref": "#/${'$'}defs/text"}},
            "${'$'}defs": {"text": {"type": "string", "pattern": "^x"}}}""").asObject()!!)
        assertNull(schema.fault(mapOf("a" to 1L, "b" to "xy")))
        assertNull(schema.fault(mapOf("a" to 2.0)))
        assertEquals("$ has no a", schema.fault(emptyMap<String, Any?>()))
        assertEquals("$.a is not of type \"integer\"", schema.fault(mapOf("a" to true)))
        assertEquals("$.a is 0, outside the minimum of 1.0", schema.fault(mapOf("a" to 0L)))
        assertEquals("$.b 'y' is not allowed", schema.fault(mapOf("a" to 1L, "b" to "y")))
        assertEquals("$.c is unexpected", schema.fault(mapOf("a" to 1L, "c" to 1L)))
    }

    @Test
    fun schemasThatDependOnAnotherEntry() {
        val schema = JsonSchema(parse("""{"allOf": [
            {"if": {"properties": {"a": {"const": "x"}}}, "then": {"required": ["b"]}, "else": {"not": {"required": ["b"]}}},
            {"if": {"required": ["c"]}, "then": {"required": ["d"]}}]}""").asObject()!!)
        assertNull(schema.fault(mapOf("a" to "x", "b" to 1L)))
        assertNull(schema.fault(mapOf("a" to "y")))
        assertEquals("$ has no b", schema.fault(mapOf("a" to "x")))
        assertEquals("$ has no d", schema.fault(mapOf("a" to "y", "c" to 1L)))
        assertTrue("refused" in schema.fault(mapOf("a" to "y", "b" to 1L))!!)
    }

    private fun refusalOf(text: String): String = try {
        parse(text)
        ""
    } catch (error: JsonError) {
        error.message!!
    }

    private fun depth(value: Any?): Int = if (value is List<*>) 1 + (value.maxOfOrNull { depth(it) } ?: 0) else 0
}
