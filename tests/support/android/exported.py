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
from bundle_mutations import MUTATIONS as BUNDLE_MUTATIONS
from bundle_mutations import RAW, artifact_replaced
from devices.hostile import GOLDEN, HOSTILE, cut_a_statistic, merger, poison, state
from lora_mutations import MUTATIONS as LORA_MUTATIONS
from lora_mutations import pack
from safetensors.numpy import save_file
from tiny_world import random_lora, tiny_hypernet, tiny_layout

from benchmarks.record import summary
from export import HypernetOptions, write_hypernet
from lorarar.layout import UNET
from lorarar.lora import LoRA, read_lora, write_lora
from lorarar.merging import MergeOptions
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.golden import generate, golden_input, positions, summarise
from runtime_py.merge import merge_with_bundle
from runtime_py.noise import normal_noise
from runtime_py.parity import compare_golden
from runtime_py.pipeline import Pipeline, Request
from runtime_py.scheduler import SchedulerSettings, make_scheduler
from runtime_py.tokens import ClipTokenizer

ROOT = Path(__file__).parents[3]
GOLDEN_MERGER = golden.FOLDER.parent / "merger"
LORAS = ROOT / "models" / "miniature" / "dataset" / "loras"
# The first is drawn with the two LoRAs merged, the others with none.
REQUESTS = (
    Request("a sks teapot in oil painting style", seed=7, steps=6, guidance=2.0),
    Request("a dog", seed=1, steps=3, guidance=1.0),
    Request("a cat", seed=4_000_000_000, steps=3, guidance=3.0, negative="a red dog"),
)
SCALES = (1.2, 0.8)
# What Android's reader says otherwise: it takes no header over 16 MB, and none of these is.
SPARSE_ELEMENTS = 2**30
PROMPTS = (
    "a sks teapot in oil painting style",
    "",
    "   A  Photo\tof\n my DOG's toy, isn't it? 12345 items — 100% ",
    "Ünïcödé naïve café ΑΣ ΟΔΟΣ İstanbul ǅ 東京 🦊🏽 ﬁ ½ ٣",
    "cafe\u0301 e\u0301\u0327 \u00a0nbsp\u2003em\u3000ideographic \u200bzero",
    "<|startoftext|> hi <|endoftext|> <|ENDOFTEXT|>! a<|endoftext|>b",
    "'s 't 're x'll y'd z've I'm !'s ''s don''t",
    "word " * 100,
    "supercalifragilistic " * 12,
    "東京" * 60,
    "a\u0000b \u0007 \x7f",
)


def export(folder: Path, onnx: Path, executorch: Path) -> None:
    """Write everything into `folder`; the bundles are of export.pipeline, that for ONNX Runtime the miniature's."""
    miniature, shallow = Bundle.open(onnx), Bundle.open(executorch)
    names = ("contents/teapot_1.safetensors", "styles/oil_painting_2.safetensors")
    write_results(folder / "onnx", miniature, *(read_lora(LORAS / name) for name in names))
    loras = (random_lora(shallow.layout, (2, 3), seed, 0.2) for seed in (1, 2))
    write_results(folder / "executorch", shallow, *loras)
    write_numbers(folder / "numbers.json", miniature)
    write_hostile_loras(folder)
    write_refused_loras(folder / "refused")
    hostile = {f"hostile: {name}": _as_mutation(edit) for name, (edit, _) in HOSTILE.items() if name not in RUNNER_ONLY}
    hostile |= {f"golden: {name}": _golden_replaced(data) for name, (data, _) in GOLDEN.items()}
    write_bundles(folder / "bundles", BUNDLE_MUTATIONS | hostile)
    for name, data in RAW.items():
        _add_bundle(folder / "bundles", name, lambda place, _, data=data: None, data)
    write_artifacts(folder / "artifacts")
    write_steep(folder / "steep")
    write_half(folder / "half")


