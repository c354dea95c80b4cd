package org.lorarar.merger

/**
 * A checker of the part of JSON Schema (draft 2020-12) that the manifest's and the record's schemas use.
 *
 * The schemas are the toolkit's own files, so the apps refuse what Python refuses. A keyword that this checker does not
 * know is an error of the schema, never a check that is left out.
 */
class JsonSchema(private val root: Map<String, Any?>) {
    /** Where a value breaks the schema and how, as in `$.base is not a string`; null when it does not. */
    fun fault(value: Any?): String? = fault(root, value, "$")

    private fun fault(schema: Map<String, Any?>, value: Any?, path: String): String? {
        for ((keyword, rule) in schema) check(keyword, rule, schema, value, path)?.let { return it }
        return null
    }

    private fun check(keyword: String, rule: Any?, schema: Map<String, Any?>, value: Any?, path: String): String? =
        when (keyword) {
            in IGNORED -> null
            "\$ref" -> fault(resolve(rule as String), value, path)
            "type" -> unless(isOneOf(value, rule), path, "is not of type ${shown(rule)}")
            "const" -> unless(same(value, rule), path, "is not ${shown(rule)}")
            "enum" -> unless((rule as List<*>).any { same(value, it) }, path, "is none of ${shown(rule)}")
            "allOf" -> (rule as List<*>).firstNotNullOfOrNull { fault(it.asObject()!!, value, path) }
            "not" -> unless(fault(rule.asObject()!!, value, path) != null, path, "has what is refused here: ${shown(rule)}")
            "oneOf" -> unless(matching(rule, value, path) == 1, path, "is not exactly one of the allowed forms")
            "if" -> condition(schema, value, path)
            in OF_OBJECTS -> value.asObject()?.let { checkObject(keyword, rule, schema, it, path) }
            in OF_LISTS -> (value as? List<*>)?.let { checkList(keyword, rule, it, path) }
            in OF_TEXTS -> (value as? String)?.let { checkText(keyword, rule, it, path) }
            in OF_NUMBERS -> (value as? Number)?.let { checkNumber(keyword, (rule as Number).toDouble(), it, path) }
            else -> throw IllegalStateException("the schema uses $keyword, which this checker does not know")
        }

    private fun matching(rule: Any?, value: Any?, path: String): Int =
        (rule as List<*>).count { fault(it.asObject()!!, value, path) == null }

    private fun condition(schema: Map<String, Any?>, value: Any?, path: String): String? {
        val branch = if (fault(schema.child("if"), value, path) == null) "then" else "else"
        return schema[branch].asObject()?.let { fault(it, value, path) }
    }

    private fun checkObject(
        keyword: String, rule: Any?, schema: Map<String, Any?>, value: Map<String, Any?>, path: String,
    ): String? {
        when (keyword) {
            "required" -> {
                val missing = (rule as List<*>).firstOrNull { it !in value }
                return unless(missing == null, path, "has no $missing")
            }
            "properties" -> for ((key, inner) in rule.asObject()!!) {
                if (key in value) fault(inner.asObject()!!, value[key], "$path.$key")?.let { return it }
            }
            "propertyNames" -> for (key in value.keys) {
                fault(rule.asObject()!!, key, "$path's name '${shorten(key, 40)}'")?.let { return it }
            }
            "minProperties" -> return unless(value.size >= number(rule), path, "has too few entries")
            "maxProperties" -> return unless(value.size <= number(rule), path, "has too many entries")
            "additionalProperties" -> return checkOthers(rule, schema, value, path)
        }
        return null
    }

    private fun checkOthers(
        rule: Any?, schema: Map<String, Any?>, value: Map<String, Any?>, path: String,
    ): String? {
        val known = schema["properties"].asObject()?.keys ?: emptySet()
        for (key in value.keys - known) {
            val place = "$path.${shorten(key, 40)}"
            if (rule == false) return "$place is unexpected"
            rule.asObject()?.let { inner -> fault(inner, value[key], place)?.let { return it } }
        }
        return null
    }

    private fun checkList(keyword: String, rule: Any?, value: List<*>, path: String): String? {
        when (keyword) {
            "minItems" -> return unless(value.size >= number(rule), path, "has too few items")
            "maxItems" -> return unless(value.size <= number(rule), path, "has too many items")
            "uniqueItems" -> return unless(rule == false || value.toSet().size == value.size, path, "repeats an item")
            "items" -> value.forEachIndexed { at, item ->
                fault(rule.asObject()!!, item, "$path[$at]")?.let { return it }
            }
        }
        return null
    }

    private fun checkText(keyword: String, rule: Any?, value: String, path: String): String? =
        when (keyword) {
            "minLength" -> unless(value.codePointCount(0, value.length) >= number(rule), path, "is too short")
            else -> unless(Regex(rule as String).containsMatchIn(value), path, "'${shorten(value, 40)}' is not allowed")
        }

    private fun checkNumber(keyword: String, rule: Double, value: Number, path: String): String? {
        val number = value.toDouble()
        val holds = when (keyword) {
            "minimum" -> number >= rule
            "maximum" -> number <= rule
            "exclusiveMinimum" -> number > rule
            else -> number < rule
        }
        return unless(holds, path, "is $value, outside the $keyword of $rule")
    }

    private fun resolve(reference: String): Map<String, Any?> =
        reference.removePrefix("#/").split('/').fold(root) { schema, key -> schema.child(key) }

    private companion object {
        val IGNORED = setOf("\$schema", "title", "description", "\$defs", "then", "else")
        val OF_OBJECTS = setOf(
            "required", "properties", "propertyNames", "minProperties", "maxProperties", "additionalProperties",
        )
        val OF_LISTS = setOf("items", "minItems", "maxItems", "uniqueItems")
        val OF_TEXTS = setOf("pattern", "minLength")
        val OF_NUMBERS = setOf("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

        fun unless(holds: Boolean, path: String, fault: String): String? = if (holds) null else "$path $fault"

        fun number(rule: Any?): Double = (rule as Number).toDouble()

        fun shown(rule: Any?): String = shorten(Json.write(rule), 80)

        fun isOneOf(value: Any?, types: Any?): Boolean = (types as? List<*> ?: listOf(types)).any { isA(value, it) }

        /** JSON Schema counts 8.0 as whole, and true as no number. */
        fun isA(value: Any?, type: Any?): Boolean = when (type) {
            "object" -> value is Map<*, *>
            "array" -> value is List<*>
            "string" -> value is String
            "boolean" -> value is Boolean
            "null" -> value == null
            "number" -> value is Number
            "integer" -> value is Long || value is Int || (value is Double && value == Math.rint(value))
            else -> throw IllegalStateException("the schema has the unknown type $type")
        }

        fun same(value: Any?, wanted: Any?): Boolean =
            if (value is Number && wanted is Number) value.toDouble() == wanted.toDouble() else value == wanted
    }
}
