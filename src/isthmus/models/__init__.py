"""The wiring: the bridge, the two stages and generation, from parts of other rooms."""
