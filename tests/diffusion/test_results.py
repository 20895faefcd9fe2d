"""The summary has the promised keys and nothing that JSON cannot hold."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np

from genkernel.diffusion.results import DiffusionResult
from tests.diffusion.fake_result import fake_result

PROMISED = {
    "levels": ["timesteps", "log_snr"],
    "locality": [
        "index", "index_unnormalized", "window_timesteps", "floor", "half_width_timesteps", "half_width_log_snr",
        "normalized_kernel", "stderr",
    ],
    "controls": [
        "same_image_same_noise", "same_image_other_noise", "other_image_same_level", "embedding_only", "input_only",
        "shuffled_levels", "untrained", "embedding_cosine", "time_mlp_cosine",
    ],
    "interference": ["matrix", "stderr", "conflicting_pairs"],
    "stages": ["boundaries"],
    "layers": ["share"],
    "weighting": ["schemes", "predicted_change"],
}  # fmt: skip


def test_promised_keys():
    result = fake_result(9)
    summary = result.to_summary()
    assert summary["schema_version"] == 1 and summary["kind"] == "diffusion"
    for section, keys in PROMISED.items():
        assert set(keys) <= set(summary[section]), section
    assert len(summary["loss_per_level"]) == 9
    assert np.shape(summary["locality"]["normalized_kernel"]) == (9, 9)
    assert summary["locality"]["index"] == result.locality.index
    assert summary["locality"]["half_width_timesteps"][-1] is None
    assert summary["interference"]["preconditioned"]["matrix"] is not None
    pair = summary["interference"]["conflicting_pairs"][0]
    assert pair["timesteps"] == [result.levels.timesteps[k] for k in pair["levels"]] and pair["cosine"] < 0


def test_the_summary_is_plain_json():
    result = fake_result(6)
    result.locality.index = math.nan
    result.levels.log_snr = np.append(np.inf, result.levels.log_snr[1:])
    text = json.dumps(result.to_summary(), allow_nan=False)
    again = json.loads(text)
    assert again["locality"]["index"] is None and again["levels"]["log_snr"][0] is None
    assert again["interference"]["matrix_disjoint"][0][0] is None
    assert "bootstrap" not in json.dumps(list(again["locality"]))  # replicates stay out


def test_parts_that_were_not_computed_are_null():
    full = fake_result(6, controls=False)
    bare: DiffusionResult = dataclasses.replace(
        full, interference=None, weighting=None, stages=None, embedding_cosine=None, time_mlp_cosine=None
    )
    summary = bare.to_summary()
    assert summary["interference"] is None and summary["weighting"] is None and summary["stages"] is None
    assert summary["controls"]["embedding_cosine"] is None and "untrained" not in summary["controls"]
