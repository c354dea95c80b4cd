"""Bundles as strangers may make them: each an edit of a good hypernetwork's bundle, and what must be said of it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bundle_mutations import hypernet
from safetensors.numpy import load_file, save_file

from runtime_py.component import ONNX_MODEL
from runtime_py.hashes import tree_sha256

Edit = Callable[[dict[str, Any], Path], None]
"""Changes a manifest and the bundle's folder."""


def edit_manifest(bundle: Path, edit: Edit) -> None:
    """Change the manifest of a bundle; `edit` gets it and the bundle's folder."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest, bundle)
    path.write_text(json.dumps(manifest))


def state(entry: dict[str, Any], path: Path) -> None:
    """Let an entry of the manifest state what the file now is."""
    entry["bytes"], entry["sha256"] = tree_sha256(path)


def leave(manifest: dict[str, Any], folder: Path) -> None:
    """Changes nothing."""


def set_at(*path: str | int, to: Any) -> Edit:
    """An edit that sets one value of the hypernetwork's entry; a path that starts with "/" starts at the manifest."""

    def edit(manifest: dict[str, Any], folder: Path) -> None:
        place: Any = manifest if path[0] == "/" else hypernet(manifest)
        *parents, last = path[1:] if path[0] == "/" else path
        for key in parents:
            place = place[key]
        place[last] = to

    return edit


def flip_a_byte(key: str) -> Edit:
    def edit(manifest: dict[str, Any], folder: Path) -> None:
        entry = hypernet(manifest) if key == "artifact" else hypernet(manifest)["golden"]
        path = folder / entry["file"]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    return edit


