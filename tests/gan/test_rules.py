"""The rules of the verdict."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genkernel.gan import Generator, rules
from genkernel.gan.analysis import analyze
from genkernel.gan.indicators import INDICATORS
from genkernel.gan.rules import COUNTING, NARROW, VIEWS, Setting, judge, judge_values, kind_of, reference_ranges
from genkernel.gan.stages import Real, compared, cover
from tests.gan.fake_result import RING, collapsed_result, planar_networks, planar_result

KINDS = ["points", "images"]


def values(kind: str, **levels: str) -> dict[str, float]:
    """Values that say what they are told, for the indicators that count; by view."""
    known = reference_ranges()[kind]["indicators"]
    found = {}
    for name, view in COUNTING.items():
        (low, high), alarm, worse = known[name]["healthy"], known[name]["alarm"], INDICATORS[name].worse
        edge = high if worse > 0 else low
        found[name] = {
            "ok": (low + high) / 2,
            "watch": (edge + alarm) / 2,
            "collapsing": alarm + worse * 0.01 * (abs(alarm) + 1e-3),
            "missing": math.nan,
        }[levels.get(view, "ok")]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_has_a_range_and_a_threshold_for_whatever_counts(kind: str) -> None:
    known = reference_ranges()[kind]
    for name in COUNTING:
        low, high = known["indicators"][name]["healthy"]
        alarm = known["indicators"][name]["alarm"]
        assert low < high
        assert alarm >= high if INDICATORS[name].worse > 0 else alarm <= low
    assert "healthy and" in known["source"]


def has_room(kind: str) -> bool:
    """Whether there are values between the healthy range and the threshold."""
    known = reference_ranges()[kind]["indicators"]
    ends = [(known[n]["healthy"][INDICATORS[n].worse > 0], known[n]["alarm"]) for n in COUNTING]
    return not any(math.isclose(end, alarm) for end, alarm in ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("levels", "label"),
    [
        ({}, "ok"),
        ({"kernel": "collapsing"}, "watch"),
        ({"coverage": "collapsing"}, "watch"),
        ({"kernel": "watch"}, "watch"),
        ({"kernel": "collapsing", "coverage": "collapsing"}, "collapsing"),
        ({"kernel": "watch", "coverage": "collapsing"}, "collapsing"),
        ({"kernel": "watch", "coverage": "watch"}, "watch"),
        ({"kernel": "collapsing", "coverage": "watch"}, "watch"),
        ({"coverage": "missing"}, "unknown"),
        ({"kernel": "collapsing", "coverage": "missing"}, "unknown"),
        ({"kernel": "missing", "coverage": "collapsing"}, "unknown"),
        ({"kernel": "missing", "coverage": "missing"}, "unknown"),
    ],
)
def test_two_views_make_a_verdict(kind: str, levels: dict[str, str], label: str) -> None:
    if "watch" in levels.values() and not has_room(kind):
        pytest.skip("the threshold is at the end of the healthy range: there is nothing between them")
    found = judge_values(values(kind, **levels), kind)
    assert found.label == label
    assert found.reasons


def test_what_is_better_than_any_healthy_run_is_ok() -> None:
    assert judge_values({**values("points"), "recall": 1.0, "kernel_mean": 0.0}, "points").label == "ok"


def test_what_was_not_given_is_named() -> None:
    found = judge_values({"kernel_mean": 0.1}, "points", lack=["real samples or known modes"])
    assert found.label == "unknown"
    assert "give real samples or known modes" in found.reasons[0]


def test_samples_of_another_kind_have_no_ranges() -> None:
    assert kind_of([2]) == "points" and kind_of([3, 64, 64]) == "images"
    assert kind_of([100]) is None and kind_of([8, 8]) is None
    found = judge_values(values("points"), None)
    assert found.label == "unknown" and "for which alone the study has ranges" in found.reasons[0]


def test_half_of_the_modes_missing_is_a_collapse_whatever_the_kernel_says() -> None:
    result = collapsed_result()
    assert result.coverage.modes is not None and result.coverage.modes.covered <= 4
    found = judge(result)
    assert found.label == "collapsing" and "share of the modes covered" in found.reasons[0]
    assert [e.name for e in found.evidence] == [*INDICATORS, "modes_covered"]


def test_every_indicator_is_evidence_and_only_some_count() -> None:
    found = judge(planar_result())
    counting = {e.name for e in found.evidence if e.counts}
    assert counting == {*COUNTING, "modes_covered"}
    assert set(COUNTING.values()) == set(VIEWS)
    assert all(e.source for e in found.evidence)


def test_the_ranges_are_those_of_the_package() -> None:
    rules.reference_ranges.cache_clear()
    assert set(rules.reference_ranges()) == set(KINDS)


def test_samples_that_are_all_alike_are_a_collapse_however_the_kernel_looks() -> None:
    well = values("points")
    found = judge_values({**well, "relative_diversity": 0.9 * NARROW}, "points")
    assert found.label == "collapsing" and "nearly the same" in found.reasons[0]
    assert judge_values(well, "points", same=True).label == "collapsing"
    assert judge_values({"relative_diversity": 0.5 * NARROW}, None).label == "collapsing"


def test_a_generator_that_ignores_its_latent_is_collapsed() -> None:
    generator, discriminator = planar_networks()
    with torch.no_grad():
        generator.module[2].weight.zero_()
    found = analyze(generator, discriminator, latents=16, jacobians=4, fresh=4, check=False)[0]
    assert found.clusters.kind == "one" and found.verdict is not None
    assert found.verdict.label == "collapsing" and "ignores its latent" in found.verdict.reasons[0]


def test_samples_that_spread_over_the_modes_but_miss_them_are_not_collapsed() -> None:
    net = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.eye(2))  # samples lie around the origin, in all directions alike
    found = analyze(Generator(net, (2,)), latents=64, jacobians=4, modes=RING, mode_std=1e-4)[0]
    counted = found.coverage.modes
    assert counted is not None and counted.covered <= 4 and counted.nearest_number > 6
    assert found.verdict is not None and found.verdict.label != "collapsing"
    mine = next(e for e in found.verdict.evidence if e.name == "modes_covered")
    assert mine.says == "watch" and "not near enough" in mine.source


def test_one_mode_with_single_strays_in_the_others_is_one_mode() -> None:
    near = torch.randint(8, (512,), generator=torch.Generator().manual_seed(0))
    near[:490] = 3
    covered = cover(RING[near], compared(RING[near], None, None), RING, 0.1, None, [])
    assert covered.modes is not None and covered.modes.covered == 1 and covered.modes.high_quality == 1
    assert covered.modes.nearest_number < 2


STUDY = Setting(512, 2, "modes")


@pytest.mark.parametrize(
    ("setting", "name", "why"),
    [
        (Setting(64, 2, "modes"), "kernel_effective_rank", "number of latents"),
        (Setting(400, 2, "modes"), "kernel_effective_rank", "number of latents"),
        (Setting(64, 2, "modes"), "coverage", "number of samples"),
        (Setting(512, 16, "modes"), "jacobian_effective_rank", "dimension of the latents"),
        (Setting(512, 2, "k-means"), "occupancy_dominance", "clusters of the study are modes"),
        (Setting(512, 2, "modes", features=True), "recall", "as they are"),
        (STUDY, "log_volume", "units"),
    ],
)
def test_what_is_made_otherwise_is_not_compared(setting: Setting, name: str, why: str) -> None:
    given = {other: 0.5 for other in INDICATORS}
    found = {e.name: e for e in judge_values(given, "points", setting=setting).evidence}[name]
    assert found.says == "unknown" and not found.counts and math.isnan(found.alarm)
    assert found.source.startswith("not compared: ") and why in found.source


def test_what_is_made_alike_is_compared() -> None:
    found = judge_values(values("points"), "points", setting=STUDY)
    assert found.label == "ok" and {e.name for e in found.evidence if e.counts} == set(COUNTING)


def test_few_samples_of_the_data_themselves_are_no_collapse() -> None:
    """A generator that is as good as possible: what it makes differs from the data by chance alone."""
    net = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.8], [0.0, 0.5]]))
    for seed in range(6):
        z = torch.randn(96, 2, generator=torch.Generator().manual_seed(100 + seed)).double()
        result = analyze(Generator(net, (2,)), latents=96, jacobians=4, real=z @ net.weight.T.detach(), seed=seed)[0]
        by_name = {e.name: e.says for e in judge(result).evidence}
        assert by_name["relative_diversity"] != "collapsing"


def test_noise_is_allowed_for_where_there_are_fewer_latents_than_in_the_study() -> None:
    known = reference_ranges()["points"]["indicators"]["relative_diversity"]
    given = {**values("points"), "relative_diversity": known["alarm"] - 0.01}
    few = {"setting": Setting(300, 2, "modes"), "errors": {"relative_diversity": 0.03}}
    said = {e.name: e for e in judge_values(given, "points", **few).evidence}["relative_diversity"]
    assert said.says != "collapsing"
    assert any("take more latents" in reason for reason in judge_values(given, "points", **few).reasons)
    many = {"setting": STUDY, "errors": {"relative_diversity": 0.03}}
    said = {e.name: e for e in judge_values(given, "points", **many).evidence}["relative_diversity"]
    assert said.says == "collapsing"


def test_little_diversity_and_little_recall_are_a_collapse_by_themselves() -> None:
    given = {**values("points"), "relative_diversity": 0.4, "recall": 0.1}
    found = judge_values(given, "points")
    assert found.label == "collapsing" and "reach little of the data" in found.reasons[0]
    assert judge_values({**given, "recall": math.nan}, "points").label == "watch"


def test_other_data_are_never_ok() -> None:
    given = {**values("points"), "recall": 0.0, "precision": 0.0, "relative_diversity": 1.3}
    found = judge_values(given, "points", setting=Setting(64, 2, "modes"))
    assert found.label == "watch"
    assert any("hardly anything in common" in reason for reason in found.reasons)


def test_modes_without_a_width_are_said_to_need_one() -> None:
    found = analyze(planar_networks()[0], latents=16, jacobians=4, modes=RING)[0]
    assert found.verdict is not None and found.verdict.label == "unknown" and "mode_std" in found.verdict.reasons[0]


def test_a_classifier_that_does_not_know_the_data_counts_nothing() -> None:
    real = Real(RING.repeat(4, 1), torch.arange(8).repeat(4))
    missing: list[str] = []
    knows = cover(RING, compared(RING, real, None), None, None, lambda x: 20 * x @ RING.T, missing, real)
    assert knows.modes is not None and knows.modes.covered == 8
    other = cover(RING, compared(RING, real, None), None, None, lambda x: -20 * x @ RING.T, missing, real)
    assert other.modes is None and "right on 0% of the real samples" in missing[-1]


def test_little_diversity_that_reaches_all_of_the_data_is_no_collapse() -> None:
    bad = values("points", kernel="collapsing", coverage="collapsing")
    assert judge_values(bad, "points").label == "collapsing"
    found = judge_values({**bad, "recall": values("points")["recall"]}, "points")
    assert found.label == "watch" and "do not confirm" in found.reasons[-1]


def test_recall_in_features_is_not_that_of_the_study() -> None:
    found = judge_values(values("points"), "points", setting=Setting(512, 2, "modes", features=True))
    assert found.label == "unknown"
    known = {e.name: e for e in found.evidence}["recall"]
    assert not known.counts and "as they are" in known.source


def test_samples_that_reach_all_data_are_judged_by_that_with_few_latents_as_well() -> None:
    bad = values("points", kernel="collapsing", coverage="collapsing")
    few = judge_values({**bad, "recall": values("points")["recall"]}, "points", setting=Setting(96, 2, "modes"))
    assert few.label == "watch"
