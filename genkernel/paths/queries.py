"""What is asked of a path: outputs of the network at fixed inputs, and their derivatives along directions.

Two ways to J·d for several directions d at the same weights, and the cheaper one is taken: a directional derivative
per direction (:mod:`genkernel.tangent.jvp`), or the rows of J (one backward pass per scalar output) times all
directions at once, which also gives every layer's part for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import GenkernelError, InputError, NonFiniteError
from genkernel.paths.coordinates import Coordinates
from genkernel.paths.other_modules import OtherModules
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.jvp import WIDTH, Route, backward, choose, faster, require_finite
from genkernel.tangent.model import Call
from genkernel.tangent.passes import guarded

# what a row of J costs against a directional derivative over the same samples: two thirds of its work, at the poor
# efficiency of one sample at a time
_ROW = 2.0


class Queries:
    """A network's outputs at m fixed inputs, at any weights.

    Args:
        module: the network; it runs in evaluation mode and is left as it is.
        coordinates: the parameters that move.
        batch: m inputs: a pytree of tensors with a leading sample axis.
        call: ``call(module, batch) -> Tensor[m, *out]``; by default the module itself.
        layers: resolve by layer.
        modules: other modules that ``call`` runs, which are put back as they were.

    Attributes:
        count: m.
        shape: of one output.
        layers: names in the order of the coordinates, then ``"buffers"``; ``["all"]`` when they are not resolved.
        columns: number of a layer → its coordinates.

    Raises:
        InputError: the queries do not fit the network.
    """

    def __init__(
        self,
        module: nn.Module,
        coordinates: Coordinates,
        batch: Any,
        call: Call | None = None,
        layers: bool = False,
        modules: Sequence[nn.Module] = (),
    ):
        self.model = TangentModel(module, call, params=set(coordinates.names).__contains__)
        if self.model.parameter_names != coordinates.names:
            raise InputError("the parameters of the queries are in another order than those of the optimizer")
        self.coordinates = coordinates
        self.batch = batches.move(batch, self.model.device)
        self.count = batches.size(batch)
        owners = [self.model.layer_of(name) if layers else "all" for name in coordinates.names]
        # buffers belong to no parameter and have an entry of their own
        self.layers = [*dict.fromkeys(owners), "buffers"] if layers else ["all"]
        self._members: dict[int, list[int]] = {}  # number of a layer → numbers of its parameters
        for k, owner in enumerate(owners):
            self._members.setdefault(self.layers.index(owner), []).append(k)
        self.columns = {layer: _joined([coordinates.slices[k] for k in own]) for layer, own in self._members.items()}
        self._others = OtherModules(module, modules)
        self._looked = False  # for other modules that the call runs
        self._route: Route | None = None
        self._compared = False  # with the way that takes several directions at a time
        theta = coordinates.flat(self.model.parameters)
        try:
            self.shape = tuple(self.outputs(theta, None).shape[1:])
        except GenkernelError:
            raise
        except Exception as error:
            raise InputError(
                f"the network, or query_call, does not run on the queries: {error} (queries are inputs as query_call "
                "takes them, in the precision of the weights)"
            ) from error
        self._check_graph(theta)
        self._coupled = self._is_coupled(theta)
        self._by_layer = (len(self.layers), self.count, *self.shape)

    def _check_graph(self, theta: Tensor) -> None:
        """Derivatives of what is detached are zero, without a word."""
        model = self.at(theta, None)
        with self._running(model), torch.enable_grad():
            if not model.run(model.tensors(), batches.take(self.batch, slice(0, 2))).requires_grad:
                raise InputError(
                    "the outputs at the queries do not depend on the recorded parameters by automatic "
                    "differentiation: query_call runs under torch.no_grad(), detaches what it returns, or leaves the "
                    "network out"
                )

    def _is_coupled(self, theta: Tensor) -> bool:
        """Outputs at a query depend on the other queries too."""
        if self.count == 1:
            return False
        model = self.at(theta, None)
        with self._running(model), torch.no_grad():
            tensors = {name: t.detach() for name, t in model.tensors().items()}
            two = model.run(tensors, batches.take(self.batch, slice(0, 2))).double()
            try:
                alone = model.run(tensors, batches.take(self.batch, slice(0, 1))).double()
            except Exception:  # batch normalisation in training mode refuses one sample
                return True
        near = 1e-9 if model.dtype == torch.float64 else 1e-4
        return float((alone[0] - two[0]).abs().max()) > near * (float(two.abs().max()) or 1.0)

    @property
    def scalars(self) -> int:
        """Scalar outputs of one query."""
        return int(torch.Size(self.shape).numel())

    def at(self, theta: Tensor, buffers: Mapping[str, Tensor] | None) -> TangentModel:
        """The network at flat weights ``[P]`` and given buffers; the module's own where there are none."""
        return self.model.at({**self.coordinates.views(theta), **(buffers or {})}, strict=False)

    def outputs(self, theta: Tensor, buffers: Mapping[str, Tensor] | None) -> Tensor:
        """f(θ) ``[m, *out]``, float64 on the CPU.

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        model = self.at(theta, buffers)
        with self._running(model), torch.no_grad():
            out = model.run({name: t.detach() for name, t in model.tensors().items()}, self.batch)
            require_finite(out)
            return out.double().cpu()

    @contextmanager
    def _running(self, model: TangentModel) -> Iterator[None]:
        """Evaluation mode in full precision, whatever region of autocast the loop is in; everything is put back."""
        if not self._looked:
            with guarded(model):
                model.find_caches(self.batch)
        others = self._others.kept() if self._looked else self._others.found()
        self._looked = True
        with torch.autocast(model.device.type, enabled=False), guarded(model), others, model.evaluating():
            yield

    def derivatives(
        self,
        theta: Tensor,
        buffers: Mapping[str, Tensor] | None,
        directions: Iterable[tuple[int, Tensor]],
        count: int,
    ) -> list[tuple[int, Tensor]]:
        """J(θ) d for several directions.

        Args:
            theta: θ ``[P]``.
            buffers: as for :meth:`at`.
            directions: pairs of (a number, d ``[P]``); no more of them than :meth:`held` are held at a time.
            count: how many there are, at most.

        Returns:
            Pairs of (the number, J d ``[layers, m, *out]``), float64 on the CPU.

        Raises:
            NonFiniteError: an entry is NaN or infinite.
        """
        model, waiting = self.at(theta, buffers), iter(directions)
        with self._running(model):
            tensors = model.tensors()
            found: list[tuple[int, Tensor]] = []
            if self.rows_pay(count):
                found = self._by_rows(model, tensors, waiting, count)
            else:
                while some := list(islice(waiting, WIDTH)):
                    found += self._by_directions(model, tensors, some)
        for _, value in found:
            if not torch.isfinite(value).all():
                raise NonFiniteError("a derivative of the outputs at the queries is NaN or infinite")
        return found

    def derivative(self, theta: Tensor, buffers: Mapping[str, Tensor] | None, direction: Tensor) -> Tensor:
        """J(θ) d along one direction ``[P]``, whatever the layers: ``[m, *out]``, float64 on the CPU."""
        model = self.at(theta, buffers)
        with self._running(model):
            tensors = model.tensors()
            route = self._a_route(model, tensors)
            _, (product,) = route.products(model, tensors, self.batch, [self.coordinates.views(direction)])
            return product.double().cpu()

    def held(self, directions: int) -> int:
        """Vectors ``[P]`` that :meth:`derivatives` holds for so many directions, beside the weights."""
        if self.rows_pay(directions):
            return min(self.count * self.scalars + 1, directions + WIDTH)
        return min(WIDTH, directions)

    def rows_pay(self, directions: int) -> bool:
        """Rows of J are cheaper than so many directional derivatives."""
        if self._coupled:  # every row takes all queries
            return _ROW * self.scalars * self.count < directions * len(self.layers)
        return _ROW * self.scalars < directions * len(self.layers)

    def _by_directions(
        self, model: TangentModel, tensors: dict[str, Tensor], pairs: list[tuple[int, Tensor]]
    ) -> list[tuple[int, Tensor]]:
        names = self.coordinates.names
        route = self._a_route(model, tensors)
        if not self._compared and len(pairs) > 1:
            self._compared = True
            few = batches.take(self.batch, slice(0, 2))
            route = faster(model, tensors, few, route, [self.coordinates.views(d) for _, d in pairs])
            self._route = route
        found = torch.zeros(len(pairs), len(self.layers), self.count, *self.shape, dtype=torch.float64)
        for layer, index in self._members.items():
            along = []
            for _, d in pairs:
                views = self.coordinates.views(d)
                along.append({names[k]: views[names[k]] for k in index})
            _, products = route.products(model, tensors, self.batch, along)
            found[:, layer] = torch.stack(products).double().cpu()
        return [(number, found[k]) for k, (number, _) in enumerate(pairs)]

    def _a_route(self, model: TangentModel, tensors: dict[str, Tensor]) -> Route:
        if self._route is None:
            self._route, _ = choose(model, tensors, batches.take(self.batch, slice(0, 2)), model.dtype)
        return self._route

    def _by_rows(
        self, model: TangentModel, tensors: dict[str, Tensor], directions: Iterable[tuple[int, Tensor]], count: int
    ) -> list[tuple[int, Tensor]]:
        total = self.count * self.scalars
        if total <= count:
            width = total  # all rows, and one direction after the other
        else:
            directions, width = list(directions), WIDTH
        found: dict[int, list[Tensor]] = {}
        for block in self._blocks(model, tensors, width):
            for a, d in directions:
                found.setdefault(a, []).append(self._product(block, d))
        return [(a, torch.cat(products, 1).view(self._by_layer)) for a, products in found.items()]

    def _product(self, rows: Tensor, d: Tensor) -> Tensor:
        """Rows of J ``[r, P]`` times a direction ``[P]``, by layer: ``[layers, r]``, float64 on the CPU."""
        found = torch.zeros(len(self.layers), len(rows), dtype=torch.float64)
        for layer, columns in self.columns.items():
            for own in columns:
                found[layer] += (rows[:, own] @ d[own]).double().cpu()
        return found

    def jacobian(self, theta: Tensor, buffers: Mapping[str, Tensor] | None) -> Tensor:
        """All rows of J(θ) ``[m · outputs, P]``, by query and then output."""
        model = self.at(theta, buffers)
        with self._running(model):
            return next(self._blocks(model, model.tensors(), self.count * self.scalars))

    def _blocks(self, model: TangentModel, tensors: dict[str, Tensor], width: int) -> Iterator[Tensor]:
        """Rows of J, ``[width, P]`` and fewer at the end; each block is overwritten by the next."""
        block = torch.empty(width, self.coordinates.size, dtype=self.coordinates.dtype, device=self.coordinates.device)
        filled = 0
        for row in self._rows(model, tensors):
            block[filled] = row
            filled += 1
            if filled == width:
                yield block
                filled = 0
        if filled:
            yield block[:filled]

    def _rows(self, model: TangentModel, tensors: dict[str, Tensor]) -> Iterator[Tensor]:
        """Rows of J ``[P]`` one at a time, by query and then output."""
        together = [slice(0, self.count)] if self._coupled else [slice(i, i + 1) for i in range(self.count)]
        for some in together:
            with torch.enable_grad():
                out = model.run(tensors, batches.take(self.batch, some))
            for o in range(out.numel()):
                w = torch.zeros(out.shape, dtype=out.dtype, device=out.device)
                w.view(-1)[o] = 1
                yield self.coordinates.flat(backward(model, tensors, out, w, retain=o + 1 < out.numel()))


def _joined(slices: Iterable[slice]) -> list[slice]:
    """Slices in ascending order, with neighbours made one."""
    found: list[slice] = []
    for own in slices:
        if found and found[-1].stop == own.start:
            found[-1] = slice(found[-1].start, own.stop)
        else:
            found.append(own)
    return found
