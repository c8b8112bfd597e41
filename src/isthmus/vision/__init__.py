"""Pixels to patches: frozen image encoders behind one contract."""
