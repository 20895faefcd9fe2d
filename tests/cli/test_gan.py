"""``genkernel gan``: what it passes on, prints and returns."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from genkernel.cli.app import run
from genkernel.cli.hints import hint
from genkernel.errors import NonFiniteError
from genkernel.gan.verdict import Evidence, Verdict
from genkernel.runs import Provenance
from genkernel.workflows import GanReport
from tests.gan.fake_result import RING, alone_result, planar_result
from tests.gan.folders import ring_folder

CODE = """
from torch import nn

class MyGenerator(nn.Module):
    def __init__(self, size=2, classes=0):
        super().__init__()
        self.embed = nn.Embedding(classes, size) if classes else None
        self.net = nn.Linear(size, 2)
    def forward(self, z, *y):
        return self.net(z if self.embed is None else z * self.embed(*y))

class Noisy(MyGenerator):
    def forward(self, z, noise_mode="random"):
        x = super().forward(z)
        return x if noise_mode == "const" else x + x.new_empty(x.shape).normal_()

class MyDiscriminator(nn.Linear):
    def __init__(self, inputs=2):
        super().__init__(inputs, 1)
"""
Calls = list[dict[str, Any]]
MINE = "gan G.safetensors --factory usernets:MyGenerator"
JUDGED = Verdict(
    "watch",
    ["Recall is 0.31."],
    [Evidence("recall", "recall of the data", "coverage", 0.31, (0.6, 0.9), 0.2, -1, "watch", True, "healthy runs")],
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a reference GAN, and a user's own classes and weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    ring_folder(Path("ring"))
    Path("usernets.py").write_text(CODE)
    Path("boomnets.py").write_text("raise RuntimeError('boom')")
    np.savez("modes.npz", modes=RING.numpy())
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            "G": scope["MyGenerator"](), "CG": scope["MyGenerator"](classes=3), "D": scope["MyDiscriminator"](),
            "D3": scope["MyDiscriminator"](3),
        }  # fmt: skip
    for name, network in networks.items():
        save_file({key: value.clone() for key, value in network.state_dict().items()}, f"{name}.safetensors")
    torch.save({"g": networks["G"].state_dict(), "d": networks["D"].state_dict()}, "both.pt")
    broken = {key: value.clone() for key, value in networks["G"].state_dict().items()}
    broken["net.weight"][0, 0] = float("nan")
    save_file(broken, "nan.safetensors")
    yield tmp_path
    sys.modules.pop("usernets", None)


@pytest.fixture
def calls(here: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Nothing long is computed."""
    asked: Calls = []

    def analyze(generator: Any, discriminator: Any, **kwargs: Any) -> tuple[Any, None]:
        print("a library that talks")
        kwargs["progress"]("kernel", 0, 2)
        asked.append({"generator": generator, "discriminator": discriminator, **kwargs})
        return replace(planar_result(), verdict=JUDGED), None

    monkeypatch.setattr("genkernel.gan.analysis.analyze", analyze)
    monkeypatch.setattr("genkernel.plots.gan_figures", lambda result: {})
    return asked


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gan", "--help"]) == 0
    said = capsys.readouterr()
    assert "Usage: genkernel" in said.out and "--classifier" in said.out and not said.err and "`" not in said.out


