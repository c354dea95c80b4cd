"""Run a whole evaluation: every method's images of every pair, the judge's answers, the results. All of it resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from lorarar import __version__
from lorarar.base.attach import fitting_modules
from lorarar.base.components import pipeline_identity
from lorarar.base.names import unet_layout
from lorarar.errors import Diverged, InputError
from lorarar.evaluation.cost import measured
from lorarar.evaluation.generate import PairFolder, Sampler, Sampling, digest_of, image_seeds
from lorarar.evaluation.judges import Judge
from lorarar.evaluation.judging import Swap, judge_kept, next_entry
from lorarar.evaluation.method_names import entry_of, is_attached, method_info, sampling_of
from lorarar.evaluation.methods import Evaluated, Workbench, prepare, sampled_pairs
from lorarar.evaluation.metrics import Embedder
from lorarar.evaluation.results import ImageRecord, MergeFacts, PairRecord, Results
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.files import file_digest
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.lora import open_lora
from lorarar.merging import align
from lorarar.training.dataset import Content, Dataset, Style, merged_prompt
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.settings import default_settings

Report = Callable[[str, int], None]
"""Called with what is being done, and how many images are done by now."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to run: the methods and pairs, and what draws them. `part` is the split's."""

    folder: Path
    bench: Workbench
    sampler: Sampler
    methods: Sequence[Evaluated]
    part: str
    pairs: Sequence[tuple[Content, Style]]
    images: int
    digest: Callable[[Path], str] = field(default_factory=lambda: cache(file_digest))

    @cached_property
    def base(self) -> Mapping[str, str]:
        """Return what tells this base from others. Ask first while nothing is put on its networks."""
        return pipeline_identity(self.sampler.pipeline)

    def place(self, method: Evaluated, content: Content, style: Style) -> PairFolder:
        """Return the folder of a method's images of a pair. Raises InputError when it holds those of other settings."""
        files = [content.lora, style.lora] if method.needs_loras else []
        files += [*content.images, *style.images] if method.needs_images else []
        facts = {
            "sampling": asdict(self.sampler.sampling) | {"base": self.base},
            "method": method.name,
            "options": dict(method.facts),
            "prompt": merged_prompt(content, style),
            "prompts": [content.prompt, style.prompt, *([content.class_prompt] if method.composes else [])],
            "files": [self.digest(path) for path in files],
        }
        return PairFolder.of(self.folder, method.name, content.name, style.name, facts)

    def places(self) -> Iterator[tuple[Evaluated, Content, Style, PairFolder]]:
        """Iterate over every pair's methods, each with the folder of its images.

        Pair by pair, since `Workbench.answers`, which a pair's methods share, are kept for one pair.
        """
        for (content, style), method in product(self.pairs, self.methods):
            yield method, content, style, self.place(method, content, style)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the results needs to know, without this machine's folders."""
        sampling = asdict(self.sampler.sampling)
        del sampling["base"]  # it may be a path
        return {
            "toolkit_version": __version__,
            "base": self.bench.layout.base,
            "base_digest": digest_of(self.base),
            "dataset": self.bench.dataset.name,
            "files_digest": self._files_digest(),
            "split": self.bench.split,
            "part": self.part,
            "images": self.images,
            **sampling,
            "device": str(self.bench.components.device),
            "options": {method.name: dict(method.facts) for method in self.methods},
        }

    def _files_digest(self) -> str:
        """Return what tells these pairs' images and LoRAs from others of their names."""
        entries = {entry.name: entry for pair in self.pairs for entry in pair}
        files = {name: [*entry.images, entry.lora] for name, entry in entries.items()}
        return digest_of({name: [self.digest(path) for path in of if path.is_file()] for name, of in files.items()})


