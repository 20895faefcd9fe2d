"""``gk.wrap``: a network in memory, and what it is → :class:`Denoiser`, :class:`Generator` or :class:`Classifier`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from genkernel.diffusion import NoiseSchedule


def wrap(
    module: nn.Module,
    scheduler: Any = None,
    schedule: NoiseSchedule | None = None,
    prediction_type: str | None = None,
    sample_shape: tuple[int, ...] | None = None,
    data_range: tuple[float, float] | None = None,
    conditioning: Mapping[str, Any] | str | None = None,
    call: Any = None,
    params: Any = None,
    embedding: str | None = None,
    time_mlp: str | None = None,
    name: str | None = None,
    *,
    encode: Any = None,
    image_shape: tuple[int, ...] | None = None,
    checkpoint: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
    kind: str | None = None,
    **options: Any,
) -> Any:
    """Make a :class:`Denoiser` of a diffusers model or of any ``module(x_t, t, **conditioning)``, a GAN's
    :class:`Generator` of any ``module(z)``, or with ``kind="classifier"`` a :class:`Classifier` of any ``module(x)``.

    Args:
        module: the network; it is never changed.
        scheduler: a diffusers scheduler (it is only read), or the path of its configuration.
        schedule: the noise schedule itself, instead of a scheduler.
        prediction_type: what the raw output estimates, instead of what the scheduler says:
            ``epsilon``, ``v_prediction``, ``sample``, ``flow``, ``data_flow``, ``score`` or ``edm``.
        sample_shape: ``(C, *spatial)`` of one sample; read from a diffusers configuration.
        data_range: the values of black and white pixels; ``(-1, 1)`` unless the schedule says.
        conditioning: further arguments of the network: ``{"encoder_hidden_states": tensor}`` with
            one row, one row per image, or a function of the number of samples; ``"zeros"`` for
            zeros in every argument a diffusers model needs.
        call: ``call(module, batch) -> raw output`` for networks with other arguments.
        params: which parameters span the tangent space (glob, regex or predicate).
        embedding: submodule that answers with the raw timestep embedding, when it is not found.
        time_mlp: submodule after which that embedding has been processed, when it is not found.
        name: for reports.
        encode, image_shape: how images become samples, for networks that work on latents.
        checkpoint: provenance of the weights.
        notes: sentences to carry along.
        kind: ``"diffusion"``, ``"gan"``, ``"classifier"``, or None for one of the first two, whose options are given.
        options: for GANs, ``latent_shape=`` and the other options of :class:`~genkernel.gan.Generator`, and
            ``discriminator=`` (a module, or a :class:`~genkernel.gan.Discriminator`); for classifiers, those of
            :class:`~genkernel.classifier.Classifier`.

    Returns:
        Denoiser, Generator or Classifier.

    Raises:
        InputError: a piece is missing or does not fit; the sentence says which.
        NonFiniteError: the weights hold NaN or infinity.
    """
    from torch import nn

    from genkernel.diffusion.wrapping import wrap_denoiser

    if not isinstance(module, nn.Module):
        raise InputError(f"wrap takes a torch.nn.Module, not {type(module).__name__}")
    if kind not in (None, "diffusion", "gan", "classifier"):
        raise InputError(f"kind is 'diffusion', 'gan' or 'classifier', not {kind!r}")
    own = {"call": call, "params": params, "name": name, "checkpoint": checkpoint, "notes": notes}
    foreign = {
        "scheduler": scheduler, "schedule": schedule, "prediction_type": prediction_type, "embedding": embedding,
        "data_range": data_range, "conditioning": conditioning, "time_mlp": time_mlp, "encode": encode,
        "image_shape": image_shape,
    }  # fmt: skip
    if kind == "classifier":
        from genkernel.workflows.load_classifier import wrap_classifier

        if given := [option for option, value in foreign.items() if value is not None]:
            raise InputError(f"{given[0]!r} is an option of diffusion models, not of classifiers")
        shape = {} if sample_shape is None else {"sample_shape": sample_shape}
        return wrap_classifier(module, {**own, **shape, **options})
    if kind == "gan" or (kind is None and options):
        from genkernel.workflows.load_gan import wrap_generator

        return wrap_generator(module, {**own, **options}, {**foreign, "sample_shape": sample_shape})
    if options:
        raise InputError(f"{min(options)!r} is no option of a diffusion model")
    return wrap_denoiser(
        module,
        scheduler,
        schedule,
        prediction_type=prediction_type,
        sample_shape=sample_shape,
        data_range=data_range,
        conditioning=conditioning,
        call=call,
        params=params,
        embedding=embedding,
        time_mlp=time_mlp,
        name=name,
        encode=encode,
        image_shape=image_shape,
        checkpoint=checkpoint,
        notes=notes,
    )
