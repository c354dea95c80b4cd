"""What the Kotlin engine's tests read: numbers, hostile files and bundles, and Python's own merges and image."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import make_golden_lora as golden
import numpy as np
import onnx
from android.golden_numbers import write_numbers
from bundle_mutations import MUTATIONS as BUNDLE_MUTATIONS
from bundle_mutations import RAW, artifact_replaced
from contradictions import write_contradictions
from devices.hostile import GOLDEN, HOSTILE, cut_a_statistic, hypernet, poison, state
from lora_mutations import MUTATIONS as LORA_MUTATIONS
from lora_mutations import pack
from onnx import helper, numpy_helper
from safetensors.numpy import save_file
from tiny_world import random_lora, tiny_hypernet, tiny_layout

from export.options import HypernetOptions
from export.write import write_hypernet
from lorarar.composed import ComposedStart
from lorarar.layout import ADAPT, Layout
from lorarar.lora import LoRA, read_lora, write_lora
from lorarar.stack import carried
from runtime_py.bundle import Bundle
from runtime_py.pipeline import Request
from runtime_py.session import Session

ROOT = Path(__file__).parents[3]
GOLDEN_HYPERNET = golden.FOLDER.parent / "hypernet"
LORAS = ROOT / "models" / "miniature" / "dataset" / "loras"
# What is drawn, and with which LoRAs; `beyond` has layers outside the UNet's attention alone.
DRAWN = (
    (
        Request("a sks teapot in oil painting style", seed=7, steps=6, guidance=2.0, guidance_rescale=0.7),
        ("content", "style"),
    ),
    (Request("a dog", seed=1, steps=3, guidance=1.0), ()),
    (Request("a cat", seed=4_000_000_000, steps=3, guidance=3.0, negative="a red dog"), ("content", "style")),
    (Request("a sks teapot", seed=2, steps=3, guidance=3.0, guidance_without_lora=True), ("content", "style")),
    (Request("a dog", seed=3, steps=3, guidance=1.0), ("beyond",)),
    (
        Request("a cat", seed=4, steps=3, guidance=3.0, negative="a red dog", guidance_without_lora=True),
        ("content", "style"),
    ),
    (
        replace(
            Request("a sks teapot in oil painting style", 5, 4, 2.0, guidance_without_lora=True, guidance_rescale=0.5),
            composed=ComposedStart("a sks teapot", "a teapot"),
        ),
        ("content", "style"),
    ),
)
STRENGTHS = (1.2, 0.8, 0.5)
# What Android's reader says otherwise: it takes no header over 16 MB, and none of these is.
SPARSE_ELEMENTS = 2**30


def export(folder: Path, onnx: Path, executorch: Path, text: Path) -> None:
    """Write everything into `folder`.

    The bundles are of export.pipeline: the miniature's for ONNX Runtime, and shallow ones for ExecuTorch and, with text
    encoders that take LoRAs, for ONNX Runtime.
    """
    miniature, shallow, with_text = (Bundle.open(path) for path in (onnx, executorch, text))
    names = ("contents/teapot_1.safetensors", "styles/oil_painting_2.safetensors")
    write_results(folder / "onnx", miniature, *(read_lora(LORAS / name) for name in names))
    for name, bundle in (("executorch", shallow), ("text", with_text)):
        write_results(folder / name, bundle, *(random_lora(bundle.layout, (2, 3), seed, 0.2) for seed in (1, 2)))
    wide = random_lora(shallow.layout, (shallow.stack.rank + 1,), 3)
    write_lora(wide, folder / "executorch" / "loras" / "wide.safetensors")
    write_numbers(folder / "numbers.json", miniature)
    write_hostile_loras(folder)
    write_refused_loras(folder / "refused")
    hostile = {f"hostile: {name}": _as_mutation(edit) for name, (edit, _) in HOSTILE.items() if name not in RUNNER_ONLY}
    hostile |= {f"golden: {name}": _golden_replaced(data) for name, (data, _) in GOLDEN.items()}
    write_bundles(folder / "bundles", {name: mutate for name, (mutate, _) in BUNDLE_MUTATIONS.items()} | hostile)
    for name, data in RAW.items():
        _add_bundle(folder / "bundles", name, lambda place, _, data=data: None, data)
    write_artifacts(folder / "artifacts")
    write_steep(folder / "steep")
    write_half(folder / "half")
    write_three(folder / "three")
    write_slow(folder / "slow.onnx")
    write_shares(folder / "shares.json", tiny_layout("transformer"))
    text_folder = folder / "text"
    write_shares(text_folder / "shares.json", with_text.layout, text_folder / "loras" / "content.safetensors")
    write_contradictions(folder / "contradictions", with_text)


def write_results(folder: Path, bundle: Bundle, content: LoRA, style: LoRA) -> None:
    """A bundle, LoRAs, their merges and their images by Python."""
    shutil.copytree(bundle.path, folder / "bundle")
    beyond = random_lora(bundle.layout, (2, 3), 9, 0.1, 0.1)
    outside = {
        layer for group in bundle.layout.groups if group.part not in ADAPT["attention"] for layer in group.layers
    }
    # Each half lacks some of the other's layers, and both lack some of the base's.
    loras = {
        "content": content,
        "style": style,
        "half-content": _some(content, (0, 1, 2)),
        "half-style": _some(style, (1, 2, 3)),
        "beyond": replace(beyond, layers={name: beyond.layers[name] for name in sorted(outside)}),
    }
    (folder / "loras").mkdir()
    for name, lora in loras.items():
        write_lora(lora, folder / "loras" / f"{name}.safetensors")
    session = bundle.session(keep=True)
    _write_merge(folder / "carried.safetensors", session, [loras["half-content"], loras["half-style"]])
    _write_merge(folder / "merged.safetensors", session, [content, style])
    images: dict[str, np.ndarray] = {}
    for number, (request, chosen) in enumerate(DRAWN):
        session.load([loras[name] for name in chosen])
        drawn = session.draw(request)
        images |= {f"latents.{number}": drawn.latents, f"image.{number}": drawn.pixels}
    requests = [{**asdict(request), "loras": chosen} for request, chosen in DRAWN]
    (folder / "images.json").write_text(json.dumps({"requests": requests}))
    save_file(images, folder / "images.safetensors")


def _some(lora: LoRA, of_five: tuple[int, ...]) -> LoRA:
    """Return a LoRA with these of every five layers."""
    names = [name for at, name in enumerate(sorted(lora.layers)) if at % 5 in of_five]
    return replace(lora, layers={name: lora.layers[name] for name in names})


def _write_merge(path: Path, session: Session, loras: list[LoRA]) -> None:
    """A merge by Python: ΔW of each layer, the coefficients of every group, and what is carried of each LoRA."""
    session.load(loras)
    session.merge("learned", strengths=STRENGTHS[: len(loras)])
    tensors = {name: layer.delta() for name, layer in session.merged().lora.layers.items()}
    save_file(tensors | dict(session.coefficients), path)
    shares = [{"parts": dict(found.parts), "share": found.share} for found in session.carried]
    path.with_suffix(".json").write_text(json.dumps({"carried": shares}))


def write_three(folder: Path) -> None:
    """A hypernetwork's bundle for stacks of three LoRAs, three of them, and their merge by Python."""
    layout = tiny_layout("transformer")
    write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4, loras=3), folder / "bundle")
    loras = [random_lora(layout, ranks, seed) for seed, ranks in enumerate([(4, 2), (3,), (1, 4)])]
    for number, lora in enumerate(loras):
        write_lora(lora, folder / f"{number}.safetensors")
    _write_merge(folder / "merged.safetensors", Bundle.open(folder / "bundle").session(), loras)


