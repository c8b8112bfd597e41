"""What isthmus costs beside its peers: both sides in turn, in one run, on one machine (docs/performance.md)."""
