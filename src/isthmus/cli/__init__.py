"""The command line: thin commands; torch is imported only when one runs."""

from isthmus.cli.start import main

__all__ = ["main"]
