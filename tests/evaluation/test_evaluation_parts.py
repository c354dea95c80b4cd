"""The names, seeds and fingerprints of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorarar.base.components import fingerprint
from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation.generate import image_seeds
from lorarar.training.dataset import safe_name


def test_seeds_are_the_pairs_own_and_grow_with_the_images() -> None:
    assert image_seeds(0, "dog", "ink", 3) == image_seeds(0, "dog", "ink", 5)[:3]
    assert (
        len({*image_seeds(0, "dog", "ink", 5), *image_seeds(0, "cat", "ink", 5), *image_seeds(1, "dog", "ink", 5)})
        == 15
    )


def test_safe_names() -> None:
    assert safe_name("dog_1.x-y") == "dog_1.x-y"
    names = {safe_name(name) for name in ("../a", "..", "a/b", "a b", "a_b", "犬", "猫")}
    assert len(names) == 7
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_fingerprint_tells_weights_apart() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--methods", "direct"], "--judge is missing: give a vision-language model's"),
        (["--methods", "direct,learned", "--judge", "j"], "a hypernetwork for sdxl-folder is needed: give --hypernet"),
    ],
)
def test_another_base_gets_nothing_of_the_miniatures(given: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        main(["--base", "sdxl-folder", *given, "-o", str(tmp_path / "run")])
