"""From sources to batches: pictures, captions, the order they come in, and the rows of a step."""
