"""``TangentModel``: a network as a function f(θ, sample) whose Jacobian in θ is asked for.

The user's module is never written to. It runs through ``torch.func.functional_call`` on
detached aliases of its parameters and clones of its buffers, in evaluation mode, and every
mode flag and plain tensor attribute is put back afterwards, also after an exception.
"""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from genkernel.errors import CaptureError, InputError, NonFiniteError
from genkernel.tangent import batches
from genkernel.tangent.batch_norm_layout import plain_gradients
from genkernel.tangent.kept_tensors import KeptTensors
from genkernel.tangent.restore import random_state_kept, restored
from genkernel.tangent.weights import read_weights

Call = Callable[[nn.Module, Any], Tensor]
ParameterFilter = str | re.Pattern[str] | Callable[[str], bool] | Sequence[str]


class TangentModel:
    """Anything differentiable in its parameters, with a sample axis.

    Args:
        module: the network. Its weights are those at the time of each call; it runs in evaluation mode (no dropout,
            running statistics), in whichever mode it is, and is left in its own.
        call: ``call(module, batch) -> Tensor[n, *out]``. By default ``module(batch)`` for a
            tensor, ``module(*batch)`` for a tuple or list, ``module(**batch)`` for a dict.
        params: which parameters span the tangent space: a glob (``"down_blocks.*"``) or
            several of them, a compiled regular expression, or a predicate on names. ``None`` takes those with
            ``requires_grad`` now.
        batch_norm: ``"eval"`` uses running statistics; ``"frozen"`` the statistics of the
            batch ``reference``; ``"train"`` leaves batch normalisation as in training, which
            couples the samples of a batch and is refused where it does.
        reference: the batch that ``"frozen"`` takes its statistics from.

    Raises:
        InputError: no parameter is selected, or an option is unknown.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call | None = None,
        params: ParameterFilter | None = None,
        batch_norm: str = "eval",
        *,
        reference: Any = None,
    ):
        if not isinstance(module, nn.Module):
            raise InputError(f"a TangentModel wraps a torch.nn.Module, not {type(module).__name__}")
        if batch_norm not in ("eval", "frozen", "train"):
            raise InputError(f"batch_norm is 'eval', 'frozen' or 'train', not {batch_norm!r}")
        if (batch_norm == "frozen") != (reference is not None):
            raise InputError(
                "batch_norm='frozen' needs reference=, the batch whose statistics are held (and only then)"
            )
        named = (*module.named_parameters(), *module.named_buffers())
        unshaped = next((name for name, tensor in named if is_lazy(tensor)), None)
        if unshaped is not None:
            raise InputError(f"{unshaped!r} of a lazy module has no shape yet: run a batch through the module first")
        empty = next((name for name, tensor in named if tensor.is_meta), None)
        if empty is not None:
            raise InputError(f"{empty!r} is on the meta device and has no values: load the weights first")
        self.module = module
        self.call: Call = call or call_module
        self.batch_norm = batch_norm
        self.reference = reference
        self.parameter_names = _select(module, params)
        self._caller = _Caller(module, self.call)
        self.weights: dict[str, Tensor] = {}  # in place of the module's own, by name (``at``)

    def at(
        self,
        weights: Any,
        *,
        prefix: str = "",
        strict: bool = True,
        key: str | None = None,
        trust_pickle: bool = False,
    ) -> TangentModel:
        """The same function at other weights: for two-time kernels and EMA kernels.

        The module is neither copied nor written to, and stays where everything that is no parameter
        or buffer comes from. Tensors are used as they lie (moved to the module's device, cast when it
        runs, to the dtype of the module's entry unless the kernel asks for another): what changes them
        in place changes this model, as it does for the module's own.

        Args:
            weights: tensors by name (a ``state_dict``); a module of the same structure, an
                ``AveragedModel`` or a wrapper like DDP around one; an EMA with ``shadow_params``
                (diffusers' ``EMAModel``), its state, or a list of tensors, in the order of
                ``module.parameters()``, all of them or those that require gradients; another
                TangentModel; the path of a safetensors file or of one that ``torch.save`` wrote.
            prefix: use only the names that begin with this, without it. ``module.`` of wrappers and
                ``_orig_mod.`` of compiled modules are taken off anyway.
            strict: every parameter has to be there, all stored buffers or none of them, and nothing
                else. Otherwise what is missing keeps its present value and what is unknown is ignored.
            key, trust_pickle: of a file, see :func:`genkernel.checkpoints.read_state_dict`.

        Raises:
            InputError: names are missing or unknown, shapes differ, tied parameters got different
                weights, or ``weights`` is none of the above.
            MissingError, UnsafeCheckpointError: from reading a file.

        Example:
            >>> import torch, genkernel as gk
            >>> net = torch.nn.Linear(3, 2)
            >>> early = {name: w.clone() for name, w in net.state_dict().items()}
            >>> _ = torch.nn.init.normal_(net.weight)
            >>> m = gk.TangentModel(net)
            >>> m.at(early)(torch.ones(4, 3)).shape
            torch.Size([4, 2])
        """
        found = read_weights(self.module, weights, prefix=prefix, strict=strict, key=key, trust_pickle=trust_pickle)
        other = copy.copy(self)
        device = self.device
        other.weights = self.weights | {name: tensor.detach().to(device) for name, tensor in found.items()}
        return other

    def state(self) -> dict[str, Tensor]:
        """The parameters and buffers that it is evaluated at, by the names the module lists them under."""
        own = [*self.module.named_parameters(), *self.module.named_buffers()]
        return {name: self.weights.get(name, tensor).detach() for name, tensor in own}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The selected parameters by name, in the recorded order."""
        own = self._own_parameters()
        return {
            name: nn.Parameter(self._value(name, parameter), parameter.requires_grad)
            if name in self.weights
            else parameter
            for name, parameter in own.items()
        }

    @property
    def device(self) -> torch.device:
        return self._own_parameter(self.parameter_names[0]).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype most selected entries of the module have."""
        counts: dict[torch.dtype, int] = {}
        for parameter in self._own_parameters().values():
            counts[parameter.dtype] = counts.get(parameter.dtype, 0) + parameter.numel()
        return max(counts, key=lambda dtype: counts[dtype])

    def layer_of(self, parameter: str) -> str:
        """The module that owns a parameter (the name itself for one held by the root)."""
        head, _, _ = parameter.rpartition(".")
        return re.sub(r"\.parametrizations\.[^.]+$", "", head) or parameter

    def check_finite(self) -> None:
        """Raise NonFiniteError naming the first parameter or buffer that holds NaN or infinity."""
        for name, tensor in self.state().items():
            # NaN and infinity reach the sum, which reads once; a sum that overflows by itself says nothing
            if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
                count = int((~torch.isfinite(tensor)).sum())
                raise NonFiniteError(
                    f"the weights hold {count} NaN or infinite entries in {name!r}: the checkpoint is broken"
                )

    def forward(self, batch: Any) -> Tensor:
        """Outputs ``[n, *out]`` in evaluation mode, without gradients."""
        batch = batches.move(batch, self.device)
        if self.weights:  # values that were kept are those of the module's own
            self.find_caches(batch)
        with self.evaluating(), torch.no_grad():
            return self.run(self.tensors(), batch)

    __call__ = forward

    # ------------------------------------------------------------ used by the engine

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Stand-ins for every parameter and buffer, by name.

        Selected parameters become leaves that require gradients, aliasing the user's memory
        unless a cast or a shared storage forces a copy; the rest are detached; buffers are
        cloned, because a forward pass may write to them.
        """
        selected, seen = set(self.parameter_names), set()
        rewritten = self._written_by_their_module()
        found: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            alias = self._value(name, parameter, dtype)
            storage = alias.untyped_storage()._cdata
            if name in rewritten:
                alias = alias.clone()
            if name in selected:
                if storage in seen or not _is_dense(alias):
                    alias = alias.clone(memory_format=torch.contiguous_format)
                seen.add(alias.untyped_storage()._cdata)
                alias.requires_grad_(True)
            found[name] = alias
        for name, buffer in self.module.named_buffers():
            found[name] = self._value(name, buffer, dtype).clone()
        found.update(self._frozen_statistics(dtype))
        return found

    def run(self, tensors: Mapping[str, Tensor], batch: Any, *, through: bool = False) -> Tensor:
        """``call`` on the module with ``tensors`` in place of its parameters and buffers.

        The model gets a copy of the batch: it may write to its inputs.

        Args:
            through: let derivatives reach the batch.
        """
        n = batches.size(batch)
        with self._caller.kept.dropped():
            out = self._called(tensors, batch, through)
        if not isinstance(out, Tensor):
            raise InputError(
                f"the model returned {type(out).__name__}, not a tensor: give a function "
                "(module, batch) -> output tensor, as call= of TangentModel, or query_call= of a recording"
            )
        if out.dim() == 0 or out.shape[0] != n:
            raise InputError(
                f"the model returned shape {tuple(out.shape)} for {n} samples: the first axis of the output has to be "
                "the sample axis"
            )
        if not out.numel():
            raise InputError(f"the model returned shape {tuple(out.shape)}: an output without entries has no gradients")
        if not out.is_floating_point():
            raise InputError(f"the model returned {out.dtype}: gradients need a real floating point output")
        return out

    def _called(self, tensors: Mapping[str, Tensor], batch: Any, through: bool = False) -> Any:
        with _checkpointing_off(), plain_gradients():
            given = batches.copy(batch, detach=not through)
            return functional_call(self._caller, self._everywhere(tensors), (given,), tie_weights=False)

    def find_caches(self, batch: Any, dtype: torch.dtype | None = None) -> None:
        """Look for tensors that earlier calls have kept in the module, so that :meth:`run` does without them.

        Args:
            batch: the first four samples are used, where there is something to look for.
            dtype: of the later run (None: the model's own).
        """
        if not self._caller.kept.suspects():
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.inference_mode(False), torch.enable_grad(), random_state_kept(), torch.random.fork_rng(devices):
            few = batches.move(batches.take(batch, slice(0, 4)), self.device, dtype)
            self._caller.kept.search(lambda: self._used(few, dtype))

    def _used(self, samples: Any, dtype: torch.dtype | None) -> set[str]:
        """The parameters that the outputs depend on, from a run on copies of everything."""
        with self.evaluating():
            tensors = {name: t.detach().clone() for name, t in self.tensors(dtype).items()}
            own = {name: tensors[name] for name, _ in self.module.named_parameters()}
            own = {name: t.requires_grad_() for name, t in own.items() if t.is_floating_point()}
            with self._caller.kept.dropped():
                out = self._called(tensors, samples)
            if not isinstance(out, Tensor) or not out.requires_grad:
                return set()
            found = torch.autograd.grad(out.sum(), list(own.values()), allow_unused=True)
        return {name for name, gradient in zip(own, found, strict=True) if gradient is not None}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode (batch norm as asked), no autocast, everything restored on exit."""
        versions = {name: p._version for name, p in self.module.named_parameters() if not p.is_inference()}
        modules = list(self.module.modules())
        with restored(self.module):
            for module in modules:
                # assignment, not .eval(): some modules override train() with side effects
                module.training = self.batch_norm == "train" and isinstance(module, _BatchNorm)
            with torch.autocast(self.device.type, enabled=False), eagerly(modules), _recurrent_in_eval(modules):
                yield
        for name, p in self.module.named_parameters():
            if name in versions and p._version != versions[name]:
                raise CaptureError(
                    f"the forward pass writes to its own parameter {name!r} in place: it cannot be analysed"
                )

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        """The module's own selected parameters."""
        return {name: self._own_parameter(name) for name in self.parameter_names}

    def _own_parameter(self, name: str) -> nn.Parameter:
        """One of them, without a walk over all modules: small kernels ask often."""
        *path, last = name.split(".")
        module: nn.Module | None = self.module
        for part in path:  # scripted modules hold mappings without get
            module = module._modules[part] if module is not None and part in module._modules else None
        found = module._parameters[last] if module is not None and last in module._parameters else None
        if found is None:  # modules may call their parameters otherwise than where they hold them
            found = dict(self.module.named_parameters()).get(name)
        if found is None:
            raise InputError(
                f"{type(self.module).__name__} has no parameter {name!r} any more: it was changed after it was "
                "wrapped, so wrap it again"
            )
        return found

    def _value(self, name: str, own: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A parameter or buffer at the weights given, on the device and (unless asked) in the dtype of the own one."""
        given = self.weights.get(name)
        if given is None:
            value = _cast(own.detach(), dtype)
            return value.clone() if value.is_inference() else value  # those take no part in gradients
        return given.detach().to(own.device, dtype if dtype is not None and own.is_floating_point() else own.dtype)

    def _everywhere(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tensors`` under every place that holds them, each module visited once.

        A tensor may be held by several modules, and a module may have several names;
        ``functional_call`` would leave its own tensors behind in the latter case.
        """
        by_identity = {id(p): name for name, p in self.module.named_parameters()}
        by_identity |= {id(b): name for name, b in self.module.named_buffers()}
        found = {}
        for path, module in self.module.named_modules():
            for own, held in (*module._parameters.items(), *module._buffers.items()):
                if held is not None:
                    found[".".join(filter(None, ("module", path, own)))] = tensors[by_identity[id(held)]]
        return found

    def _written_by_their_module(self) -> set[str]:
        """Parameters that a forward pass rescales in place (embeddings with ``max_norm``)."""
        owners = [(n, m) for n, m in self.module.named_modules() if getattr(m, "max_norm", None) is not None]
        return {f"{n}.{k}" if n else k for n, m in owners for k, _ in m.named_parameters()}

    def _frozen_statistics(self, dtype: torch.dtype | None) -> dict[str, Tensor]:
        """Batch statistics of ``reference`` for every batch norm, as buffers by name."""
        if self.batch_norm != "frozen":
            return {}
        statistics: dict[str, Tensor] = {}
        norms = [(name, m) for name, m in self.module.named_modules() if isinstance(m, _BatchNorm)]

        def record(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                x = args[0].detach()
                over = [d for d in range(x.dim()) if d != 1]
                statistics[f"{name}.running_mean"] = x.mean(over)
                statistics[f"{name}.running_var"] = x.var(over, unbiased=False)

            return hook

        handles = []
        flags = [norm.training for _, norm in norms]
        try:
            for name, norm in norms:
                if norm.running_mean is None:
                    raise InputError(f"{name!r} keeps no running statistics, so there is nothing to freeze in it")
                handles.append(norm.register_forward_pre_hook(record(name)))
                norm.training = True
            own = {k: self._value(k, v, dtype) for k, v in self.module.named_parameters()}
            own |= {k: self._value(k, v, dtype).clone() for k, v in self.module.named_buffers()}
            with torch.no_grad():
                self.run(own, batches.move(self.reference, self.device, dtype))
        finally:
            for handle in handles:
                handle.remove()
            for (_, norm), flag in zip(norms, flags, strict=True):
                norm.training = flag
        return statistics


def as_tangent_model(model: TangentModel | nn.Module | Any) -> TangentModel:
    """A TangentModel as it is, an ``nn.Module`` wrapped, or the ``.tangent`` of a domain wrapper."""
    if isinstance(model, TangentModel):
        return model
    if isinstance(model, nn.Module):
        return TangentModel(model)
    inner = getattr(model, "tangent", None)
    if isinstance(inner, TangentModel):
        return inner
    raise InputError(f"a kernel needs a TangentModel or a torch.nn.Module, not {type(model).__name__}")


def call_module(module: nn.Module, batch: Any) -> Tensor:
    """The default ``call``: spread the batch over the arguments, take the output tensor."""
    if isinstance(batch, Tensor):
        out = module(batch)
    elif isinstance(batch, Mapping):
        out = module(**batch)
    else:
        out = module(*batch)
    if isinstance(out, (tuple, list)) and len(out) == 1:
        out = out[0]
    for field in ("sample", "logits"):
        if not isinstance(out, Tensor) and isinstance(getattr(out, field, None), Tensor):
            out = getattr(out, field)
    return out


class _Caller(nn.Module):
    """Lets ``functional_call`` substitute tensors around an arbitrary ``call``."""

    def __init__(self, module: nn.Module, call: Call):
        super().__init__()
        self.module = module
        self.call = call
        self.kept = KeptTensors(module)

    def forward(self, batch: Any) -> Tensor:
        return self.call(self.module, batch)


@contextmanager
def _checkpointing_off() -> Iterator[None]:
    """Run activation checkpointing regions directly.

    They would be run again during the backward pass, without our stand-ins for the parameters.
    """
    import torch.utils.checkpoint as home

    def nothing(*_: Any, **__: Any) -> Iterator[None]:
        yield

    class Direct:
        @staticmethod
        def apply(function: Callable[..., Any], _: bool, *args: Any) -> Any:
            return function(*args)

    replaced = {
        "_checkpoint_without_reentrant_generator": nothing,
        "_checkpoint_without_reentrant_generator_impl": nothing,  # its name from torch 2.12 on
        "CheckpointFunction": Direct,
    }
    before = {name: getattr(home, name) for name in replaced if hasattr(home, name)}
    try:
        for name in before:
            setattr(home, name, replaced[name])
        yield
    finally:
        for name, value in before.items():
            setattr(home, name, value)


@contextmanager
def _recurrent_in_eval(modules: list[nn.Module]) -> Iterator[None]:
    """cuDNN refuses the backward pass of a recurrent layer in evaluation mode; torch's own does not."""
    before = torch.backends.cudnn.enabled
    if any(isinstance(module, nn.RNNBase) and module.weight_ih_l0.is_cuda for module in modules):
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        if torch.backends.cudnn.enabled != before:
            torch.backends.cudnn.enabled = before


def eagerly(modules: list[nn.Module]) -> AbstractContextManager[Any]:
    """Compiled submodules hide their parts: run them eagerly (dynamo is slow to import, so only then)."""
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in modules):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def check_pair(model: TangentModel, other: TangentModel) -> None:
    """Refuse two models of a two-time kernel that do not have the same parameters.

    Raises:
        InputError: names or shapes differ, or the devices.
    """
    one = {name: tuple(p.shape) for name, p in model.parameters.items()}
    two = {name: tuple(p.shape) for name, p in other.parameters.items()}
    if one != two:
        names = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        raise InputError(
            f"model and model_y differ in {len(names)} parameters ({names[0]!r}: {one.get(names[0])} and "
            f"{two.get(names[0])}): a two-time kernel needs the same parameters with other values"
        )
    if model.device != other.device:
        raise InputError(f"model is on {model.device} and model_y on {other.device}: move them to one device")


def _select(module: nn.Module, params: ParameterFilter | None) -> list[str]:
    named = list(module.named_parameters())
    if not named:
        raise InputError(f"{type(module).__name__} has no parameters, so it has no tangent kernel")
    if params is None:
        names = [name for name, p in named if p.requires_grad]
        reason = "no parameter requires gradients: pass params='*' to take all of them"
    else:
        keep = name_filter(params)
        for one in params if isinstance(params, list | tuple) else ():
            if not any(name_filter(one)(name) for name, _ in named):
                raise InputError(f"params={one!r} matches none of the {len(named)} parameters")
        names = [name for name, _ in named if keep(name)]
        reason = f"params={params!r} matches none of the {len(named)} parameters (the first is {named[0][0]!r})"
    bad = [name for name, p in named if name in set(names) and not p.is_floating_point()]
    if bad:
        kind = dict(named)[bad[0]].dtype
        instead = "hold it as torch.view_as_real of it, or " if kind.is_complex else ""
        raise InputError(
            f"parameter {bad[0]!r} is {kind}: only real floating point parameters are differentiated "
            f"({instead}leave it out with params=)"
        )
    if not names:
        raise InputError(reason)
    return names


def name_filter(params: ParameterFilter) -> Callable[[str], bool]:
    """Globs, a compiled regular expression or a predicate as a predicate on names."""
    if isinstance(params, str):
        return partial(_matches, (params,))
    if isinstance(params, re.Pattern):
        return partial(_contains, params)
    if callable(params):
        return params
    if isinstance(params, Sequence) and all(isinstance(glob, str) for glob in params):
        return partial(_matches, tuple(params))
    raise InputError(f"parameters are chosen by globs, a compiled regular expression or a function, not {params!r}")


def _matches(globs: tuple[str, ...], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _contains(expression: re.Pattern[str], name: str) -> bool:
    return expression.search(name) is not None


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _is_dense(tensor: Tensor) -> bool:
    """True when the tensor owns its storage alone and contiguously."""
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
