"""Judge drawings by the miniature's own small verifier, in the place of the paper's multimodal model.

It answers the paper's two questions (Fig. A1 and A2) from two images alone and ignores their words. Its embeddings
stand in for DINO's (subject) and CLIP's (style).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lorarar.base.names import JUDGE_FOLDER, MINIATURE, miniature_folder
from lorarar.errors import InputError, said_by
from lorarar.evaluation.judges import Question
from lorarar.files import atomic_folder, package_schema, read_json, write_tensors
from miniature.buffers import SIZE
from miniature.judge_network import JudgeNetwork, Widths, channels_last, split_details
from miniature.judge_verdicts import EVIDENCE, Beliefs, Calibration, evidence, probability, softmax
from miniature.pixels import to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS, CONFIG, REPORT = "judge.safetensors", "config.json", "report.csv"
SCHEMA = 1
MAX_BYTES = 64 * 2**20  # far above any judge's size: a larger file is something else
BATCH = 64
MEND = "build it again with  lorarar miniature build"


@dataclass(frozen=True)
class Seen:
    """The network's view of some images."""

    beliefs: Beliefs
    style: Float[np.ndarray, "n s"]

    def rows(self, rows: Sequence[int]) -> Seen:
        index = np.array(rows, int)
        return Seen({name: values[index] for name, values in self.beliefs.items()}, self.style[index])


def style_cosines(reference: Seen, test: Seen) -> Float[np.ndarray, "n 1"]:
    return (reference.style * test.style).sum(1, keepdims=True)


@dataclass
class MiniatureJudge:
    """A network and the calibration of its verdicts; a lorarar.evaluation Judge and Embedder."""

    network: JudgeNetwork
    calibration: Calibration
    facts: dict[str, Any] = field(default_factory=dict)  # how it was trained, and its measured accuracy
    name: str = MINIATURE

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "miniature",
            "name": self.name,
            "sha256": weights_sha256(self.network),
            "calibration": asdict(self.calibration),
            "accuracy": self.facts.get("accuracy", {}),
            "stands_in": True,
        }

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        return self.subject_probabilities(*self._pairs(questions)).tolist()

    def in_styles(self, questions: Sequence[Question]) -> list[float]:
        return self.style_probabilities(*self._pairs(questions)).tolist()

    def subject_probabilities(self, reference: Seen, test: Seen) -> Float[np.ndarray, " n"]:
        """Return P(same subject) of every row's pair."""
        return probability(evidence(reference.beliefs, test.beliefs), self.calibration.subject)

    def style_probabilities(self, reference: Seen, test: Seen) -> Float[np.ndarray, " n"]:
        """Return P(in the reference's style) of every row's pair."""
        return probability(style_cosines(reference, test), self.calibration.style)

    def subject_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"]:
        """Return the root of all beliefs, of unit length: a cosine is the mean overlap of two images' beliefs."""
        roots = np.concatenate([np.sqrt(values) for values in self.see(pixels(images)).beliefs.values()], axis=1)
        return roots / np.linalg.norm(roots, axis=1, keepdims=True)

    def style_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"]:
        return self.see(pixels(images)).style

    def text_embedding(self, text: str) -> None:
        """Return None: the judge reads no words."""

    @torch.inference_mode()
    def see(self, images: UInt8[np.ndarray, "n h w 3"]) -> Seen:
        """Run the network on images of its size."""
        found = [self.network(to_input(images[first : first + BATCH])) for first in range(0, len(images), BATCH)]
        logits, style = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Seen({name: softmax(part.numpy()) for name, part in split_details(logits).items()}, style.numpy())

    def _pairs(self, questions: Sequence[Question]) -> tuple[Seen, Seen]:
        """Return both sides of all questions. The same images are asked about many times; each is seen once."""
        images = {id(image): image for question in questions for image in (question.reference, question.test)}
        place = {key: row for row, key in enumerate(images)}
        seen = self.see(pixels(list(images.values())))
        reference = seen.rows([place[id(question.reference)] for question in questions])
        return reference, seen.rows([place[id(question.test)] for question in questions])


