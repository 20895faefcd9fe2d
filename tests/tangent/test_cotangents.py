"""Cotangent vectors, and the statistics of random ones (THEORY §1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.tangent import Cotangents, batches, kernel, reference
from genkernel.tangent.cotangents import blocks, loss, residual
from tests.tangent.compare import BY_NAME, relative_error

DRAWS = 20_000
OUTPUTS = 5


def matrices(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, three samples, and the exact matrix kernel ``[3, 3, O, O]`` from the reference."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, OUTPUTS)).double()
    x = torch.randn(3, 3, dtype=torch.float64)
    rows = []
    for o in range(OUTPUTS):
        found = reference.gradients(net, x, gk.output(o))
        rows.append(torch.cat([g[0].flatten(1) for g in found.values()], 1))
    j = torch.stack(rows, 1)
    return net, x, torch.einsum("iop,jqp->ijoq", j, j)


def draws(kind: str, k: int = DRAWS, shape: tuple[int, ...] = (OUTPUTS,), seed: int = 0) -> Tensor:
    """``[k, *shape]`` probes."""
    outputs = torch.zeros(1, *shape, dtype=torch.float64)
    return torch.stack([v[0] for v in gk.probes(k, seed=seed, kind=kind).vectors(outputs, None)])


# ------------------------------------------------------------------- the vectors


def test_vectors() -> None:
    outputs = torch.randn(2, 3, 2)
    (ones,) = gk.total().vectors(outputs, None)
    assert torch.equal(ones, torch.ones(2, 3, 2))
    (flat,) = gk.output(3).vectors(outputs, None)
    (indexed,) = gk.output((1, 1)).vectors(outputs, None)
    (last,) = gk.output(-1).vectors(outputs, None)
    assert torch.equal(flat, indexed)
    assert flat[:, 1, 1].tolist() == [1, 1]
    assert float(flat.sum()) == 2
    assert last[:, 2, 1].tolist() == [1, 1]
    every = torch.stack(list(gk.exact_trace().vectors(outputs, None)))
    assert torch.equal(every[:, 0].flatten(1), torch.eye(6))
    assert torch.equal(every[:, 1].flatten(1), torch.eye(6))
    (own,) = gk.cotangent(lambda out, batch: out * batch[:, None, None]).vectors(outputs, torch.tensor([2.0, 3.0]))
    assert torch.equal(own[1], 3 * outputs[1])
    (own,) = gk.cotangent(lambda out: -out).vectors(outputs, None)
    assert torch.equal(own, -outputs)


@pytest.mark.parametrize(
    "cotangents", [gk.total(), gk.output(1), gk.exact_trace(), gk.probes(2)], ids=lambda c: c.describe()
)
def test_vectors_of_outputs_with_any_layout(cotangents: Cotangents) -> None:
    """Channels-last or transposed outputs; scalar outputs per sample."""
    plain = torch.randn(2, 3, 4, 5)
    for outputs in (
        plain.contiguous(memory_format=torch.channels_last),
        plain.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        for a, b in zip(cotangents.vectors(outputs, None), cotangents.vectors(plain, None), strict=True):
            assert torch.equal(a, b)
    scalars = [v.shape for v in gk.exact_trace().vectors(torch.randn(4), None)]
    assert scalars == [(4,)]


@pytest.mark.parametrize("index", [6, -7, (3, 0), (0, 2), (0, 0, 0)])
def test_output_that_does_not_exist(index: int | tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(gk.output(index).vectors(torch.randn(2, 3, 2), None))


def test_wrong_probes() -> None:
    with pytest.raises(InputError, match="at least one"):
        gk.probes(0)
    with pytest.raises(InputError, match="rademacher"):
        gk.probes(2, kind="uniform")


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_depend_on_seed_kind_and_shape_alone(kind: str) -> None:
    base = draws(kind, 4, (3, 2))
    torch.manual_seed(99)
    torch.randn(7)
    assert torch.equal(draws(kind, 4, (3, 2)), base)
    assert torch.equal(draws(kind, 6, (3, 2))[:4], base), "more probes begin with the fewer"
    assert not torch.equal(draws(kind, 4, (3, 2), seed=1), base)
    for outputs in (torch.zeros(5, 3, 2, dtype=torch.float64), torch.zeros(5, 3, 2)):
        for v, b in zip(gk.probes(4, kind=kind).vectors(outputs, {"anything": 1}), base, strict=True):
            assert v.dtype == outputs.dtype
            assert torch.equal(v, b.to(v.dtype).expand(5, 3, 2)), "shared by all samples"


def test_rademacher_probes_are_signs() -> None:
    v = draws("rademacher", 1000)
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    assert float(v.mean().abs()) < 4 / math.sqrt(v.numel())
    assert float((v.T @ v / 1000 - torch.eye(OUTPUTS)).abs().max()) < 5 / math.sqrt(1000)


# ------------------------------------------------------------------- statistics


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probe_mean_and_variance(kind: str) -> None:
    """E v'Mv = tr M and Var v'Mv = 2(‖S‖² − [Rademacher] Σ S_aa²), for diagonal and cross entries."""
    _, _, matrix = matrices()
    v = draws(kind)
    for i, j in [(0, 0), (0, 1), (1, 2)]:
        m = matrix[i, j]
        s = (m + m.T) / 2
        variance = 2 * float(s.square().sum() - (s.diagonal().square().sum() if kind == "rademacher" else 0))
        each = torch.einsum("ka,ab,kb->k", v, m, v)
        assert abs(float(each.mean() - m.trace())) < 4 * math.sqrt(variance / DRAWS)
        fourth = float((each - each.mean()).pow(4).mean())
        assert abs(float(each.var()) - variance) < 4 * math.sqrt((fourth - variance**2) / DRAWS)


def test_unshared_probes_would_give_zero() -> None:
    _, _, matrix = matrices()
    a, b = draws("rademacher", seed=1), draws("rademacher", seed=2)
    each = torch.einsum("ka,ab,kb->k", a, matrix[0, 1], b)
    assert abs(float(each.mean())) < 4 * float(each.std()) / math.sqrt(DRAWS)
    assert abs(float(matrix[0, 1].trace())) > 20 * float(each.std()) / math.sqrt(DRAWS)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_engine_estimates_the_trace_with_the_stated_error(kind: str) -> None:
    net, x, matrix = matrices()
    q = 128
    K = kernel(net, x, cotangents=gk.probes(q, seed=3, kind=kind))
    v = draws(kind, q, seed=3)
    assert relative_error(K.per_probe, torch.einsum("ijab,ka,kb->kij", matrix, v, v)) < 1e-12
    assert relative_error(K.per_probe.mean(0), K.values) < 1e-14
    assert relative_error(K.stderr, K.per_probe.std(0, unbiased=True) / math.sqrt(q)) < 1e-14
    exact = matrix.diagonal(dim1=2, dim2=3).sum(-1)
    assert float(((K.values - exact).abs() / K.stderr).max()) < 4
    s = (matrix + matrix.transpose(2, 3)) / 2
    variance = 2 * s.square().sum((2, 3))
    if kind == "rademacher":
        variance = variance - 2 * s.diagonal(dim1=2, dim2=3).square().sum(-1)
    ratio = K.stderr / (variance / q).sqrt()
    assert float((ratio - 1).abs().max()) < 0.5
    assert relative_error(kernel(net, x, cotangents=gk.exact_trace()), exact) < 1e-12


def test_one_output_is_exact_with_signs() -> None:
    case = BY_NAME["mlp_scalar"]
    K = kernel(case.model(), case.batch(5), cotangents=gk.probes(4))
    exact = kernel(case.model(), case.batch(5), cotangents=gk.exact_trace())
    assert relative_error(K, exact) < 1e-13
    assert float(K.stderr.abs().max()) < 1e-13 * float(exact.values.max())


def test_only_several_probes_have_an_error() -> None:
    case = BY_NAME["mlp"]
    one = kernel(case.model(), case.batch(3), cotangents=gk.probes(1))
    assert one.per_probe.shape == (1, 3, 3)
    assert one.stderr is None
    for cotangents in (gk.total(), gk.output(0), gk.exact_trace(), gk.cotangent(lambda out: out)):
        exact = kernel(case.model(), case.batch(3), cotangents=cotangents)
        assert exact.per_probe is None
        assert exact.stderr is None
        assert exact.normalized().stderr is None


def test_total_is_the_sum_over_all_pairs_of_outputs() -> None:
    net, x, matrix = matrices()
    assert relative_error(kernel(net, x, cotangents=gk.total()), matrix.sum((2, 3))) < 1e-12


def test_loss_gradient_kernel_is_the_gram_matrix_of_loss_gradients() -> None:
    """With the residual of the actual loss, mean-reduced over outputs: factor 2/O (THEORY §0)."""
    net, x, _ = matrices()
    target = torch.randn(3, OUTPUTS, dtype=torch.float64)
    rows = []
    for i in range(3):
        loss = nn.functional.mse_loss(net(x[i : i + 1]), target[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    g = torch.stack(rows)

    def loss_gradient(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 2 / OUTPUTS * (outputs - batch[1])

    model = gk.TangentModel(net, call=lambda module, batch: module(batch[0]))
    for memory in ("1GiB", 1):
        K = kernel(model, (x, target), cotangents=gk.cotangent(loss_gradient), memory=memory)
        assert relative_error(K, g @ g.T) < 1e-12


# ----------------------------------------------------------------- normalisation


def cosine(k: Tensor) -> Tensor:
    d = k.diagonal(dim1=-2, dim2=-1)
    return k / (d[..., :, None] * d[..., None, :]).sqrt()


def test_exact_kernels_normalise_to_cosines() -> None:
    case = BY_NAME["unet"]
    K = kernel(case.model(), case.batch(5), cotangents=gk.total())
    C = K.normalized()
    assert relative_error(C, cosine(K.values)) < 1e-14
    cross = kernel(case.model(), case.batch(5), case.batch(3, seed=2), cotangents=gk.total())
    true = cross.values / (cross.norms_x[:, None] * cross.norms_y[None]).sqrt()
    assert relative_error(cross.normalized(), true) < 1e-14
    assert relative_error(C.normalized(), C) == 0


def test_jackknife_over_probes() -> None:
    """Values: ratio minus the leave-one-out bias, held in [−1, 1]; errors: √((q−1)/q Σ (c₋ₚ − mean)²)."""
    net, x, _ = matrices()
    q = 6
    K = kernel(net, x, cotangents=gk.probes(q, seed=4))
    left = torch.stack([cosine((K.per_probe.sum(0) - K.per_probe[p]) / (q - 1)) for p in range(q)])
    C = K.normalized()
    stderr = ((q - 1) / q * (left - left.mean(0)).square().sum(0)).sqrt()
    assert float((C.stderr - stderr).abs().max()) < 1e-10
    values = q * cosine(K.values) - (q - 1) * left.mean(0)
    assert float((C.values - values.clamp(-1, 1)).abs().max()) < 1e-10


def test_jackknife_removes_the_bias() -> None:
    """Over many seeds the mean of the cosines approaches the exact cosine, and errors are honest."""
    _, _, matrix = matrices(seed=2)
    exact = cosine(matrix.diagonal(dim1=2, dim2=3).sum(-1))
    plain, corrected, errors = [], [], []
    q = 4
    for seed in range(150):
        v = draws("gaussian", q, seed=seed)
        each = torch.einsum("ijab,ka,kb->kij", matrix, v, v)
        norms = each.diagonal(dim1=1, dim2=2)
        K = gk.Kernel(
            values=each.mean(0), norms_x=norms.mean(0), norms_y=norms.mean(0), per_probe=each,
            per_probe_norms_x=norms, per_probe_norms_y=norms, symmetric=True,
        )  # fmt: skip
        C = K.normalized()
        assert float(C.values.abs().max()) <= 1
        plain.append(cosine(K.values))
        corrected.append(C.values)
        errors.append(C.stderr)
    i, j = 0, 1
    spread = torch.stack(corrected)[:, i, j].std()
    bias_before = float((torch.stack(plain).mean(0) - exact)[i, j])
    bias_after = float((torch.stack(corrected).mean(0) - exact)[i, j])
    assert abs(bias_after) < max(abs(bias_before), 3 * float(spread) / math.sqrt(150))
    assert 0.5 < float(torch.stack(errors)[:, i, j].mean() / spread) < 2


def test_normalised_probes_agree_with_the_exact_cosine() -> None:
    case = BY_NAME["image_to_image"]
    exact = kernel(case.model(), case.batch(4), cotangents=gk.exact_trace()).normalized()
    found = kernel(case.model(), case.batch(4), cotangents=gk.probes(64)).normalized()
    off = ~torch.eye(4, dtype=torch.bool)
    assert float(((found.values - exact.values)[off].abs() / found.stderr[off]).max()) < 4.5
    assert float(found.stderr.diagonal().max()) < 1e-12


def test_samples_without_gradient_are_zero_and_counted() -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    x[2] = 0.0
    for cotangents in (gk.exact_trace(), gk.probes(4)):
        K = kernel(net, x, cotangents=cotangents)
        assert float(K.values[2].abs().max()) == 0
        C = K.normalized()
        assert float(C.values[2].abs().max()) == 0
        assert C.meta["zero_gradients"] == 1
        assert torch.isfinite(C.values).all()
        assert C.stderr is None or torch.isfinite(C.stderr).all()


def test_a_kernel_may_be_zero() -> None:
    """Residuals that vanish: the network is alive, the kernel is zero, and so are its cosines."""
    case = BY_NAME["mlp"]
    K = kernel(case.model(), case.batch(4), cotangents=gk.cotangent(lambda out: 0 * out))
    assert float(K.values.abs().max()) == 0
    C = K.normalized()
    assert float(C.values.abs().max()) == 0
    assert C.meta["zero_gradients"] == 4


def test_a_dead_network_has_a_zero_kernel() -> None:
    """Said in numbers here; whether that is an error is for the analysis to say."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()).double()
    with torch.no_grad():
        net[2].bias.fill_(-1e3)
    K = kernel(net, torch.randn(4, 3, dtype=torch.float64))
    assert float(K.values.abs().max()) == 0
    assert sorted(K.coverage.silent) == sorted(name for name, _ in net.named_parameters())
    C = K.normalized()
    assert float(C.values.abs().max()) == 0
    assert C.meta["zero_gradients"] == 4


