"""``python -m genkernel``: the command line, as torchrun starts it."""

from genkernel.cli import main

if __name__ == "__main__":
    main()
