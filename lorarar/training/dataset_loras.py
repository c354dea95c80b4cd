"""Train the LoRAs of a dataset that are missing, several at a time in processes of their own."""

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
from lorarar.training.launch import BaseLoading, flush_denormals, process_state
from lorarar.training.settings import LoraSettings


@dataclass(frozen=True)
class Job:
    """One LoRA to train."""

    name: str
    images: tuple[Path, ...]
    prompt: str
    output: Path


@dataclass(frozen=True)
class StepDone:
    """A step of one LoRA: how many are done by now, and the loss of this one."""

    name: str
    step: int
    loss: float


OnStepDone = Callable[[StepDone], None]


def missing_jobs(dataset: Dataset, only: Sequence[str] = ()) -> list[Job]:
    """List the LoRAs of a dataset whose file is not there, contents first.

    `only` keeps some names, of which "contents" and "styles" stand for all of them. InputError for an unknown name.
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


def train_jobs(
    jobs: Sequence[Job], loading: BaseLoading, settings: LoraSettings, dtype: str, workers: int, report: OnStepDone
) -> None:
    """Train the jobs, `workers` at a time; each LoRA is written in `dtype` as soon as it is done.

    Raises InputError as `train_lora`, for a base that can't be loaded, and for a process that ended by itself.
    """
    if min(workers, len(jobs)) > 1:
        train_in_processes(jobs, loading, settings, dtype, min(workers, len(jobs)), report)
    else:
        train_here(jobs, loading.load(), settings, dtype, report)


def train_here(jobs: Sequence[Job], components: Any, settings: LoraSettings, dtype: str, report: OnStepDone) -> None:
    """Train the jobs one after another in this process, and write each LoRA as soon as it is done.

    In a launch of several processes, all train each LoRA together, and the main one writes it.
    """
    # It imports torch, and the --help of the command that lists the jobs must not.
    from lorarar.training.dreambooth import train_lora

    for job in jobs:
        lora = train_lora(
            components,
            job.images,
            job.prompt,
            settings,
            on_step=lambda step, loss, name=job.name: report(StepDone(name, step, loss)),  # type: ignore[misc]
        )
        if process_state().is_main_process:
            write_lora(lora, job.output, dtype=dtype)


def train_in_processes(
    jobs: Sequence[Job], loading: BaseLoading, settings: LoraSettings, dtype: str, workers: int, report: OnStepDone
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
        with process_pool(workers, context, start_worker, arguments) as pool:
            for done in as_completed([pool.submit(_train_in_worker, job) for job in jobs]):
                done.result()
    except BrokenProcessPool:
        raise InputError(
            f"a training process ended by itself, out of memory perhaps; run again with `jobs` {max(1, workers - 1)}"
        ) from None
    finally:
        # A process that was killed while it reported leaves the queue locked for good: don't wait for it.
        queue.put(None)
        listener.join(timeout=5)
        queue.cancel_join_thread()


_worker: dict[str, Any] = {}
"""What a training process keeps between its jobs."""


def start_worker(loading: BaseLoading, settings: LoraSettings, dtype: str, threads: int, queue: Any) -> None:
    """Set up a process of the pool: its numbers, its share of the threads, and what its jobs need."""
    import torch

    flush_denormals()
    torch.set_num_threads(threads)
    _worker.update(loading=loading, settings=settings, dtype=dtype, queue=queue)


def _train_in_worker(job: Job) -> None:
    """Train one LoRA; a process loads the base at its first one, from where an InputError reaches the parent."""
    if "components" not in _worker:
        _worker["components"] = _worker["loading"].load()
    train_here([job], _worker["components"], _worker["settings"], _worker["dtype"], _worker["queue"].put)


def _listen(queue: Any, report: OnStepDone) -> None:
    while (step := queue.get()) is not None:
        report(step)
