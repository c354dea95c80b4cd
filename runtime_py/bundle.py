"""Bundles: a folder with a manifest, the artifacts and golden tensors. Opening one verifies all of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import Layout, Shape, adapter_shapes, fixed, input_shapes, output_shapes, rank_sizes
from runtime_py.parity import Tolerance

MANIFEST = "manifest.json"
ONNX_MODEL = "model.onnx"
"""The graph's file in an ONNX artifact that is a folder: one whose weights are too large for one file."""
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_ELEMENTS = 2**31  # of one golden input, all inputs together: 4 SDXL adapters of rank 128 fit
DTYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact; a size given by name (`content_rank`) may differ from run to run."""

    name: str
    dtype: Any
    shape: Shape


@dataclass(frozen=True)
class Component:
    """One artifact of a bundle."""

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    golden_path: Path
    golden_inputs: Mapping[str, Mapping[str, Any]]
    entry: Mapping[str, Any]  # the manifest's own

    def golden_outputs(self) -> dict[str, dict[str, np.ndarray]]:
        """What the golden file keeps of every output: `values`, `mean` and `rms`."""
        return read_golden(self.golden_path, [spec.name for spec in self.outputs])


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle."""

    path: Path
    # 53 kB even in small: an error that shows a bundle is to be read.
    manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and verify a bundle: schema, paths, sizes, hashes. Raises InputError naming what is wrong."""
        folder = Path(path)
        bundle = cls(folder, _read_manifest(folder))
        _check_names(bundle)
        for name, entry in bundle.manifest["components"].items():
            _verify(folder, name, entry["file"], entry["bytes"], entry["sha256"])
            golden = entry["golden"]
            _verify(folder, f"{name}'s golden file", golden["file"], golden["bytes"], golden["sha256"])
        if "pipeline" in bundle.manifest:
            _check_pipeline(bundle)
        return bundle

    @cached_property
    def layout(self) -> Layout:
        return Layout.from_json(str(self.manifest["base"]), self.manifest["layout"])

    @property
    def rank(self) -> int:
        """The rank of the artifacts' adapter inputs: fixed, or the example one where it is dynamic."""
        return int(self.manifest["layout"]["groups"][0]["rank"])

    def component(self, name: str) -> Component:
        """One component, or InputError with those that the bundle has."""
        entries = self.manifest["components"]
        if name not in entries:
            raise InputError(f"{self.path}: the bundle has no {name}, only {', '.join(entries)}")
        entry = entries[name]
        inputs, outputs = (
            tuple(TensorSpec(t["name"], DTYPES[t["dtype"]], tuple(t["shape"])) for t in entry[end])
            for end in ("inputs", "outputs")
        )
        tolerance = Tolerance(float(entry["tolerance"]["psnr_db"]), float(entry["tolerance"]["max_error"]))
        golden = entry["golden"]
        golden_path = self.path / golden["file"]
        return Component(
            name, self.path / entry["file"], inputs, outputs, tolerance, golden_path, golden["inputs"], entry
        )


def read_golden(path: Path, outputs: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """`values`, `mean` and `rms` of the named outputs. InputError when the file lacks one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return {name: {key: tensors[f"{name}.{key}"] for key in ("values", "mean", "rms")} for name in outputs}
    except (SafetensorError, KeyError):
        raise InputError(f"{path}: not a golden file of this bundle; export the bundle again") from None


def tree_sha256(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, over the sorted lines `<sha256>  <relative path>`."""
    if path.is_file():
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    total, lines = 0, []
    for item in sorted(path.rglob("*"), key=lambda p: p.relative_to(path).as_posix()):
        if item.is_symlink() or not (item.is_file() or item.is_dir()):
            raise InputError(f"{item}: links are not allowed in a bundle; export it again")
        if item.is_file():
            size, digest = tree_sha256(item)
            total += size
            lines.append(f"{digest}  {item.relative_to(path).as_posix()}\n")
    return total, hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder}: not a bundle (no {MANIFEST}); make one with  python -m export.hypernet --target onnx"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes is too large for a manifest; export the bundle again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constants)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not valid JSON; export the bundle again") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != 1 or isinstance(version, bool):
        raise InputError(
            f"{path}: schema version {version!r} is unknown, this toolkit reads 1; export the bundle again"
        )
    _check_schema(path, manifest)
    return dict(manifest)


