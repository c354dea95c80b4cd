"""Damage done to bundles: each must be refused in one sentence, before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST

Manifest = dict[str, Any]
Mutation = Callable[[Path, Manifest], None]


def hypernet(manifest: Manifest) -> dict[str, Any]:
    entry: dict[str, Any] = manifest["components"]["hypernet"]
    return entry


def put(*keys: str | int, value: Any) -> Mutation:
    """Set one value of the manifest."""

    def mutate(_: Path, manifest: Manifest) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return mutate


def drop(*keys: str | int) -> Mutation:
    """Remove one value of the manifest."""

    def mutate(_: Path, manifest: Manifest) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return mutate


def cut(relative: str, size: int) -> Mutation:
    def mutate(folder: Path, _: Manifest) -> None:
        path = folder / relative
        path.write_bytes(path.read_bytes()[:size])

    return mutate


def flip(relative: str, position: int) -> Mutation:
    def mutate(folder: Path, _: Manifest) -> None:
        data = bytearray((folder / relative).read_bytes())
        data[position] ^= 1
        (folder / relative).write_bytes(data)

    return mutate


def remove(relative: str) -> Mutation:
    return lambda folder, _: (folder / relative).unlink()


def outside(folder: Path, manifest: Manifest) -> None:
    """The artifact really exists and has the right hash, but lies outside."""
    shutil.copy(folder / "hypernet.onnx", folder.parent / "outside.onnx")
    hypernet(manifest)["file"] = "../outside.onnx"


def absolute(folder: Path, manifest: Manifest) -> None:
    hypernet(manifest)["file"] = str(folder / "hypernet.onnx")


def linked(folder: Path, _: Manifest) -> None:
    (folder / "hypernet.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "hypernet.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def golden_replaced(folder: Path, manifest: Manifest) -> None:
    """A golden file with the right hash and the wrong tensors."""
    path = folder / "golden" / "hypernet.safetensors"
    save_file({"something": np.zeros(3, np.float32)}, path)
    golden = hypernet(manifest)["golden"]
    golden["bytes"], golden["sha256"] = tree_sha256(path)


def artifact_replaced(text: bytes) -> Mutation:
    """Not a model, but with the right hash."""

    def mutate(folder: Path, manifest: Manifest) -> None:
        (folder / "hypernet.onnx").write_bytes(text)
        entry = hypernet(manifest)
        entry["bytes"], entry["sha256"] = tree_sha256(folder / "hypernet.onnx")

    return mutate


def inputs_swapped(_: Path, manifest: Manifest) -> None:
    """In the golden inputs too, which are compared first."""
    inputs, golden = hypernet(manifest)["inputs"], hypernet(manifest)["golden"]["inputs"]
    for one, other in ((inputs[1], inputs[2]), (golden[inputs[1]["name"]], golden[inputs[2]["name"]])):
        one["shape"], other["shape"] = other["shape"], one["shape"]


def input_missing(_: Path, manifest: Manifest) -> None:
    """In the golden inputs too, which are compared first."""
    del hypernet(manifest)["golden"]["inputs"][hypernet(manifest)["inputs"].pop(1)["name"]]


def output_renamed(_: Path, manifest: Manifest) -> None:
    hypernet(manifest)["outputs"][0]["name"] = "coefficients_qo_9x9"


def with_golden(source: Path, folder: Path, component: str, factors: dict[str, float]) -> Path:
    """Copy a bundle, its golden tensors of these ends multiplied."""
    shutil.copytree(source, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    golden = manifest["components"][component]["golden"]
    tensors = load_file(folder / golden["file"])
    for name in tensors:
        for end, factor in factors.items():
            if name.endswith(end):
                tensors[name] = (tensors[name] * factor).astype(tensors[name].dtype)
    save_file(tensors, folder / golden["file"])
    golden["bytes"], golden["sha256"] = tree_sha256(folder / golden["file"])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


M = ("components", "hypernet")
GROUP = ("layout", "groups", 0)
MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "newer schema": (put("schema_version", value=3), "schema version 3 is unknown"),
    "older schema": (put("schema_version", value=1), "schema version 1 is unknown"),
    "schema as text": (put("schema_version", value="2"), "schema version '2' is unknown"),
    "schema as true": (put("schema_version", value=True), "schema version True is unknown"),
    "no schema": (drop("schema_version"), "schema version None is unknown"),
    "unknown key": (put("surprise", value=1), "'surprise' was unexpected"),
    "unknown target": (put("target", value="tflite"), r"\.target breaks the schema"),
    "other target": (put("target", value="coreml"), r"is not an \.mlpackage"),
    "unknown precision": (put("precision", value="fp8"), r"\.precision breaks the schema"),
    "no toolkit version": (drop("toolkit_version"), "'toolkit_version' is a required"),
    "empty base": (put("base", value=""), r"\.base breaks the schema \(''"),
    "base as number": (put("base", value=3), r"\.base breaks the schema \(3 is"),
    "no hypernetwork": (drop("hypernetwork"), "'hypernetwork' is a required"),
    "unknown rule": (put("hypernetwork", "kv_rule", value="product"), r"\.hypernetwork\.kv_rule breaks the schema"),
    "nothing learned": (put("hypernetwork", "learned", value=[]), r"\.learned breaks the schema \(\[\] should be"),
    "learned twice": (put("hypernetwork", "learned", value=["q", "q"]), "has non-unique elements"),
    "other kinds learned": (put("hypernetwork", "learned", value=["k"]), "inputs are not its layout's"),
    "trained as text": (put("hypernetwork", "trained", value="yes"), r"\.hypernetwork\.trained breaks the schema"),
    "short hash": (put("hypernetwork", "sha256", value="abc"), r"\.hypernetwork\.sha256 breaks the schema"),
    "no groups": (put("layout", "groups", value=[]), r"\.groups breaks the schema \(\[\] should be"),
    "groups as object": (put("layout", "groups", value={}), r"\.groups breaks the schema \(\{\} is not of type"),
    "hostile group name": (
        put(*GROUP, "name", value="../../etc/passwd"),
        r"\.layout\.groups\[0\]\.name breaks the schema",
    ),
    "group name of other sizes": (put(*GROUP, "in", value=33), "'qo_32x32' does not match its sizes"),
    "group without modules": (put(*GROUP, "modules", value=[]), r"\.layout\.groups\[0\]\.modules breaks the schema"),
    "group repeated": (
        lambda _, m: m["layout"]["groups"].append(m["layout"]["groups"][0]),
        "its layout repeats a name",
    ),
    "module repeated": (
        lambda _, m: m["layout"]["groups"][0]["modules"].append(m["layout"]["groups"][0]["modules"][0]),
        "its layout repeats a name",
    ),
    "input repeated": (
        lambda _, m: m["components"]["hypernet"]["inputs"].append(m["components"]["hypernet"]["inputs"][0]),
        "its hypernet repeats a name",
    ),
    "output repeated": (
        lambda _, m: m["components"]["hypernet"]["outputs"].append(m["components"]["hypernet"]["outputs"][0]),
        "its hypernet repeats a name",
    ),
    "rank 0": (put("layout", "stacked_rank", value=0), r"\.layout\.stacked_rank breaks the schema"),
    "huge rank": (put("layout", "stacked_rank", value=10**9), r"\.layout\.stacked_rank breaks the schema"),
    "one LoRA": (put("layout", "loras", value=1), r"\.layout\.loras breaks the schema"),
    "too many LoRAs": (put("layout", "loras", value=9), r"\.layout\.loras breaks the schema"),
    "another number of LoRAs": (put("layout", "loras", value=3), "inputs are not its layout's"),
    "fractional size": (put(*GROUP, "out", value=32.5), r"\.layout\.groups\[0\]\.out breaks the schema"),
    "other generator": (put("golden_generator", "name", value="numpy"), r"\.golden_generator\.name breaks the schema"),
    "a tolerance beyond all": (
        put("components", "hypernet", "tolerance", "psnr_db", value=10**400),
        r"psnr_db breaks the schema",
    ),
    "no components": (put("components", value={}), r"\.components breaks the schema \(\{\} should be non-empty"),
    "component as list": (put("components", value=[]), r"\.components breaks the schema \(\[\] is not of type"),
    "hostile component name": (
        lambda _, m: m["components"].update({"../x": hypernet(m)}),
        r"\.components breaks the schema \('\.\./x'",
    ),
    "no file": (drop(*M, "file"), "'file' is a required"),
    "file outside": (outside, r"\.file breaks the schema \('\.\./outside"),
    "file absolute": (absolute, r"\.file breaks the schema \('/"),
    "file empty": (put(*M, "file", value=""), r"\.file breaks the schema \(''"),
    "file hidden": (put(*M, "file", value=".hidden"), r"\.file breaks the schema \('\.hidden"),
    "file with backslash": (put(*M, "file", value="..\\hypernet.onnx"), r"\.file breaks the schema \('\.\."),
    "file missing": (remove("hypernet.onnx"), r"hypernet \(hypernet\.onnx\) is missing or outside"),
    "file linked": (linked, r"hypernet \(hypernet\.onnx\) is missing or outside"),
    "file truncated": (cut("hypernet.onnx", 1000), r"hypernet\.onnx: damaged or changed"),
    "file emptied": (cut("hypernet.onnx", 0), r"hypernet\.onnx: damaged or changed"),
    "one bit flipped": (flip("hypernet.onnx", 5000), r"hypernet\.onnx: damaged or changed"),
    "wrong size": (put(*M, "bytes", value=1), r"hypernet\.onnx: damaged or changed"),
    "wrong hash": (put(*M, "sha256", value="0" * 64), r"hypernet\.onnx: damaged or changed"),
    "not a model": (artifact_replaced(b"not a model"), "INVALID_PROTOBUF"),
    "an empty model": (artifact_replaced(b"\x08\x0a"), "No graph was found"),
    "input of other type": (put(*M, "inputs", 0, "dtype", value="float16"), "roles is not as the manifest says"),
    "input of unknown type": (
        put(*M, "inputs", 0, "dtype", value="complex64"),
        r"\.components\.hypernet\.inputs\[0\]\.dtype breaks the schema",
    ),
    "input of negative size": (
        put(*M, "inputs", 0, "shape", value=[-1, 2]),
        r"\.components\.hypernet\.inputs\[0\]\.shape\[0\] breaks the schema",
    ),
    "input missing": (input_missing, "the hypernet's inputs are not its layout's"),
    "inputs swapped": (inputs_swapped, "the hypernet's inputs are not its layout's"),
    "output renamed": (output_renamed, "outputs are not its layout's"),
    "output missing": (drop(*M, "outputs", 0), "outputs are not its layout's"),
    "golden missing": (remove("golden/hypernet.safetensors"), "golden file .* is missing or outside"),
    "golden truncated": (cut("golden/hypernet.safetensors", 100), r"golden/hypernet\.safetensors: damaged"),
    "golden flipped": (flip("golden/hypernet.safetensors", 3000), r"golden/hypernet\.safetensors: damaged"),
    "golden replaced": (golden_replaced, "not a golden file of this bundle"),
    "golden values of another size": (
        put(*M, "golden", "inputs", "roles", "shape", value=[10**6] * 3),
        "golden values don't fill their shape",
    ),
    "golden input of too many elements": (lambda _, m: _huge(m), r"inputs hold \d+ numbers, over \d+"),
    "golden seed negative": (
        put(*M, "golden", "inputs", "adapter_qo_32x32_down", "seed", value=-1),
        r"\.components\.hypernet\.golden\.inputs\.adapter_qo_32x32_down\.seed breaks the schema",
    ),
    "golden input unknown": (
        put(*M, "golden", "inputs", "depth", value={"shape": [1], "value": 1}),
        "golden inputs are not its inputs",
    ),
    "tolerance of infinity": (put(*M, "tolerance", "max_error", value=1e400), "not valid JSON"),
    "tolerance that lets all pass": (
        put(*M, "tolerance", "max_error", value=10.0),
        r"\.components\.hypernet\.tolerance\.max_error breaks the schema",
    ),
    "tolerance of no dB": (
        put(*M, "tolerance", "psnr_db", value=0),
        r"\.components\.hypernet\.tolerance\.psnr_db breaks the schema",
    ),
    "parity made up": (
        put(*M, "parity", "status", value="excellent"),
        r"\.components\.hypernet\.parity\.status breaks the schema",
    ),
}
"""Damage done to the manifest or a file, and what the error tells of it."""


def _huge(manifest: Manifest) -> None:
    entry = hypernet(manifest)
    entry["inputs"][1]["shape"] = [10**6, "stacked_rank", 10**6]
    entry["golden"]["inputs"]["adapter_qo_32x32_down"]["shape"] = [10**6, manifest["layout"]["stacked_rank"], 10**6]


def shaped(component: str, end: str, name: str, shape: list[Any], golden: list[int] | None = None) -> Mutation:
    """Give a tensor another shape, its golden input as well."""

    def mutate(_: Path, manifest: Manifest) -> None:
        entry = manifest["components"][component]
        next(tensor for tensor in entry[end] if tensor["name"] == name)["shape"] = shape
        if end == "inputs":
            entry["golden"]["inputs"][name]["shape"] = shape if golden is None else golden

    return mutate


def rank_for_a_side(folder: Path, manifest: Manifest) -> None:
    rank = manifest["layout"]["stacked_rank"]
    shaped("unet", "inputs", "sample", [2, 4, 2, "stacked_rank"], [2, 4, 2, rank])(folder, manifest)


def ids(**value: Any) -> Mutation:
    """Give the text encoder other golden tokens."""
    return put("components", "text_encoder", "golden", "inputs", "input_ids", value={"shape": [1, 77], **value})


def golden_folder(folder: Path, manifest: Manifest) -> None:
    """A folder in the place of the golden file, with the right hash."""
    (folder / "golden" / "unet").mkdir()
    (folder / "golden" / "unet" / "file").write_bytes(b"1")
    size, sha256 = tree_sha256(folder / "golden" / "unet")
    manifest["components"]["unet"]["golden"] |= {"file": "golden/unet", "bytes": size, "sha256": sha256}


def golden_without_of_other_size(folder: Path, manifest: Manifest) -> None:
    path = folder / "golden" / "unet.safetensors"
    save_file({**load_file(path), "noise_pred.without": np.zeros(3, np.float32)}, path)
    size, sha256 = tree_sha256(path)
    manifest["components"]["unet"]["golden"] |= {"bytes": size, "sha256": sha256}


def one_more_input(component: str) -> Mutation:
    """Give a component an input that nothing fills, in the manifest."""

    def mutate(_: Path, manifest: Manifest) -> None:
        entry = manifest["components"][component]
        entry["inputs"].append({"name": "depth", "dtype": "float32", "shape": [1]})
        entry["golden"]["inputs"]["depth"] = {"shape": [1], "value": 1}

    return mutate


def two_encoders(*outputs: str) -> Mutation:
    """Put an encoder with these outputs before the one that there is."""

    def mutate(_: Path, manifest: Manifest) -> None:
        entries, tokenizers = manifest["components"], manifest["pipeline"]["tokenizers"]
        entries["text_encoder_2"], tokenizers["text_encoder_2"] = entries["text_encoder"], tokenizers["text_encoder"]
        first = {**entries["text_encoder"]}
        first["outputs"] = [tensor for tensor in first["outputs"] if tensor["name"] in outputs]
        entries["text_encoder"] = first
        width = 8 if "hidden_states" in outputs else 4
        shaped("unet", "inputs", "encoder_hidden_states", [2, 77, width])(_, manifest)

    return mutate


TOKENIZER = ("pipeline", "tokenizers", "text_encoder")
SCHEDULER, GOLDEN = ("pipeline", "scheduler"), ("pipeline", "golden")
PIPELINE_MUTATIONS: dict[str, tuple[Mutation, str]] = {
    "sample without axes": (shaped("unet", "inputs", "sample", []), r"inputs\[0\]\.shape"),
    "the rank for a side": (rank_for_a_side, r"inputs\[0\]\.shape"),
    "states without axes": (shaped("text_encoder", "outputs", "hidden_states", []), r"outputs\[0\]\.shape"),
    "the rank for a width": (
        shaped("text_encoder", "outputs", "hidden_states", [1, 77, "stacked_rank"]),
        r"outputs\[0\]\.shape",
    ),
    "embeddings without axes": (shaped("text_encoder", "outputs", "text_embeds", []), r"outputs\[1\]\.shape"),
    "latents without axes": (shaped("vae_decoder", "inputs", "latents", []), r"inputs\[0\]\.shape"),
    "timesteps without axes": (shaped("unet", "inputs", "timestep_sinusoids", []), r"inputs\[1\]\.shape"),
    "a pad beyond int32": (put(*TOKENIZER, "pad", value=10**12), r"\.pad"),
    "an end beyond int32": (put(*TOKENIZER, "end", value=2**31), r"\.end"),
    "golden tokens beyond int32": (ids(values=[2**40] * 77), r"input_ids\.values"),
    "a golden token beyond int32": (ids(value=1e20), r"input_ids\.value"),
    "steps with a point": (put(*SCHEDULER, "train_steps", value=1000.0), r"\.train_steps"),
    "golden steps with a point": (put(*GOLDEN, "steps", value=2.0), r"\.golden\.steps"),
    "a golden seed with a point": (put(*GOLDEN, "seed", value=0.0), r"\.golden\.seed"),
    "an encoder that takes more": (one_more_input("text_encoder"), "text_encoder's depth"),
    "a UNet that takes more": (one_more_input("unet"), "unet's depth"),
    "two encoders, one without states": (two_encoders("text_embeds"), "text_encoder's hidden_states"),
    "two encoders that embed": (two_encoders("hidden_states", "text_embeds"), "text_encoder's text_embeds"),
    "sample of three axes": (shaped("unet", "inputs", "sample", [2, 4, 2]), "unet's sample"),
    "sample that is no square": (shaped("unet", "inputs", "sample", [2, 4, 3, 2]), "unet's sample"),
    "a tile of one latent": (shaped("vae_decoder", "inputs", "latents", [1, 4, 1, 1]), "vae_decoder's latents"),
    "a golden folder": (golden_folder, "not a golden file"),
    "golden values of other size": (golden_without_of_other_size, "not a golden file"),
}
"""Damage done to a whole pipeline's bundle, and what the error tells of it."""


RAW = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "nothing": b"",
    "deep": b"[" * 200_000,
    "NaN": b'{"schema_version": NaN}',
    "too large": b" " * (16 * 2**20 + 1),
}
