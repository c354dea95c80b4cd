"""The means of what a hypernetwork gives: one (m_c, m_s) for each kind of layer, the same for every pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lorarar.base.names import MINIATURE, shipped_dataset
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, Hypernetwork
from lorarar.layout import Layout, kind_of
from lorarar.lora import LoRA
from lorarar.merging import MergeOptions, learned_options, merge_loras
from lorarar.training.dataset import DEFAULT_SPLIT, Content, Dataset, Style, read_dataset
from lorarar.training.hyper_settings import MEAN_PAIRS
from lorarar.training.pair_data import choose_pairs


def training_part(base: str, dataset: Dataset, split: str) -> tuple[Sequence[Content], Sequence[Style]]:
    """Return the contents and styles whose pairs are averaged over: a split's training part, which has its LoRAs.

    On the miniature, where the split has none, as that of a wide test, it is the shipped dataset's. Raises InputError
    where there is none, and where it lacks a LoRA file.
    """
    if not all(dataset.part(split, "train")) and base == MINIATURE:
        dataset, split = read_dataset(shipped_dataset()), DEFAULT_SPLIT
    contents, styles = dataset.part(split, "train")
    if not contents or not styles:
        raise InputError(
            f"the means are over training pairs, and the split {split!r} of {dataset.name} has none; choose another "
            "`split`, or train constants (`lorarar train --predictor constant`)"
        )
    dataset.check_loras([*contents, *styles])
    return contents, styles


def training_pairs(
    base: str, dataset: Dataset, split: str, seed: int, pairs: int = MEAN_PAIRS
) -> list[tuple[Content, Style]]:
    """Choose at most so many random pairs of `training_part`. Raises InputError as that does."""
    contents, styles = training_part(base, dataset, split)
    chosen = choose_pairs(len(contents), len(styles), pairs, seed)
    return [(contents[content], styles[style]) for content, style in chosen]


@dataclass(frozen=True)
class KindMeans:
    """What a predictor gives for one kind of layer: each pair's mean (m_c, m_s) over its columns and layers."""

    by_pair: Float[np.ndarray, "pairs 2"]

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over the pairs."""
        content, style = self.by_pair.mean(axis=0).tolist()
        return content, style


def coefficient_means(
    pairs: Iterable[tuple[LoRA, LoRA]], layout: Layout, options: MergeOptions
) -> dict[str, KindMeans]:
    """Merge pairs of LoRAs by learned coefficients, and return their means by kind of layer.

    A pair that shares no layer of a kind does not count there. Raises InputError as `merge_loras`.
    """
    found: dict[str, list[np.ndarray]] = {}
    for pair in pairs:
        of_pair: dict[str, list[np.ndarray]] = {}
        for layer, coefficients in (merge_loras(*pair, layout, "learned", options).coefficients or {}).items():
            of_pair.setdefault(str(kind_of(layer)), []).append(coefficients.mean(axis=1, dtype=np.float64))
        for kind, values in of_pair.items():
            found.setdefault(kind, []).append(np.mean(values, axis=0))
    return {kind: KindMeans(np.stack(found[kind])) for kind in options.learned if kind in found}


def predictor_means(
    loaded: LoadedPredictor, pairs: Iterable[tuple[LoRA, LoRA]], layout: Layout
) -> dict[str, KindMeans]:
    """Return the means of a loaded hypernetwork, as `coefficient_means`.

    Raises InputError for constant coefficients, for a network of random weights, and where the pairs share no layer of
    a kind that it learned.
    """
    if not isinstance(loaded.predictor, Hypernetwork):
        raise InputError(f"{loaded.source} holds constant coefficients, the same for every pair; use it as it is")
    if not loaded.trained:
        raise InputError(f"{loaded.source} has random weights, whose means say nothing; train it first")
    means = coefficient_means(pairs, layout, learned_options(loaded.predictor))
    missing = [kind for kind in loaded.predictor.config.learned if kind not in means]
    if missing:
        raise InputError(
            f"no pair of the training LoRAs shares a {missing[0]} layer, which {loaded.source} learned; give a "
            "`dataset` of LoRAs that do"
        )
    return means


def constant_predictor(means: Mapping[str, KindMeans], kv_rule: str) -> ConstantCoefficients:
    """Make constant coefficients of means by kind of layer; the other layers follow the rule."""
    constants = ConstantCoefficients(ConstantConfig(kv_rule, tuple(means)))
    with torch.no_grad():
        for kind, pair in constants.pairs.items():
            pair.copy_(torch.tensor(means[kind].mean))
    return constants.eval()


def means_record(loaded: LoadedPredictor, pairs: Sequence[tuple[Content, Style]], seed: int) -> dict[str, object]:
    """Return what the checkpoint of the means says: the network's own training, which network, and which pairs."""
    of = {"hypernet": loaded.sha256, "pairs": [[content.name, style.name] for content, style in pairs], "seed": seed}
    return {**loaded.training, "means": of}
