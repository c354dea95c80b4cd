"""What the documents name is there: links, commands, options, make targets."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_world import random_lora

from lorarar.base.names import load_layout
from lorarar.commands import COMMANDS
from lorarar.commands.bench import BENCHMARKS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "android_demo" / "README.md",
        ROOT / "ios_demo" / "README.md",
        ROOT / "benchmarks" / "runner" / "README.md",
        ROOT / "models" / "miniature" / "README.md",
    ]
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
HISTORY = "CHANGELOG.md"
"""Names commands and flags that are gone."""


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        leads_to = document.parent / path if path else document
        assert leads_to.exists(), f"{document.name} links to {target}"
        if anchor and leads_to.suffix == ".md":
            assert anchor in anchors(leads_to.read_text(encoding="utf-8")), f"{document.name} links to {target}"


def anchors(markdown: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_results_page_quotes_the_tables() -> None:
    """Every line of a table in docs/results.md is a line of a page that `lorarar evaluate` wrote."""
    tables = [path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "docs" / "results").rglob("*.md")]
    written = {line for lines in tables for line in lines}
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line in page if line.startswith("|")]
    assert len(quoted) > 20
    assert [line for line in quoted if line not in written] == []


def commands_in(markdown: str) -> Iterator[list[str]]:
    """Yield the words of every command of ours in a document: lines of fences and of indented code, and inline code."""
    fences = [body for language, body in FENCE.findall(markdown) if language in ("", "bash", "sh")]
    indented = re.findall(r"^    \S.*$", markdown, re.MULTILINE)
    inline = CODE.findall(FENCE.sub("", markdown))
    for code in (*fences, *indented, *inline):
        for line in code.replace("\\\n", " ").splitlines():
            yield from commands_of(line)


def commands_of(line: str) -> Iterator[list[str]]:
    """Yield each of our commands in a line of shell, beginning with `lorarar` or with the module after `-m`."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose with an apostrophe in it
        return
    for start, word in enumerate(words):
        ours = word.rpartition("/")[2] == "lorarar" or (
            re.fullmatch(r"(lorarar|export|benchmarks|runtime_py|miniature)(\.\w+)*", word) and words[start - 1] == "-m"
        )
        if ours and start + 1 < len(words) + (words[start - 1] == "-m"):
            end = next((at for at in range(start, len(words)) if words[at] in ("&&", "||", "|", ";")), len(words))
            yield [word.rpartition("/")[2], *words[start + 1 : end]]


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser | None, list[str]]:
    """Return the parser of a command and the words that it parses; no parser for one that only lists its commands."""
    module, rest = words[0], words[1:]
    if module == "lorarar":
        if rest[0].startswith("-"):
            assert rest[0] in ("-h", "--help", "--version")
            return None, []
        assert rest[0] in COMMANDS, f"`lorarar {rest[0]}` is no command"
        module, rest = COMMANDS[rest[0]][0], rest[1:]
    elif module.startswith("export."):
        # Importing the module itself would put it in the place of the function of this name.
        assert importlib.util.find_spec(module)
        module, rest = "lorarar.commands.export", [module.partition(".")[2], *rest]
    if module == "lorarar.commands.bench":
        if not rest:
            return None, []
        assert rest[0] in BENCHMARKS, f"`lorarar bench {rest[0]}` is no command"
        module, rest = f"benchmarks.{rest[0]}", rest[1:]
    if module.startswith("runtime_py."):
        assert importlib.util.find_spec(module)
        return None, []
    parser = importlib.import_module(module).parser()
    while (choices := subcommands(parser)) is not None and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        assert rest[0] in choices, f"`{parser.prog} {rest[0]}` is no command"
        parser, rest = choices[rest[0]], rest[1:]
    return parser, rest


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def unknown_flags(words: list[str]) -> list[str]:
    """Return the flags of a command that it does not have."""
    parser, rest = parser_of(words)
    if parser is None:
        return []
    known = {flag for action in parser._actions for flag in action.option_strings}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [flag for flag in given if flag not in known]


def placeholder(words: list[str]) -> bool:
    """Whether a command stands for any: `lorarar COMMAND --help`, `python -m export.hypernet|unet`."""
    return any(mark in " ".join(words[:2]) for mark in ("|", "…", "COMMAND"))


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != HISTORY], ids=name)
def test_commands_have_the_flags_that_a_document_gives_them(document: Path) -> None:
    commands = [words for words in commands_in(document.read_text(encoding="utf-8")) if not placeholder(words)]
    wrong = {" ".join(words): flags for words in commands if (flags := unknown_flags(words))}
    assert wrong == {}


def test_the_makefile_gives_commands_flags_that_they_have() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for _ in range(2):  # a variable may stand inside a function's call
        text = re.sub(r"\$\([^()]*\)|\$\$\w+", "X", text)
    lines = text.replace("\\\n", " ").replace(";", " ; ").splitlines()
    commands = [words for line in lines if line.startswith("\t") for words in commands_of(line)]
    assert len(commands) > 3
    assert {" ".join(words): flags for words in commands if (flags := unknown_flags(words))} == {}


def test_a_wrong_command_is_found() -> None:
    text = "Do `lorarar merge --never`, or\n\n```\n.venv/bin/lorarar study serve \\\n  --nowhere x && make\n```\n"
    found = list(commands_in(text))
    assert found == [["lorarar", "study", "serve", "--nowhere", "x"], ["lorarar", "merge", "--never"]]
    assert [unknown_flags(words) for words in found] == [["--nowhere"], ["--never"]]
    with pytest.raises(AssertionError, match="no command"):
        unknown_flags(["lorarar", "mrge"])


def test_the_start_page_lists_every_command() -> None:
    page = (ROOT / "docs" / "guide" / "get-started.md").read_text(encoding="utf-8")
    assert [*COMMANDS] == sorted(re.findall(r"^\| `lorarar ([\w-]+)` \|", page, re.MULTILINE), key=[*COMMANDS].index)


def test_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for document in (*DOCUMENTS, *WORKFLOWS)
        for target in re.findall(r"(?:`|run: |^)make ([a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"quickstart", "test", "docs"} <= named
    assert named - targets == set()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name)
def test_a_workflow_is_yaml_and_says_that_it_was_never_run(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert text.startswith("# NEVER RUN YET")
    for job in yaml.safe_load(text)["jobs"].values():
        assert job["timeout-minutes"]
        assert all(step.keys() & {"run", "uses"} for step in job["steps"])
    for words in commands_of_workflow(text):
        assert unknown_flags(words) == []


def commands_of_workflow(text: str) -> list[list[str]]:
    runs = [step.get("run", "") for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    return [words for run in runs for line in run.splitlines() for words in commands_of(line)]


def readme_code() -> str:
    """Return the README's Python, its blocks after one another."""
    blocks = FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return "\n".join(body for language, body in blocks if language == "python")


def test_the_readme_runs(shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on a base of toy size in the place of SDXL, whose weights are not shipped."""
    from shared_bundles import save_hypernet_of

    for seed, name in enumerate(("dog", "paint")):
        random_lora(load_layout(str(shallow_pipeline)), (2,), seed).save(tmp_path / f"{name}.safetensors")
    save_hypernet_of(shallow_pipeline, tmp_path / "hypernet.safetensors")
    code, replaced = re.subn(r'"sdxl(-folder)?"', repr(str(shallow_pipeline)), readme_code())
    assert replaced == 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["state_dict"]
    assert names["report"].passed
    for made in ("merged.safetensors", "bundle/manifest.json", "image.png"):
        assert (tmp_path / made).is_file(), f"the README's code makes no {made}"
