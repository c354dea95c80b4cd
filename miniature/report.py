"""Measure what a base draws by the miniature's judge: its samples against real drawings, and held-out LoRAs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image

from lorarar.base.names import DATASET_FOLDER, JUDGE_FOLDER
from lorarar.errors import InputError
from lorarar.evaluation.generate import Sampler, Sampling, image_seeds
from lorarar.evaluation.judges import THRESHOLD, Judge, Question
from lorarar.evaluation.mars2 import bootstrap, majority, means_by_name
from lorarar.evaluation.methods import fused_lora
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.images import on_white, open_image
from lorarar.lora import read_lora
from lorarar.training.dataset import DEFAULT_SPLIT, Content, Style, composed_prompts, merged_prompt, read_dataset
from miniature.catalogue import fresh_subject
from miniature.judge import MiniatureJudge, pixels, shipped_judge
from miniature.judge_data import TOLD_BY, UNSEEN, details_of
from miniature.judge_network import DETAILS as VALUES
from miniature.pixels import to_bytes, to_pixels
from miniature.population import FIRST, Example, example
from miniature.progress import Report, counted
from miniature.reading import read_by_a_line
from miniature.samples import draw_captions, sheet
from miniature.scene import picture
from miniature.styles import FAMILIES, random_style

AT_ONCE = 16  # captions
COLUMNS = 16  # of the sheet
SHOWN = 32  # drawings on the sheet
PER_FAMILY = 12  # drawings that tell what a family looks like
Pictures = UInt8[np.ndarray, "n side side 3"]


@dataclass(frozen=True)
class Row:
    """A share of right answers: of the base's images, of real drawings in their place, and what is wished for."""

    name: str
    share: float
    low: float | None  # of the 95 % interval; a single LoRA has none
    high: float | None
    images: int
    ceiling: float | None = None  # the share of the real drawings
    rebuilt: float | None = None  # of the drawings as the base's autoencoder gives them back
    gate: float | None = None
    read: float | None = None  # of the captions, by a linear reader of the text encoders' outputs

    @property
    def passed(self) -> bool | None:
        return None if self.gate is None else self.share >= self.gate


@dataclass(frozen=True)
class ReportSettings:
    """What is measured, and how it is drawn."""

    base: Path
    dataset: Path | None  # None: the base's own, where it has one
    samples: int  # captions
    drawing: EvaluationSettings  # images a LoRA and prompt, steps, guidance, seed


KIND_GATE, CONTENT_GATE, STYLE_GATE = 0.95, 0.70, 0.90
"""What a base is good enough with: the kinds as a share of the drawings' own, the two LoRAs alone."""


def measure(settings: ReportSettings, report: Report) -> tuple[list[Row], Image.Image]:
    """Draw with a base and with its validation LoRAs, and judge. Returns the rows, and a sheet of what was drawn.

    The sheet has drawings, what the autoencoder gives back of them, the base's images of their captions, and then LoRAs
    alone: subjects, and styles. The judge is the base's own where it has one, else the shipped one. Raises InputError
    for LoRAs that are missing.
    """
    own = settings.base / JUDGE_FOLDER
    judge = shipped_judge(own if own.is_dir() else None)
    folder = settings.dataset or settings.base / DATASET_FOLDER
    dataset = read_dataset(folder) if settings.dataset is not None or folder.is_dir() else None
    contents, styles = dataset.part(DEFAULT_SPLIT, "validation") if dataset else ([], [])
    if dataset and not (contents and styles):
        raise InputError(
            "`dataset` has no validation part, whose LoRAs are measured; give one that has, such as that of  lorarar "
            "miniature wide --part validation"
        )
    if dataset:
        dataset.check_loras([*contents, *styles])
    how = settings.drawing
    sampler = Sampler.load(Sampling.of(str(settings.base), how), "cpu", how.images)
    drawn = drawings(how.seed, settings.samples, report)
    images = samples(sampler, drawn, report)
    back = rebuilt(sampler, drawn)
    report("reading captions", 0, 1)
    rows = base_rows(judge, drawn, images, back, how.seed, read_by_a_line(sampler.pipeline, how.seed))
    parts = [np.stack([item.image for item in drawn[:SHOWN]]), back[:SHOWN], images[:SHOWN]]
    if contents and styles:
        more, shown = lora_rows(judge, sampler, contents, styles, how.images, report)
        rows, parts = [*rows, *more], [*parts, shown]
    return rows, sheet(parts, COLUMNS)


def base_rows(
    judge: MiniatureJudge,
    drawn: Sequence[Example],
    samples: Pictures,
    back: Pictures,
    seed: int,
    read: Mapping[str, float] = MappingProxyType({}),
) -> list[Row]:
    """Compare a base's samples with the drawings of the same captions: kinds, details that are told, styles."""
    sets = samples, np.stack([item.image for item in drawn]), back
    seen = [judge.see(images) for images in sets]
    truth = np.array([details_of(item.subject) for item in drawn])
    asked: dict[str, list[np.ndarray]] = {}  # what each set has right
    for column, detail in enumerate(VALUES):
        told = TOLD_BY.get(detail, detail)
        rows = np.array([told is None or told in item.details for item in drawn]) & (truth[:, column] != UNSEEN)
        right = [found.beliefs[detail].argmax(1) == truth[:, column] for found in seen]
        asked[detail.replace("_", " ")] = [answers[rows] for answers in right]
    styled = [number for number, item in enumerate(drawn) if item.family is not None]
    families = [list(FAMILIES).index(str(drawn[number].family)) for number in styled]
    centres = _family_centres(judge, seed)
    asked["style's family"] = [(found.style[styled] @ centres.T).argmax(1) == families for found in seen]
    rows = []
    for name, (ours, real, again) in asked.items():
        if len(ours):
            gate = KIND_GATE * float(real.mean()) if name == "kind" else None
            question = "style" if name == "style's family" else name.replace(" ", "_")
            found = bootstrap(ours.astype(float).tolist(), seed)
            shares = (found.estimate, found.low, found.high, len(ours), float(real.mean()), float(again.mean()))
            rows.append(Row(name, *shares, gate, read.get(question)))
    return rows


