"""CLIP-I, DINO and CLIP-T with tiny random models, against their definitions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lorarar.base.untrained import build_tokenizer
from lorarar.errors import InputError
from lorarar.evaluation.metrics import Embedder, TransformersEmbedder, choose_embedder, cosines, similarities
from lorarar.toolchains import quiet_toolchains

TEXT = "a dog in watercolor style"


def image(seed: int, mode: str = "RGB") -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((40, 30)).convert(mode)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny CLIP and a tiny ViT of DINO's kind."""
    folder = tmp_path_factory.mktemp("metrics")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with quiet_toolchains(), torch.random.fork_rng(devices=[]):
        from transformers import (
            CLIPConfig,
            CLIPImageProcessor,
            CLIPModel,
            CLIPProcessor,
            ViTConfig,
            ViTImageProcessor,
            ViTModel,
        )

        torch.manual_seed(0)
        tokenizer = build_tokenizer([TEXT])
        text = sizes | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
        text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
        vision = sizes | {"image_size": 16, "patch_size": 8, "projection_dim": 8}
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder / "clip")
        processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        CLIPProcessor(processor, tokenizer).save_pretrained(folder / "clip")
        ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(
            folder / "dino"
        )
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "dino")
    return str(folder / "clip"), str(folder / "dino")


@pytest.fixture(scope="module")
def embedder(folders: tuple[str, str]) -> TransformersEmbedder:
    return TransformersEmbedder(*folders, batch=2)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_similarities_by_definition(embedder: TransformersEmbedder) -> None:
    images, subjects, style = [image(1), image(2), image(3)], [image(4), image(5)], image(6)
    assert embedder.clip is not None and embedder.dino is not None
    clip, processor = embedder.clip
    dino, dino_processor = embedder.dino

    def clip_row(picture: Image.Image) -> np.ndarray:
        with torch.inference_mode():
            output = clip.get_image_features(**processor(images=picture, return_tensors="pt"))
        return getattr(output, "pooler_output", output)[0].double().numpy()

    def dino_row(picture: Image.Image) -> np.ndarray:
        with torch.inference_mode():
            return dino(**dino_processor(picture, return_tensors="pt")).last_hidden_state[0, 0].double().numpy()

    with torch.inference_mode():
        output = clip.get_text_features(**processor(text=[TEXT], return_tensors="pt"))
    words = getattr(output, "pooler_output", output)[0].double().numpy()
    found = similarities(embedder, images, subjects, style, TEXT)
    for picture, metrics in zip(images, found, strict=True):
        assert metrics["clip_i"] == pytest.approx(cosine(clip_row(picture), clip_row(style)), abs=1e-5)
        expected = np.mean([cosine(dino_row(picture), dino_row(subject)) for subject in subjects])
        assert metrics["dino"] == pytest.approx(expected, abs=1e-5)
        assert metrics["clip_t"] == pytest.approx(cosine(clip_row(picture), words), abs=1e-5)


def test_an_image_is_looked_at_once_by_each_model(
    embedder: TransformersEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedder.clip is not None and embedder.dino is not None
    looked: dict[str, int] = {"clip": 0, "dino": 0}

    def counted(name: str, model: torch.nn.Module) -> None:
        forward = model.forward

        def seen(*args: Any, pixel_values: torch.Tensor, **given: Any) -> Any:
            looked[name] += len(pixel_values)
            return forward(*args, pixel_values=pixel_values, **given)

        monkeypatch.setattr(model, "forward", seen)

    counted("clip", embedder.clip[0].vision_model)
    counted("dino", embedder.dino[0])
    similarities(embedder, [image(1), image(2)], [image(4)], image(6), TEXT)
    assert looked == {"clip": 3, "dino": 3}


def test_a_copy_of_a_reference_has_the_largest_similarity(embedder: TransformersEmbedder) -> None:
    style, subject = image(6), image(4)
    copied_style, copied_subject = similarities(embedder, [style, subject], [subject], style, TEXT)
    assert copied_style["clip_i"] == pytest.approx(1)
    assert copied_subject["dino"] == pytest.approx(1)
    assert copied_subject["clip_i"] < 1


def test_any_image_mode(embedder: TransformersEmbedder) -> None:
    plain, other = similarities(embedder, [image(1), image(1, "RGBA")], [image(4, "L")], image(6, "P"), TEXT)
    assert plain == pytest.approx(other)


def test_a_missing_model_leaves_its_metrics_out(folders: tuple[str, str]) -> None:
    only_dino = TransformersEmbedder(None, folders[1])
    assert similarities(only_dino, [image(1)], [image(2)], image(3), TEXT)[0].keys() == {"dino"}
    told = only_dino.describe()
    assert (told["kind"], told["dino"], "clip" in told) == ("transformers", "dino", False)
    assert [*told["weights"]] == [*told["processors"]] == ["dino"]


def test_other_weights_in_a_folder_of_the_same_name_are_told_apart(folders: tuple[str, str], tmp_path: Path) -> None:
    """Kept similarities are of the model that measured them."""
    first, second = (TransformersEmbedder(None, folders[1]) for _ in range(2))
    assert first.describe() == second.describe()
    weights = Path(shutil.copytree(folders[1], tmp_path / Path(folders[1]).name)) / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert first.describe() != TransformersEmbedder(None, str(weights.parent)).describe()


def test_a_model_that_lacks_weights_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    """But for a ViT's pooler, which DINO's kind has not."""
    weights = Path(shutil.copytree(folders[0], tmp_path / "clip")) / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if not name.startswith("visual_projection")}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(InputError, match="clip' lacks weights"):
        TransformersEmbedder(str(weights.parent), None)


def test_another_size_of_images_is_told(folders: tuple[str, str], tmp_path: Path) -> None:
    path = Path(shutil.copytree(folders[1], tmp_path / Path(folders[1]).name)) / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config["image_mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(config))
    first, second = (TransformersEmbedder(None, folder).describe() for folder in (folders[1], str(path.parent)))
    assert {name for name, value in first.items() if value != second[name]} == {"processors"}


def test_cosines_of_zero_rows_are_zero() -> None:
    assert cosines(np.zeros((1, 3)), np.ones((2, 3))).tolist() == [[0, 0]]


class JudgeWithEmbeddings:
    def describe(self) -> dict[str, Any]:
        return {"stands_in": True}

    def subject_embeddings(self, images: list[Image.Image]) -> np.ndarray:
        return np.array([[1.0, 0.0]] * len(images))

    style_embeddings = subject_embeddings

    def text_embedding(self, text: str) -> None:
        return None


def test_the_judges_embeddings_stand_in(folders: tuple[str, str]) -> None:
    judge = JudgeWithEmbeddings()
    assert choose_embedder(judge, None, None) is judge
    assert similarities(judge, [image(1)], [image(2)], image(3), TEXT) == [{"clip_i": 1.0, "dino": 1.0}]
    assert choose_embedder(object(), None, None) is None
    chosen = choose_embedder(judge, folders[0], None)
    assert isinstance(chosen, Embedder)
    assert chosen is not judge


def test_models_that_are_not_there(folders: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be loaded"):
        TransformersEmbedder(str(tmp_path), None)
    with pytest.raises(InputError, match="not a CLIP"):
        TransformersEmbedder(folders[1], None)
