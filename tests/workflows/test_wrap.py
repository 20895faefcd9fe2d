"""gk.wrap: networks in memory."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return x * self.w + (0 if label is None else label.view(-1, 1, 1, 1))


SHAPE = (1, 2, 2)


def test_a_plain_module_and_a_scheduler():
    den = gk.wrap(Plain(), diffusers.DDPMScheduler(prediction_type="v_prediction"), sample_shape=SHAPE, name="mine")
    assert den.name == "mine" and den.schedule.prediction_type == "v_prediction" and den.data_range == (-1, 1)
    x = torch.ones(2, *SHAPE)
    torch.testing.assert_close(den(x, 5), x * 0.5)


def test_a_schedule_of_ones_own_and_conditioning():
    den = gk.wrap(
        Plain(), schedule=gk.NoiseSchedule.flow(1.0), sample_shape=SHAPE, data_range=(0, 1),
        conditioning={"label": lambda n: torch.arange(float(n))},
    )  # fmt: skip
    assert den.data_range == (0, 1)
    torch.testing.assert_close(den(torch.zeros(3, *SHAPE), 0.5)[:, 0, 0, 0], torch.tensor([0.0, 1.0, 2.0]))


def test_score_networks_live_on_zero_to_one():
    den = gk.wrap(Plain(), diffusers.ScoreSdeVeScheduler(), sample_shape=SHAPE)
    assert den.data_range == (0, 1)
    # they are told σ, not the time
    torch.testing.assert_close(den.batch(torch.zeros(1, *SHAPE), 0.5)["t"].double(), den.schedule.sigma([0.5]))


def test_prediction_type_overrides_the_schedulers():
    den = gk.wrap(Plain(), diffusers.DDPMScheduler(), prediction_type="sample", sample_shape=SHAPE)
    x0, noise = torch.ones(1, *SHAPE), torch.zeros(1, *SHAPE)
    torch.testing.assert_close(den.target(x0, noise, 500), x0)


def test_notes_of_the_schedule_are_carried():
    den = gk.wrap(Plain(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), sample_shape=SHAPE)
    assert any("shifts its times by 3" in note for note in den.notes)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("not a module", diffusers.DDPMScheduler()), {}, "wrap takes a torch.nn.Module, not str"),
        ((Plain(),), {"sample_shape": SHAPE}, "comes without a noise schedule"),
        ((Plain(), diffusers.DDPMScheduler()), {}, r"pass sample_shape=\(C, H, W\)"),
        (
            (Plain(), diffusers.DDPMScheduler()),
            {"sample_shape": SHAPE, "schedule": gk.NoiseSchedule.vp()},
            "either a scheduler or a schedule",
        ),
        ((Plain(),), {"sample_shape": SHAPE, "schedule": diffusers.DDPMScheduler()}, "has to be a NoiseSchedule"),
        ((Plain(), object()), {"sample_shape": SHAPE}, "scheduler has to be a diffusers scheduler"),
        ((Plain(), diffusers.DDPMScheduler()), {"sample_shape": SHAPE, "conditioning": "zeros"}, "diffusers models"),
        ((Plain(), diffusers.DDPMScheduler()), {"sample_shape": SHAPE, "data_range": (1, 1)}, "data_range"),
        (
            (Plain(), diffusers.DDPMScheduler()),
            {"sample_shape": SHAPE, "conditioning": {"t": 1}},
            "cannot be called 't'",
        ),
        ((Plain(), "no/scheduler.json"), {"sample_shape": SHAPE}, "not a diffusers scheduler configuration"),
        ((nn.Identity(), diffusers.DDPMScheduler()), {"sample_shape": SHAPE}, "no parameters"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(arguments, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        gk.wrap(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_functions_win_over_the_modules_they_live_in():
    import importlib

    for name in ("load", "wrap", "doctor"):
        module = importlib.import_module(f"genkernel.workflows.{name}")
        assert callable(getattr(gk, name)) and getattr(importlib.import_module("genkernel.workflows"), name) is getattr(
            module, name
        )
