"""Run a whole evaluation: every method's images of every pair, the judge's answers, the results. All of it resumes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lorarar import __version__
from lorarar.base.components import base_name, fingerprint
from lorarar.base.names import unet_layout
from lorarar.evaluation.cost import measured
from lorarar.evaluation.generate import PairFolder, Sampler, Sampling, image_seeds
from lorarar.evaluation.judges import Judge
from lorarar.evaluation.judging import Judged, Swap, judge_kept
from lorarar.evaluation.method_names import method_info
from lorarar.evaluation.methods import Evaluated, Made, Workbench, prepare, sampled_pairs
from lorarar.evaluation.metrics import Embedder
from lorarar.evaluation.results import ImageRecord, MergeFacts, PairRecord, Results
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.training.dataset import Content, Dataset, Style, merged_prompt
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.settings import default_settings

Report = Callable[[str, int], None]
"""Called with what is being done, and how many more images of it are done."""


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
    digests: dict[Path, str] = field(default_factory=dict)

    @cached_property
    def base(self) -> str:
        """Return what tells this base's weights from others. Ask first while nothing is put on the UNet."""
        return fingerprint(self.sampler.pipeline.unet)

    def place(self, method: Evaluated, content: Content, style: Style) -> PairFolder:
        """Return the folder of a method's images of a pair. Raises InputError when it holds those of other settings."""
        files = [content.lora, style.lora] if method.needs_loras else [*content.images, *style.images]
        facts = {
            "sampling": asdict(self.sampler.sampling) | {"base": self.base},
            "method": method.name,
            "options": dict(method.facts),
            "prompt": merged_prompt(content, style),
            "files": [self._digest(path) for path in files],
        }
        return PairFolder.of(self.folder, method.name, content.name, style.name, facts)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the results needs to know, without this machine's folders."""
        sampling = self.sampler.sampling
        return {
            "toolkit_version": __version__,
            "base": self.bench.layout.base,
            "dataset": self.bench.dataset.name,
            "split": self.bench.split,
            "part": self.part,
            "images": self.images,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "seed": sampling.seed,
            "dtype": sampling.dtype,
            "device": str(self.bench.components.device),
            "options": {method.name: dict(method.facts) for method in self.methods},
        }

    def _digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.digests[path]


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
    of the trainings. Raises InputError when the base can't be had, and as `prepare`.
    """
    sampling = Sampling(base, settings.steps, settings.guidance, settings.seed, dtype)
    sampler = Sampler.load(sampling, device, settings.batch)
    components, precision = sampler.components(), "no" if dtype == "fp32" else dtype
    joint = replace(default_settings(base), seed=settings.seed, steps=settings.joint_steps, mixed_precision=precision)
    zip_settings = ZipSettings(steps=settings.zip_steps, seed=settings.seed, mixed_precision=precision)
    layout = unet_layout(components.unet, base_name(components))
    bench = Workbench(components, layout, dataset, split, joint, zip_settings, settings.seed)
    prepared = [prepare(name, bench, predictor) for name, predictor in methods.items()]
    pairs = sampled_pairs(dataset, split, part)
    return Evaluation(folder, bench, sampler, prepared, part, pairs, settings.images)


def check_places(evaluation: Evaluation) -> int:
    """Count the images still to be made. Raises InputError when a folder holds images of other settings."""
    missing = 0
    for method in evaluation.methods:
        for content, style in evaluation.pairs:
            missing += len(evaluation.place(method, content, style).missing(evaluation.images))
    return missing


def generate_all(evaluation: Evaluation, report: Report) -> None:
    """Make every image that is not there yet."""
    for method in evaluation.methods:
        for content, style in evaluation.pairs:
            place = evaluation.place(method, content, style)
            missing = place.missing(evaluation.images)
            if missing:
                report(f"{method.name}: {content.name} in {style.name}", 0)
                _generate_pair(evaluation, method, content, style, place, missing, report)


def _generate_pair(
    evaluation: Evaluation,
    method: Evaluated,
    content: Content,
    style: Style,
    place: PairFolder,
    missing: Sequence[int],
    report: Report,
) -> None:
    made, cost = _make(evaluation.bench, method, content, style)
    if place.merge_facts() is None:
        place.keep_merge(cost)
    seeds = image_seeds(evaluation.sampler.sampling.seed, content.name, style.name, evaluation.images)
    drawn = evaluation.sampler.draw(made.adapter, merged_prompt(content, style), [seeds[index] for index in missing])
    for index, image in zip(missing, drawn, strict=True):
        place.keep_image(index, image)
        report(f"{method.name}: {content.name} in {style.name}", 1)


def _make(bench: Workbench, method: Evaluated, content: Content, style: Style) -> tuple[Made, MergeFacts]:
    if method.needs_loras:
        # Reading files is no part of a merge's time.
        bench.pair(content, style)
    with measured(str(bench.components.device)) as cost:
        made = method.make(bench, content, style)
    return made, MergeFacts(cost.seconds, made.coefficient_seconds, cost.extra_bytes, made.parameters)


def judge_all(evaluation: Evaluation, judge: Judge, embedder: Embedder | None, report: Report) -> Results:
    """Judge every image, or take the kept answers, and gather everything."""
    contents = list(dict.fromkeys(content.name for content, _ in evaluation.pairs))
    styles = list(dict.fromkeys(style.name for _, style in evaluation.pairs))
    records = []
    for content, style in evaluation.pairs:
        swap = Swap.of(evaluation.bench.dataset, contents, styles, content.name, style.name)
        images: dict[str, tuple[ImageRecord, ...]] = {}
        merges: dict[str, MergeFacts] = {}
        for method in evaluation.methods:
            report(f"judging {method.name}: {content.name} in {style.name}", 0)
            place = evaluation.place(method, content, style)
            paths = [place.image(index) for index in range(evaluation.images)]
            judged = judge_kept(judge, embedder, paths, content, style, swap)
            images[method.name] = _records(evaluation.folder, paths, judged)
            facts = place.merge_facts()
            assert facts is not None
            merges[method.name] = facts
            report(f"judging {method.name}: {content.name} in {style.name}", len(paths))
        records.append(_pair_record(evaluation.folder, content, style, merges, images))
    described = evaluation.describe() | {"embedder": None if embedder is None else embedder.describe()}
    methods = tuple(method_info(method.name) for method in evaluation.methods)
    return Results(described, judge.describe(), methods, tuple(records))


def _records(folder: Path, paths: Sequence[Path], judged: Sequence[Judged]) -> tuple[ImageRecord, ...]:
    return tuple(
        ImageRecord(_relative(path, folder), tuple(said.p_subject), said.p_style, said.controls, said.metrics)
        for path, said in zip(paths, judged, strict=True)
    )


def _pair_record(
    folder: Path,
    content: Content,
    style: Style,
    merges: Mapping[str, MergeFacts],
    images: Mapping[str, tuple[ImageRecord, ...]],
) -> PairRecord:
    return PairRecord(
        content.name,
        style.name,
        merged_prompt(content, style),
        tuple(_relative(path, folder) for path in content.images),
        _relative(style.images[0], folder),
        merges,
        images,
    )


def _relative(path: Path, folder: Path) -> str:
    # With forward slashes, so that a results file can be read on another system.
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
