"""Train a hypernetwork, or constant coefficients, on pairs of LoRAs by Algorithm 1 (paper §3.4).

accelerate brings devices, precision and several processes; each takes other pairs, and gradients are averaged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lorarar import __version__
from lorarar.base.components import Components, training_identity
from lorarar.base.names import unet_layout
from lorarar.errors import InputError, check_loss
from lorarar.files import file_digest
from lorarar.hypernet.checkpoints import Predictor, save_hypernet
from lorarar.hypernet.columns import layout_columns
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.images import images_below
from lorarar.layout import Layout
from lorarar.training.bank import Coefficients, Pack, column_sizes, constant_coefficients, predict_coefficients
from lorarar.training.dataset import Content, Dataset
from lorarar.training.examples import Reference, digest_references
from lorarar.training.history import History, HistoryRow
from lorarar.training.hyper_settings import HyperSettings
from lorarar.training.joint import check_joint_images
from lorarar.training.launch import BaseLoading, new_accelerator
from lorarar.training.loss import merging_loss
from lorarar.training.pair_data import Draw, PairData, Parts, load_parts
from lorarar.training.settings import DEFAULT_EVERY, MEMORY_OPTIONS
from lorarar.training.state import StateFile

WEIGHT_DECAY = 0.01  # AdamW's, as PyTorch has it
REFERENCES = {"direct merge, average": 0.5, "direct merge, sum": 1.0}
"""Constant coefficients whose validation loss the curve is compared with."""

OnRow = Callable[[HistoryRow], None]
"""Called after each step and each validation."""
_Coefficients = Callable[[Pack, Pack], Coefficients]


@dataclass(frozen=True)
class Trained:
    """The result of a training: the predictor, its curves, and what its checkpoint says about the training."""

    predictor: Predictor
    history: History
    record: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the checkpoint, then the curves beside it as .csv and .png, each whole or not at all."""
        save_hypernet(self.predictor, path, training=self.record)
        self.history.write_csv(path.with_suffix(".csv"))
        self.history.write_picture(path.with_suffix(".png"))


@dataclass(frozen=True)
class TrainingInputs:
    """What `train_predictor` needs beside its settings; `about` names the base, dataset and split for the record.

    A training that was stopped goes on with the same `references`, `joint_images` and `class_prompts` alone.
    """

    components: Components
    layout: Layout
    parts: Parts
    about: dict[str, Any]
    references: Sequence[Reference] = ()
    joint_images: Sequence[Path] = ()
    class_prompts: Sequence[str] = ()  # of the contents, where a joint term asks by them


def load_inputs(
    loading: BaseLoading, dataset: Dataset, split: str, settings: HyperSettings, joint_images: Path | None = None
) -> TrainingInputs:
    """Load a base and the LoRAs and examples of a dataset's split. Raises InputError as `load_parts`, and for a base
    that can't be had.
    """
    joint = settings.loss.joint
    check_joint_images(joint, joint_images)
    components = loading.load()
    layout = unet_layout(components.unet, components.name)
    parts = load_parts(components, layout, dataset, split, settings.combinations, settings.seed, joint, joint_images)
    found = {} if parts.train.joint is None else parts.train.joint.latents
    if joint_images is not None and not found:
        raise InputError(
            f"{joint_images}: there is no folder CONTENT--STYLE of a training pair in it; give the one that holds them"
        )
    about = {"base": layout.base, "dataset": dataset.name, "split": split, "untrained_base": loading.untrained}
    if found:
        about["joint_pairs"] = len(found)
    drawn = images_below(joint_images) if joint_images else ()
    read = dataset.trained_on(split)
    asked = [entry.class_prompt for entry in read if isinstance(entry, Content)] if joint == "composed" else []
    return TrainingInputs(components, layout, parts, about, read, drawn, asked)


