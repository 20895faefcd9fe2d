"""Everything that knows diffusers' model classes: how to build, load, call and condition them.

Models are read from their configuration and the signature of ``forward``, so that new classes
work as long as they take a sample, a time and named conditioning. What cannot be read that way
is a short table below, each line of it taken from the pipeline that calls the model.
"""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.checkpoints import Layout, Weights, read_state_dict, stored_dtypes
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.diffusion.time_path import TimePath
from genkernel.errors import InputError

_SAMPLE_NAMES = ("sample", "hidden_states", "x")
_TIME_NAMES = ("timestep", "timesteps", "t", "time")
# configuration entries that hold the width of encoder_hidden_states, most specific first
_TEXT_WIDTHS = (
    "encoder_hid_dim", "joint_attention_dim", "caption_channels", "text_embed_dim", "text_dim", "cap_feat_dim",
    "cross_attention_dim",
)  # fmt: skip
_TOKENS = 77  # length of zero text embeddings: CLIP's
_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# models whose pipelines count time towards the data and flip the sign of what comes out
_TOWARDS_DATA = ("Lumina2Transformer2DModel",)
# models whose pipelines only flip the sign
_NEGATED = ("HiDreamImageTransformer2DModel", "NucleusMoEImageTransformer2DModel")


@dataclass(frozen=True)
class Need:
    """An argument that a network cannot do without."""

    name: str  # "encoder_hidden_states", "added_cond_kwargs.text_embeds"
    shape: str  # for the reader: "[n, tokens, 768]"
    size: tuple[int, ...] | None = None  # of one row of zeros; None when zeros cannot be made up
    dtype: torch.dtype = torch.float32
    fill: int = 0  # 1 for masks: zeros everywhere would leave nothing to attend to


@dataclass(frozen=True)
class Interface:
    """How a diffusers model is called."""

    sample: str
    time: str
    needs: tuple[Need, ...] = ()
    plain: frozenset[str] = field(default_factory=frozenset)  # further arguments of forward
    packed: bool = False  # takes 2×2 patches as tokens with their positions (Flux and its kin)

    def call(self, module: nn.Module, batch: dict[str, Any]) -> Any:
        further = {k: v for k, v in batch.items() if k not in ("x", "t")}
        if "return_dict" in self.plain:
            further["return_dict"] = False
        x = batch["x"]
        if not self.packed:
            return module(**{self.sample: x, self.time: batch["t"]}, **further)
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        grid = torch.zeros(height, width, 3, device=x.device, dtype=x.dtype)
        grid[..., 1] += torch.arange(height, device=x.device)[:, None]
        grid[..., 2] += torch.arange(width, device=x.device)
        further.setdefault("img_ids", grid.reshape(-1, 3))
        text = further.get("encoder_hidden_states")
        if text is not None:
            further.setdefault("txt_ids", torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype))
        out = module(**{self.sample: _pack(x), self.time: batch["t"]}, **further)
        return _unpack(out[0] if isinstance(out, tuple) else out.sample, height, width)


