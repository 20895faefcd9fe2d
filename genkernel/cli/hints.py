"""What the errors of the Python functions mean on the command line: which flag does what they ask for."""

from __future__ import annotations

import re

# what a message names, what the command line has for it; the first that is named counts
_FLAGS = (
    (
        "'module:Class' and a scheduler",
        "a file of weights without a configuration needs the Python function gk.load(path, factory=…)",
    ),
    ("discriminator_factory=", "--discriminator-factory MODULE:CLASS"),
    ("discriminator_args=", '--discriminator-args JSON, such as {"width": 64}'),
    ("discriminator_key=", "--discriminator-key NAME, and the file with --discriminator"),
    (
        "the classifier's class as factory=",
        "--factory MODULE:CLASS, the network's class, or torchvision:NAME --weights FILE",
    ),
    ("factory=", "--factory MODULE:CLASS, the generator's class"),
    ("factory_args=", '--factory-args JSON, such as {"width": 64}'),
    ("latent_shape=", "--latent-shape 100,1,1"),
    ("classes=", "--classes N, the number of classes"),
    ("batch_norm='frozen'", "the flag is --batch-norm frozen"),
    ("with real=", "the flag is --data"),
    ("real_range=", "--real-range -1,1"),
    ("inputs=", '--inputs JSON, such as {"noise_mode": "const"}'),
    ("modes=", "--modes FILE, with one mode per row"),
    ("mode_std=", "--mode-std NUMBER"),
    ("loss=", "--loss NAME"),
    (
        "sample_shape=",
        "--sample-shape 3,32,32 of genkernel classifier; else the Python function gk.load(path, sample_shape=…)",
    ),
    ("names=", "--names cat,dog,frog, in the order of the logits, or folders named by the numbers of the classes"),
    ("data has no labels", "--data FOLDER with a folder of images for each class, or an .npz with x and y"),
    ("conditioning=", "--conditioning zeros, or --conditioning FILE with one array per argument"),
    ("scheduler=", "--scheduler FOLDER, with its scheduler_config.json"),
    ("memory=", "the flag is --memory"),
    ("store=", "leave out --resume to begin again, or give another --out"),
    ("without resume", "leave out --resume to replace it, or give another --out"),
    ("allow the download", "the flag is --download"),
    ("key=", "--key NAME"),
)


def hint(message: str) -> str | None:
    """How to do on the command line what an error's sentence asks for; None when it says so itself."""
    for name, advice in _FLAGS:
        if re.search(rf"(?<!\w){re.escape(name)}", message):
            flag = next((word for word in advice.split() if word.startswith("--")), None)
            return None if flag is not None and flag.rstrip(",") in message else advice
    return None
