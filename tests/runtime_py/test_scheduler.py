"""The runtime's schedulers, noise and tokens against diffusers, a scalar recomputation and transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from tiny_pipeline import CAPTIONS

from export.scheduling import scheduler_settings
from lorarar.base.untrained import build_tokenizer
from lorarar.errors import InputError
from runtime_py.noise import MAX_SEED, normal_noise
from runtime_py.scheduler import make_scheduler
from runtime_py.tokens import ClipTokenizer

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# diffusers multiplies a thousand alphas in fp32; where little signal is left, its σ is off by up to this share.
FP32_SCHEDULE = 2e-4
CASES: list[tuple[type[Any], dict[str, Any]]] = [
    (EulerDiscreteScheduler, SDXL | {"timestep_spacing": "leading", "steps_offset": 1}),  # SDXL's own
    (EulerDiscreteScheduler, SDXL | {"timestep_spacing": "trailing"}),  # KOALA-Lightning's
    (EulerDiscreteScheduler, SDXL | {"timestep_spacing": "linspace"}),
    (EulerDiscreteScheduler, SDXL | {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    (EulerDiscreteScheduler, SDXL | ZERO_SNR),  # the miniature's
    (EulerDiscreteScheduler, {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "timestep_spacing": "trailing"}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "timestep_spacing": "linspace"}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "timestep_spacing": "linspace", "prediction_type": "v_prediction"}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "timestep_spacing": "linspace", "set_alpha_to_one": False}),
    (DDIMScheduler, SDXL | {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
]


# diffusers gives tensors to np.array, which numpy wants to be done otherwise.
NUMPY_COPY = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
SPACED = ("trailing", "leading", "linspace")
SPACINGS: list[tuple[type[Any], dict[str, Any]]] = [
    (EulerDiscreteScheduler, {}),
    (DDIMScheduler, {"clip_sample": False}),
]


@NUMPY_COPY
@pytest.mark.parametrize("spacing", SPACED)
@pytest.mark.parametrize(("kind", "config"), SPACINGS)
def test_timesteps_are_diffusers(kind: type[Any], config: dict[str, Any], spacing: str) -> None:
    """Of every number of steps up to 300, so that each tie in the rounding is met."""
    theirs = kind(**SDXL, **config, timestep_spacing=spacing)
    for steps in range(1, 301):
        theirs.set_timesteps(steps)
        ours = make_scheduler(scheduler_settings(theirs), steps)
        # Where rounding gives diffusers one timestep more, the last is -1, and no image needs it.
        np.testing.assert_array_equal(ours.timesteps, np.asarray(theirs.timesteps, np.float32)[:steps])


@NUMPY_COPY
@pytest.mark.parametrize("steps", [1, 3, 10, 25, 50])
@pytest.mark.parametrize(("kind", "config"), CASES)
def test_every_step_is_diffusers(kind: type[Any], config: dict[str, Any], steps: int) -> None:
    theirs = kind(**config)
    theirs.set_timesteps(steps)
    ours = make_scheduler(scheduler_settings(theirs), steps)
    np.testing.assert_array_equal(ours.timesteps, np.asarray(theirs.timesteps, np.float32))
    rng = np.random.default_rng(steps)
    noise = rng.standard_normal((1, 4, 3, 5)).astype(np.float32)
    latents = ours.start(noise)
    expected = torch.from_numpy(noise) * theirs.init_noise_sigma
    np.testing.assert_allclose(latents, expected, rtol=FP32_SCHEDULE)
    for i, timestep in enumerate(theirs.timesteps):
        given = theirs.scale_model_input(expected, timestep)
        # Rounding adds up over the steps: it is measured against the largest value.
        np.testing.assert_allclose(ours.scale(latents, i), given, rtol=0, atol=FP32_SCHEDULE * float(given.abs().max()))
        predicted = rng.standard_normal(noise.shape).astype(np.float32)
        expected = theirs.step(torch.from_numpy(predicted), timestep, expected).prev_sample
        latents = ours.step(predicted, i, latents)
        np.testing.assert_allclose(latents, expected, rtol=0, atol=FP32_SCHEDULE * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (PNDMScheduler(), "the base's scheduler is PNDMScheduler; the runtimes have EulerDiscreteScheduler and DDIM"),
        (EulerDiscreteScheduler(use_karras_sigmas=True), "use_karras_sigmas = True, which the runtimes do not have"),
        (EulerDiscreteScheduler(prediction_type="sample"), "the base predicts 'sample'; valid are epsilon and"),
        (DDIMScheduler(), "clip_sample = True, which the runtimes do not have; save the base with clip_sample = False"),
        (
            EulerDiscreteScheduler(beta_schedule="squaredcos_cap_v2"),
            "beta_schedule is 'squaredcos_cap_v2'; valid are scaled_linear and linear",
        ),
    ],
)
def test_other_schedulers_are_refused(scheduler: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scheduler_settings(scheduler)


EVERY = [(*kind, spacing, offset) for kind in SPACINGS for spacing in SPACED for offset in (0, 1)]


def most_of(kind: type[Any], spacing: str, offset: int) -> int:
    return 999 if (kind, spacing, offset) == (DDIMScheduler, "leading", 1) else 1000


@pytest.mark.parametrize(("kind", "config", "spacing", "offset"), EVERY)
def test_as_many_steps_as_were_asked_for(kind: type[Any], config: dict[str, Any], spacing: str, offset: int) -> None:
    """diffusers takes 62 for 61 trailing ones, the last of them at timestep -1."""
    settings = scheduler_settings(kind(**SDXL, **config, timestep_spacing=spacing, steps_offset=offset))
    for steps in range(1, most_of(kind, spacing, offset) + 1):
        timesteps = make_scheduler(settings, steps).timesteps
        assert len(timesteps) == steps and timesteps.min() >= 0


@pytest.mark.parametrize(("kind", "config", "spacing", "offset"), EVERY)
def test_a_number_of_steps_that_the_schedule_lacks(
    kind: type[Any], config: dict[str, Any], spacing: str, offset: int
) -> None:
    """DDIM would need the signal after one training step more."""
    settings = scheduler_settings(kind(**SDXL, **config, timestep_spacing=spacing, steps_offset=offset))
    most = most_of(kind, spacing, offset)
    for steps in (0, -1, most + 1):
        with pytest.raises(InputError, match=f"`steps` is {steps}; valid are 1 to {most}$"):
            make_scheduler(settings, steps)


def test_noise_is_what_its_text_says() -> None:
    """Recomputed number by number in plain Python, as an app would."""

    def mix(x: int) -> int:
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ x >> shift) * factor & 0xFFFFFFFF
        return x ^ x >> 16

    for seed in (0, 1, 12345, MAX_SEED):
        found = normal_noise((2, 3), seed).flatten()
        for i, value in enumerate(found):
            first, second = (mix(2 * i + part + seed * 0x9E3779B9 & 0xFFFFFFFF) for part in (0, 1))
            radius = math.sqrt(-2 * math.log((first + 0.5) / 2**32))
            assert value == np.float32(radius * math.cos(2 * math.pi * second / 2**32))


def test_noise_is_normal_and_seeds_differ() -> None:
    noise = normal_noise((4, 128, 128), 7).astype(np.float64)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.15 and np.isfinite(noise).all()
    flat, other = noise.flatten(), normal_noise((4, 128, 128), 8).flatten()
    assert abs(np.corrcoef(flat, other)[0, 1]) < 0.02 and abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.02


@pytest.fixture(scope="module", params=["new", "used"])
def tokenizers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ClipTokenizer]:
    """transformers' tokenizer and ours from its file, in which padding and cutting stay once they were asked for."""
    theirs = build_tokenizer(CAPTIONS)
    if request.param == "used":
        theirs("a dog", padding="max_length", max_length=9, truncation=True)
        assert theirs.backend_tokenizer.padding and theirs.backend_tokenizer.truncation
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    theirs.backend_tokenizer.save(str(path))
    numbers = {"start": theirs.bos_token_id, "end": theirs.eos_token_id, "pad": theirs.pad_token_id}
    return theirs, ClipTokenizer(path, {"length": 77, **numbers})


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a sks dog",
        "A SKS  Dog\nin WATERCOLOR style!",
        "Ünïcødé 犬 🐕, it's 42",
        "dog " * 100,
        "x" * 500,
        "<|endoftext|>",
    ],
)
def test_tokens_are_those_of_transformers(tokenizers: tuple[Any, ClipTokenizer], prompt: str) -> None:
    theirs, ours = tokenizers
    expected = theirs(prompt, padding="max_length", max_length=77, truncation=True)["input_ids"]
    found = ours(prompt)
    assert found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.ids[0], expected)


def test_words_that_do_not_fit_are_told(tokenizers: tuple[Any, ClipTokenizer]) -> None:
    _, ours = tokenizers
    assert ours("dog " * 75).cut == ""
    assert ours("dog " * 75 + "cat house").cut == "cat house"


@pytest.mark.parametrize("vocabulary", [{"a": 0}, {"a": 2**31, "dog": 1}], ids=["no word for the others", "too large"])
def test_a_tokenizer_that_can_not_read_a_prompt_is_told(vocabulary: dict[str, int], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(vocabulary, unk_token="none"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    ours = ClipTokenizer(tmp_path / "tokenizer.json", {"length": 77, "start": 0, "end": 1, "pad": 1})
    with pytest.raises(InputError, match=r"tokenizer.json: the tokenizer can't read this prompt \(.*export"):
        ours("a dog")


def test_a_damaged_tokenizer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer file"):
        ClipTokenizer(path, {"length": 77, "start": 0, "end": 1, "pad": 1})
