"""The models of a Core ML pipeline as one graph (Model.proto: Pipeline): each takes inputs of the whole and outputs of
those before it, by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lorarar.errors import InputError
from runtime_py.mil.graph import Block, Constant, FunctionPlan, Step, with_frees
from runtime_py.mil.values import TensorType, Type


def chain(graphs: Sequence[FunctionPlan], outputs: Collection[str]) -> FunctionPlan:
    """Make one plan that runs all of them in order. Raises InputError where they don't fit together."""
    inputs: dict[str, TensorType] = {}
    made: dict[str, Type] = {}
    constants: dict[str, Constant] = {}
    steps: list[Step] = []
    for number, graph in enumerate(graphs, 1):
        for name, kind in graph.inputs.items():
            have = made.get(name) or inputs.setdefault(name, kind)
            if have != kind:
                raise InputError(
                    f"model {number} of the pipeline takes {name!r} as {kind}, not as {have}; export it again"
                )
        twice = sorted(graph.outputs.keys() & (made.keys() | inputs.keys()))
        if twice:
            raise InputError(f"model {number} of the pipeline makes {twice[0]!r} again; export it again")
        made |= graph.outputs
        # Models name their own values without regard to each other.
        own = {name for step in graph.every_step for name in step.outputs} | graph.constants.keys()
        own |= {name for step in graph.every_step for block in step.blocks for name in block.inputs}
        names = {name: f"{number}:{name}" for name in own - graph.outputs.keys()}
        constants |= {names.get(name, name): value for name, value in graph.constants.items()}
        steps += [_renamed(step, names) for step in graph.steps]
    missing = sorted(set(outputs) - made.keys())
    if missing:
        raise InputError(f"no model of the pipeline makes its output {missing[0]!r}; export it again")
    return FunctionPlan(
        "pipeline",
        inputs,
        {name: kind for name, kind in made.items() if name in outputs},
        constants,
        with_frees(steps, {*constants, *outputs}),
        tuple(kind for graph in graphs for kind in graph.op_types),
        {name: kind for graph in graphs for name, kind in graph.states.items()},
    )


def _renamed(step: Step, names: dict[str, str]) -> Step:
    def new(old: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in old)

    return replace(
        step,
        inputs={parameter: new(read) for parameter, read in step.inputs.items()},
        outputs={names.get(name, name): kind for name, kind in step.outputs.items()},
        frees=new(step.frees),
        blocks=tuple(
            Block(new(block.inputs), new(block.outputs), tuple(_renamed(inner, names) for inner in block.steps))
            for block in step.blocks
        ),
    )
