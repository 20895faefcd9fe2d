"""Denoisers: what the network is fed, what is expected of it, and that nothing of it is changed."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import diffusers
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.diffusion import Denoiser, NoiseSchedule
from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent.reference import kernel as reference

UNET = dict(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)  # fmt: skip
TEXT_UNET = UNET | dict(
    in_channels=4, out_channels=4, cross_attention_dim=12, attention_head_dim=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
DIT = dict(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, num_embeds_ada_norm=10
)


def unet(**config) -> nn.Module:
    return diffusers.UNet2DModel(**(UNET | dict(in_channels=1, out_channels=1) | config)).eval()


def sd3() -> nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip


def flux() -> nn.Module:
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip


def text(tokens: int = 5, rows: int = 1) -> Tensor:
    return torch.randn(rows, tokens, 12, generator=torch.Generator().manual_seed(3))


ZOO = {
    "unet": lambda: gk.wrap(unet(), diffusers.DDPMScheduler()),
    "class-conditional unet with learned variance": lambda: gk.wrap(
        unet(in_channels=3, out_channels=6, num_class_embeds=5),
        diffusers.DDIMScheduler(),
        conditioning={"class_labels": lambda n: torch.arange(n) % 5},
    ),
    "text unet": lambda: gk.wrap(
        diffusers.UNet2DConditionModel(**TEXT_UNET).eval(),
        diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        conditioning={"encoder_hidden_states": text()},
    ),
    "sdxl unet": lambda: gk.wrap(
        diffusers.UNet2DConditionModel(
            **TEXT_UNET, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 10,
        ).eval(),
        diffusers.EulerDiscreteScheduler(),
        conditioning={
            "encoder_hidden_states": text(),
            "added_cond_kwargs": {"text_embeds": torch.ones(1, 10), "time_ids": torch.full((1, 6), 310.0)},
        },
    ),
    "DiT": lambda: gk.wrap(
        diffusers.DiTTransformer2DModel(**DIT, out_channels=8).eval(),
        diffusers.DDIMScheduler(),
        conditioning={"class_labels": torch.tensor([3])},
    ),
    "DiT with flow matching": lambda: gk.wrap(
        diffusers.DiTTransformer2DModel(**DIT, out_channels=4).eval(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        conditioning="zeros",
    ),
    "SD3": lambda: gk.wrap(
        sd3(),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        conditioning={"encoder_hidden_states": text(), "pooled_projections": torch.ones(1, 10)},
    ),
    "Flux": lambda: gk.wrap(
        flux(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        sample_shape=(4, 8, 8),
        conditioning={
            "encoder_hidden_states": text(), "pooled_projections": torch.ones(1, 10), "guidance": torch.tensor([3.5]),
        },
    ),
    "score network": lambda: gk.wrap(
        unet(
            in_channels=3, out_channels=3, block_out_channels=(32, 32), time_embedding_type="fourier",
            down_block_types=("SkipDownBlock2D", "SkipDownBlock2D"), up_block_types=("SkipUpBlock2D", "SkipUpBlock2D"),
        ),
        diffusers.ScoreSdeVeScheduler(sigma_max=50.0),
    ),
    "one-dimensional unet": lambda: gk.wrap(
        diffusers.UNet1DModel(
            sample_size=64, in_channels=2, out_channels=2, block_out_channels=(32, 32), extra_in_channels=64,
            down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        ).eval(),
        diffusers.IPNDMScheduler(),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo():
    """Every model once: the tests below only read them."""
    torch.set_num_threads(1)
    made: dict[str, Denoiser] = {}

    def get(name: str) -> Denoiser:
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                made[name] = ZOO[name]()
        return made[name]

    return get


def sample(den: Denoiser, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x0 = torch.randn(n, *den.sample_shape, generator=draw)
    noise = torch.randn(n, *den.sample_shape, generator=draw)
    return x0, noise, den.schedule.levels(n)


@pytest.mark.parametrize("name", ZOO)
def test_a_replaced_embedding_stands_for_its_time(zoo, name):
    den = zoo(name)
    x0, noise, t = sample(den)
    x_t = den.noisy(x0, t, noise)
    out = den(x_t, t)
    assert tuple(out.shape) == (3, *den.sample_shape) and out.isfinite().all()
    emb = den.embed(t)
    assert emb.shape == (3, den.time_path.width)
    # the same embedding gives the same output, another one does not
    torch.testing.assert_close(den(x_t, t, emb=emb), out, rtol=1e-5, atol=1e-6 * float(out.abs().max()))
    assert not torch.allclose(den(x_t, t, emb=emb.flip(0)), out, rtol=1e-3, atol=1e-4)
    features = den.time_features(t)
    assert features is None or (features.shape[0] == 3 and not torch.allclose(features[0], features[1]))


@pytest.mark.parametrize("name", ["class-conditional unet with learned variance", "text unet", "DiT", "SD3", "Flux"])
def test_their_kernels_are_autograds(zoo, name):
    den = zoo(name)
    x0, noise, t = sample(den, 2)
    batch = den.batch(den.noisy(x0, t, noise), t)
    probe = gk.probes(2, seed=1)
    fast = gk.kernel(den.tangent, batch, cotangents=probe, dtype=torch.float64)
    slow = reference(den.tangent, batch, cotangents=probe)
    assert float((torch.as_tensor(fast.values) - slow).abs().max()) <= 1e-10 * float(slow.abs().max())


@pytest.mark.parametrize("name", ["text unet", "DiT with flow matching"])
def test_the_kernel_over_embeddings_is_autograds(zoo, name):
    den = zoo(name)
    x0, noise, t = sample(den, 2)
    batch = den.batch(den.noisy(x0, t, noise), t, emb=den.embed(t.flip(0)))
    fast = gk.kernel(den.tangent, batch, cotangents=gk.probes(1), dtype=torch.float64)
    slow = reference(den.tangent, batch, cotangents=gk.probes(1))
    assert float((torch.as_tensor(fast.values) - slow).abs().max()) <= 1e-10 * float(slow.abs().max())


def test_noisy_samples_are_the_schedules_and_the_schedulers(zoo):
    den = zoo("unet")
    x0, noise, t = sample(den)
    made = diffusers.DDPMScheduler().add_noise(x0, noise, t)
    torch.testing.assert_close(den.noisy(x0, t, noise), made, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(den(made, t), den.module(made, t).sample.detach())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow", "edm"])
def test_the_loss_cotangent_is_the_gradient_of_the_loss(kind):
    schedule = NoiseSchedule.flow(1.0) if kind == "flow" else NoiseSchedule.vp(prediction_type=kind)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Conditioned()
    den = Denoiser(net.double(), schedule, (2, 3, 3))
    x0, noise, t = (v.double() for v in sample(den))
    t = den.schedule.check(t)
    weights = torch.tensor([0.5, 1.0, 2.0])
    batch = den.loss_batch(x0, noise, t, weights=weights)
    kernel = gk.kernel(den.tangent, batch, cotangents=den.loss_cotangent(), dtype=torch.float64)
    a, b = (c.view(-1, 1, 1, 1) for c in schedule.target_coefficients(t))
    x_t = schedule.alpha(t).view(-1, 1, 1, 1) * x0 + schedule.sigma(t).view(-1, 1, 1, 1) * noise
    each = (net(x_t, schedule.network_time(t)) - (a * x0 + b * noise)).square().mean((1, 2, 3))
    torch.testing.assert_close(den.losses(x0, noise, t), each.detach(), rtol=1e-9, atol=0)
    rows = [
        torch.autograd.grad(w * e, list(net.parameters()), retain_graph=True)
        for w, e in zip(weights, each, strict=True)
    ]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(torch.as_tensor(kernel.values), flat @ flat.T, rtol=1e-9, atol=1e-12)


def test_the_network_may_be_told_another_time_than_x_has():
    den = Denoiser(Recorder(), NoiseSchedule.edm(), (1, 2, 2))
    x_t = torch.ones(2, 1, 2, 2)
    told, own = torch.tensor([-1.0, 0.5]), torch.tensor([0.2, 0.2])
    batch = den.batch(x_t, told, scale_t=own)
    torch.testing.assert_close(batch["t"], told)
    # the input scaling follows the level of x_t
    torch.testing.assert_close(batch["x"][:, 0, 0, 0].double(), den.schedule.input_scale(own), rtol=1e-6, atol=0)
    assert not torch.allclose(den.batch(x_t, told)["x"], batch["x"])


def test_learned_variance_channels_are_cut_off_and_noted(zoo):
    den = zoo("class-conditional unet with learned variance")
    assert den.extra_channels == 3 and any("learned variance" in note for note in den.notes)
    x0, _, t = sample(den)
    raw = den.module(x0, t, class_labels=torch.arange(3)).sample.detach()
    torch.testing.assert_close(den(x0, t), raw[:, :3])


def test_unit_times_are_found_by_watching(zoo):
    den = zoo("Flux")
    assert any("t/1000" in note for note in den.notes)
    batch = den.batch(torch.zeros(2, 4, 8, 8), torch.tensor([250.0, 1000.0]))
    torch.testing.assert_close(batch["t"], torch.tensor([0.25, 1.0]))
    # the same sinusoid embeds the guidance: that call is not the time's
    assert [call.index for call in den.time_path.embedding] == [0]


# ------------------------------------------------------------------------- nothing changes


def state_of(module: nn.Module):
    return (
        {k: v.clone() for k, v in module.state_dict().items()},
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        [p.grad for p in module.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
        torch.get_rng_state(),
    )


def assert_same(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0])
    assert before[1:5] == after[1:5]
    assert torch.equal(before[5], after[5])


def test_the_users_model_is_as_it_was():
    module = unet(dropout=0.3).train()
    before = state_of(module)
    den = gk.wrap(module, diffusers.DDPMScheduler())
    assert any("train mode" in note for note in den.notes)
    x0, noise, t = sample(den)
    den(x0, t, emb=den.embed(t))
    den.time_features(t)
    den.losses(x0, noise, t)
    den.untrained(3)
    assert_same(before, state_of(module))
    assert module.training
    # evaluated without dropout
    torch.testing.assert_close(den(x0, t), copy.deepcopy(module).eval()(x0, t).sample.detach())


def test_the_users_model_is_as_it_was_after_an_exception():
    class Broken(Conditioned):
        fail = False

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            out = super().forward(x, t)
            if self.fail:
                raise RuntimeError("no more memory")
            return out

    module = Broken().train()
    den = Denoiser(module, NoiseSchedule.vp(), (2, 3, 3))
    before = state_of(module)
    module.fail = True
    x = torch.zeros(2, 2, 3, 3)
    for emb in (None, torch.zeros(2, 6)):
        with pytest.raises(RuntimeError, match="no more memory"):
            den(x, 5, emb=emb)
    with pytest.raises(InputError, match=r"cannot be run on samples 2×3×3.*no more memory"):
        Denoiser(module, NoiseSchedule.vp(), (2, 3, 3))
    assert_same(before, state_of(module))


# ------------------------------------------------------------------------- plain modules


class Sinusoid(nn.Module):
    def __init__(self, width: int = 6):
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        rates = torch.exp(-math.log(1e4) * torch.arange(self.width // 2) / (self.width // 2))
        phase = t[:, None].float() * rates
        return torch.cat([phase.sin(), phase.cos()], -1)


class Conditioned(nn.Module):
    """Smooth, with the usual time MLP: raw embedding inside a Sequential that is given the time."""

    def __init__(self, channels: int = 2):
        super().__init__()
        self.sinusoid = Sinusoid()
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))
        self.inner = nn.Conv2d(channels, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.mlp(self.sinusoid(t).to(x.dtype))
        return self.outer(torch.tanh(self.inner(x) + e[:, :, None, None]))


class Recorder(nn.Module):
    """Says outside of itself what it was handed: its own attributes are put back after every run."""

    seen: ClassVar[dict] = {}

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, t: Tensor, **further) -> Tensor:
        Recorder.seen = further
        return x * self.scale + 0 * t.view(-1, 1, 1, 1)


def test_embeddings_of_plain_modules_are_found():
    den = Denoiser(Conditioned(), NoiseSchedule.vp(), (2, 3, 3))
    assert [c.path for c in den.time_path.embedding] == ["sinusoid"]
    assert [c.path for c in den.time_path.features] == ["mlp"]
    t = torch.tensor([4, 500])
    torch.testing.assert_close(den.embed(t), Sinusoid()(t))
    torch.testing.assert_close(den.time_features(t), den.module.mlp(Sinusoid()(t)).detach())


def test_an_embedding_inside_the_time_mlp_is_found():
    class Inside(Conditioned):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(Sinusoid(), nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x) + self.mlp(t)[:, :, None, None]))

    den = Denoiser(Inside(), NoiseSchedule.vp(), (2, 3, 3))
    assert [c.path for c in den.time_path.embedding] == ["mlp.0"]
    assert [c.path for c in den.time_path.features] == ["mlp"]


def test_a_lookup_table_is_a_raw_embedding():
    class Table(Conditioned):
        def __init__(self):
            super().__init__()
            self.sinusoid = nn.Embedding(1000, 6)

    den = Denoiser(Table(), NoiseSchedule.vp(), (2, 3, 3))
    torch.testing.assert_close(den.embed([7]), den.module.sinusoid.weight[7:8].detach())


def test_only_the_call_for_the_time_is_replaced():
    class Twice(Conditioned):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            other = self.sinusoid(torch.full_like(t, 90))
            e = self.mlp(self.sinusoid(t)) + self.mlp(other)
            return self.outer(torch.tanh(self.inner(x) + e[:, :, None, None]))

    den = Denoiser(Twice(), NoiseSchedule.vp(), (2, 3, 3))
    assert [(c.path, c.index) for c in den.time_path.embedding] == [("sinusoid", 1)]
    x = torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(den(x, [5, 9], emb=Sinusoid()(torch.tensor([5, 9]))), den(x, [5, 9]))


def test_an_embedding_without_a_submodule_has_to_be_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(6, 2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * self.project(Sinusoid().forward(t))[:, :, None, None]

    den = Denoiser(Hidden(), NoiseSchedule.vp(), (2, 3, 3))
    assert not den.has_embedding and den.time_features([1]) is None
    with pytest.raises(InputError, match="embedding='path"):
        den.embed([1])
    with pytest.raises(InputError, match="embedding='path"):
        den(torch.zeros(1, 2, 3, 3), emb=torch.zeros(1, 6))
    named = Denoiser(Hidden(), NoiseSchedule.vp(), (2, 3, 3), time_mlp="project")
    assert named.time_features([1, 2]).shape == (2, 2)
    with pytest.raises(InputError, match=r"no submodule 'projekt' \(it has project"):
        Denoiser(Hidden(), NoiseSchedule.vp(), (2, 3, 3), embedding="projekt")


def test_an_embedding_of_another_width_is_refused():
    den = Denoiser(Conditioned(), NoiseSchedule.vp(), (2, 3, 3))
    with pytest.raises(InputError, match=r"emb has shape \(1, 5\), the embedding 'sinusoid' has \(1, 6\)"):
        den(torch.zeros(1, 2, 3, 3), 3, emb=torch.zeros(1, 5))


def test_time_may_be_left_out_when_the_embedding_is_given():
    den = Denoiser(Conditioned(), NoiseSchedule.vp(), (2, 3, 3))
    x = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(den(x, emb=den.embed([700])), den(x, 700))
    with pytest.raises(InputError, match="times t of the samples"):
        den(x)


# ---------------------------------------------------------------------------- conditioning


def test_conditioning_rows():
    three = torch.arange(3)[:, None].float()
    den = Denoiser(
        Recorder(), NoiseSchedule.vp(), (1, 2, 2),
        conditioning={
            "one": torch.tensor([[7.0]]), "each": three, "made": lambda n: torch.ones(n, 2), "in": {"ids": three},
        },
    )  # fmt: skip
    x = torch.zeros(3, 1, 2, 2)
    batch = den.batch(x, 5)
    assert batch["one"].shape == (3, 1) and torch.equal(batch["each"], three)
    assert batch["made"].shape == (3, 2) and torch.equal(batch["in"]["ids"], three)
    # six samples of three images
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    batch = den.batch(torch.zeros(6, 1, 2, 2), 5, rows=rows)
    assert torch.equal(batch["each"].flatten(), rows.float()) and torch.equal(
        batch["in"]["ids"].flatten(), rows.float()
    )
    with pytest.raises(InputError, match="'each' has 3 rows for 2 samples"):
        den.batch(torch.zeros(2, 1, 2, 2), 5)


def test_the_batch_is_a_pytree_with_a_sample_axis_everywhere():
    den = Denoiser(Recorder(), NoiseSchedule.vp(), (1, 2, 2), conditioning={"c": torch.ones(1, 3)})
    x0 = torch.zeros(4, 1, 2, 2)
    batch = den.loss_batch(x0, x0, [1, 2, 3, 4], weights=lambda t: t / 10)
    assert {k: v.shape[0] for k, v in batch.items()} == dict.fromkeys(("x", "t", "c", "target", "weight"), 4)
    torch.testing.assert_close(batch["weight"], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert set(Recorder.seen) == {"c"}  # the network is not handed our own entries
    den.tangent.forward(batch)
    assert set(Recorder.seen) == {"c"}


def test_a_call_of_the_users_own_gets_the_batch():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0))

        def forward(self, pair):
            return {"noise": pair[0] * self.w}

    den = Denoiser(Odd(), NoiseSchedule.vp(), (1, 2, 2), call=lambda m, batch: m((batch["x"], batch["t"]))["noise"])
    torch.testing.assert_close(den(torch.ones(2, 1, 2, 2), 4), torch.full((2, 1, 2, 2), 3.0))
    with pytest.raises(InputError, match=r"returned dict, not a tensor: pass call="):
        Denoiser(Odd(), NoiseSchedule.vp(), (1, 2, 2), call=lambda m, batch: m((batch["x"], batch["t"])))


# -------------------------------------------------------------------------------- mistakes


def test_images_have_to_fit():
    den = Denoiser(Conditioned(), NoiseSchedule.vp(), (2, 3, 3), data_range=(-1, 1))
    images = torch.rand(4, 2, 3, 3)
    torch.testing.assert_close(den.prepare(images), images * 2 - 1)
    with pytest.raises(InputError, match="images are 1×3×3, the model takes 2×3×3"):
        den.prepare(torch.rand(4, 1, 3, 3))
    with pytest.raises(NonFiniteError, match="NaN"):
        den.prepare(torch.full((1, 2, 3, 3), float("nan")))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(2, 3, 3), 5), r"x_t has shape \(2, 3, 3\), the model takes \[n, 2, 3, 3\]"),
        ((torch.zeros(1, 2, 3, 3), 1000), "timestep 1000 is out of range"),
        ((torch.zeros(1, 2, 3, 3), 2.5), "not an integer"),
        ((torch.zeros(3, 2, 3, 3), [1, 2]), r"one per sample, \[3\], not \(2,\)"),
    ],
)
def test_wrong_samples_and_times(arguments, sentence):
    den = Denoiser(Conditioned(), NoiseSchedule.vp(), (2, 3, 3))
    with pytest.raises(InputError, match=sentence):
        den.batch(*arguments)


def test_broken_weights_are_named():
    module = Conditioned()
    module.inner.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"'inner\.weight'"):
        Denoiser(module, NoiseSchedule.vp(), (2, 3, 3))


def test_an_output_of_another_shape_is_refused():
    class Wider(Conditioned):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x, t)[:, :1]

    with pytest.raises(InputError, match="answers samples 2×3×3 with outputs 1×3×3"):
        Denoiser(Wider(), NoiseSchedule.vp(), (2, 3, 3))
    with pytest.raises(InputError, match=r"cannot be run on samples 5×8×8.*channels"):
        gk.wrap(unet(), diffusers.DDPMScheduler(), sample_shape=(5, 8, 8))


# ------------------------------------------------------------------------------- untrained


def test_untrained_diffusers_models_are_built_again(zoo):
    den = zoo("text unet")
    rng = torch.get_rng_state()
    one, two, other = den.untrained(5), den.untrained(5), den.untrained(6)
    assert torch.equal(rng, torch.get_rng_state())
    mine = dict(den.module.named_parameters())
    for (name, a), b, c in zip(
        one.module.named_parameters(), two.module.parameters(), other.module.parameters(), strict=True
    ):
        assert torch.equal(a, b) and a.shape == mine[name].shape
        if a.dim() > 1:
            assert not torch.equal(a, c)
    assert one.schedule is den.schedule and one.conditioning.keys() == den.conditioning.keys()
    assert one.tangent.parameter_names == den.tangent.parameter_names
    x0, noise, t = sample(den)
    assert not torch.allclose(one.losses(x0, noise, t), den.losses(x0, noise, t))


def test_untrained_plain_modules_are_reset_and_what_is_not_is_named():
    class Bare(Conditioned):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(2, 3, 3) * 5 + 1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x + self.position, t)

    module = Bare()
    module.inner.weight.data.fill_(9.0)
    den = Denoiser(module, NoiseSchedule.vp(), (2, 3, 3))
    fresh = den.untrained(0)
    assert float(fresh.module.inner.weight.detach().abs().max()) < 1
    assert any("nothing resets position" in note for note in fresh.notes)
    old, new = module.position.detach(), fresh.module.position.detach()
    assert not torch.equal(old, new) and 2 < float(new.std()) < 9
    assert torch.equal(module.inner.weight.detach(), torch.full_like(module.inner.weight, 9.0))


def test_the_parameter_filter_is_kept():
    den = gk.wrap(unet(), diffusers.DDPMScheduler(), params="mid_block.*")
    assert den.parameters < sum(p.numel() for p in den.module.parameters())
    assert all(name.startswith("mid_block.") for name in den.untrained(0).tangent.parameter_names)


def test_a_description_is_json_ready(zoo):
    import json

    described = json.loads(json.dumps(zoo("SD3").describe()))
    assert described["class"] == "SD3Transformer2DModel" and described["schedule"]["prediction_type"] == "flow"
    assert "SD3Transformer2DModel" in repr(zoo("SD3"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["unet", "text unet", "SD3", "Flux"])
def test_the_gpu_says_the_same(zoo, name):
    here = zoo(name)
    there = Denoiser(
        copy.deepcopy(here.module).cuda(),
        here.schedule,
        here.sample_shape,
        conditioning=here.conditioning,
        call=here._call,
    )
    x0, noise, t = sample(here)
    x_t = here.noisy(x0, t, noise)
    out = there(x_t, t)
    assert out.is_cuda
    torch.testing.assert_close(out.cpu(), here(x_t, t), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(there(x_t, t, emb=here.embed(t)), out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.losses(x0, noise, t), here.losses(x0, noise, t), rtol=1e-3, atol=1e-5)
