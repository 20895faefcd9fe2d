"""sha256 digests of everything that decides a kernel's numbers.

A tile store refuses to add to tiles that were made from something else, and the ranks of a
distributed run refuse to share work on different things: both compare these digests. Tensors
are hashed where they lie, without a copy; functions by their bytecode, constants and the values
they close over, so a changed comment, path or line number is no change.

Objects that a function reaches count by the attributes its code names. What a digest cannot see:
state behind properties and methods of a library's objects, and files. Bytecode belongs to a minor
version of Python: another one counts as another function.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import keystr, tree_flatten_with_path

from genkernel.errors import InputError
from genkernel.tangent.model import TangentModel, call_module
from genkernel.tangent.restore import random_state_kept

_CHUNK = 1 << 26  # bytes copied from a GPU at a time

# attributes of modules that say where a model comes from or how torch keeps it, not what it computes
_NOT_COMPUTED = frozenset(vars(nn.Module())) | {"_internal_dict", "_hf_hook", "name_or_path"}


def fingerprint_model(model: TangentModel) -> dict[str, str]:
    """What a model computes, as entries of a manifest.

    Returns:
        dict: ``weights`` (every parameter and buffer that is used: names, shapes, dtypes, bytes), and what
        :func:`fingerprint_structure` says.
    """
    module = model.module
    with random_state_kept(), torch.random.fork_rng(devices=[]), model.evaluating(), torch.no_grad():
        tensors = model.tensors()
    if model.batch_norm == "frozen":
        # statistics follow from the weights and this batch; their last bits follow from the thread count
        for name, norm in module.named_modules():
            if isinstance(norm, _BatchNorm):
                tensors.pop(f"{name}.running_mean", None)
                tensors.pop(f"{name}.running_var", None)
    return {"weights": fingerprint(dict(tensors)), **fingerprint_structure(model)}


def fingerprint_structure(model: TangentModel) -> dict[str, str]:
    """What a model computes, but for its weights.

    Returns:
        dict: ``architecture`` (class of every submodule, plain attributes such as strides, code of
        ``forward``), ``call``, ``parameters`` (the selection, in order) and ``batch_norm`` (with
        ``"frozen"``, and the reference batch).
    """
    module, batch_norm = model.module, model.batch_norm
    if batch_norm == "frozen":
        batch_norm = f"frozen {fingerprint_batch(model.reference)}"
    architecture = _Digest()
    architecture.module(module)
    return {
        "architecture": f"{_name(type(module))} {architecture.hexdigest()}",
        "call": "default" if model.call is call_module else fingerprint(model.call),
        "parameters": f"{len(model.parameter_names)} {fingerprint(list(model.parameter_names))}",
        "batch_norm": batch_norm,
    }


def fingerprint_call(
    model: TangentModel, x: Any, y: Any = None, *, model_y: TangentModel | None = None, **options: Any
) -> dict[str, Any]:
    """Everything that decides the numbers of one call, as the manifest of a tile store.

    Args:
        model, model_y: the model of each side; ``model_y`` None when it is the same.
        x, y: batches; ``y`` None for a symmetric kernel.
        options: further arguments that decide the numbers. Plain ones are kept as they are,
            others by their digest, led by what their ``describe()`` says where they have one.

    Returns:
        dict: JSON values, named like the arguments, with ``code`` (:func:`fingerprint_code`).
    """
    entries: dict[str, Any] = dict(fingerprint_model(model))
    if model_y is not None:
        entries |= {f"{name} of model_y": value for name, value in fingerprint_model(model_y).items()}
    entries["x"] = fingerprint_batch(x)
    entries["y"] = None if y is None else fingerprint_batch(y)
    for name, value in options.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            entries[name] = value
        elif isinstance(value, torch.dtype):
            entries[name] = str(value).removeprefix("torch.")
        else:
            said = value.describe() if callable(getattr(value, "describe", None)) else ""
            entries[name] = f"{said} {fingerprint(value)}".strip()
    entries["code"] = fingerprint_code()
    return entries


def fingerprint_batch(batch: Any) -> str:
    """sha256 of a pytree: where each leaf sits, tensors by shape, dtype and bytes, other leaves by value."""
    leaves, _ = tree_flatten_with_path(batch)
    return fingerprint(sorted(((keystr(path), fingerprint(leaf)) for path, leaf in leaves), key=lambda item: item[0]))


@functools.cache
def fingerprint_code() -> str:
    """Versions of genkernel and torch, and a digest of the engine's sources."""
    from genkernel import __version__

    sources = hashlib.sha256()
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        sources.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
        sources.update(content)
    return f"genkernel {__version__}, engine {sources.hexdigest()[:16]}, torch {torch.__version__}"