def cut_the_artifact(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / hypernet(manifest)["file"]
    path.write_bytes(path.read_bytes()[:-1])


def link_out(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / hypernet(manifest)["file"]
    path.replace(folder.parent / "elsewhere.onnx")
    path.symlink_to(folder.parent / "elsewhere.onnx")


def link_in_a_folder(manifest: dict[str, Any], folder: Path) -> None:
    (folder / "hypernet").mkdir()
    (folder / "hypernet" / ONNX_MODEL).symlink_to(folder / hypernet(manifest)["file"])
    hypernet(manifest)["file"] = "hypernet"


def pipe(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / hypernet(manifest)["file"]
    path.unlink()
    os.mkfifo(path)


def huge(manifest: dict[str, Any], folder: Path) -> None:
    first = hypernet(manifest)["inputs"][0]
    first["shape"] = hypernet(manifest)["golden"]["inputs"][first["name"]]["shape"] = [2**20, 2**20, 2**20]


def missing_golden_input(manifest: dict[str, Any], folder: Path) -> None:
    del hypernet(manifest)["golden"]["inputs"]["roles"]


def deep(manifest: dict[str, Any], folder: Path) -> None:
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    hypernet(manifest)["outputs"] = nested


HOSTILE: dict[str, tuple[Edit, str]] = {
    "a changed artifact": (flip_a_byte("artifact"), "damaged or changed since its export"),
    "a changed golden file": (flip_a_byte("golden"), "damaged or changed since its export"),
    "a cut artifact": (cut_the_artifact, "damaged or changed since its export"),
    "a path upwards": (set_at("file", to="../bundle/hypernet.onnx"), "missing or outside the bundle"),
    "an absolute path": (set_at("file", to="/etc/hostname"), "missing or outside the bundle"),
    "the folder itself": (set_at("file", to="."), "missing or outside the bundle"),
    "no such file": (set_at("golden", "file", to="golden/none.safetensors"), "missing or outside the bundle"),
    "a link outwards": (link_out, "missing or outside the bundle"),
    "a link in a folder": (link_in_a_folder, "links are not allowed in a bundle"),
    "a pipe": (pipe, "missing or outside the bundle"),
    "a huge shape": (huge, "hold more than 2147483648 numbers"),
    "a size below 1": (set_at("outputs", 0, "shape", to=[1, -1]), "is not a whole number from 1"),
    "a fraction": (set_at("outputs", 0, "shape", to=[1.5]), "is not a whole number from 1"),
    "many dimensions": (set_at("outputs", 0, "shape", to=[1] * 7), "hold more than"),
    "an unknown size": (set_at("outputs", 0, "shape", to=["batch"]), "'batch', which is no size"),
    "an unknown type": (set_at("inputs", 0, "dtype", to="int64"), "not float32, float16 or int32"),
    "another size": (set_at("inputs", 0, "shape", 0, to=77), "has not the shape of its golden input"),
    "another rank": (set_at("inputs", 0, "shape", to=["stacked_rank"]), "has not the shape of its golden input"),
    "no golden input": (missing_golden_input, "has no roles"),
    "golden values that don't fill": (
        set_at("golden", "inputs", "roles", "values", to=[1, 2]),
        "golden values that don't fill it",
    ),
    "a nested list": (deep, "has no shape"),
    "no outputs": (set_at("outputs", to=[]), "is empty"),
    "a tolerance that is none": (set_at("tolerance", "psnr_db", to="low"), "is not a number"),
    "a delta that is none": (set_at("tolerance", "delta", to={"gain_error": 0.1}), "has no cosine"),
    "an old schema": (set_at("/", "schema_version", to=1), "its schema version is unknown"),
    "a true schema": (set_at("/", "schema_version", to=True), "its schema version is unknown"),
    "a stack of no rows": (set_at("/", "layout", "stacked_rank", to=0), "is not a whole number from 1 to 1024"),
    "another rank than the layout's": (set_at("/", "layout", "stacked_rank", to=7), "has not the shape of its golden"),
    "an unknown generator": (set_at("/", "golden_generator", "name", to="mersenne"), "which this runner does not know"),
    "an unknown precision": (set_at("/", "precision", to="fp8"), "which this runner does not know"),
    "no base": (set_at("/", "base", to=""), "is not a text"),
    "another system's target": (set_at("/", "target", to="coreml"), "runs on Apple's systems alone"),
    "an unknown target": (set_at("/", "target", to="tflite"), "not onnx, executorch or qnn"),
    "a target left out": (set_at("/", "target", to="executorch"), "built without ExecuTorch"),
    "no components": (set_at("/", "components", to=[]), "the bundle has no hypernet"),
    "control characters": (set_at("inputs", 0, "dtype", to="a\nerror: b\x1b[2J"), "not float32"),
    "another tensor than the graph's": (set_at("outputs", 0, "dtype", to="float16"), "is not as the manifest says"),
}


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"x.values": {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}}


GOLDEN: dict[str, tuple[bytes, str]] = {
    "too short": (b"1234", "its header is cut"),
    "a header past the end": (struct.pack("<Q", 2**63) + b"{}", "its header is cut"),
    "no JSON": (header(b"{{"), "not valid JSON"),
    "no object": (header([1]), "not a safetensors file"),
    "another type": (header(tensor("I64", [1], 0, 8), b"12345678"), "is of type I64"),
    "offsets past the end": (header(tensor("F32", [1], 0, 8), b"1234"), "is not a whole number from 0 to 4"),
    "offsets backwards": (header(tensor("F32", [1], 4, 0), b"1234"), "is not a whole number from 4 to 4"),
    "offsets of another size": (header(tensor("F32", [1], 0, 3), b"1234"), "offsets that are not its size"),
    "one offset": (header(tensor("F32", [1], 0), b"1234"), "has not two offsets"),
    "a huge shape": (header(tensor("F64", [2**22, 2**22, 2**22], 0, 8), b"12345678"), "larger than its file"),
    "a shape that overflows": (header(tensor("F64", [2**61, 2], 0, 0)), "is not a whole number from 0 to"),
    "tensors missing": (header(tensor("F32", [1], 0, 4), b"1234"), "not a golden file of this bundle"),
}


def edit_golden(component: str, change: Callable[[dict[str, np.ndarray]], None]) -> Edit:
    """Make an edit of a component's golden tensors, after which the manifest states the file that it finds."""

    def edit(manifest: dict[str, Any], folder: Path) -> None:
        golden = manifest["components"][component]["golden"]
        tensors = load_file(folder / golden["file"])
        change(tensors)
        save_file(tensors, folder / golden["file"])
        state(golden, folder / golden["file"])

    return edit


def first(tensors: dict[str, np.ndarray], kind: str) -> str:
    """Return the name of the first output's `values`, `mean` or `rms`."""
    return next(name for name in sorted(tensors) if name.endswith(f".{kind}"))


def poison(value: float) -> Edit:
    """An edit that sets one mean of the golden file: nothing but a statistic is then wrong."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[first(tensors, "mean")][0] = value

    return edit_golden("hypernet", change)


def scale_values(factor: float) -> Edit:
    """An edit that multiplies the golden values of one output."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[first(tensors, "values")] *= np.float32(factor)

    return edit_golden("hypernet", change)


def out_of(limit: str, to: float) -> Edit:
    """An edit that sets one limit of the tolerance so that no run meets it, even one that equals PyTorch's."""

    def edit(manifest: dict[str, Any], folder: Path) -> None:
        scale_values(1 + 1e-5)(manifest, folder)
        set_at("tolerance", limit, to=to)(manifest, folder)

    return edit


def _cut(tensors: dict[str, np.ndarray]) -> None:
    tensors[first(tensors, "rms")] = tensors[first(tensors, "rms")][:-1].copy()


cut_a_statistic = edit_golden("hypernet", _cut)
"""Cuts one root mean square off."""


def garbage(manifest: dict[str, Any], folder: Path) -> None:
    path = folder / hypernet(manifest)["file"]
    path.write_bytes(b"no graph")
    state(hypernet(manifest), path)
