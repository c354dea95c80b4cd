"""`lorarar evaluate` as a whole, on a tiny pipeline and dataset with a scripted judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scripted import ScriptedJudge, install
from tiny_pipeline import save_tiny_evaluation

from lorarar.base.names import unet_layout
from lorarar.command_line import given_settings
from lorarar.commands.evaluate import main, parser
from lorarar.errors import InputError
from lorarar.evaluation.generate import PutOn, Sampler, Sampling, image_seeds
from lorarar.evaluation.judges import Question
from lorarar.evaluation.methods import Workbench, fused_lora, mean_coefficients
from lorarar.evaluation.results import read_results
from lorarar.evaluation.settings import default_evaluation
from lorarar.hypernet.checkpoints import save_hypernet
from lorarar.hypernet.network import ConstantCoefficients, HypernetConfig, Hypernetwork
from lorarar.lora import LoRA
from lorarar.merging import learned_options
from lorarar.toolchains import quiet_toolchains
from lorarar.training.dataset import read_dataset
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.settings import LoraSettings

METHODS = (
    "content-only,style-only,direct,direct-sum,dare,ties,dare-ties,np-lora,knots-ties,norm-balance,k-lora,"
    "k-lora-released,ssr,ssr-text,block-router,direct-sum-acfg,schedule,craft,composed,composite,switch,learned,learned-kv-sum,"
    "learned-acfg,learned-composed-start,learned-mean"
)
FAST = ["--images", "2", "--steps", "2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a dataset with two test contents and one test style, and two hypernetworks."""
    return save_tiny_evaluation(tmp_path_factory.mktemp("world"), ("contents",), ("hyper", "other"))


def brighter(question: Question) -> float:
    """Yes to an image that is no darker than its reference."""
    return float(np.asarray(question.reference).mean() < np.asarray(question.test).mean() + 20)


def long_name(question: Question) -> float:
    """Yes to a style whose description is long."""
    return 0.9 if len(question.text) > 5 else 0.1