def _pack(x: Tensor) -> Tensor:
    """``[n, C, H, W]`` to tokens ``[n, H/2 · W/2, 4 C]``."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, (h // 2) * (w // 2), 4 * c)


def _unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``_pack``, for ``height × width`` tokens."""
    n, _, c = tokens.shape
    patches = tokens.view(n, height, width, c // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, 2 * height, 2 * width)


def is_diffusers_model(module: nn.Module) -> bool:
    """Whether the module carries a diffusers configuration."""
    return hasattr(module, "config") and hasattr(type(module), "from_config") and hasattr(module, "config_name")


def interface(module: nn.Module) -> Interface:
    """Read how a model is called.

    Raises:
        InputError: its ``forward`` takes no sample or no time under a known name.
    """
    parameters = inspect.signature(module.forward).parameters
    sample = next((n for n in _SAMPLE_NAMES if n in parameters), None)
    time = next((n for n in _TIME_NAMES if n in parameters), None)
    kind = type(module).__name__
    if sample is None or time is None:
        given = ", ".join(parameters)
        raise InputError(f"{kind}.forward({given}) takes no sample and time under known names: pass call=")
    needs = {need.name: need for need in _conditioning(module, set(parameters))}
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD,
        )  # fmt: skip
        if not required or name in (sample, time) or any(n.split(".")[0] == name for n in needs):
            continue
        if name.endswith("attention_mask") and "encoder_hidden_states" in needs:
            needs[name] = Need(name, "[n, tokens]", (_TOKENS,), torch.bool, fill=1)
        else:
            needs[name] = Need(name, f"(see {kind}.forward)")
    packed = {"img_ids", "txt_ids"} <= set(parameters)
    return Interface(sample, time, tuple(needs.values()), frozenset(parameters) - {sample, time}, packed)


def _conditioning(module: nn.Module, accepted: set[str]) -> Iterator[Need]:
    """The conditioning a configuration makes necessary."""
    config = dict(module.config)  # type: ignore[arg-type]
    if "encoder_hidden_states" in accepted and (width := _text_width(config)) is not None:
        yield Need("encoder_hidden_states", f"[n, tokens, {width}]", (_TOKENS, width))
    if "pooled_projections" in accepted and (width := config.get("pooled_projection_dim")):
        yield Need("pooled_projections", f"[n, {width}]", (width,))
    if "class_labels" in accepted:
        yield from _class_labels(module, config)
    if "added_cond_kwargs" in accepted:
        yield from _added(module, config)
    if "guidance" in accepted and config.get("guidance_embeds"):
        yield Need("guidance", "[n]", ())


def _text_width(config: Mapping[str, Any]) -> int | None:
    if config.get("encoder_hid_dim_type") not in (None, "text_proj"):
        return None
    if "num_embeds_ada_norm" in config and config.get("norm_type") == "ada_norm_zero":
        return None  # DiT is conditioned on classes; its transformer ignores text
    for name in _TEXT_WIDTHS:
        width = config.get(name)
        width = width[0] if isinstance(width, (list, tuple)) and width else width
        if isinstance(width, int) and width > 0:
            return width
    return None


def _class_labels(module: nn.Module, config: Mapping[str, Any]) -> Iterator[Need]:
    classes = config.get("num_embeds_ada_norm")
    if config.get("norm_type") == "ada_norm_zero" and classes:
        yield Need("class_labels", f"[n] integers below {classes}", (), torch.long)
        return
    if getattr(module, "class_embedding", None) is None:
        return
    kind, width = config.get("class_embed_type"), config.get("projection_class_embeddings_input_dim")
    if kind is None:
        yield Need("class_labels", f"[n] integers below {config.get('num_class_embeds')}", (), torch.long)
    elif kind == "timestep":
        yield Need("class_labels", "[n]", ())
    elif kind in ("projection", "simple_projection") and width:
        yield Need("class_labels", f"[n, {width}]", (width,))
    else:
        width = getattr(getattr(module, "time_embedding", None), "linear_2", nn.Identity())
        out = getattr(width, "out_features", None)
        yield Need("class_labels", f"[n, {out or 'width of the time embedding'}]", (out,) if out else None)


