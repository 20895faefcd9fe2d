"""A diffusion network in memory and its scheduler → :class:`Denoiser`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from genkernel.diffusion import diffusers_adapter as adapter
from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError


def wrap_denoiser(
    module: nn.Module,
    scheduler: Any = None,
    schedule: NoiseSchedule | None = None,
    *,
    prediction_type: str | None = None,
    sample_shape: tuple[int, ...] | None = None,
    data_range: tuple[float, float] | None = None,
    conditioning: Mapping[str, Any] | str | None = None,
    call: Any = None,
    notes: Iterable[str] = (),
    **options: Any,
) -> Denoiser:
    """A denoiser of a diffusers model or of any ``module(x_t, t, **conditioning)``; see :func:`genkernel.wrap`.

    Args:
        options: further ones of :class:`Denoiser`.

    Raises:
        InputError: a piece is missing or does not fit; the sentence says which.
        NonFiniteError: the weights hold NaN or infinity.
    """
    kind = type(module).__name__
    schedule = _schedule(kind, scheduler, schedule, prediction_type)
    notes = list(notes)
    given: dict[str, Any] = {}
    if call is None and adapter.is_diffusers_model(module):
        face = adapter.interface(module)
        call = face.call
        given, made = adapter.complete_conditioning(face, conditioning, kind)
        schedule, said = adapter.convention(module, schedule)
        notes += [*made, *said]
    elif isinstance(conditioning, str):
        raise InputError(f"conditioning={conditioning!r} works for diffusers models called in their own way only")
    elif conditioning is not None:
        given = dict(conditioning)
    if sample_shape is None and adapter.is_diffusers_model(module):
        sample_shape = adapter.default_shape(module)
    if sample_shape is None:
        raise InputError(f"the sample shape of {kind} is not known: pass sample_shape=(C, H, W)")
    if data_range is None:
        data_range = schedule.data_range or (-1.0, 1.0)
    notes += schedule.notes
    return Denoiser(
        module,
        schedule,
        sample_shape,
        data_range=data_range,
        conditioning=given,
        call=call,
        notes=notes,
        **options,
    )


def _schedule(kind: str, scheduler: Any, schedule: NoiseSchedule | None, prediction_type: str | None) -> NoiseSchedule:
    if (scheduler is None) == (schedule is None):
        if schedule is None:
            raise InputError(
                f"{kind} comes without a noise schedule: pass scheduler= (a diffusers scheduler or its folder) or "
                "schedule=NoiseSchedule.vp(...)"
            )
        raise InputError("give either a scheduler or a schedule, not both")
    if schedule is not None:
        if not isinstance(schedule, NoiseSchedule):
            raise InputError(f"schedule has to be a NoiseSchedule, not {type(schedule).__name__}")
        return schedule if prediction_type is None else replace(schedule, prediction_type=prediction_type)
    if isinstance(scheduler, (str, Path)):
        scheduler = adapter.load_scheduler(Path(scheduler).expanduser())
    return NoiseSchedule.from_scheduler(scheduler, prediction_type)
