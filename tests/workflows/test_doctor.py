"""gk.doctor: findings, never exceptions."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import genkernel as gk

UNET = dict(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)  # fmt: skip


@pytest.fixture
def ddpm(tmp_path):
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**UNET)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    return tmp_path / "ddpm"


def messages(report, section: str, status: str | None = None) -> str:
    return "\n".join(i.message for i in report.section(section) if status in (None, i.status))


def test_a_healthy_checkpoint(ddpm):
    report = gk.doctor(ddpm)
    assert report.ok and {item.status for item in report.items} == {"ok"}
    assert "pipeline DDPMPipeline, UNet2DModel" in messages(report, "checkpoint")
    assert "float32 on cpu" in messages(report, "model") and "1×8×8" in messages(report, "model")
    assert "log-SNR -10.12 to 9.21" in messages(report, "schedule")
    assert "time_proj" in messages(report, "conditioning") and "time_embedding" in messages(report, "conditioning")
    errors = [i.details["relative_error"] for i in report.section("gradient") if "relative_error" in i.details]
    assert len(errors) == 2 and errors[0] < 1e-12 and errors[1] < 1e-9
    written = json.loads(json.dumps(report.to_dict()))
    assert written["ok"] is True and len(written["items"]) == len(report.items)
    assert "gradient" in str(report)


def test_the_gradient_can_be_left_out(ddpm):
    assert gk.doctor(ddpm, gradient=False).section("gradient") == []


def test_unsafe_pickles_are_findings(ddpm):
    safe = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(safe)
    safe.unlink()
    torch.save(state, ddpm / "unet" / "diffusion_pytorch_model.bin")
    report = gk.doctor(ddpm, gradient=False)
    assert report.ok and "tensors only" in messages(report, "checkpoint", "warn")
    torch.save({"state_dict": state, "args": gk.GenkernelError("x")}, ddpm / "unet" / "diffusion_pytorch_model.bin")
    report = gk.doctor(ddpm, gradient=False)
    assert not report.ok and "GenkernelError" in messages(report, "checkpoint", "fail") and not report.section("model")
    assert gk.doctor(ddpm, gradient=False, trust_pickle=True).ok


def test_broken_weights_and_missing_paths_are_findings(ddpm):
    file = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_in.bias"][0] = float("nan")
    save_file(state, file)
    report = gk.doctor(ddpm)
    assert not report.ok and "conv_in.bias" in messages(report, "model", "fail")
    report = gk.doctor(ddpm / "nothing")
    assert not report.ok and "no checkpoint at" in messages(report, "checkpoint", "fail")


def test_missing_conditioning_is_a_finding():
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    report = gk.doctor((dit, diffusers.DDIMScheduler()))
    assert report.ok and report.needs_conditioning, str(report)
    assert "class_labels [n] integers below 10" in messages(report, "conditioning", "warn")
    assert "agree with autograd" in messages(report, "gradient", "ok")
    report = gk.doctor((dit, None))
    assert not report.ok and "noise schedule" in messages(report, "model", "fail")
    report = gk.doctor((dit, diffusers.DDIMScheduler()), conditioning="zeros")
    assert report.ok and not report.needs_conditioning, str(report)
    assert "learned variance" in messages(report, "model", "note")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(1, 3, 3, padding=1)
        self.outer = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x)))


def test_a_dead_model_is_a_finding():
    net = Net()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)

    class Dead(Net):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x, t) * 0

    report = gk.doctor(Dead(), schedule=gk.NoiseSchedule.vp(), sample_shape=(1, 4, 4))
    assert not report.ok
    assert messages(report, "gradient", "fail")


def test_a_model_that_couples_its_batch_is_a_finding():
    class Coupled(Net):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x - x.mean(0, keepdim=True), t)

    report = gk.doctor(Coupled(), schedule=gk.NoiseSchedule.vp(), sample_shape=(1, 4, 4))
    assert not report.ok and report.section("gradient")[0].details["error"] == "BatchCouplingError"


def test_a_denoiser_in_memory_without_an_embedding():
    den = gk.wrap(Net(), schedule=gk.NoiseSchedule.vp(), sample_shape=(1, 4, 4), name="mine")
    before = {k: v.clone() for k, v in den.module.state_dict().items()}
    report = gk.doctor(den)
    assert report.ok and report.subject == "mine"
    assert "embedding=" in messages(report, "conditioning", "warn")
    assert all(torch.equal(before[k], v) for k, v in den.module.state_dict().items())
    assert den.module.training  # as it came


def test_networks_with_lower_precision_inside_are_named_as_such():
    class Rounded(Net):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.outer(torch.tanh(self.inner(x)).float().to(x.dtype))

    report = gk.doctor(Rounded(), schedule=gk.NoiseSchedule.vp(), sample_shape=(1, 4, 4))
    assert report.ok and "lower precision" in messages(report, "gradient", "note")


def test_a_wrong_gradient_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return 1.5 * grad

    class Lying(Net):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.outer(Wrong.apply(torch.tanh(self.inner(x))))

    report = gk.doctor(Lying(), schedule=gk.NoiseSchedule.vp(), sample_shape=(1, 4, 4))
    assert not report.ok and "disagrees with finite differences" in messages(report, "gradient", "fail")
