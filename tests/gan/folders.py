"""Folders as ``scripts/train_gan.py`` writes them, with small untrained networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from genkernel.models.gans import GANRecipe


def ring_folder(place: Path, *, seed: int = 0, snapshot: bool = False, **changes: Any) -> Path:
    """A ring GAN of width 16, made with the hinge loss; ``changes`` go into ``training.json``."""
    recipe = GANRecipe("ring", generator={"width": 16}, discriminator={"width": 16}, loss="hinge")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = dict(zip("GD", recipe.build(), strict=True))
    (place / "snapshots").mkdir(parents=True)
    for name, network in networks.items():
        state = {key: value.clone() for key, value in network.state_dict().items()}
        save_file(state, place / f"{name}.safetensors")
        if snapshot:
            save_file(state, place / "snapshots" / f"000500.{name}.safetensors")
    record = {"recipe": {"data": "ring", "loss": "hinge", "ema": 0.0}, **recipe.factories(), **changes}
    (place / "training.json").write_text(json.dumps(record))
    return place