# ------------------------------------------------- losses, residuals, blocks, fingerprints


def targets(batch: tuple[Tensor, Tensor]) -> Tensor:
    return batch[1]


def cross_entropy(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1].argmax(1), reduction="none")


def squared(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (outputs - batch[1]).square().sum(1) / 2


def supervised(n: int = 4) -> tuple[gk.TangentModel, tuple[Tensor, Tensor]]:
    net, _, _ = matrices()
    draw = torch.Generator().manual_seed(5)
    x, y = (torch.randn(n, k, dtype=torch.float64, generator=draw) for k in (3, OUTPUTS))
    return gk.TangentModel(net, call=lambda module, batch: module(batch[0])), (x, y)


@pytest.mark.parametrize("fn", [cross_entropy, squared])
def test_loss_kernel_is_the_gram_matrix_of_the_gradients_of_each_loss(fn: Callable[..., Tensor]) -> None:
    model, batch = supervised()
    rows = []
    for i in range(4):
        one = batches.take(batch, [i])
        (value,) = fn(model.module(one[0]), one)
        found = torch.autograd.grad(value, list(model.module.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    g = torch.stack(rows)
    assert relative_error(kernel(model, batch, cotangents=loss(fn)), g @ g.T) < 1e-12
    assert relative_error(reference.kernel(model, batch, cotangents=loss(fn)), g @ g.T) < 1e-12
    assert loss(fn).describe() == f"loss gradient of {fn.__name__}"


def test_residual_is_the_gradient_of_the_squared_error() -> None:
    model, batch = supervised()
    K = kernel(model, batch, cotangents=loss(squared))
    assert relative_error(kernel(model, batch, cotangents=residual(targets)), K) < 1e-14
    outputs = model(batch)
    (v,) = residual(targets).vectors(outputs, batch)
    assert torch.equal(v, outputs - batch[1])
    assert residual(targets).describe() == "residual from targets"
    half = residual(lambda b: b[1].float())
    (v,) = half.vectors(outputs, batch)
    assert v.dtype == outputs.dtype


def test_losses_do_not_need_gradients_switched_on_and_leave_the_outputs_alone() -> None:
    model, batch = supervised()
    outputs = model(batch)
    before = outputs.clone()
    with torch.no_grad():
        (v,) = loss(squared).vectors(outputs, batch)
    assert torch.equal(v, outputs - batch[1])
    assert not v.requires_grad
    assert not outputs.requires_grad
    assert torch.equal(outputs, before)
    (v,) = loss(lambda out: out.square().sum(1)).vectors(outputs, batch)
    assert torch.equal(v, 2 * outputs)


@pytest.mark.parametrize(
    ("cotangents", "words"),
    [
        (loss(lambda out, b: (out - b[1]).square().mean()), r"shape \(3,\), not shape \(\)"),
        (loss(lambda out, b: (out - b[1]).square()), r"not shape \(3, 5\)"),
        (loss(lambda out, b: 3.0), "not float"),
        (loss(lambda out, b: b[1].sum(1)), "does not depend on the outputs"),
        (loss(lambda out, b: (out.argmax(1) == 0).double()), "does not depend on the outputs"),
        (loss(lambda out, b: squared(out, b) / len(out)), "the loss function mixes samples"),
        (loss(lambda out, b: squared(out, b) / squared(out, b).mean()), "mixes samples"),
        (residual(lambda b: b[1][:, :2]), r"targets shaped like the outputs \(3, 5\), not shape \(3, 2\)"),
        (residual(lambda b: 0.0), "not float"),
        (residual(lambda b: b[1] - b[1].mean(0)), "the target function mixes samples"),
    ],
)
def test_losses_and_targets_that_are_none(cotangents: Cotangents, words: str) -> None:
    model, batch = supervised()
    with pytest.raises(InputError, match=words):
        kernel(model, batch, cotangents=cotangents)


def test_loss_functions_see_samples_of_the_batch_alone() -> None:
    """Two samples are fewer than the proof looks at: those it makes up have targets that no loss may be given."""
    net = torch.nn.Linear(4, 3)
    batch = {"input": torch.randn(2, 4), "y": torch.tensor([[0.0, 1, 1], [1, 0, 1]])}

    def entropy(out: Tensor, b: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.binary_cross_entropy(out.sigmoid(), b["y"], reduction="none").sum(1)

    model = gk.TangentModel(net, call=lambda m, b: m(b["input"]))
    assert kernel(model, batch, cotangents=loss(entropy)).values.shape == (2, 2)


def test_targets_are_no_argument() -> None:
    with pytest.raises(InputError, match="put the targets into the batch"):
        residual(torch.zeros(4, 5))  # type: ignore[arg-type]
    for make, what in ((residual, "target"), (loss, "loss"), (gk.cotangent, "cotangent")):
        with pytest.raises(InputError, match=f"a {what} function is a function of a batch, not int"):
            make(3)  # type: ignore[operator]


def test_a_loss_may_be_flat() -> None:
    """A hinge that no sample violates: its gradient is zero, not missing."""
    model, batch = supervised()
    outputs = model(batch)
    (v,) = loss(lambda out: torch.relu(out - 1e3).sum(1)).vectors(outputs, batch)
    assert float(v.abs().max()) == 0


def test_vectors_of_blocks() -> None:
    outputs = torch.randn(2, 3, 2)
    assert blocks().blocks
    assert not gk.exact_trace().blocks
    assert not blocks().random
    assert blocks().count((3, 2)) == 6
    assert blocks().scale((3, 2)) == 1
    assert blocks().describe() == "full blocks"
    for v, w in zip(blocks().vectors(outputs, None), gk.exact_trace().vectors(outputs, None), strict=True):
        assert torch.equal(v, w)


def test_fingerprints_of_cotangents() -> None:
    def scaled(c: float) -> Callable[[Tensor], Tensor]:
        return lambda out: c * out

    def made() -> list[Cotangents]:
        return [
            gk.total(), gk.output(0), gk.output((0,)), gk.output(1), gk.exact_trace(), blocks(), gk.probes(4),
            gk.probes(5), gk.probes(4, seed=1), gk.probes(4, kind="gaussian"), gk.cotangent(squared),
            gk.cotangent(scaled(2.0)), gk.cotangent(scaled(3.0)), loss(squared), loss(cross_entropy), residual(targets),
        ]  # fmt: skip

    one, two = ([c.fingerprint() for c in made()] for _ in range(2))
    assert one == two
    assert len(set(one)) == len(one)
    v = torch.randn(2, 3)
    assert gk.total().fingerprint(v) == gk.total().fingerprint(v.clone())
    assert len({gk.total().fingerprint(w) for w in (None, v, v + 1e-6, v.double())}) == 4