def _added(module: nn.Module, config: Mapping[str, Any]) -> Iterator[Need]:
    kind = config.get("addition_embed_type")
    if kind == "text_time":
        per_number = config.get("addition_time_embed_dim") or 0
        width = (config.get("projection_class_embeddings_input_dim") or 0) - 6 * per_number
        pooled = (width,) if width > 0 else None
        yield Need("added_cond_kwargs.text_embeds", f"[n, {width if width > 0 else 'width'}]", pooled)
        yield Need("added_cond_kwargs.time_ids", "[n, 6]", (6,))
    elif kind in ("image", "text_image", "image_hint"):
        width = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
        shape = (width,) if isinstance(width, int) else None
        yield Need("added_cond_kwargs.image_embeds", f"[n, {width}]", shape)
        if kind == "text_image":
            yield Need("added_cond_kwargs.text_embeds", f"[n, {width}]", shape)
        if kind == "image_hint":
            yield Need("added_cond_kwargs.hint", "[n, 3, H, W]")
    if getattr(module, "use_additional_conditions", False):
        yield Need("added_cond_kwargs.resolution", "[n, 2]", (2,))
        yield Need("added_cond_kwargs.aspect_ratio", "[n, 1]", (1,))


def complete_conditioning(
    face: Interface, given: Mapping[str, Any] | str | None, kind: str
) -> tuple[dict[str, Any], list[str]]:
    """The conditioning to use, and notes on it.

    Args:
        given: what the user passed; ``"zeros"`` stands for zeros in every argument the network needs.

    Raises:
        InputError: a needed argument is missing, or one is given that the network does not take.
    """
    if isinstance(given, str):
        if given != "zeros":
            raise InputError(f"conditioning is a dictionary of tensors or 'zeros', not {given!r}")
        if not face.needs:
            return {}, []
        made: dict[str, Any] = {}
        for need in face.needs:
            if need.size is None:
                raise InputError(f"{kind} needs {need.name} {need.shape}, which cannot be made up as zeros: pass it")
            _put(made, need.name, torch.full((1, *need.size), need.fill, dtype=need.dtype))
        names = ", ".join(f"{n.name} {n.shape}" for n in face.needs)
        return made, [f"conditioning is all zeros, as asked ({names})"]
    conditioning = dict(given or {})
    unknown = [name for name in conditioning if name not in face.plain]
    if unknown:
        raise InputError(f"{kind} takes no {unknown[0]!r}; its further arguments are {', '.join(sorted(face.plain))}")
    missing = [need for need in face.needs if _get(conditioning, need.name) is None]
    if missing:
        wanted = ", ".join(f"{need.name} {need.shape}" for need in missing)
        first, _, inner = missing[0].name.partition(".")
        example = f"{{'{first}': {{'{inner}': ...}}}}" if inner else f"{{'{first}': ...}}"
        raise InputError(
            f"{kind} is conditioned on {wanted}: pass conditioning={example} (one row, one row per image, or a "
            "function of n), or conditioning='zeros' to ask for zeros"
        )
    return conditioning, []


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    first, _, inner = name.partition(".")
    if inner:
        tree.setdefault(first, {})[inner] = value
    else:
        tree[first] = value


def _get(tree: Mapping[str, Any], name: str) -> Any:
    first, _, inner = name.partition(".")
    value = tree.get(first)
    return value.get(inner) if inner and isinstance(value, Mapping) else None if inner else value


def default_shape(module: nn.Module) -> tuple[int, ...] | None:
    """``(C, *spatial)`` from the configuration, when it says."""
    config = dict(module.config)  # type: ignore[arg-type]
    channels, size, kind = config.get("in_channels"), config.get("sample_size"), type(module).__name__
    if not isinstance(channels, int) or size is None or "3D" in kind or config.get("num_frames"):
        return None  # videos, and transformers of any resolution
    if "1D" in kind:
        # UNet1DModel counts the channels of its Fourier time features among its own
        return (channels, int(size)) if isinstance(size, int) else None
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return (channels, int(height), int(width))


def unit_time(module: nn.Module, found: TimePath, schedule: NoiseSchedule) -> bool:
    """Whether a flow-matching transformer multiplies its time by the schedule's length itself.

    Flux, Chroma, Qwen-Image and AuraFlow take t/1000 and bring it back to 0…1000 in front of
    their sinusoidal embedding: its argument is then 1000 times what the network was given.
    """
    if not is_diffusers_model(module) or schedule.prediction_type not in ("flow", "data_flow"):
        return False
    high = schedule.time_range[1]
    first = found.embedding[0] if found.embedding else None
    if schedule.discrete or high < 100 or first is None or first.ratio is None:
        return False
    scale = getattr(module.get_submodule(first.path), "scale", 1)
    factor = first.ratio * (scale if isinstance(scale, (int, float)) else 1)
    return abs(factor / high - 1) < 0.01


