"""Sketches of models' gradients: the same as projecting the reference's gradients, and kernels within their errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent import (
    Cotangents,
    TangentModel,
    batches,
    reference,
    sketch_accumulator,
    sketching,
)
from genkernel.tangent.cotangents import blocks
from genkernel.tangent.preconditioner import Preconditioner
from genkernel.tangent.projection import Projection
from genkernel.tangent.sketches import Sketch
from genkernel.tangent.sketching import sketch
from tests.tangent.compare import BY_NAME
from tests.tangent.snapshot import Snapshot

KINDS: dict[str, Cotangents] = {"total": gk.total(), "trace": gk.exact_trace(), "probes": gk.probes(3, seed=2)}

# where a factor's coordinates are not simply those of the parameter, one after the other
LAYOUTS = [
    "mlp", "conv2d_asymmetric", "conv2d_grouped", "conv_transpose2d", "conv_transpose2d_grouped_dilated", "conv3d",
    "mha_batch_first", "embedding", "embedding_bag_sum", "tied_transposed", "sliced_weight", "strided_view",
    "viewed_weight", "channels_last", "lora", "spectral_norm", "gru_batch_first", "conv_called_three_times",
    "class_token", "scalar_parameters", "aliased_memory", "unused_parameter", "dcgan", "batch_norm_2d",
]  # fmt: skip


def network(seed: int = 0, width: int = 24) -> TangentModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 3)
        )
        return TangentModel(net.double())


def images(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def projected(
    model: TangentModel,
    x: object,
    projection: Projection,
    cotangents: Cotangents,
    root: dict[str, Tensor] | None = None,
) -> Tensor:
    """Whole gradients of the reference, projected: ``[probes, n, dim]``."""
    gradients = reference.gradients(model, x, cotangents)
    count = len(next(iter(gradients.values())))
    rows = torch.zeros(count, batches.size(x), projection.dim, dtype=torch.float64)
    for name, g in gradients.items():
        g = g * (root or {}).get(name, torch.ones(()))
        for k in range(count):
            flat = g[k].reshape(g.shape[1], -1)
            projection.add(rows[k], name, k, 0, flat, flat.shape[1])
    return rows if cotangents.random else rows.sum(0, keepdim=True)


def roots(model: TangentModel, power: int) -> dict[str, Tensor]:
    """A positive diagonal (its square root for power 1)."""
    draw = torch.Generator().manual_seed(6)
    return {
        name: torch.rand(p.shape, dtype=torch.float64, generator=draw) ** power for name, p in model.parameters.items()
    }


def gap(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["total", "probes"])
def test_equals_the_projection_of_whole_gradients(name: str, kind: str) -> None:
    case = BY_NAME[name]
    model, x = case.model(), case.batch(3)
    for options in ({"dim": 16}, {"dim": 40, "kind": "rademacher"}):
        s = sketch(model, x, cotangents=KINDS[kind], seed=4, **options)
        assert gap(s.rows, projected(model, x, Projection(seed=4, **options), KINDS[kind])) < 1e-12


def test_a_convolution_taken_tap_by_tap() -> None:
    """Its pieces are every ninth coordinate."""
    net = nn.Sequential(nn.Conv2d(16, 5, 3), nn.Tanh(), nn.Conv2d(5, 2, 3), nn.Flatten()).double()
    model, x = TangentModel(net), torch.randn(3, 16, 6, 6, dtype=torch.float64)
    for options in ({"dim": 64}, {"dim": 512, "nonzeros": 2}, {"dim": 40, "kind": "rademacher"}):
        s = sketch(model, x, cotangents=gk.total(), precondition=roots(model, 2), **options)
        truth = projected(model, x, Projection(**options), gk.total(), roots(model, 1))
        assert gap(s.rows, truth) < 1e-12


def test_the_engines_norms_come_with_it() -> None:
    model, x = network(), images(5)
    for cotangents in KINDS.values():
        K = reference.per_probe(model, x, cotangents=cotangents).diagonal(dim1=1, dim2=2)
        s = sketch(model, x, dim=64, cotangents=cotangents)
        assert gap(s.norms[:, 0].T, K if cotangents.random else K.sum(0, keepdim=True)) < 1e-12


def test_an_exact_trace_is_sketched_as_one_long_gradient() -> None:
    model, x = network(), images(4)
    s = sketch(model, x, dim=64, cotangents=gk.exact_trace())
    assert s.rows.shape == (1, 4, 64)
    assert gap(s.rows, projected(model, x, Projection(64), gk.exact_trace())) < 1e-12


@pytest.mark.parametrize("batch", [1, 3])
def test_does_not_depend_on_batches_or_slices(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), images(7)
    whole = sketch(model, x, dim=64, nonzeros=2)
    monkeypatch.setattr(sketching, "LARGEST_BATCH", batch)
    monkeypatch.setattr(sketch_accumulator, "SLICE", 50 * batch)
    assert gap(sketch(model, x, dim=64, nonzeros=2).rows, whole.rows) < 1e-12


def test_goes_on_with_fewer_samples_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, x, run = network(), images(7), sketching.GradientPass.run
    whole = sketch(model, x, dim=64)

    def short(self: sketching.GradientPass, batch: Tensor, *args: object, **options: object) -> None:
        run(self, batch, *args, **options)
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(sketching.GradientPass, "run", short)
    with caplog.at_level("WARNING", "genkernel"):
        assert gap(sketch(model, x, dim=64).rows, whole.rows) < 1e-12
    assert "half as many" in caplog.text
    monkeypatch.setattr(sketching.GradientPass, "run", lambda *_, **__: torch.empty(1 << 60))
    with pytest.raises((RuntimeError, MemoryError)):
        sketch(model, x, dim=64)


def test_a_sketch_is_linear_in_parameters_and_layers() -> None:
    whole, x = network(), images(4)
    halves = [TangentModel(whole.module, params="[03]*"), TangentModel(whole.module, params="5*")]
    s = sketch(whole, x, dim=64)
    parts = [sketch(half, x, dim=64) for half in halves]
    assert gap(parts[0].rows + parts[1].rows, s.rows) < 1e-12
    merged = Sketch.merge(parts)
    assert gap(merged.rows, s.rows) < 1e-12 and gap(merged.norms, s.norms) < 1e-12
    assert set(merged.parameters) == set(s.parameters)

    layered = sketch(whole, x, dim=64, by="layer")
    assert layered.layers == ["0", "3", "5"]
    assert gap(layered.rows, s.rows) < 1e-12
    K = layered.kernel()
    assert gap(sum(K.layers.values()), K.values) < 1e-12
    for name, part in ((("0", "3"), parts[0]), (("5",), parts[1])):
        some = layered.values[:, [layered.layers.index(k) for k in name]].sum(1).transpose(0, 1)
        assert gap(some, part.rows) < 1e-12
    both = Sketch.merge([sketch(half, x, dim=64, by="layer") for half in halves])
    assert both.layers == layered.layers and gap(both.values, layered.values) < 1e-12


def test_samples_of_different_sketches_belong_together() -> None:
    model, x = network(), images(6)
    whole = sketch(model, x, dim=64)
    one, two = (sketch(model, batches.take(x, part), dim=64) for part in (slice(0, 2), slice(2, None)))
    merged = Sketch.merge([one, two])
    assert gap(merged.rows, whole.rows) < 1e-12
    assert gap(merged.kernel().values, whole.kernel().values) < 1e-12
    cross = one.kernel(two)
    assert not cross.symmetric and gap(cross.values, whole.kernel().values[:2, 2:]) < 1e-12
    assert gap(cross.norms_y, whole.kernel().norms_x[2:]) < 1e-12


def test_checkpoints_share_a_projection() -> None:
    x = images(5)
    before, after = network(0), network(1)
    exact = reference.kernel(before, x, model_y=after, cotangents=gk.total())
    scale = float(reference.kernel(before, x, cotangents=gk.total()).diagonal().mean())
    K = sketch(before, x, dim=1 << 14, cotangents=gk.total()).kernel(
        sketch(after, x, dim=1 << 14, cotangents=gk.total())
    )
    assert float((K.values - exact).abs().max()) < 6 * scale * (2 / (1 << 14)) ** 0.5


@pytest.mark.parametrize("options", [{"dim": 256}, {"dim": 256, "nonzeros": 4}, {"dim": 200, "kind": "rademacher"}])
@pytest.mark.parametrize("kind", ["total", "trace"])
@pytest.mark.parametrize("by", [None, "layer"])
def test_errors_are_those_that_are_stated(options: dict, kind: str, by: str | None) -> None:
    """Over seeds: unbiased, and the standard error is the spread, within what so few seeds show."""
    model, x = network(), images(6)
    exact = reference.kernel(model, x, cotangents=KINDS[kind])
    size = exact.diagonal().sqrt()
    cosines = exact / torch.outer(size, size)
    off = ~torch.eye(6, dtype=torch.bool)
    pulls, turns = [], []
    for seed in range(20):
        s = sketch(model, x, seed=seed, cotangents=KINDS[kind], by=by, **options)
        K, C = s.kernel(), s.normalized()
        assert K.stderr is not None and C.stderr is not None
        pulls.append((K.values - exact) / K.stderr)
        turns.append(((C.values - cosines) / C.stderr)[off])
    for pull in (torch.stack(pulls), torch.stack(turns)):
        assert float(pull.mean().abs()) < 0.35  # entries of one seed are correlated
        assert 0.6 < float(pull.square().mean().sqrt()) < 1.3  # the stated one is an upper bound
        assert float((pull.abs() < 2).double().mean()) > 0.88


def test_the_spread_over_probes_holds_the_error_of_the_sketch_as_well() -> None:
    model, x = network(), images(6)
    exact = reference.kernel(model, x, cotangents=gk.exact_trace())
    pulls, alone = [], []
    for seed in range(20):
        K = sketch(model, x, dim=16, seed=seed, cotangents=gk.probes(8, seed=seed)).kernel()
        assert K.per_probe is not None and K.per_probe.shape == (8, 6, 6)
        pulls.append((K.values - exact) / K.stderr)
        alone.append((K.values - exact) / gk.kernel(model, x, cotangents=gk.probes(8, seed=seed)).stderr)
    pull = torch.stack(pulls)
    assert 0.7 < float(pull.square().mean().sqrt()) < 1.4  # Student's t with 7 degrees of freedom has 1.18
    assert float(torch.stack(alone).square().mean().sqrt()) > 1.5  # the error of the probes alone would not do
    assert K.normalized().stderr is not None


def test_more_entries_have_less_error() -> None:
    model, x = network(), images(8)
    exact = reference.kernel(model, x, cotangents=gk.total())
    found = []
    for dim in (32, 128, 512):
        runs = [gap(sketch(model, x, dim=dim, seed=s, cotangents=gk.total()).kernel().values, exact) for s in range(8)]
        found.append(math.sqrt(sum(r * r for r in runs) / len(runs)))
    assert 1.4 < found[0] / found[1] < 2.8 and 1.4 < found[1] / found[2] < 3.2


def test_a_diagonal_preconditioner() -> None:
    model, x = network(), images(4)
    s = sketch(model, x, dim=64, precondition=roots(model, 2))
    assert gap(s.rows, projected(model, x, Projection(64), gk.probes(), roots(model, 1))) < 1e-12
    action = Preconditioner.action(lambda rows: rows)
    with pytest.raises(InputError, match="diagonal"):
        sketch(model, x, precondition=action)


def test_single_precision_is_summed_in_double() -> None:
    model, x = network(), images(4)
    wide = sketch(model, x, dim=64, cotangents=gk.total())
    low = sketch(model, x, dim=64, cotangents=gk.total(), dtype="float32")
    assert low.rows.dtype == torch.float32 and wide.rows.dtype == torch.float64
    assert gap(low.rows.double(), wide.rows) < 1e-5


def test_everything_of_the_users_is_left_as_it_was() -> None:
    model, x = network(), images(3)
    model.module.train()
    before = Snapshot(model.module, x)
    sketch(model, x, dim=16)
    before.check()


def test_gradients_that_are_not_finite_are_named() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale).sqrt()

    x = torch.rand(4, 3) + 0.1
    x[2, 1] = 0.0  # the root is 0, its slope infinite
    with pytest.raises(NonFiniteError, match=r"'scale'.* sample 2"):
        sketch(Root(), x, dim=16)


def test_a_stored_sketch_says_what_it_is(tmp_path) -> None:
    s = sketch(network(), images(3), dim=16)
    assert len(s) == 3 and "3 samples" in repr(s)
    again = Sketch.open(s.save(tmp_path / "saved"))
    assert torch.equal(again.values, s.values) and torch.equal(again.norms, s.norms)
    assert again.meta == s.meta and again.projection == s.projection
    assert torch.equal(again.kernel().values, s.kernel().values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 100}, "power of two"),
        ({"by": "block"}, "by is"),
        ({"cotangents": blocks()}, "one number"),
        ({"kind": "fourier"}, "kind"),
    ],
)
def test_wrong_options(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        sketch(network(), images(2), **options)


def test_sketches_that_do_not_belong_together() -> None:
    model, x = network(), images(3)
    s = sketch(model, x, dim=16)
    others = {
        "cannot be compared": sketch(model, x, dim=16, seed=1),
        "cotangents": sketch(model, x, dim=16, cotangents=gk.total()),
        "parameters": sketch(TangentModel(model.module, params="5*"), x, dim=16),
    }
    for words, other in others.items():
        with pytest.raises(InputError, match=words):
            s.kernel(other)
    with pytest.raises(InputError, match="same parameters"):
        Sketch.merge([s, others["parameters"]])
    with pytest.raises(InputError, match="same weights"):
        Sketch.merge([s, sketch(network(1), x, dim=16)])
    with pytest.raises(InputError, match="at least one"):
        Sketch.merge([])
    halves = [TangentModel(model.module, params="[03]*"), TangentModel(model.module, params="5*")]
    with pytest.raises(InputError, match="inputs"):
        Sketch.merge([sketch(halves[0], x, dim=16), sketch(halves[1], images(3, seed=5), dim=16)])


def test_functions_and_diagonals_of_one_name_are_told_apart() -> None:
    model, x = network(), images(4)

    def weighted(weight: float) -> Cotangents:
        def fn(outputs: Tensor) -> Tensor:
            return outputs * weight

        return gk.cotangent(fn)

    def diagonal(size: float, model: TangentModel = model) -> dict[str, Tensor]:
        return {name: torch.full(p.shape, size) for name, p in model.parameters.items()}

    parts = [batches.take(x, slice(0, 2)), batches.take(x, slice(2, None))]
    for words, one, two in (
        ("different cotangents of one name, 'fn'", {"cotangents": weighted(1.0)}, {"cotangents": weighted(2.0)}),
        ("different P of one name", {"precondition": diagonal(1.0)}, {"precondition": diagonal(2.0)}),
    ):
        s, same, other = (
            sketch(model, part, dim=16, **o) for part, o in ((parts[0], one), (parts[1], one), (parts[1], two))
        )
        for multiply in (s.kernel, s.normalized, lambda found, s=s: Sketch.merge([s, found])):
            multiply(same)
            with pytest.raises(InputError, match=words):
                multiply(other)

    halves = [TangentModel(model.module, params=glob) for glob in ("[0]*", "5*")]
    mixed = [
        Sketch.merge([sketch(halves[i], x, dim=16, precondition=diagonal(sizes[i], halves[i])) for i in (0, 1)])
        for sizes in ((1.0, 2.0), (1.0, 2.0), (1.0, 3.0))
    ]
    both = {**diagonal(1.0, halves[0]), **diagonal(2.0, halves[1])}
    whole = sketch(TangentModel(model.module, params=["0*", "5*"]), x, dim=16, precondition=both)
    assert gap(mixed[0].kernel(mixed[1]).values, whole.kernel().values) < 1e-12
    assert mixed[0].meta["precondition_digest"] == whole.meta["precondition_digest"]
    with pytest.raises(InputError, match="different P"):
        mixed[0].kernel(mixed[2])


def test_a_sketch_made_beside_a_kernel_goes_with_others() -> None:
    model, x = network(), images(4)
    options = {"cotangents": gk.cotangent(lambda outputs: outputs.tanh()), "precondition": roots(model, 2)}
    K = gk.kernel(model, x, sketch=Projection(16), by=None, **options)
    assert K.sketch_x is not None
    alone = sketch(model, x, dim=16, **options)
    assert gap(K.sketch_x.kernel(alone).values, alone.kernel().values) < 1e-12
