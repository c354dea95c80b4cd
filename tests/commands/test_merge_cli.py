"""`lorarar merge` on real files: what it writes, what it says, and every way to be refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lorarar.api import RUN_BASE
from lorarar.base.names import CONFIGS, DEFAULT_BASE, MINIATURE_FOLDER, load_layout
from lorarar.commands import convert
from lorarar.commands.merge import main, parser
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import save_hypernet
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.merging import METHODS, MergeOptions, merge_loras, predict_with
from lorarar.synthetic import synthetic_lora

HYPERNET = Hypernetwork.untrained(HypernetConfig(widths=(32, 64), hidden=16, kv_rule="sum"))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return tiny_base(tmp_path_factory.mktemp("base"))[1]


def tiny_base(folder: Path) -> tuple[str, Layout]:
    """A diffusers folder with the config of a small KOALA, and its layout."""
    small = {"block_out_channels": [16, 32, 64], "transformer_layers_per_block": [0, 1, 1], "norm_num_groups": 8}
    sizes = {"attention_head_dim": [2, 4, 8], "cross_attention_dim": 24, "sample_size": 8}
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps(CONFIGS["koala-700m"] | small | sizes))
    return str(folder), load_layout(str(folder))


def make_lora(layout: Layout, seed: int, rank: int) -> LoRA:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    shapes = {
        UNET + module: (group.out_features, group.in_features) for group in layout.groups for module in group.modules
    }
    shapes[UNET + "down_blocks.1.attentions.0.proj_in"] = (32, 32)
    return LoRA({name: LoraLayer(normal(rank, inp), normal(out, rank)) for name, (out, inp) in shapes.items()})


@pytest.fixture
def files(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, entered, with a base, two LoRAs of different dialects and ranks, and a hypernetwork."""
    monkeypatch.chdir(tmp_path)
    # Building a UNet takes seconds; the layout of the folder is tested with the bases.
    monkeypatch.setattr("lorarar.api.load_layout", lambda base: layout)
    write_lora(make_lora(layout, 1, 3), tmp_path / "dog.safetensors", dialect="kohya")
    write_lora(make_lora(layout, 2, 5), tmp_path / "paint.safetensors", dialect="peft")
    save_hypernet(HYPERNET, tmp_path / "hyper.safetensors")
    return tmp_path


def run(*arguments: str) -> int:
    return main(["dog.safetensors", "paint.safetensors", "--base", "tiny", "-o", "merged.safetensors", *arguments])


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


@pytest.mark.parametrize("dialect", ["peft", "kohya"])
def test_learned_merges_two_dialects(
    dialect: str, files: Path, layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--hypernet", "hyper.safetensors", "--dialect", dialect, "--style-scale", "0.5") == 0
    merged = read_lora(files / "merged.safetensors")
    content, style = read_lora(files / "dog.safetensors"), read_lora(files / "paint.safetensors")
    options = MergeOptions(style_scale=0.5, rule="sum", predict=predict_with(HYPERNET))
    want = merge_loras(content, style, layout, "learned", options).lora
    assert set(merged.layers) == set(want.layers)
    for name, item in want.layers.items():
        np.testing.assert_allclose(merged.layers[name].delta(), item.delta(), rtol=1e-5, atol=1e-5)
    facts = metadata_of(files / "merged.safetensors")
    assert facts["lorarar_method"] == "learned" and facts["lorarar_rule"] == "sum"
    assert facts["lorarar_style_scale"] == "0.5" and facts["lorarar_hypernet"] == "hyper.safetensors"
    assert len(facts["lorarar_hypernet_sha256"]) == 64 and facts["lorarar_hypernet_trained"] == "true"
    assert (facts["lorarar_content"], facts["lorarar_style"]) == ("dog.safetensors", "paint.safetensors")
    said = capsys.readouterr()
    assert "rank 3" in said.out and "rank 5" in said.out and "rank 8" in said.out and "kohya" in said.out
    assert "by the rule (sum)" in said.out and "exact" in said.out
    assert said.err.count("warning: ") == (dialect == "peft")
    assert ("1 of the file's 49 layers" in " ".join(said.err.split())) == (dialect == "peft")
    assert [path.name for path in files.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("learned", *RUN_BASE)])