def rebuilt(sampler: Sampler, drawn: Sequence[Example]) -> Pictures:
    """Return the drawings as the base's autoencoder gives them back."""
    vae, images = sampler.pipeline.vae, np.stack([item.image for item in drawn])
    parts = []
    with torch.inference_mode():
        for first in range(0, len(images), AT_ONCE):
            latents = vae.encode(to_pixels(torch.from_numpy(images[first : first + AT_ONCE]))).latent_dist.mean
            parts.append(to_bytes(vae.decode(latents).sample).numpy())
    return np.concatenate(parts)


def drawings(seed: int, count: int, report: Report) -> list[Example]:
    """Draw captioned pictures as the training population's, and none of them."""
    numbers = range(FIRST, FIRST + count)
    return list(counted((example(seed, number) for number in numbers), count, "drawing", report))


def samples(sampler: Sampler, drawn: Sequence[Example], report: Report) -> Pictures:
    """Draw one image for each caption with the base."""
    sampling = sampler.sampling
    captions = [item.caption for item in drawn]
    seeds = [image_seeds(sampling.seed, "base", str(number), 1)[0] for number in range(len(drawn))]
    images = draw_captions(sampler.pipeline, captions, seeds, sampling, AT_ONCE)
    return pixels(list(counted(images, len(drawn), "samples of the base", report)))


def lora_rows(
    judge: MiniatureJudge,
    sampler: Sampler,
    contents: Sequence[Content],
    styles: Sequence[Style],
    each: int,
    report: Report,
) -> tuple[list[Row], Pictures]:
    """Tell how often the subject is recognised with its LoRA alone, in its own prompt and in a style's, and the style.

    A subject is recognised as in MARS²: by more than half of its references. Returns the first image of each too.
    """
    pairs = list(product(contents, styles))
    jobs: list[tuple[Any, Content | Style, str]]  # what is asked, of whose LoRA, under which prompt
    jobs = [(_subject_alone, content, content.prompt) for content in contents]
    jobs += [(_subject_alone, content, merged_prompt(content, style)) for content, style in pairs]
    jobs += [(_style_alone, style, composed_prompts(content, style)[1]) for content, style in pairs]
    lora = cache(read_lora)
    right, shown = [], []
    for ask, entry, prompt in counted(jobs, len(jobs), "LoRAs alone", report):
        seeds = image_seeds(sampler.sampling.seed, entry.name, prompt, each)
        images = list(sampler.draw(partial(fused_lora, lora(entry.lora)), prompt, seeds))
        right.append(ask(judge, entry, images))
        shown += images[:1]
    names = [entry.name for _, entry, _ in jobs]
    own, both, seed = len(contents), len(contents) + len(pairs), sampler.sampling.seed
    parts = {
        "subject, its own prompt": (slice(own), None),
        "subject, a style's prompt": (slice(own, both), CONTENT_GATE),
    }
    parts |= {"style, a subject's prompt": (slice(both, None), STYLE_GATE)}
    rows = [lora_row(name, names[jobs], right[jobs], seed, gate) for name, (jobs, gate) in parts.items()]
    return rows, pixels(shown)


def lora_row(
    name: str, loras: Sequence[str], right: Sequence[Shaped[np.ndarray, " _"]], seed: int, gate: float | None
) -> Row:
    """Return the share of right images of all LoRAs, each with the same number; its interval is drawn over LoRAs.

    Images of a LoRA are no samples of their own: another few subjects would have other shares.
    """
    names = [lora for lora, answers in zip(loras, right, strict=True) for _ in answers]
    found = bootstrap([*means_by_name(names, map(float, np.concatenate(right))).values()], seed)
    return Row(name, found.estimate, found.low, found.high, len(names), gate=gate)


def _family_centres(judge: MiniatureJudge, seed: int) -> Shaped[np.ndarray, "families s"]:
    """Return the mean look of each family, by drawings of random styles of it."""
    rng = np.random.default_rng((seed, 6))
    drawn = [picture(fresh_subject(rng), random_style(rng, name), rng) for name in FAMILIES for _ in range(PER_FAMILY)]
    return judge.see(np.stack(drawn)).style.reshape(len(FAMILIES), PER_FAMILY, -1).mean(1)


def _subject_alone(judge: Judge, content: Content, images: Sequence[Image.Image]) -> Shaped[np.ndarray, " n"]:
    references = [on_white(open_image(path)) for path in content.images]
    asked = [Question(reference, image, content.class_name) for image in images for reference in references]
    return majority(np.reshape(judge.same_subjects(asked), (len(images), len(references))) > THRESHOLD)


def _style_alone(judge: Judge, style: Style, images: Sequence[Image.Image]) -> Shaped[np.ndarray, " n"]:
    reference = on_white(open_image(style.images[0]))
    asked = [Question(reference, image, style.description) for image in images]
    return np.array(judge.in_styles(asked)) > THRESHOLD
