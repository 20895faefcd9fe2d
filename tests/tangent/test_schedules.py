"""Tiles and passes, full blocks, two models, preconditioners by action: all against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import BatchCouplingError, InputError
from genkernel.tangent import call, engine, plan, reference
from genkernel.tangent.projection import Projection
from tests.tangent.compare import BY_NAME, KINDS, QUICK_OR_SLOW, relative_error, samples, shared_model, truth
from tests.tangent.schedules import only_passes, small
from tests.zoo import Case

EXACT = 1e-10


LONG = ("diffusers", "resnet", "dit", "swin", "transformer")  # many parameters, so many passes
QUICK_OR_LONG = [
    p if p.marks or not str(p.id).startswith(LONG) else pytest.param(*p.values, marks=pytest.mark.slow, id=p.id)
    for p in QUICK_OR_SLOW
]


@pytest.mark.parametrize("case", QUICK_OR_LONG)
def test_passes_match_the_reference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "probes" if len(case.name) % 2 else "residual"
    model, batch = shared_model(case.name), samples(case)
    true = truth(case.name, kind)
    scale = 1 / 3 if kind == "probes" else 1.0
    only_passes(monkeypatch)
    found = gk.kernel(model, batch, cotangents=KINDS[kind], by="parameter", dtype=torch.float64)
    whole = torch.stack(list(true.values())).sum((0, 1)) * scale
    assert relative_error(found, whole) < EXACT
    for name, values in true.items():
        gap = (found.layers[name] - values.sum(0) * scale).norm()
        assert float(gap) <= EXACT * float(whole.norm()), name


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("name", ["mlp", "small_cnn", None])
def test_blocks(name: str | None, crossed: bool) -> None:
    if name is None or name not in BY_NAME:
        net, x, y = small()
        model = gk.TangentModel(net)
    else:
        case = BY_NAME[name]
        model, x, y = case.model(), case.batch(3, seed=1), case.batch(2, seed=2)
    K = gk.kernel(model, x, y if crossed else None, cotangents=gk.blocks(), dtype=torch.float64)
    left = reference.gradients(model, x, gk.exact_trace())
    right = reference.gradients(model, y if crossed else x, gk.exact_trace())
    true = sum(torch.einsum("anp,bmp->nmab", left[k].flatten(2), right[k].flatten(2)) for k in left)
    assert K.values.shape == true.shape
    assert float((K.values - true).norm() / true.norm()) < EXACT
    assert float((sum(K.layers.values()) - K.values).norm() / true.norm()) < EXACT
    trace = gk.kernel(model, x, y if crossed else None, cotangents=gk.exact_trace(), dtype=torch.float64)
    assert relative_error(K.values.diagonal(dim1=2, dim2=3).sum(-1), trace.values) < EXACT
    cosines = K.normalized().values
    if not crossed:
        own = cosines.diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1)
        assert torch.allclose(own, torch.ones_like(own))


@pytest.mark.parametrize("second", [False, True])
def test_two_models(second: bool) -> None:
    net, x, y = small()
    model = gk.TangentModel(net)
    later = {k: v + 0.1 * torch.randn_like(v) if v.is_floating_point() else v for k, v in net.state_dict().items()}
    later = {k: v.abs() if k.endswith("running_var") else v for k, v in later.items()}
    other = model.at(later)
    batch = y if second else None
    K = gk.kernel(model, x, batch, model_y=other, cotangents=gk.exact_trace(), memory="64MiB")
    true = reference.kernel(model, x, batch, model_y=other, cotangents=gk.exact_trace())
    assert relative_error(K, true) < EXACT
    assert not K.symmetric
    back = gk.kernel(other, y if second else x, x, model_y=model, cotangents=gk.exact_trace())
    assert relative_error(back.values.T, true) < EXACT
    same = gk.kernel(model, x, batch, model_y=model, cotangents=gk.exact_trace())
    assert relative_error(same, reference.kernel(model, x, batch, cotangents=gk.exact_trace())) < EXACT


def test_two_models_have_the_same_parameters() -> None:
    net, x, _ = small()
    with pytest.raises(InputError, match="differ"):
        gk.kernel(net, x, model_y=nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double())


def kronecker(net: nn.Module) -> gk.Preconditioner:
    draw = torch.Generator().manual_seed(3)
    factors: dict[Any, Any] = {}
    for name, p in net.named_parameters():
        if p.dim() > 1:
            sides = [torch.randn(s, s, generator=draw, dtype=torch.float64) for s in (len(p), p[0].numel())]
            factors[name] = tuple(a @ a.T + torch.eye(len(a)) for a in sides)
    return gk.Preconditioner.kronecker(factors)


@pytest.mark.parametrize("schedule", ["tile", "passes"])
@pytest.mark.parametrize("crossed", [False, True])
def test_preconditioned_by_action(schedule: str, crossed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = small()
    names = [name for name, _ in net.named_parameters()]
    coupled = (names[0], names[-2])

    def action(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        flat = torch.cat([rows[name].flatten(1) for name in coupled], 1)
        mixed = flat * 2 + flat.mean(1, keepdim=True)
        sizes = [rows[name][0].numel() for name in coupled]
        return {k: v.view_as(rows[k]) for k, v in zip(coupled, mixed.split(sizes, 1), strict=True)}

    if schedule == "passes":
        only_passes(monkeypatch)
    for P in (kronecker(net), gk.Preconditioner.action(action, blocks=[coupled])):
        batch = y if crossed else None
        K = gk.kernel(net, x, batch, precondition=P, cotangents=gk.exact_trace())
        true = reference.kernel(net, x, batch, precondition=P, cotangents=gk.exact_trace())
        assert relative_error(K, true) < EXACT
        norms = reference.kernel(net, x, precondition=P, cotangents=gk.exact_trace()).diagonal()
        assert relative_error(K.norms_x, norms) < EXACT


@pytest.mark.parametrize("crossed", [False, True])
def test_preconditioned_by_a_diagonal_in_passes(crossed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = small()
    P = {name: torch.rand_like(p) for name, p in net.named_parameters()}
    only_passes(monkeypatch)
    batch = y if crossed else None
    K = gk.kernel(net, x, batch, precondition=P, cotangents=gk.probes(2))
    assert relative_error(K, reference.kernel(net, x, batch, precondition=P, cotangents=gk.probes(2))) < EXACT


@pytest.mark.parametrize("schedule", ["tile", "passes"])
def test_out_of_memory_halves(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = small()
    model = gk.TangentModel(net)
    if schedule == "passes":
        monkeypatch.setattr(call, "make_plan", lambda sizes, _: plan._passes(sizes, 1 << 30))
    true = {b: gk.kernel(model, x, y if b else None, cotangents=gk.probes(3)) for b in (False, True)}
    real = engine.GradientPass.run
    sizes: list[int] = []

    def scarce(self: Any, batch: Any, *args: Any, **options: Any) -> None:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        real(self, batch, *args, **options)

    monkeypatch.setattr(engine.GradientPass, "run", scarce)
    for crossed in (False, True):
        sizes.clear()
        K = gk.kernel(model, x, y if crossed else None, cotangents=gk.probes(3))
        assert max(sizes) > 2 and min(sizes) <= 2
        assert relative_error(K, true[crossed].values) < EXACT
        assert relative_error(K.norms_x, true[crossed].norms_x) < EXACT
        for name, values in true[crossed].layers.items():
            assert relative_error(K.layers[name], values) < EXACT


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("share", [0.7, 0.2, 0.02])
def test_a_pass_whose_gradients_do_not_fit_is_divided(
    crossed: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = small()
    monkeypatch.setattr(call, "make_plan", lambda sizes, _: plan._passes(sizes, 1 << 30))
    options: Any = {"y": y if crossed else None, "cotangents": gk.probes(3), "sketch": Projection(32)}
    true = gk.kernel(net, x, **options)
    held: list[int] = []
    real = engine.Stash.put

    def counted(self: Any, *args: Any) -> None:
        real(self, *args)
        held.append(self.nbytes)

    monkeypatch.setattr(engine.Stash, "put", counted)
    gk.kernel(net, x, **options)
    most, refused = max(held), []

    def scarce(self: Any, *args: Any) -> None:
        real(self, *args)
        if self.nbytes > share * most:
            refused.append(self.nbytes)
            raise MemoryError

    monkeypatch.setattr(engine.Stash, "put", scarce)
    K = gk.kernel(net, x, **options)
    assert refused
    assert relative_error(K, true.values) < EXACT and relative_error(K.norms_x, true.norms_x) < EXACT
    for name, values in true.layers.items():
        assert relative_error(K.layers[name], values) < EXACT
    assert relative_error(K.sketch_x.values, true.sketch_x.values) < EXACT


def test_parameters_that_p_couples_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = small()
    names = [name for name, _ in net.named_parameters()]
    P = gk.Preconditioner.action(lambda rows: {k: 2 * v for k, v in rows.items()}, blocks=[names])
    only_passes(monkeypatch)

    def scarce(self: Any, *args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.Stash, "put", scarce)
    with pytest.raises(MemoryError):
        gk.kernel(net, x, precondition=P, cotangents=gk.total())


def test_groups_of_parameters() -> None:
    net, x, _ = small()
    K = gk.kernel(net, x, cotangents=gk.total(), by=lambda name: name.rpartition(".")[2])
    assert sorted(K.layers) == ["bias", "weight"]
    assert relative_error(sum(K.layers.values()), K.values) < EXACT
    with pytest.raises(InputError, match="group"):
        gk.kernel(net, x, by={"0.weight": "a"})


def test_a_proof_can_be_used_again() -> None:
    net, x, y = small()
    first = gk.kernel(net, x, cotangents=gk.total())
    again = gk.kernel(net, y, cotangents=gk.total(), coverage=first.coverage)
    assert relative_error(again, reference.kernel(net, y, cotangents=gk.total())) < EXACT


def test_with_a_proof_nothing_runs_beside_the_run() -> None:
    net, x, _ = small()
    seen: list[int] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    first = gk.kernel(net, x, cotangents=gk.total())
    seen.clear()
    again = gk.kernel(net, x.flip(0) + 1, cotangents=gk.total(), coverage=first.coverage)
    assert seen == [len(x)]
    more = torch.cat([x + 2, x + 3])  # larger than what was compared before: three of its samples run by themselves
    seen.clear()
    largest = gk.kernel(net, more, cotangents=gk.total(), coverage=again.coverage)
    assert sorted(seen) == [3, len(more)]
    seen.clear()
    gk.kernel(net, more + 1, cotangents=gk.total(), coverage=largest.coverage)
    assert seen == [len(more)]


class FromEight(nn.Module):
    """Coupled in large batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return torch.tanh(h - h.mean(0) if len(x) >= 8 else h - h.mean(1, keepdim=True))


