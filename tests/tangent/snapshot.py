"""Everything of a user's that a kernel must leave as it was."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

# plain Python state of a module, hooks among it; compared by identity and content
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    """Identity, memory and every bit of a tensor (NaNs included)."""
    plain = tensor.detach()
    return id(tensor), plain.data_ptr(), plain.dtype, tuple(plain.shape), plain.stride(), plain.cpu().numpy().tobytes()


class Snapshot:
    """The state of a module, of a batch and of the process; ``check`` compares with it."""

    def __init__(self, module: nn.Module, *batches: Any):
        self.module, self.batches = module, batches
        self.before = self._take()

    def check(self) -> None:
        after = self._take()
        assert list(after) == list(self.before)
        for what, value in self.before.items():
            assert _equal(after[what], value), f"{what} changed"

    def _take(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name, module in self.module.named_modules(remove_duplicate=False):
            state[f"{name}: mode"] = module.training
            state[f"{name}: parameters"] = [(k, None if p is None else _bits(p)) for k, p in module._parameters.items()]
            state[f"{name}: buffers"] = [(k, None if b is None else _bits(b)) for k, b in module._buffers.items()]
            state[f"{name}: not persistent"] = sorted(module._non_persistent_buffers_set)
            state[f"{name}: modules"] = [(k, id(m)) for k, m in module._modules.items()]
            state[f"{name}: class"] = type(module)
            for p_name, p in module._parameters.items():
                if p is not None:
                    grad = None if p.grad is None else _bits(p.grad)
                    state[f"{name}.{p_name}: gradient"] = (
                        p.requires_grad,
                        p.is_leaf,
                        grad,
                        dict(p._backward_hooks or {}),
                    )
            for hooks in _HOOKS:
                state[f"{name}: {hooks}"] = list(getattr(module, hooks, {}).items())
            # tensors that hooks compute are replaced at every forward pass; what others hold is theirs
            plain = {k: v for k, v in vars(module).items() if isinstance(v, Tensor) and v.is_leaf}
            state[f"{name}: tensors"] = {k: _bits(v) for k, v in plain.items()}
            state[f"{name}: attributes"] = sorted(vars(module))
        for i, batch in enumerate(self.batches):
            leaves = tree_flatten(batch)[0]
            state[f"batch {i}"] = [
                (*_bits(leaf), leaf.requires_grad, leaf.grad) if isinstance(leaf, Tensor) else leaf for leaf in leaves
            ]
        state["torch random state"] = torch.get_rng_state().numpy().tobytes()
        if torch.cuda.is_initialized():
            state["cuda random state"] = torch.cuda.get_rng_state().numpy().tobytes()
        state["python random state"] = random.getstate()
        numpy_state = np.random.get_state()
        state["numpy random state"] = (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:])
        state["gradients on"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        state["default dtype"] = torch.get_default_dtype()
        state["autocast"] = (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        state["function modes"] = torch._C._len_torch_function_stack()
        state["deterministic"] = (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.enabled,
        )
        state["tf32"] = (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
        )
        state["threads"] = torch.get_num_threads()
        return state


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b