def write_slow(path: Path) -> None:
    """A graph of one operator that takes hours: a loop of 2⁴⁰ rounds."""
    scalars = {"trips": np.array(2**40, np.int64), "true": np.array(True)}
    made = {name: numpy_helper.from_array(value, name) for name, value in scalars.items()}
    kinds = (
        ("round", onnx.TensorProto.INT64, []),
        ("goes", onnx.TensorProto.BOOL, []),
        ("x", onnx.TensorProto.FLOAT, [1]),
    )
    given = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in kinds]
    results = [
        helper.make_tensor_value_info("goes_on", onnx.TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", onnx.TensorProto.FLOAT, [1]),
    ]
    steps = [helper.make_node("Identity", ["goes"], ["goes_on"]), helper.make_node("Cos", ["x"], ["next"])]
    loop = helper.make_node(
        "Loop", ["trips", "true", "x"], ["y"], body=helper.make_graph(steps, "body", given, results)
    )
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([loop], "slow", ends[:1], ends[1:], list(made.values()))
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)


def write_shares(path: Path, layout: Layout, *others: Path) -> None:
    """What a layout carries of the golden LoRA files and others, and the sentence about what it leaves out."""
    files = [file for folder in (golden.FOLDER, GOLDEN_HYPERNET) for file in sorted(folder.glob("*.safetensors"))]
    shares = []
    for file in (*files, *others):
        if not file.name.startswith("expected"):
            found = carried(read_lora(file), layout)
            shares.append({"file": str(file), "parts": dict(found.parts), "warning": found.warning()})
    path.write_text(json.dumps({"shares": shares}))