def test_a_training_folder_needs_no_flag_and_ends_with_the_verdict(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gan", "ring"]) == 0  # whatever the verdict
    (asked,) = calls
    assert asked["loss"] == "hinge" and len(asked["modes"]) == 8 and asked["discriminator"] is not None
    said = capsys.readouterr()
    assert "! verdict: watch (some signs of mode collapse)" in said.out and "  Recall is 0.31." in said.out
    assert "recall of the data" in said.out and "from 0.6" in said.out and "below 0.2" in said.out
    assert "Driving dominance" in said.out and "Modes covered" in said.out
    assert said.out.endswith("report: genkernel-ring/index.html\n") and Path("genkernel-ring/index.html").is_file()
    assert "a library that talks" in said.err and "kernel (stage 1 of 2)" in said.err
    assert "trained on ring with the hinge loss" in said.err


def test_everything_is_passed_on(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--factory usernets:MyGenerator --discriminator D.safetensors --discriminator-factory usernets:MyDiscriminator "
        "--latent-shape 2 --loss wgan --data modes.npz --modes modes.npz --mode-std 0.3 --latents 20 --jacobians 5 "
        "--clusters 3 --probes 2 --seed 4 --no-check --memory 1GiB --dtype float64 --truncation 2 --out run "
        "--device cpu"
    )
    command = ["gan", "G.safetensors", *flags.split(), "--factory-args", '{"size": 2}', "--discriminator-args", "{}"]
    assert run(command) == 0
    (asked,) = calls
    assert asked["generator"].prior.truncation == 2 and asked["generator"].latent_shape == (2,)
    assert asked["discriminator"].name == "D" and asked["loss"] == "wgan" and asked["clusters"] == 3
    assert (asked["latents"], asked["jacobians"], asked["probes"], asked["seed"]) == (20, 5, 2, 4)
    assert asked["mode_std"] == 0.3 and asked["real"].shape == (8, 2) and not asked["check"]
    assert asked["dtype"] == torch.float64 and asked["memory"] == "1GiB"
    assert os.getcwd() not in sys.path  # only while the factory was looked for


def test_json_is_the_only_thing_on_stdout(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gan", "ring", "--json", "--out", "run"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["kind"] == "gan" and summary["verdict"] == "watch" and summary["evidence"][0]["name"] == "recall"
    assert summary == json.loads(Path("run/summary.json").read_text())


def test_conditional_generators(calls: Calls) -> None:
    network = ["--factory", "usernets:MyGenerator", "--factory-args", '{"classes": 3}']
    assert run(["gan", "CG.safetensors", *network, "--classes", "3", "--out", "run"]) == 0
    assert calls[0]["generator"].classes == 3 and calls[0]["discriminator"] is None


def test_what_is_shipped_is_known_by_its_name(calls: Calls) -> None:
    assert run(["gan", "dcgan-mnist", "--classifier", "mnist-classifier", "--latents", "8"]) == 0
    asked = calls[0]
    assert asked["generator"].output_shape == (1, 32, 32) and asked["loss"] == "non-saturating"
    assert asked["classifier"](torch.zeros(2, 1, 32, 32)).shape == (2, 10) and asked["modes"] is None
    assert Path("genkernel-dcgan-mnist").is_dir()
    assert run(["gan", "dcgan-mnist", "--out", "plain"]) == 0
    assert calls[1]["classifier"] is None  # never assumed


def test_both_networks_in_one_file_and_further_inputs(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["gan", "both.pt", "--key", "g", "--factory", "usernets:Noisy", "--discriminator", "both.pt"]
    command += ["--discriminator-factory", "usernets:MyDiscriminator", "--discriminator-key", "d", "--resume"]
    assert run([*command, "--inputs", '{"noise_mode": "const"}', "--out", "run"]) == 0
    assert calls[0]["generator"].inputs == {"noise_mode": "const"} and calls[0]["discriminator"].name == "both"
    assert json.loads(Path("run/run.json").read_text())["checkpoint"]["discriminator"]["key"] == "d"
    capsys.readouterr()
    assert run(command) == 1
    said = capsys.readouterr().err
    assert "returns different outputs" in said and "hint: --inputs JSON" in said


def test_torch_does_not_talk_of_itself_between_the_stages(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def analyze(*args: Any, **kwargs: Any) -> tuple[Any, None]:
        for text in ("`torch.jit.script` is deprecated. Please switch", "of the user's code"):
            warnings.warn(text, FutureWarning, stacklevel=1)
        return planar_result(), None

    monkeypatch.setattr("genkernel.gan.analysis.analyze", analyze)
    monkeypatch.setattr("genkernel.plots.gan_figures", lambda result: {})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run(["gan", "ring"]) == 0
    assert [str(w.message) for w in seen if w.category is FutureWarning] == ["of the user's code"]


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("say which with key=", "--key NAME"),
        ("say which with discriminator_key=", "--discriminator-key NAME, and the file with --discriminator"),
        ("it needs discriminator_args={}", '--discriminator-args JSON, such as {"width": 64}'),
        ("pass real_range=(black, white)", "--real-range -1,1"),
        ("mode_std= is the deviation around known modes: give modes= as well", "--modes FILE, with one mode per row"),
        ("discriminator_loss= is no loss", None),
        ("--key says so itself: key=", None),
    ],
)
def test_hints_name_the_flag(message: str, advice: str | None) -> None:
    assert hint(message) == advice


def test_resume(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["gan", "ring", "--resume"]
    assert run(command) == 0 and run(command) == 0 and len(calls) == 1
    assert "it is used again" in capsys.readouterr().err
    assert run([*command, "--latents", "99"]) == 2
    said = capsys.readouterr().err
    assert "latents was 512, now 99" in said and "hint: leave out --resume" in said


@pytest.mark.parametrize(
    ("command", "words", "hint"),
    [
        ("gan nothing", "no checkpoint at 'nothing'", ""),
        ("gan G.safetensors", "does not say what network it belongs to", "--factory MODULE:CLASS"),
        ("gan G.safetensors --factory usernets:No", "cannot be imported", ""),
        ("gan G.safetensors --factory nowhere:No", "cannot be imported", ""),
        ("gan G.safetensors --factory boomnets:G", "cannot be imported: RuntimeError: boom", ""),
        ("gan both.pt --factory usernets:MyGenerator", "say which with key=", "--key NAME"),
        (
            "gan both.pt --factory usernets:MyGenerator --key g --discriminator both.pt",
            "say which with discriminator_key=",
            "--discriminator-key NAME",
        ),
        (f"{MINE} --inputs 3", "--inputs takes JSON", ""),
        (f"{MINE} --latents 200000 --memory 1MiB", "memory='1MiB' allows: at most 104 latents fit", "--memory"),
        ("gan ring --mode-std 0", "mode_std is the standard deviation", ""),
        ("gan G.safetensors --factory usernets", "factory is 'package.module:Name'", ""),
        ("gan D3.safetensors --factory usernets:MyGenerator", "do not fit", ""),
        ("gan nan.safetensors --factory usernets:MyGenerator", "NaN", ""),
        (
            'gan CG.safetensors --factory usernets:MyGenerator --factory-args {"classes":3}',
            "a conditional network needs classes=",
            "--classes N",
        ),
        (f"{MINE} --latent-shape 3", "cannot be run on latents of shape 3", "--classes N"),
        (f"{MINE} --latent-shape a", "--latent-shape takes whole numbers", ""),
        (f"{MINE} --factory-args [1]", "--factory-args takes JSON", ""),
        (f"{MINE} --space q", "space is 'z' or 'w'", ""),
        (f"{MINE} --discriminator no.pt", "no checkpoint at 'no.pt'", ""),
        (
            f'{MINE} --discriminator D3.safetensors --discriminator-args {{"inputs":3}}',
            "cannot judge samples 2 as the generator makes them",
            "",
        ),
        ("gan ring --loss l2", "the generator's loss is one of", ""),
        ("gan ring --data no.csv", "there are no real samples at 'no.csv'", ""),
        ("gan ring --real-range x", "--real-range takes numbers", ""),
        ("gan ring --modes no.csv", "there are no modes at 'no.csv'", ""),
        ("gan ring --clusters none", "--clusters is auto or a number", ""),
        ("gan ring --classifier nowhere", "there is no classifier at 'nowhere'", ""),
        ("gan ring --classifier mnist-classifier", "the classifier cannot be run on samples 2", ""),
        ("gan ring --latents 3", "latents has to be a whole number of at least 8", ""),
        ("gan ring --optimizer-state no.pt", "there is no optimizer state", ""),
        ("diffusion ring --data modes.npz", "holds a GAN, not a diffusion model", ""),
        ("doctor ring", "doctor examines diffusion models: genkernel gan ring analyses it", ""),
        ("doctor ring/G.safetensors", "doctor examines diffusion models: genkernel gan ring/G.safetensors", ""),
    ],
)
def test_wrong_input_is_one_sentence(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: str, words: str, hint: str
) -> None:
    before = sorted(p.name for p in Path.cwd().iterdir())
    status = run(command.split())
    said = capsys.readouterr()
    assert status == (1 if "NaN" in words else 2) and not said.out and "Traceback" not in said.err
    line = next(line for line in said.err.splitlines() if line.startswith("error: "))
    assert words in line
    assert hint in said.err and (bool(hint) == ("hint: " in said.err))
    after = sorted(p.name for p in Path.cwd().iterdir() if p.name != "__pycache__")
    assert not calls and after == before


def test_failures_while_running(
    calls: Calls, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, words in (
        (NonFiniteError("NaN in layer 3"), 1, "error: NaN in layer 3"),
        (KeyboardInterrupt(), 130, "stopped: interrupted"),
        (MemoryError(), 1, "error: out of memory: lower --memory, or"),
    ):

        def broken(*args: Any, error: BaseException = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr("genkernel.gan.analysis.analyze", broken)
        assert run(["gan", "ring", "--out", "a/b"]) == status
        assert capsys.readouterr().err.splitlines()[-1].startswith(words) and not Path("a").exists()


def test_a_constant_discriminator_and_no_discriminator_give_a_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("genkernel.plots.gan_figures", lambda result: {})
    save_file({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}, "zero.safetensors")
    command = f"{MINE} --latents 16 --jacobians 4 --clusters 2 --no-check".split()
    assert run([*command, "--out", "none"]) == 0
    assert "missing: no discriminator was given" in capsys.readouterr().out
    assert run([*command, "--discriminator", "zero.safetensors", "--out", "zero"]) == 0
    assert "the discriminator is constant" in capsys.readouterr().out
    none, zero = (json.loads(Path(name, "summary.json").read_text()) for name in ("none", "zero"))
    assert none["verdict"] == zero["verdict"] and zero["amplification"] is None


def test_compare_refuses_gan_runs(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genkernel.plots.gan_figures", lambda result: {})
    for name in ("one", "two"):
        GanReport(alone_result(), None, Provenance()).save(name)
    assert run(["compare", "one", "two"]) == 2
    assert capsys.readouterr().err == "error: one is a run of kind gan: compare works on diffusion runs\n"


def test_other_ranks_of_torchrun_leave_it_to_the_first(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(["gan", "ring"]) == 0 and not calls
    monkeypatch.setenv("RANK", "0")
    assert run(["gan", "ring", "--out", "run"]) == 0 and len(calls) == 1
    assert json.loads(Path("run/run.json").read_text())["processes"] == 1


def test_weights_of_the_discriminator_decide_a_resumed_run(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{MINE} --discriminator D.safetensors --out run --resume".split()
    assert run(command) == 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        save_file({k: v.clone() for k, v in nn.Linear(2, 1).state_dict().items()}, "D.safetensors")
    assert run(command) == 2 and len(calls) == 1
    assert "discriminator was D (sha256 of its weights" in capsys.readouterr().err
