"""What the apps' own checker knows of JSON Schema is what our schemas use: found here, without a Kotlin compiler."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHECKER = ROOT / "android_demo/merger/src/main/kotlin/org/lorarar/merger/JsonSchema.kt"
SCHEMAS = ("runtime_py/manifest.schema.json", "benchmarks/record.schema.json")

NAMED_SCHEMAS = ("properties", "$defs")
LISTS_OF_SCHEMAS = ("allOf", "oneOf", "anyOf")
SINGLE_SCHEMAS = ("if", "then", "else", "not", "items", "additionalProperties", "propertyNames")


def keywords(schema: Any) -> Iterator[str]:
    """Yield every keyword of a schema and of the schemas in it, without the names that users of it give to values."""
    if not isinstance(schema, dict):
        return
    for keyword, rule in schema.items():
        yield keyword
        inner: list[Any] = []
        if keyword in NAMED_SCHEMAS:
            inner = list(rule.values())
        elif keyword in LISTS_OF_SCHEMAS:
            inner = rule
        elif keyword in SINGLE_SCHEMAS:
            inner = [rule]
        for one in inner:
            yield from keywords(one)


@pytest.mark.parametrize("name", SCHEMAS)
def test_kotlin_knows_every_keyword(name: str) -> None:
    known = set(re.findall(r'"\\?(\$?[A-Za-z]+)"', CHECKER.read_text()))
    used = set(keywords(json.loads((ROOT / name).read_text())))
    assert {"type", "required"} <= used
    assert used <= known
