"""Dry runs: the plan that a later run keeps to, where its time goes, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.tangent import call, forecast, passes
from genkernel.tangent.passes import GradientPass
from genkernel.tangent.sketch_store import RowStore


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 64, 3, padding=1), nn.SiLU(),
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 5),
        )  # fmt: skip


def images(n: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_a_run_keeps_to_the_plan_it_is_given() -> None:
    net, x, y = network(), images(), images(7, 1)
    for options in ({}, {"memory": 1}, {"cotangents": gk.total(), "by": None, "accumulate": "float32"}):
        for batch in (None, y):
            ahead = gk.plan(net, x, batch, **options)
            K = gk.kernel(net, x, batch, plan=ahead, **options)
            assert K.meta["plan"] == ahead.plan.describe()
            assert (K.meta["tasks"], K.meta["expected"]["bytes"]) == (len(ahead.plan.tasks), ahead.bytes)
            assert torch.equal(K.values, gk.kernel(net, x, batch, plan=ahead, **options).values)


def test_the_plan_is_the_one_that_a_run_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), images()
    made: list[Any] = []
    real = call.make_plan

    def make(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(call, "make_plan", make)
    for memory in ("8GiB", 1):
        ahead, K = gk.plan(net, x, memory=memory), gk.kernel(net, x, memory=memory)
        dry, run = made[-2:]
        assert ahead.plan == dry
        assert ([t.name for t in dry.tasks], dry.batch, dry.bytes) == (
            [t.name for t in run.tasks],
            run.batch,
            run.bytes,
        )
        assert K.meta["plan"] == run.describe()


def test_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run ran")

    monkeypatch.setattr(GradientPass, "run", run)
    net, x = network(), images()
    state = torch.get_rng_state()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    gk.plan(net, x)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())


def test_shares_and_routes() -> None:
    net, x = network(), images()
    ahead = gk.plan(net, x, cotangents=gk.total())
    routes = {c.parameter: c.route for c in ahead.contractions}
    assert list(routes) == [name for name, _ in net.named_parameters()]
    assert routes["6.weight"] == "ghost"  # one position
    assert routes["6.bias"] == "materialised"
    assert sum(c.entries for c in ahead.contractions) == sum(p.numel() for p in net.parameters())
    assert sum(ahead.routes.values()) == pytest.approx(sum(ahead.layers.values()))
    assert 0 < sum(ahead.routes.values()) <= 1
    assert set(ahead.layers) == {"0", "2", "6"}
    spent = ahead.running_seconds + sum(c.seconds for c in ahead.contractions)
    assert spent == pytest.approx(ahead.seconds)
    # a diagonal P asks for the gradients themselves
    scaled = gk.plan(net, x, cotangents=gk.total(), precondition={"6.weight": torch.rand(5, 64)})
    assert {c.parameter: c.route for c in scaled.contractions}["6.weight"] == "materialised"


def test_the_generic_path_is_named() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([row * torch.tensor(float(row.detach().sum())) * self.scale for row in self.inner(x)])

    ahead = gk.plan(Opaque(), torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert ahead.coverage.generic
    assert {c.parameter for c in ahead.contractions if c.route == "generic"} == set(ahead.coverage.generic)
    assert "generic" in str(ahead)


def test_what_it_says() -> None:
    net, x = network(), images()
    ahead = gk.plan(net, x, cotangents=gk.probes(3), memory="1GiB")
    text = str(ahead)
    for words in ("kernel 12×12", "1 tile(s)", "of 1,024 MiB", "contractions", "6 "):
        assert words in text
    assert "(2 more)" in ahead.describe(layers=1) and "more)" not in text
    assert ahead.describe(layers=0).count("\n") < text.count("\n")
    record = json.loads(json.dumps(ahead.record()))
    assert record["bytes"] == ahead.bytes and record["schedule"] == "tiles"
    assert "more than allowed" in str(gk.plan(net, x, memory=1))
    assert "pass(es)" in str(gk.plan(net, x, cotangents=gk.blocks()))


def test_layers_that_are_alike_stand_together() -> None:
    blocks = nn.ModuleDict({"in": nn.Linear(3, 4), "blocks": nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))})

    def forward(net: nn.ModuleDict, x: Tensor) -> Tensor:
        return net["blocks"](net["in"](x).tanh())

    text = gk.plan(gk.TangentModel(blocks, call=forward), torch.randn(6, 3)).describe()
    line = next(line for line in text.splitlines() if "blocks.*" in line)
    assert "blocks.* (5)" in line and f" {5 * 20} " in line
    assert "  in " in text and "blocks.1" not in text


def test_another_call_is_refused() -> None:
    net, x = network(), images()
    ahead = gk.plan(net, x, cotangents=gk.total())
    for other in (
        {"cotangents": gk.probes(2)}, {"cotangents": gk.total(), "memory": "1GiB"},
        {"cotangents": gk.total(), "dtype": torch.float64}, {"cotangents": gk.total(), "by": "parameter"},
    ):  # fmt: skip
        with pytest.raises(InputError, match="plan= was made for another call"):
            gk.kernel(net, x, plan=ahead, **other)
    with pytest.raises(InputError, match="differs in x:"):
        gk.kernel(net, x[:5], cotangents=gk.total(), plan=ahead)
    with pytest.raises(InputError, match="differs in shapes of parameters, model"):
        gk.kernel(nn.Sequential(*list(net)[:-1]), x, cotangents=gk.total(), plan=ahead)
    with pytest.raises(InputError, match="accumulate"):
        gk.plan(net, x, accumulate="float16")


def test_text_of_sizes_and_times() -> None:
    assert [forecast.duration(s) for s in (0.123, 42, 150, 9000, 2e6)] == [
        "0.12 s",
        "42 s",
        "2.5 min",
        "2.5 h",
        "23.1 days",
    ]
    sizes = [forecast.size(b) for b in (2**20, 3 * 2**30, 20 * 2**30)]
    assert sizes == ["1,024 KiB", "3,072 MiB", "20.0 GiB"]


@pytest.mark.parametrize(
    "options", [{}, {"memory": "100MB", "by": "layer"}, {"cotangents": gk.total(), "dtype": torch.float64}]
)
def test_sketch(tmp_path: Path, options: dict[str, Any]) -> None:
    net, x = network(), images(40)
    ahead = gk.plan_sketch(net, x, dim=64, **options)
    gk.sketch(net, x, dim=64, store=tmp_path, **options)
    assert RowStore.read(tmp_path).plan["batch"] == ahead.batch
    assert sum((tmp_path / name).stat().st_size for name in ("rows.bin", "norms.bin")) == ahead.rows_bytes
    assert ahead.batches == -(-40 // ahead.batch)
    assert ahead.bytes <= ahead.budget and ahead.seconds > 0
    assert "batch(es)" in str(ahead)
    json.dumps(ahead.record())


def test_sketch_in_no_memory() -> None:
    net, x = network(), images()
    assert "more than allowed" in str(gk.plan_sketch(net, x, dim=64, memory=1))


def test_sketch_without_a_second_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), images()
    ahead = gk.plan(net, x)
    monkeypatch.setattr(passes, "examine", lambda *_: pytest.fail("proved again"))
    assert gk.plan_sketch(net, x, dim=64, coverage=ahead.coverage).proof_seconds < 0.01
    gk.kernel(net, x, plan=ahead)


def narrow() -> tuple[nn.Module, Tensor]:
    """A network whose 300 gradients take two or more passes in 45 MiB."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 2000), nn.Tanh(), nn.Linear(2000, 600), nn.Tanh(), nn.Linear(600, 3))
        return net, torch.randn(300, 8)


