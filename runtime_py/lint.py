"""Tell what of a Core ML program would leave the Neural Engine, and why, from its operations and their shapes alone.

Nothing is run. The rules are those that were published, each with its source; what a device really does, Xcode's
performance report tells (`MLComputePlan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorarar.errors import InputError
from runtime_py.component import INNER, NEURAL_ENGINE_BYTES
from runtime_py.mil.blob import Blob
from runtime_py.mil.features import described_functions
from runtime_py.mil.graph import FunctionPlan, Step, build, require_known
from runtime_py.mil.package import Package, one_sentence
from runtime_py.mil.values import TensorType

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle

LONGEST_AXIS = 16_384  # up to the A15; 65,536 from the A16 on
MOST_AXES = 4
MOST_FEATURES = 40
_FREE = frozenset(
    {"const", "cast", "reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "split", "concat"}
)
"""Operations that move numbers and compute none, whose types say nothing of a unit."""


@dataclass(frozen=True)
class Rule:
    """What the Neural Engine asks for, and who says so."""

    wants: str
    source: str


RULES: Mapping[str, Rule] = {
    "axis": Rule(
        f"no axis over {LONGEST_AXIS:,} (65,536 from the A16 on)", "Apple Neural Engine guide, arXiv 2606.22283, ch. 4"
    ),
    "axes": Rule(f"at most {MOST_AXES} axes", "Apple, Deploying Transformers on the Apple Neural Engine, 2022"),
    "type": Rule("fp16", "coremltools' guide, Typed Execution: fp32 runs on the CPU or the GPU"),
    "linear": Rule("1×1 convolutions, channels first, for linears", "Apple, coreai-models, neural_engine_rules.md"),
    "inner": Rule(
        f"products of two activations over a multiple of {INNER}", "maderix/ANE, issue 47: zeros without a word"
    ),
    "features": Rule(
        f"at most {MOST_FEATURES} inputs and outputs of a chunk", "this project's own bound; none is published"
    ),
    "memory": Rule(f"at most {NEURAL_ENGINE_BYTES / 1e9:.0f} GB of weights in a chunk", "coremltools, issue 2758"),
}
"""By their names in a finding."""


@dataclass(frozen=True)
class Finding:
    """One rule that a program breaks, with where it does so first."""

    component: str
    chunk: int  # from 1
    rule: str  # a key of RULES
    count: int
    first: str


def lint_bundle(bundle: Bundle) -> list[Finding]:
    """Look through every component of a bundle. Raises InputError unless the bundle is Core ML's."""
    if bundle.manifest["target"] != "coreml":
        raise InputError(f"{bundle.path}: the rules are the Neural Engine's; export a bundle for coreml")
    return [
        finding
        for name in bundle.manifest["components"]
        for finding in lint_package(Package.open(bundle.component(name).path), name)
    ]


def lint_package(package: Package, component: str = "") -> list[Finding]:
    """Look through the programs of a package, one a chunk."""
    found: list[Finding] = []
    require_known(package)
    for chunk, part in enumerate(package.parts, 1):
        for name in described_functions(part):
            places: dict[str, list[str]] = {}
            with one_sentence(package.root):
                graph = build(name, part.mlProgram.functions[name], package)
                for rule, place in _broken(graph):
                    places.setdefault(rule, []).append(place)
            found += [Finding(component, chunk, rule, len(all_), all_[0]) for rule, all_ in places.items()]
    return sorted(found, key=lambda finding: (finding.chunk, list(RULES).index(finding.rule)))


def _broken(graph: FunctionPlan) -> Iterator[tuple[str, str]]:
    """Yield (rule, place) for each break of a rule."""
    types = dict(graph.inputs)
    # A compressed weight is a constant as well.
    steps = [step for step in graph.steps if not step.type.startswith("constexpr_")]
    for step in steps:
        types |= step.tensors
    if (features := len(graph.inputs) + len(graph.outputs)) > MOST_FEATURES:
        yield "features", f"{features} of {graph.name}"
    stored = sum(value.data.nbytes for value in graph.constants.values() if isinstance(value, Blob))
    if stored > NEURAL_ENGINE_BYTES:
        yield "memory", f"{stored / 1e9:.2f} GB"
    for step in steps:
        for name, kind in step.tensors.items():
            where = f"{step.type} {name!r}: {kind}"
            yield from ((rule, where) for rule, broken in _OF_TENSORS.items() if broken(step, kind))
        yield from ((rule, str(step)) for rule in _of_products(step, graph, types))


_OF_TENSORS: Mapping[str, Callable[[Step, TensorType], bool]] = {
    "axis": lambda step, kind: any(size is not None and size > LONGEST_AXIS for size in kind.shape),
    "axes": lambda step, kind: len(kind.shape) > MOST_AXES,
    "type": lambda step, kind: step.type not in _FREE and kind.dtype.name == "fp32",
}


def _of_products(step: Step, graph: FunctionPlan, types: Mapping[str, TensorType]) -> Iterator[str]:
    """Yield the rules that a product breaks."""
    if step.type == "linear":
        yield "linear"
    if step.type != "matmul":
        return
    (first,), (second,) = step.inputs["x"], step.inputs["y"]
    if first not in types or second not in types:
        yield "linear"  # a product with a constant is a linear in other words
        return
    flag = step.inputs.get("transpose_x", ("",))[0]
    turned = bool(graph.constants[flag]) if flag in graph.constants else False
    shape = types[first].shape
    # A vector is not turned, and of an open rank nothing is known.
    inner = shape[-2 if turned and len(shape) > 1 else -1] if shape else None
    if inner is not None and inner % INNER:
        yield "inner"
