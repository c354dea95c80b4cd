"""What the options of `lorarar generate` and `lorarar sheet` ask of a session; stand-ins run the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_in import HYPERNET, make_bundle, stand_in_backend

from lorarar.commands.generate import main as generate
from lorarar.commands.sheet import main as contact_sheet
from lorarar.composed import COMPOSED_SHARE, ComposedStart
from lorarar.errors import InputError
from runtime_py.backends import onnx
from runtime_py.pipeline import Drawn, Pipeline, Request
from runtime_py.session import Session

PAIR = ["--content", "dog", "--style", "paint"]
SUBJECT = ["--subject", "a dog", "--subject-class", "an animal"]
DEFAULTS = {
    "prompt": "a dog",
    "seed": 0,
    "steps": None,
    "guidance": None,
    "negative": None,
    "guidance_without_lora": False,
    "composed": None,
    "guidance_rescale": None,
}
MERGED = {"loras": ["dog", "paint"], "method": "learned", "strengths": [1.0, 1.0]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("stand-in") / "bundle")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a session was asked for; it loads no LoRA, and draws with the base."""
    found: dict[str, Any] = {}
    request, draw = Pipeline.request, Session.draw

    def noted(self: Pipeline, prompt: str, **given: Any) -> Request:
        found.update(prompt=prompt, **given)
        return request(self, prompt, **given)

    def without_composed(self: Session, request: Request, **given: Any) -> Drawn:
        found["drawn"] = draw(self, replace(request, composed=None), **given)
        return found["drawn"]

    def loaded(_: Session, loras: Sequence[Path]) -> None:
        found["loras"] = list(map(str, loras))

    def merged(_: Session, method: str, *, strengths: Sequence[float]) -> None:
        found.update(method=method, strengths=list(strengths))

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend())
    monkeypatch.setattr(Pipeline, "request", noted)
    monkeypatch.setattr(Session, "draw", without_composed)
    monkeypatch.setattr(Session, "load", loaded)
    monkeypatch.setattr(Session, "merge", merged)
    return found


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], {"loras": []}),
        (PAIR, MERGED),
        ([*PAIR, "--content-scale", "0.5"], MERGED | {"strengths": [0.5, 1.0]}),
        ([*PAIR, "--style-scale", "0"], MERGED | {"strengths": [1.0, 0.0]}),
        ([*PAIR, "--method", "direct"], MERGED | {"method": "direct"}),
        (
            [*PAIR, "--lora", "light", "--lora", "lines"],
            {"loras": ["dog", "paint", "light", "lines"], "method": "learned", "strengths": [1.0] * 4},
        ),
        (
            [*PAIR, *("--lora", "light", "--lora", "lines", "--lora-scale", "2", "--lora-scale", "3")],
            {"loras": ["dog", "paint", "light", "lines"], "method": "learned", "strengths": [1.0, 1.0, 2.0, 3.0]},
        ),
        (["--lora", "light", "--lora-scale", "2"], {"loras": ["light"], "method": "learned", "strengths": [2.0]}),
        (["--negative", "a house"], {"loras": [], "negative": "a house"}),
        (["--steps", "3"], {"loras": [], "steps": 3}),
        (["--guidance", "2.5"], {"loras": [], "guidance": 2.5}),
        (["--guidance-rescale", "0.3"], {"loras": [], "guidance_rescale": 0.3}),
        (["--seed", "7"], {"loras": [], "seed": 7}),
        (["--guidance-without-lora"], {"loras": [], "guidance_without_lora": True}),
        ([*PAIR, *SUBJECT], MERGED | {"composed": ComposedStart("a dog", "an animal", COMPOSED_SHARE)}),
        (
            [*PAIR, *SUBJECT, "--composed-share", "1"],
            MERGED | {"composed": ComposedStart("a dog", "an animal", 1.0)},
        ),
    ],
)
def test_each_option_of_generate_reaches_the_session(
    bundle: Path, asked: dict[str, Any], tmp_path: Path, given: list[str], wanted: dict[str, Any]
) -> None:
    assert generate([str(bundle), "--prompt", "a dog", *given, "-o", str(tmp_path / "image.png")]) == 0
    drawn = asked.pop("drawn")
    assert asked == DEFAULTS | wanted
    with Image.open(tmp_path / "image.png") as image:
        np.testing.assert_array_equal(np.asarray(image), drawn.image)


FILES = ["--content", str(HYPERNET / "content.safetensors"), "--style", str(HYPERNET / "style.safetensors")]


@pytest.mark.parametrize("more", [[], ["--grid", "0:1.5:3"]], ids=["sheet", "grid"])
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], {}),
        (["--seed", "7"], {"seed": 7}),
        (["--steps", "3"], {"steps": 3}),
        (["--guidance", "2.5"], {"guidance": 2.5}),
        (["--guidance-rescale", "0.3"], {"guidance_rescale": 0.3}),
        (["--guidance-without-lora"], {"guidance_without_lora": True}),
        (SUBJECT, {"composed": ComposedStart("a dog", "an animal", COMPOSED_SHARE)}),
        ([*SUBJECT, "--composed-share", "1"], {"composed": ComposedStart("a dog", "an animal", 1.0)}),
    ],
)
def test_each_option_of_a_sheet_is_in_what_its_images_are_drawn_by(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    given: list[str],
    wanted: dict[str, Any],
) -> None:
    requests: list[Request] = []

    def noted(*told: Any) -> None:
        requests.extend(each for each in told if isinstance(each, Request))
        raise InputError("enough is known")

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend())
    for name in ("draw_grid", "draw_column"):
        monkeypatch.setattr(f"runtime_py.sheet.{name}", noted)
    with pytest.raises(InputError, match="enough is known"):
        contact_sheet([str(bundle), *FILES, "--prompt", "a dog", *more, *given, "-o", str(tmp_path / "sheet.png")])
    # The bundle's own numbers are 5 steps and a guidance of 3.
    assert requests == [replace(Request("a dog", 0, 5, 3.0, None), **wanted)]


def test_a_composed_start_is_of_the_images_of_both_loras(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []
    draw = Session.draw

    def noted(self: Session, request: Request, **given: Any) -> Drawn:
        requests.append(request)
        return draw(self, request, **given)

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend())
    monkeypatch.setattr(Session, "draw", noted)
    given = [*FILES, "--prompt", "a dog", "--steps", "1", *SUBJECT, "-o", str(tmp_path / "sheet.png")]
    assert contact_sheet([str(bundle), *given]) == 0
    start = ComposedStart("a dog", "an animal", COMPOSED_SHARE)
    assert [request.composed for request in requests] == [None, None, start, start]


def test_a_way_to_guide_without_guidance_is_refused(bundle: Path, tmp_path: Path) -> None:
    given = [str(bundle), "--prompt", "x", "--steps", "1", "--guidance", "1", "--guidance-without-lora"]
    with pytest.raises(InputError, match=r"guidance.without.lora.* means nothing without guidance"):
        generate([*given, "-o", str(tmp_path / "image.png")])


@pytest.mark.parametrize("given", [SUBJECT[:2], ["--composed-share", "1"], [*SUBJECT, "--subject", "b"]])
def test_half_a_composed_start_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend())
    with pytest.raises(InputError, match="subject"):
        contact_sheet([str(bundle), *FILES, "--prompt", "a dog", *given, "-o", str(tmp_path / "sheet.png")])