def no_constants(name: str) -> float:
    """For `json.loads`: NaN and infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not JSON")


def _check_schema(path: Path, manifest: object) -> None:
    import jsonschema

    schema = json.loads((resources.files("runtime_py") / "manifest.schema.json").read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(manifest))
    if error is not None:
        message = error.message if len(error.message) < 200 else error.message[:200] + "…"
        raise InputError(f"{path}: {error.json_path} breaks the schema ({message}); export the bundle again")


def _check_names(bundle: Bundle) -> None:
    """Names and sizes that the schema can't relate: layout against golden inputs and inputs."""
    layout = bundle.layout  # raises when a group's name contradicts its sizes
    names = [group.name for group in layout.groups]
    ranks = {group["rank"] for group in bundle.manifest["layout"]["groups"]}
    if len(set(names)) != len(names) or len(set(layout.modules)) != len(layout.modules) or len(ranks) != 1:
        raise InputError(f"{bundle.path}: its layout repeats a name or mixes ranks; export the bundle again")
    for name, entry in bundle.manifest["components"].items():
        specs = {tensor["name"]: tensor["shape"] for tensor in entry["inputs"]}
        golden = {key: spec["shape"] for key, spec in entry["golden"]["inputs"].items()}
        literal = [spec for spec in entry["golden"]["inputs"].values() if "values" in spec]
        if any(len(spec["values"]) != math.prod(spec["shape"]) for spec in literal):
            raise InputError(f"{bundle.path}: {name}'s golden values don't fill their shape; export the bundle again")
        sizes = rank_sizes(bundle.rank)
        if golden != {key: list(fixed(tuple(shape), sizes)) for key, shape in specs.items()}:
            raise InputError(f"{bundle.path}: {name}'s golden inputs are not its inputs; export the bundle again")
        if name == "merger":
            _check_merger(bundle, entry, sizes)
        if name == "unet":
            _check_unet(bundle, entry, sizes)
        total = sum(math.prod(shape) for shape in golden.values())
        if total > MAX_ELEMENTS:
            raise InputError(f"{bundle.path}: {name}'s inputs hold {total} numbers, over {MAX_ELEMENTS}; lower --rank")


def _check_merger(bundle: Bundle, entry: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    for end, shapes in (("inputs", input_shapes(bundle.layout)), ("outputs", output_shapes(bundle.layout))):
        stated = [(tensor["name"], tuple(tensor["shape"])) for tensor in entry[end]]
        if stated not in (list(shapes.items()), [(name, fixed(shape, sizes)) for name, shape in shapes.items()]):
            raise InputError(f"{bundle.path}: the merger's {end} are not its layout's; export the bundle again")


def _check_unet(bundle: Bundle, entry: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    shapes = adapter_shapes(bundle.layout)
    stated = {t["name"]: tuple(t["shape"]) for t in entry["inputs"] if t["name"].startswith("adapter_")}
    # Without any, it is the base model or one with a LoRA fused in.
    if stated and stated not in (shapes, {name: fixed(shape, sizes) for name, shape in shapes.items()}):
        raise InputError(f"{bundle.path}: the unet's adapters are not its layout's; export the bundle again")


def _check_pipeline(bundle: Bundle) -> None:
    """Its files, and that the components fit together."""
    facts, components = bundle.manifest["pipeline"], bundle.manifest["components"]
    for what, entry in (*facts["tokenizers"].items(), ("golden image", facts["golden"])):
        _verify(bundle.path, f"the pipeline's {what}", entry["file"], entry["bytes"], entry["sha256"])
    missing = [name for name in (*facts["tokenizers"], "unet", "vae_decoder") if name not in components]
    if missing:
        raise InputError(f"{bundle.path}: its pipeline has no {', '.join(missing)}; export the bundle again")
    ends = [(name, end) for name in components for end in ("inputs", "outputs")]
    shapes = {(name, tensor["name"]): tensor["shape"] for name, end in ends for tensor in components[name][end]}
    states = [shapes.get((name, "hidden_states"), [0, 0, 0]) for name in facts["tokenizers"]]
    lengths = [entry["length"] for entry in facts["tokenizers"].values()]
    last = list(facts["tokenizers"])[-1]
    batch = shapes.get(("unet", "sample"), [0])[0]
    wanted = {
        ("unet", "timestep"): [batch],
        ("unet", "time_ids"): [batch, 6],
        ("unet", "encoder_hidden_states"): [batch, lengths[0], sum(shape[-1] for shape in states)],
        ("unet", "text_embeds"): [batch, *shapes.get((last, "text_embeds"), [0, 0])[1:]],
        ("unet", "noise_pred"): shapes.get(("unet", "sample")),
        ("vae_decoder", "latents"): [1, *shapes.get(("unet", "sample"), [0])[1:]],
        ("vae_decoder", "image"): [1, 3, facts["pixels"], facts["pixels"]],
        **{(name, "input_ids"): [1, length] for name, length in zip(facts["tokenizers"], lengths, strict=True)},
    }
    wrong = [f"{name}'s {tensor}" for (name, tensor), shape in wanted.items() if shapes.get((name, tensor)) != shape]
    if wrong or len(set(lengths)) != 1:
        what = wrong[0] if wrong else "the tokenizers' length"
        raise InputError(f"{bundle.path}: {what} doesn't fit the other parts; export the bundle again")


def _verify(folder: Path, what: str, relative: str, size: int, sha256: str) -> None:
    path = folder / relative
    if not path.exists() or folder.resolve() not in path.resolve().parents:
        raise InputError(f"{folder}: {what} ({relative}) is missing or outside the bundle; export the bundle again")
    have_size, have_hash = tree_sha256(path)
    if (have_size, have_hash) != (size, sha256):
        raise InputError(f"{path}: damaged or changed since its export (its SHA-256 differs); export the bundle again")
