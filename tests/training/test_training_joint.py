"""A step's rows: which prompts, images, noise and LoRAs stand for a pair, in the joint term too, which counts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hyper_world import World
from tiny_pipeline import save_image
from torch import Tensor

from lorarar.base.components import Components, Condition, encode_images, encode_prompts, load_image, target
from lorarar.commands.train import main
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.layout import UNET
from lorarar.lora import read_lora
from lorarar.training import joint as joint_term
from lorarar.training.dataset import merged_prompt
from lorarar.training.hyper_settings import LossSettings, ZipSettings
from lorarar.training.joint import JointBatch
from lorarar.training.pair_data import PairData, load_parts

PAIR = ("content_0", "style_1")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of one of the training pairs, and another's empty folder, as a stopped evaluation leaves it."""
    (tmp_path / "pairs" / "content_1--style_1").mkdir(parents=True)
    for index in range(2):
        save_image(tmp_path / "pairs" / "--".join(PAIR) / f"{index}.png", seed=[index])
    return tmp_path / "pairs"


def data_of(world: World, kind: str, images: Path | None = None) -> PairData:
    return load_parts(world.components, world.layout, world.dataset, "paper", None, 0, kind, images).train


def joint_of(world: World, data: PairData, count: int = 12) -> tuple[JointBatch, list[tuple[str, str]], Tensor]:
    """The joint rows of a draw, the names of its pairs, and its noise."""
    draw = data.draw(0, count, 0, 1000)
    batch, _ = data.batch(world.components, draw)
    contents, styles = world.dataset.part("paper", "train")
    assert batch.joint is not None
    return batch.joint, [(contents[c].name, styles[s].name) for c, s in draw.pairs], draw.joint_noise