def fingerprint(value: Any) -> str:
    """sha256 of any argument: plain values, tensors, containers, functions, modules, objects of these."""
    digest = _Digest()
    digest.add(value)
    return digest.hexdigest()


def update_bytes(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed a tensor's bytes, in row-major order, to a digest."""
    if tensor.is_meta:
        raise InputError("a tensor on the meta device holds no values: load the weights or the data first")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.device.type == "cpu":
        digest.update(flat.numpy().data)
        return
    for part in flat.split(_CHUNK):
        digest.update(part.cpu().numpy().data)


class _Digest:
    """A running sha256 over a tree of values; an object that comes again is entered by its number."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}  # id → (number, the object, kept alive)

    def hexdigest(self) -> str:
        return self._sha.hexdigest()

    def add(self, value: Any, names: frozenset[str] | None = None) -> None:
        """Enter one value.

        Args:
            names: for a value that a function reaches, the names its code uses: objects count by
                those attributes alone (``args.scale``, not ``args.out``). None: all attributes.
        """
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._say(type(value).__name__, repr(value))
        elif isinstance(value, (torch.dtype, torch.device, range, slice, type(...))):
            self._say(type(value).__name__, str(value))
        elif isinstance(value, Tensor):
            self._say("tensor", str(value.dtype), list(value.shape))
            update_bytes(self._sha, value)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._array(np.asarray(value))
        elif isinstance(value, tuple):  # constants: which of them are one object is up to the interpreter
            self._sequence(value, names)
        elif isinstance(value, (set, frozenset)):
            self._say("set", sorted(fingerprint(entry) for entry in value))
        elif (entered := self._seen.get(id(value))) is not None:
            self._say("again", entered[0])
        else:
            self._seen[id(value)] = (len(self._seen), value)
            self._compound(value, names)

    def _compound(self, value: Any, names: frozenset[str] | None) -> None:
        if isinstance(value, Mapping):
            self._mapping(value, names)
        elif isinstance(value, list):
            self._sequence(value, names)
        elif isinstance(value, nn.Module):
            self.module(value)
            self._mapping(dict(value.named_parameters()), None)
            self._mapping(dict(value.named_buffers()), None)
        elif isinstance(value, functools.partial):
            self._say("partial")
            for part in (value.func, value.args, value.keywords):
                self.add(part, names)
        elif isinstance(value, MethodType):
            self._say("method")
            self.add(value.__func__)
            self.add(value.__self__, _names(value.__func__.__code__))
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, (ModuleType, type)) or (callable(value) and not _attributes(value)):
            self._say("name", _name(value))
        else:
            self._object(value, names)

    def _sequence(self, value: list[Any] | tuple[Any, ...], names: frozenset[str] | None) -> None:
        self._say("sequence", len(value))
        for entry in value:
            self.add(entry, names)

    def _mapping(self, value: Mapping[Any, Any], names: frozenset[str] | None) -> None:
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        self._say("mapping", len(items))
        for key, entry in items:
            self._say("key", repr(key))
            self.add(entry, names)

    def _object(self, value: Any, names: frozenset[str] | None) -> None:
        self._say("object", _name(type(value)))
        used = self._methods(type(value))
        attributes = _attributes(value)
        if names is not None:
            names |= used
            attributes = {name: entry for name, entry in attributes.items() if name in names}
        self._mapping(attributes, names)

    def module(self, module: nn.Module) -> None:
        """Classes, code and plain attributes of every submodule; not the parameters and buffers."""
        classes: dict[str, type] = {}
        for path, part in module.named_modules():
            classes.setdefault(_name(type(part)), type(part))
            self._say("module", path, _name(type(part)))
            for name in sorted(vars(part).keys() - _NOT_COMPUTED):
                value = vars(part)[name]
                if isinstance(value, Tensor) or _is_plain(value):
                    self._say("attribute", name)
                    self.add(value)
        for _, cls in sorted(classes.items()):
            if (version := _version_of(cls)) is not None:
                self._say("class", _name(cls), version)
            else:
                self._methods(cls)

    def _methods(self, cls: type) -> frozenset[str]:
        """The code of the functions that a class and its bases define, down to the bases of libraries.

        Returns:
            frozenset: the names that this code uses.
        """
        used: frozenset[str] = frozenset()
        for base in cls.__mro__:
            if _version_of(base) is not None:
                continue
            for name, member in sorted(vars(base).items()):
                member = getattr(member, "__func__", getattr(member, "fget", member))
                if isinstance(member, FunctionType):
                    self._say("def", _name(base), name)
                    self._code(member.__code__)
                    used |= _names(member.__code__)
        return used

    def _function(self, function: FunctionType) -> None:
        if (version := _version_of(function)) is not None:
            self._say("function", _name(function), version)
            return
        names = _names(function.__code__)
        self._say("function")
        self._code(function.__code__)
        self.add(function.__defaults__, names)
        self.add(function.__kwdefaults__, names)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._say("closes over", name)
            try:
                held = cell.cell_contents
            except ValueError:  # not bound yet
                self._say("nothing")
            else:
                self.add(held, names)
        for name in sorted(names & function.__globals__.keys()):
            self._say("global", name)
            self.add(function.__globals__[name], names)

    def _code(self, code: CodeType) -> None:
        self._sha.update(code.co_code)
        self._sha.update(code.co_exceptiontable)
        self._say("names", code.co_names, code.co_freevars, code.co_argcount, code.co_kwonlyargcount)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.add(constant)

    def _array(self, array: np.ndarray) -> None:
        self._say("array", str(array.dtype), array.shape)
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self._sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _say(self, *words: Any) -> None:
        """Text with its own end, so that neighbouring entries cannot be read as one another."""
        self._sha.update(json.dumps(words).encode() + b"\n")


def _names(code: CodeType) -> frozenset[str]:
    """Names of globals and attributes that a function, and the functions inside it, look up."""
    return frozenset(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _attributes(value: Any) -> dict[str, Any]:
    if hasattr(value, "__dict__"):
        return dict(vars(value))
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return {name: getattr(value, name) for name in slots if hasattr(value, name)}


def _name(thing: Any) -> str:
    own = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", "")
    return f"{getattr(thing, '__module__', '')}.{own}"


def _version_of(thing: Any) -> str | None:
    """The version of the installed library that defines a class or function; None for the user's code, and ours."""
    return _version_of_package((getattr(thing, "__module__", None) or "").partition(".")[0])


@functools.cache
def _version_of_package(root: str) -> str | None:
    if root in sys.stdlib_module_names:
        return "python"
    package = sys.modules.get(root)
    version = getattr(package, "__version__", None)
    installed = {"site-packages", "dist-packages"} & {*Path(getattr(package, "__file__", None) or "").parts}
    return str(version) if version is not None and installed and root != "genkernel" else None


def _is_plain(value: Any, depth: int = 4) -> bool:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.Size)):
        return True
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(entry, depth - 1) for entry in value)
    if depth and isinstance(value, Mapping):
        return all(_is_plain(entry, depth - 1) for entry in (*value.keys(), *value.values()))
    return False