@pytest.fixture
def judge(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    return install(ScriptedJudge(brighter, long_name), tmp_path_factory.mktemp("site"), monkeypatch)


def arguments(world: Path, output: Path, *more: str) -> list[str]:
    given = ["--base", str(world / "base"), "--dataset", str(world / "data"), "--judge", "scripted"]
    if "--methods" not in more or any("learned" in word for word in more):
        given += ["--hypernet", str(world / "hyper.safetensors")]
    return [*given, *FAST, "-o", str(output), *more]


@pytest.fixture(scope="module")
def bench(world: Path) -> tuple[Sampler, Workbench]:
    sampler = Sampler.load(Sampling(str(world / "base"), steps=3, guidance=3.0, seed=1, guidance_rescale=0.5), "cpu", 2)
    layout = unet_layout(sampler.pipeline.unet, "tiny")
    settings = LoraSettings(rank=2, steps=1)
    return sampler, Workbench(
        sampler.components(), layout, read_dataset(world / "data"), "paper", settings, ZipSettings()
    )


def test_the_whole_flow(world: Path, tmp_path: Path, judge: ScriptedJudge, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs × two images × every method that needs no training, and one more checkpoint."""
    other = f"other={world / 'other.safetensors'},same-acfg={world / 'hyper.safetensors'}"
    assert main(arguments(world, tmp_path, "--methods", METHODS, "--hypernets", other)) == 0
    results = read_results(tmp_path)
    names = [*METHODS.split(","), "other", "same-acfg"]
    assert [method.name for method in results.methods] == names
    assert [(pair.content, pair.style) for pair in results.pairs] == [
        ("content_1", "style_3"),
        ("content_3", "style_3"),
    ]
    assert results.pairs[0].prompt == "a sks cat in mosaic style"
    for pair in results.pairs:
        for name in names:
            images = pair.methods[name]
            assert [(tmp_path / image.image).is_file() for image in images] == [True, True]
            assert all(len(image.p_subject) == 2 and image.p_style == 0.9 for image in images)
            assert all(
                set(image.controls) == {"subject_swapped", "style_swapped", "style_image_swapped"} for image in images
            )
            assert pair.merges[name].seconds > 0
        assert pair.merges["learned"].coefficient_seconds < pair.merges["learned"].seconds
        assert pair.merges["learned"].parameters == sum(
            tensor.numel() for tensor in Hypernetwork(HypernetConfig((32, 48), hidden=8)).parameters()
        )
    assert "LoRA.rar" in (shown := capsys.readouterr().out)
    assert "average case" in shown
    written = {path.name for path in tmp_path.iterdir()}
    assert {"results.json", "tables.md", "table_1.csv", "table_a3.csv", "controls.csv", "grid_methods.png"} <= written
    told = (tmp_path / "tables.md").read_text()
    assert str(world) not in told and "same, asymmetric guidance" in told
    images = png_bytes(tmp_path)
    drawn = {name: image for name, image in images.items() if "/learned-acfg/" in name}
    assert len(drawn) == 4
    assert all(images[name.replace("/learned-acfg/", "/same-acfg/")] == image for name, image in drawn.items())


def png_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("images/**/*.png"))}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.int16)


Draws = list[tuple[str, list[int]]]
CAT = ("a sks cat in mosaic style", image_seeds(0, "content_1", "style_3", 2))
HOUSE = ("a sks house in mosaic style", image_seeds(0, "content_3", "style_3", 2))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Draws:
    """The prompt and the seeds of each call that draws images from here on."""
    found: Draws = []
    draw = Sampler.draw

    def noted(self: Sampler, put_on: PutOn, prompt: str, seeds: Sequence[int]) -> Iterator[Image.Image]:
        found.append((prompt, list(seeds)))
        return draw(self, put_on, prompt, seeds)

    monkeypatch.setattr(Sampler, "draw", noted)
    return found


def test_methods_differ_and_share_their_prompts_and_noise(
    world: Path, tmp_path: Path, judge: ScriptedJudge, drawn: Draws
) -> None:
    main(arguments(world, tmp_path, "--methods", "direct,learned"))
    first = png_bytes(tmp_path)
    assert len(set(first.values())) == len(first) == 8
    assert drawn == [CAT, CAT, HOUSE, HOUSE]
    shutil.rmtree(tmp_path / "images" / "direct")
    main(arguments(world, tmp_path, "--methods", "direct,learned"))
    assert png_bytes(tmp_path) == first


def test_constant_coefficients_of_a_half_are_the_direct_merge(
    world: Path, tmp_path: Path, judge: ScriptedJudge
) -> None:
    save_hypernet(ConstantCoefficients(), tmp_path / "constant.safetensors")
    given = ["--methods", "direct", "--hypernets", f"constant={tmp_path / 'constant.safetensors'}"]
    assert main(arguments(world, tmp_path / "run", *given)) == 0
    images = png_bytes(tmp_path / "run")
    assert len(images) == 8
    for name, pixels in images.items():
        assert pixels == images[name.replace("/constant/", "/direct/")]
    merged = read_results(tmp_path / "run").pairs[0].merges
    assert (merged["constant"].parameters, merged["direct"].parameters) == (4, 0)


def test_a_second_run_makes_nothing_again(world: Path, tmp_path: Path, judge: ScriptedJudge, drawn: Draws) -> None:
    main(arguments(world, tmp_path, "--methods", "direct"))
    before, asked = (tmp_path / "results.json").read_bytes(), judge.asked
    gone = tmp_path / read_results(tmp_path).pairs[0].methods["direct"][1].image
    kept = pixels(gone)
    drawn.clear()
    main(arguments(world, tmp_path, "--methods", "direct"))
    assert (drawn, judge.asked) == ([], asked)
    assert (tmp_path / "results.json").read_bytes() == before
    described = gone.parent / "pair.json"
    note = described.read_bytes()
    described.unlink()
    main(arguments(world, tmp_path, "--methods", "direct"))
    assert drawn == [CAT] and json.loads(described.read_bytes())["facts"] == json.loads(note)["facts"]
    drawn.clear()
    gone.unlink()
    main(arguments(world, tmp_path, "--methods", "direct"))
    assert drawn == [(CAT[0], CAT[1][1:])]
    # One image alone rounds differently from two at once.
    assert np.abs(pixels(gone) - kept).max() <= 4
    drawn_again, asked = gone.read_bytes(), judge.asked
    drawn.clear()
    main(arguments(world, tmp_path, "--methods", "direct", "--images", "3"))
    third = [image_seeds(0, content, "style_3", 3)[2:] for content in ("content_1", "content_3")]
    assert drawn == [(CAT[0], third[0]), (HOUSE[0], third[1])]
    assert gone.read_bytes() == drawn_again


def test_images_of_other_settings_are_refused(world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    main(arguments(world, tmp_path, "--methods", "learned"))
    with pytest.raises(InputError, match=r"images made with other settings \(changed: sampling\)"):
        main(arguments(world, tmp_path, "--methods", "learned", "--guidance", "7"))
    vae = next((shutil.copytree(world / "base", tmp_path / "base") / "vae").glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(vae).items()}, vae)
    with pytest.raises(InputError, match=r"\(changed: sampling\)"):
        main(arguments(world, tmp_path, "--methods", "learned", "--base", str(tmp_path / "base")))
    with pytest.raises(InputError, match=r"\(changed: options\)"):
        main(arguments(world, tmp_path, "--methods", "learned", "--hypernet", str(world / "other.safetensors")))
    with pytest.raises(InputError, match=r"--device is 'gpu', but PyTorch finds"):
        main(arguments(world, tmp_path, "--methods", "learned", "--device", "gpu"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="finds no GPU here"):
            main(arguments(world, tmp_path, "--methods", "learned", "--device", "cuda"))
    damaged = next(tmp_path.rglob("pair.json"))
    damaged.write_text("{")
    with pytest.raises(InputError, match=r"not valid JSON; remove .* to make its images again"):
        main(arguments(world, tmp_path, "--methods", "learned"))


def test_another_judge_is_asked_anew(world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    main(arguments(world, tmp_path, "--methods", "direct"))
    asked = judge.asked
    # two pairs × two images × (two references + a style + three controls)
    assert asked == 2 * 2 * 6
    judge.name = "stricter"
    judge.subject = lambda question: 0.0
    main(arguments(world, tmp_path, "--methods", "direct"))
    assert judge.asked == 2 * asked
    assert not read_results(tmp_path).verdicts("direct")[0].joint.any()


def test_tables_from_results_alone(
    world: Path, tmp_path: Path, judge: ScriptedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(arguments(world, tmp_path / "run", "--methods", "direct"))
    monkeypatch.setattr(Sampler, "load", lambda *_: pytest.fail("evaluated again"))
    assert main(["--from", str(tmp_path / "run" / "results.json"), "-o", str(tmp_path / "tables")]) == 0
    for name in ("tables.md", "table_1.csv", "grid_methods.png"):
        assert (tmp_path / "tables" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_the_validation_part(world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    main(arguments(world, tmp_path, "--methods", "direct", "--part", "validation"))
    results = read_results(tmp_path)
    assert [(pair.content, pair.style) for pair in results.pairs] == [("content_2", "style_2")]
    assert results.settings["part"] == "validation"


@pytest.mark.parametrize("method", ["joint", "ziplora"])
def test_methods_that_train(method: str, world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    steps = {"joint": "--joint-steps", "ziplora": "--zip-steps"}[method]
    main(arguments(world, tmp_path, "--methods", method, steps, "1", "--part", "validation"))
    facts = read_results(tmp_path).pairs[0].merges[method]
    assert min(facts.parameters, facts.seconds) > 0


def test_images_are_the_pipelines_own(bench: tuple[Sampler, Workbench]) -> None:
    sampler, _ = bench
    seeds = image_seeds(1, "a", "b", 3)
    drawn = list(sampler.draw(partial(fused_lora, LoRA({})), "a sks dog", seeds))
    with quiet_toolchains():
        plain = sampler.pipeline(
            "a sks dog",
            num_inference_steps=3,
            guidance_scale=3.0,
            guidance_rescale=0.5,
            generator=torch.Generator("cpu").manual_seed(seeds[2]),
        ).images[0]
    difference = np.abs(np.asarray(drawn[2], np.int16) - np.asarray(plain, np.int16))
    assert difference.max() <= 4  # a batch of two and one alone round differently


def test_steps_are_announced_in_order(bench: tuple[Sampler, Workbench]) -> None:
    sampler, _ = bench
    announced: list[tuple[int, int]] = []

    def spy(unet: torch.nn.Module) -> nullcontext:
        return nullcontext(lambda step, steps: announced.append((step, steps)))

    list(sampler.draw(spy, "a", [1, 2, 3]))
    assert announced == [(0, 3), (1, 3), (2, 3)] * 2


def test_mean_coefficients_by_the_dense_form(bench: tuple[Sampler, Workbench]) -> None:
    _, work = bench
    hypernet = Hypernetwork.untrained(HypernetConfig((32, 48), hidden=8), 5)
    means = mean_coefficients(work, learned_options(hypernet))
    parts = work.dataset.split("paper")
    values: dict[str, list[np.ndarray]] = {"q": [], "out": []}
    for content in parts.contents["train"]:
        for style in parts.styles["train"]:
            pair = work.pair(work.dataset.contents[content], work.dataset.styles[style])
            for group in work.layout.part("qo"):
                for module in group.modules:
                    deltas = [torch.from_numpy(lora.layers[f"unet.{module}"].delta())[None] for lora in pair]
                    with torch.inference_mode():
                        mean = hypernet.dense(*deltas)[0].mean(dim=1).numpy()
                    values["q" if module.endswith("to_q") else "out"].append(mean)
    for kind, found in values.items():
        np.testing.assert_allclose(means[kind], np.mean(found, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "direct,magic"], "unknown method 'magic'; valid are content-only, style-only"),
        (["--methods", "ties-style-0.6,ties-style-0.60"], "'ties-style-0.6' is given twice"),
        (["--methods", "k-lora-acfg"], "unknown method 'k-lora-acfg'; valid are content-only, style-only"),
        (["--methods", "composed-style-0.6"], "unknown method 'composed-style-0.6'; valid are content-only"),
        (["--methods", ""], "--methods is empty"),
        (["--methods", "direct", "--zip-steps", "3"], "--zip-steps is for ziplora"),
        (["--methods", "direct", "--joint-steps", "3"], "--joint-steps is for joint"),
        (["--methods", "direct", "--hypernet", "h"], "--hypernet is for learned, learned-kv-average"),
        (["--methods", "direct,ties-acfg", "--guidance", "1"], "ties-acfg is a way to guide, and a --guidance of 1"),
        (["--methods", "direct,composite", "--guidance", "1"], "composite is a way to guide, and a --guidance of 1"),
        (
            ["--methods", "direct-acfg", "--composed-share", "0.5"],
            "--composed-share is for methods with -composed-start",
        ),
        (["--methods", "direct-composed-start", "--composed-share", "0"], "--composed-share is 0.0; give a share"),
        (["--hypernets", "x"], "'x' is not NAME=PATH"),
        (["--hypernets", "learned=a"], "the name 'learned' is taken"),
        (["--images", "0"], "--images is 0; give a whole number of 1 or more"),
        (["--guidance", "0.5"], "--guidance is 0.5; give a number of 1 or more"),
        (["--guidance", "nan"], "--guidance is nan"),
        (["--split", "other"], "no split 'other'; valid are paper"),
        (["--part", "train"], "invalid choice: 'train'"),
        (["--hypernets", "x=none.safetensors", "--methods", "direct"], "none.safetensors: no such checkpoint"),
        (["--dataset", "nowhere"], "nowhere/dataset.json: no such file"),
    ],
)
def test_refusals(world: Path, tmp_path: Path, judge: ScriptedJudge, more: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        main(arguments(world, tmp_path / "run", *more))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_loras_are_named(world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    (data / "loras" / "content_3.safetensors").unlink()
    given = arguments(world, tmp_path / "run", "--methods", "direct")
    given[given.index(str(world / "data"))] = str(data)
    with pytest.raises(InputError, match=r"1 of 3 LoRA files are missing \(content_3\); make them with") as caught:
        main(given)
    assert f"lorarar train-lora --dataset {data}" in str(caught.value)


def test_a_missing_judge_is_told_before_the_work(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(Sampler, "load", lambda *_: pytest.fail("the base was loaded first"))
    given = arguments(world, tmp_path / "run", "--methods", "direct", "--judge", "no/judge")
    with pytest.raises(InputError, match="the judge 'no/judge' can't be loaded"):
        main(given)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nowhere: no such file; give the output folder"),
        (["--methods", "direct"], "leave --methods out"),
        (["--images", "3"], "leave --images out"),
        (["--judge", "miniature"], "leave --judge out"),
        (["--dtype", "fp16"], "leave --dtype out"),
    ],
)
def test_tables_alone_refuse_what_they_do_not_use(more: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        main(["--from", "nowhere", "-o", str(tmp_path / "run"), *more])
    assert message in str(caught.value)


def test_no_output_named(world: Path) -> None:
    with pytest.raises(InputError, match="--out is missing"):
        main(["--methods", "direct"])


def test_a_single_image_of_the_dataset_is_unreadable(world: Path, tmp_path: Path, judge: ScriptedJudge) -> None:
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    (data / "styles" / "style_3" / "0.png").write_text("not a picture")
    given = arguments(world, tmp_path / "run", "--methods", "direct")
    given[given.index(str(world / "data"))] = str(data)
    with pytest.raises(InputError, match="not a whole PNG"):
        main(given)
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(("base", "own"), [("miniature", (25, 2.5, 0.7, 300)), ("sdxl-folder", (50, 5.0, 0.0, 1000))])
def test_sampling_is_the_base_s_own_unless_it_is_given(base: str, own: tuple[int, float, float, int]) -> None:
    expected = default_evaluation(base)
    assert (expected.steps, expected.guidance, expected.guidance_rescale, expected.joint_steps) == own
    given = parser().parse_args(["--steps", "7", "--guidance", "3.5", "--guidance-rescale", "0.2"])
    assert given_settings(given, expected) == replace(expected, steps=7, guidance=3.5, guidance_rescale=0.2)