def test_a_batch_larger_than_those_of_the_proof_is_looked_at() -> None:
    net, x = FromEight().double(), torch.randn(9, 3, dtype=torch.float64)
    with pytest.raises(BatchCouplingError, match="9 samples"):
        gk.kernel(net, x)
    few = gk.kernel(net, x[:7])
    with pytest.raises(BatchCouplingError, match="9 samples"):
        gk.kernel(net, x, coverage=few.coverage)
    with pytest.raises(BatchCouplingError, match="8 samples"):  # none of which the proof saw
        gk.kernel(net, x[:8] + 1, coverage=few.coverage)


def test_a_proof_on_images_of_another_size() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    x, y = (torch.randn(5, 2, s, s, dtype=torch.float64) for s in (6, 9))
    first = gk.kernel(net, x)
    again = gk.kernel(net, y, coverage=first.coverage)
    assert relative_error(again, gk.kernel(net, y)) < EXACT


def test_many_samples_take_passes_and_few_take_one_tile() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 8))
    x = torch.randn(600, 256)
    tight = gk.kernel(net, x, cotangents=gk.total(), by=None, memory="64MiB")
    wide = gk.kernel(net, x, cotangents=gk.total(), by=None, memory="2GiB")
    assert wide.meta["tasks"] == 1
    assert relative_error(tight, wide.values) < 1e-6
    assert set(wide.meta["timing"]) >= {"proof", "forward", "backward", "contraction"}


