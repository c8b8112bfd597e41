"""What each of two processes checks for `language/test_sharing.py`; spawned processes import only this."""

import time
from pathlib import Path

import torch
from torch import distributed as group
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import decoders
import encoder_decoders
from bridges import rows_of, tiny_batch, tiny_bridge
from isthmus import distributed
from isthmus.build.processes import leave_towers_out
from isthmus.fingerprint import module_fingerprint, weights_fingerprint
from isthmus.language.llm import Decoding
from isthmus.models.generate import caption_by_llm
from isthmus.models.stage2 import Stage2
from isthmus.records import Step, mean_over

WORLD = 2
CPU = torch.device("cpu")
TOWERS = {
    **{family: lambda family=family: decoders.llm(family) for family in decoders.MODELS},
    **{family: lambda family=family: encoder_decoders.llm(family) for family in encoder_decoders.MODELS},
}
BATCH = tiny_batch((5, 3, 4, 6))
WORDS = ("a dog", "red", "two big cats", "x")
DECODING = Decoding(max_new_tokens=4)


def check_everything(rank: int, meeting: str) -> None:
    """Run every check as one of two ranks that meet at a file."""
    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=Path(meeting).as_uri(), rank=rank, world_size=WORLD)
    try:
        takes_turns(rank, Path(meeting).with_name("turns"))
        for family in TOWERS:
            for recomputes in (False, True):
                equals_the_whole(rank, family, recomputes=recomputes)
        keeps_half(rank)
        distributed.wait()
    finally:
        group.destroy_process_group()


def takes_turns(rank: int, lines: Path) -> None:
    """One after the other, and every bit that anyone set."""
    with distributed.in_turn(), lines.open("a") as file:
        file.write(f"{rank} comes, ")
        file.flush()
        time.sleep(0.2)
        file.write(f"{rank} goes; ")
    assert lines.read_text() == "0 comes, 0 goes; 1 comes, 1 goes; "
    assert distributed.agree(1 << 4 * rank) == 0b10001


def equals_the_whole(rank: int, family: str, *, recomputes: bool) -> None:
    """Captions, losses, gradients and hashes of a shared tower are the whole one's, whichever is asked for first."""
    case = (family, recomputes)
    whole, shared = tower(family, recomputes), tower(family, recomputes)
    shared.share(CPU)
    shared.gather_once()
    assert [f(shared) for f in (module_fingerprint, weights_fingerprint)] == [
        f(whole) for f in (module_fingerprint, weights_fingerprint)
    ], case
    state, wanted, found = module_fingerprint(shared), stage_of(whole), stage_of(shared)
    assert captions(found) == captions(wanted), case
    for _ in range(2):  # gathered again in a second step
        losses, gradients = train_step(rank, found)
        expected, of_whole = train_step(rank, wanted)
        assert torch.allclose(losses, expected, atol=1e-10, rtol=1e-10), case
        assert gradients.keys() == of_whole.keys()
        for name, gradient in of_whole.items():
            assert torch.allclose(gradients[name], gradient, atol=1e-10, rtol=1e-10), (case, name)
    assert module_fingerprint(shared) == state, case
    assert all(p.grad is None and not p.requires_grad for p in shared.parameters())


def tower(family: str, recomputes: bool):
    made = TOWERS[family]()
    if recomputes:
        made.recompute()
    return made


def stage_of(llm) -> Stage2:
    return Stage2(tiny_bridge(text=False, shared_width=None, language_width=llm.width), llm)


def captions(stage: Stage2) -> list[str]:
    return caption_by_llm(stage.bridge, stage.llm, BATCH.vision, DECODING)


def train_step(rank: int, stage: Stage2) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """This rank's share of a step over two unequal micro-batches, through DDP as the loop does it."""
    leave_towers_out(stage)
    wrapped = DistributedDataParallel(stage, gradient_as_bucket_view=True)
    mine = rows_of(BATCH, slice(rank * 2, rank * 2 + 2))
    mine = type(mine)(mine.vision, WORDS[rank * 2 : rank * 2 + 2], mine.text, mine.identity, mine.index)
    weight = distributed.reduce_sum(stage.count(mine, Step(0, 0, 0.5))["lm"]) * 2
    sums = []
    for last in (False, True):
        wrapped.require_backward_grad_sync = last
        term = wrapped(mine, Step(0, 0, 0.5))["lm"]
        (mean_over(term.sum, weight) * distributed.world_size()).backward()
        sums.append(term.sum.detach())
    gradients = {name: parameter.grad.clone() for name, parameter in stage.bridge.named_parameters()}
    stage.bridge.zero_grad()
    return torch.stack(sums), gradients


def keeps_half(rank: int) -> None:
    """A rank holds half of the layers' bytes, and the rest whole."""
    whole, shared = TOWERS["llama"](), TOWERS["llama"]()
    shared.share(CPU)
    shared.gather_once()
    train_step(rank, stage_of(shared))
    for name, parameter in shared.named_parameters():
        assert isinstance(parameter, DTensor) == (".layers." in name), name
    layers = sum(p.nbytes for name, p in whole.named_parameters() if ".layers." in name)
    rest = sum(p.nbytes for name, p in whole.named_parameters() if ".layers." not in name)
    held = {
        p.to_local().untyped_storage() if isinstance(p, DTensor) else p.untyped_storage() for p in shared.parameters()
    }
    bytes_held = {storage.data_ptr(): storage.nbytes() for storage in held}
    assert sum(bytes_held.values()) == layers // 2 + rest
