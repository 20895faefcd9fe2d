"""What stages are made of: files under the names that the texts use, and networks small enough to run in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.docs.blocks import ROOT

UNET = dict(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2,
    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
)  # fmt: skip

MYMODELS = """
from torch import nn


class Generator(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ConvTranspose2d(6, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Tanh())


class Discriminator(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 7 * 7, 2))
"""


def unet() -> nn.Module:
    """A denoiser of 1×8×8 images."""
    from diffusers import UNet2DModel

    return UNet2DModel(**UNET)  # type: ignore[no-any-return]


def noise_schedule() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler()


def pipeline(place: str = "path/to/pipeline") -> None:
    from diffusers import DDPMPipeline

    DDPMPipeline(unet(), noise_schedule()).save_pretrained(place)


def pictures(place: str, count: int = 6, side: int = 8, classes: tuple[str, ...] = ()) -> None:
    """A folder of grey images, or one with a folder per class, whose images have another brightness each."""
    from PIL import Image

    draw = np.random.default_rng(len(place))
    for number, kind in enumerate(classes or ("",)):
        folder = Path(place, kind)
        folder.mkdir(parents=True)
        for image in range(count):
            values = draw.integers(100 * number, 100 * number + 100, (side, side), dtype=np.uint8)
            Image.fromarray(values).save(folder / f"{image}.png")


def digits(place: str, *splits: str, count: int = 20) -> None:
    """An archive of printed digits ``x_train``, ``y_train``, …; ``x``, ``y`` without splits."""
    from genkernel.data import printed_characters

    arrays = {}
    for number, split in enumerate(splits or ("",)):
        drawn = printed_characters(count=count // 10, seed=number)
        name = f"_{split}" if split else ""
        arrays |= {f"x{name}": (255 * drawn.images[:, 0]).byte().numpy(), f"y{name}": drawn.labels.numpy()}
    np.savez(place, **arrays)


def own_gan() -> None:
    """``mymodels.py`` with a generator and a discriminator of 1×4×4 images, and their weights."""
    Path("mymodels.py").write_text(MYMODELS, encoding="utf-8")
    import mymodels  # type: ignore[import-not-found]

    generator, discriminator = mymodels.Generator(), mymodels.Discriminator()
    save(generator, "G.safetensors")
    save(discriminator, "D.safetensors")
    torch.save({"g_ema": generator.state_dict(), "d": discriminator.state_dict()}, "gan.pt")
    torch.save(mymodels.Net().state_dict(), "net.pt")


def save(module: nn.Module, place: str) -> None:
    save_file({name: value.clone() for name, value in module.state_dict().items()}, place)


def small_resnet(*, weights: Any = None, progress: bool = True, num_classes: int = 1000) -> nn.Module:
    """What stands for torchvision's resnet18: its first layer and its last, and nothing between them."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 7, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return layers.append(nn.Linear(16, num_classes))


def resnet(monkeypatch: Any) -> None:
    """``r18.pth`` and the network that it is of, under the name ``torchvision:resnet18``."""
    from torchvision.models import ResNet18_Weights, _api

    small_resnet.__annotations__["weights"] = ResNet18_Weights | None
    monkeypatch.setattr(small_resnet, "__module__", "torchvision.models.resnet")
    monkeypatch.setitem(_api.BUILTIN_MODELS, "resnet18", small_resnet)
    torch.save(small_resnet(num_classes=2).state_dict(), "r18.pth")


def hub(monkeypatch: Any, name: str = "owner/name") -> None:
    """A local cache of the Hugging Face hub that holds a pipeline."""
    from huggingface_hub import constants

    repository = Path("hub", f"models--{name.replace('/', '--')}")
    pipeline(str(repository / "snapshots" / "0123"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("hub").absolute()))


def finished_run(place: str = "runs/mine") -> None:
    """What ``genkernel diffusion path/to/pipeline --data images/`` writes, of three levels and four images."""
    import genkernel as gk

    den = gk.load("path/to/pipeline")
    gk.locality(den, "images/", levels=3, samples=4, probes=2, controls=False, out=place, progress=None)


def shipped(*names: str) -> None:
    """Folders of the checkout that a page's commands are relative to."""
    for name in names:
        Path(name).symlink_to(ROOT / name)


def reference_gan(place: str) -> None:
    """A folder as ``scripts/train_gan.py`` writes it."""
    from tests.gan.folders import ring_folder

    ring_folder(Path(place))


def monitor_log(place: str) -> None:
    from tests.plots import monitor_logs

    Path(place).parent.mkdir(parents=True, exist_ok=True)
    monitor_logs.write(monitor_logs.denoiser(), Path(place))


def perceptron(inputs: int = 4, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))


def stepped(module: nn.Module, loss: Any, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam) -> Any:
    """An optimizer that has taken a step, so that it knows the size of every gradient."""
    found = optimizer(module.parameters(), lr=1e-2)  # type: ignore[call-arg]
    loss(module).mean().backward()
    found.step()
    found.zero_grad()
    return found


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(module(x), y, reduction="none")


def noise_losses(module: nn.Module, batch: Any) -> Tensor:
    """Of the noise that was added, per sample."""
    return (module(batch["x"], batch["t"]).sample - batch["noise"]).square().flatten(1).mean(1)


def step_of(module: nn.Module, optimizer: torch.optim.Optimizer, losses: Any) -> Any:
    """One step of training on a batch."""

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        losses(module, batch).mean().backward()
        optimizer.step()

    return step


def noisy_batches(count: int = 2, size: int = 4) -> list[dict[str, Tensor]]:
    """Made-up noisy images at times that are spread over the schedule."""
    t = torch.linspace(0, 999, size).long()
    return [{"x": torch.randn(size, 1, 8, 8), "t": t, "noise": torch.randn(size, 1, 8, 8)} for _ in range(count)]
