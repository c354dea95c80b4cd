"""Training the hypernetwork: what it learns, that it is reproducible and resumes, and its options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hyper_world import World
from safetensors.torch import load_file, save_file

from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import load_predictor, save_hypernet
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.hypernet.storage import CONFIG_KEY
from lorarar.layout import KINDS, UNET, kind_of
from lorarar.lora import read_lora
from lorarar.merging import learned_options, merge_loras
from lorarar.training.bank import LoraBank, predict_coefficients
from lorarar.training.examples import Concept
from lorarar.training.history import History, HistoryRow
from lorarar.training.hyper_settings import HyperSettings, LossSettings, default_hyper_settings
from lorarar.training.launch import new_accelerator
from lorarar.training.pair_data import choose_pairs, load_parts
from lorarar.training.trainer import Trained, new_predictor, train_predictor

FAST = HyperSettings(steps=6, hidden=8, batch_pairs=2, combinations=None, validate_every=2, validation_draws=1)
SETS = [("q",), ("k", "v"), tuple(KINDS)]  # test_training_loss.py has the coefficients of all subsets


def train(world: World, settings: HyperSettings = FAST, **options: Any) -> Trained:
    return train_predictor(world.inputs(), settings, **options)


def same(one: Trained, two: Trained) -> bool:
    states = one.predictor.state_dict(), two.predictor.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_training_stopped_between_two_passes_leaves_the_next_its_steps(world: World) -> None:
    """accelerate has told the process meanwhile that no step is due, and its optimizers believe it."""
    new_accelerator(torch.device("cpu"), "no", 2).gradient_state._set_sync_gradients(False)
    trained = train(world)
    assert not same(trained, replace(trained, predictor=new_predictor(world.layout, FAST)))


@pytest.mark.full
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
        history = train_predictor(replace(world.inputs(), parts=parts), options).history
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


def test_normalised_inputs_are_inputs_divided_by_their_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training, with LoRAs divided by their root mean square where the hypernetwork sees them alone."""
    squares: dict[int, list[np.ndarray]] = {}
    contents, styles = world.dataset.part("paper", "train")
    for entry in (*contents, *styles):
        lora = read_lora(entry.lora)
        for module in world.layout.modules:
            if kind_of(module) in FAST.learned:
                change = lora.layers[UNET + module].delta()
                squares.setdefault(len(change), []).append(change.ravel() ** 2)
    sizes = {width: float(np.sqrt(np.concatenate(found).mean())) for width, found in squares.items()}
    assert all(size < 0.5 for size in sizes.values())
    normalised = train(world, replace(FAST, normalise=True))
    forward = Hypernetwork.forward

    def divided(self: Hypernetwork, down_c: Any, up_c: Any, down_s: Any, up_s: Any, modules: Any = ()) -> Any:
        size = sizes[up_c.shape[1]]
        return forward(self, down_c, up_c / size, down_s, up_s / size, modules)

    monkeypatch.setattr(Hypernetwork, "forward", divided)
    want = train(world, FAST).predictor.state_dict()
    assert not same(normalised, train(world, FAST))
    for width, size in sizes.items():
        want[f"inputs.{width}.weight"] /= size
    for name, value in normalised.predictor.state_dict().items():
        # Adam's first steps are as large for a gradient that is rounding alone.
        torch.testing.assert_close(value, want[name], rtol=0, atol=0.05 * float(want[name].abs().max()))


