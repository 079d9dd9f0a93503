"""Types of command-line arguments."""

import argparse


def positive(kind: type) -> type:
    """A converter for argparse that accepts numbers above 0."""

    def convert(text: str) -> float:
        if not (number := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a number above 0")
        return number

    convert.__name__ = kind.__name__  # argparse uses it in its error message
    return convert
