"""Soft prompt and text to loss and text: frozen language models behind one contract."""
