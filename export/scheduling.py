"""Turn a diffusers scheduler into the manifest's plain numbers."""

from __future__ import annotations

from typing import Any

from lorarar.errors import InputError
from runtime_py.scheduler import SchedulerSettings

KINDS = {"EulerDiscreteScheduler": "euler", "DDIMScheduler": "ddim"}
# Options that change the result and that the runtimes lack → the values at which they change nothing.
_ONLY: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "interpolation_type": ("linear", None),
    "timestep_type": ("discrete", None),
    "final_sigmas_type": ("zero", None),
    "trained_betas": (None,),
    "clip_sample": (False, None),
    "thresholding": (False, None),
}


def scheduler_settings(scheduler: Any) -> SchedulerSettings:
    """Return the settings of an Euler or DDIM scheduler of diffusers.

    Raises InputError for other schedulers, and for options that the runtimes lack.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name not in KINDS:
        raise InputError(
            f"the base's scheduler is {name}; the runtimes have {' and '.join(KINDS)}: save the base with one of those"
        )
    for option, valid in _ONLY.items():
        if config.get(option) not in valid:
            raise InputError(
                f"the base's scheduler has {option} = {config[option]!r}, which the runtimes do not have; "
                f"save the base with {option} = {valid[0]!r}"
            )
    if config.beta_schedule not in ("scaled_linear", "linear"):
        raise InputError(f"the base's beta_schedule is {config.beta_schedule!r}; valid are scaled_linear and linear")
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"the base predicts {config.prediction_type!r}; valid are epsilon and v_prediction")
    return SchedulerSettings(
        kind=KINDS[name],
        train_steps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction=config.prediction_type,
        spacing=config.timestep_spacing,
        steps_offset=config.get("steps_offset") or 0,
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr")),
        final_alpha_one=bool(config.get("set_alpha_to_one", True)),
    )
