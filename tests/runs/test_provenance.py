"""Provenance: digests that mean something, differences that say what differs."""

import numpy as np
import pytest

from genkernel.runs import Provenance, Stopwatch, data_sha256, versions


def provenance(**changes):
    arguments = {"levels": 24, "seed": 0, "memory": "8GiB", "out": "a"} | changes
    return Provenance(arguments=arguments, seed=0, checkpoint={"sha256": "c"}, data={"sha256": "d"}).complete()


def test_digest_of_data_sees_shape_dtype_and_values():
    x = np.arange(6.0)
    assert data_sha256(x) == data_sha256(x.copy())
    different = {data_sha256(y) for y in (x, x.reshape(2, 3), x.astype(np.float32), x + 1)}
    assert len(different) == 4


def test_the_same_run_has_no_differences_and_indifferent_arguments_do_not_count():
    earlier = provenance().to_json()
    assert provenance().differences(earlier) == []
    assert provenance(memory="1GiB", out="b").differences(earlier) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arguments": {"levels": 12}}, "levels was 12, now 24"),
        ({"checkpoint": {"sha256": "other"}}, "the checkpoint has changed"),
        ({"checkpoint": {"sha256": None}}, "in memory"),
        ({"data": {"sha256": "other"}}, "the images have changed"),
        ({"versions": {"genkernel": "0.0.1"}}, "genkernel was 0.0.1"),
    ],
)
def test_differences_are_named(change, words):
    earlier = provenance().to_json()
    for key, value in change.items():
        earlier[key] = {**earlier[key], **value}
    assert any(words in line for line in provenance().differences(earlier))


def test_complete_names_versions_time_and_memory_but_not_the_machine():
    watch = Stopwatch()
    with watch("kernel"):
        pass
    with watch("kernel"):
        pass
    record = provenance().complete(watch).to_json()
    assert record["versions"]["genkernel"] and record["versions"]["torch"] == versions()["torch"]
    assert record["timings"]["kernel"] >= 0
    assert record["peak_memory"].get("host", 1) > 0
    assert record["finished"].endswith("+00:00")
    import platform

    assert platform.node() not in str(record["machine"])
