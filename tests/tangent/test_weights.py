"""A model evaluated at weights that its module does not hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import genkernel as gk
from genkernel.errors import InputError, MissingError, NonFiniteError
from genkernel.tangent import TangentModel, exact_trace, kernel, probes, reference, total
from tests.tangent.compare import BY_NAME, relative_error
from tests.tangent.snapshot import Snapshot

# tied weights, packed weights, buffers, computed weights, parameters used twice, a denoiser
CASES = [
    "mlp", "conv_bn_relu", "spectral_norm", "weight_norm_hook", "tied_transposed", "two_names", "aliased_memory",
    "picked_by_glob", "mha_batch_first", "unet",
]  # fmt: skip


def moved(module: nn.Module, seed: int = 1) -> nn.Module:
    """A module of the same structure at other weights and statistics."""
    return move(copy.deepcopy(module), seed)


def move(other: nn.Module, seed: int = 1) -> nn.Module:
    """The module itself, at other weights and statistics."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
                tensor.mul_((1 + noise).to(tensor))
    return other


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)).double()
    net(torch.randn(8, 1, 6, 6, dtype=torch.float64))  # statistics of its own
    return net.eval()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def same(a: TangentModel, b: TangentModel, batch: Any) -> None:
    """Outputs, kernel and reference of ``a`` and ``b`` agree to the last bit or to rounding."""
    assert torch.equal(a(batch), b(batch))
    assert relative_error(kernel(a, batch, cotangents=total()), kernel(b, batch, cotangents=total())) < 1e-14
    assert relative_error(reference.kernel(a, batch, cotangents=total()), kernel(b, batch, cotangents=total())) < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_a_model_at_other_weights_is_the_model_that_holds_them(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    other = move(case.module())
    there = TangentModel(other, case.call, params=case.params)
    batch = case.batch(4)
    snapshot = Snapshot(model.module, batch)
    at = model.at(other.state_dict())
    snapshot.check()
    assert at.module is model.module
    same(at, there, batch)
    K = kernel(at, batch, cotangents=probes(2, seed=3))
    assert relative_error(K, reference.kernel(there, batch, cotangents=probes(2, seed=3))) < 1e-10
    snapshot.check()
    assert relative_error(kernel(model, batch), kernel(case.model(), batch)) == 0


def test_the_two_time_kernel_of_the_reference() -> None:
    case = BY_NAME["mlp"]
    model = case.model()
    other = moved(model.module)
    x = case.batch(4)
    there = TangentModel(other, case.call, params=case.params)
    want = reference.kernel(model, x, model_y=there, cotangents=exact_trace())
    found = reference.kernel(model, x, model_y=model.at(other), cotangents=exact_trace())
    assert torch.equal(want, found)
    assert relative_error(found, found.T.contiguous()) > 1e-3  # not symmetric


def test_what_a_model_says_of_its_weights() -> None:
    net = conv_net()
    other = moved(net)
    model = TangentModel(net, params="4.*")
    at = model.at(other)
    assert list(at.parameters) == ["4.weight", "4.bias"]
    for name, parameter in at.parameters.items():
        assert torch.equal(parameter, other.get_parameter(name))
        assert parameter.requires_grad
        assert model.parameters[name] is net.get_parameter(name)
    state = at.state()
    assert list(state) == [n for n, _ in (*net.named_parameters(), *net.named_buffers())]
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.items())
    assert not any(tensor.requires_grad for tensor in state.values())
    tensors = at.tensors()
    assert tensors["4.weight"].requires_grad
    assert not tensors["0.weight"].requires_grad
    assert not other.get_parameter("4.weight").grad_fn
    assert tensors["1.running_mean"].data_ptr() != other[1].running_mean.data_ptr()  # a forward may write to it
    with torch.no_grad():
        other[4].bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"4\.bias"):
        at.check_finite()
    model.check_finite()


def test_weights_are_not_copied_and_requires_grad_is_not_toggled() -> None:
    net = conv_net()
    given = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    at = TangentModel(net).at(given)
    tensors = at.tensors()
    assert tensors["0.weight"].data_ptr() == given["0.weight"].data_ptr()
    assert not any(tensor.requires_grad for tensor in given.values())
    before = {name: tensor.clone() for name, tensor in given.items()}
    kernel(at, images())
    assert all(torch.equal(given[name], before[name]) for name in given)


