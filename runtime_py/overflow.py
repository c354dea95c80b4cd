"""Find where a Core ML program comes near fp16's largest number, or over it, before a phone shows a black image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lorarar.errors import InputError
from runtime_py.golden import golden_inputs
from runtime_py.mil import OpTrace, Program

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle

LARGEST_HALF = 65504.0
NEAR = 0.25
"""The share of the largest number from which on another input may well go over it."""
MOST = 0.5
"""The share of it that a component in fp16 may reach on golden inputs."""


def trace_component(
    bundle: Bundle, component: str, on_progress: Callable[[int, int], None] | None = None
) -> list[OpTrace]:
    """Run a component on its golden inputs, what is declared half rounded to it, and return what each result was like.

    Raises InputError unless the bundle is Core ML's.
    """
    if bundle.manifest["target"] != "coreml":
        raise InputError(f"{bundle.path}: only Core ML programs can be traced; export one for coreml")
    found = bundle.component(component)
    results: list[OpTrace] = []
    Program.open(found.path).run(golden_inputs(found), "fp16", trace=results, progress=on_progress)
    return results


def overflow(results: Sequence[OpTrace]) -> str | None:
    """Say which result is not finite, or first leaves another input too little room; None where all have enough."""
    for each in results:
        what = f"the result of {each.type} {each.output!r}"
        if each.infinities or each.nans:
            return f"{what} is not finite in fp16"
        if each.dtype == "float16" and each.largest > MOST * LARGEST_HALF:
            return (
                f"{what} reaches {each.largest:.0f}, and fp16 ends at {LARGEST_HALF:.0f}: another image may go over it"
            )
    return None


def worth_a_look(results: Sequence[OpTrace], top: int) -> list[OpTrace]:
    """Return the results that are not finite, in running order, then the `top` largest others."""
    broken = [each for each in results if each.infinities or each.nans]
    sound = sorted((each for each in results if not each.infinities and not each.nans), key=lambda each: -each.largest)
    return [*broken, *sound[:top]]
