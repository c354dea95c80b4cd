"""Loops, branches, lists and states of runtime_py.mil: programs with blocks in them, run against plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import ct, mb, only, save, spread, types

from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains
from runtime_py.mil import OpTrace, Program
from runtime_py.mil.ops import control

ONE = {"x": np.array([3.0], np.float32)}
SEEDS = [0.0, 1.0, 5.0, 50.0]


def run(path: Path, build: Any, inputs: dict[str, np.ndarray], ios: int = 17) -> np.ndarray:
    return only(Program.open(save(path / "p.mlpackage", build, inputs, ios)).run(inputs, "fp32"))


def doubled_until_100(x: Any) -> Any:
    """Double until 100 is passed, adding up what it went through; the blocks read a weight from outside of them."""
    step = mb.mul(x=mb.identity(x=x), y=np.float32(0))
    start = mb.add(x=x, y=np.float32(1), name="start")

    def body(value: Any, total: Any) -> Any:
        more = mb.add(x=mb.mul(x=value, y=np.float32(2)), y=step)
        return more, mb.add(x=total, y=more)

    def below(value: Any, total: Any) -> Any:
        return mb.less(x=value, y=np.float32(100))

    return mb.while_loop(_cond=below, _body=body, loop_vars=(start, x))[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_runs_for_as_long_as_its_condition_holds(seed: float, tmp_path: Path) -> None:
    value, total = seed + 1, seed
    while value < 100:
        value *= 2
        total += value
    assert run(tmp_path, doubled_until_100, {"x": np.array([seed], np.float32)}).tolist() == [total]


def test_a_loop_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From -1, doubling plus one stays at -1."""
    monkeypatch.setattr(control, "MOST_ROUNDS", 1000)
    with pytest.raises(InputError, match=r"while_loop .* its condition still holds after 1,000 rounds; give other"):
        run(tmp_path, doubled_until_100, {"x": np.array([-1.0], np.float32)})


def test_a_loop_that_never_runs_gives_its_variables_back(tmp_path: Path) -> None:
    assert run(tmp_path, doubled_until_100, {"x": np.array([500.0], np.float32)}).tolist() == [500.0]


@pytest.mark.parametrize(("x", "wanted"), [(3.0, 10.0), (-3.0, 4.0)])
def test_a_branch_runs_one_of_its_blocks(x: float, wanted: float, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        positive = mb.squeeze(x=mb.greater(x=x, y=np.float32(0)), axes=[0])
        return mb.cond(
            pred=positive,
            _true_fn=lambda: mb.add(x=mb.mul(x=x, y=np.float32(3)), y=np.float32(1)),
            _false_fn=lambda: mb.sub(x=np.float32(1), y=x),
        )

    assert run(tmp_path, build, {"x": np.array([x], np.float32)}).tolist() == [wanted]


def test_loops_lie_within_loops(tmp_path: Path) -> None:
    """The sum of 1 … i for i from 1 to 4, by a loop in a loop."""

    def build(x: Any) -> Any:
        def inner(total: Any, left: Any) -> Any:
            return mb.add(x=total, y=left), mb.sub(x=left, y=np.float32(1))

        def outer(total: Any, count: Any) -> Any:
            inside = mb.while_loop(
                _cond=lambda total, left: mb.greater(x=left, y=np.float32(0)), _body=inner, loop_vars=(total, count)
            )
            return inside[0], mb.add(x=count, y=np.float32(1))

        start = mb.add(x=x, y=np.float32(1))
        four = mb.while_loop(
            _cond=lambda total, count: mb.less(x=count, y=np.float32(5)), _body=outer, loop_vars=(x, start)
        )
        return four[0]

    assert run(tmp_path, build, {"x": np.zeros(1, np.float32)}).tolist() == [1 + 3 + 6 + 10]


def test_a_trace_has_every_round_and_memory_is_given_back(tmp_path: Path) -> None:
    program = Program.open(save(tmp_path / "p.mlpackage", doubled_until_100, ONE))
    trace: list[OpTrace] = []
    program.run(ONE, "fp32", trace=trace)
    rounds = [each.largest for each in trace if each.type == "mul"]
    assert rounds[1:] == [8.0, 16.0, 32.0, 64.0, 128.0]  # the first is outside
    assert {"while_loop", "less"} <= program.op_counts().keys()


def test_lists_are_written_read_gathered_and_grow(tmp_path: Path) -> None:
    rows = {"x": spread(3, 4)}

    def build(x: Any) -> Any:
        made = mb.make_list(init_length=1, elem_shape=(4,), dynamic_length=True)
        made = mb.list_scatter(ls=made, indices=[0, 1, 2], value=x)
        made = mb.list_write(ls=made, index=4, value=mb.list_read(ls=made, index=1))
        length = mb.cast(x=mb.list_length(ls=made), dtype="fp32")
        return mb.add(x=mb.list_gather(ls=made, indices=[4, 3, 0]), y=length)

    found = run(tmp_path, build, rows)
    np.testing.assert_array_equal(found, np.stack([rows["x"][1], np.zeros(4, np.float32), rows["x"][0]]) + 5)


def test_reading_beyond_a_list_is_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.add(x=mb.list_read(ls=mb.make_list(init_length=2, elem_shape=(1,)), index=7), y=x)

    with pytest.raises(InputError, match=r"list_read .* index 7 is outside a list of 2"):
        run(tmp_path, build, ONE)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Adds its input to a state, and gives what the state then holds, doubled."""
    path = tmp_path_factory.mktemp("state") / "p.mlpackage"

    @mb.program(
        input_specs=[mb.StateTensorSpec((2,), dtype=types.fp16), mb.TensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def built(state: Any, x: Any) -> Any:
        now = mb.coreml_update_state(state=state, value=mb.add(x=mb.read_state(input=state), y=x))
        return mb.mul(x=now, y=np.float16(2), name="twice")

    with quiet_toolchains():
        model = ct.convert(built, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
        model.save(str(path))
    return Program.open(path)


def test_a_state_stays_from_run_to_run_and_each_has_its_own(counter: Program) -> None:
    first, second = counter.make_state(), counter.make_state()
    x = {"x": np.array([1.0, 2.0], np.float16)}
    for times in (1, 2, 3):
        assert counter.predict(x, first)["twice"].tolist() == [2.0 * times, 4.0 * times]
    assert counter.predict(x, second)["twice"].tolist() == [2.0, 4.0]
    assert only(first).array.tolist() == [3.0, 6.0]
    assert counter.predict(x)["twice"].tolist() == [2.0, 4.0]  # without a state every run starts from zeros


def test_wrong_states_are_refused(counter: Program) -> None:
    x = {"x": np.zeros(2, np.float16)}
    with pytest.raises(InputError, match="state is of another function"):
        counter.predict(x, {})
    with pytest.raises(InputError, match="a list of inputs takes no state"):
        counter.predict([x], counter.make_state())
    with pytest.raises(InputError, match="have 'state'"):
        counter.predict({**x, "state": np.zeros(2)})
