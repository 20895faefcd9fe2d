"""Products, routes, eigenpairs, traces and densities against the dense matrices of the reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import BatchCouplingError, CaptureError, GenkernelError, InputError, NonFiniteError
from genkernel.tangent import TangentModel, batches, exact_trace, jvp, kernel, probes, reference, spectral, total
from genkernel.tangent.cotangents import blocks
from genkernel.tangent.operators import TangentOperator, operator
from genkernel.tangent.preconditioner import Preconditioner
from tests.tangent.compare import BY_NAME, KINDS, relative_error
from tests.tangent.snapshot import Snapshot
from tests.zoo import CASES, REFUSALS, Case, Refusal

NETWORKS = [
    "mlp", "mlp_scalar", "mlp_relu_inplace", "conv_bn_relu", "resnet", "unet", "diffusers_dit",
    "dit_block", "dit_block_zero", "dcgan", "channels_last", "transformer_pre_norm", "mha_batch_first", "dict_batch",
    "nested_batch", "frozen_parameters", "picked_by_glob", "tied_linear", "two_names", "called_three_times",
    "embedding", "embedding_bag_mean", "gru_batch_first", "spectral_norm", "weight_norm", "autograd_function",
    "under_no_grad", "checkpointed", "inner_gradient", "unused_parameter", "only_constant",
]  # fmt: skip
OTHER = [pytest.param(c.name, marks=pytest.mark.slow) for c in CASES if c.name not in NETWORKS]


@cache
def jacobian(name: str, n: int = 3, seed: int = 11) -> Tensor:
    """J of a case, ``[n·O, P]``, rows (sample, output)."""
    case = BY_NAME[name]
    found = reference.gradients(case.model(), case.batch(n, seed), exact_trace())  # name → [O, n, *shape]
    return torch.cat([g.transpose(0, 1).reshape(g.shape[0] * g.shape[1], -1) for g in found.values()], 1)


def columns(rows: int, count: int = 2) -> Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def exactness(op: TangentOperator) -> float:
    """Finite differences are exact to a few digits only, everything else to rounding."""
    return 1e-6 if "finite" in op.method else 1e-10


def dense(op: TangentOperator) -> Tensor:
    return op @ torch.eye(op.shape[1], dtype=torch.float64)


# ------------------------------------------------------------------------------------ products


@pytest.mark.parametrize("name", [*NETWORKS, *OTHER])
def test_products_equal_the_dense_matrices(name: str) -> None:
    case, J, L = BY_NAME[name], jacobian(name), jacobian(name, 2, 12)
    op = operator(case.model(), case.batch(3, 11), case.batch(2, 12), batch_size=2)
    assert op.adjoint_error < 1e-9
    assert op.shape == (len(J), len(L))
    V, W = columns(len(L)), columns(len(J))
    close = exactness(op)
    assert relative_error(op @ V, J @ (L.T @ V)) < close
    assert relative_error(op @ V[:, 0], J @ (L.T @ V[:, 0])) < close
    assert relative_error(op.T @ W, L @ (J.T @ W)) < close
    gradient = op.vjp(W[:, 0], flat=True)
    assert relative_error(gradient, J.T @ W[:, 0]) < 1e-10
    assert relative_error(op.jvp(gradient).reshape(-1), J @ (J.T @ W[:, 0])) < close
    u = torch.randn(op.parameter_count, dtype=torch.float64)
    assert float(op.jvp(u).reshape(-1) @ W[:, 0]) == pytest.approx(float(u @ gradient), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "conv_bn_relu", "dit_block", "dict_batch"])
def test_with_cotangents_it_is_the_kernel(name: str, kind: str) -> None:
    case = BY_NAME[name]
    x, y = case.batch(4), case.batch(2, seed=1)
    true = reference.kernel(case.model(), x, y, cotangents=KINDS[kind])
    op = operator(case.model(), x, y, cotangents=KINDS[kind])
    assert op.shape == (4, 2)
    assert relative_error(dense(op), true) < 1e-10
    assert relative_error(dense(op.T), true.T) < 1e-10


def test_vectors_by_name_and_flat_say_the_same() -> None:
    case = BY_NAME["resnet"]
    model = case.model()
    op = operator(model, case.batch(3))
    w = torch.randn(3, 3, dtype=torch.float64)
    named = op.vjp(w)
    assert list(named) == model.parameter_names
    assert all(named[name].shape == p.shape for name, p in model.parameters.items())
    flat = op.vjp(w.numpy(), flat=True)
    assert torch.equal(flat, op.flatten(named))
    assert torch.equal(op.jvp(named), op.jvp(flat))
    assert op.jvp(named).shape == (3, 3)
    first = model.parameter_names[0]
    only = {name: g if name == first else torch.zeros_like(g) for name, g in named.items()}
    assert torch.equal(op.jvp({first: named[first]}), op.jvp(only))


def test_numpy_and_torch_vectors_and_their_dtypes() -> None:
    case = BY_NAME["mlp"]
    op = operator(case.model(), case.batch(4), dtype=torch.float32)
    v = np.random.default_rng(0).normal(size=12)
    assert op.dtype == torch.float32
    assert isinstance(op @ v, np.ndarray)
    assert (op @ v).dtype == np.float64
    assert (op @ v.astype(np.float32)).dtype == np.float32
    assert (op @ torch.from_numpy(v)).dtype == torch.float64
    assert (op @ torch.from_numpy(v).float()).dtype == torch.float32
    assert np.allclose(v @ op, op @ v, rtol=1e-4)
    assert torch.allclose(torch.from_numpy(v) @ op, op @ torch.from_numpy(v), rtol=1e-4)
    assert (
        relative_error(
            op @ torch.from_numpy(v), jacobian("mlp", 4, 0) @ (jacobian("mlp", 4, 0).T @ torch.from_numpy(v))
        )
        < 1e-5
    )


def test_batch_size_and_memory_do_not_change_the_numbers() -> None:
    case = BY_NAME["unet"]
    x, v = case.batch(5), columns(5 * 36)
    true = operator(case.model(), x) @ v
    for options in ({"batch_size": 1}, {"batch_size": 2}, {"memory": 1}, {"memory": "1MiB"}):
        assert relative_error(operator(case.model(), x, **options) @ v, true) < 1e-12


def test_goes_on_with_fewer_samples_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["conv_bn_relu"]
    x, v = case.batch(6), columns(18)
    op = operator(case.model(), x)
    true = op @ v
    plain, tried = jvp.pull_back, []

    def scarce(model: Any, tensors: Any, batch: Any, *rest: Any) -> Any:
        tried.append(batches.size(batch))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("no memory left")
        return plain(model, tensors, batch, *rest)

    monkeypatch.setattr(jvp, "pull_back", scarce)
    assert relative_error(op @ v, true) < 1e-12
    assert tried[0] == 6
    assert max(tried[1:]) == 3


def test_goes_on_when_a_cpu_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its allocator says so by a RuntimeError; another RuntimeError is none of that."""
    case = BY_NAME["mlp"]
    op = operator(case.model(), case.batch(4))
    true = op @ torch.ones(12)
    plain, tried = jvp.pull_back, []

    def scarce(model: Any, tensors: Any, batch: Any, *rest: Any) -> Any:
        tried.append(batches.size(batch))
        if tried[-1] > 2:
            torch.empty(1 << 60)
        return plain(model, tensors, batch, *rest)

    monkeypatch.setattr(jvp, "pull_back", scarce)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("there is no GPU in this"))
    assert relative_error(op @ torch.ones(12), true) < 1e-12
    assert tried == [4, 2, 2]

    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(jvp, "pull_back", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        op @ torch.ones(12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_the_samples_are_summed_in_more(dtype: str) -> None:
    """A sum of hundreds of batches in 16 bits stops growing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    x, v = torch.randn(600, 6) + 0.5, torch.ones(600, dtype=torch.float64)
    true = operator(net, x, dtype="float64")
    op = operator(net, x, dtype=dtype, batch_size=1)
    assert relative_error(op.vjp(v, flat=True).double(), true.vjp(v, flat=True)) < 1e-2
    assert op.vjp(v, flat=True).dtype == op.dtype
    assert relative_error((op @ v).double(), true @ v) < 1e-2
    for size in (1e-16, 1e12):  # outside of float16
        P = {name: torch.full(p.shape, size) for name, p in net.named_parameters()}
        true, op = (operator(net, x[:20], dtype=kind, precondition=P) for kind in ("float64", dtype))
        assert op.trace(20).value == pytest.approx(true.trace(20).value, rel=2e-2)
        assert relative_error(op._matrix(v[:20, None]), true @ v[:20, None]) < 1e-2


# -------------------------------------------------------------------------- P, and other times


@pytest.mark.parametrize("name", ["mlp", "resnet", "dit_block"])
def test_preconditioned(name: str) -> None:
    case, J = BY_NAME[name], jacobian(name)
    model = case.model()
    P = {n: torch.rand(p.shape, dtype=torch.float64) for n, p in list(model.parameters.items())[::2]}
    diagonal = torch.cat([P.get(n, torch.ones(p.shape)).reshape(-1).double() for n, p in model.parameters.items()])
    true = (J * diagonal) @ J.T
    for given in (P, Preconditioner.diagonal(P)):
        op = operator(model, case.batch(3, 11), precondition=given)
        assert relative_error(dense(op), true) < 1e-10
        assert float(op.trace(3 * len(J)).value) == pytest.approx(float(true.trace()), rel=1e-10)


def test_preconditioned_by_an_action() -> None:
    case, J = BY_NAME["mlp"], jacobian("mlp")
    model = case.model()
    shape = model.parameters["0.weight"].shape
    root = torch.randn(shape.numel(), shape.numel(), dtype=torch.float64)

    def act(rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: (r.reshape(len(r), -1) @ (root @ root.T)).reshape(r.shape) for n, r in rows.items()}

    op = operator(model, case.batch(3, 11), precondition=Preconditioner.action(act, ["0.weight"]))
    P = torch.eye(op.parameter_count, dtype=torch.float64)
    P[: shape.numel(), : shape.numel()] = root @ root.T
    assert relative_error(dense(op), J @ P @ J.T) < 1e-10


def test_two_models() -> None:
    case = BY_NAME["conv_bn_relu"]
    early, late = case.model(), case.model()
    with torch.no_grad():
        for p in late.module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x, y = case.batch(3), case.batch(2, seed=1)
    true = reference.kernel(early, x, y, model_y=late, cotangents=total())
    op = operator(early, x, y, model_y=late, cotangents=total())
    assert not op.symmetric
    assert relative_error(dense(op), true) < 1e-10
    assert relative_error(dense(op.T), true.T) < 1e-10
    moved = operator(early, x, y, model_y=early.at(late.module.state_dict()), cotangents=total())
    assert relative_error(dense(moved), true) < 1e-10
    same = operator(early, x, model_y=late)
    assert same.shape == (9, 9)
    assert not same.symmetric
    with pytest.raises(InputError, match="same parameters"):
        operator(early, x, model_y=BY_NAME["mlp"].model())


# -------------------------------------------------------------------------------------- routes


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("mlp", "forward"), ("diffusers_unet", "forward"), ("diffusers_unet_condition", "forward"),
        ("diffusers_dit", "forward"), ("channels_last", "forward"), ("transformer_pre_norm", "forward"),
        ("embedding", "forward"), ("under_no_grad", "forward"), ("weight_norm", "double-backward"),
        ("autograd_function", "double-backward"), ("embedding_bag_mean", "finite-differences (float64, step 6e-06)"),
    ],
)  # fmt: skip
def test_the_route_is_the_first_that_holds(name: str, method: str) -> None:
    case = BY_NAME[name]
    op = operator(case.model(), case.batch(2))
    assert op.method == method
    assert op.adjoint_error < (1e-9 if "finite" in method else 1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv_bn_relu", "unet", "diffusers_dit", "embedding", "under_no_grad"])
def test_all_routes_agree(name: str) -> None:
    case, J = BY_NAME[name], jacobian(name)
    u = torch.randn(J.shape[1], dtype=torch.float64)
    for method in ("forward", "double-backward", "finite-differences"):
        if method == "finite-differences" and name in ("embedding", "under_no_grad"):
            # the padding row and no_grad stop gradients, but not differences
            with pytest.raises(CaptureError, match="misses the adjoint identity"):
                operator(case.model(), case.batch(3, 11), method=method)
            continue
        op = operator(case.model(), case.batch(3, 11), method=method)
        assert op.method.startswith(method)
        assert relative_error(op.jvp(u).reshape(-1), J @ u) < exactness(op)


def test_a_route_that_does_not_hold_is_refused_by_name() -> None:
    case = BY_NAME["embedding_bag_mean"]
    with pytest.raises(CaptureError, match="forward AD"):
        operator(case.model(), case.batch(2), method="forward")
    with pytest.raises(InputError, match="method is one of"):
        operator(case.model(), case.batch(2), method="jvp")


def test_a_wrong_product_fails_the_adjoint_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that loses one small parameter, or mixes samples up, is not taken."""
    case = BY_NAME["mlp"]
    plain = jvp.Forward.products

    def forgetful(self: Any, model: Any, tensors: Any, batch: Any, directions: Any) -> Any:
        lost = [{name: u for name, u in d.items() if name != "4.bias"} for d in directions]
        return plain(self, model, tensors, batch, lost)

    def shuffled(self: Any, *args: Any) -> Any:
        out, found = plain(self, *args)
        return out, [product.roll(1, 0) for product in found]

    for wrong in (forgetful, shuffled):
        monkeypatch.setattr(jvp.Forward, "products", wrong)
        assert operator(case.model(), case.batch(3)).method == "double-backward"


@pytest.mark.parametrize("name", ["diffusers_unet", "diffusers_dit", "resnet"])
def test_in_float32_the_identity_holds_to_float32(name: str) -> None:
    case, J = BY_NAME[name], jacobian(name)
    v = columns(len(J), 1)
    for dtype, close in (("float64", 1e-10), ("float32", 1e-4)):
        op = operator(case.model(), case.batch(3, 11), dtype=dtype)
        assert op.method == "forward"
        assert op.adjoint_error < close
        assert relative_error(op @ v, J @ (J.T @ v)) < close


def test_torchvision_networks() -> None:
    from torchvision.models import VisionTransformer, resnet18

    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3
    )
    nn.init.normal_(vit.heads.head.weight)
    for net, side, params in ((resnet18(num_classes=3), 16, "layer1.*"), (vit, 8, None)):
        x = torch.randn(2, 3, side, side, dtype=torch.float64)
        model = TangentModel(net.double().eval(), params=params)
        op = operator(model, x)
        assert (op.method, op.shape) == ("forward", (6, 6))
        G = reference.gradients(model, x, exact_trace())
        J = torch.cat([g.transpose(0, 1).reshape(6, -1) for g in G.values()], 1)
        assert relative_error(dense(op), J @ J.T) < 1e-10


# ------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("name", ["mlp", "resnet", "dit_block", "dcgan"])
def test_eigenpairs(name: str) -> None:
    case = BY_NAME[name]
    op = operator(case.model(), case.batch(8))
    K = jacobian(name, 8, 0) @ jacobian(name, 8, 0).T
    true = torch.linalg.eigvalsh(K).flip(0)
    assert float(true[-1]) > -1e-10 * float(true[0])
    top = op.eigsh(4)
    assert relative_error(top.values, true[:4]) < 1e-9
    assert torch.allclose(top.vectors.T @ top.vectors, torch.eye(4, dtype=torch.float64), atol=1e-8)
    assert relative_error((K @ top.vectors - top.vectors * top.values).norm(dim=0) + 1, top.residuals + 1) < 1e-9
    assert float(top.residuals.max()) < 1e-6 * float(true[0])


def test_eigenvalues_of_a_linear_map_come_with_their_multiplicity() -> None:
    """K = (X Xᵀ) ⊗ 1: every eigenvalue as often as there are outputs, which Lanczos may miss."""
    torch.manual_seed(0)
    net, x = nn.Linear(5, 4, bias=False).double(), torch.randn(8, 5, dtype=torch.float64)
    true = torch.linalg.eigvalsh(x @ x.T).flip(0).repeat_interleave(4)
    assert relative_error(operator(net, x).eigsh(10).values, true[:10]) < 1e-9
    everything = operator(net, x).eigsh(32)  # 12 of them are zero
    assert torch.allclose(everything.values, true, atol=1e-12 * float(true[0]))


@pytest.mark.parametrize("outputs", [2, 3, 5, 10])
@pytest.mark.parametrize("k", [5, 6, 16])
def test_no_copy_of_a_repeated_eigenvalue_is_missed(outputs: int, k: int) -> None:
    """K = K_1 ⊗ 1, as of a linear head: Lanczos alone leaves copies out, at residuals of 1e-11."""
    products = 0
    for seed in range(3):
        x = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        one = x @ x.T + 1
        K = torch.kron(one, torch.eye(outputs, dtype=torch.float64))
        true = torch.linalg.eigvalsh(one).flip(0)[:7].repeat_interleave(outputs)
        true = torch.cat([true, torch.zeros(k, dtype=torch.float64)])[:k]

        def product(V: Tensor, K: Tensor = K) -> Tensor:
            nonlocal products
            products += V.shape[1]
            return K @ V

        found = spectral.eigenpairs(product, len(K), k, seed=seed, tol=1e-10)
        assert torch.allclose(found.values, true, atol=1e-9 * float(true[0]))
        assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), atol=1e-9)
        assert float((K @ found.vectors - found.vectors * found.values).norm(dim=0).max()) < 1e-8 * float(true[0])
        assert float(found.residuals.max()) < 1e-8 * float(true[0])
        again = spectral.eigenpairs(product, len(K), k, seed=seed, tol=1e-10)
        assert torch.equal(found.vectors, again.vectors)
    assert products < 6 * (60 + 10 * k)