def new_predictor(layout: Layout, settings: HyperSettings) -> Predictor:
    """Make a predictor with seeded weights whose coefficients start near `settings.initial`.

    A hypernetwork has an input layer for each learned width. Its small random weights keep m_c from being equal to
    m_s: |cos| of equal vectors has no gradient.
    """
    known = layout_columns(layout, settings.learned)
    columns = known if settings.columns else ()
    if settings.predictor == "constant":
        constant = ConstantCoefficients(ConstantConfig(settings.kv_rule, settings.learned, columns))
        for pair in constant.pairs.values():
            nn.init.constant_(pair, settings.initial)
        return constant
    widths = sorted({group.out_features for group in layout.with_kinds(settings.learned)})
    positions = tuple(module for module, _ in known) if settings.positions else ()
    config = HypernetConfig(tuple(widths), settings.hidden, settings.kv_rule, settings.learned, positions, columns)
    hypernet = Hypernetwork.untrained(config, settings.seed)
    nn.init.constant_(hypernet.output.bias, settings.initial)
    return hypernet


def train_predictor(
    inputs: TrainingInputs,
    settings: HyperSettings,
    *,
    on_row: OnRow | None = None,
    state: Path | None = None,
    state_every: int = DEFAULT_EVERY,
) -> Trained:
    """Train by Algorithm 1 on the inputs' pairs; their components are as before when it returns.

    `state` is a file from which an interrupted training goes on. Raises InputError for unusable settings or state, and
    when the loss is no longer finite.
    """
    components = inputs.components
    if settings.keep == "best" and inputs.parts.validation is None:
        raise InputError("`keep` best needs validation pairs, and this split has none; use last")
    record = _record(inputs, settings)
    file = None if state is None else StateFile(state, _identity(inputs, settings, record), state_every)
    training = _Training(inputs, settings)
    if settings.gradient_checkpointing:
        components.unet.enable_gradient_checkpointing()
    try:
        history = training.run(on_row or (lambda row: None), file)
    finally:
        training.accelerator.free_memory()
        if settings.gradient_checkpointing:
            components.unet.disable_gradient_checkpointing()
    if settings.keep == "best":
        training.predictor.load_state_dict(training.best)
        record["kept_step"] = history.summary()["best"]["step"]
    return Trained(training.predictor.cpu().eval(), history, record | {"validation": history.summary()})


def _record(inputs: TrainingInputs, settings: HyperSettings) -> dict[str, Any]:
    """Return all options as JSON has them, where a tuple is a list: for the checkpoint, and to tell trainings apart."""
    parts, resolution = inputs.parts, inputs.components.resolution
    facts = asdict(settings) | inputs.about | {"resolution": resolution, "toolkit_version": __version__}
    validation = len(parts.validation.pairs) if parts.validation else 0
    facts |= {"pairs": len(parts.train.pairs), "validation_pairs": validation}
    return json.loads(json.dumps(facts))