@pytest.mark.parametrize("unforeseen", [0, 4 * 2**20])
def test_passes_that_leave_little_room_are_tried(unforeseen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = narrow()
    asked: list[int] = []
    sizes: list[Any] = []
    real = call.make_plan

    def make(given: Any, budget: int) -> Any:
        sizes.append(given)
        return real(given, budget)

    def grown(self: call.Call, batch: int) -> int:
        asked.append(batch)
        return sizes[0].running(batch) + unforeseen

    monkeypatch.setattr(call, "make_plan", make)
    monkeypatch.setattr(call.Call, "_resident_in", grown)
    options: dict[str, Any] = {"memory": "45MiB", "by": None, "cotangents": gk.total()}
    found = gk.plan(net, x, **options).plan
    assert len(asked) == 1 and len(sizes) == (2 if unforeseen else 1)
    assert sizes[-1].unforeseen == unforeseen
    assert found.bytes <= found.budget
    assert found.passes and found.running >= unforeseen + sizes[0].running(found.batch)
    gk.plan(net, x, memory="2GiB", by=None, cotangents=gk.total())
    assert len(asked) == 1


def test_the_trial_batch_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = narrow()
    options: dict[str, Any] = {"memory": "45MiB", "by": None, "cotangents": gk.total()}
    K = gk.kernel(net, x, **options)
    monkeypatch.setattr(call.Call, "_resident_in", lambda self, batch: 0)
    torch.testing.assert_close(K.values, gk.kernel(net, x, **options).values, rtol=1e-6, atol=1e-9)


def test_a_trial_batch_that_does_not_fit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = narrow()
    real, failed = GradientPass.run, []

    def run(self: GradientPass, *arguments: Any, **options: Any) -> None:
        if not failed:
            failed.append(True)
            raise MemoryError
        real(self, *arguments, **options)

    monkeypatch.setattr(GradientPass, "run", run)
    K = gk.kernel(net, x, memory="45MiB", by=None, cotangents=gk.total())
    assert failed and "2 pass(es)" in K.meta["plan"]
