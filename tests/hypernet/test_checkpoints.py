"""Hypernetwork checkpoints: ours and the authors' come back; everything else is refused in one sentence."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorarar.base.names import load_layout, shipped_hypernet
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import (
    load_predictor,
    open_predictor,
    save_hypernet,
)
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.hypernet.storage import CONFIG_KEY
from lorarar.layout import Layout

State = dict[str, Tensor]


def authors_state() -> State:
    """A state dict of the authors' published layout, at its real size."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"input_1": (128, 1280), "input_2": (128, 2560), "output.1": (2, 128)}
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}


def test_the_paper_s_hypernetwork_has_its_parameter_count() -> None:
    assert sum(parameter.numel() for parameter in Hypernetwork().parameters()) == 492_034
    assert sum(tensor.numel() for tensor in authors_state().values()) == 492_034


def test_the_authors_checkpoint_is_read_with_the_sum_rule(tmp_path: Path) -> None:
    state = authors_state()
    torch.save(state, tmp_path / "theirs.pt")
    loaded = load_predictor(tmp_path / "theirs.pt")
    assert loaded.predictor.config == HypernetConfig(widths=(640, 1280), hidden=128, kv_rule="sum")
    assert loaded.trained and loaded.source == "theirs.pt" and len(loaded.sha256) == 64
    assert "k/v rule set to sum" in loaded.notes[0]
    content, style = torch.randn(2, 1, 640, 3, generator=torch.Generator().manual_seed(1))
    rows = torch.cat([content, style], dim=1)[0].T
    hidden = torch.relu(rows @ state["input_1.weight"].T + state["input_1.bias"])
    want = hidden @ state["output.1.weight"].T + state["output.1.bias"]
    torch.testing.assert_close(loaded.predictor.dense(content, style)[0].T, want)


@pytest.mark.parametrize("positions", [(), ("b.to_q", "a.to_q")])
def test_a_checkpoint_of_ours_comes_back(positions: tuple[str, ...], tmp_path: Path) -> None:
    hypernet = Hypernetwork.untrained(HypernetConfig((12, 20), 8, "sum", positions=positions), seed=3)
    hypernet.save_pretrained(tmp_path / "ours.safetensors")
    loaded = load_predictor(tmp_path / "ours.safetensors")
    assert loaded.predictor.config == hypernet.config and not loaded.trained and loaded.notes == ()
    for name, tensor in hypernet.state_dict().items():
        assert torch.equal(tensor, loaded.predictor.state_dict()[name])


def test_untrained_weights_are_seeded_and_say_so() -> None:
    config = HypernetConfig(widths=(12, 20))
    one, same, other = (open_predictor("tiny", TINY, Hypernetwork.untrained(config, seed)) for seed in (0, 0, 1))
    assert one.sha256 == same.sha256 != other.sha256
    assert not one.trained and one.source == "untrained, seed 0"


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Open:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(trap), "w")

    for name, write in (
        ("torch.pt", torch.save),
        ("plain.pt", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        write({"input_1.weight": Open()}, tmp_path / name)
        with pytest.raises(InputError, match="not a checkpoint of plain tensors, so it was not opened"):
            load_predictor(tmp_path / name)
    assert not trap.exists()


def _without(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "output.1.bias"}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without, "its keys are not those of the authors' hypernetwork"),
        (lambda state: state | {"extra": torch.zeros(1)}, "its keys are not those"),
        (lambda state: [state], "its keys are not those"),
        (lambda state: state | {"output.1.bias": "text"}, "its values are not all tensors"),
        (lambda state: state | {"input_1.weight": torch.zeros(128, 1281)}, "inputs.640.weight is float32 (128, 1281)"),
        (lambda state: state | {"output.1.weight": torch.zeros(2, 64)}, "inputs.640.weight is float32 (128, 1280)"),
        (lambda state: state | {"output.1.weight": torch.tensor(1.0)}, "output.1.weight has 0 dimensions, it needs 2"),
        (
            lambda state: state | {"input_1.bias": torch.zeros(128, dtype=torch.int64)},
            "inputs.640.bias is int64 (128,)",
        ),
        (
            lambda state: state | {"input_2.bias": torch.full((128,), torch.nan)},
            "inputs.1280.bias holds NaN or infinity",
        ),
        (
            lambda state: state | {"input_2.bias": torch.full((128,), torch.inf)},
            "inputs.1280.bias holds NaN or infinity",
        ),
        # One stored number in the place of 2^36 rows; on no device; as indices.
        (lambda state: state | {"input_1.weight": torch.zeros(1).expand(2**36, 1280)}, "not all in the file"),
        (lambda state: state | {"output.1.weight": torch.zeros(1).expand(2, 2**36)}, "not all in the file"),
        (lambda state: state | {"output.1.weight": torch.zeros(2, 2**20, device="meta")}, "not all in the file"),
        (lambda state: state | {"output.1.weight": torch.ones(2, 128).to_sparse()}, "not all in the file"),
    ],
)
def test_a_damaged_checkpoint_of_the_authors_is_refused(
    damage: Callable[[State], object], says: str, tmp_path: Path
) -> None:
    torch.save(damage(authors_state()), tmp_path / "theirs.pt")
    with pytest.raises(InputError) as error:
        load_predictor(tmp_path / "theirs.pt")
    assert says in str(error.value) and "theirs.pt" in str(error.value)