def test_every_other_method_runs(method: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--method", method, "--dtype", "fp16") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert method in said and "fp16" in said
    is_cut = method in ("dare", "ties", "dare-ties")  # those whose result has full rank
    assert ("‖ΔW − ΔW_r‖/‖ΔW‖" in said) == is_cut
    facts = metadata_of(files / "merged.safetensors")
    assert facts["lorarar_paper"] == METHODS[method].paper
    assert ("lorarar_truncation_error" in facts) == is_cut


def test_the_rule_given_wins_over_the_checkpoint_s(files: Path) -> None:
    run("--hypernet", "hyper.safetensors", "--rule", "average")
    assert metadata_of(files / "merged.safetensors")["lorarar_rule"] == "average"


def test_untrained_has_the_widths_of_the_base(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--untrained") == 0
    assert "warning: the hypernetwork is untrained" in capsys.readouterr().err
    assert metadata_of(files / "merged.safetensors")["lorarar_hypernet_trained"] == "false"


def test_untrained_merges_on_the_default_base(tmp_path: Path) -> None:
    layout = load_layout(DEFAULT_BASE)
    paths = [tmp_path / f"{name}.safetensors" for name in ("dog", "paint", "merged")]
    for seed, path in enumerate(paths[:2]):
        write_lora(synthetic_lora(layout, rank=2, seed=seed), path)
    assert main([*map(str, paths[:2]), "--untrained", "-o", str(paths[2])]) == 0
    assert read_lora(paths[2]).max_rank == 4


def test_the_authors_checkpoint_merges_by_its_rule_and_says_so(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"input_1": (128, 1280), "input_2": (128, 2560), "output.1": (2, 128)}
    state = {f"{n}.weight": torch.zeros(s) for n, s in shapes.items()} | {
        f"{n}.bias": torch.zeros(s[0]) for n, s in shapes.items()
    }
    torch.save(state, files / "theirs.pt")
    wide = Layout.from_linears("wide", [("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 640, 640)])
    for name, seed in (("dog", 1), ("paint", 2)):
        layers = make_lora(wide, seed, 2).layers
        write_lora(LoRA({n: item for n, item in layers.items() if n.endswith("to_q")}), files / f"{name}.safetensors")
    monkeypatch.setattr("lorarar.api.load_layout", lambda base: wide)
    assert run("--hypernet", "theirs.pt") == 0
    assert "warning: the authors' checkpoint: k/v rule set to sum" in capsys.readouterr().err
    assert metadata_of(files / "merged.safetensors")["lorarar_rule"] == "sum"


@pytest.mark.parametrize("base", ["sdxl.safetensors", "folder"])
def test_a_base_is_not_overwritten(base: str, files: Path) -> None:
    (files / "folder" / "unet").mkdir(parents=True)
    out = files / base if base.endswith("s") else files / base / "unet" / "weights.safetensors"
    out.write_bytes(b"weights")
    for command, given in (
        (main, ["dog.safetensors", "paint.safetensors", "--method", "direct"]),
        (convert.main, ["dog.safetensors", "--rank", "2"]),
    ):
        with pytest.raises(InputError, match="writing there would overwrite the input"):
            command([*given, "--base", str(files / base), "-o", str(out)])
    assert out.read_bytes() == b"weights"


def test_a_dataset_s_loras_are_not_overwritten(files: Path) -> None:
    dataset = files / "dataset"
    dataset.mkdir()
    out = Path(shutil.copy(files / "dog.safetensors", dataset / "cat.safetensors"))
    before = out.read_bytes()
    with pytest.raises(InputError, match="overwrite the input"):
        run("--method", "ssr", "--dataset", str(dataset), "-o", str(out))
    assert out.read_bytes() == before


@pytest.mark.parametrize("place", ["hypernet.safetensors", "unet/diffusion_pytorch_model.safetensors"])
def test_the_shipped_miniature_is_not_overwritten(place: str, files: Path) -> None:
    out = MINIATURE_FOLDER / place
    for command, given in ((main, ["dog.safetensors", "paint.safetensors"]), (convert.main, ["dog.safetensors"])):
        with pytest.raises(InputError, match="writing there would overwrite the input"):
            command([*given, *(["--rank", "2"] if command is convert.main else []), "-o", str(out)])


def test_a_lora_of_a_larger_base_is_warned_about(
    files: Path, layout: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = Layout("small", layout.groups[:1])
    monkeypatch.setattr("lorarar.api.load_layout", lambda base: smaller)
    assert run("--method", "direct") == 0
    inside, all_ = len(smaller.modules), len(layout.modules)
    assert f"{all_ - inside} of its {all_} attention layers are not in small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --hypernet, the file of a trained one, or --untrained"),
        (["--hypernet", "hyper.safetensors", "--untrained"], "--hypernet and --untrained exclude each other"),
        (["--hypernet", "nowhere.safetensors"], "nowhere.safetensors: no such checkpoint"),
        (["--method", "direct", "--untrained"], "--untrained means nothing to direct"),
        (["--method", "direct", "--hypernet", "hyper.safetensors"], "--hypernet means nothing to direct"),
        (["--method", "direct", "--density", "0.5"], "--density means nothing to direct"),
        (
            ["--method", "ties", "--seed", "1"],
            "--seed means nothing to ties; leave it out, or use it with ziplora, dare",
        ),
        (["--method", "dare", "--mu", "1"], "--mu means nothing to dare"),
        (["--method", "np-lora", "--rule", "sum"], "--rule means nothing to np-lora"),
        (["--method", "ssr"], "give --content-prompt and --style-prompt"),
        (["--method", "ssr-text", "--content-prompt", "a sks dog"], "give --content-prompt and --style-prompt"),
        (["--method", "ssr", "--content-images", "."], "--content-images means nothing to ssr"),
        (["--method", "ssr", "--zip-steps", "3"], "--zip-steps means nothing to ssr"),
        (["--method", "direct", "--style-prompt", "a house"], "--style-prompt means nothing to direct"),
        (["--method", "dare", "--density", "0"], "--density is 0.0"),
        (["--method", "dare", "--seed", "-1"], "--seed is -1"),
        (["--method", "np-lora", "--mu", "-1"], "--mu is -1.0"),
        (["--method", "direct", "--rank-out", "0"], "--rank-out is 0"),
        (["--method", "direct", "--content-scale", "nan"], "--content-scale is nan"),
        (["--method", "direct", "--content-scale", "1e39"], "--content-scale is 1e+39; give a finite number"),
        (["--method", "direct", "--content-scale", "3e38"], "too large for float32; use smaller strengths"),
        (["--hypernet", "hyper.safetensors", "-o", "hyper.safetensors"], "overwrite the input hyper.safetensors"),
        (["--method", "direct", "--coefficients-plot", "p.png"], "--coefficients-plot is drawn of a bundle's merge"),
        (["--bundle", "folder.safetensors"], "--base means nothing to a bundle"),
        (["--method", "direct", "--rule", "mean"], "argument --rule: invalid choice: 'mean'"),
        (["--method", "zip"], "argument --method: invalid choice: 'zip'"),
        (["--method", "direct", "--dialect", "webui"], "argument --dialect: invalid choice: 'webui'"),
        (["--method", "direct", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--method", "dare", "--density", "half"], "argument --density: invalid float value: 'half'"),
        (["--method", "direct", "third.safetensors"], "unrecognized arguments: third.safetensors"),
        (["--method", "direct", "-o", "merged.bin"], "end its name with .safetensors"),
        (["--method", "direct", "-o", "folder.safetensors"], "folder.safetensors: this is a folder"),
        (["--method", "direct", "-o", "dog.safetensors"], "would overwrite the input dog.safetensors"),
        (["--method", "direct", "-o", "sub/../paint.safetensors"], "would overwrite the input paint.safetensors"),
        (["--method", "direct", "-o", "link.safetensors"], "would overwrite the input dog.safetensors"),
        (["--method", "direct", "-o", "hard.safetensors"], "this is the same file as the input dog.safetensors"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(arguments: list[str], says: str, files: Path) -> None:
    (files / "folder.safetensors").mkdir()
    (files / "sub").mkdir()
    (files / "link.safetensors").symlink_to(files / "dog.safetensors")
    (files / "hard.safetensors").hardlink_to(files / "dog.safetensors")
    before = {path: path.read_bytes() for path in files.iterdir() if path.is_file()}
    with pytest.raises(InputError) as error:
        main(["dog.safetensors", "paint.safetensors", "--base", "tiny", "-o", "merged.safetensors", *arguments])
    assert says in str(error.value)
    assert {path: path.read_bytes() for path in files.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "given", [["--method", "direct"], ["--untrained"], ["--lambda", "1"], ["--seed", "0"], ["--hypernet", "h"]]
)
def test_a_bundle_takes_no_option_of_the_other_way(given: list[str], files: Path) -> None:
    with pytest.raises(InputError, match=f"{given[0]} means nothing to a bundle"):
        main(["dog.safetensors", "paint.safetensors", "--bundle", "b", "-o", "merged.safetensors", *given])


def test_a_peft_folder_is_not_written_into(files: Path) -> None:
    (files / "peft").mkdir()
    shutil.copy(files / "dog.safetensors", files / "peft" / "adapter_model.safetensors")
    with pytest.raises(InputError, match="would overwrite the input peft"):
        main(["peft", "paint.safetensors", "--method", "direct", "-o", "peft/adapter_model.safetensors"])


def test_a_bundle_is_not_written_into(files: Path) -> None:
    (files / "bundle" / "golden").mkdir(parents=True)
    for into in ("golden", "golden/new", "new/deep"):
        with pytest.raises(InputError, match="would overwrite the input bundle"):
            main(["dog.safetensors", "paint.safetensors", "--bundle", "bundle", "-o", f"bundle/{into}/m.safetensors"])


def test_loras_that_do_not_fit_are_refused(files: Path, layout: Layout) -> None:
    good = make_lora(layout, 1, 2)
    name = UNET + "down_blocks.1.attentions.0.proj_in"
    odd = LoraLayer(np.ones((1, 48), np.float32), np.ones((48, 1), np.float32))
    cases = {
        "disagree on unet.down_blocks.1.attentions.0.proj_in: (48, 48) against (32, 32)": {**good.layers, name: odd},
        "none of its 1 attention layers is in": {UNET + "mid_block.attn1.to_q": odd},
    }
    for says, layers in cases.items():
        write_lora(LoRA(layers), files / "dog.safetensors")
        with pytest.raises(InputError) as error:
            run("--method", "direct")
        assert says in str(error.value) and "dog.safetensors" in str(error.value)
    assert not (files / "merged.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj", UNET + "down_blocks.1.attentions.0.proj_in"]
)
@pytest.mark.parametrize("method", [["--untrained"], ["--method", "direct"]])
def test_a_lora_without_attention_is_merged_by_the_rule(
    name: str, method: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = LoraLayer(np.ones((1, 32), np.float32), np.ones((32, 1), np.float32))
    write_lora(LoRA({name: layer}), files / "dog.safetensors")
    run(*method)
    assert "dog.safetensors: it has" in capsys.readouterr().err
    assert name in read_lora(files / "merged.safetensors").layers


def test_as_a_process_it_exits_2_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lorarar.commands.merge", "a.safetensors"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_help_names_every_method_and_its_paper() -> None:
    text = parser().format_help()
    for method, entry in METHODS.items():
        assert method in text and entry.paper in text
    assert "carried exactly" in text
