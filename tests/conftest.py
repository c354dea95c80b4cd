"""A base small enough to export in seconds, its LoRAs, and its bundle for every target and precision."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checked_types  # noqa: F401  # before our packages, which it changes as they are imported
import pytest
from hypothesis import settings
from made_once import MadeOnce
from tiny_world import tiny_layout

from lorarar.layout import Layout
from lorarar.lora import LoRA

if TYPE_CHECKING:
    from hyper_world import World
    from shared_bundles import MiniatureBundle, SharedPipelines, SharedUNets

    from lorarar.base.components import Components

# A shell's background job, and all that it starts, ignores Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine takes what time it takes; how fast something is is no property of an example.
settings.register_profile("lorarar", deadline=None)
settings.load_profile("lorarar")


LONG = ("export", "docs", "house", "benchmarks", "training", "miniature", "evaluation")
"""The folders of tests that take long, those with the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the files out to the workers, long ones first: at the end, one worker would wait for the other's.

    pytest-xdist gives each worker an equal share of the list, from which those that are done early take.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    long = [path for name in LONG for path in files if path.parent.name == name]
    for number, path in enumerate(long):
        shares[number % len(shares)] += files[path]
    for path in (path for path in files if path not in long):
        min(shares, key=len).extend(files[path])
    items[:] = [item for share in shares for item in share]


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Undo what a command sets in torch for its process: flushing of denormals, the number of threads of --threads.

    Two workers of two threads each would slow every later test down on two cores. Measured: 3 s of training took 28 s,
    since threads spin while they wait for a core. Tests that don't load torch don't load it through this either.
    """
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def modules_seen() -> list[int]:
    """How many modules were loaded when objects were last left out of collections."""
    return [0]


@pytest.fixture(autouse=True)
def toolchains_are_not_collected(modules_seen: list[int]) -> None:
    """Leave what toolchains hold out of garbage collections, which exports and trainings ask for.

    Each walks millions of objects otherwise: measured, 140 of 1210 seconds of the tests.
    """
    if len(sys.modules) > modules_seen[0] + 300:
        modules_seen[0] = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def made_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Give what makes a folder that all workers, and later runs of the same sources, share. Copy it to change it."""
    cache = getattr(request.config, "cache", None)
    if cache:
        return MadeOnce(cache.mkdir("lorarar"))
    own = tmp_path_factory.getbasetemp()  # pytest-xdist's workers have folders of their own inside the run's
    return MadeOnce((own.parent if hasattr(request.config, "workerinput") else own) / "lorarar")


@pytest.fixture(scope="session")
def miniature_bundle(made_once: MadeOnce) -> MiniatureBundle:
    """Give what exports the miniature, once for all runs of the same sources."""
    from shared_bundles import miniature_bundle_of

    return miniature_bundle_of(made_once)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that are hashed from here on."""
    names: list[str] = []
    digest = hashlib.file_digest

    def noted(file: Any, name: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


@pytest.fixture(scope="session")
def layout() -> Layout:
    return tiny_layout()


@pytest.fixture(scope="session")
def tiny_pipeline(made_once: MadeOnce) -> Path:
    """Give an untrained SDXL pipeline for images of 32×32, in diffusers format."""
    from tiny_pipeline import save_tiny_pipeline

    # The folder's name is the base's, which LoRAs and records carry.
    return made_once("tiny/pipeline", save_tiny_pipeline)


@pytest.fixture(scope="session")
def shallow_pipeline(made_once: MadeOnce) -> Path:
    """Give the tiny pipeline with a shallower UNet, for exports."""
    from tiny_pipeline import save_shallow_pipeline

    return made_once("shallow/pipeline", save_shallow_pipeline)


@pytest.fixture(scope="session")
def shared_pipelines(shallow_pipeline: Path, made_once: MadeOnce) -> SharedPipelines:
    """Give the bundles of the shallow pipeline, each exported once for all runs of the same sources."""
    from shared_bundles import SharedPipelines

    return SharedPipelines(shallow_pipeline, made_once)


@pytest.fixture(scope="session")
def shared_unets(shallow_pipeline: Path, made_once: MadeOnce) -> SharedUNets:
    """Give the bundles of the shallow UNet, likewise."""
    from shared_bundles import SharedUNets

    return SharedUNets(shallow_pipeline, made_once)


@pytest.fixture(scope="module")
def world(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny pipeline with a dataset and LoRAs, for training on pairs."""
    from hyper_world import make_world

    return make_world(tiny_pipeline, tmp_path_factory.mktemp("world") / "dataset")


@pytest.fixture(scope="session")
def tiny_dataset(made_once: MadeOnce) -> Path:
    """Give a dataset of four contents and four styles without LoRA files. Shared: copy it before writing into it."""
    from tiny_pipeline import save_tiny_dataset

    return made_once("tiny/dataset", save_tiny_dataset)


@pytest.fixture(scope="module")
def components(tiny_pipeline: Path) -> Components:
    """The tiny pipeline's networks, as training uses them."""
    from lorarar.base.components import load_components

    return load_components(str(tiny_pipeline))


@pytest.fixture(scope="module")
def images(tiny_dataset: Path) -> tuple[Path, ...]:
    """The reference images of the tiny dataset's first content."""
    from lorarar.training.dataset import read_dataset

    return read_dataset(tiny_dataset).contents["content_0"].images


@pytest.fixture(scope="module")
def trained(components: Components, images: tuple[Path, ...]) -> LoRA:
    """A LoRA of those images, after `lora_training.SETTINGS`."""
    from lora_training import SETTINGS, train

    return train(components, images, "a sks dog", SETTINGS)


@pytest.fixture(scope="session")
def bundle_folders(made_once: MadeOnce) -> dict[tuple[str, str], Path]:
    """Give the bundle of the tiny hypernetwork for each (target, precision), exported when it is asked for."""
    from shared_bundles import BundleFolders

    return BundleFolders(made_once)
