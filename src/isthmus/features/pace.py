"""How fast pictures become patches, and how far that is from the encoder alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Pace:
    """Pictures encoded since this was made, and the seconds that passed inside the encoder, copying out included."""

    pictures: int = 0
    inside: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Count the seconds of a call of the encoder, which ends when its patches are on the host."""
        start = time.monotonic()
        yield
        self.inside += time.monotonic() - start

    def line(self) -> str:
        """One line for people."""
        passed = max(time.monotonic() - self.begun, 1e-9)
        alone = self.pictures / max(self.inside, 1e-9)
        return (
            f"{self.pictures} pictures encoded at {self.pictures / passed:.1f} a second; the encoder alone takes "
            f"{alone:.1f} a second, {100 * self.inside / passed:.0f} % of the time was its own"
        )
