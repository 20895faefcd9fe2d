"""See every use of every parameter in one forward pass, whatever code makes it.

A :class:`Tape` is a ``TorchFunctionMode``: while it is active each tensor function passes
through it with its arguments, be it called by a module, a closure or ``F.*``. Tensors fall
into three classes, kept by *storage*:

* parameter-derived: an alias of a parameter, or computed from such and constants alone;
* constant: buffers, and what is computed from constants or from no tensor at all;
* sample-dependent: everything else, unknown tensors included.

A call that takes a parameter-derived tensor together with a sample-dependent one is a
:class:`Use`. It runs on the detached derived tensor, so that autograd propagates
output-gradients B only and never computes a weight gradient; the use keeps its inputs A and
receives B from a hook on its output.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from genkernel.errors import CaptureError
from genkernel.tangent import products, rules
from genkernel.tangent.derivation import has_storage
from genkernel.tangent.rules import own
from genkernel.tangent.use import Opaque, Use

# These read the metadata of the tensors after the first only, so the class of the result is that of the first.
_METADATA_OF_REST = {"expand_as", "view_as", "reshape_as", "type_as", "to"}
# These read no values at all.
_METADATA_ONLY = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "size", "dim", "stride", "numel",
    "is_contiguous", "is_floating_point", "is_complex", "element_size", "data_ptr", "storage_offset",
    "get_device", "requires_grad_", "register_hook", "retain_grad",
}  # fmt: skip
# These tell or take how a tensor lies in memory. With the channels last torch 2.15 also loses variances beside large
# means in group normalisation, and mistakes one order for another in instance normalisation of single images.
_OF_MEMORY = {
    "as_strided", "as_strided_", "as_strided_copy", "as_strided_scatter", "stride", "is_contiguous", "dim_order",
    "data_ptr", "storage", "storage_offset", "untyped_storage", "set_", "resize_", "resize_as_", "numpy", "__array__",
    "__dlpack__", "group_norm", "instance_norm",
}  # fmt: skip
_IN_PLACE_OPERATORS = {
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__",
    "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__",
}  # fmt: skip


class Tape(TorchFunctionMode):
    """Record the uses of one forward pass.

    Set ``deliver`` before a backward pass: it is called as ``deliver(use, B)`` for every use.

    Args:
        parameters: aliases of the selected parameters by name (leaves that require gradients).
        constants: tensors that are the same for every sample (buffers, frozen parameters).
        keep_all: indices of uses that keep every input, whatever their rule needs.
        attached: leave the parameters in the graph, so that autograd can take its own gradient too.
        stand_ins: tensors of the same values in another order in memory to compute with, by the ``id`` of the
            parameter's alias. Whatever may depend on that order sets ``unsuited``, and raises.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        constants: Sequence[Tensor],
        keep_all: frozenset[int] = frozenset(),
        attached: bool = False,
        stand_ins: Mapping[int, Tensor] | None = None,
    ):
        super().__init__()
        self.stand_ins = stand_ins or {}
        self.unsuited = False
        self.parameters = parameters
        self.deliver: Callable[[Use, Tensor], None] | None = None
        self.keep_all, self.attached = keep_all, attached
        self.uses: list[Use] = []
        self.opaque: list[Opaque] = []
        self.leaves: list[Tensor] = []  # where the graph of output-gradients begins
        self._edges: list[GradientEdge] = []  # the output of each use in that graph
        self._ours: set[int] = {id(p) for p in parameters.values()}
        # storage -> (is parameter-derived, weak reference that keeps the key from being reused)
        self._known: dict[int, tuple[bool, StorageWeakRef]] = {}
        self._held: dict[int, list[tuple[Use, int]]] = {}
        self.storages = {p.untyped_storage()._cdata: name for name, p in parameters.items()}
        for p in parameters.values():
            self._mark(p, derived=True)
        for c in constants:
            self._mark(c, derived=False)

    def close(self) -> None:
        """Let go of everything held; hooks keep the tape alive as long as the graph."""
        self.deliver = None
        for held in (self.uses, self.opaque, self.leaves, self._edges, self._held, self._known):
            held.clear()

    # ------------------------------------------------------------------ classes

    def _mark(self, tensor: Tensor, derived: bool | None) -> None:
        storage = tensor.untyped_storage()
        if derived is None:
            self._known.pop(storage._cdata, None)
        else:
            self._known[storage._cdata] = (derived, StorageWeakRef(storage))

    def _class(self, tensor: Tensor) -> bool | None:
        """True: parameter-derived; False: constant; None: sample-dependent."""
        known = self._known.get(tensor.untyped_storage()._cdata)
        if known is None:
            return None
        return known[0] and tensor.requires_grad

    # ----------------------------------------------------------------- the mode

    def __torch_function__(self, func, types_, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.stand_ins and (name in _OF_MEMORY or isinstance(func, (OpOverload, OpOverloadPacket))):
            self._refuse_order(name)
        if name in ("__get__", "__set__") or name in _METADATA_ONLY:
            out = func(*args, **kwargs)
            if isinstance(out, Tensor) and name not in ("__get__", "requires_grad_") and has_storage(out):
                self._mark(out, derived=False)
            return out
        leaves, spec = tree_flatten((args, kwargs))
        if not all(has_storage(leaf) for leaf in leaves if isinstance(leaf, Tensor)):
            return func(*args, **kwargs)  # inside vmap, or sparse: what it does with parameters stays unseen
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if name in _METADATA_OF_REST:
            positions = positions[:1]
        grad = torch.is_grad_enabled()
        classes = {i: self._class(leaves[i]) for i in positions}
        derived = [i for i in positions if classes[i] and grad]
        sampled = [i for i in positions if classes[i] is None]
        for i in positions:
            self._refuse_foreign(leaves[i])
            if self.stand_ins and _written_by_hand(leaves[i]):
                self._refuse_order("an autograd.Function")

        target = self._written(func, name, args, kwargs)
        if target is not None:
            self._release(target)

        if derived and sampled:
            rule = rules.find(func)
            if rule is None and (expanded := rules.composite(func, args) or _open(func)) is not None:
                with self:
                    return expanded(*args, **kwargs)
            out = self._use(func, leaves, spec, derived, sampled, rule, target)
            self._classify(out, None)
            return out
        if derived and isinstance(func, types.FunctionType) and (expanded := _open(func)) is not None:
            # a derivation by a composite: look inside, its parts are derivations
            with self:
                return expanded(*args, **kwargs)
        out = func(*args, **kwargs)
        kind = None if sampled else bool(derived)
        self._classify(out, kind)
        if target is not None:
            self._classify(target, kind if kind is None or kind else self._known_kind(target))
        return out

    def _known_kind(self, tensor: Tensor) -> bool | None:
        known = self._known.get(tensor.untyped_storage()._cdata)
        return None if known is None else known[0]

    def _classify(self, out: Any, kind: bool | None) -> None:
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and has_storage(tensor):
                # a constant view of a parameter (detach, no_grad) must not demote its storage
                if kind is False and tensor.untyped_storage()._cdata in self.storages:
                    continue
                self._mark(tensor, kind)

    def depends_on_order(self, out: Tensor) -> bool:
        """This forward pass with stand-ins, which returned ``out``, may have computed something else than without."""
        return self.unsuited or (bool(self.stand_ins) and _written_by_hand(out))

    def _refuse_order(self, what: str) -> None:
        self.unsuited = True
        raise RuntimeError(f"{what} may depend on how images lie in memory")

    def _refuse_foreign(self, tensor: Tensor) -> None:
        if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad and id(tensor) not in self._ours:
            raise CaptureError(
                f"a parameter of shape {tuple(tensor.shape)} is used that does not belong to model.parameters(): "
                "register it in the module, or pass the module that owns it"
            )

    # ------------------------------------------------------------------ in place

    def _written(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The tensor that the call writes to, if any."""
        if isinstance(kwargs.get("out"), Tensor):
            return kwargs["out"]
        first = args[0] if args else kwargs.get("input")
        if not isinstance(first, Tensor):
            return None
        if name in _IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__")):
            return first
        if isinstance(func, types.FunctionType) and _inplace_requested(func, args, kwargs):
            return first
        return None

    def _release(self, target: Tensor) -> None:
        """Clone every held input on the storage that is about to be written."""
        for use, position in self._held.pop(target.untyped_storage()._cdata, []):
            held = use.leaves[position]
            if held is not None:
                use.leaves[position] = held.clone()
                use.versions.pop(position, None)

    # ---------------------------------------------------------------------- uses

    def _use(
        self,
        func: Any,
        leaves: list[Any],
        spec: TreeSpec,
        derived: list[int],
        sampled: list[int],
        rule: rules.Rule | None,
        target: Tensor | None,
    ) -> Any:
        slots = {i: leaves[i] for i in derived}
        plain = list(leaves)
        for i in () if self.attached else derived:
            plain[i] = self.stand_ins.get(id(leaves[i]), leaves[i]).detach()
        args, kwargs = tree_unflatten(plain, spec)
        held = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in plain]
        if target is not None:
            plain_in_place = "out" not in kwargs and args and args[0] is target
            if not (plain_in_place and target.requires_grad and rule is not None and rule.in_place):
                return self._give_up(func, args, kwargs, slots)
            # the rule needs the values from before the write
            written = target.untyped_storage()._cdata
            held = [h.clone() if isinstance(h, Tensor) and h.untyped_storage()._cdata == written else h for h in held]
        out = func(*args, **kwargs) if rule is None or self.attached else own.call(rule, func, args, kwargs)
        if not isinstance(out, Tensor) or not out.is_floating_point():
            self.opaque.append(Opaque(getattr(func, "__name__", str(func)), list(slots.values())))
            return out
        use = Use(
            index=len(self.uses),
            func=func,
            leaves=held,
            spec=spec,
            slots=slots,
            versions={i: held[i]._version for i in range(len(held)) if isinstance(held[i], Tensor)},
            sample_leaves=tuple(sampled),
            out_shape=out.shape,
            dtype=out.dtype,
            leaf_shapes={i: held[i].shape for i in range(len(held)) if isinstance(held[i], Tensor)},
            rule=rule,
        )
        if rule is not None and use.index not in self.keep_all:
            own.forget(use, rule)
        for i in range(len(use.leaves)):
            if isinstance(use.leaves[i], Tensor):
                self._held.setdefault(use.leaves[i].untyped_storage()._cdata, []).append((use, i))
        self.uses.append(use)
        if not out.requires_grad:
            # the graph of output-gradients begins here; later in-place calls need a non-leaf
            leaf = out.detach().requires_grad_(True)
            self.leaves.append(leaf)
            out = leaf.clone()
        out.register_hook(lambda gradient, use=use: self._deliver(use, gradient))
        self._edges.append(get_gradient_edge(out))
        return out

    def ends(self, uses: set[int]) -> list[GradientEdge]:
        """Where a backward pass may stop when the output-gradients of these uses are all it is for."""
        return [self._edges[u] for u in sorted(uses)]

    def _deliver(self, use: Use, gradient: Tensor | None) -> None:
        if self.deliver is not None and gradient is not None:  # quantised layers pass none on
            self.deliver(use, gradient.detach())

    def _give_up(self, func: Any, args: Any, kwargs: Any, slots: dict[int, Tensor]) -> Any:
        self.opaque.append(Opaque(getattr(func, "__name__", str(func)), list(slots.values())))
        return func(*args, **kwargs)


def _inplace_requested(func: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    code = func.__code__
    if "inplace" not in code.co_varnames[: code.co_argcount]:
        return False
    try:
        return bool(inspect.signature(func).bind(*args, **kwargs).arguments.get("inplace", False))
    except TypeError:
        return False


_OPENED: dict[Any, Callable[..., Any] | None] = {}


def _open(func: Any) -> Callable[..., Any] | None:
    """A Python composite of torch without its override check, so that its parts are seen.

    Composites such as ``F.multi_head_attention_forward`` arrive as one call; called again they
    would arrive again. A copy whose globals answer "no override" runs straight through.
    """
    if func not in _OPENED:
        opened = None
        if isinstance(func, types.FunctionType) and func.__module__.startswith("torch."):
            checks = [name for name in func.__code__.co_names if name.startswith("has_torch_function")]
            # what a method asks of super() would arrive here again under the method's own name
            if checks and "__class__" not in func.__code__.co_freevars:
                scope = dict(func.__globals__)
                scope.update({name: _no_override for name in checks})
                opened = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
                opened.__kwdefaults__ = func.__kwdefaults__
        _OPENED[func] = opened
    return _OPENED[func]


def _written_by_hand(tensor: Tensor) -> bool:
    """A user's ``autograd.Function`` made it, inside of which nothing is seen."""
    made = getattr(type(tensor.grad_fn), "_forward_cls", None)
    return made is not None and made.__module__ != products.__name__


def _no_override(*_: Any) -> bool:
    return False
