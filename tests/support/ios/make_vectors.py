"""Make tests/support/ios/vectors.json: what the Python runtime gives for small inputs, and the Swift engine must too.

    PYTHONPATH=.:tests/support python tests/support/ios/make_vectors.py

`swift test` reads it, so that the engine can be held to Python where there is no Python. A test makes it anew and
compares.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from drawing_cases import sinusoid_cases, tile_cases

from lorarar.layout import Layout
from lorarar.lora import read_lora
from lorarar.lora.names import kohya_lookup
from lorarar.stack import carried
from runtime_py.bundle import Bundle
from runtime_py.golden import generate, mix32, positions
from runtime_py.noise import normal_noise
from runtime_py.parity import compare_delta
from runtime_py.plot import unet_order
from runtime_py.scheduler import SchedulerSettings, make_scheduler
from runtime_py.tokens import ClipTokenizer

ROOT = Path(__file__).parents[3]
VECTORS = Path(__file__).with_name("vectors.json")
HYPERNET = ROOT / "tests" / "golden" / "hypernet"
TOKENIZER = "models/miniature/tokenizer/tokenizer.json"
TOKENS = {"length": 77, "start": 923, "end": 924, "pad": 924}
PROMPTS = (
    "",
    " ",
    "a sks dog in watercolor painting style",
    "A  SKS\tDog!!",
    "it's 42 dogs, they're 3½",
    "don't 'quote' me",
    "e\u0301t\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "日本 한국 \ud55c\uad6d",
    "😀👩\u200d👩\u200d👧 ok",
    "İstanbul ΣΑΣ",
    "a_b-c…d",
    "<|startoftext|>dog<|endoftext|>",
    "<|STARTOFTEXT|>dog!<|EndOfText|>",
    "x<|endoftext|",
    "a\u00a0b\u2003c\u200bd\r\ne",
    "٣ ⅷ ②",
    "word " * 80 + "tail",
    "e\u0301" * 90,
)
SDXL: dict[str, Any] = {
    **{
        "kind": "euler",
        "train_steps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    },
    **{"prediction": "epsilon", "spacing": "trailing", "steps_offset": 0, "zero_terminal_snr": False},
    "final_alpha_one": True,
}
SCHEDULES: tuple[dict[str, Any], ...] = (
    SDXL | {"spacing": "leading", "steps_offset": 1},
    SDXL,
    SDXL | {"spacing": "linspace"},
    SDXL | {"prediction": "v_prediction"},
    SDXL | {"prediction": "v_prediction", "zero_terminal_snr": True},
    SDXL | {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "spacing": "linspace"},
    SDXL | {"kind": "ddim", "spacing": "leading", "steps_offset": 1, "final_alpha_one": False},
    SDXL | {"kind": "ddim"},
    SDXL | {"kind": "ddim", "prediction": "v_prediction"},
    SDXL | {"kind": "ddim", "spacing": "linspace"},
)
SPACED = (("euler", "trailing"), ("euler", "leading"), ("euler", "linspace"), ("ddim", "linspace"))
STEPS = (1, 2, 3, 10, 25)
MODULES = (
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.9.attn1.to_q",
    "down_blocks.2.attentions.0.transformer_blocks.10.attn1.to_q",
    "down_blocks.2.attentions.0.transformer_blocks.9.attn2.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_q",
)


def make() -> dict[str, Any]:
    """Everything in the file."""
    lookup = "".join(f"{flat} {dialect} {module}\n" for flat, (dialect, module) in sorted(kohya_lookup().items()))
    return {
        "mix32": mix32(np.arange(8, dtype=np.uint32)).tolist(),
        "positions": {str(size): positions(size).tolist()[:12] for size in (1, 5, 1000, 10**6, 2**31 - 1)},
        "golden": [_golden(seed, scale, dtype) for seed, scale in CASES for dtype in ("float32", "float16", "int32")],
        "deltas": [_delta(share) for share in (1.0, 0.5, -0.25, 1.5)],
        "carried": [_carried(parts) for parts in (("qo",), ("qo", "kv"), ("qo", "kv", "ff", "proj"))],
        "noise": {str(seed): normal_noise((64,), seed).tolist() for seed in (0, 1, 12345, 2**32 - 1)},
        "schedules": [_schedule(settings, steps) for settings in SCHEDULES for steps in STEPS],
        "timesteps": [_timesteps(kind, spacing) for kind, spacing in SPACED],
        "sinusoids": sinusoid_cases(),
        "tiles": tile_cases(),
        "tokens": {"file": TOKENIZER, **TOKENS, "prompts": [_tokens(prompt) for prompt in PROMPTS]},
        "percentiles": [_percentiles(np.random.default_rng(n).random(n).tolist()) for n in (1, 2, 3, 10, 101)],
        "sha256": [hashlib.sha256(bytes((7 * i + 3) % 256 for i in range(size))).hexdigest() for size in range(260)],
        "kohya": hashlib.sha256(lookup.encode()).hexdigest(),
        "unet_order": [list(MODULES), unet_order(list(MODULES))],
    }


# The small scales reach fp16's subnormals and zero, the large ones its infinity; 0.3 is no power of two.
CASES = [(seed, scale) for seed in (0, 1, 2**32 - 1) for scale in (1.0, 0.0625, 0.3, 1e-6, 3e-8, 3000.0, 1e5)]


def _golden(seed: int, scale: float, dtype: str) -> dict[str, Any]:
    with np.errstate(over="ignore"):
        values = generate((5000,), seed, scale).astype(dtype)
    return {"seed": seed, "scale": scale, "dtype": dtype, "sha256": hashlib.sha256(values.tobytes()).hexdigest()}


def _delta(share: float) -> dict[str, Any]:
    """A share of what LoRAs change in an output, and noise where some of it is lost."""
    random = np.random.default_rng(4)
    reference, reference_without, noise = (random.standard_normal(16).astype(np.float32) for _ in range(3))
    without = reference_without + np.float32(0.5)
    output = without + np.float32(share) * (reference - reference_without) + np.float32(1 - share) * noise
    delta = compare_delta(reference, reference_without, output, without)
    given = {"reference": reference, "reference_without": reference_without, "output": output, "without": without}
    numbers = {"gain": delta.gain, "cosine": delta.cosine, "snr_db": delta.snr_db}
    return {name: values.tolist() for name, values in given.items()} | numbers


def _carried(parts: tuple[str, ...]) -> dict[str, Any]:
    """What layouts of some parts take of the golden content LoRA."""
    whole, content = Bundle.open(HYPERNET / "bundle").layout, HYPERNET / "content.safetensors"
    groups = tuple(group for group in whole.groups if group.part in parts)
    found = carried(read_lora(content), Layout(whole.base, groups))
    warning = found.warning()
    said = warning and content.name + warning.removeprefix(found.source)
    return {"parts": dict(found.parts), "warning": said}


def _schedule(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """A whole loop on eight numbers; the prediction at step i is golden input i."""
    scheduler = make_scheduler(SchedulerSettings(**settings), steps)
    latents = scheduler.start(normal_noise((1, 4, 2, 1), steps))
    scaled = []
    for i in range(steps):
        scaled.append(scheduler.scale(latents, i).reshape(-1).tolist())
        latents = scheduler.step(generate((1, 4, 2, 1), i, 1.0), i, latents)
    numbers = {"scaled": scaled, "latents": latents.reshape(-1).tolist()}
    return {"settings": settings, "steps": steps, "timesteps": scheduler.timesteps.tolist(), **numbers}


def _timesteps(kind: str, spacing: str) -> dict[str, Any]:
    """Of every number of steps up to 300, so that each tie in the rounding is met."""
    settings = SchedulerSettings(**SDXL | {"kind": kind, "spacing": spacing, "steps_offset": 1})
    lists = [make_scheduler(settings, steps).timesteps for steps in range(1, 301)]
    text = "".join(",".join(f"{int(time * 256)}" for time in times) + "\n" for times in lists)
    return {"kind": kind, "spacing": spacing, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _tokens(prompt: str) -> dict[str, Any]:
    tokens = ClipTokenizer(ROOT / TOKENIZER, TOKENS)(prompt)
    ids = tokens.ids[0].tolist()
    while len(ids) > 1 and ids[-1] == ids[-2] == TOKENS["pad"]:
        ids.pop()
    return {"prompt": prompt, "ids": ids, "cut": tokens.cut}


def _percentiles(samples: list[float]) -> dict[str, Any]:
    return {"samples": samples, "p50_p90_p99": np.percentile(samples, (50, 90, 99)).tolist()}


def text() -> str:
    """The file's text."""
    return json.dumps(make(), indent=None, separators=(",", ":"), ensure_ascii=True) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(text(), encoding="utf-8")
