"""From a denoiser and images to a report: what is passed on, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError, MissingError, OutputError, UnsafeCheckpointError
from genkernel.runs import pack
from genkernel.workflows.files import read_conditioning, read_optimizer, read_schemes
from tests.diffusion.fake_result import fake_result
from tests.diffusion.tiny import tiny_denoiser, tiny_images

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"levels": 4, "samples": 4, "probes": 2, "bootstrap": 10}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The analysis replaced by a made-up result; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def analyze(den: Any, images: Any, **kwargs: Any) -> tuple[Any, None]:
        asked.append({"den": den, "images": images, **kwargs})
        return fake_result(controls=False), None

    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", analyze)
    few = {"kernel": __import__("genkernel.plots").plots.kernel_map}
    monkeypatch.setattr(
        "genkernel.plots.diffusion_figures", lambda result: {k: (lambda f=f: f(result)) for k, f in few.items()}
    )
    return asked


def named(seed: int = 0) -> gk.Denoiser:
    """A tiny denoiser that knows where its weights come from."""
    den = tiny_denoiser(dtype=torch.float32, seed=seed)
    den.checkpoint = {"name": "runs/tiny", "sha256": str(seed)}
    return den


# ------------------------------------------------------------------------ the real thing


def test_the_whole_walk(tmp_path: Path) -> None:
    den = tiny_denoiser(dtype=torch.float32)
    before = {k: v.clone() for k, v in den.module.state_dict().items()}
    state = torch.random.get_rng_state()
    said: list[str] = []
    report = gk.locality(den, tiny_images(6), out=tmp_path / "run", say=said.append, **SMALL)
    assert all(torch.equal(before[k], v) for k, v in den.module.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert any("4 images 1×4×4" in sentence for sentence in said)
    summary = report.summary()
    assert len(summary["levels"]["timesteps"]) == 4 and -1 <= summary["locality"]["index"] <= 1
    assert report.kernel is not None and report.kernel.shape == (16, 16)
    back = gk.open_run(tmp_path / "run")
    assert pack(back.result) == pack(report.result)
    assert np.array_equal(np.asarray(back.kernel), np.asarray(report.kernel))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["samples"] == 4 and record["dtype"] == "float32" and record["timings"]["kernel"] > 0
    assert len(record["data"]["sha256"]) == 64
    assert "states no reading" not in (tmp_path / "run" / "index.html").read_text()


def test_the_same_seed_gives_the_same_numbers_whatever_the_memory() -> None:
    den, images = tiny_denoiser(dtype=torch.float32), tiny_images(6)
    a = gk.locality(den, images, controls=False, **SMALL)
    b = gk.locality(den, images, controls=False, memory="300MiB", **SMALL)
    c = gk.locality(den, images, controls=False, seed=1, **SMALL)
    np.testing.assert_allclose(a.result.locality.matrix, b.result.locality.matrix, rtol=1e-6, atol=1e-9)
    assert not np.allclose(a.result.locality.matrix, c.result.locality.matrix)


# ------------------------------------------------------------------------ what is passed on


def test_arguments_reach_the_analysis(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text('{"late": [[0, 0], [999, 2]]}')
    gk.locality(
        named(), tiny_images(9), samples=5, probes=3, seed=7, timesteps=[1, 50, 900], untrained=False, dtype="float64",
        weights=tmp_path / "w.json", samplers={"even": np.ones(3)}, bootstrap=33, memory="1GiB", progress=False,
    )  # fmt: skip
    (asked,) = calls
    assert asked["images"].shape == (5, 1, 4, 4) and asked["levels"] == [1.0, 50.0, 900.0]
    assert (asked["probes"], asked["seed"], asked["untrained"], asked["bootstrap"]) == (3, 7, False, 33)
    assert asked["dtype"] == torch.float64 and asked["memory"] == "1GiB" and asked["progress"] is False
    assert asked["weights"]["late"](np.array([0, 499.5, 2000]), None).tolist() == [0, 1, 2]
    assert list(asked["samplers"]) == ["even"]


def test_images_are_brought_to_the_model_and_it_is_said(calls: list[dict[str, Any]]) -> None:
    said: list[str] = []
    report = gk.locality(named(), torch.rand(5, 3, 6, 8), samples=4, say=said.append)
    assert calls[0]["images"].shape == (4, 1, 4, 4)
    assert any("colour to luma" in s and "→ 4×4" in s for s in said)
    assert report.provenance.data["conversions"]


def test_fewer_images_than_asked_are_used_and_it_is_said(calls: list[dict[str, Any]]) -> None:
    said: list[str] = []
    gk.locality(named(), tiny_images(3), samples=8, say=said.append)
    assert calls[0]["samples"] == 3 and any("3 images, so 3 are used instead of 8" in s for s in said)


def test_a_module_is_wrapped_with_its_scheduler(calls: list[dict[str, Any]]) -> None:
    den = named()
    gk.locality(den.module, tiny_images(4), schedule=den.schedule, sample_shape=(1, 4, 4))
    assert calls[0]["den"].module is den.module
    with pytest.raises(InputError, match="cannot be changed on a finished Denoiser"):
        gk.locality(den, tiny_images(4), sample_shape=(1, 4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": 2}, "levels has to be a whole number of at least 3"),
        ({"samples": 1}, "samples has to be a whole number of at least 2"),
        ({"probes": 0}, "probes has to be a whole number of at least 1"),
        ({"seed": -1}, "seed has to be a whole number from 0"),
        ({"seed": 1.0}, "seed has to be a whole number from 0"),
        ({"memory": "lots"}, "not an amount of memory"),
        ({"timesteps": [1, 2]}, "at least 3 finite, different times"),
        ({"timesteps": [1, 2, float("nan")]}, "at least 3 finite, different times"),
        ({"dtype": "int8"}, "dtype is one of float32"),
        ({"device": "meta"}, "is never moved"),
        ({"device": "foo"}, "device 'foo' cannot be used here"),
        ({"device": {}}, "device is a name such as 'cpu'"),
    ],
)
def test_wrong_arguments(calls: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        gk.locality(named(), tiny_images(4), out=tmp_path / "a" / "b", **change)
    assert not calls and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "no/images"}, "the path does not exist"),
        ({"data": "."}, "holds no images"),
        ({"data": "bad.json"}, "neither a folder of images"),
        ({"weights": "bad.json"}, "is not JSON"),
        ({"samplers": "no.json"}, "there is no weighting file"),
        ({"optimizer_state": "bad.json"}, "is not a file that torch wrote"),
    ],
)
def test_files_are_looked_at_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    import importlib

    def load(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(importlib.import_module("genkernel.workflows.load"), "load", load)
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{")
    np.savez("x.npz", x=np.zeros((4, 4, 4)))
    with pytest.raises((InputError, MissingError), match=words):
        gk.locality("some/model", **({"data": "x.npz"} | change), out="run")
    assert not Path("run").exists()


def test_a_folder_of_other_things_is_no_place_for_a_run(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no genkernel run"):
        gk.locality(named(), tiny_images(4), out=tmp_path)
    assert not calls and [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_one_image_is_not_enough(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="give at least 2"):
        gk.locality(named(), tiny_images(1))


def test_an_unusable_output_fails_before_the_work(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        gk.locality(named(), tiny_images(4), out=tmp_path / "file" / "run")
    assert not calls


def test_an_interrupted_analysis_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gk.locality(named(), tiny_images(4), out=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------ resume


def test_a_finished_run_is_used_again(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    images, said = tiny_images(4), list[str]()
    first = gk.locality(named(), images, out=tmp_path, resume=True, say=said.append)
    assert any("nothing to resume" in s for s in said)
    page = (tmp_path / "index.html").stat().st_mtime_ns
    second = gk.locality(named(), images, out=tmp_path, resume=True, memory="1GiB", say=said.append)
    assert len(calls) == 1 and second.reused and not first.reused
    assert second.summary() == first.summary() and (tmp_path / "index.html").stat().st_mtime_ns == page
    assert any("used again" in s for s in said) and not [p for p in tmp_path.iterdir() if ".part" in p.name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probes": 4}, "probes was 8, now 4"),
        ({"model": named(1)}, "the checkpoint has changed"),
        ({"data": tiny_images(4, seed=5)}, "the images have changed"),
        ({"model": tiny_denoiser(dtype=torch.float32)}, "given in memory"),
    ],
)
def test_another_run_is_not_replaced_by_resuming_and_it_is_said_why(
    calls: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    asked = {"model": named(), "data": tiny_images(4), "out": tmp_path}
    gk.locality(**asked)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=f"cannot be resumed.*{words}"):
        gk.locality(**(asked | change), resume=True)
    assert len(calls) == 1
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def optimizer(value: float) -> dict[str, Any]:
    return {"state": {0: {"exp_avg_sq": torch.full((2,), value)}}, "param_groups": [{"params": [0]}]}


@pytest.mark.parametrize(
    ("option", "one", "other"),
    [
        ("optimizer_state", optimizer(1), optimizer(2)),
        ("weights", {"late": lambda t, log_snr: t}, {"late": lambda t, log_snr: 1 + t}),
        ("samplers", {"even": np.ones(3)}, {"even": np.zeros(3)}),
    ],
)
def test_what_is_in_an_argument_decides_a_resumed_run(
    calls: list[dict[str, Any]], tmp_path: Path, option: str, one: Any, other: Any
) -> None:
    asked: dict[str, Any] = {"model": named(), "data": tiny_images(4), "out": tmp_path, "resume": True}
    gk.locality(**asked, **{option: one})
    assert gk.locality(**asked, **{option: one}).reused and len(calls) == 1
    with pytest.raises(InputError, match=rf"cannot be resumed.*{option} was .* \(sha256 .*, now"):
        gk.locality(**asked, **{option: other})


def test_an_unfinished_run_is_not_used(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    asked = {"model": named(), "data": tiny_images(4), "out": tmp_path}
    gk.locality(**asked)
    (tmp_path / "kernel.npz").unlink(missing_ok=True)
    (tmp_path / "result.json").unlink()
    gk.locality(**asked, resume=True)
    assert len(calls) == 2


# ------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"a": 3}', '{"a": [[0, 1], [0, 2]]}', '{"a": [[0, "x"]]}', '{"a": [[0, 1, 2]]}', '{"a": []}'],
)
def test_malformed_weightings(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(InputError, match=r"w\.json"):
        read_schemes(tmp_path / "w.json")


def test_missing_files() -> None:
    for read, what in ((read_schemes, "weighting"), (read_optimizer, "optimizer"), (read_conditioning, "conditioning")):
        with pytest.raises(MissingError, match=f"there is no {what}"):
            read("no/such/file")


def test_optimizer_state_is_found_under_its_name_and_never_runs_code(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(net.parameters())
    torch.save(adam.state_dict(), tmp_path / "plain.pt")
    torch.save({"model": net.state_dict(), "optimizer": adam.state_dict()}, tmp_path / "nested.pt")
    for name in ("plain.pt", "nested.pt"):
        assert set(read_optimizer(tmp_path / name)) == {"state", "param_groups"}
    assert read_optimizer(adam) is adam
    torch.save({"optimizer": Path}, tmp_path / "unsafe.pt")
    with pytest.raises(UnsafeCheckpointError, match="--trust-pickle"):
        read_optimizer(tmp_path / "unsafe.pt")
    (tmp_path / "text.pt").write_text("not a file of torch")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "plain.pt").read_bytes()[:-200])
    for name in ("text.pt", "cut.pt"):
        with pytest.raises(InputError, match="is not a file that torch wrote"):
            read_optimizer(tmp_path / name)
    torch.save(adam.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert set(read_optimizer(tmp_path / "old.pt")) == {"state", "param_groups"}


def test_conditioning_from_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert read_conditioning("zeros") == "zeros" and read_conditioning(None) is None
    arrays = {"encoder_hidden_states": torch.ones(1, 3, 4), "added.text_embeds": torch.zeros(1, 5)}
    save_file(arrays, tmp_path / "c.safetensors")
    np.savez(tmp_path / "c.npz", **{k: v.numpy() for k, v in arrays.items()})
    for name in ("c.safetensors", "c.npz"):
        found = read_conditioning(tmp_path / name)
        assert torch.equal(found["encoder_hidden_states"], arrays["encoder_hidden_states"])
        assert torch.equal(found["added"]["text_embeds"], arrays["added.text_embeds"])
    (tmp_path / "c.bad").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        read_conditioning(tmp_path / "c.bad")
