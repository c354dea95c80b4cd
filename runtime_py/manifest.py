"""Read a bundle's manifest and check it: against its schema, and for names and sizes that a schema can't relate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.files import check_schema, package_schema, read_json
from lorarar.layout import (
    ADAPTER,
    COEFFICIENTS,
    ROLES,
    Layout,
    Shape,
    StackSize,
    adapter_inputs,
    adapter_shapes,
    coefficient_shapes,
    fixed,
    roles_shape,
)
from runtime_py.component import MEND
from runtime_py.sinusoids import SIZE_SINUSOIDS, SIZES, TIMESTEP_SINUSOIDS

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_ELEMENTS = 2**31  # of one component's golden inputs together: 4 SDXL stacks of rank 128 fit
SCHEMA_VERSION = 2


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of the bundle in `folder`. Raises InputError for anything that is wrong in it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: not a bundle (no {MANIFEST}); make one with  lorarar export pipeline --target onnx"
        )
    manifest = read_json(path, what="a manifest", mend=MEND, limit=MAX_MANIFEST_BYTES)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(
            f"{path}: schema version {version!r} is unknown, this toolkit reads {SCHEMA_VERSION}; {_again(manifest)}"
        )
    check_schema(manifest, package_schema("runtime_py", "manifest.schema.json"), str(path), MEND)
    _check_relations(folder, manifest)
    if "pipeline" in manifest:
        _check_pipeline(folder, manifest)
    return dict(manifest)


def check_facts(facts: Mapping[str, Any]) -> None:
    """Check what of a manifest is known before any component is made, against the schema; InputError if it breaks."""
    schema = package_schema("runtime_py", "manifest.schema.json")
    parts = schema["$defs"] | {"pipeline": {**schema["$defs"]["pipeline"], "required": []}}
    known = {**schema, "$defs": parts, "required": [], "allOf": []}
    check_schema(facts, known, "what the manifest would tell", "give another `base`")


def _again(manifest: Any) -> str:
    """Return the command that makes a bundle of another version again."""
    if not isinstance(manifest, dict) or not {"base", "target", "components"} <= manifest.keys():
        return MEND
    parts = manifest["components"] if isinstance(manifest["components"], dict) else {}
    kind = "pipeline" if "pipeline" in manifest else "unet" if "unet" in parts else "hypernet"
    given = f"--base {manifest['base']!s:.100} --target {manifest['target']!s:.20}"
    return f"make it again with  lorarar export {kind} {given}"


def _check_relations(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the layout with the components' inputs and golden inputs."""
    layout = Layout.from_json(manifest["base"], manifest["layout"])
    names = [group.name for group in layout.groups]
    if len(set(names)) != len(names) or len(set(layout.layers)) != len(layout.layers):
        raise InputError(f"{folder}: its layout repeats a name; {MEND}")
    stack = stack_size(manifest)
    for name, entry in manifest["components"].items():
        for end in ("inputs", "outputs"):
            if len({spec["name"] for spec in entry[end]}) < len(entry[end]):
                raise InputError(f"{folder}: its {name} repeats a name; {MEND}")
        _check_golden_inputs(folder, name, entry, stack.named)
        if name == "hypernet":
            _check_hypernet(folder, manifest, layout, stack)
        else:
            _check_adapter(folder, name, entry, layout, stack)


def stack_size(manifest: Mapping[str, Any]) -> StackSize:
    """Return what the artifacts have room for."""
    return StackSize(int(manifest["layout"]["loras"]), int(manifest["layout"]["stacked_rank"]))