def test_frozen_statistics_are_those_at_the_weights() -> None:
    net, batch = conv_net(), images(6)
    other = moved(net)
    at = TangentModel(net, batch_norm="frozen", reference=batch).at(other)
    there = TangentModel(other, batch_norm="frozen", reference=batch)
    assert torch.equal(at(images()), there(images()))
    assert relative_error(kernel(at, images()), kernel(there, images())) < 1e-14


# ------------------------------------------------------------------- where weights come from


def test_sources() -> None:
    net = conv_net()
    other = moved(net)
    model, there = TangentModel(net), TangentModel(other)
    state = other.state_dict()
    parameters = dict(other.named_parameters())
    wrapped = nn.DataParallel(other)
    for weights, options in (
        (state, {}),
        (other, {}),
        (there, {}),
        (wrapped, {}),
        (wrapped.state_dict(), {}),
        ({f"ema.{name}": tensor for name, tensor in state.items()} | {"step": 3}, {"prefix": "ema."}),
        (state | {"0._extra_state": None}, {}),
        (state | {"head.weight": torch.zeros(2)}, {"strict": False}),
    ):
        assert torch.equal(model.at(weights, **options)(images()), there(images()))
    # parameters alone leave the buffers as they are
    mixed = copy.deepcopy(net)
    mixed.load_state_dict(parameters, strict=False)
    want = TangentModel(mixed)(images())
    listed = list(other.parameters())
    for weights in (parameters, listed, tuple(listed), {"decay": 0.9, "shadow_params": listed}):
        assert torch.equal(model.at(weights)(images()), want)


def test_averaged_model() -> None:
    """An EMA of parameters; torch keeps the buffers in step with the model's."""
    net = conv_net()
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for seed in range(2):
        ema.update_parameters(moved(net, seed))
    model, want = TangentModel(net), ema(images()).detach()
    assert not torch.equal(model(images()), want)
    for weights in (ema, ema.state_dict()):
        assert torch.equal(model.at(weights)(images()), want)
    same(model.at(ema), TangentModel(ema.module.eval()), images())


def test_ema_of_diffusers() -> None:
    from diffusers.training_utils import EMAModel

    net = conv_net()
    ema = EMAModel(net.parameters(), decay=0.5)
    trained = moved(net)
    for _ in range(3):
        ema.step(trained.parameters())
    held = copy.deepcopy(net)
    ema.copy_to(held.parameters())
    for weights in (ema, ema.state_dict()):
        same(TangentModel(net).at(weights), TangentModel(held), images())


def test_an_average_of_trained_parameters_alone() -> None:
    net = conv_net()
    net[0].requires_grad_(False)
    other = moved(net)
    trained = [p for p in other.parameters() if p.requires_grad]
    model = TangentModel(net).at(trained)
    want = copy.deepcopy(net)
    want.load_state_dict({n: p for n, p in other.named_parameters() if p.requires_grad}, strict=False)
    assert torch.equal(model(images()), TangentModel(want)(images()))


def test_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = conv_net()
    other = moved(net)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    torch.save({"ema": other.state_dict(), "model": net.state_dict()}, tmp_path / "w.pt")
    want = TangentModel(other)(images())
    model = TangentModel(net)
    assert torch.equal(model.at(tmp_path / "w.safetensors")(images()), want)
    assert torch.equal(model.at(str(tmp_path / "w.pt"))(images()), want)
    assert torch.equal(model.at(tmp_path / "w.pt", key="model")(images()), model(images()))
    with pytest.raises(MissingError, match=r"no weights at .*no\.pt"):
        model.at(tmp_path / "no.pt")
    with pytest.raises(InputError, match="key= names an entry of a file"):
        model.at(net.state_dict(), key="ema")


def test_models_at_weights_again() -> None:
    net = conv_net()
    one, two = moved(net, 1), moved(net, 2)
    model = TangentModel(net)
    assert torch.equal(model.at(one).at(two)(images()), TangentModel(two)(images()))
    head = {name: tensor for name, tensor in two.state_dict().items() if name.startswith("4.")}
    layered = model.at(one).at(head, strict=False)
    want = copy.deepcopy(one)
    want.load_state_dict(head, strict=False)
    assert torch.equal(layered(images()), TangentModel(want)(images()))