def _identity(inputs: TrainingInputs, settings: HyperSettings, record: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a training to go on: the options, and the weights, LoRAs and images themselves.

    The steps may be others where the rate does not depend on them, and so may what saves memory and the toolkit.
    """
    others = {"toolkit_version", *MEMORY_OPTIONS} | ({"steps"} if settings.lr_schedule == "constant" else set())
    same = {name: value for name, value in record.items() if name not in others}
    parts = [part for part in (inputs.parts.train, inputs.parts.validation) if part is not None]
    banks = [role.bank.digest() for part in parts for role in (part.contents, part.styles)]
    drawn = [[path.parent.name, file_digest(path)] for path in inputs.joint_images]  # by the pair, which names a folder
    read = {"loras": banks, "references": digest_references(inputs.references), "joint_images": drawn}
    read["class_prompts"] = list(inputs.class_prompts)
    return same | training_identity(inputs.components) | read


class _Training:
    """A training under way: the predictor, AdamW on it, a step of both, and the validation loss."""

    def __init__(self, inputs: TrainingInputs, settings: HyperSettings) -> None:
        self.components, self.layout, self.parts = inputs.components, inputs.layout, inputs.parts
        self.settings = settings
        self.accelerator = new_accelerator(self.components.device, settings.mixed_precision)
        settings.check_processes(self.accelerator.num_processes)
        self.predictor = new_predictor(self.layout, settings).train()
        self.parameters = dict(self.predictor.named_parameters())
        column_factor = settings.column_rate / settings.learning_rate
        factors = {name: column_factor for name in self.parameters if name.startswith("columns.")}
        groups = self._groups(factors | self._normalise())
        self.predictor.to(self.components.device)
        self.best = {name: value.detach().clone() for name, value in self.predictor.state_dict().items()}
        self.best_total = math.inf
        # Not through prepare(): the predictor runs once a group, which DistributedDataParallel doesn't expect, and half
        # a million gradients are averaged in one go.
        self.optimizer = self.accelerator.prepare(torch.optim.AdamW(groups, settings.learning_rate))
        self.timesteps = self.components.noise.config.num_train_timesteps
        self.history = History()

    def _normalise(self) -> dict[str, float]:
        """Bring the input layers to the LoRAs' size, if that is wanted; return by how much, by the weight's name.

        A column of a LoRA has entries of about 0.01. So weights of the usual size tell nothing of it, and a rate that
        suits them learns constants. Weights 1 / size times as large, with a rate as much higher, are what weights
        of the usual size are on inputs divided by their size.
        """
        if not (self.settings.normalise and isinstance(self.predictor, Hypernetwork)):
            return {}
        packs = [role.bank.packed for role in (self.parts.train.contents, self.parts.train.styles)]
        sizes = column_sizes(packs, self.layout, self.settings.learned)
        found = {f"inputs.{width}.weight": 1 / size for width, size in sizes.items()}
        with torch.no_grad():
            for name, factor in found.items():
                self.parameters[name].mul_(factor)
        return found

    def _groups(self, factors: dict[str, float]) -> list[dict[str, Any]]:
        """Return AdamW's groups, one a parameter, in their order; a step decays all of them by the same share."""
        return [
            {"params": [value], "factor": factors.get(name, 1.0), "weight_decay": WEIGHT_DECAY / factors.get(name, 1.0)}
            for name, value in self.parameters.items()
        ]

    def run(self, on_row: OnRow, file: StateFile | None) -> History:
        """Train for the steps that the state file lacks; the rows of those it has are reported again."""
        settings, is_main = self.settings, self.accelerator.is_main_process
        if file is not None:
            self.load(file)
        for row in self.history.rows:
            on_row(row)
        if not self.history.references:
            self.history.references = self.references()
        for step in range(len(self.history.totals()), settings.steps):
            if step % settings.validate_every == 0:
                self.validate(step, on_row)
            self._keep(self.step(step), on_row)
            if step + 1 == settings.steps:
                self.validate(step + 1, on_row)
            if file is not None and is_main and file.due(step + 1, settings.steps):
                self.save(file)
        self.validate(settings.steps, on_row)  # where the state has all the steps, of a training that was to go on
        return self.history

    def _keep(self, row: HistoryRow, on_row: OnRow) -> None:
        """Add a row to the history. Raises InputError where its loss is not finite."""
        check_loss(row.total, f"step {row.step} ({row.part})")
        self.history.rows.append(row)
        on_row(row)

    def step(self, number: int) -> HistoryRow:
        """Take one optimizer step; return the mean terms of its whole batch, over passes and processes."""
        settings, accelerator = self.settings, self.accelerator
        passes, processes = settings.accumulation, accelerator.num_processes
        share = settings.batch_pairs // (passes * processes)
        whole = self.parts.train.draw(number, settings.batch_pairs, settings.seed, self.timesteps)
        terms = torch.zeros(5, device=self.components.device)
        rate = settings.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for turn in range(passes):
            first = (turn * processes + accelerator.process_index) * share
            draw = whole.take(range(first, first + share))
            terms += self._terms(self.parts.train, draw, self._predict, 1 / passes) / passes
        self._average_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        total, content, style, term, joint = accelerator.reduce(terms, reduction="mean").tolist()
        return HistoryRow("train", number + 1, total, content, style, term, joint, rate)

    def validate(self, step: int, on_row: OnRow) -> None:
        """Take the loss on the fixed validation draw, if any, and keep the weights with the lowest one aside."""
        if self.parts.validation is None or any(row.step == step for row in self.history.part("validation")):
            return
        total, content, style, term, joint = self._validation_terms(self._predict)
        row = HistoryRow("validation", step, total, content, style, term, joint, 0.0)
        self._keep(row, on_row)
        if row.total < self.best_total:
            self.best_total = row.total
            self.best = {name: value.detach().clone() for name, value in self.predictor.state_dict().items()}

    def references(self) -> dict[str, float]:
        """Return the sum of both distances on the validation draw for constant coefficients; empty without a draw."""
        if self.parts.validation is None:
            return {}
        like = torch.zeros((), device=self.components.device)
        found = {}
        for name, value in REFERENCES.items():
            constant = constant_coefficients(self.layout, value, like)
            _, content, style, *_ = self._validation_terms(lambda one, other, constant=constant: constant)  # type: ignore[misc]
            found[name] = content + style
        return found

    def _predict(self, content: Pack, style: Pack) -> Coefficients:
        return predict_coefficients(self.predictor, self.layout, content, style)

    def _validation_terms(self, coefficients: _Coefficients) -> list[float]:
        """Return the mean terms over the validation draw, a few pairs at a time; the processes share them."""
        data, settings, accelerator = self.parts.validation, self.settings, self.accelerator
        assert data is not None
        whole = data.validation(settings.validation_draws, settings.seed, self.timesteps)
        at_once = max(1, settings.batch_pairs // (settings.accumulation * accelerator.num_processes))
        chunks = [range(first, min(first + at_once, len(whole.pairs))) for first in range(0, len(whole.pairs), at_once)]
        terms = torch.zeros(5, device=self.components.device)
        with torch.no_grad():
            for rows in chunks[accelerator.process_index :: accelerator.num_processes]:
                terms += self._terms(data, whole.take(rows), coefficients, None) * len(rows)
        return (accelerator.reduce(terms, reduction="sum") / len(whole.pairs)).tolist()

    def _terms(self, data: PairData, draw: Draw, coefficients: _Coefficients, weight: float | None) -> Tensor:
        """Return the five terms of the loss on some pairs; with a weight, add that share of its gradients."""
        batch, loras = data.batch(self.components, draw)
        applied = coefficients(*loras)
        args = (self.components.unet, batch, self.layout, loras, applied, self.settings.loss)
        with merging_loss(*args, autocast=self.accelerator.autocast) as loss:
            if weight is not None:
                self.accelerator.backward(loss.total * weight)
        return torch.stack([loss.total.detach(), loss.content, loss.style, loss.orthogonality, loss.joint])

    def _average_gradients(self) -> None:
        """Replace the gradients by their mean over the processes, where there are several."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        vector_to_parameters(self.accelerator.reduce(parameters_to_vector(gradients), reduction="mean"), gradients)

    def save(self, file: StateFile) -> None:
        """Write the state: weights, moments, the best weights so far, the curves."""
        extra = {f"best.{name}": value for name, value in self.best.items()} | self.history.tensors()
        file.save(self.parameters, self.optimizer, self.accelerator.scaler, self.history.totals(), extra)

    def load(self, file: StateFile) -> None:
        """Put a saved state in place, if there is one."""
        _, extra = file.load(self.parameters, self.optimizer, self.accelerator.scaler, self.settings.steps)
        self.history = History.from_tensors(extra)
        if self.history.rows:
            self.best = {name: extra[f"best.{name}"].to(value.device) for name, value in self.best.items()}
            self.best_total = min((row.total for row in self.history.part("validation")), default=math.inf)