def pixels(images: Sequence[Image]) -> UInt8[np.ndarray, "n side side 3"]:
    """Return images of any size as the network takes them."""
    from PIL import Image

    stacked = np.empty((len(images), SIZE, SIZE, 3), np.uint8)
    for row, image in enumerate(images):
        colour = image.convert("RGB")
        if colour.size != (SIZE, SIZE):
            colour = colour.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        stacked[row] = np.asarray(colour)
    return stacked


def to_input(images: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Turn images into what the network takes, in the order in memory that convolutions are fastest in."""
    pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(images)))
    return pixels.contiguous(memory_format=torch.channels_last)


def save_judge(judge: MiniatureJudge, folder: Path, report: str | None = None) -> None:
    """Write weights (half precision, norms in single), everything else as JSON, and the report's table beside them."""
    config = {
        "schema_version": SCHEMA,
        "judge": MINIATURE,
        "widths": {name: asdict(widths) for name, widths in judge.network.widths.items()},
        "evidence": list(EVIDENCE),
        "calibration": asdict(judge.calibration),
        **judge.facts,
    }
    with atomic_folder(folder) as temporary:
        write_tensors(_shipped(judge.network), temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if report is not None:
            (temporary / REPORT).write_text(report, encoding="utf-8")


def shipped_judge(folder: Path | None = None) -> MiniatureJudge:
    """Open the judge in a folder, or the shipped miniature's: what the entry point `lorarar.judges` names.

    Raises InputError when it is not there or damaged.
    """
    folder = miniature_folder() / JUDGE_FOLDER if folder is None else folder
    if not folder.is_dir():
        raise InputError(f"the miniature's judge is not in {folder}; {MEND}")
    return load_judge(folder)


def load_judge(folder: Path) -> MiniatureJudge:
    """Read what `save_judge` wrote. Raises InputError when something is missing, damaged or of another version."""
    config = read_json(
        folder / CONFIG,
        what="the miniature's judge",
        mend=MEND,
        schema=package_schema(__package__, "judge.schema.json"),
        limit=MAX_BYTES,
    )
    if config["evidence"] != list(EVIDENCE):
        raise InputError(f"{folder}: the judge weighs other evidence than this version does; {MEND}")
    subject, style = (tuple(map(float, config["calibration"][side])) for side in ("subject", "style"))
    if len(subject) != len(EVIDENCE) + 1 or len(style) != 2:
        raise InputError(f"{folder}: the judge has a calibration of other length; {MEND}")
    widths = {
        side: Widths(int(found["stem"]), tuple(map(int, found["channels"])), tuple(map(int, found["blocks"])))
        for side, found in config["widths"].items()
    }
    network = _network(widths, folder / WEIGHTS)
    kept = ("schema_version", "judge", "widths", "evidence", "calibration")
    facts = {name: value for name, value in config.items() if name not in kept}
    return MiniatureJudge(network, Calibration(subject, (style[0], style[1])), facts)


def weights_sha256(network: JudgeNetwork) -> str:
    """Return the SHA-256 of the weights as they are shipped: the same before saving and after loading."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_shipped(network).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def round_weights(network: JudgeNetwork) -> None:
    """Round to the shipped precision in place, so that a judge just trained answers as the saved one will."""
    network.load_state_dict({name: value.float() for name, value in _shipped(network).items()}, strict=False)


def _shipped(network: JudgeNetwork) -> dict[str, Tensor]:
    weights = {name: value.detach() for name, value in network.state_dict().items() if value.is_floating_point()}
    return {name: (value.half() if value.ndim > 1 else value.float()).contiguous() for name, value in weights.items()}


def _network(widths: dict[str, Widths], path: Path) -> JudgeNetwork:
    """Read a network of these widths. Raises InputError for weights that are missing, damaged or of another one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; {MEND}")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: too large for the miniature's judge; {MEND}")
    network = JudgeNetwork(**widths)
    shapes = {name: value.shape for name, value in _shipped(network).items()}
    try:
        weights = {name: value.float() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{path}: the judge's weights are damaged ({said_by(error)}); {MEND}") from None
    if {name: value.shape for name, value in weights.items()} != shapes:
        raise InputError(f"{path}: other weights than the {len(shapes)} of the judge; {MEND}")
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise InputError(f"{path}: some of the judge's weights are not finite; {MEND}")
    network.load_state_dict(weights, strict=False)
    return channels_last(network).eval().requires_grad_(False)
