"""What the errors of the Python functions mean on the command line: which flag does what they ask for."""

from __future__ import annotations

# what a message names, what the command line has for it, and which names then need no word of their own
_FLAGS = (
    (
        "'module:Class' and a scheduler",
        "a file of weights without a configuration needs the Python function gk.load(path, factory=…)",
    ),
    ("discriminator_factory=", "--discriminator-factory MODULE:CLASS"),
    ("factory=", "--factory MODULE:CLASS, the generator's class"),
    ("latent_shape=", "--latent-shape 100,1,1"),
    ("classes=", "--classes N, the number of classes"),
    ("batch_norm='frozen'", "the flag is --batch-norm frozen"),
    ("with real=", "the flag is --data"),
    ("real_range=", "--real-range -1,1"),
    ("inputs=", "this needs the Python function gk.wrap(module, inputs=…)"),
    ("modes=", "--modes FILE, with one mode per row"),
    ("sample_shape=", "this needs the Python function gk.load(path, sample_shape=…)"),
    ("conditioning=", "--conditioning zeros, or --conditioning FILE with one array per argument"),
    ("scheduler=", "--scheduler FOLDER, with its scheduler_config.json"),
    ("memory=", "the flag is --memory"),
    ("store=", "leave out --resume to begin again, or give another --out"),
    ("without resume", "leave out --resume to replace it, or give another --out"),
    ("allow the download", "the flag is --download"),
)


def hint(message: str) -> str | None:
    """How to do on the command line what an error's sentence asks for; None when it says so itself."""
    for name, advice in _FLAGS:
        if name in message:
            flag = next((word for word in advice.split() if word.startswith("--")), None)
            return None if flag is not None and flag.rstrip(",") in message else advice
    return None
