"""Parsers, options made of settings, exit codes, one-sentence errors, and outputs that are whole or not there."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from export.resume import unfinished_folder
from lorarar.command_line import Parser, add_settings, given_settings, main_of, run_command, settings_as_options
from lorarar.console import console, print_rows, print_table, status, warn
from lorarar.errors import FailedCheck, InputError
from lorarar.files import atomic_file, atomic_folder, check_output, check_schema
from lorarar.lora import LoRA, LoraLayer, write_lora
from lorarar.settings import check_at_least, setting
from lorarar.training.settings import check_state

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inner:
    weight: float = setting(0.25, "weight of the term", metavar="X", flag="lambda")


@dataclass(frozen=True)
class Outer:
    rank: int = setting(64, "rank of every layer", metavar="R")
    kinds: tuple[str, ...] = setting(("q", "out"), "layers, 100 % of them", parse=lambda text: tuple(text.split(",")))
    mode: str = setting("slow", "how", choices=("slow", "fast"))
    flip: bool = setting(False, "mirror too")
    inner: Inner = field(default_factory=Inner)
    hidden: int = 7  # no option

    def __post_init__(self) -> None:
        check_at_least(1, rank=self.rank)


def parser() -> Parser:
    made = Parser(prog="lorarar try")
    made.add_argument("content", metavar="CONTENT")
    made.add_argument("-o", "--out", dest="out")
    add_settings(made, Outer(), {"miniature": Outer(rank=16)})
    return made


def test_settings_become_options_whose_help_tells_the_defaults() -> None:
    text = " ".join(parser().format_help().split())
    for says in ("--rank R rank of every layer (default 64; miniature 16)", "--lambda X", "(default 0.25)"):
        assert says in text
    assert "layers, 100 % of them (default q,out)" in text and "--hidden" not in text and "{slow,fast}" in text


def test_given_options_replace_defaults_and_nothing_else() -> None:
    assert given_settings(parser().parse_args(["c"]), Outer()) == Outer()
    args = parser().parse_args(["c", "--rank", "3", "--lambda", "0", "--kinds", "k,v", "--flip", "--mode", "fast"])
    assert given_settings(args, Outer(hidden=8)) == Outer(3, ("k", "v"), "fast", True, Inner(0.0), 8)


def test_options_make_settings_of_defaults_again() -> None:
    for settings, defaults in ((Outer(3, flip=True), Outer()), (Outer(flip=False), Outer(5, ("k",), flip=True))):
        words = settings_as_options(settings, defaults)
        assert given_settings(parser().parse_args(["c", *words]), defaults) == settings


@pytest.mark.parametrize("argument", ["--ran", "--lamb", "--ou", "--fli"])
def test_options_can_t_be_shortened(argument: str) -> None:
    with pytest.raises(InputError, match=f"unrecognized arguments: {argument}.*see  lorarar try --help"):
        parser().parse_args(["c", argument, "1"])


def test_a_missing_argument_is_one_sentence() -> None:
    with pytest.raises(InputError, match="arguments are required: CONTENT; see  lorarar try --help"):
        parser().parse_args([])


def test_a_library_s_parameters_are_told_as_flags() -> None:
    said = parser().in_flags("`rank` is 0, `weight` and `content` too; `out` or `flip`, not `unknown` or `two words`")
    assert said == "--rank is 0, --lambda and CONTENT too; --out or --flip, not `unknown` or `two words`"


def test_a_command_s_errors_speak_in_its_flags() -> None:
    def run(args: Namespace) -> int:
        if args.rank == 6:
            raise FailedCheck("leave out `rank`")
        return given_settings(args, Outer()).rank

    main = main_of(parser, run)
    assert main(["c", "--rank", "5"]) == 5
    with pytest.raises(InputError, match=r"^--rank is 0; give"):
        main(["c", "--rank", "0"])
    with pytest.raises(FailedCheck, match="leave out --rank"):
        main(["c", "--rank", "6"])


def no_memory() -> RuntimeError:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**46)
    return told.value


def raising(error: BaseException) -> Callable[[Sequence[str] | None], int]:
    def main(_: Sequence[str] | None) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("the file\nis bad"), 2, "error: the file is bad\n"),
        (FailedCheck("differs"), 1, "error: differs\n"),
        (MemoryError(), 2, "error: this machine ran out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), 2, "error: this machine ran out of memory"),
        (no_memory(), 2, "error: this machine ran out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 2, "error: out: the disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "error: x: no such file or folder; check the path"),
        (PermissionError(errno.EACCES, "Denied", "x"), 2, "error: x: no permission"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(raising(error))
    assert caught.value.code == code
    err = capsys.readouterr().err
    assert err.startswith(text) and err.count("\n") == 1


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


def test_sigterm_clears_up_though_it_comes_twice(tmp_path: Path) -> None:
    """`kill` leaves no temporary file; `timeout` sends the signal to the command and then to its whole group."""
    cleared = []

    def main(_: Sequence[str] | None) -> int:
        with atomic_file(tmp_path / "made"):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                cleared.append(True)
        return 0

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == 143
    assert cleared and list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_stays_ignored_where_it_was() -> None:
    def main(_: Sequence[str] | None) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as caught:
            run_command(main)
        assert caught.value.code == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_atomic_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("made/target")
    with atomic_file(tmp_path / "link.png") as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.suffix == ".png"  # by which libraries choose a format
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "made" / "target").read_bytes() == b"whole"
    (tmp_path / "folder").symlink_to("made")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["new"]


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "unet.\x1b[2J\x1b[31mEVIL\u202e"
    warn([evil])
    print_rows([(evil, evil)])
    print_table((evil,), [(evil,)], title=evil)
    console().print(evil)

    def fails(_: object) -> int:
        raise InputError(f"{evil}: no such layer; give another")

    with pytest.raises(SystemExit):
        run_command(fails)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert r"EVIL\u202e" in text and "\x1b" not in text and "\u202e" not in text


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    """A parser takes it where its stack is large enough, and then nothing can print it."""
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(InputError, match="x: it is nested too deeply; mend it"):
        check_schema(nested, {"type": "object"}, "x", "mend it")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    circles: list[Callable[[], object]] = [
        lambda: check_output(loop),
        lambda: check_output(loop / "a"),
        lambda: check_output(tmp_path / "a", loop),
        lambda: check_state(loop, None, tmp_path / "a"),
        lambda: atomic_file(loop).__enter__(),
        lambda: atomic_folder(loop).__enter__(),
        lambda: unfinished_folder(loop, {}).__enter__(),
    ]
    for call in circles:
        with pytest.raises(InputError, match="its links lead in a circle; correct them, or give another path"):
            call()


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for output in (tmp_path / "pipe.json", Path(os.devnull)):
        with pytest.raises(InputError, match="this is a device or a pipe; give the name of a file"):
            check_output(output)


@pytest.mark.parametrize("letter", ["a", "狗", "\N{DOG}"])
def test_names_may_be_as_long_as_the_file_system_takes(letter: str, tmp_path: Path) -> None:
    size, suffix = len(letter.encode()), ".safetensors"
    path = tmp_path / (letter * ((255 - len(suffix)) // size) + suffix)
    for content in (b"one", b"two"):
        with atomic_file(path) as temporary:
            assert temporary.suffix == suffix
            temporary.write_bytes(content)
        assert path.read_bytes() == content
    with atomic_file(tmp_path / f"x.{'a' * 250}") as temporary:  # a suffix as long
        temporary.touch()
    folder = path.with_name(letter * (255 // size))
    for name in ("one", "two"):
        with atomic_folder(folder) as made:
            (made / name).touch()
        assert [item.name for item in folder.iterdir()] == [name]


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_atomic_folder_replaces_and_restores(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["a"]
    with atomic_folder(target) as temporary:
        (temporary / "c").write_text("3")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_folder_is_still_there_where_its_successor_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    target, calls, rename = tmp_path / "bundle", [], Path.replace

    def interrupted(path: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == renames:
            raise KeyboardInterrupt
        return rename(path, to)

    target.mkdir()
    (target / "a").write_text("1")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), atomic_folder(target):
        patched.setattr(Path, "replace", interrupted)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["bundle", "bundle/a"]


def test_what_is_written_is_as_private_as_any_new_file(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "bundle") as folder, atomic_file(folder / "a"):
            pass
    finally:
        os.umask(umask)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "bundle" / "a").stat().st_mode & 0o777 == 0o640


def test_texts_from_strangers_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with status("runs[/b]") as show:
        show("more[/b]")
    warn(["/data/:dog:/x:on:y[/b]"])
    assert "warning: /data/:dog:/x:on:y[/b]" in capsys.readouterr().err


WRITINGS = {
    "a LoRA": "from lorarar.lora import read_lora, write_lora; write_lora(read_lora(sys.argv[1]), sys.argv[2])",
    "a state": "import torch; from lorarar.training.state import StateFile; "
    "weight = torch.nn.Parameter(torch.ones(9**6)); "
    "StateFile(Path(sys.argv[2]), {}).save({'w': weight}, torch.optim.AdamW([weight]), None, [])",
    "a hypernetwork": "from lorarar.hypernet.network import Hypernetwork, HypernetConfig; "
    "Hypernetwork.untrained(HypernetConfig((640,))).save_pretrained(sys.argv[2])",
    "a pipeline": "import torch; from types import SimpleNamespace; from safetensors.torch import save_file; "
    "from miniature.pipelines import save_trained; write = lambda to: save_file({'w': torch.ones(9**6)}, to / 'w'); "
    "save_trained(SimpleNamespace(save_pretrained=write), Path(sys.argv[2]), [], [])",
}
"""What is written for users, each larger than the limit of the next test."""


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS)
def test_a_full_disk_leaves_nothing(writing: str, tmp_path: Path) -> None:
    """A file-size limit is a disk that fills up in the middle of a write."""
    layer = LoraLayer(np.ones((8, 4096), np.float32), np.ones((4096, 8), np.float32))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    write_lora(LoRA({name: layer}), tmp_path / "in.safetensors")
    code = (
        "import sys; from pathlib import Path; from lorarar.command_line import run_command\n"
        f"def main(_):\n {writing}\n return 0\n"
        "run_command(main)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in.safetensors"), str(tmp_path / "out" / "out.safetensors")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),  # let write() fail instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        ),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_who_has_read_enough_ends_a_command_in_silence() -> None:
    command = "from lorarar.command_line import run_command; run_command(lambda _: print('x' * 100_000) or 0)"
    given = [sys.executable, "-c", command]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        ran.stdout.close()
        assert (ran.stderr.read(), ran.wait()) == (b"", 141)


def test_a_file_name_in_another_encoding_ends_no_command(tmp_path: Path) -> None:
    """As of an archive of another system: Python has its bytes as lone surrogates, which UTF-8 lacks."""
    source = os.fsencode(tmp_path) + b"/h\xe9.safetensors"
    shutil.copy(ROOT / "tests" / "golden" / "hypernet" / "content.safetensors", source)
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(ROOT)}
    out = tmp_path / "plain.safetensors"
    command = [sys.executable, "-m", "lorarar", "convert", source, "--rank", "2", "-o", out]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=strict)
    assert (ran.returncode, out.exists()) == (0, True), ran.stderr
    assert "\\udce9" in ran.stderr and "Traceback" not in ran.stderr
