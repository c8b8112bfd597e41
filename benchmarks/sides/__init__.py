"""The sides of every comparison, each a program of its own; a peer's runs in the peer's environment."""
