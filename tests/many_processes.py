"""Several processes of one program that find each other, started by hand or by a launcher."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
FAULTY = HERE / "faulty_rank.py"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def surroundings(**more: object) -> dict[str, str]:
    """This process's environment with the package and the tests on the path, one thread, and no launcher's marks."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    known = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return {**os.environ, **known, **{name: str(value) for name, value in more.items()}}


@contextmanager
def started(count: int, *arguments: object) -> Iterator[list[subprocess.Popen]]:
    """`count` processes of `faulty_rank.py`, as a launcher would start them; none outlives the block."""
    port, ranks = free_port(), []
    for rank in range(count):
        who = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
        ranks.append(
            subprocess.Popen(
                [sys.executable, str(FAULTY), *map(str, arguments)],
                env=surroundings(**who, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        yield ranks
    finally:
        for one in ranks:
            one.kill()
            one.communicate()


def torchrun(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """A command under `torchrun`, which starts it several times, in this environment."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)]
    return subprocess.run(command, env=surroundings(**options), capture_output=True, text=True, check=False)