def test_the_last_layers_kernel_has_every_eigenvalue_for_every_output() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 10))
    model = TangentModel(net.double(), params=["2.weight", "2.bias"])
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = net[:2](x).detach()
    true = torch.linalg.eigvalsh(h @ h.T + 1).flip(0)[:2].repeat_interleave(10)[:16]
    assert relative_error(operator(model, x).eigsh(16).values, true) < 1e-9
    single = operator(model, x, dtype="float32").eigsh(16).values
    assert relative_error(single, true) < 1e-5


@pytest.mark.parametrize("longest", [4, 512])  # with restarts, and without
def test_copies_are_found_in_a_dense_spectrum(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    monkeypatch.setattr(spectral, "_LONGEST", longest)
    true = torch.linspace(1, 0.9, 60, dtype=torch.float64).repeat_interleave(5)
    basis = torch.linalg.qr(columns(300, 300))[0]
    K = (basis * true) @ basis.T
    for k in (3, 8):
        found = spectral.eigenpairs(lambda V: K @ V, 300, k, tol=1e-10)
        assert torch.allclose(found.values, true[:k], atol=1e-9)


def test_a_spectrum_without_repeats_is_as_it_was_and_the_search_is_cheap() -> None:
    lam = torch.arange(1, 501, dtype=torch.float64) ** -1.5
    basis = torch.linalg.qr(columns(500, 500))[0]
    K, count = (basis * lam) @ basis.T, [0]

    def product(V: Tensor) -> Tensor:
        count[0] += V.shape[1]
        return K @ V

    for k in (1, 2, 6, 40):
        start = torch.randn(500, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        count[0] = 0
        values, vectors = spectral._arpack(product, start, k, 1e-10)
        plain, count[0] = count[0] + k, 0
        found = spectral.eigenpairs(product, 500, k, seed=4, tol=1e-10)
        assert torch.equal(found.values, values) and torch.equal(found.vectors, vectors)
        assert count[0] <= plain + (0 if k == 1 else 40)
        assert torch.allclose(found.values, lam[:k], rtol=1e-9)


def test_eigenpairs_beyond_the_rank_are_rounding() -> None:
    x = columns(50, 2)
    K = x @ x.T
    found = spectral.eigenpairs(lambda V: K @ V, 50, 8, tol=1e-10)
    assert torch.allclose(found.values[:2], torch.linalg.eigvalsh(K).flip(0)[:2])
    assert float(found.values[2:].abs().max()) < 1e-13 * float(found.values[0])


def test_sums_over_outputs_are_told_from_kernels_of_residuals() -> None:
    net, x = nn.Linear(3, 2).double(), torch.ones(4, 3, dtype=torch.float64)
    for cotangents, summed in ((None, False), (total(), False), (exact_trace(), True), (probes(1), True)):
        assert operator(net, x, cotangents=cotangents).sums_outputs is summed
        assert operator(nn.Linear(3, 1).double(), x, cotangents=cotangents).sums_outputs is False


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_trace_within_its_error(name: str, method: str) -> None:
    case = BY_NAME[name]
    op = operator(case.model(), case.batch(10))
    true = float(jacobian(name, 10, 0).square().sum())
    found = [op.trace(9, method=method, seed=seed) for seed in range(12)]
    z = torch.tensor([(t.value - true) / t.stderr for t in found])
    assert float(z.abs().median()) < 2  # of |t| with few degrees of freedom: about 0.8
    mean, spread = torch.tensor([t.value for t in found]).mean(), torch.tensor([t.value for t in found]).std()
    assert abs(float(mean) - true) < 4 * float(spread) / 12**0.5
    assert all(t.probes == 9 and t.method == method for t in found)
    assert op.trace(9, method=method, seed=1) == op.trace(9, method=method, seed=1)


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_trace_is_exact_with_as_many_probes_as_rows(method: str) -> None:
    case = BY_NAME["conv_bn_relu"]
    op = operator(case.model(), case.batch(4))
    found = op.trace(op.shape[0], method=method)
    assert found.value == pytest.approx(float(jacobian("conv_bn_relu", 4, 0).square().sum()), rel=1e-12)
    assert (found.stderr, found.method) == (0, "exact")


def test_hutch_plus_plus_beats_hutchinson_at_the_same_cost() -> None:
    """With J·u as dear as a backward pass, 15 probes of one cost 20 of the other."""
    case = BY_NAME["resnet"]
    op = operator(case.model(), case.batch(16))
    true = float(jacobian("resnet", 16, 0).square().sum())

    def error(probes: int, method: str) -> float:
        found = torch.tensor([op.trace(probes, method=method, seed=seed).value for seed in range(5)])
        return float((found - true).square().mean().sqrt())

    assert error(15, "hutch++") < 0.3 * error(20, "hutchinson")


@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize("name", ["mlp", "dit_block"])
def test_spectral_density(name: str, scale: str) -> None:
    case = BY_NAME[name]
    op = operator(case.model(), case.batch(6))
    J = jacobian(name, 6, 0)
    true = torch.linalg.eigvalsh(J @ J.T)
    found = op.spectral_density(probes=6, steps=20, scale=scale)
    assert found.integral() == pytest.approx(op.shape[0], rel=1e-3)
    assert torch.allclose(found.weights.sum(1), torch.ones(6, dtype=torch.float64))
    assert float(found.nodes.max()) <= float(true[-1]) * (1 + 1e-9)
    assert float(found.nodes.min()) >= float(true[0]) - 1e-9 * float(true[-1])
    assert found.grid.shape == found.density.shape == found.stderr.shape == (400,)
    assert bool((found.density >= 0).all())
    value, stderr = found.trace_of(lambda t: t)
    assert abs(value - float(true.sum())) < 5 * stderr
    value, stderr = found.trace_of(lambda t: t.square())
    assert abs(value - float(true.square().sum())) < 5 * stderr


def test_density_of_a_known_spectrum() -> None:
    """The quadrature is exact for polynomials; the null space lies on the floor."""
    eigenvalues = torch.tensor([4.0] * 5 + [1.0] * 10 + [0.0] * 25, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    K = (basis * eigenvalues) @ basis.T
    found = spectral.spectral_density(lambda V: K @ V, 40, probes=40, steps=6)
    axis = found.grid.log10()
    for low, high, count in ((-30, -10, 25), (-0.5, 0.3, 10), (0.4, 1, 5)):
        inside = (axis > low) & (axis < high)
        assert float(torch.trapezoid(found.density[inside], axis[inside])) == pytest.approx(count, abs=1.5)
    # three eigenvalues: exhausted after three steps, and exact for every function
    z = spectral._signs(40, 40, torch.Generator().manual_seed(0)) / 40**0.5
    assert torch.allclose((found.weights * found.nodes**7).sum(1), (z * (torch.matrix_power(K, 7) @ z)).sum(0))


def test_only_symmetric_operators_have_eigenpairs() -> None:
    case = BY_NAME["mlp"]
    op = operator(case.model(), case.batch(3), case.batch(2))
    for ask in (op.eigsh, op.spectral_density):
        with pytest.raises(InputError, match="symmetric"):
            ask(2)
    with pytest.raises(InputError, match="square"):
        op.trace()
    square = operator(case.model(), case.batch(3), case.batch(3, seed=1))
    cross = jacobian("mlp", 3, 0) @ jacobian("mlp", 3, 1).T
    assert square.trace(100).value == pytest.approx(float(cross.trace()), rel=1e-10)
    with pytest.raises(InputError, match="10 eigenpairs"):
        operator(case.model(), case.batch(3)).eigsh(10)


def test_scipy_takes_it() -> None:
    from scipy.sparse.linalg import aslinearoperator, cg, svds

    case = BY_NAME["resnet"]
    op = operator(case.model(), case.batch(5), case.batch(4, seed=1), dtype=torch.float32)
    A = aslinearoperator(op.linear_operator)
    assert (A.shape, A.dtype) == ((15, 12), np.float64)
    K = (jacobian("resnet", 5, 0) @ jacobian("resnet", 4, 1).T).numpy()
    v, w = np.random.default_rng(0).normal(size=12), np.random.default_rng(1).normal(size=(15, 2))
    assert np.allclose(A.matvec(v), K @ v, rtol=1e-4, atol=1e-4 * abs(K).max())
    assert np.allclose(A.rmatmat(w), K.T @ w, rtol=1e-4, atol=1e-4 * abs(K).max())
    assert np.allclose(svds(A, k=2)[1][::-1], np.linalg.svd(K)[1][:2], rtol=1e-5)
    square = operator(case.model(), case.batch(5))
    ridge = square.linear_operator + 10.0 * aslinearoperator(np.eye(15))
    solved, failed = cg(ridge, w[:, 0], rtol=1e-10)
    assert failed == 0
    own = (jacobian("resnet", 5, 0) @ jacobian("resnet", 5, 0).T).numpy()
    assert np.allclose(solved, np.linalg.solve(own + 10 * np.eye(15), w[:, 0]))


# ------------------------------------------------------------------- refusals, and what is kept


@pytest.mark.parametrize("case", REFUSALS, ids=lambda c: c.name)
def test_models_without_a_kernel_have_no_operator(case: Refusal) -> None:
    model, batch = case.make()
    x = batch(4, 0)
    before = Snapshot(model.module, x)
    with pytest.raises(case.error):
        operator(model, x) @ torch.ones(4)
    before.check()


class Leaking(nn.Module):
    """A part of the batch's mean, in the outputs or in their gradients alone."""

    def __init__(self, share: float, hidden: bool):
        super().__init__()
        self.inner, self.share, self.hidden = nn.Linear(5, 3), share, hidden

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        mean = h.mean(0)
        return h + self.share * (mean - mean.detach() if self.hidden else mean)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("samples", [2, 7])
def test_a_weak_coupling_is_refused_as_by_the_kernel(hidden: bool, dtype: str, samples: int) -> None:
    torch.manual_seed(0)
    x, net = torch.randn(samples, 5), Leaking(3e-4, hidden)
    with pytest.raises(BatchCouplingError, match="gradient" if hidden else "output"):
        operator(net, x, dtype=dtype)
    operator(Leaking(0.0, hidden), x, dtype=dtype)


@pytest.mark.parametrize(
    "name", ["conv_bn_relu", "diffusers_dit", "spectral_norm_hook", "weight_norm", "embedding_bag_sum"]
)
def test_the_model_is_left_as_it_was(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    model.module.train()
    x = case.batch(2)
    flags = [torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()]
    before = Snapshot(model.module, x)
    op = operator(model, x, progress=False)
    op @ torch.ones(op.shape[0])
    op.trace(3)
    op.eigsh(1)
    before.check()
    assert flags == [torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()]


@pytest.mark.parametrize("method", ["forward", "double-backward", "finite-differences"])
def test_inside_of_gradient_guards(method: str) -> None:
    case, J = BY_NAME["conv_bn_relu"], jacobian("conv_bn_relu")
    model = case.model()
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            op = operator(model, case.batch(3, 11), method=method)
            v = columns(9, 1)[:, 0] * 1.0
            assert relative_error(op @ v, J @ (J.T @ v)) < exactness(op)
            assert relative_error(op.jvp(op.vjp(v, flat=True) * 1.0).reshape(-1), J @ (J.T @ v)) < exactness(op)
            assert op.trace(9).value > 0
            assert op.eigsh(1).values.shape == (1,)
    v = torch.ones(9, dtype=torch.float64, requires_grad=True)
    assert not (op @ v).requires_grad


def test_left_as_it_was_after_an_error() -> None:
    case = BY_NAME["conv_bn_relu"]
    model = case.model()
    x = case.batch(6)
    op = operator(model, x, batch_size=2)
    x[3] = torch.inf
    before = Snapshot(model.module, x)
    with pytest.raises(NonFiniteError, match="sample 3"):
        op @ torch.ones(18)
    with pytest.raises(NonFiniteError, match="sample 3"):
        op.jvp(torch.ones(op.parameter_count))
    before.check()


def test_refuses_weights_that_changed() -> None:
    case = BY_NAME["mlp"]
    model = case.model()
    op = operator(model, case.batch(3))
    op @ torch.ones(9)
    with torch.no_grad():
        model.module[0].weight.add_(1)
    with pytest.raises(InputError, match="weights changed"):
        op @ torch.ones(9)


def test_clear_errors() -> None:
    case = BY_NAME["mlp"]
    op = operator(case.model(), case.batch(3))
    for v in (torch.ones(8), torch.ones(9, 1, 1), np.ones((8, 9))):
        with pytest.raises(InputError, match="does not apply"):
            op @ v
    with pytest.raises(InputError, match="NaN"):
        op @ torch.full((9,), torch.nan)
    with pytest.raises(InputError, match="complex"):
        op @ torch.ones(9, dtype=torch.complex64)
    with pytest.raises(InputError, match="real numbers"):
        op @ np.ones(9, dtype=complex)
    with pytest.raises(InputError, match="not among"):
        op.jvp({"nothing": torch.ones(1)})
    with pytest.raises(InputError, match="the parameter has"):
        op.jvp({"0.weight": torch.ones(1)})
    with pytest.raises(InputError, match="vector of parameters"):
        op.jvp(torch.ones(3))
    with pytest.raises(InputError, match="the outputs have"):
        op.vjp(torch.ones(2, 3))
    with pytest.raises(InputError, match="probes"):
        op.trace(2)
    with pytest.raises(InputError, match="hutch"):
        op.trace(9, method="exact")
    with pytest.raises(InputError, match="scale"):
        op.spectral_density(scale="cubic")
    with pytest.raises(InputError, match="batch_size"):
        operator(case.model(), case.batch(3), batch_size=0)
    with pytest.raises(InputError, match="cotangents"):
        operator(case.model(), case.batch(3), cotangents="trace")
    with pytest.raises(InputError, match="leave cotangents= out"):
        operator(case.model(), case.batch(3), cotangents=blocks())
    with pytest.raises(InputError, match="dtype"):
        operator(case.model(), case.batch(3), dtype="floating")
    with torch.autocast("cpu"), pytest.raises(GenkernelError, match="autocast"):
        operator(case.model(), case.batch(3))


def test_says_what_it_is() -> None:
    case = BY_NAME["mlp"]
    op = operator(case.model(), case.batch(3))
    assert repr(op) == "TangentOperator(9×9, float64, J·u by forward)"
    assert op.T is op


def test_one_sample_and_dead_networks() -> None:
    case = BY_NAME["mlp"]
    assert (
        relative_error(dense(operator(case.model(), case.batch(1))), jacobian("mlp", 1, 0) @ jacobian("mlp", 1, 0).T)
        < 1e-10
    )
    dead = nn.Linear(3, 2).double().requires_grad_(False)
    dead.extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    op = operator(dead, torch.randn(3, 3, dtype=torch.float64))
    assert float((op @ torch.ones(6, dtype=torch.float64)).abs().max()) == 0
    assert op.trace(6).value == 0


def test_agrees_with_the_engine() -> None:
    case = BY_NAME["resnet"]
    model, x = TangentModel(case.module()), case.batch(5)
    K = kernel(model, x, cotangents=probes(4, seed=2))
    assert relative_error(dense(operator(model, x, cotangents=probes(4, seed=2))), K.values) < 1e-10


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mlp", "resnet", "unet", "diffusers_unet", "diffusers_dit", "gru_batch_first"])
def test_on_a_gpu(name: str) -> None:
    from torch.utils._pytree import tree_map

    case: Case = BY_NAME[name]
    true = operator(case.model(), case.batch(3)) @ (v := columns(len(jacobian(name, 3, 0)), 1))
    model = case.model()
    model.module.cuda()
    x = tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, Tensor) else leaf, case.batch(3))
    for dtype, close in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        op = operator(model, x, dtype=dtype)
        assert op.method == "forward"
        assert relative_error(op @ v, true) < close
        assert (op @ v.cuda()).is_cuda


# ------------------------------------------------------------------ measures and solutions


def small() -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)).double()
    return net, torch.randn(9, 3, dtype=torch.float64)


