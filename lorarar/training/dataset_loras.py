"""Train the LoRAs of a dataset that are missing, several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lorarar.errors import InputError
from lorarar.files import check_lora_output
from lorarar.lora import write_lora
from lorarar.pool import process_pool
from lorarar.training.dataset import Content, Dataset, Style
from lorarar.training.launch import BaseLoading, flush_denormals, process_state
from lorarar.training.settings import LoraSettings

OnStepDone = Callable[[str, float], None]
"""Called after each step with the name of the entry and the step's loss."""
Job = Content | Style
"""An entry of a dataset whose LoRA is to be trained."""


def missing_jobs(dataset: Dataset, only: Sequence[str] = ()) -> list[Job]:
    """List the contents and styles of a dataset whose LoRA file is not there, in this order.

    `only` keeps some names, of which "contents" and "styles" stand for all of them. InputError for an unknown name.
    """
    entries: list[Job] = [*dataset.contents.values(), *dataset.styles.values()]
    kept = {entry.name: {entry.name} for entry in entries}
    kept |= {"contents": set(dataset.contents), "styles": set(dataset.styles)}
    chosen = set()
    for name in only or ("contents", "styles"):
        if name not in kept:
            raise InputError(f"{dataset.folder}: no content or style is named {name!r}; valid are {', '.join(kept)}")
        chosen |= kept[name]
    return [entry for entry in entries if entry.name in chosen and not entry.lora.is_file()]


def train_jobs(
    jobs: Sequence[Job], loading: BaseLoading, settings: LoraSettings, dtype: str, workers: int, report: OnStepDone
) -> None:
    """Train the jobs, `workers` at a time; each LoRA is written in `dtype` as soon as it is done.

    Raises InputError as `train_lora`, for a LoRA that can't be written, before any training, for a base that can't be
    loaded, and for a process that ended by itself.
    """
    for job in jobs:
        check_lora_output(job.lora)
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

        def on_step(_: int, loss: float, name: str = job.name) -> None:
            report(name, loss)

        lora = train_lora(components, [job], settings, on_step=on_step)
        if process_state().is_main_process:
            write_lora(lora, job.lora, dtype=dtype)


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

    def report(name: str, loss: float) -> None:
        _worker["queue"].put((name, loss))

    train_here([job], _worker["components"], _worker["settings"], _worker["dtype"], report)


def _listen(queue: Any, report: OnStepDone) -> None:
    while (step := queue.get()) is not None:
        report(*step)
