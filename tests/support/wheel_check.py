"""Check the wheel as a stranger meets it: in an environment of its own, outside the repository.

Run by `make test-wheel`: first with the packages that every install brings, which have no toolchain, then with the
extra `train`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

from environments import ROOT, WORK, Environment, build_wheel, say

IMPORT_SECONDS = 0.3
# LoRAs of a few layers of SDXL, by their names in kohya's dialect: any file that somebody downloaded.
MAKE_FILES = """
import numpy as np
from lorarar import LoRA, LoraLayer, load_layout
layout = load_layout("sdxl")
for seed, name in enumerate(("dog", "paint")):
    numbers = np.random.default_rng(seed)
    layers = {}
    for group in layout.groups:
        for module in group.modules[:4]:
            down, up = numbers.standard_normal((4, group.in_features)), numbers.standard_normal((group.out_features, 4))
            layers["unet." + module] = LoraLayer(down.astype(np.float32), up.astype(np.float32))
    LoRA(layers).save(f"{name}.safetensors", dialect="kohya")
"""
WITHOUT_TORCH = """
import sys
import numpy as np
import lorarar as lr
dog, paint = lr.read_lora("dog.safetensors"), lr.read_lora("paint.safetensors")
merged = lr.merge(dog, paint, base="sdxl", method="direct")
merged.save("merged.safetensors")
name = next(iter(merged.layers))
assert np.allclose(lr.read_lora("merged.safetensors").layers[name].delta(), merged.layers[name].delta(), atol=1e-5)
learned = dict(base="sdxl", method="learned", hypernet="hypernet.safetensors")
for wrong in (learned, dict(base="miniature", method="direct")):
    try:
        lr.merge(dog, paint, **wrong)
    except lr.InputError as error:
        print(error)
    else:
        raise AssertionError(wrong)
assert "torch" not in sys.modules
"""
MAKE_HYPERNET = "import lorarar as lr; lr.Hypernetwork.untrained().save_pretrained('hypernet.safetensors')"


def import_seconds(environment: Environment, folder: Path) -> float:
    """Return the least time of five imports of lorarar, less that of an interpreter that imports nothing."""

    def least(code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            environment.run("python", "-c", code, cwd=folder)
            times.append(time.perf_counter() - start)
        return min(times)

    return least("import lorarar") - least("pass")


def readme_snippet() -> str:
    """Return the README's first block of Python."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found, "README.md has no block of Python"
    return found[1]


def check_without_toolchains(environment: Environment, folder: Path) -> None:
    """Check what the base install can do: import fast, help, merge files with numpy, and say what is missing."""
    seconds = import_seconds(environment, folder)
    assert seconds <= IMPORT_SECONDS, f"import lorarar takes {seconds:.2f} s"
    say(f"import lorarar takes {seconds:.2f} s")
    assert "train-lora" in environment.run("lorarar", "--help", cwd=folder)
    environment.run("python", "-c", MAKE_FILES, cwd=folder)
    said = environment.run("python", "-c", WITHOUT_TORCH, cwd=folder).strip().splitlines()
    assert len(said) == 2 and "lorarar-toolkit[train]" in said[0] and "miniature" in said[1], said
    say("\n".join(["merged two files without torch, and was told of what is missing:", *said]))
    files = ("dog.safetensors", "paint.safetensors", "--base", "sdxl", "--method", "direct", "-o", "direct.safetensors")
    environment.run("lorarar", "merge", *files, cwd=folder)


def main() -> None:
    """Build the wheel, install it and check it; raises where something is wrong."""
    WORK.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="lorarar-wheel-"))
    try:
        wheel = build_wheel(folder)
        environment = Environment(folder / "environment")
        environment.install(str(wheel))
        check_without_toolchains(environment, folder)
        environment.install(f"lorarar-toolkit[train] @ {wheel.as_uri()}")
        environment.run("python", "-c", MAKE_HYPERNET, cwd=folder)
        environment.run("python", "-W", "error", "-c", readme_snippet(), cwd=folder)
        say("the README's snippet runs from the wheel")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
