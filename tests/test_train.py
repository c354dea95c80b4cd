"""Training the hypernetwork: what it learns and writes, that it is reproducible, resumes, and runs on processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hyper_world import ABOUT, World, make_world
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorarar.checkpoints import CONFIG_KEY, load_hypernet, load_predictor, save_hypernet
from lorarar.cli import InputError
from lorarar.constant import ConstantCoefficients, ConstantConfig
from lorarar.hypernet import HypernetConfig, Hypernetwork
from lorarar.layout import KINDS, UNET, kind_of
from lorarar.lora import read_lora
from lorarar.merge import main as merge_main
from lorarar.merger import Merger
from lorarar.merging import learned_options, merge
from lorarar.train import main
from lorarar.training.bank import predict_coefficients
from lorarar.training.history import History, Row
from lorarar.training.hyper_settings import HyperSettings, LossSettings, default_hyper_settings
from lorarar.training.pair_data import choose_pairs, load_parts
from lorarar.training.trainer import Trained, new_predictor, train_predictor

ROOT = Path(__file__).parent.parent
FAST = HyperSettings(steps=6, hidden=8, batch_pairs=2, combinations=None, validate_every=2, validation_draws=1)
FAST_FLAGS = ["--steps", "6", "--hidden", "8", "--batch-pairs", "2", "--validate-every", "2"]
FAST_FLAGS += ["--validation-draws", "1", "--combinations", "0"]
ALL_SETS = list(chain.from_iterable(combinations(KINDS, size) for size in range(1, 5)))


@pytest.fixture(scope="module")
def world(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tiny_pipeline, tmp_path_factory.mktemp("world") / "dataset")


def train(world: World, settings: HyperSettings = FAST, **options: Any) -> Trained:
    return train_predictor(world.components, world.layout, world.parts, settings, ABOUT, **options)


def same(one: Trained, two: Trained) -> bool:
    states = one.predictor.state_dict(), two.predictor.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def command(world: World, output: Path, *more: str) -> int:
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), *FAST_FLAGS, *more]
    return main([*given, "-o", str(output)])


def test_training_is_reproducible_and_depends_on_the_seed(world: World) -> None:
    before = {name: value.clone() for name, value in world.components.unet.state_dict().items()}
    first, again, other = train(world), train(world), train(world, replace(FAST, seed=1))
    assert same(first, again) and first.history.rows == again.history.rows
    assert not same(first, other)
    assert all(torch.equal(value, before[name]) for name, value in world.components.unet.state_dict().items())
    assert not any(module._forward_hooks for module in world.components.unet.modules())


def test_the_loss_falls_and_the_hypernetwork_does_better_than_constants(world: World) -> None:
    """On the training pairs and without the term of λ, from coefficients that are far too large.

    For v and out, whose effect is smooth: large random updates of q and k make an attention chaotic.
    """
    parts = replace(world.parts, validation=world.parts.train)
    settings = replace(FAST, learned=("v", "out"), initial=2.0, loss=LossSettings(weight=0.0), validation_draws=4)
    settings = replace(settings, steps=40, batch_pairs=4, learning_rate=0.03, validate_every=40)
    ends = {}
    for predictor in ("hypernetwork", "constant"):
        options = replace(settings, predictor=predictor)
        history = train_predictor(world.components, world.layout, parts, options, ABOUT).history
        start, end = history.part("validation")
        assert (start.step, end.step) == (0, 40)
        assert end.total < 0.75 * start.total
        ends[predictor] = end.total
    assert ends["hypernetwork"] < 0.85 * min(ends["constant"], *history.references.values())


def test_the_references_are_the_loss_of_constant_coefficients(world: World) -> None:
    """A constant predictor at 0.5, and at 1 with the sum rule, has the validation loss of the two direct merges."""
    for initial, rule, name in ((0.5, "average", "direct merge, average"), (1.0, "sum", "direct merge, sum")):
        settings = replace(FAST, predictor="constant", initial=initial, kv_rule=rule, steps=1)
        history = train(world, settings).history
        start = history.part("validation")[0]
        assert start.content + start.style == pytest.approx(history.references[name], rel=1e-5)


def test_coefficients_start_near_the_initial_value(world: World) -> None:
    for initial in (0.5, 1.0):
        predictor = new_predictor(world.layout, replace(FAST, initial=initial, hidden=128))
        packs = [role.bank.take([0], "cpu") for role in (world.parts.train.contents, world.parts.train.styles)]
        for pairs in predict_coefficients(predictor, world.layout, *packs).learned:
            assert (pairs - initial).abs().max() < 0.35
            assert not torch.equal(pairs[:, :, 0], pairs[:, :, 1])  # |cos| of equal vectors has no gradient


@pytest.mark.parametrize("learned", ALL_SETS, ids=",".join)
def test_every_row_of_table_a3_trains_and_merges(world: World, learned: tuple[str, ...], tmp_path: Path) -> None:
    settings = replace(FAST, steps=1, learned=learned, validate_every=9)
    start, trained = new_predictor(world.layout, settings), train(world, settings)
    moved = [not torch.equal(value, start.state_dict()[name]) for name, value in trained.predictor.state_dict().items()]
    assert all(moved)
    save_hypernet(trained.predictor, tmp_path / "h.safetensors", training=trained.record)
    loaded = load_hypernet(tmp_path / "h.safetensors")
    assert loaded.hypernet.config.learned == learned and loaded.training["learned"] == list(learned)
    content, style = (
        read_lora(entries["x"].lora)
        for entries in (
            {"x": next(iter(world.dataset.contents.values()))},
            {"x": next(iter(world.dataset.styles.values()))},
        )
    )
    merged = merge(content, style, world.layout, "learned", learned_options(loaded.predictor))
    assert {name for name, kind in merged.kinds.items() if kind == "learned"} == {
        UNET + module for module in world.layout.modules if kind_of(module) in learned
    }
    assert merged.lora.metadata["lorarar_learned"] == ",".join(learned)


def test_a_file_merge_uses_the_coefficients_that_training_saw(world: World) -> None:
    trained = train(world, replace(FAST, learned=("q", "v"), learning_rate=0.05))
    train_part = world.parts.train
    packs = [role.bank.take([1], "cpu") for role in (train_part.contents, train_part.styles)]
    with torch.no_grad():
        seen = predict_coefficients(trained.predictor, world.layout, *packs).applied
    names = world.dataset.split().contents["train"][1], world.dataset.split().styles["train"][1]
    content, style = read_lora(world.dataset.contents[names[0]].lora), read_lora(world.dataset.styles[names[1]].lora)
    merged = merge(content, style, world.layout, "learned", learned_options(trained.predictor))
    assert merged.coefficients is not None
    for group in world.layout.groups:
        for row, module in enumerate(group.modules):
            if kind_of(module) in ("q", "v"):
                want = seen[group.name][0, row].numpy()
                np.testing.assert_allclose(merged.coefficients[UNET + module], want, atol=1e-5)


@pytest.mark.parametrize(("predictor", "keep"), [("hypernetwork", "best"), ("constant", "last")])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    world: World, predictor: str, keep: str, tmp_path: Path
) -> None:
    settings = replace(FAST, steps=7, predictor=predictor, keep=keep, lr_schedule="cosine", warmup=2)
    whole = train(world, settings)

    class Interrupted(Exception):
        pass

    def stop(row: Row) -> None:
        if row.part == "train" and row.step == 5:
            raise Interrupted

    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        train(world, settings, on_row=stop, state=state, state_every=3)
    rows: list[Row] = []
    resumed = train(world, settings, on_row=rows.append, state=state, state_every=3)
    assert same(whole, resumed)
    assert whole.history == resumed.history and rows == whole.history.rows
    assert whole.record == resumed.record
    assert same(whole, train(world, settings, state=state))  # all steps are done: nothing is trained again
    with pytest.raises(InputError, match=r"of a training with other settings \(loss\)"):
        train(world, replace(settings, loss=LossSettings(weight=0.5)), state=state)


def test_the_best_weights_are_kept(world: World) -> None:
    """With a rate that ruins them, the weights of the lowest validation loss are those of step 0."""
    settings = replace(FAST, learning_rate=5.0, keep="best")
    best, last = train(world, settings), train(world, replace(settings, keep="last"))
    rows = best.history.part("validation")
    assert min(rows, key=lambda row: row.total).step == best.record["kept_step"] == 0
    start = new_predictor(world.layout, settings)
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in best.predictor.state_dict().items())
    assert not same(best, last) and "kept_step" not in last.record


def test_passes_share_a_batch(world: World) -> None:
    whole = train(world, replace(FAST, batch_pairs=4))
    cut = train(world, replace(FAST, batch_pairs=4, accumulation=2))
    for one, two in zip(whole.history.rows, cut.history.rows, strict=True):
        assert two.total == pytest.approx(one.total, rel=1e-3)
    first = [history.rows[1] for history in (whole.history, cut.history)]
    assert first[0].part == "train" and first[1].total == pytest.approx(first[0].total, rel=1e-5)


def test_mixed_precision_and_checkpointing_train(world: World) -> None:
    plain, checkpointed = train(world), train(world, replace(FAST, gradient_checkpointing=True))
    assert plain.history.totals() == pytest.approx(checkpointed.history.totals(), rel=1e-3)
    mixed = train(world, replace(FAST, mixed_precision="bf16"))
    assert mixed.history.totals() == pytest.approx(plain.history.totals(), rel=0.1)
    assert mixed.history.totals() != plain.history.totals()
    assert not world.components.unet.is_gradient_checkpointing


def test_the_command_writes_a_checkpoint_with_every_option_and_the_curves(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--lambda", "0.5", "--regulariser", "cosine", "--distance", "l2", "--kv-rule", "sum", "--learned", "out,q"]
    assert command(world, tmp_path / "h.safetensors", *more, "--keep", "best", "--seed", "4") == 0
    loaded = load_hypernet(tmp_path / "h.safetensors")
    assert loaded.trained and loaded.hypernet.config == HypernetConfig((32, 48), 8, "sum", ("q", "out"))
    record = loaded.training
    assert record["loss"] == {"distance": "l2", "regulariser": "cosine", "weight": 0.5}
    expected = {"steps": 6, "learning_rate": 0.01, "seed": 4, "dataset": "tiny", "split": "paper", "pairs": 6}
    expected |= {"base": world.base.name, "validation_pairs": 1, "kv_rule": "sum", "learned": ["q", "out"]}
    assert {name: record[name] for name in expected} == expected
    assert record["validation"]["best"]["step"] == record["kept_step"]
    assert not any(str(tmp_path.parent) in str(value) for value in record.values())  # no path of this machine
    with (tmp_path / "h.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["part"] == "validation"] == ["0", "2", "4", "6"]
    assert [row["step"] for row in rows if row["part"] == "train"] == ["1", "2", "3", "4", "5", "6"]
    assert (tmp_path / "h.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    said = " ".join(capsys.readouterr().out.split())
    assert "6 of tiny, split paper, 2 a step" in said and "direct merge, average" in said
    assert "the best, of step" in said and "l2, λ 0.5 × cosine" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.csv", "h.png", "h.safetensors"]


def test_a_constant_checkpoint_merges_and_is_not_exported(world: World, tmp_path: Path) -> None:
    output = tmp_path / "constant.safetensors"
    assert command(world, output, "--predictor", "constant", "--learned", "q,v", "--learning-rate", "0.1") == 0
    loaded = load_predictor(output)
    assert isinstance(loaded.predictor, ConstantCoefficients)
    constants = loaded.predictor.constants()
    assert set(constants) == {"q", "v"} and loaded.predictor.config == ConstantConfig("average", ("q", "v"))
    with pytest.raises(InputError, match=r"holds constant coefficients, not a hypernetwork; lorarar\.merge can use"):
        load_hypernet(output)
    files = [str(world.dataset.folder / "loras" / f"{name}_0.safetensors") for name in ("content", "style")]
    arguments = ["--base", str(world.base), "--hypernet", str(output), "-o", str(tmp_path / "m.safetensors")]
    assert merge_main([*files, *arguments]) == 0
    merged, content, style = (read_lora(Path(path)) for path in (tmp_path / "m.safetensors", *files))
    for name, layer in merged.layers.items():
        m_c, m_s = constants.get(str(kind_of(name)), (0.5, 0.5))
        want = m_c * content.layers[name].delta() + m_s * style.layers[name].delta()
        np.testing.assert_allclose(layer.delta(), want, atol=1e-6)


def test_checkpoints_without_learned_are_the_paper_s(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_hypernet(Hypernetwork.untrained(HypernetConfig((12,), 4)), path)
    config = {"widths": [12], "hidden": 4, "kv_rule": "sum", "trained": True}
    save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config)})
    loaded = load_hypernet(path)
    assert loaded.hypernet.config == HypernetConfig((12,), 4, "sum", ("q", "out")) and loaded.training == {}
    for bad in ([], ["q", "q"], ["mlp"]):
        save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config | {"learned": bad})})
        with pytest.raises(InputError, match="give one or more of q,k,v,out, each once"):
            load_hypernet(path)
    save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config | {"predictor": "oracle"})})
    with pytest.raises(InputError, match="no hypernetwork config in its metadata"):
        load_hypernet(path)


def test_only_the_paper_s_layers_can_be_exported(world: World) -> None:
    with pytest.raises(InputError, match="predicts q,k; only q,out can be exported"):
        Merger(Hypernetwork.untrained(HypernetConfig((32, 48), 8, learned=("q", "k"))), world.layout)
    Merger(Hypernetwork.untrained(HypernetConfig((32, 48), 8, learned=("out", "q"))), world.layout)


def test_pairs_are_all_or_a_seeded_choice() -> None:
    assert len(choose_pairs(20, 18, None, 0)) == 360 == len(set(choose_pairs(20, 18, 999, 0)))
    some = choose_pairs(20, 18, 100, 0)
    assert len(set(some)) == 100 and some == choose_pairs(20, 18, 100, 0) != choose_pairs(20, 18, 100, 1)


def test_draws_use_every_pair_image_and_timestep(world: World) -> None:
    data = world.parts.train
    draws = [data.draw(step, 4, 0, 1000) for step in range(100)]
    counts = {pair: sum(draw.pairs.count(pair) for draw in draws) for pair in data.pairs}
    assert sum(counts.values()) == 400 and min(counts.values()) > 30  # 6 pairs
    times = torch.cat([draw.timesteps.flatten() for draw in draws])
    assert 0 <= times.min() < 20 and 980 < times.max() < 1000
    assert torch.equal(draws[0].noise, data.draw(0, 4, 0, 1000).noise)
    assert not torch.equal(draws[0].noise, draws[1].noise)
    fixed = data.validation(4, 0, 1000)
    assert len(fixed.pairs) == 4 * len(data.pairs)
    assert (fixed.timesteps[:4] // 250).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_the_learning_rate_rises_and_falls() -> None:
    settings = replace(FAST, steps=10, warmup=3, learning_rate=0.4, lr_schedule="cosine")
    rates = [settings.rate(step) for step in range(10)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[3:] == sorted(rates[3:], reverse=True) and 0 < rates[-1] < 0.05
    assert {replace(settings, lr_schedule="constant").rate(step) for step in range(3, 10)} == {0.4}


def test_the_schedule_reaches_the_optimizer(world: World) -> None:
    """Two steps at one rate, and with the second at half of it: the first is the same, the weights are not."""
    options = replace(FAST, steps=2, predictor="constant", learning_rate=0.1)
    constant, cosine = train(world, options), train(world, replace(options, lr_schedule="cosine"))
    assert constant.history.totals() == cosine.history.totals()  # each is taken before its step's update
    assert not same(constant, cosine)
    for one, half in zip(constant.predictor.parameters(), cosine.predictor.parameters(), strict=True):
        assert (one - half).abs().min() > 0.02 and (one - half).abs().max() < 0.06


def test_the_paper_s_values_are_the_defaults() -> None:
    paper = default_hyper_settings("sdxl")
    assert (paper.steps, paper.learning_rate, paper.combinations, paper.hidden) == (5000, 0.01, 100, 128)
    assert (paper.loss.weight, paper.kv_rule, paper.learned) == (0.01, "average", ("q", "out"))
    assert default_hyper_settings("miniature").combinations is None


def test_histories_come_back_from_tensors() -> None:
    rows = [Row("validation", 0, 0.1, 0.2, 0.3, 0.4, 0.0), Row("train", 1, 1 / 3, 0.2, 0.3, 0.4, 0.01)]
    history = History(rows, {"direct merge, sum": 1 / 7})
    assert History.from_tensors(history.tensors()) == history
    assert History.from_tensors(History().tensors()) == History() == History.from_tensors({})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--learned", "q,mlp"], "learned layers 'q,mlp': give one or more of q,k,v,out, each once"),
        (["--kv-rule", "max"], "--kv-rule is 'max'; valid are average, sum"),
        (["--lambda", "-1"], "--lambda is -1.0; give a number of 0 or more"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; give a positive number"),
        (["--warmup", "6"], "--warmup is 6; give 0 or more steps, fewer than the 6 of --steps"),
        (["--batch-pairs", "3", "--accumulation", "2"], "3 pairs a step can't be cut into 2 passes on 1 processes"),
        (["--split", "none"], "has no split 'none'; valid are paper"),
        (["--predictor", "oracle"], "invalid choice: 'oracle'"),
        (["--state-every", "0"], "--state-every is 0"),
        (["--initial", "nan"], "--initial is nan; give a finite number"),
        (["--combinations", "-3"], "--combinations is -3; give a whole number"),
    ],
)
def test_bad_options_are_refused(world: World, flags: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        command(world, tmp_path / "h.safetensors", *flags)
    assert says in " ".join(str(error.value).split())
    assert list(tmp_path.iterdir()) == []


def test_bad_outputs_and_datasets_are_refused(world: World, tmp_path: Path) -> None:
    for output in ("h.pt", "."):
        with pytest.raises(InputError, match=r"a checkpoint is a file whose name ends with \.safetensors"):
            command(world, tmp_path / output)
    with pytest.raises(InputError, match="--state and --output name one file"):
        command(world, tmp_path / "h.safetensors", "--state", str(tmp_path / "h.safetensors"))
    copy = Path(shutil.copytree(world.dataset.folder, tmp_path / "copy"))
    raw = json.loads((copy / "dataset.json").read_text())
    (copy / "loras" / "content_1.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of 7 LoRA files are missing \(content_1\); make them with  python -m"):
        main(["--base", str(world.base), "--dataset", str(copy), "-o", str(tmp_path / "h.safetensors")])
    damage: list[tuple[Callable[[dict], object], list[str], str]] = [
        (lambda part: part["contents"].update(train=[]), [], "has no contents or no styles to train on"),
        (lambda part: part["contents"].update(validation=[]), ["--keep", "best"], "--keep best needs validation pairs"),
    ]
    shutil.copy(world.dataset.contents["content_1"].lora, copy / "loras")
    for change, flags, says in damage:
        changed = json.loads(json.dumps(raw))
        change(changed["splits"]["paper"])
        (copy / "dataset.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=says):
            main(["--base", str(world.base), "--dataset", str(copy), *flags, "-o", str(tmp_path / "h.safetensors")])
    assert not list(tmp_path.glob("h.*"))


def test_without_validation_pairs_the_last_weights_are_kept(world: World, tmp_path: Path) -> None:
    parts = replace(world.parts, validation=None)
    trained = train_predictor(world.components, world.layout, parts, FAST, ABOUT)
    assert trained.history.part("validation") == [] and trained.record["validation"] == {}
    trained.history.write_picture(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_loss_that_is_not_finite_is_told(world: World) -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d; lower --learning-rate"):
        train(world, replace(FAST, learning_rate=1e30))


def test_load_parts_reads_each_part_once(world: World) -> None:
    parts = load_parts(world.components, world.layout, world.dataset, "paper", combinations=2, seed=1)
    assert len(parts.train.pairs) == 2 and parts.validation is not None and len(parts.validation.pairs) == 1


def test_two_processes_as_one(world: World, tmp_path: Path) -> None:
    """Two processes (gloo) that share a batch of 4 pairs take the steps of one process with that batch."""
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), *FAST_FLAGS, "--batch-pairs", "4"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["-m", "lorarar.train", *given, "-o", "two.safetensors"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("2 processes") == 1  # the main process alone speaks
    assert main([*given, "-o", str(tmp_path / "one.safetensors")]) == 0
    curves = []
    for name in ("one", "two"):
        with (tmp_path / f"{name}.csv").open() as file:
            curves.append(np.array([list(row.values())[1:] for row in csv.DictReader(file)], float))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-6)
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3)
    assert any(not torch.equal(two[name], value) for name, value in one.items())  # means of halves round otherwise


@pytest.mark.full
def test_full_size_dry_run(tmp_path: Path) -> None:
    """One step with KOALA-700M's sizes and LoRAs of rank 64: a GPU's path, in under 8 GB (measured 5.0)."""
    from tiny_pipeline import save_tiny_dataset

    from lorarar.bases import load_layout
    from lorarar.lora import write_lora
    from lorarar.synthetic import synthetic_lora

    layout = load_layout("koala-700m")
    folder = save_tiny_dataset(tmp_path / "dataset", contents=3, styles=3)
    (folder / "loras").mkdir()
    for number, name in enumerate(["content_0", "content_1", "style_0", "style_1"]):
        write_lora(synthetic_lora(layout, 64, number, 1e-3), folder / "loras" / f"{name}.safetensors", dtype="bf16")
    code = (
        "import sys; from lorarar.train import main; main(sys.argv[1:]); "
        "from benchmarks.memory import peak_bytes; print('peak', peak_bytes() / 1e9)"
    )
    given = ["--base", "koala-700m", "--untrained", "--dataset", "dataset", "--resolution", "64", "--steps", "1"]
    given += ["--mixed-precision", "bf16", "--gradient-checkpointing", "--validation-draws", "1"]
    arguments = [sys.executable, "-c", code, *given, "-o", "koala.safetensors"]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    assert float(run.stdout.split("peak")[1]) < 8
    with safe_open(tmp_path / "koala.safetensors", framework="pt") as file:
        assert sum(file.get_tensor(name).numel() for name in file.keys()) == 492_034  # noqa: SIM118
    shutil.rmtree(tmp_path)
