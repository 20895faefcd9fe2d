"""``Denoiser``: a network, its noise schedule, and what has to be fed to it beside (x_t, t).

A sample is a pair (x_t, t); its coordinates are the noise level and the timestep embedding e,
which can be read (``embed``), replaced (``den(x_t, emb=...)``) and followed through the time MLP
(``time_features``). The kernel of ``den.tangent`` is that of the network's *raw output*; the
loss, its target and its gradient are stated in the same raw output (THEORY §6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.diffusion.time_path import TimeCall, TimePath, capture, observe, replaced
from genkernel.errors import GenkernelError, InputError, NonFiniteError
from genkernel.tangent import TangentModel
from genkernel.tangent import cotangent as _cotangent
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.fresh import reinitialised

# batch entries that are ours; all others are the network's conditioning
OWN_KEYS = frozenset({"x", "t", "emb", "target", "weight"})
Conditioning = Mapping[str, Any]
Call = Callable[[nn.Module, dict[str, Any]], Any]

_OVERSHOOT = 0.1  # of pixels beyond [0, 1], as resizing leaves them


class Denoiser:
    """A diffusion or flow-matching network as a function of (x_t, t), or of (x_t, e).

    Args:
        module: the network; never changed. It is evaluated in eval mode.
        schedule: its noise schedule, which also says what the raw output estimates.
        sample_shape: ``(C, *spatial)`` of one sample x₀.
        data_range: values that image pixels 0 and 1 become.
        conditioning: further arguments of the network by name: tensors with one row (for every
            sample alike) or one row per image, functions ``n -> tensor``, or dictionaries of those.
        call: ``call(module, batch) -> raw output``, where ``batch`` has ``x``, ``t`` and the
            conditioning; by default ``module(x, t, **conditioning)``.
        params: which parameters span the tangent space (see ``TangentModel``).
        embedding: path of the submodule that answers with the raw timestep embedding
            ``[n, d]``; found by observation when it is not given.
        time_mlp: path of the submodule after which the embedding has been processed; likewise.
        name: for reports.
        encode: images in [0, 1] to samples, for networks that work on latents.
        image_shape: ``(C, H, W)`` of the images ``encode`` takes.
        checkpoint: where the weights come from (name, path, sha256), for provenance.
        notes: plain sentences on how it was loaded.

    Raises:
        InputError: the network cannot be run on such a sample.
        NonFiniteError: its weights or outputs hold NaN or infinity.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        *,
        data_range: tuple[float, float] = (-1.0, 1.0),
        conditioning: Conditioning | None = None,
        call: Call | None = None,
        params: Any = None,
        embedding: str | None = None,
        time_mlp: str | None = None,
        name: str | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        image_shape: tuple[int, ...] | None = None,
        checkpoint: dict[str, Any] | None = None,
        notes: Iterable[str] = (),
    ):
        if not isinstance(module, nn.Module):
            raise InputError(f"a denoiser is a torch.nn.Module, not {type(module).__name__}")
        low, high = data_range
        if not low < high:
            raise InputError(f"data_range has to be an increasing pair such as (-1, 1), not {data_range}")
        self.module = module
        self.schedule = schedule
        self.sample_shape = tuple(int(s) for s in sample_shape)
        self.data_range = (float(low), float(high))
        self.conditioning = dict(conditioning or {})
        if bad := OWN_KEYS & set(self.conditioning):
            raise InputError(f"conditioning cannot be called {sorted(bad)[0]!r}: that name is the sample's own")
        self.name = name or type(module).__name__
        self.encode = encode
        self.image_shape = tuple(image_shape) if image_shape is not None else self.sample_shape
        self.checkpoint = dict(checkpoint or {})
        self.notes: list[str] = list(notes)
        self._call = call or call_plain
        self._options = {"params": params, "embedding": embedding, "time_mlp": time_mlp}
        self.tangent = TangentModel(module, call=self._run, params=params)
        self.tangent.check_finite()
        if module.training:
            self.notes.append("the model arrived in train mode; it is evaluated in eval mode and its mode is put back")
        self.extra_channels = 0  # of a learned variance, cut off the raw output
        self._raw_shape: tuple[int, ...] = ()
        self.time_path = self._inspect(embedding, time_mlp)

    # --------------------------------------------------------------------- properties

    @property
    def device(self) -> torch.device:
        return self.tangent.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tangent.dtype

    @property
    def parameters(self) -> int:
        """Number of entries of the parameters that span the tangent space."""
        return sum(p.numel() for p in self.tangent.parameters.values())

    @property
    def has_embedding(self) -> bool:
        """Whether the raw timestep embedding is known, so that ``embed`` and ``emb=`` work."""
        return bool(self.time_path.embedding)

    def describe(self) -> dict[str, Any]:
        """What is used, JSON-ready."""
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "parameters": self.parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "sample_shape": list(self.sample_shape),
            "data_range": list(self.data_range),
            "schedule": self.schedule.describe(),
            "conditioning": sorted(self.conditioning),
            "embedding": [call.path for call in self.time_path.embedding],
            "time_mlp": [call.path for call in self.time_path.features],
            "checkpoint": self.checkpoint,
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.sample_shape))
        return f"Denoiser({self.name!r}, {shape}, {self.parameters:,} parameters, {self.schedule.name})"

    # ------------------------------------------------------------------------ samples

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``[n, C, H, W]`` in [0, 1] to clean samples x₀ ``[n, *sample_shape]``.

        Raises:
            InputError: their shape is not the one the model takes, or they are clearly not in [0, 1] (data that is used
                as it is, with ``data_range=(0, 1)`` and no encoder, may have any values).
        """
        if tuple(images.shape[1:]) != self.image_shape:
            want, have = ("×".join(map(str, s)) for s in (self.image_shape, images.shape[1:]))
            raise InputError(f"the images are {have}, the model takes {want}: give size and channels to load them with")
        if not torch.isfinite(images).all():
            raise NonFiniteError("the images hold NaN or infinite pixels")
        self._check_range(images)
        images = images.to(self.device, torch.float32)
        if self.encode is not None:
            with torch.no_grad():
                return self._checked(self.encode(images), "the encoded images").float()
        low, high = self.data_range
        return low + (high - low) * images

    def _check_range(self, images: Tensor) -> None:
        if not len(images) or (self.encode is None and tuple(self.data_range) == (0, 1)):
            return
        least, most = float(images.min()), float(images.max())
        if least < -_OVERSHOOT or most > 1 + _OVERSHOOT:
            raise InputError(
                f"images have to be in [0, 1], and these go from {least:.3g} to {most:.3g}: divide bytes by 255, and "
                "give them before they are normalised for the training, or say data_range=(0, 1) for data that is "
                "used as it is"
            )

    def noisy(self, x0: Tensor, t: Any, noise: Tensor) -> Tensor:
        """x_t = α(t) x₀ + σ(t) ε, ``[n, *sample_shape]``; ``t`` is ``[n]`` or one number."""
        t = self.schedule.check(t)
        return self._times_x(self.schedule.alpha(t), x0) + self._times_x(self.schedule.sigma(t), noise)

    def target(self, x0: Tensor, noise: Tensor, t: Any) -> Tensor:
        """What the raw output should be, ``[n, *sample_shape]``."""
        a, b = self.schedule.target_coefficients(self.schedule.check(t))
        return self._times_x(a, x0) + self._times_x(b, noise)

    def batch(
        self, x_t: Tensor, t: Any = None, emb: Tensor | None = None, *, scale_t: Any = None, rows: Tensor | None = None
    ) -> dict[str, Any]:
        """The batch for ``gk.kernel(den.tangent, batch)``.

        Args:
            x_t: noisy samples ``[n, *sample_shape]``, before any input scaling.
            t: the time the network is *told*, ``[n]`` or one number; need not be x_t's own.
            emb: raw timestep embeddings ``[n, d]`` to use instead of those of ``t``; ``t`` may
                then be left out (the middle of the schedule stands in wherever else it is used).
            scale_t: the time x_t was made at, when it is not ``t``: input scaling belongs to x_t.
            rows: which row of per-image conditioning each sample takes, ``[n]``.

        Raises:
            InputError: shapes, times or conditioning do not fit.
        """
        x_t = self._checked(x_t, "x_t")
        n = x_t.shape[0]
        if t is None:
            if emb is None:
                raise InputError("give the times t of the samples, or their embeddings emb")
            t = self.schedule.levels(1)[0]
        t = self._per_sample(t, n, "t")
        made_at = t if scale_t is None else self._per_sample(scale_t, n, "scale_t")
        x = self._times_x(self.schedule.input_scale(made_at), x_t.to(self.device)).to(self.dtype)
        batch: dict[str, Any] = {"x": x, "t": self._network_time(t), **self._condition(n, rows)}
        if emb is not None:
            if not self.has_embedding:
                raise InputError(self._no_embedding())
            if emb.dim() != 2 or emb.shape[0] != n:
                raise InputError(f"emb has to be one vector per sample, [{n}, d], not {tuple(emb.shape)}")
            batch["emb"] = emb.to(self.device, self.dtype)
        return batch

    def loss_batch(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Any,
        *,
        weights: Any = None,
        told: Any = None,
        emb: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> dict[str, Any]:
        """``batch`` at x_t(x₀, ε, t) with the target and the loss weight of each sample.

        Args:
            weights: ``[n]``, one number, or a function of the times; 1 by default.
            told: the time the network is told, when it is not ``t``.
        """
        n = x0.shape[0]
        t = self._per_sample(t, n, "t")
        x_t = self.noisy(x0.to(self.device), t, noise.to(self.device))
        batch = self.batch(x_t, t if told is None else told, emb, scale_t=t, rows=rows)
        weight = weights(t) if callable(weights) else 1.0 if weights is None else weights
        batch["target"] = self.target(x0.to(self.device), noise.to(self.device), t)
        batch["weight"] = torch.as_tensor(weight).detach().to(self.device, torch.float32).expand(n).contiguous()
        return batch

    def loss_cotangent(self) -> Cotangents:
        """d(weighted loss)/d(raw output) per sample, for batches from ``loss_batch``.

        The loss of a sample is w · mean over output entries of (raw − target)², so the vector is
        2 w (raw − target)/(number of entries).
        """

        def loss_gradient(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
            if not isinstance(batch, dict) or "target" not in batch:
                raise InputError("loss_cotangent needs a batch from den.loss_batch, which carries the target")
            error = outputs - batch["target"].to(outputs)
            return error * _column(batch["weight"].to(outputs), error) * (2 / error[0].numel())

        return _cotangent(loss_gradient)

    def losses(self, x0: Tensor, noise: Tensor, t: Any, *, rows: Tensor | None = None) -> Tensor:
        """Per-sample unweighted loss in the raw prediction type, ``[n]`` float64 on the CPU."""
        batch = self.loss_batch(x0, noise, t, rows=rows)
        return sample_losses(self.tangent.forward(batch), batch["target"])

    def __call__(
        self, x_t: Tensor, t: Any = None, emb: Tensor | None = None, *, scale_t: Any = None, rows: Tensor | None = None
    ) -> Tensor:
        """Raw output ``[n, *sample_shape]`` without gradients; arguments as in ``batch``."""
        return self.tangent.forward(self.batch(x_t, t, emb, scale_t=scale_t, rows=rows))

    # ---------------------------------------------------------------------- embedding

    def embed(self, t: Any) -> Tensor:
        """Raw timestep embeddings ``[n, d]``: what enters the time MLP.

        Raises:
            InputError: the network has no submodule that answers with it.
        """
        if not self.has_embedding:
            raise InputError(self._no_embedding())
        return self._captured(t, self.time_path.embedding[:1])

    def time_features(self, t: Any) -> Tensor | None:
        """Embeddings after the time MLP ``[n, d']``; ``None`` when no such submodule is known.

        Transformers with one time MLP per block answer with all of them side by side.
        """
        return self._captured(t, self.time_path.features) if self.time_path.features else None

    # ---------------------------------------------------------------------- untrained

    def untrained(self, seed: int = 0) -> Denoiser:
        """The same network freshly initialised, with the same schedule and conditioning.

        The global random state is put back; see ``reinitialised`` for how weights are drawn.
        """
        module, notes = reinitialised(self.module, seed)
        fresh = Denoiser(
            module,
            self.schedule,
            self.sample_shape,
            data_range=self.data_range,
            conditioning=self.conditioning,
            call=self._call,
            params=set(self.tangent.parameter_names).__contains__,
            embedding=self._options["embedding"],
            time_mlp=self._options["time_mlp"],
            name=f"{self.name}, untrained",
            encode=self.encode,
            image_shape=self.image_shape,
            notes=notes,
        )
        return fresh

    # ----------------------------------------------------------------------- internals

    def _run(self, module: nn.Module, batch: dict[str, Any]) -> Tensor:
        """``call`` of the TangentModel: the raw output without learned-variance channels."""
        emb = batch.get("emb")
        arguments = {k: v for k, v in batch.items() if k not in OWN_KEYS or k in ("x", "t")}
        if emb is None:
            out = self._call(module, arguments)
        else:
            with replaced(module, self.time_path.embedding, emb):
                out = self._call(module, arguments)
        out = as_tensor(out)
        self._raw_shape = tuple(out.shape[1:])
        channels = self.sample_shape[0]
        return out[:, :channels] if out.dim() > 1 and out.shape[1] > channels else out

    def _inspect(self, embedding: str | None, time_mlp: str | None) -> TimePath:
        """One pass over two zero samples: shapes, finiteness, and the way of the time."""
        for _ in range(2):
            t = self._two_times()
            batch = self.batch(torch.zeros(2, *self.sample_shape), t, rows=torch.zeros(2, dtype=torch.long))
            try:
                out, found = observe(self.module, partial(self.tangent.forward, batch), self.schedule.network_time(t))
            except GenkernelError:
                raise
            except Exception as error:
                shape = "×".join(map(str, self.sample_shape))
                reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
                raise InputError(
                    f"{type(self.module).__name__} cannot be run on samples {shape} with their times"
                    f"{' and ' + ', '.join(self.conditioning) if self.conditioning else ''}: "
                    f"{type(error).__name__}: {reason}"
                ) from error
            if not self._rescale_time(found):
                break
        if tuple(out.shape[1:]) != self.sample_shape:
            want, have = ("×".join(map(str, s)) for s in (self.sample_shape, self._raw_shape))
            raise InputError(
                f"{type(self.module).__name__} answers samples {want} with outputs {have}: a denoiser's output has its "
                "sample's shape (inputs with further channels need call=)"
            )
        if not torch.isfinite(out).all():
            raise NonFiniteError("the network's output holds NaN or infinity for an all-zero sample")
        self.extra_channels = self._raw_shape[0] - self.sample_shape[0]
        if self.extra_channels:
            self.notes.append(f"{self.extra_channels} further output channels (a learned variance) are cut off")
        chosen = tuple(self._named(path) for path in (embedding,) if path)
        processed = tuple(self._named(path) for path in (time_mlp,) if path)
        return TimePath(chosen or found.embedding, processed or found.features)

    def _rescale_time(self, found: TimePath) -> bool:
        """Read a network that multiplies its time by 1000 itself as one that takes t/1000."""
        from genkernel.diffusion.diffusers_adapter import unit_time

        if self.schedule.to_network is not None or not unit_time(self.module, found, self.schedule):
            return False
        high = self.schedule.time_range[1]
        self.schedule = replace(self.schedule, to_network=lambda t: t / high)
        self.notes.append(f"the network takes times from 0 to 1, so it is given t/{high:g}")
        return True

    def _two_times(self) -> Tensor:
        low, high = self.schedule.time_range
        t = low + torch.tensor([0.31, 0.67], dtype=torch.float64) * (high - low)
        return t.round() if self.schedule.discrete else t

    def _named(self, path: str) -> TimeCall:
        try:
            self.module.get_submodule(path)
        except AttributeError:
            near = ", ".join([name for name, _ in self.module.named_modules() if name][:6])
            raise InputError(f"the model has no submodule {path!r} (it has {near}, …)") from None
        return TimeCall(path, None)

    def _no_embedding(self) -> str:
        return (
            f"no submodule of {type(self.module).__name__} answers with the timestep embedding: name it with "
            "embedding='path.to.submodule'"
        )

    def _captured(self, t: Any, calls: tuple[TimeCall, ...]) -> Tensor:
        t = self.schedule.check(t).flatten()
        batch = self.batch(torch.zeros(len(t), *self.sample_shape), t, rows=torch.zeros(len(t), dtype=torch.long))
        outputs = capture(self.module, calls, lambda: self.tangent.forward(batch))
        for call, out in zip(calls, outputs, strict=True):
            if out.dim() < 2 or out.shape[0] != len(t):
                raise InputError(f"{call.path!r} answers with shape {tuple(out.shape)} for {len(t)} times, not [n, d]")
        return torch.cat([out.flatten(1) for out in outputs], 1)

    def _condition(self, n: int, rows: Tensor | None) -> dict[str, Any]:
        def expand(value: Any, name: str) -> Any:
            if isinstance(value, Mapping):
                return {key: expand(inner, f"{name}.{key}") for key, inner in value.items()}
            given = value
            if callable(value) and not isinstance(value, Tensor):
                value = value(n)
            if value is None or isinstance(value, (bool, str)):
                return value
            value = torch.as_tensor(value)
            value = value.reshape(1) if value.dim() == 0 else value
            if value.shape[0] == 1:
                value = value.expand(n, *value.shape[1:])
            elif rows is not None and value is given and int(rows.max()) < value.shape[0]:
                value = value[rows.to(value.device)]
            elif value.shape[0] != n:
                raise InputError(
                    f"conditioning {name!r} has {value.shape[0]} rows for {n} samples: give one row, one per image, "
                    "or a function of the number of samples"
                )
            value = value.to(self.device)
            return value.to(self.dtype) if value.is_floating_point() else value

        return {name: expand(value, name) for name, value in self.conditioning.items()}

    def _network_time(self, t: Tensor) -> Tensor:
        time = self.schedule.network_time(t).to(torch.float64 if t.device.type == "cpu" else torch.float32)
        if self.schedule.discrete and self.schedule.to_network is None:
            return time.long().to(self.device)
        # half precision would round 999 to 1000
        wide = self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32
        return time.to(wide).to(self.device)

    def _per_sample(self, t: Any, n: int, what: str) -> Tensor:
        t = self.schedule.check(t)
        if t.dim() == 0:
            return t.expand(n)
        if tuple(t.shape) != (n,):
            raise InputError(f"{what} has to be one time or one per sample, [{n}], not {tuple(t.shape)}")
        return t

    def _checked(self, x: Tensor, what: str) -> Tensor:
        if tuple(x.shape[1:]) != self.sample_shape or x.shape[0] == 0:
            want = ", ".join(map(str, self.sample_shape))
            raise InputError(f"{what} has shape {tuple(x.shape)}, the model takes [n, {want}]")
        return x

    def _times_x(self, factor: Tensor, x: Tensor) -> Tensor:
        """One factor per sample (or one for all) times x, in x's dtype."""
        factor = factor.to(x.dtype).to(x.device)
        return factor * x if factor.dim() == 0 else _column(factor, x) * x


def sample_losses(outputs: Tensor, target: Tensor) -> Tensor:
    """Mean over output entries of (raw − target)² per sample ``[n]``, float64 on the CPU.

    Args:
        outputs, target: ``[n, *sample_shape]``.
    """
    return (outputs.double() - target.double()).square().flatten(1).mean(1).cpu()


def call_plain(module: nn.Module, batch: dict[str, Any]) -> Any:
    """``module(x, t, **conditioning)``."""
    further = {k: v for k, v in batch.items() if k not in ("x", "t")}
    return module(batch["x"], batch["t"], **further)


def as_tensor(out: Any) -> Tensor:
    """The output tensor in what a network returned."""
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor) and isinstance(getattr(out, "sample", None), Tensor):
        out = out.sample
    if not isinstance(out, Tensor):
        raise InputError(
            f"the network returned {type(out).__name__}, not a tensor: pass call=lambda module, batch: <tensor>"
        )
    return out


def _column(factor: Tensor, x: Tensor) -> Tensor:
    """``[n]`` shaped to multiply ``x`` ``[n, ...]``."""
    return factor.reshape(-1, *[1] * (x.dim() - 1))