def convention(module: nn.Module, schedule: NoiseSchedule) -> tuple[NoiseSchedule, list[str]]:
    """Time and sign conventions of a model that differ from its scheduler's."""
    kind, config = type(module).__name__, dict(getattr(module, "config", None) or {})
    high = schedule.time_range[1]
    if kind in _TOWARDS_DATA and schedule.prediction_type == "flow":
        return (
            replace(schedule, prediction_type="data_flow", to_network=lambda t: 1 - t / high),
            [f"{kind} counts time towards the data: it is given 1 − t/{high:g} and answers x₀ − ε"],
        )
    if kind in _NEGATED and schedule.prediction_type == "flow":
        return replace(schedule, prediction_type="data_flow"), [f"{kind} answers x₀ − ε"]
    scale = config.get("timestep_scale")
    if isinstance(scale, (int, float)) and scale != 1 and schedule.to_network is None and "Sana" in kind:
        factor = float(scale)
        return replace(schedule, to_network=lambda t: t * factor), [f"the network is given {factor:g} t"]
    return schedule, []


# ------------------------------------------------------------------------------ loading


def load_scheduler(path: Path) -> Any:
    """The scheduler of a ``scheduler_config.json`` (or a folder with one).

    Raises:
        InputError: it is unreadable, or of a class this version of diffusers does not have.
    """
    import diffusers

    if path.is_dir():
        path = next((path / n for n in ("scheduler_config.json", "config.json") if (path / n).is_file()), path)
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        name = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a diffusers scheduler configuration: {type(error).__name__}") from error
    cls = getattr(diffusers, str(name), None) or getattr(_deprecated_schedulers(), str(name), None)
    if not isinstance(cls, type) or not hasattr(cls, "from_config"):
        raise InputError(f"{path} names the scheduler {name}, which diffusers {diffusers.__version__} does not have")
    try:
        with quiet():
            return cls.from_config(config)
    except Exception as error:
        raise InputError(f"{name} cannot be built from {path}: {error}") from error


def _deprecated_schedulers() -> Any:
    try:
        from diffusers.schedulers import deprecated
    except ImportError:
        return None
    return deprecated


def model_class(name: str) -> type[nn.Module]:
    """A diffusers model class by name.

    Raises:
        InputError: this version of diffusers has no such model.
    """
    import diffusers

    cls = getattr(diffusers, name, None)
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise InputError(f"the checkpoint needs the model class {name}, which diffusers {diffusers.__version__} lacks")
    return cls


def load_model(layout: Layout, device: torch.device, *, trust_pickle: bool = False) -> tuple[nn.Module, list[str]]:
    """The denoiser of a diffusers checkpoint on a device, in eval mode, with notes on its weights.

    Half-precision weights are run in float32 on the CPU and as stored elsewhere.

    Raises:
        UnsafeCheckpointError: its weights are a pickle that would run code.
        InputError: weights and configuration do not fit.
    """
    assert layout.model is not None and layout.model_class is not None
    cls = model_class(layout.model_class)
    notes: list[str] = []
    if layout.weights.format == "pickle":
        notes.append(
            f"weights read from the pickle {layout.weights.files[0].name} (tensors only): safetensors is safer"
        )
        if trust_pickle:
            notes[-1] = f"weights read from the pickle {layout.weights.files[0].name}, whose code was trusted"
        with tempfile.TemporaryDirectory() as folder:
            weights = _as_safetensors(layout, Path(folder), trust_pickle)
            module = _from_pretrained(cls, Path(folder), weights, layout)
            counts = stored_dtypes(weights.files)
    else:
        module = _from_pretrained(cls, layout.model, layout.weights, layout)
        counts = stored_dtypes(layout.weights.files)
    if layout.weights.variant:
        notes.append(f"the {layout.weights.variant} variant of the weights, as there is no other")
    stored = max(counts, key=lambda dtype: counts[dtype]) if counts else "float32"
    if stored in _HALF:
        if device.type == "cpu":
            notes.append(f"weights stored in {stored}, run in float32")
        else:
            module = module.to(_HALF[stored])
            notes.append(f"weights stored and run in {stored}: gradients have its precision (see dtype=)")
    elif stored == "float64":
        module = module.to(torch.float64)
    return module.to(device).eval(), notes


