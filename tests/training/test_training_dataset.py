"""`dataset.json`: what is read from it, and every way in which it can be wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline import save_tiny_dataset

from lorarar.errors import InputError
from lorarar.training.dataset import SPLIT_PARTS, Split, joined, merged_prompt, read_dataset

Raw = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_dataset(tmp_path / "data", contents=3, styles=3)


def test_reads_what_the_file_says(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert (dataset.name, dataset.resolution, dataset.folder) == ("tiny", 32, folder.resolve())
    content, style = dataset.contents["content_1"], dataset.styles["style_0"]
    assert (content.prompt, content.group) == ("a sks cat", "group_1")
    assert (style.prompt, style.image_class) == ("a dog in watercolor style", "dog")
    assert merged_prompt(content, style) == "a sks cat in watercolor style"
    assert content.images == tuple(folder.resolve() / f"contents/content_1/{index}.png" for index in range(2))
    assert style.lora == folder.resolve() / "loras/style_0.safetensors"
    assert not style.lora.exists()


def test_order_is_the_files(folder: Path) -> None:
    dataset = read_dataset(folder)
    assert list(dataset.contents) == ["content_0", "content_1", "content_2"]
    assert dataset.split().contents == {"train": ("content_0",), "validation": ("content_1",), "test": ("content_2",)}
    assert dataset.split("paper").styles["test"] == ("style_2",)


def test_parts_may_be_left_out(folder: Path) -> None:
    def change(raw: Raw) -> None:
        raw["splits"] = {"objects": {"contents": {"train": ["content_2"]}, "styles": {}}}

    edit(folder, change)
    split = read_dataset(folder).split("objects")
    assert split.contents == {"train": ("content_2",), "validation": (), "test": ()}
    assert tuple(split.styles) == SPLIT_PARTS


def test_a_split_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no split 'animals'; valid are paper"):
        read_dataset(folder).split("animals")
    edit(folder, lambda raw: raw.update(splits={}))
    with pytest.raises(InputError, match="valid are none, so add one"):
        read_dataset(folder).split()


def edit(folder: Path, change: Callable[[Raw], object]) -> None:
    path = folder / "dataset.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def content(**fields: Any) -> Callable[[Raw], None]:
    return lambda raw: raw["contents"][1].update(fields)


def style(**fields: Any) -> Callable[[Raw], None]:
    return lambda raw: raw["styles"][0].update(fields)


def part(kind: str, name: str, names: Any) -> Callable[[Raw], None]:
    return lambda raw: raw["splits"]["paper"][kind].update({name: names})


BAD: dict[str, tuple[Callable[[Raw], object], str]] = {
    "schema": (lambda raw: raw.update(schema_version=2), r"\$\.schema_version .*1 was expected"),
    "a newer format": (lambda raw: (raw.clear(), raw.update(schema_version=2, things=[])), r"\$\.schema_version"),
    "no schema": (lambda raw: raw.pop("schema_version"), "'schema_version' is a required"),
    "no name": (lambda raw: raw.pop("name"), "'name' is a required"),
    "no contents": (lambda raw: raw.pop("contents"), "'contents' is a required"),
    "contents an object": (lambda raw: raw.update(contents={}), r"\$\.contents .*not of type 'array'"),
    "an entry a text": (lambda raw: raw["styles"].append("x"), r"\$\.styles\[3\] .*not of type 'object'"),
    "resolution zero": (lambda raw: raw.update(resolution=0), r"\$\.resolution .*less than the minimum"),
    "resolution true": (lambda raw: raw.update(resolution=True), r"\$\.resolution .*not of type 'integer'"),
    "resolution text": (lambda raw: raw.update(resolution="64"), r"\$\.resolution .*not of type 'integer'"),
    "resolution a half": (lambda raw: raw.update(resolution=64.5), r"\$\.resolution .*not of type 'integer'"),
    "no class": (lambda raw: raw["contents"][1].pop("class"), r"\$\.contents\[1\] .*'class' is a required"),
    "empty token": (content(token=" "), r"\$\.contents\[1\]\.token"),
    "two lines": (style(description="oil\npaint"), "give a text of one line"),
    "text turned round": (style(description="oil \u202egnp.exe"), "give a text of one line"),
    "a number": (style(group=3), r"\$\.styles\[0\]\.group .*not of type 'string'"),
    "no images": (content(images=[]), r"\$\.contents\[1\]\.images"),
    "images a text": (content(images="a.png"), r"\$\.contents\[1\]\.images .*not of type 'array'"),
    "image missing": (content(images=["gone.png"]), "gone.png does not exist; put it there or correct the path"),
    "image above": (content(images=["../x.png"]), r"content_1: '\.\./x\.png' leaves the dataset's folder"),
    "image absolute": (content(images=["/etc/passwd"]), "'/etc/passwd' leaves the dataset's folder"),
    "image with zero": (content(images=["a\0b"]), "characters that can't be printed"),
    "image with half a pair": (content(images=["\ud800.png"]), r"images\[0\] breaks the schema"),
    "lora above": (style(lora="../../x.safetensors"), "leaves the dataset's folder; give a path inside it"),
    "lora a pickle": (style(lora="x.bin"), r"\$\.styles\[0\]\.lora .*'x\.bin'"),
    "lora twice": (style(lora="loras/content_0.safetensors"), "'content_0' and 'style_0' have the same LoRA file"),
    "a content's name for a style": (style(name="content_0"), "a content and a style are both named 'content_0'"),
    "name twice": (content(name="content_0"), "contents: the name 'content_0' occurs twice; give each its own"),
    "splits a list": (lambda raw: raw.update(splits=[]), r"\$\.splits .*not of type 'object'"),
    "unknown part": (part("styles", "tests", []), r"\$\.splits\.paper\.styles .*'tests' was unexpected"),
    "unknown content": (
        part("contents", "train", ["style_0"]),
        "train: no entry is named 'style_0'; valid are content_0",
    ),
    "in two parts": (part("contents", "train", ["content_2"]), "'content_2' is in train and in test; a name"),
    "twice in one": (part("styles", "train", ["style_0", "style_0"]), r"styles\.train .*non-unique"),
    "part a text": (part("styles", "train", "style_0"), r"styles\.train .*not of type 'array'"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(folder: Path, case: str) -> None:
    change, message = BAD[case]
    edit(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(folder)
    assert str(folder / "dataset.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"schema_version": 1', '{"schema_version": NaN}'])
def test_not_json(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=re.escape(str(folder / "dataset.json"))):
        read_dataset(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_not_an_object(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(InputError, match="not of type 'object'"):
        read_dataset(folder)


def test_not_text(folder: Path) -> None:
    (folder / "dataset.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid JSON"):
        read_dataset(folder)


def test_a_description_of_any_depth_is_read(folder: Path) -> None:
    """What the format does not name is nobody's business, however deep it is."""
    path = folder / "dataset.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "notes": ' + "[" * 400 + "]" * 400 + "}")
    assert read_dataset(folder).name == "tiny"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; give a folder that holds a dataset\.json"):
        read_dataset(tmp_path)