@pytest.mark.parametrize("schedule", ["tile", "tiles", "passes"])
@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("by", [None, "layer"])
def test_a_sketch_from_the_same_pass(
    schedule: str, crossed: bool, by: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = small()
    P = {name: torch.rand_like(p) for name, p in net.named_parameters()}
    if schedule == "passes":
        only_passes(monkeypatch)
    memory = 1 if schedule == "tiles" else "2GiB"
    options: Any = {"cotangents": gk.probes(2), "precondition": P, "by": by, "memory": memory}
    K = gk.kernel(net, x, y if crossed else None, sketch=Projection(64, seed=3), **options)
    assert relative_error(K, gk.kernel(net, x, y if crossed else None, **options).values) < EXACT
    for mine, samples_ in ((K.sketch_x, x), (K.sketch_y, y)):
        if mine is None:
            assert samples_ is y and not crossed
            continue
        alone = gk.sketch(net, samples_, dim=64, seed=3, **options)
        assert relative_error(mine.values, alone.values) < EXACT
        assert relative_error(mine.norms, alone.norms) < EXACT
        assert mine.kernel(alone).values.shape == (len(samples_), len(samples_))


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("kind", ["probes", "trace"])
@pytest.mark.parametrize("scarce", [False, True])
def test_cotangents_of_one_tile_shared_out(
    crossed: bool, kind: str, scarce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = small()
    options: Any = {"cotangents": KINDS[kind], "sketch": Projection(32)}
    true = gk.kernel(net, x, y if crossed else None, **options)
    monkeypatch.setattr(call, "make_plan", lambda *a: plan.make_plan(*a).shared(2, 3))
    if scarce:
        real = engine.GradientPass.run

        def run(self: Any, batch: Any, *args: Any, **named: Any) -> None:
            if len(batch) > 2:
                raise MemoryError
            real(self, batch, *args, **named)

        monkeypatch.setattr(engine.GradientPass, "run", run)
    K = gk.kernel(net, x, y if crossed else None, **options)
    assert K.meta["tasks"] == 2
    for name in ("values", "norms_x", "norms_y", "per_probe", "per_probe_norms_x", "per_probe_norms_y"):
        if getattr(true, name) is not None:
            assert relative_error(getattr(K, name), getattr(true, name)) < EXACT, name
    assert relative_error(K.sketch_x.values, true.sketch_x.values) < EXACT


def test_a_proof_of_several_branches_is_used_again() -> None:
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            x, w = ctx.saved_tensors
            return g * w, (g * x).sum(0)

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(3, 4), nn.Parameter(torch.rand(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)
            return Swish.apply(h, self.scale) if bool((x[:, 0] > 0).all()) else h * self.scale

    net = Branches().double()
    x = torch.randn(6, 3, dtype=torch.float64)
    x[:3, 0], x[3:, 0] = 1.0, -1.0
    first = gk.kernel(net, x, cotangents=gk.total(), memory=1)
    again = gk.kernel(net, x, cotangents=gk.total(), memory=1, coverage=first.coverage)
    true = reference.kernel(net, x, cotangents=gk.total())
    assert relative_error(first, true) < EXACT
    assert relative_error(again, true) < EXACT