def write_results(folder: Path, bundle: Bundle, content: LoRA, style: LoRA) -> None:
    """A bundle, two LoRAs, their merges and their image by Python."""
    shutil.copytree(bundle.path, folder / "bundle")
    names = sorted(content.layers)
    # Each half lacks some of the other's layers, and both lack some of the base's.
    halves = {
        "half-content": replace(content, layers={name: content.layers[name] for name in names[::2]}),
        "half-style": replace(style, layers={name: style.layers[name] for name in names[::3]}),
    }
    (folder / "loras").mkdir()
    for name, lora in ({"content": content, "style": style} | halves).items():
        write_lora(lora, folder / "loras" / f"{name}.safetensors")
    session = open_runner(bundle)
    _write_merge(folder / "merged.safetensors", bundle, session, content, style)
    _write_merge(folder / "carried.safetensors", bundle, session, *halves.values())
    merged = merge_with_bundle(bundle, session, content, style, MergeOptions(rule=_rule(bundle))).lora
    pipeline = Pipeline(bundle)
    images: dict[str, np.ndarray] = {}
    for number, request in enumerate(REQUESTS):
        drawn = pipeline.draw(request, pipeline.adapter(None if number else merged))
        images |= {f"latents.{number}": drawn.latents, f"image.{number}": drawn.pixels}
    (folder / "images.json").write_text(json.dumps({"requests": [asdict(request) for request in REQUESTS]}))
    save_file(images, folder / "images.safetensors")


def _write_merge(path: Path, bundle: Bundle, session: Any, content: LoRA, style: LoRA) -> None:
    options = MergeOptions(content_scale=SCALES[0], style_scale=SCALES[1], rule=_rule(bundle))
    merged = merge_with_bundle(bundle, session, content, style, options)
    tensors = {name: layer.delta() for name, layer in merged.lora.layers.items()}
    for name, values in (merged.coefficients or {}).items():
        tensors[f"coefficients.{name.removeprefix(UNET)}"] = values
    save_file(tensors, path)


def _rule(bundle: Bundle) -> str:
    return str(bundle.manifest["hypernetwork"]["kv_rule"])


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
    refuse("loha", {f"{flat}.hada_w1_a": one}, ["LoHa layer", "extract a plain LoRA"])
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
        entry = merger(manifest)["golden"]
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
    """Bundles that open, and whose merger can't be run or gives another result than PyTorch's."""
    none = {"no model": b"no graph", "an empty one": b"\x08\x0a"}
    artifacts: dict[str, Any] = {name: artifact_replaced(data) for name, data in none.items()}
    artifacts["input of other type"] = BUNDLE_MUTATIONS["input of other type"]
    artifacts |= {name: _as_mutation(HOSTILE[name][0]) for name in RUNNER_ONLY}
    artifacts |= {f"golden {value}": _as_mutation(poison(value)) for value in (math.nan, math.inf, 5.0)}
    artifacts["a cut statistic"] = _as_mutation(cut_a_statistic)
    write_bundles(folder, artifacts)


def _as_mutation(edit: Any) -> Callable[[Path, dict[str, Any]], None]:
    return lambda folder, manifest: edit(manifest, folder)


def write_half(folder: Path) -> None:
    """The golden merger in half precision."""
    write_hypernet(tiny_hypernet(), tiny_layout(), HypernetOptions("onnx", "fp16", 4), folder)


def write_steep(folder: Path) -> None:
    """The golden LoRAs, of which only the content has the first layer, with an `up` that float16 can't hold."""
    content, style = (read_lora(GOLDEN_MERGER / f"{role}.safetensors") for role in ("content", "style"))
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
    shutil.copytree(GOLDEN_MERGER / "bundle", place)
    manifest = json.loads((place / "manifest.json").read_text())
    mutate(place, manifest)
    (place / "manifest.json").write_bytes(json.dumps(manifest).encode() if raw is None else raw)
    index[name] = place.relative_to(folder).as_posix()
    (folder / "index.json").write_text(json.dumps(index))


def write_numbers(path: Path, bundle: Bundle) -> None:
    draw = np.random.default_rng(5)
    halves = draw.standard_normal(2000) * 10.0 ** draw.integers(-9, 6, 2000)
    ties = [
        1 + 2**-11,
        1 + 3 * 2**-11,
        2**-24 * 0.5,
        2**-24 * 1.5,
        2**-25 * 1.0001,
        65519.0,
        65519.996,
        65520.0,
        -0.0,
        2**-14,
    ]
    with np.errstate(over="ignore"):
        bits = np.float32([*halves, *ties]).astype(np.float16).view(np.int16)
    document = {
        "generated": _generated(),
        "positions": {"size": 1_000_003, "places": positions(1_000_003).tolist()},
        "noise": [{"seed": seed, "values": normal_noise((64,), seed).tolist()} for seed in (0, 1, 7, 2**32 - 1)],
        "halves": [
            {"value": float(np.float32(value)), "bits": int(bit)}
            for value, bit in zip([*halves, *ties], bits, strict=True)
        ],
        "schedules": _schedules(draw),
        "timesteps": [_timesteps(kind, spacing) for kind, spacing in SPACED],
        "parity": _parity(),
        "tokenizers": _tokenizers(bundle),
        "runs": [
            {"samples_s": samples, **summary(samples)}
            for samples in ([0.25], [0.3, 0.1], [float(value) for value in draw.random(37)])
        ],
    }
    path.write_text(json.dumps(document))