def test_a_vectors_energy_is_spread_as_over_the_eigenvectors():
    net, x = small()
    op = operator(net, x)
    values, vectors = torch.linalg.eigh(op @ torch.eye(18, dtype=torch.float64))
    v = torch.randn(18, dtype=torch.float64)
    share = (vectors.T @ v).square() / v.square().sum()
    measure = op.spectral_measure(v, steps=18)
    assert measure.energy == pytest.approx(float(v.square().sum()))
    assert float(measure.weights.sum()) == pytest.approx(1)
    for level in (1e-3, 1e-1, 0.5):
        assert measure.below(level * float(values[-1])) == pytest.approx(
            float(share[values <= level * values[-1]].sum()), abs=1e-8
        )
    assert measure.mean(lambda x: x) == pytest.approx(float((share * values).sum()))
    few = op.spectral_measure(v.reshape(9, 2), steps=3)  # exact for polynomials of degree 5
    assert few.mean(lambda x: x**5) == pytest.approx(float((share * values**5).sum()))
    both = op.spectral_measures(torch.stack([v, 2 * v], 1), steps=5)
    assert torch.allclose(both[0].nodes, both[1].nodes) and both[1].energy == pytest.approx(4 * both[0].energy)
    with pytest.raises(InputError, match="zero"):
        op.spectral_measure(torch.zeros(18))


