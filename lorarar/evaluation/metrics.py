"""Measure the usual similarities (paper §4, Table A2): for information, since each rewards copying one reference.

- **CLIP-I**: cosine of the image's and the style reference's CLIP image embeddings.
- **DINO**: cosine of the image's and a subject reference's DINO class tokens, averaged over the references.
- **CLIP-T**: cosine of the image's CLIP embedding and that of the prompt without its rare token, which CLIP does not
  know ("a dog in watercolour style").

A metric without its model is left out, and the tables say so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError, said_by
from lorarar.toolchains import TRAINING, named_if_missing, quiet_toolchains

if TYPE_CHECKING:
    from PIL.Image import Image

STYLE, SUBJECT, TEXT = "clip_i", "dino", "clip_t"
METRICS = {STYLE: "CLIP-I", SUBJECT: "DINO", TEXT: "CLIP-T"}


@runtime_checkable
class Embedder(Protocol):
    """A source of the embeddings that metrics are made of, of any length; None where there is no model for them."""

    def describe(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, as JSON, with `stands_in` where it is not CLIP and DINO."""
        ...

    def subject_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"] | None: ...

    def style_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"] | None: ...

    def text_embedding(self, text: str) -> Float[np.ndarray, " d"] | None: ...


def similarities(
    embedder: Embedder, images: Sequence[Image], subjects: Sequence[Image], style: Image, text: str
) -> list[dict[str, float]]:
    """Return the metrics of each image against a pair's references, in order, as far as the embedder can give them."""
    found, count = {}, len(images)
    looks = embedder.style_embeddings([*images, style])
    words = None if looks is None else embedder.text_embedding(text)
    things = embedder.subject_embeddings([*images, *subjects])
    if looks is not None:
        found[STYLE] = cosines(looks[:count], looks[count:])[:, 0]
    if things is not None:
        found[SUBJECT] = cosines(things[:count], things[count:]).mean(axis=1)
    if looks is not None and words is not None:
        found[TEXT] = cosines(looks[:count], words[None])[:, 0]
    return [{name: float(values[row]) for name, values in found.items()} for row in range(len(images))]


def cosines(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Return the cosine of every row of one with every row of the other; 0 for a row of zeros."""

    def unit(rows: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k d"]:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return unit(first.astype(np.float64)) @ unit(second.astype(np.float64)).T


def processor_digest(processor: Any) -> str:
    """Return what tells how a model of transformers is given images and words: sizes, chat template, vocabulary."""
    images, words = getattr(processor, "image_processor", processor), getattr(processor, "tokenizer", None)
    template, vocabulary = getattr(processor, "chat_template", None), {} if words is None else words.get_vocab()
    parts = [template, images.to_dict(), sorted(vocabulary.items())]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class TransformersEmbedder:
    """The embedder of CLIP and DINO, from folders or hub ids; either may be left out."""

    def __init__(self, clip: str | None, dino: str | None, device: str = "cpu", batch: int = 16) -> None:
        """Load the models. Raises InputError when one can't be had or is of another kind."""
        from lorarar.base.components import fingerprint  # imports torch, and tables of results must not

        self.device, self.batch = device, batch
        self.sources = {"clip": clip, "dino": dino}
        self.clip = _load(clip, "CLIPModel", "CLIPProcessor", device) if clip else None
        self.dino = _load(dino, "AutoModel", "AutoImageProcessor", device) if dino else None
        loaded = {"clip": self.clip, "dino": self.dino}
        # Once: every pair's similarities are kept with it.
        self.weights = {role: fingerprint(found[0]) for role, found in loaded.items() if found is not None}
        self.processors = {role: processor_digest(found[1]) for role, found in loaded.items() if found is not None}

    def describe(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, as JSON."""
        names = {role: Path(source).name for role, source in self.sources.items() if source}
        return {"kind": "transformers", **names, "weights": self.weights, "processors": self.processors}

    def subject_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"] | None:
        if self.dino is None:
            return None
        model, processor = self.dino
        return self._rows(images, processor, lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0])

    def style_embeddings(self, images: Sequence[Image]) -> Float[np.ndarray, "n d"] | None:
        if self.clip is None:
            return None
        model, processor = self.clip
        return self._rows(
            images,
            processor.image_processor,
            lambda pixels: model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
        )

    def text_embedding(self, text: str) -> Float[np.ndarray, " d"] | None:
        import torch

        if self.clip is None:
            return None
        model, processor = self.clip
        with torch.inference_mode():
            tokens = processor.tokenizer([text], truncation=True, return_tensors="pt").to(self.device)
            words = model.text_projection(model.text_model(**tokens).pooler_output)
        return words.float().cpu().numpy()[0]

    def _rows(self, images: Sequence[Image], processor: Any, embed: Any) -> Float[np.ndarray, "n d"]:
        import torch

        rows = []
        for first in range(0, len(images), self.batch):
            few = [image.convert("RGB") for image in images[first : first + self.batch]]
            pixels = processor(images=few, return_tensors="pt")["pixel_values"].to(self.device)
            with torch.inference_mode():
                rows.append(embed(pixels).float().cpu().numpy())
        return np.concatenate(rows)


def choose_embedder(judge: Any, clip: str | None, dino: str | None, device: str = "cpu") -> Embedder | None:
    """Choose CLIP and DINO where they are given, else the judge's own embeddings, if it has any, else no metrics."""
    if clip or dino:
        return TransformersEmbedder(clip, dino, device)
    return judge if isinstance(judge, Embedder) else None


def _load(source: str, kind: str, reader: str, device: str) -> tuple[Any, Any]:
    with named_if_missing(TRAINING, "train"):
        import transformers
    try:
        with quiet_toolchains():
            model_type = transformers.AutoConfig.from_pretrained(source).model_type
            if kind == "CLIPModel" and model_type != "clip":
                raise InputError(f"the metrics' model {source!r} is a {model_type}, not a CLIP; give a CLIP model")
            model, told = getattr(transformers, kind).from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
            # Transformers draws at random what a file lacks.
            lacking = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
            pooler = [name for name in lacking if name.startswith("pooler.")]  # a ViT's, which nothing here uses
            if len(pooler) < len(lacking):
                raise InputError(f"the metrics' model {source!r} lacks weights; get the model again")
            for name in pooler:
                model.get_parameter(name).data.zero_()
            processor = getattr(transformers, reader).from_pretrained(source)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ImportError) as error:
        raise InputError(
            f"the metrics' model {source!r} can't be loaded ({said_by(error)}); give a folder or hub id"
        ) from None
    return model.eval().requires_grad_(False).to(device), processor
