"""What a pipeline's VAE may ask for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from genkernel.diffusion import diffusers_adapter
from genkernel.errors import InputError


def test_latents_that_are_normalised_per_channel_are_refused(tmp_path, monkeypatch):
    vae = SimpleNamespace(config={"latents_mean": [0.1], "latents_std": [2.0]})
    monkeypatch.setattr("genkernel.checkpoints.detect", lambda folder: folder)
    monkeypatch.setattr(diffusers_adapter, "load_model", lambda *_, **__: (vae, None))
    with pytest.raises(InputError, match="latents_mean"):
        diffusers_adapter.load_encoder(tmp_path, torch.device("cpu"))
