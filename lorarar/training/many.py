"""Train every LoRA of a dataset that is missing; several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.lora import write_lora
from lorarar.pool import process_pool
from lorarar.training.dataset import Content, Dataset, Style
from lorarar.training.settings import LoraSettings


@dataclass(frozen=True)
class Job:
    """One LoRA to train."""

    name: str
    images: tuple[Path, ...]
    prompt: str
    output: Path


@dataclass(frozen=True)
class Loading:
    """How each process loads the base: the arguments of load_components, the dtype by name ("bfloat16")."""

    base: str
    untrained: bool
    resolution: int | None  # None: the base's own
    dtype: str
    device: str


@dataclass(frozen=True)
class Progress:
    """A step done: of which LoRA, how many by now, its loss."""

    name: str
    step: int
    loss: float


OnProgress = Callable[[Progress], None]


def missing_jobs(dataset: Dataset, only: Sequence[str] = ()) -> list[Job]:
    """The LoRAs whose file is not there, contents first; `only` keeps these names, of which "contents" and "styles"
    stand for all of them. InputError for an unknown name.
    """
    entries: list[Content | Style] = [*dataset.contents.values(), *dataset.styles.values()]
    kept = {entry.name: {entry.name} for entry in entries}
    kept |= {"contents": set(dataset.contents), "styles": set(dataset.styles)}
    unknown = [name for name in only if name not in kept]
    if unknown:
        raise InputError(f"{dataset.folder}: no content or style is named {unknown[0]!r}; valid are {', '.join(kept)}")
    chosen = set().union(*(kept[name] for name in only or ("contents", "styles")))
    wanted = [entry for entry in entries if entry.name in chosen]
    return [Job(entry.name, entry.images, entry.prompt, entry.lora) for entry in wanted if not entry.lora.is_file()]


def train_here(jobs: Sequence[Job], components: Any, settings: LoraSettings, dtype: str, report: OnProgress) -> None:
    """Train the jobs one after another in this process, each written as soon as it is done.

    In a launch of several processes, all train each LoRA together, and the main one writes it.
    """
    from lorarar.training.dreambooth import train_lora
    from lorarar.training.processes import process_state

    for job in jobs:
        lora = train_lora(
            components,
            job.images,
            job.prompt,
            settings,
            on_step=lambda step, loss, name=job.name: report(Progress(name, step, loss)),  # type: ignore[misc]
        )
        if process_state().is_main_process:
            write_lora(lora, job.output, dtype=dtype)


def train_in_processes(
    jobs: Sequence[Job], loading: Loading, settings: LoraSettings, dtype: str, workers: int, report: OnProgress
) -> None:
    """Train the jobs, `workers` at a time, each process with its own base and its share of the threads.

    Raises the first InputError of a process, once the others have finished the LoRAs they had begun; those stay.
    """
    import torch

    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    queue = context.Queue()
    listener = threading.Thread(target=_listen, args=(queue, report), daemon=True)
    listener.start()
    threads = max(1, torch.get_num_threads() // workers)
    arguments = (loading, settings, dtype, threads, queue)
    try:
        with process_pool(workers, context, _start_worker, arguments) as pool:
            for done in as_completed([pool.submit(_train_in_worker, job) for job in jobs]):
                done.result()
    except BrokenProcessPool:
        raise InputError(
            f"a training process ended by itself, out of memory perhaps; run again with --jobs {max(1, workers - 1)}"
        ) from None
    finally:
        # A process that was killed while it reported leaves the queue locked for good: don't wait for it.
        queue.put(None)
        listener.join(timeout=5)
        queue.cancel_join_thread()


_worker: dict[str, Any] = {}
"""What a training process keeps between its jobs."""


def _start_worker(loading: Loading, settings: LoraSettings, dtype: str, threads: int, queue: Any) -> None:
    import torch

    from lorarar.training.processes import flush_denormals

    flush_denormals()
    torch.set_num_threads(threads)
    _worker.update(loading=loading, settings=settings, dtype=dtype, queue=queue)


def _train_in_worker(job: Job) -> None:
    """Train one LoRA; the base is loaded at a process's first, where an InputError reaches the parent."""
    if "components" not in _worker:
        import torch

        from lorarar.base.components import load_components

        loading: Loading = _worker["loading"]
        _worker["components"] = load_components(
            loading.base,
            untrained=loading.untrained,
            resolution=loading.resolution,
            dtype=getattr(torch, loading.dtype),
            device=loading.device,
        )
    train_here([job], _worker["components"], _worker["settings"], _worker["dtype"], _worker["queue"].put)


def _listen(queue: Any, report: OnProgress) -> None:
    while (progress := queue.get()) is not None:
        report(progress)