def assert_told(found: Condition, row: int, world: World, prompt: str) -> None:
    want = encode_prompts(world.components, [prompt])
    torch.testing.assert_close(found.embeds[row], want.embeds[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled[row], want.pooled[0], rtol=0, atol=1e-5)


def test_prompts_are_encoded_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counting(components: Components, prompts: Sequence[str]) -> Condition:
        sizes.append(len(prompts))
        return encode_prompts(components, prompts)

    monkeypatch.setattr(joint_term, "encode_prompts", counting)
    monkeypatch.setattr(joint_term, "PROMPTS_AT_ONCE", 2)
    batch, pairs, _ = joint_of(world, data_of(world, "composed"))
    assert len(sizes) > 3 and set(sizes) <= {1, 2}
    for row, (content, style) in enumerate(pairs):
        prompt = merged_prompt(world.dataset.contents[content], world.dataset.styles[style])
        assert_told(batch.condition, row, world, prompt)


def test_rows_are_noised_images_under_their_prompts_beside_their_loras(world: World) -> None:
    """Content and style in turn, each with the image, noise and time of its own draw, and the pair's LoRAs."""
    data, (contents, styles) = world.parts.train, world.dataset.part("paper", "train")
    draw = data.draw(0, 8, 0, 1000)
    batch, packs = data.batch(world.components, draw)
    entries = [entry for content, style in draw.pairs for entry in (contents[content], styles[style])]
    shares = zip(entries, draw.images.flatten().tolist(), strict=True)
    files = [entry.images[int(share * len(entry.images))] for entry, share in shares]
    assert {file.name for file in files[::2]} == {"0.png", "1.png"} and len({*files}) > 5
    latents = encode_images(world.components, torch.stack([load_image(file, 32) for file in files]))
    want = world.components.noise.add_noise(latents, draw.noise.flatten(0, 1), draw.timesteps.flatten())
    torch.testing.assert_close(batch.latents, want, rtol=0, atol=1e-5)
    assert torch.equal(batch.timesteps, draw.timesteps.flatten()) and batch.joint is None
    told = encode_prompts(world.components, [entry.prompt for entry in entries])
    torch.testing.assert_close(vars(batch.condition), vars(told), rtol=0, atol=1e-5)
    loras = [read_lora(entry.lora) for entry in entries]
    for group in world.layout.groups:
        for row, lora in enumerate(loras):
            factors, delta = packs[row % 2][group.name], lora.layers[UNET + group.modules[-1]].delta()
            have = factors.up[row // 2, -1] @ factors.down[row // 2, -1]
            torch.testing.assert_close(have, torch.from_numpy(delta), rtol=0, atol=1e-5)


def test_other_draws_are_the_same_with_a_joint_term(world: World) -> None:
    plain, joint = (data_of(world, kind).draw(3, 4, 1, 1000) for kind in ("none", "composed"))
    assert plain.pairs == joint.pairs
    for name in ("images", "noise", "timesteps"):
        assert torch.equal(getattr(plain, name), getattr(joint, name))
    assert not torch.equal(joint.joint_noise, joint.noise[:, 0])
    again = joint.take([2])
    assert torch.equal(again.joint_timesteps, joint.joint_timesteps[2:3]) and again.pairs == joint.pairs[2:3]


def test_composed_rows_have_the_prompts_of_both_and_of_neither(world: World) -> None:
    joint, names, noise = joint_of(world, data_of(world, "composed"))
    assert joint.apart is not None and joint.plain is not None and joint.goal is None
    clean = set()
    for row, (content_name, style_name) in enumerate(names):
        content, style = world.dataset.contents[content_name], world.dataset.styles[style_name]
        assert_told(joint.condition, row, world, merged_prompt(content, style))
        assert_told(joint.apart, 2 * row, world, content.prompt)
        assert_told(joint.apart, 2 * row + 1, world, f"a {content.class_name} in {style.description} style")
        assert_told(joint.plain, row, world, f"a {content.class_name}")
        kinds = [
            kind
            for kind, entry in (("content", content), ("style", style))
            for path in entry.images
            if is_noised(world, joint, row, noise, path)
        ]
        assert len(kinds) == 1
        clean |= set(kinds)
    assert clean == {"content", "style"}  # both sides' images occur


def test_a_composed_answer_is_asked_on_images_of_the_pair_where_there_are_some(world: World, images: Path) -> None:
    joint, names, noise = joint_of(world, data_of(world, "composed", images))
    files = sorted((images / "--".join(PAIR)).iterdir())
    assert joint.goal is None and joint.known is None and PAIR in names
    for row, name in enumerate(names):
        assert any(is_noised(world, joint, row, noise, path) for path in files) == (name == PAIR)


def is_noised(world: World, joint: JointBatch, row: int, noise: Tensor, path: Path) -> bool:
    """Tell whether a row is this image under the draw's noise."""
    latent = encode_images(world.components, load_image(path, 32)[None])
    want = world.components.noise.add_noise(latent, noise[row : row + 1], joint.timesteps[row : row + 1])
    return torch.allclose(want[0], joint.latents[row], atol=1e-5)


def test_images_of_pairs_are_learned_where_there_are_some(world: World, images: Path) -> None:
    joint, names, noise = joint_of(world, data_of(world, "images", images))
    assert joint.goal is not None and joint.known is not None and joint.apart is None
    assert 0 < joint.known.sum() < len(names)
    files = sorted((images / "--".join(PAIR)).iterdir())
    used = set()
    for row, name in enumerate(names):
        assert bool(joint.known[row]) == (name == PAIR)
        if name != PAIR:
            continue
        (path,) = [path for path in files if is_noised(world, joint, row, noise, path)]
        latent = encode_images(world.components, load_image(path, 32)[None])
        goal = target(world.components, latent, noise[row : row + 1], joint.timesteps[row : row + 1])
        torch.testing.assert_close(joint.goal[row : row + 1], goal, rtol=0, atol=1e-5)
        used.add(path)
    assert used


@pytest.mark.parametrize("kind", ["composed", "images"])
def test_training_heeds_the_joint_term_and_records_it(kind: str, world: World, images: Path, tmp_path: Path) -> None:
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), "--steps", "4", "--hidden", "8"]
    given += ["--batch-pairs", "2", "--validate-every", "2", "--validation-draws", "1", "--combinations", "0"]
    more = ["--joint", kind, "--joint-weight", "3", *(["--joint-images", str(images)] if kind == "images" else [])]
    for name, flags in (("with", more), ("without", [])):
        assert main([*given, *flags, "-o", str(tmp_path / f"{name}.safetensors")]) == 0
    one, other = (load_predictor(tmp_path / f"{name}.safetensors") for name in ("with", "without"))
    pairs = zip(one.predictor.state_dict().values(), other.predictor.state_dict().values(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert one.training["loss"]["joint"] == kind and one.training["loss"]["joint_weight"] == 3.0
    assert one.training.get("joint_pairs") == (1 if kind == "images" else None)
    assert not any(str(tmp_path.parent) in str(value) for value in one.training.values())
    with (tmp_path / "with.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        weighed = float(row["content"]) + float(row["style"]) + 0.01 * float(row["orthogonality"])
        assert float(row["total"]) == pytest.approx(weighed + 3 * float(row["joint"]), rel=1e-4)
    assert any(float(row["joint"]) > 0 for row in rows)


def test_a_damaged_image_of_a_pair_is_told(world: World, images: Path) -> None:
    (images / "--".join(PAIR) / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png"):
        data_of(world, "images", images)


def test_ziplora_has_no_joint_term() -> None:
    with pytest.raises(InputError, match="ZipLoRA's loss has no joint term"):
        ZipSettings(loss=LossSettings(joint="composed"))
