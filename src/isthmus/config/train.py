"""How the bridge is trained."""

from typing import Literal

from pydantic import Field, model_validator

from isthmus.config.base import Section
from isthmus.config.model import Count, Probability


class ObjectivesConfig(Section):
    """Switches of stage 1's objectives; the defaults follow the paper."""

    gather: Literal["exact", "detached"] = "exact"
    """ITC's gradient over gathered rows; the original: detached."""
    identity: Literal["image_or_caption", "image", "off"] = "image_or_caption"
    """Which rows are the same thing; the original: off."""
    negatives: Literal["uniform_then_hard", "hard"] = "uniform_then_hard"
    """How ITM's negatives are drawn; the original: hard from the first step."""
    uniform_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the run with uniform negatives first."""
    itm_every: Count = 1
    """ITM on every so-many-th row of a step alone, which is most of a step's time: 4 takes it on a quarter."""
    itc_smoothing: Probability = 0.1
    """Label smoothing of ITC."""
    itg_smoothing: Probability = 0.1
    """Label smoothing of ITG."""
    clamp_temperature: bool = True
    """Hold the temperature in [0.001, 0.5]; the original: false."""

    @model_validator(mode="after")
    def _keys_do_something(self) -> "ObjectivesConfig":
        if self.negatives == "hard" and self.uniform_share != 0:  # which is what hard negatives mean
            self.refuse(("uniform_share",), "says nothing about negatives that are hard from the first step")
        return self


BOOKKEEPING = {
    *("log_every", "evaluate_every", "save_every", "save_minutes", "keep", "best", "best_is"),
    *("trackers", "tracker_project", "timeout_minutes"),
}
"""Keys that say when something is written, and change nothing in what is trained."""


class TrainConfig(Section):
    """The optimizer, its schedule, and what is written when."""

    steps: Count
    """Optimizer steps of the whole run."""
    batch_size: Count
    """Image-text pairs per process and micro-batch."""
    accumulation: Count = 1
    """Micro-batches per optimizer step; in stage 1, where ITC's negatives are the batch, with `chunked` alone."""
    chunked: bool = False
    """Stage 1 only: the micro-batches of a step, on all processes, are one contrastive batch that need not fit into
    memory, at about a third more arithmetic; needs `features.folder`, since patches are read again."""
    last_batch: Literal["drop", "keep"] = "drop"
    """Rows that do not fill the last batch of all processes in an epoch: left out of it, or a shorter batch."""
    group_by_length: bool = False
    """Stage 2 only: batches of captions of like length, which leaves less padding; rows change places within 32 batches
    of all processes. In stage 1 the captions of a batch are each other's negatives."""
    compile: bool = False
    """Train through torch.compile, which takes minutes at the start and a C++ compiler on a CPU; on a CPU it gained
    nothing in fp32 (docs/log.md)."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate of tensors that started from a checkpoint."""
    lr_new: float | None = Field(default=None, gt=0)
    """Peak learning rate of tensors that started random; empty: `lr`."""
    lr_projection: float | None = Field(default=None, gt=0)
    """Peak learning rate of the projection into the language model; empty: `lr_new` where it starts anew, else `lr`."""
    beta1: Probability = 0.9
    """AdamW's decay of the gradient's mean."""
    beta2: Probability = 0.98
    """AdamW's decay of the gradient's square (the paper's 0.98)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of tensors with two or more axes; vectors and norms are never decayed."""
    decay_temperature: bool = False
    """Stage 1 only: decay the temperature too, which pulls it to 0; the original: true."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    warmup_from: float = Field(default=0.0, ge=0, le=1)
    """Where it rises from, as a share of the peak; the original: 0.01."""
    schedule: Literal["step", "epoch"] = "step"
    """What the cosine moves with; `epoch`: the warm-up stands in the first alone; the original: epoch."""
    lr_min: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of the peak."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    log_every: Count = 10
    """Optimizer steps between lines of the log."""
    evaluate_every: Count | None = None
    """Optimizer steps between evaluations; empty: only at the end."""
    save_every: Count | None = None
    """Optimizer steps between checkpoints, from which a stopped run goes on; empty: by time only, and at the end."""
    save_minutes: float | None = Field(default=15.0, gt=0)
    """Minutes without a checkpoint after which one is written; empty: never by time."""
    keep: Count = 2
    """How many checkpoints are kept, the newest ones; the best is kept beside them."""
    best: str | None = None
    """The figure of the evaluation by which a checkpoint is the best, such as `text_to_image.R@1`; empty: none is."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Which value of that figure is the best one."""
    stop_after_skipped: Count = 10
    """Steps in a row without a finite gradient after which the run ends, at the next line of the log."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)
    """Who is told what the log is told, besides it (the extra `trackers`)."""
    tracker_project: str = Field(default="isthmus", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    """The project, or experiment, that a run belongs to there."""
    timeout_minutes: float = Field(default=30.0, gt=0)
    """Several processes only: within how many minutes one that hangs is noticed, and the others end; longer than the
    slowest step, evaluation or saving takes. One that dies is noticed at once."""
    token_mean: Literal["global", "per_rank"] = "global"
    """What losses are divided by: all ranks' tokens, or each rank's own as in the original."""

    @model_validator(mode="after")
    def _best_is_of_something(self) -> "TrainConfig":
        if self.best is None:
            self.refuse(("best_is",), "says which value of `train.best` is the best, and that names none")
        return self

    def check_itm_rows(self, nth: int) -> None:
        """Refuse ITM on rows of which some process may have none, where every process's mean counts alike."""
        if self.token_mean == "per_rank" and self.batch_size % nth != 0:
            raise ValueError(
                f"`objectives.itm_every` is {nth} and `train.batch_size` {self.batch_size}: with `train.token_mean: "
                "per_rank` every process must have equally many rows of ITM; let the one divide the other"
            )

    def check_accumulation(self, *, stored: bool) -> None:
        """Refuse, in stage 1, micro-batches that are not joined into one contrastive batch, and joining that cannot be.

        `stored`: whether there is a feature store. Raises ValueError.
        """
        if not self.chunked:
            if self.accumulation > 1:
                raise ValueError(
                    "`train.accumulation` above 1 is refused in stage 1: ITC's negatives are the batch, and "
                    "accumulating does not enlarge it; set `train.chunked`, which joins the micro-batches, or raise "
                    "`train.batch_size` or the number of processes"
                )
        elif self.accumulation == 1:
            raise ValueError(
                "`train.chunked` joins the micro-batches of a step, and there is one; raise `train.accumulation`, or "
                "leave it out"
            )
        elif not stored:
            raise ValueError(
                "`train.chunked` reads patches again, which needs a feature store; give `features.folder` its place, "
                "or leave it out"
            )
