"""What coefficients depend on: shares of effects that are put in, and of merges that another command makes."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tiny_pipeline import save_tiny_evaluation

from lorarar.base.names import load_layout
from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation.coefficients import shares, tables
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.lora import read_lora, write_lora
from lorarar.merging import learned_options, merge_loras
from lorarar.training.dataset import read_dataset

CONTENTS, STYLES, COLUMNS = 4, 3, 6


def balanced(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random numbers whose mean over each axis that is longer than 1 is zero: an effect beside others'."""
    values = rng.normal(size=shape)
    for axis, length in enumerate(shape):
        if length > 1:
            values -= values.mean(axis, keepdims=True)
    return values


def test_shares_are_those_of_the_effects_put_in() -> None:
    rng = np.random.default_rng(0)
    sizes = {"layer": 0.5, "column": 1.0, "content": 2.0, "style": 1.5, "pair": 0.7}
    shapes = {
        "column": (1, 1, COLUMNS),
        "content": (CONTENTS, 1, COLUMNS),
        "style": (1, STYLES, COLUMNS),
        "pair": (CONTENTS, STYLES, COLUMNS),
    }
    squares = dict.fromkeys(sizes, 0.0)
    values, levels = {}, balanced(rng, 5) * sizes["layer"]
    for number, level in enumerate(levels):
        layer = np.full((CONTENTS, STYLES, COLUMNS), 0.8 + level)
        squares["layer"] += layer.size * level**2
        for name, shape in shapes.items():
            effect = np.broadcast_to(balanced(rng, *shape) * sizes[name], layer.shape)
            squares[name] += float((effect**2).sum())
            layer = layer + effect
        values[f"unet.up_blocks.{number}.attn1.to_q"] = np.stack([layer, np.zeros_like(layer)], axis=2)
    found = shares(values, 0)
    total = sum(squares.values())
    assert found.mean == pytest.approx(0.8, abs=1e-12)
    assert found.deviation == pytest.approx(np.sqrt(total / (5 * CONTENTS * STYLES * COLUMNS)), rel=1e-12)
    for name, square in squares.items():
        assert getattr(found, name) == pytest.approx(square / total, rel=1e-9), name


def test_places_are_told_with_the_means_of_each_role() -> None:
    """Two layers of one place are taken together; m_c and m_s, and cross- and self-attention, are told apart."""
    levels = {
        "up_blocks.1.a.0.attn2.to_k": (1, 2),
        "up_blocks.1.a.1.attn2.to_k": (3, 6),
        "up_blocks.1.a.0.attn1.to_k": (7, 8),
    }
    values = {
        f"unet.{layer}": np.broadcast_to(np.array(pair, float)[:, None], (2, 3, 2, 4)) for layer, pair in levels.items()
    }
    _, places = tables({"learned": values})
    assert [list(row[1:]) for row in places.rows] == [["up 1", "cross", "k", 2, 4], ["up 1", "self", "k", 7, 8]]


def test_equal_coefficients_depend_on_nothing() -> None:
    values = {f"unet.mid_block.{end}": np.full((2, 2, 2, 3), 0.5, np.float32) for end in ("to_q", "to_v")}
    found = shares(values, 1)
    assert (found.mean, found.deviation) == (0.5, 0.0)
    assert {found.layer, found.column, found.content, found.style, found.pair} == {None}
    told, places = tables({"learned": values})
    assert "–" in told.markdown() and [row[1:4] for row in places.rows] == [
        ("mid", "self", "q"),
        ("mid", "self", "v"),
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a dataset with two test contents and two test styles, and a hypernetwork."""
    return save_tiny_evaluation(tmp_path_factory.mktemp("world"), ("contents", "styles"), ("hyper",))


def arguments(world: Path, output: Path, *more: str) -> list[str]:
    given = ["--base", str(world / "base"), "--dataset", str(world / "data"), "--coefficients"]
    if any("learned" in word for word in more):
        given += ["--hypernet", str(world / "hyper.safetensors")]
    return [*given, "-o", str(output), *more]


def test_the_command_tells_what_merging_gives(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(world, tmp_path, "--methods", "learned-acfg,ziplora", "--zip-steps", "2")) == 0
    assert "What the coefficients depend on" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "coefficients.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with (tmp_path / "coefficients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["of"]) for row in rows] == [
        *product(["LoRA.rar, asymmetric guidance"], ["m_c", "m_s"]),
        *product(["ZipLoRA"], ["m_c", "m_s"]),
    ]
    layout = load_layout(str(world / "base"))
    options = learned_options(load_predictor(world / "hyper.safetensors").predictor)
    contents, styles = read_dataset(world / "data").part("paper", "test")
    merges = [
        merge_loras(read_lora(content.lora), read_lora(style.lora), layout, "learned", options).coefficients
        for content, style in product(contents, styles)
    ]
    for role, row in enumerate(rows[:2]):
        every = np.concatenate([pair[role] for merged in merges for pair in (merged or {}).values()])
        assert float(row["mean"]) == pytest.approx(every.mean(dtype=np.float64), rel=1e-5)
        assert sum(float(row[name]) for name in ("layer", "column", "content", "style", "pair")) == pytest.approx(1)
        assert float(row["content"]) > 0 and float(row["style"]) > 0


def test_checkpoints_alone_are_told(world: Path, tmp_path: Path) -> None:
    assert main(arguments(world, tmp_path, "--hypernets", f"mine={world / 'hyper.safetensors'}")) == 0
    with (tmp_path / "coefficients.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["mine", "mine"]


@pytest.mark.parametrize(
    "more, message",
    [
        (["--methods", "learned,direct"], "direct has no coefficients; --methods with --coefficients are ziplora"),
        (["--methods", "learned", "--images", "2"], "nothing is drawn or judged; leave --images out"),
        (["--methods", "learned", "--judge", "miniature"], "nothing is drawn or judged; leave --judge out"),
        (["--methods", "learned", "--steps", "2"], "nothing is drawn or judged; leave --steps out"),
        (["--methods", "learned", "--guidance-rescale", "0"], "nothing is drawn or judged; leave --guidance-rescale"),
    ],
)
def test_refusals(world: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments(world, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_loras_of_other_layers_are_refused(world: Path, tmp_path: Path) -> None:
    """A layer that one LoRA lacks has no coefficients in its pairs."""
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    content = read_dataset(data).part("paper", "test")[0][0]
    lora = read_lora(content.lora)
    gone = next(name for name in lora.layers if name.endswith("to_q"))
    write_lora(replace(lora, layers={k: v for k, v in lora.layers.items() if k != gone}), content.lora)
    given = arguments(world, tmp_path / "out", "--methods", "learned")
    given[given.index(str(world / "data"))] = str(data)
    with pytest.raises(InputError, match=r"not all pairs have coefficients for .*to_q"):
        main(given)