def open_evaluation(
    folder: Path,
    base: str,
    dataset: Dataset,
    split: str,
    part: str,
    settings: EvaluationSettings,
    methods: Mapping[str, LoadedPredictor | None],
    *,
    device: str,
    dtype: str,
) -> Evaluation:
    """Open the base and make the methods ready; `methods` maps each name to its checkpoint, where it needs one.

    The evaluation keeps everything in `folder`. `dtype` (fp32, fp16 or bf16) is that of the UNet and text encoders, and
    of the trainings. Raises InputError when the base can't be had, for LoRAs of another base, and as `prepare`.
    """
    guided = [name for name in methods if sampling_of(name) or ((entry := entry_of(name)) and entry.needs_guidance)]
    if guided and settings.guidance == 1:
        raise InputError(f"{guided[0]} is a way to guide, and a `guidance` of 1 turns guidance off; give a larger one")
    sampler = Sampler.load(Sampling.of(base, settings, dtype), device, settings.batch)
    components, precision = sampler.components(), "no" if dtype == "fp32" else dtype
    joint = replace(default_settings(base), seed=settings.seed, steps=settings.joint_steps, mixed_precision=precision)
    zip_settings = ZipSettings(steps=settings.zip_steps, seed=settings.seed, mixed_precision=precision)
    layout = unet_layout(components.unet, components.name)
    bench = Workbench(components, layout, dataset, split, joint, zip_settings, settings.seed, settings.composed_share)
    prepared = [prepare(name, bench, predictor) for name, predictor in methods.items()]
    trained = [method.name for method in prepared if method.needs_images]
    if trained and dtype == "fp16" and components.device.type == "cpu":
        raise InputError(f"`dtype` is fp16, in which a CPU can't train {trained[0]}; give bf16 or fp32")
    pairs = sampled_pairs(dataset, split, part)
    if any(method.needs_loras for method in prepared):
        _check_loras(pairs, bench, any(is_attached(method.name) for method in prepared))
    return Evaluation(folder, bench, sampler, prepared, part, pairs, settings.images)


def _check_loras(pairs: Sequence[tuple[Content, Style]], bench: Workbench, attached: bool) -> None:
    """Refuse LoRAs of another base, and those with layers that the methods can't draw with; InputError."""
    opened, unet = cache(open_lora), bench.components.unet
    for content, style in pairs:
        align(opened(content.lora), opened(style.lora), bench.layout)
    for file in {entry.lora for pair in pairs for entry in pair}:
        fitting_modules(unet, opened(file), nn.Linear if attached else nn.Module)


def missing_images(evaluation: Evaluation) -> int:
    """Count the images still to be made. Raises InputError when a folder holds images of other settings."""
    return sum(len(place.missing(evaluation.images)) for _, _, _, place in evaluation.places())


def generate_all(evaluation: Evaluation, report: Report) -> None:
    """Make every image that is not there yet. Raises InputError for a pair whose training's loss is no number."""
    bench, sampler, done = evaluation.bench, evaluation.sampler, 0
    for method, content, style, place in evaluation.places():
        missing = place.missing(evaluation.images)
        if not missing:
            continue
        text = f"{method.name}: {content.name} in {style.name}"
        report(text, done)
        if method.needs_loras:
            bench.pair(content, style)  # Reading files is no part of a merge's time.
        try:
            with measured(str(bench.components.device)) as cost:
                made = method.make(bench, content, style)
        except Diverged as error:
            raise InputError(
                f"{text}: {error.told}, as it would be each time; leave {method.name} out of `methods`, or give "
                "another `seed` or `dtype`, and another `out`"
            ) from None
        if place.merge_facts() is None:
            facts = MergeFacts(cost.seconds, made.coefficient_seconds, cost.extra_bytes, made.parameters)
            place.keep_merge(facts)
        seeds = image_seeds(sampler.sampling.seed, content.name, style.name, evaluation.images)
        drawn = sampler.draw(made.put_on, merged_prompt(content, style), [seeds[index] for index in missing])
        for index, image in zip(missing, drawn, strict=True):
            place.keep_image(index, image)
            done += 1
            report(text, done)


def judge_all(evaluation: Evaluation, judge: Judge, embedder: Embedder | None, report: Report) -> Results:
    """Judge every image, or take the kept answers, and gather everything."""
    dataset, folder = evaluation.bench.dataset, evaluation.folder
    contents, styles = zip(*evaluation.pairs, strict=True)
    records, done = [], 0
    for content, style in evaluation.pairs:
        swap = Swap(next_entry(content, contents, dataset.contents), next_entry(style, styles, dataset.styles))
        images: dict[str, tuple[ImageRecord, ...]] = {}
        merges: dict[str, MergeFacts] = {}
        for method in evaluation.methods:
            text = f"judging {method.name}: {content.name} in {style.name}"
            report(text, done)
            place = evaluation.place(method, content, style)
            paths = {_relative(path, folder): path for path in map(place.image, range(evaluation.images))}
            images[method.name] = tuple(judge_kept(judge, embedder, paths, content, style, swap))
            facts = place.merge_facts()
            assert facts is not None
            merges[method.name] = facts
            done += len(paths)
            report(text, done)
        references = tuple(_relative(path, folder) for path in content.images)
        look, prompt = _relative(style.images[0], folder), merged_prompt(content, style)
        records.append(PairRecord(content.name, style.name, prompt, references, look, merges, images))
    described = evaluation.describe() | {"embedder": None if embedder is None else embedder.describe()}
    methods = tuple(method_info(method.name) for method in evaluation.methods)
    return Results(described, judge.describe(), methods, tuple(records))


def _relative(path: Path, folder: Path) -> str:
    # With forward slashes, so that a results file can be read on another system.
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