def write_hostile_loras(folder: Path) -> None:
    (folder / "hostile").mkdir()
    index = {}
    for number, (name, verdict, data) in enumerate(LORA_MUTATIONS):
        (folder / "hostile" / f"{number}.safetensors").write_bytes(data)
        index[name] = {"file": f"{number}.safetensors", "verdict": verdict}
    (folder / "hostile" / "index.json").write_text(json.dumps(index))
    ends = [0, 2 * SPARSE_ELEMENTS, 2 * SPARSE_ELEMENTS + 8]
    shapes = {"lora_down": [1, SPARSE_ELEMENTS], "lora_up": [4, 1]}
    start = pack(
        {
            f"lora_unet_conv_in.{name}.weight": {"dtype": "F16", "shape": shape, "data_offsets": ends[at : at + 2]}
            for at, (name, shape) in enumerate(shapes.items())
        },
        b"",
    )
    with (folder / "sparse.safetensors").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + ends[-1])


def write_refused_loras(folder: Path) -> None:
    """Files and folders that must be refused, by the words that the refusal must have."""
    folder.mkdir()
    to_q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    flat = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    pair = {f"{to_q}.lora_A.weight": ("F32", np.ones((2, 3))), f"{to_q}.lora_B.weight": ("F32", np.ones((3, 2)))}
    kohya = {f"{flat}.lora_down.weight": ("F32", np.ones((2, 3))), f"{flat}.lora_up.weight": ("F32", np.ones((3, 2)))}
    one = ("F32", np.ones(1))
    wanted: dict[str, list[str]] = {}

    def refuse(name: str, tensors: golden.Tensors, words: list[str], metadata: dict[str, Any] | None = None) -> None:
        text = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
        (folder / name).write_bytes(golden.safetensors(tensors, text))
        wanted[name] = words

    refuse("dora", kohya | {f"{flat}.dora_scale": one}, ["DoRA layer", "train it with DoRA off"])
    refuse("loha", {f"{flat}.hada_w1_a": one}, ["LoHa layer", "lorarar convert"])
    refuse("lokr", {f"{flat}.lokr_w1": one}, ["LoKr layer"])
    refuse("tucker", kohya | {f"{flat}.lora_mid.weight": one}, ["Tucker convolution", "use_tucker off"])
    refuse("oft", {f"{flat}.oft_blocks": one}, ["OFT layer"])
    refuse("norms", kohya | {f"{flat}.w_norm": one}, ["norm difference", "train_norm off"])
    refuse("checkpoint", {"model.diffusion_model.out.weight": one}, ["no LoRA keys", "full checkpoint"])
    refuse("stranger", pair | {"a.lora_A.weight": one}, ["'a.lora_A.weight' belongs to no known dialect", "remove it"])
    refuse("adapter", pair | {"a.lora_A.mine.weight": one}, ["'a.lora_A.mine.weight' belongs to no known dialect"])
    bare = {f"text_model.encoder.layers.0.mlp.fc1.{end}.weight": one for end in ("lora_A", "lora_B")}
    refuse("text", bare, ["doesn't say which text encoder"])
    refuse(
        "twice", pair | {f"unet.{name}": value for name, value in pair.items()}, ["the same layer named in two ways"]
    )
    mixed = {f"{to_q}.lora_A.weight": pair[f"{to_q}.lora_A.weight"], f"{flat}.lora_up.weight": ("F32", np.ones((3, 2)))}
    refuse("mixed", mixed, ["in two dialects at once (peft and kohya-sgm)"])
    refuse("alpha", kohya | {f"{flat}.alpha": ("F32", np.ones(2))}, ["an alpha must be one number"])
    refuse("config-dora", pair, ["is a DoRA", "use_dora=False"], {"unet.use_dora": True})
    refuse("config-kasa", pair, ["PEFT KaSA adapter"], {"unet.kasa_config": {"beta": 1}})
    refuse("config-rank", pair, ["gives", "rank 4", "rank 2"], {"unet.r": 4})
    refuse("config-pissa", pair, ["changed base"], {"unet.init_lora_weights": "pissa_niter_4"})
    refuse("config-type", pair, ["PEFT LOHA adapter"], {"unet.peft_type": "LOHA"})
    refuse("config-number", pair, ["r is 0", "at least 1"], {"unet.r": 0})
    nested = {"unet.r": 2, "unet.alpha_pattern": {"(a+)+": 1}}
    refuse("config-pattern", pair, ["invalid or too complex"], nested)
    (folder / "pickle").mkdir()
    (folder / "pickle" / "adapter_config.json").write_text("{}")
    (folder / "pickle" / "adapter_model.bin").write_bytes(b"\x80\x04")
    wanted["pickle"] = ["is a Python pickle"]
    (folder / "index.json").write_text(json.dumps(wanted))