def _generated() -> list[dict[str, Any]]:
    entries: list[tuple[dict[str, Any], Any]] = [
        ({"shape": [3, 5], "seed": 0, "scale": 1.0}, np.float32),
        ({"shape": [2, 70_000], "seed": 4_294_967_295, "scale": 0.125}, np.float16),
        ({"shape": [100], "seed": 123_456, "scale": 0.1}, np.float32),
        ({"shape": [4], "value": 0.5}, np.float32),
        ({"shape": [2, 2], "values": [1, 2.5, -3, 4]}, np.float32),
        ({"shape": [1, 3], "values": [49406, 49407, 7]}, np.int32),
    ]
    return [
        {
            "shape": entry["shape"],
            "dtype": np.dtype(dtype).name,
            "entry": entry,
            "values": flat(golden_input(entry, dtype)),
        }
        for entry, dtype in entries
    ]


EULER = SchedulerSettings("euler", 1000, 0.00085, 0.012, "scaled_linear", "epsilon", "leading", 1, False, False)


SPACED = (("euler", "trailing"), ("euler", "leading"), ("euler", "linspace"), ("ddim", "linspace"))


def _timesteps(kind: str, spacing: str) -> dict[str, Any]:
    settings = replace(EULER, kind=kind, spacing=spacing)
    lists = [{"timesteps": make_scheduler(settings, steps).timesteps.tolist()} for steps in range(1, 301)]
    return {"spacing": spacing, "settings": asdict(settings), "of": lists}


def _schedules(draw: np.random.Generator) -> list[dict[str, Any]]:
    settings = [
        replace(EULER, kind=kind, spacing=spacing, prediction=prediction, zero_terminal_snr=snr)
        for kind in ("euler", "ddim")
        for spacing, snr in (("leading", False), ("trailing", False), ("trailing", True), ("linspace", False))
        for prediction in ("epsilon", "v_prediction")
        if not (snr and prediction == "epsilon")
    ]
    settings += [replace(EULER, beta_schedule="linear", kind="ddim", final_alpha_one=True, steps_offset=0)]
    return [_schedule(setting, steps, draw) for setting in settings for steps in (1, 4, 7, 25)]


def _schedule(settings: SchedulerSettings, steps: int, draw: np.random.Generator) -> dict[str, Any]:
    scheduler = make_scheduler(settings, steps)
    shape = (1, 4, 1, 2)
    noise = draw.standard_normal(shape).astype(np.float32)
    latents = scheduler.start(noise)
    course, start = [], latents
    for i in range(steps):
        predicted = draw.standard_normal(shape).astype(np.float32)
        scaled = scheduler.scale(latents, i)
        latents = scheduler.step(predicted, i, latents)
        course.append({"scaled": flat(scaled), "predicted": flat(predicted), "latents": flat(latents)})
    return {
        "settings": asdict(settings),
        "steps": steps,
        "timesteps": scheduler.timesteps.tolist(),
        "noise": flat(noise),
        "start": flat(start),
        "course": course,
    }


def flat(array: np.ndarray) -> list[float]:
    return [float(value) for value in array.reshape(-1)]


def _parity() -> list[dict[str, Any]]:
    found = []
    reference = generate((3, 500), 1, 1.0)
    for share in (0.0, 1e-6, 1e-2, 3.0):
        tensor = reference + np.float32(share) * generate((3, 500), 2, 1.0)
        kept = summarise(reference)
        difference = compare_golden("x", kept, tensor)
        found.append(
            {
                "golden": {key: value.tolist() for key, value in kept.items()},
                "shape": [3, 500],
                "tensor": flat(tensor),
                "psnr_db": difference.psnr_db if math.isfinite(difference.psnr_db) else None,
                "max_error": difference.max_error,
            }
        )
    return found


def _tokenizers(bundle: Bundle) -> list[dict[str, Any]]:
    found = []
    for entry in bundle.manifest["pipeline"]["tokenizers"].values():
        path = bundle.path / entry["file"]
        tokenizer = ClipTokenizer(path, entry)
        prompts = []
        for prompt in PROMPTS:
            tokens = tokenizer(prompt)
            prompts.append({"prompt": prompt, "ids": tokens.ids[0].tolist(), "cut": tokens.cut})
        found.append({"file": str(path), "entry": dict(entry), "prompts": prompts})
    return found
