"""The means of what a hypernetwork gives: one (m_c, m_s) for each kind of layer, the same for every pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, Hypernetwork
from lorarar.layout import Layout, kind_of
from lorarar.lora import LoRA
from lorarar.merging import MergeOptions, learned_options, merge_loras
from lorarar.training.dataset import Content, Dataset, Style
from lorarar.training.hyper_settings import MEAN_PAIRS
from lorarar.training.pair_data import choose_pairs


def training_part(dataset: Dataset, split: str) -> tuple[Sequence[Content], Sequence[Style]]:
    """Return the contents and styles whose pairs are averaged over: a split's training part, which has its LoRAs.

    Raises InputError where there is none, and where it lacks a LoRA file.
    """
    contents, styles = dataset.part(split, "train")
    if not contents or not styles:
        raise InputError(
            f"the means are over training pairs, and the split {split!r} of {dataset.name} has none; choose another "
            "`split`, or train constants (`lorarar train --predictor constant`)"
        )
    dataset.check_loras([*contents, *styles])
    return contents, styles


def training_pairs(dataset: Dataset, split: str, seed: int, pairs: int = MEAN_PAIRS) -> list[tuple[Content, Style]]:
    """Choose at most so many random pairs of `training_part`. Raises InputError as that does."""
    contents, styles = training_part(dataset, split)
    chosen = choose_pairs(len(contents), len(styles), pairs, seed)
    return [(contents[content], styles[style]) for content, style in chosen]


@dataclass(frozen=True)
class KindMeans:
    """What a predictor gives for one kind of layer: each layer's mean (m_c, m_s) over its columns, pair by pair."""

    layers: tuple[Float[np.ndarray, "_ 2"], ...]

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over the layers of all pairs."""
        content, style = np.concatenate(self.layers).mean(axis=0).tolist()
        return content, style

    @property
    def by_pair(self) -> Float[np.ndarray, "pairs 2"]:
        """Each pair's own mean."""
        return np.stack([layers.mean(axis=0) for layers in self.layers])


def coefficient_means(
    pairs: Iterable[tuple[LoRA, LoRA]], layout: Layout, options: MergeOptions
) -> dict[str, KindMeans]:
    """Merge pairs of LoRAs by learned coefficients, and return their means by kind of layer.

    A pair that shares no layer of a kind does not count there. Raises InputError as `merge_loras`, and for a learned
    kind of which no pair shares a layer.
    """
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in options.learned}
    for pair in pairs:
        of_pair: dict[str, list[np.ndarray]] = {}
        for layer, coefficients in (merge_loras(*pair, layout, "learned", options).coefficients or {}).items():
            of_pair.setdefault(str(kind_of(layer)), []).append(coefficients.mean(axis=1, dtype=np.float64))
        for kind, values in of_pair.items():
            found[kind].append(np.stack(values))
    for kind, layers in found.items():
        if not layers:
            raise InputError(
                f"no pair of the training LoRAs shares a {kind} layer, which the hypernetwork learned; give a "
                "`dataset` of LoRAs that do"
            )
    return {kind: KindMeans(tuple(layers)) for kind, layers in found.items()}


def predictor_means(
    loaded: LoadedPredictor, pairs: Iterable[tuple[LoRA, LoRA]], layout: Layout
) -> dict[str, KindMeans]:
    """Return the means of a loaded hypernetwork. Raises InputError as `coefficient_means`, for constant coefficients,
    and for a network of random weights.
    """
    if not isinstance(loaded.predictor, Hypernetwork):
        raise InputError(f"{loaded.source} holds constant coefficients, the same for every pair; use it as it is")
    if not loaded.trained:
        raise InputError(f"{loaded.source} has random weights, whose means say nothing; train it first")
    return coefficient_means(pairs, layout, learned_options(loaded.predictor))


def constant_predictor(means: Mapping[str, KindMeans], kv_rule: str) -> ConstantCoefficients:
    """Make constant coefficients of means by kind of layer; the other layers follow the rule."""
    constants = ConstantCoefficients(ConstantConfig(kv_rule, tuple(means)))
    with torch.no_grad():
        for kind, pair in constants.pairs.items():
            pair.copy_(torch.tensor(means[kind].mean))
    return constants.eval()


def means_record(
    loaded: LoadedPredictor, dataset: Dataset, split: str, pairs: Sequence[tuple[Content, Style]]
) -> dict[str, object]:
    """Return what the checkpoint of the means says: the network's own training, which network it was, and the pairs.

    An evaluation refuses the training part of either dataset.
    """
    of = {"hypernet": loaded.sha256, "dataset": dataset.name, "split": split}
    return {**loaded.training, "means": of | {"pairs": [[content.name, style.name] for content, style in pairs]}}