def _from_pretrained(cls: Any, folder: Path, weights: Weights, layout: Layout) -> nn.Module:
    options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    if getattr(cls, "_keep_in_fp32_modules", None):
        options = {}  # classes with float32 islands insist on their own way of loading (it needs accelerate)
    try:
        with quiet():
            module, info = cls.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                variant=weights.variant,
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{layout.model} cannot be loaded as {layout.model_class}: {reason}") from error
    if missing := info.get("missing_keys"):
        raise InputError(
            f"{layout.model} lacks {len(missing)} weights of {layout.model_class}, such as {sorted(missing)[0]!r}"
        )
    if mismatched := info.get("mismatched_keys"):
        raise InputError(f"{layout.model} has weights of other shapes than {layout.model_class}: {mismatched[0]}")
    return module


def _as_safetensors(layout: Layout, folder: Path, trust_pickle: bool) -> Weights:
    """Pickled weights rewritten as safetensors beside their configuration, for diffusers to read."""
    from safetensors.torch import save_file

    assert layout.model is not None
    state: dict[str, Tensor] = {}
    for file in layout.weights.files:
        state |= read_state_dict(file, trust_pickle=trust_pickle)
    # safetensors refuses tensors that share memory
    save_file({k: v.clone().contiguous() for k, v in state.items()}, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text((layout.model / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    return Weights((folder / "diffusion_pytorch_model.safetensors",), "safetensors")


@dataclass(frozen=True)
class Encoder:
    """A pipeline's VAE as a map from images in [0, 1] to the latents its denoiser works on."""

    vae: nn.Module
    scale: float
    shift: float
    factor: int  # pixels per latent
    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            device, dtype = next(self.vae.parameters()).device, next(self.vae.parameters()).dtype
            encoded = self.vae.encode((2 * images - 1).to(device, dtype))  # type: ignore[operator]
            distribution = getattr(encoded, "latent_dist", None)
            # the mode, so that x₀ is a function of the image
            latents = distribution.mode() if distribution is not None else encoded.latents
        return (latents - self.shift) * self.scale


def load_encoder(folder: Path, device: torch.device, *, trust_pickle: bool = False) -> Encoder:
    """The VAE in a pipeline's ``vae/`` or ``vqvae/`` folder, in float32."""
    from genkernel.checkpoints import detect

    layout = detect(folder)
    vae, _ = load_model(layout, device, trust_pickle=trust_pickle)
    config = dict(vae.config)  # type: ignore[arg-type]
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        # pipelines do not agree on what they do with these: some normalise per channel, some ignore them
        raise InputError(
            f"the VAE in {folder} normalises its latents per channel (latents_mean, latents_std), which is not "
            "supported: images cannot be encoded for this denoiser"
        )
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or (1,)
    factor = config.get("spatial_compression_ratio") or 2 ** (len(blocks) - 1)
    return Encoder(
        vae.float(),
        float(config.get("scaling_factor") or 1.0),
        float(config.get("shift_factor") or 0.0),
        int(getattr(vae, "spatial_compression_ratio", factor)),
        int(config.get("in_channels") or 3),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers' own warnings: what matters in them is said in our notes and errors."""
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