@pytest.mark.parametrize("predictor", ["hypernetwork", "constant"])
def test_columns_learn_at_their_own_rate(world: World, predictor: str, tmp_path: Path) -> None:
    """Adam's first step is the rate itself, for any gradient that isn't tiny."""
    settings = replace(FAST, predictor=predictor, columns=True, column_rate=0.02, learning_rate=0.004, steps=1)
    start, trained = new_predictor(world.layout, settings), train(world, settings)
    steps: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for name, value in trained.predictor.state_dict().items():
        steps[name.startswith("columns.")].append((value - start.state_dict()[name]).abs().ravel())
    assert sum(map(len, steps[True])) == 2 * sum(
        group.in_features for group in world.layout.groups for name in group.modules if kind_of(name) in FAST.learned
    )
    assert float(torch.cat(steps[True]).median()) == pytest.approx(0.02, rel=1e-2)
    assert float(torch.cat(steps[False]).median()) == pytest.approx(0.004, rel=1e-2)
    save_hypernet(trained.predictor, tmp_path / "h.safetensors", training=trained.record)
    kept = load_predictor(tmp_path / "h.safetensors").predictor
    assert kept.config == trained.predictor.config and same(replace(trained, predictor=kept), trained)


@pytest.mark.parametrize("learned", SETS, ids=",".join)
def test_rows_of_table_a3_train_and_merge(world: World, learned: tuple[str, ...], tmp_path: Path) -> None:
    settings = replace(FAST, steps=1, learned=learned, validate_every=9)
    start, trained = new_predictor(world.layout, settings), train(world, settings)
    moved = [not torch.equal(value, start.state_dict()[name]) for name, value in trained.predictor.state_dict().items()]
    assert all(moved)
    save_hypernet(trained.predictor, tmp_path / "h.safetensors", training=trained.record)
    loaded = load_predictor(tmp_path / "h.safetensors")
    assert loaded.predictor.config.learned == learned and loaded.training["learned"] == list(learned)
    content, style = (
        read_lora(entries["x"].lora)
        for entries in (
            {"x": next(iter(world.dataset.contents.values()))},
            {"x": next(iter(world.dataset.styles.values()))},
        )
    )
    merged = merge_loras(content, style, world.layout, "learned", learned_options(loaded.predictor))
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
    merged = merge_loras(content, style, world.layout, "learned", learned_options(trained.predictor))
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

    def stop(row: HistoryRow) -> None:
        if row.part == "train" and row.step == 5:
            raise Interrupted

    state = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted):
        train(world, settings, on_row=stop, state=state, state_every=3)
    rows: list[HistoryRow] = []
    resumed = train(world, settings, on_row=rows.append, state=state, state_every=3)
    assert same(whole, resumed)
    assert whole.history == resumed.history and rows == whole.history.rows
    assert whole.record == resumed.record
    assert same(whole, train(world, settings, state=state))  # all steps are done: nothing is trained again
    with pytest.raises(InputError, match=r"of a training with other settings \(loss\)"):
        train(world, replace(settings, loss=LossSettings(weight=0.5)), state=state)


def test_a_training_ends_where_its_state_does(world: World, tmp_path: Path) -> None:
    """As when fewer steps are asked for than before: it has its last validation all the same."""

    def stop(row: HistoryRow) -> None:
        if row.part == "train" and row.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(world, FAST, on_row=stop, state=tmp_path / "state.safetensors", state_every=3)
    ended = train(world, replace(FAST, steps=3), state=tmp_path / "state.safetensors")
    assert ended.history == train(world, replace(FAST, steps=3)).history