def _check_golden_inputs(folder: Path, name: str, entry: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    specs = {tensor["name"]: tensor["shape"] for tensor in entry["inputs"]}
    golden = {key: spec["shape"] for key, spec in entry["golden"]["inputs"].items()}
    literal = [spec for spec in entry["golden"]["inputs"].values() if "values" in spec]
    if any(len(spec["values"]) != math.prod(spec["shape"]) for spec in literal):
        raise InputError(f"{folder}: {name}'s golden values don't fill their shape; {MEND}")
    if golden != {key: list(fixed(tuple(shape), sizes)) for key, shape in specs.items()}:
        raise InputError(f"{folder}: {name}'s golden inputs are not its inputs; {MEND}")
    total = sum(math.prod(shape) for shape in golden.values())
    if total > MAX_ELEMENTS:
        raise InputError(
            f"{folder}: {name}'s inputs hold {total} numbers, over {MAX_ELEMENTS}; export it with a lower rank"
        )


def _check_hypernet(folder: Path, manifest: Mapping[str, Any], layout: Layout, stack: StackSize) -> None:
    groups, entry = layout.with_kinds(manifest["hypernetwork"]["learned"]), manifest["components"]["hypernet"]
    inputs = roles_shape(stack.loras) | adapter_shapes(groups)
    for end, shapes in (("inputs", inputs), ("outputs", coefficient_shapes(groups, stack.loras))):
        if not _states([(t["name"], tuple(t["shape"])) for t in entry[end]], shapes, stack):
            raise InputError(f"{folder}: the hypernet's {end} are not its layout's; {MEND}")


def _check_adapter(folder: Path, name: str, entry: Mapping[str, Any], layout: Layout, stack: StackSize) -> None:
    """Compare the inputs for LoRAs of a UNet or a text encoder with the layout."""
    # A prompt is encoded alone; a UNet has a row for each image.
    batch = next((t["shape"][0] for t in entry["inputs"] if t["name"] == "sample"), 1)
    stated = [
        (t["name"], tuple(t["shape"])) for t in entry["inputs"] if t["name"].startswith((ROLES, ADAPTER, COEFFICIENTS))
    ]
    # A UNet without inputs for LoRAs is the base model alone, or one that a LoRA was fused into.
    if not stated and name == "unet":
        return
    if not _states(stated, adapter_inputs(layout.of(name), stack.loras, batch), stack):
        raise InputError(f"{folder}: the {name}'s inputs for LoRAs are not its layout's; {MEND}")


def _states(stated: list[tuple[str, Shape]], shapes: Mapping[str, Shape], stack: StackSize) -> bool:
    """Tell whether tensors are these, in their order, with the rank named in all of them or in none."""
    return stated in (list(shapes.items()), [(name, fixed(shape, stack.named)) for name, shape in shapes.items()])


def _check_pipeline(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that the pipeline has its components, and that they fit together."""
    facts, components = manifest["pipeline"], manifest["components"]
    parts = (*facts["tokenizers"], "unet", "vae_decoder")
    missing = [name for name in parts if name not in components]
    if missing:
        raise InputError(f"{folder}: its pipeline has no {', '.join(missing)}; {MEND}")
    ends = [(name, end) for name in components for end in ("inputs", "outputs")]
    shapes = {(name, tensor["name"]): tensor["shape"] for name, end in ends for tensor in components[name][end]}
    lengths = [entry["length"] for entry in facts["tokenizers"].values()]
    wanted = _pipeline_shapes(facts, shapes, lengths)
    wrong = [f"{name}'s {tensor}" for (name, tensor), shape in wanted.items() if shapes.get((name, tensor)) != shape]
    wrong += [
        f"{name}'s {tensor['name']}"
        for name in parts
        for tensor in components[name]["inputs"]
        if (name, tensor["name"]) not in wanted and not tensor["name"].startswith((ROLES, ADAPTER, COEFFICIENTS))
    ]
    if wrong or len(set(lengths)) != 1:
        what = wrong[0] if wrong else "the tokenizers' length"
        raise InputError(f"{folder}: {what} doesn't fit the other parts; {MEND}")


def _pipeline_shapes(
    facts: Mapping[str, Any], shapes: Mapping[tuple[str, str], Any], lengths: list[int]
) -> dict[tuple[str, str], Any]:
    """Return the shapes that follow from others, by component and tensor; `shapes` has all that are stated.

    They name all inputs but those of LoRAs. None is a tensor that there must not be.
    """
    widths = {name: shapes.get((name, "hidden_states"), [0])[-1] for name in facts["tokenizers"]}
    *others, last = facts["tokenizers"]
    embeds = shapes.get((last, "text_embeds"), [0])[-1]
    sample = shapes.get(("unet", "sample"), [0])
    batch = sample[0]
    # A decoder may take a part of the image, as often as there are parts, which overlap: of two latents or more.
    tile = min(sample[-1], max(2, _multiple(shapes.get(("vae_decoder", "latents")), 1)))
    side = facts["pixels"] // max(1, sample[-1]) * tile
    return {
        ("unet", "sample"): [batch, *sample[1:2], sample[-1], sample[-1]],
        ("unet", TIMESTEP_SINUSOIDS): [batch, _multiple(shapes.get(("unet", TIMESTEP_SINUSOIDS)), 2)],
        ("unet", SIZE_SINUSOIDS): [batch, _multiple(shapes.get(("unet", SIZE_SINUSOIDS)), 2 * SIZES)],
        ("unet", "encoder_hidden_states"): [batch, lengths[0], sum(widths.values())],
        ("unet", "text_embeds"): [batch, embeds],
        ("unet", "noise_pred"): shapes.get(("unet", "sample")),
        ("vae_decoder", "latents"): [1, *sample[1:-2], tile, tile],
        ("vae_decoder", "image"): [1, 3, side, side],
        **{(name, "input_ids"): [1, length] for name, length in zip(facts["tokenizers"], lengths, strict=True)},
        **{(name, "hidden_states"): [1, lengths[0], width] for name, width in widths.items()},
        **{(name, "text_embeds"): None for name in others},
        (last, "text_embeds"): [1, embeds],
    }


def _multiple(shape: Any, of: int) -> int:
    """Return the multiple of a number that the last size of a shape must be: itself, or the next one below."""
    last = shape[-1] if shape else of
    return max(of, last - last % of)
