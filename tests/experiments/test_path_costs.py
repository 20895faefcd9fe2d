"""The cost table: every kind of case on a small network, the arithmetic of storage, one case in its own process."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from genkernel.errors import GenkernelError, InputError
from genkernel.experiments.outcome import Claim
from genkernel.experiments.path_costs import experiment as study
from genkernel.experiments.path_costs.cases import Case, answer, measured
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Case("replay", width=12, batch=8, queries=2, groups=2, steps=9, blocks=1)


def test_it_is_in_the_registry() -> None:
    assert experiment("path-costs") is study.run


def test_the_bytes_of_a_tape() -> None:
    before = torch.random.get_rng_state()
    found = answer(SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    P = found["parameters"]
    assert P == 64 * 12 + 12 + 12 * 12 + 12 + 12 * 10 + 10
    assert found["copies"] == 4 and found["visits"] == 72 and found["gap"] < 1e-3
    # weights, two moments, a step count per parameter, and the header of the file
    assert 12 * P < found["copy_bytes"] < 12 * P + 4096
    assert found["weights_bytes"] < 4 * found["copy_bytes"]  # the first copy has no state
    # weights and coefficients of two steps wait while the third of the stretch is taken
    assert 2 * 8 * P < found["spool_bytes"] < 2 * 8 * P + 4096


def test_copies_hold_what_the_optimizer_holds() -> None:
    sizes = {
        name: answer(replace(SMALL, kind="copies", steps=2, optimizer=name))["copy_bytes"]
        for name in ("SGD", "RMSprop", "AdamW")
    }
    P = 1066
    assert abs(sizes["SGD"] - 8 * P) < 4096 and abs(sizes["RMSprop"] - 8 * P) < 4096
    assert abs(sizes["AdamW"] - 12 * P) < 4096


def test_the_claim_on_storage() -> None:
    adam = {"copy_bytes": 12_000, "parameters": 1000}
    row = {"spool_bytes": 9 * 8 * 1000, "parameters": 1000, "steps_bytes": 100 * 2000}
    found = study.storage(
        {"copies": [(Case("copies"), adam)], "replay": [(Case("replay", steps=100), row)]}  # type: ignore[list-item]
    )
    assert found["all_weights"] == 14.4e12 and found["all_states"] == pytest.approx(43.2e12)
    assert found["copies"] == 317
    assert found["tape"] == pytest.approx(317 * 36e6 * 12 + 1e5 * 2000)
    assert found["tape"] == pytest.approx(0.14e12, rel=0.03)
    assert found["tape_weights"] == 317 * 36e6 * 4
    assert found["waiting"] == pytest.approx(36e6 * (317 * 8 + 4))


def test_the_verdict_on_storage_follows_the_sizes() -> None:
    def claim(weights: tuple[float, float], states: tuple[float, float]) -> Claim:
        sizes = dict(zip(("all_weights", "tape_weights", "all_states", "tape"), (*weights, *states), strict=True))
        rest = {"copies": 317.0, "bytes_per_parameter": 12.0, "waiting": 1e11}
        return study._storage_claim({name: 1e12 * size for name, size in sizes.items()} | rest)

    assert claim((14.4, 0.046), (43, 0.137)).holds == "partly"
    assert claim((14.4, 0.046), (43, 0.137)).measured.count("as stated") == 2
    assert claim((14.4, 0.137), (43, 1)).holds == claim((3, 1), (14, 0.14)).holds == "yes"
    assert claim((14.4, 0.046), (43, 1)).holds == "partly"
    assert claim((15.0, 0.046), (43, 0.16)).holds == "no"


def test_a_case_in_its_own_process() -> None:
    found = measured(replace(SMALL, kind="record memory", width=400, steps=2))
    assert found["formula_bytes"] == 6 * 4 * found["parameters"]
    if sys.platform == "linux":
        # five megabytes by the formula; what is measured has been one and a half to four times as much
        assert 0.5 * found["formula_bytes"] < found["extra_bytes"] < 20 * found["formula_bytes"]
        assert found["extra_bytes"] == found["peak_bytes"] - found["loop_bytes"]
    else:
        assert found["extra_bytes"] is None
    with pytest.raises(InputError, match="not 'walk'"):
        answer(replace(SMALL, kind="walk"))
    with pytest.raises(GenkernelError, match="took more than"):
        measured(SMALL, timeout=0.01)


@pytest.mark.slow
def test_the_whole_table() -> None:
    setting = study.Setting(
        base=Case("record", width=12, groups=2, queries=2, steps=2, blocks=1, batch=8),
        groups=(1, 2),
        widths=(8,),
        queries=(1,),
        lengths=(2, 4),
        replays=(4, 9),
        replayed=SMALL,
        tapes=(("MLP", Case("tape", width=12, batch=8, steps=4, blocks=1)),),
        optimizers=("AdamW",),
    )
    found = study.run(progress=False, setting=setting, isolated=False)
    assert len(found.tables) == 6 and len(found.claims) == 6
    figure = found.figures["path_costs"]
    assert to_bytes(figure, "png")[:4] == b"\x89PNG"
    legends = [legend for axes in figure.axes if (legend := axes.get_legend())]
    words = [text.get_text() for legend in legends for text in legend.texts]
    assert any(f"every {study.EVERY} steps, N = 100 000" in text for text in words)
    assert any(axes.get_title(loc="left") == "storage: 36 M, 100 000 steps" for axes in figure.axes)
    assert found.numbers["storage"]["all_weights"] == 14.4e12
    assert {case["case"]["groups"] for case in found.numbers["record"]} == {1, 2}
    assert found.numbers["overheads"]["MLP"]["hooks"] > 0
    json.dumps(found.numbers)