def test_a_training_goes_on_with_the_same_data_and_as_many_steps_or_more(world: World, tmp_path: Path) -> None:
    """A LoRA that was trained again, another base's weights and other images have the names of the old ones."""
    state, inputs = tmp_path / "state.safetensors", world.inputs()
    train_predictor(inputs, FAST, state=state)
    packed = dict(world.parts.train.styles.bank.packed)
    name, factors = next(iter(packed.items()))
    packed[name] = replace(factors, down=factors.down * 1.01)
    styles = replace(world.parts.train.styles, bank=LoraBank(packed))
    noise = DDPMScheduler.from_config(world.components.noise.config, beta_end=0.02)
    image = tmp_path / "dog--ink" / "00.png"
    image.parent.mkdir()
    image.write_bytes(b"a picture")
    retrained = replace(world.parts, train=replace(world.parts.train, styles=styles))
    packed = dict(world.parts.validation.contents.bank.packed)
    name, factors = next(iter(packed.items()))
    packed[name] = replace(factors, down=factors.down * 1.01)
    contents = replace(world.parts.validation.contents, bank=LoraBank(packed))
    rebuilt = replace(world.parts, validation=replace(world.parts.validation, contents=contents))
    for changed, what in (
        (replace(inputs, parts=retrained), "loras"),
        (replace(inputs, references=[Concept((), "other images")]), "references"),
        (replace(inputs, joint_images=[image]), "joint_images"),
        (replace(inputs, class_prompts=["a plush dog"]), "class_prompts"),
        (replace(inputs, parts=rebuilt), "loras"),
        (replace(inputs, components=replace(world.components, noise=noise)), "base_configs"),
    ):
        with pytest.raises(InputError, match=rf"of a training with other settings \({what}\)"):
            train_predictor(changed, FAST, state=state)
    weight = next(world.components.unet.parameters())
    kept = weight.detach().clone()
    try:
        weight.data.add_(1)
        with pytest.raises(InputError, match=r"other settings \(base_weights\)"):
            train_predictor(inputs, FAST, state=state)
    finally:
        weight.data.copy_(kept)
    with pytest.raises(InputError, match="has 6 steps, more than the 5 of `steps`"):
        train_predictor(inputs, replace(FAST, steps=5), state=state)


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


def test_checkpoints_without_learned_are_the_paper_s(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_hypernet(Hypernetwork.untrained(HypernetConfig((12,), 4)), path)
    config = {"widths": [12], "hidden": 4, "kv_rule": "sum", "trained": True}
    save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config)})
    loaded = load_predictor(path)
    assert loaded.predictor.config == HypernetConfig((12,), 4, "sum", ("q", "out")) and loaded.training == {}
    for bad in ([], ["q", "q"], ["mlp"]):
        save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config | {"learned": bad})})
        with pytest.raises(InputError, match="give one or more of q,k,v,out, each once"):
            load_predictor(path)
    save_file(load_file(path), path, metadata={CONFIG_KEY: json.dumps(config | {"predictor": "oracle"})})
    with pytest.raises(InputError, match="no hypernetwork config in its metadata"):
        load_predictor(path)


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
    rows = [
        HistoryRow("validation", 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.0),
        HistoryRow("train", 1, 1 / 3, 0.2, 0.3, 0.4, 0.6, 0.01),
    ]
    history = History(rows, {"direct merge, sum": 1 / 7})
    assert History.from_tensors(history.tensors()) == history
    assert History.from_tensors(History().tensors()) == History() == History.from_tensors({})


def test_without_validation_pairs_the_last_weights_are_kept(world: World, tmp_path: Path) -> None:
    parts = replace(world.parts, validation=None)
    trained = train_predictor(replace(world.inputs(), parts=parts), FAST)
    assert trained.history.part("validation") == [] and trained.record["validation"] == {}
    trained.history.write_picture(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_a_loss_that_is_not_finite_is_told(world: World) -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d \(train\); lower `learning_rate`"):
        train(world, replace(FAST, learning_rate=1e30))
    validation = world.parts.validation
    assert validation is not None
    packed = {
        name: replace(at, down=at.down * 1e30, up=at.up * 1e30) for name, at in validation.contents.bank.packed.items()
    }
    parts = replace(
        world.parts, validation=replace(validation, contents=replace(validation.contents, bank=LoraBank(packed)))
    )
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step 0 \(validation\)"):
        train_predictor(replace(world.inputs(), parts=parts), replace(FAST, keep="best"))


def test_load_parts_reads_each_part_once(world: World) -> None:
    parts = load_parts(world.components, world.layout, world.dataset, "paper", combinations=2, seed=1)
    assert len(parts.train.pairs) == 2 and parts.validation is not None and len(parts.validation.pairs) == 1
