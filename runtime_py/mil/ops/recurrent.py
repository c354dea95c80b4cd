"""Recurrent layers over sequences of (length, batch, inputs) (MIL's recurrent).

A layer of direction `reverse` gives its states in the order that it computes them, from the sequence's end on, as
coremltools' tests expect of Core ML; the reverse half of a bidirectional one is in the order of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from runtime_py.mil.ops.elementwise import sigmoid

Array = np.ndarray
Flag = np.ndarray | bool

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    # The two have no parameters here; these are the ones that Core ML's neural networks give them.
    "scaled_tanh": lambda x: np.asarray(1.7159 * np.tanh(2 / 3 * x)),
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def rnn(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: Flag = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """Return activation(W·x + W'·h + b) step by step: every state or the last one, and the last one."""
    act, given = _activation(activation), _inputs(x, weight_ih, bias)

    def step(h: Array, at: int) -> Array:
        return act(given[at] + h @ weight_hh.T)

    states = [_of_batch(initial_h, x)]
    for at in _order(len(x), direction):
        states.append(step(states[-1], at))
    return _sequence(states[1:], output_sequence, states[-1]), states[-1]


def gru(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: Flag = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    input_bias: Array | None = None,
    reset_after: Flag = False,
) -> tuple[Array, Array]:
    """Return the states of a gated recurrent unit; the gates are laid out as reset, new, update."""
    gate, act = _activation(recurrent_activation), _activation(activation)
    hidden, given = weight_hh.shape[1], _inputs(x, weight_ih, input_bias)
    reset_w, new_w, update_w = weight_hh.reshape(3, hidden, hidden)
    offsets = np.zeros((3, hidden), x.dtype) if bias is None else bias.reshape(3, hidden)
    states = [_of_batch(initial_h, x)]
    for at in _order(len(x), direction):
        h, (for_reset, for_new, for_update) = states[-1], np.split(given[at], 3, -1)
        reset = gate(for_reset + h @ reset_w.T + offsets[0])
        update = gate(for_update + h @ update_w.T + offsets[2])
        if reset_after:
            new = act(for_new + reset * (h @ new_w.T + offsets[1]))
        else:
            new = act(for_new + (reset * h) @ new_w.T + offsets[1])
        states.append((1 - update) * new + update * h)
    return _sequence(states[1:], output_sequence, states[-1]), states[-1]


def lstm(
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: Flag = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Return the states of a long short-term memory, the last one, and the last cell.

    Gates are laid out as input, forget, output, cell. Both directions' states lie side by side on the last axis.
    """
    acts = tuple(_activation(name) for name in (recurrent_activation, cell_activation, activation))
    sides = [(direction, weight_ih, weight_hh, bias, peephole)]
    if direction == "bidirectional":
        if weight_ih_back is None or weight_hh_back is None:
            raise ValueError("it has two directions, and weights of one")
        back = ("reverse", weight_ih_back, weight_hh_back, bias_back, peephole_back)
        sides = [("forward", weight_ih, weight_hh, bias, peephole), back]
    made = []
    starts = zip(*(np.split(_of_batch(part, x), len(sides), -1) for part in (initial_h, initial_c)), strict=True)
    for (way, inputs, recurrent, offset, peep), (h, c) in zip(sides, starts, strict=True):
        states, cell = [h], c
        given = _inputs(x, inputs, offset)
        for at in _order(len(x), way):
            state, cell = _lstm_step(given[at] + states[-1] @ recurrent.T, cell, acts, peep, clip)
            states.append(state)
        in_time = states[:0:-1] if direction == "bidirectional" and way == "reverse" else states[1:]
        made.append((_sequence(in_time, output_sequence, states[-1]), states[-1], cell))
    outputs, last, cells = (np.concatenate(part, -1) for part in zip(*made, strict=True))
    return outputs, last, cells


def _lstm_step(
    gates: Array, cell: Array, acts: tuple[Callable[[Array], Array], ...], peephole: Array | None, clip: Array | None
) -> tuple[Array, Array]:
    gate, of_cell, act = acts
    into, forget, out, new = np.split(gates, 4, -1)
    peeps = np.zeros((3, 1), gates.dtype) if peephole is None else peephole.reshape(3, -1)
    into, forget = gate(into + peeps[0] * cell), gate(forget + peeps[1] * cell)
    fresh = of_cell(new)
    cell = forget * cell + into * fresh
    if clip is not None:
        cell = cell.clip(-clip, clip)
    return gate(out + peeps[2] * cell) * act(cell), cell


def _of_batch(initial: Array, x: Array) -> Array:
    """Return the initial states of a batch: programs of packed sequences bring more rows, of which the first count."""
    if len(initial) < x.shape[1]:
        raise ValueError(f"it has {len(initial)} initial states for a batch of {x.shape[1]}")
    return initial[: x.shape[1]]


def _activation(name: str) -> Callable[[Array], Array]:
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"its activation {name!r} is none of the spec's")
    return _ACTIVATIONS[name.lower()]


def _inputs(x: Array, weight: Array, bias: Array | None) -> Array:
    """Return W·x + b of every step at once."""
    product = x @ weight.T
    return product if bias is None else product + bias


def _order(length: int, direction: str) -> Iterator[int]:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"its direction {direction!r} is none of the spec's")
    return iter(range(length) if direction == "forward" else reversed(range(length)))


def _sequence(states: list[Array], whole: Flag, last: Array) -> Array:
    """Return every state, or only the last one computed, as a sequence."""
    return np.stack(states) if whole else last[None]
