"""The merging loss's settings refuse what no training can have."""

from __future__ import annotations

import pytest
from untyped import run_untyped

from lorarar.errors import InputError
from lorarar.training.hyper_settings import HyperSettings, LossSettings


def test_settings_out_of_range_are_refused() -> None:
    for bad, says in (
        ({"distance": "l1"}, "`distance` is 'l1'; valid are mse, l2"),
        ({"regulariser": "x"}, "`regulariser` is 'x'; valid are dot, dot-sum, cosine, none"),
        ({"weight": -1.0}, "`weight` is -1.0; give a number of 0 or more"),
        ({"weight": float("nan")}, "`weight` is nan"),
        ({"joint": "sum"}, "`joint` is 'sum'; valid are none, composed, images"),
        ({"joint_weight": 0.0}, "`joint_weight` is 0.0; give a positive number"),
        ({"joint_style": -1.0}, "`joint_style` is -1.0; give a positive number"),
        ({"joint_guidance": 0.5}, "`joint_guidance` is 0.5; give a number of 1 or more"),
    ):
        with pytest.raises(InputError) as error:
            LossSettings(**bad)  # type: ignore[arg-type]
        assert says in str(error.value)


def test_constant_coefficients_have_nothing_of_a_network() -> None:
    """So that a recipe's defaults for the network are not told of constants."""
    constant = HyperSettings(predictor="constant", positions=True, normalise=True, columns=True)
    assert (constant.positions, constant.normalise, constant.columns) == (False, False, True)


def test_settings_of_numpys_numbers_are_those_of_pythons() -> None:
    """They go into checkpoints, manifests and digests as JSON, which has no numbers of numpy's."""
    found = run_untyped("numpy_numbers.py")
    assert len(found) > 5 and [pair for pair in found if pair[0] != pair[1]] == []
