"""The interface of a rule, and how it reads the arguments of a use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

if TYPE_CHECKING:
    from genkernel.tangent.factors import Factor
    from genkernel.tangent.layout import Layout
    from genkernel.tangent.use import Use


class Arguments:
    """The arguments of a use by name, as values or as leaf positions."""

    def __init__(self, use: Use, names: tuple[str, ...]):
        self.use = use
        args, kwargs = tree_unflatten(list(range(len(use.leaves))), use.spec)
        self.positions: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self.positions:
            return default
        return tree_map(lambda position: self.use.leaves[position], self.positions[name])

    def name_of(self, position: int) -> str | None:
        return next((name for name, p in self.positions.items() if p == position), None)

    def leaf_positions(self, name: str) -> Iterator[int]:
        if name in self.positions:
            yield from tree_flatten(self.positions[name])[0]


class Rule:
    """Per-sample gradients of the arguments of one family of functions."""

    #: argument names in positional order
    names: tuple[str, ...] = ()
    #: arguments whose values the rule reads in the backward pass; the other tensors are dropped
    keeps: frozenset[str] = frozenset()
    #: the function writes to its first argument and the rule allows for it
    in_place: bool = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``func(*args, **kwargs)``, by whatever computes it fastest; the parameters are constants."""
        return func(*args, **kwargs)

    def forget(self, use: Use) -> None:
        """Drop tensors that ``factor`` will not read."""
        arguments = Arguments(use, self.names)
        kept = {p for name in self.keeps for p in arguments.leaf_positions(name)}
        for position, leaf in enumerate(use.leaves):
            if isinstance(leaf, Tensor) and position not in kept:
                use.leaves[position] = None
                use.versions.pop(position, None)

    def factor(self, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Factor | None:
        """Per-sample gradient of the argument at leaf ``position``.

        Args:
            use: the call, with the inputs that ``keeps`` names.
            position: which leaf of its arguments.
            B: output-gradient, shaped like the output.
            n: number of samples.
            layout: where the samples are in the output.

        Returns:
            The factor, or None when this call is outside the rule.
        """
        raise NotImplementedError

    def own(self, use: Use, position: int, B: Tensor) -> Tensor | None:
        """Gradient of an argument that has a slot for every sample, shaped like it.

        Returns:
            The gradient, or None to have it differentiated by autograd.
        """
        return None