def test_a_checkpoint_of_the_authors_that_was_cut_or_changed_is_refused_or_read(tmp_path: Path) -> None:
    """Torch's reader raises what its zip and pickle parsers do."""
    torch.save({name: tensor[..., :8] for name, tensor in authors_state().items()}, tmp_path / "theirs.pt")
    whole, path = (tmp_path / "theirs.pt").read_bytes(), tmp_path / "damaged.pt"
    draw = np.random.default_rng(0)
    for at in draw.integers(len(whole), size=60):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with suppress(InputError):
                load_predictor(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_checkpoint_are_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("file.pt", "file.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="not a"):
            load_predictor(tmp_path / name)


@pytest.mark.parametrize(
    ("weights", "config", "says"),
    [
        ({"output.bias": None}, {}, "output.bias is missing"),
        ({"output.bias": torch.zeros(3)}, {}, "output.bias is float32 (3,), its config needs float (2,)"),
        (
            {"output.bias": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
            {},
            "output.bias is float4_e2m1fn_x2 (2,), its config needs float (2,)",
        ),
        ({"output.bias": torch.tensor([0.0, torch.nan])}, {}, "output.bias holds NaN or infinity"),
        ({"more": torch.zeros(1)}, {}, "unknown tensor more"),
        ({}, {"kv_rule": "mean"}, "`kv_rule` is 'mean'; valid are average, sum"),
        ({}, {"positions": ["a.to_q"]}, "positions is missing"),
        ({}, {"columns": [["a.to_q", 10**15]]}, "columns.values.1000000000000000 is missing"),
        ({}, {"columns": [["a.to_q", 10**40]]}, "no hypernetwork config"),
        ({}, {"columns": [["a.to_q", 8], ["a.to_q", 8]]}, "which is named once"),
        ({}, {"columns": [["a.to_q", 0]]}, "a positive number for each module"),
        ({}, {"columns": {"a.to_q": 8}}, "no hypernetwork config"),
        ({}, {"widths": [12] * 10**6}, "at most 64 widths, not 1,000,000"),
        ({}, {"columns": [[str(n), n] for n in range(1, 10**5)]}, "of at most 64 widths, not 99,999"),
        ({}, {"widths": [10**13]}, "inputs.10000000000000.weight is missing"),
        ({}, {"hidden": 10**14}, "its config needs float (100000000000000, "),
        ({}, {"positions": ["a.to_q", "a.to_q"]}, "one position for each module"),
        ({}, {"hidden": math.inf}, "no hypernetwork config"),
        ({}, {"columns": [["a.to_q", math.inf]]}, "no hypernetwork config"),
        ({}, {"hidden": 0}, "needs positive widths and hidden size"),
        ({}, {"widths": "x"}, "no hypernetwork config in its metadata"),
        ({}, None, "no hypernetwork config in its metadata"),
    ],
)
def test_a_damaged_checkpoint_of_ours_is_refused(
    weights: dict[str, Tensor | None], config: dict[str, object] | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "ours.safetensors"
    save_hypernet(Hypernetwork.untrained(HypernetConfig((12,), 4)), path)
    kept = {name: tensor for name, tensor in (load_file(path) | weights).items() if tensor is not None}
    settings = {"widths": [12], "hidden": 4, "kv_rule": "average", "trained": True}
    metadata = {} if config is None else {CONFIG_KEY: json.dumps(settings | config)}
    save_file(kept, path, metadata=metadata)
    with pytest.raises(InputError) as error:
        load_predictor(path)
    assert says in str(error.value)


@pytest.mark.parametrize("how", ["packed", "twice", "of a later version"])
def test_an_archive_that_unpacks_to_more_than_it_holds_is_not_unpacked(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(authors_state() | {"output.1.bias": torch.zeros(2**20)}, tmp_path / "theirs.pt")
    with ZipFile(tmp_path / "theirs.pt") as whole, ZipFile(tmp_path / "bomb.pt", "w", ZIP_DEFLATED) as bomb:
        for entry in whole.infolist():
            bomb.writestr(entry.filename, whole.read(entry), ZIP_STORED if how == "twice" else ZIP_DEFLATED)
        if how == "twice":  # one place in the file under many names
            largest = max(bomb.infolist(), key=lambda entry: entry.file_size)
            bomb.filelist += [largest] * 3
    if how == "of a later version":  # which Python's reader refuses, and torch's does not look at
        written = (tmp_path / "bomb.pt").read_bytes()
        start = written.index(b"PK\x01\x02")
        (tmp_path / "bomb.pt").write_bytes(written[: start + 6] + b"\x63\x00" + written[start + 8 :])
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(
        InputError, match=r"bomb\.pt: (it unpacks to more than it holds|not a checkpoint of plain tensors)"
    ):
        load_predictor(tmp_path / "bomb.pt")


def test_a_network_with_other_rules_is_another_one() -> None:
    network = Hypernetwork.untrained(HypernetConfig((12, 20), 8), seed=3)
    made = network.made()
    assert made.source == "untrained, seed 3"
    network.config = replace(network.config, kv_rule="sum")
    assert network.made().source == "memory" and network.made().sha256 != made.sha256


def test_a_missing_or_enormous_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load_predictor(tmp_path / "nowhere.safetensors")
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.truncate(257 * 2**20)
    with pytest.raises(InputError, match="257 MB is too large for a hypernetwork checkpoint"):
        load_predictor(tmp_path / "big.safetensors")


TINY = Layout.from_linears("tiny", [("a.attn1.to_q", 24, 12), ("a.attn1.to_k", 24, 12), ("a.attn2.to_out.0", 12, 20)])


def test_an_untrained_hypernetwork_has_the_widths_of_the_base() -> None:
    assert open_predictor("tiny", TINY, untrained=True).predictor.config.widths == (12, 20)
    assert open_predictor("miniature", load_layout("miniature"), untrained=True).predictor.config.widths == (96, 192)


def test_the_miniature_alone_has_a_hypernetwork_of_its_own() -> None:
    loaded = open_predictor("miniature", load_layout("miniature"))
    assert loaded.trained and loaded.source == shipped_hypernet().name
    with pytest.raises(InputError, match="a hypernetwork for tiny is needed: give `hypernet`"):
        open_predictor("tiny", TINY)


def test_a_file_and_random_weights_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`hypernet` and `untrained` exclude each other"):
        open_predictor("miniature", TINY, tmp_path / "h.safetensors", untrained=True)


def test_constant_coefficients_predict_but_are_no_hypernetwork(tmp_path: Path) -> None:
    path = tmp_path / "constant.safetensors"
    save_hypernet(ConstantCoefficients(), path)
    assert isinstance(open_predictor("tiny", TINY, path).predictor, ConstantCoefficients)
    with pytest.raises(InputError, match="it holds constant coefficients"):
        Hypernetwork.from_pretrained(path)


def test_from_pretrained_and_save_pretrained_give_the_same_bytes(tmp_path: Path) -> None:
    given = shipped_hypernet()
    network = Hypernetwork.from_pretrained(given)
    network.save_pretrained(tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == given.read_bytes()
    assert not network.training and "\n" not in repr(network) and given.name in repr(network)
    assert open_predictor("miniature", load_layout("miniature"), network).sha256 == load_predictor(given).sha256


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Hypernetwork.untrained(HypernetConfig(widths=(12,))), "no input layer for width 20, only for 12"),
        (lambda: Hypernetwork.untrained(HypernetConfig((12, 20), positions=("mid.to_q",))), "knows 1 layers by their"),
        (lambda: ConstantCoefficients(ConstantConfig(columns=(("mid.to_q", 12),))), "the columns of 1 layers"),
    ],
)
def test_a_checkpoint_of_another_base_is_refused_when_it_is_opened(
    made: Callable[[], Hypernetwork | ConstantCoefficients], says: str, tmp_path: Path
) -> None:
    save_hypernet(made(), tmp_path / "h.safetensors")
    with pytest.raises(InputError, match=says):
        open_predictor("tiny", TINY, tmp_path / "h.safetensors")


def test_the_authors_checkpoint_opens_and_is_saved_as_ours(tmp_path: Path) -> None:
    torch.save(authors_state(), tmp_path / "theirs.pt")
    network = Hypernetwork.from_pretrained(str(tmp_path / "theirs.pt"))
    with pytest.raises(InputError, match="safetensors"):
        network.save_pretrained(tmp_path / "ours.pt")
    network.save_pretrained(tmp_path / "ours.safetensors")
    assert load_predictor(tmp_path / "ours.safetensors").predictor.config == network.config


def test_a_network_that_was_changed_is_not_recorded_as_the_one_it_came_from(tmp_path: Path) -> None:
    Hypernetwork().save_pretrained(tmp_path / "mine.safetensors")
    for network in (Hypernetwork.from_pretrained(tmp_path / "mine.safetensors"), Hypernetwork.untrained()):
        assert network.provenance is not None and network.made() == network.provenance
        with torch.no_grad():
            network.output.bias += 1
        made = network.made()
        assert (made.source, made.trained) == ("memory", True) and made.sha256 != network.provenance.sha256
        with torch.no_grad():
            network.output.bias[0] = torch.nan
        with pytest.raises(InputError, match=r"hypernetwork's output\.bias holds NaN"):
            network.save_pretrained(tmp_path / "nan.safetensors")
        assert not (tmp_path / "nan.safetensors").exists()


def test_a_network_in_memory_is_saved_as_trained_unless_it_is_random(tmp_path: Path) -> None:
    for name, network in (("mine", Hypernetwork()), ("random", Hypernetwork.untrained())):
        network.save_pretrained(tmp_path / f"{name}.safetensors")
        assert load_predictor(tmp_path / f"{name}.safetensors").trained == (name == "mine")
