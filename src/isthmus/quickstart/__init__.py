"""The guided first run: real pictures that arrive by package, split, drawn and shown."""
