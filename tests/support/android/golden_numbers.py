"""Numbers that Python makes and the Kotlin engine must: inputs, noise, halves, schedules, parity and tokens."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from drawing_cases import sinusoid_cases, tile_cases

from benchmarks.record import summary
from runtime_py.bundle import Bundle
from runtime_py.golden import generate, golden_input, positions, summarise
from runtime_py.noise import normal_noise
from runtime_py.parity import compare_delta, compare_golden
from runtime_py.scheduler import SchedulerSettings, make_scheduler
from runtime_py.tokens import ClipTokenizer

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
        "sinusoids": sinusoid_cases(),
        "tiles": tile_cases(),
        "parity": _parity(),
        "deltas": _deltas(draw),
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


def _deltas(draw: np.random.Generator) -> list[dict[str, Any]]:
    """What LoRAs change: all of it, half of it, with noise, and not at all."""
    without, effect, noise = (draw.standard_normal(50).astype(np.float32) for _ in range(3))
    reference = without + effect
    found = []
    for output in (reference, without + effect / 2, reference + noise / 10, without):
        values = {"reference": reference, "reference_without": without, "output": output, "without": without}
        delta = compare_delta(**values)
        measured = {key: value if math.isfinite(value) else None for key, value in asdict(delta).items()}
        found.append({**{key: flat(value) for key, value in values.items()}, **measured})
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