def _golden_replaced(data: bytes) -> Callable[[Path, dict[str, Any]], None]:
    """A golden file with the right hash and these bytes."""

    def mutate(folder: Path, manifest: dict[str, Any]) -> None:
        entry = hypernet(manifest)["golden"]
        (folder / entry["file"]).write_bytes(data)
        state(entry, folder / entry["file"])

    return mutate


def write_bundles(folder: Path, mutations: dict[str, Callable[[Path, dict[str, Any]], None]]) -> None:
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    for name, mutate in mutations.items():
        # A golden tensor's damage shows when it is read; a graph's when it is loaded, which other tests do.
        if not (folder.name == "bundles" and name in RUNTIME_ONLY):
            _add_bundle(folder, name, mutate)


# What only the artifact itself, or the app that opens it, can contradict.
RUNTIME_ONLY = {"not a model", "an empty model", "other target", "input of other type"}
RUNNER_ONLY = {"another system's target", "a target left out", "another tensor than the graph's"}


def write_artifacts(folder: Path) -> None:
    """Bundles that open, and whose hypernetwork can't be run or gives another result than PyTorch's."""
    none = {"no model": b"no graph", "an empty one": b"\x08\x0a"}
    artifacts: dict[str, Any] = {name: artifact_replaced(data) for name, data in none.items()}
    artifacts["input of other type"] = BUNDLE_MUTATIONS["input of other type"][0]
    artifacts |= {name: _as_mutation(HOSTILE[name][0]) for name in RUNNER_ONLY}
    artifacts |= {f"golden {value}": _as_mutation(poison(value)) for value in (math.nan, math.inf, 5.0)}
    artifacts["a cut statistic"] = _as_mutation(cut_a_statistic)
    write_bundles(folder, artifacts)


def _as_mutation(edit: Any) -> Callable[[Path, dict[str, Any]], None]:
    return lambda folder, manifest: edit(manifest, folder)


def write_half(folder: Path) -> None:
    """The golden hypernetwork in half precision."""
    write_hypernet(tiny_hypernet(), tiny_layout("transformer"), HypernetOptions("onnx", "fp16", 4), folder)


def write_steep(folder: Path) -> None:
    """The golden LoRAs, of which only the content has the first layer, with an `up` that float16 can't hold."""
    content, style = (read_lora(GOLDEN_HYPERNET / f"{role}.safetensors") for role in ("content", "style"))
    name = min(content.layers.keys() & style.layers.keys())
    layer = content.layers[name]
    steep = replace(layer, down=layer.down * np.float32(2**-20), up=layer.up * np.float32(2**20))
    folder.mkdir()
    write_lora(replace(content, layers=content.layers | {name: steep}), folder / "content.safetensors")
    rest = {other: layer for other, layer in style.layers.items() if other != name}
    write_lora(replace(style, layers=rest), folder / "style.safetensors")


def _add_bundle(
    folder: Path, name: str, mutate: Callable[[Path, dict[str, Any]], None], raw: bytes | None = None
) -> None:
    index = json.loads((folder / "index.json").read_text())
    place = folder / str(len(index)) / "bundle"
    shutil.copytree(GOLDEN_HYPERNET / "bundle", place)
    manifest = json.loads((place / "manifest.json").read_text())
    mutate(place, manifest)
    (place / "manifest.json").write_bytes(json.dumps(manifest).encode() if raw is None else raw)
    index[name] = place.relative_to(folder).as_posix()
    (folder / "index.json").write_text(json.dumps(index))