def test_solutions_are_those_of_the_matrix():
    net, x = small()
    op = operator(net, x)
    K = op @ torch.eye(18, dtype=torch.float64)
    Y = torch.randn(18, 3, dtype=torch.float64)
    found = op.solve(Y, 0.1)
    assert torch.allclose(found.values, torch.linalg.solve(K + 0.1 * torch.eye(18, dtype=torch.float64), Y), rtol=1e-7)
    assert float(found.residuals.max()) < 1e-10 and found.steps <= 36
    assert op.solve(Y[:, 0], 0.1).values.shape == (18,)
    one = op.solve(Y[:, 0].reshape(9, 2), 0.1)
    assert one.values.shape == (9, 2) and torch.allclose(one.values.reshape(-1), found.values[:, 0], rtol=1e-6)
    assert op.solve(Y, 0.1, steps=2).steps == 2
    with pytest.raises(InputError, match="ridge"):
        op.solve(Y, -1.0)
    with pytest.raises(InputError, match="symmetric"):
        operator(net, x, x[:4]).solve(Y)


def test_an_operator_that_is_zero_has_eigenvalues_zero() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3, bias=False)).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    found = operator(net, torch.ones(40, 5, dtype=torch.float64), progress=False).eigsh(4)
    assert not found.values.any() and torch.equal(found.vectors.T @ found.vectors, torch.eye(4, dtype=torch.float64))