def test_dtypes() -> None:
    """Stored precision is kept until it is used; the module's own dtype decides what is run."""
    net = conv_net()
    low = copy.deepcopy(net).float()
    at = TangentModel(low).at(moved(net))
    assert at.dtype == torch.float32
    assert at(images().float()).dtype == torch.float32
    assert at.tensors(torch.float64)["0.weight"].equal(moved(net)[0].weight)
    assert at.parameters["0.weight"].dtype == torch.float32
    K = kernel(at, images(), dtype="float64", cotangents=total())
    there = kernel(TangentModel(moved(net)), images(), cotangents=total())
    assert relative_error(K, there) < 1e-12
    half = TangentModel(net).at(
        {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}
    )
    assert half(images()).dtype == torch.float64


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3, bias=False)
        self.decode = nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.encode(x)))


def test_tied_parameters() -> None:
    net = Tied().double()
    other = moved(net)
    x = torch.randn(4, 3, dtype=torch.float64)
    model, there = TangentModel(net), TangentModel(other)
    state = other.state_dict()
    assert set(state) == {"encode.weight", "decode.weight"}
    same(model.at(state), there, x)
    same(model.at({name: tensor.clone() for name, tensor in state.items()}), there, x)
    same(model.at({"decode.weight": state["decode.weight"]}), there, x)
    with pytest.raises(InputError, match=r"ties 'encode\.weight' and 'decode\.weight'"):
        model.at({"encode.weight": state["encode.weight"], "decode.weight": state["decode.weight"] + 1})


def test_compiled_modules() -> None:
    net, other = conv_net(), moved(conv_net())
    compiled = torch.compile(conv_net())
    want = TangentModel(other)(images())
    assert torch.equal(TangentModel(net).at(torch.compile(other).state_dict())(images()), want)
    assert torch.equal(TangentModel(compiled).at(other.state_dict())(images()), want)


def test_weights_that_do_not_fit() -> None:
    net = conv_net()
    model, state = TangentModel(net), net.state_dict()
    short = {name: tensor for name, tensor in state.items() if name != "4.bias"}
    for weights, options, words in (
        (short, {}, r"nothing for '4\.bias' \(1 are missing\)"),
        ({n: t for n, t in state.items() if n != "1.running_var"}, {}, r"nothing for '1\.running_var'"),
        (state | {"5.weight": torch.zeros(1)}, {}, r"no parameter or buffer '5\.weight'"),
        (state | {"4.bias": torch.zeros(3)}, {}, r"'4\.bias' has shape \(3,\), the module's \(2,\)"),
        (state | {"4.bias": torch.zeros(3)}, {"strict": False}, r"'4\.bias' has shape"),
        (state | {"4.bias": [0.0, 0.0]}, {}, r"'4\.bias' is a list, not a tensor"),
        (state | {"4.bias": torch.zeros(2, dtype=torch.int64)}, {}, r"'4\.bias' is torch\.int64"),
        (state | {"4.bias": torch.zeros(2, device="meta")}, {}, "on the meta device"),
        ({"unet.w": torch.zeros(2)}, {}, r"none of the 1 weights is named.*prefix="),
        ({"unet.w": torch.zeros(2)}, {"strict": False}, "none of the 1 weights is named"),
        (state, {"prefix": "ema."}, r"no weight has a name that begins with 'ema\.'"),
        (list(net.parameters())[:3], {}, "a list of 3 weights does not say which they are"),
        ([torch.zeros(1)] * 6, {}, r"'0\.weight' has shape \(1,\)"),
        (3, {}, "not int"),
        ({}, {}, "none of the 0 weights"),
    ):
        with pytest.raises(InputError, match=words):
            model.at(weights, **options)
    assert torch.equal(model.at(short, strict=False)(images()), model(images()))


@pytest.mark.gpu
def test_weights_from_another_device() -> None:
    net = conv_net().cuda()
    other = moved(conv_net())
    at = TangentModel(net).at(other.state_dict())
    assert all(tensor.is_cuda for tensor in at.tensors().values())
    K = kernel(at, images(), cotangents=total())
    assert relative_error(K, kernel(TangentModel(other), images(), cotangents=total())) < 1e-10


def test_it_is_what_a_wrapper_has() -> None:
    """``gk.TangentModel`` of a domain wrapper gives its weights, too."""

    class Wrapper:
        def __init__(self, module: nn.Module):
            self.tangent = gk.TangentModel(module)

    net = conv_net()
    assert torch.equal(TangentModel(net).at(Wrapper(moved(net)))(images()), TangentModel(moved(net))(images()))