def test_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    edit(folder, content(images=["link.png"]))
    with pytest.raises(InputError, match="leaves the dataset's folder"):
        read_dataset(folder)


def test_a_link_to_itself(folder: Path) -> None:
    (folder / "link.png").symlink_to("link.png")
    edit(folder, content(images=["link.png"]))
    with pytest.raises(InputError, match=r"link\.png: its links lead in a circle"):
        read_dataset(folder)


def test_joined_datasets_have_the_entries_and_the_parts_of_all(folder: Path, tmp_path: Path) -> None:
    with_loras(folder)
    other = with_loras(renamed(save_tiny_dataset(tmp_path / "other", contents=4, styles=3, seed=1)))
    one, two = read_dataset(folder), read_dataset(other)
    both = joined([one, two], "paper")
    assert (both.name, both.resolution, list(both.splits)) == ("tiny + other", 32, ["paper"])
    for part in SPLIT_PARTS:
        sides = zip(one.part("paper", part), two.part("paper", part), strict=True)
        assert list(both.part("paper", part)) == [first + second for first, second in sides]
    assert joined([one], "paper").part("paper", "train") == one.part("paper", "train")


def test_datasets_that_do_not_fit_are_not_joined(folder: Path, tmp_path: Path) -> None:
    with_loras(folder)
    other = with_loras(Path(shutil.copytree(folder, tmp_path / "other")))
    one = read_dataset(folder)
    with pytest.raises(InputError, match=r"other: another dataset has an entry 'content_0' too; give each its own"):
        joined([one, read_dataset(other)], "paper")
    renamed(other)
    alone = read_dataset(other)
    none: dict[str, tuple[str, ...]] = {"train": (), "validation": ()}
    splits = {"paper": Split(none | {"test": tuple(alone.contents)}, none | {"test": tuple(alone.styles)})}
    with pytest.raises(InputError, match=r"other: its split 'paper' has no training or validation part; leave it out"):
        joined([one, replace(alone, splits=splits)], "paper")
    (other / "loras" / "content_1.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of 4 LoRA files are missing \(other_content_1\).*--dataset \S+/other"):
        joined([one, read_dataset(other)], "paper")
    edit(other, lambda raw: raw.update(resolution=64))
    with pytest.raises(InputError, match=r"other: its images have 64 pixels a side, those of \S+ 32; join"):
        joined([one, read_dataset(other)], "paper")
    edit(other, lambda raw: raw.update(resolution=32, splits={}))
    with pytest.raises(InputError, match=r"other: the dataset has no split 'paper'"):
        joined([one, read_dataset(other)], "paper")


def with_loras(folder: Path) -> Path:
    """Put a file where each LoRA belongs."""
    for entry in (*read_dataset(folder).contents.values(), *read_dataset(folder).styles.values()):
        entry.lora.parent.mkdir(exist_ok=True)
        entry.lora.touch()
    return folder


def renamed(folder: Path) -> Path:
    """Give a dataset its folder's name, and all of its entries names that begin with it."""

    def change(raw: Raw) -> None:
        raw["name"] = folder.name
        for side in ("contents", "styles"):
            for entry in raw[side]:
                entry["name"] = f"{folder.name}_{entry['name']}"
            for part, names in raw["splits"]["paper"][side].items():
                raw["splits"]["paper"][side][part] = [f"{folder.name}_{name}" for name in names]

    edit(folder, change)
    return folder
