"""A whole evaluation: every method's images for every pair, the judge's answers, the results. Resumable throughout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lorarar.base.fingerprint import fingerprint
from lorarar.evaluation.cost import measured
from lorarar.evaluation.generate import PairFolder, Sampler, image_seeds
from lorarar.evaluation.judges import Judge
from lorarar.evaluation.judging import Judged, Swap, judge_kept
from lorarar.evaluation.methods import Evaluated, Made, Workbench
from lorarar.evaluation.metrics import Embedder
from lorarar.evaluation.method_names import info
from lorarar.evaluation.results import ImageRecord, MergeFacts, PairRecord, Results
from lorarar.training.dataset import Content, Style, merged_prompt

Report = Callable[[str, int], None]
"""Called with what is being done and how many images of it are done."""


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and with what."""

    folder: Path
    bench: Workbench
    sampler: Sampler
    methods: Sequence[Evaluated]
    pairs: Sequence[tuple[Content, Style]]
    images: int
    digests: dict[Path, str] = field(default_factory=dict)

    @cached_property
    def base(self) -> str:
        """What tells this base's weights from others. First asked for while nothing is put on the UNet."""
        return fingerprint(self.sampler.pipeline.unet)

    def place(self, method: Evaluated, content: Content, style: Style) -> PairFolder:
        """The folder of a method's images of a pair. Raises InputError when it holds images of other settings."""
        files = [content.lora, style.lora] if method.needs_loras else [*content.images, *style.images]
        facts = {
            "sampling": asdict(self.sampler.sampling) | {"base": self.base},
            "method": method.name,
            "options": dict(method.facts),
            "prompt": merged_prompt(content, style),
            "files": [self._digest(path) for path in files],
        }
        return PairFolder.of(self.folder, method.name, content.name, style.name, facts)

    def _digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.digests[path]


def check_places(evaluation: Evaluation) -> int:
    """The number of images still to be made. Raises InputError when a folder holds images of other settings."""
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


def judge_all(
    evaluation: Evaluation, judge: Judge, embedder: Embedder | None, settings: Mapping[str, Any], report: Report
) -> Results:
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
    described = dict(settings) | {"embedder": None if embedder is None else embedder.describe()}
    methods = tuple(info(method.name) for method in evaluation.methods)
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
