"""The tiny base's whole pipeline as a bundle for each target, which tests share."""

from __future__ import annotations

from pathlib import Path

from export_apart import export_apart
from made_once import MadeOnce

from export.source import chosen_hypernet
from lorarar.base.names import load_layout
from runtime_py.bundle import Bundle


class SharedPipelines(dict[str, Bundle]):
    """Bundles by target, in its default precision; each is exported when a test first asks for it."""

    def __init__(self, base: Path, made_once: MadeOnce, rank: int) -> None:
        super().__init__()
        self.base, self.made_once, self.rank = base, made_once, rank

    def __missing__(self, target: str) -> Bundle:
        hypernet = self.made_once("pipeline-hypernet", self._save_hypernet) / "hypernet.safetensors"
        arguments = {"base": self.base, "hypernet": hypernet, "rank": self.rank, "steps": 4, "guidance": 3.5}
        arguments["target"] = target
        made = self.made_once(f"pipeline/{target}", lambda out: export_apart("pipeline", **arguments, out=out))
        self[target] = Bundle.open(made)
        return self[target]

    def _save_hypernet(self, folder: Path) -> None:
        folder.mkdir()
        loaded = chosen_hypernet(str(self.base), load_layout(str(self.base)), None, untrained=True)
        loaded.hypernet.save_pretrained(folder / "hypernet.safetensors")
