"""What a study is told: one typed, checked value, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from openwork.errors import StudyError
from openwork.patterns import Causal, Pattern, parse_pattern
from openwork.plan import Plan
from openwork.study.checkpoint_source import TUNINGS, CheckpointSource
from openwork.study.contender import Contender, contender_from_text, file_digest, with_digest
from openwork.study.model_source import function_source, model_source
from openwork.study.shapes import MODEL_SHAPES, ModelShape
from openwork.train import DenseThenSparse, Schedule
from openwork.train.kinds import OPTIMIZERS

__all__ = [
    "CONTROL",
    "DENSE",
    "MODEL_SHAPES",
    "Contender",
    "ModelShape",
    "StudyConfig",
    "contender_from_text",
    "with_contenders",
    "with_digests",
]

DENSE = "dense"
"""Name of the baseline that is part of every study."""

CONTROL = "control"
"""Name of the plan that must lose, where the study can tell plans apart at all."""

_CURVE_SHARE = 8
"""An evaluation on the way takes one in so many of the held-out sequences that count at the end."""
_FEWEST_CURVE_TOKENS = 4096

_MATRIX_LR = 2e-2
"""Default of `matrix_lr`."""
_MOST_TOKENS = 1 << 27
"""Tokens of a step above which a typing error is likelier than a machine that could hold them."""
_LR = {"muon": 2e-2, "adamw": 4e-3}
"""Default of `lr` by optimizer."""
_TUNING_LR = {"all": 5e-5, "attention": 1e-4, "lora": 5e-4}
"""Default of `lr` by what is tuned: weights that were trained already are moved little, adapters begin at nothing."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Everything that decides what a study does; two equal ones give the same losses, bit for bit.

    The dense baseline is always part of it and is not named here.
    """

    data: Path
    """Directory (or one file) of text to train and judge on."""
    out: Path = Path("openwork-study")
    """Directory for checkpoints, record and report."""
    contenders: tuple[Contender, ...] = ()
    """The plans to compare with dense attention."""
    dense_steps: int = 0
    """Optimizer steps at the start of each run that use dense attention: `DenseThenSparse` for every plan that has no
    schedule of its own."""
    seq_len: int = 1024
    """Tokens of each training sequence."""
    batch_size: int = 4
    """Sequences in each optimizer step."""
    accumulate: int = 1
    """Parts, one after the other, that a step's sequences are cut into: memory falls, the step is the same."""
    checkpointing: bool = False
    """Whether the backward pass computes each block again: memory falls, time rises, losses stay."""
    optimizer: str = ""
    """`muon` (for matrices; AdamW for the rest) or `adamw`; by default `muon`, and `adamw` to tune a checkpoint."""
    lr: float | None = None
    """Highest learning rate of AdamW, by default 0.02 beside Muon and 0.004 where it updates the matrices too; where a
    checkpoint is tuned 5e-5 for all weights, 1e-4 for attention and 5e-4 for adapters."""
    matrix_lr: float | None = None
    """Highest learning rate of Muon, 0.02 by default; `None` with `adamw`."""
    tokenizer: str = ""
    """`bytes`, `bpe`, `bpe:VOCABULARY` trained on the data, the path of a `tokenizer.json`, or `model`: that of the
    checkpoint. By default `bpe`, and `model` where a checkpoint is tuned."""
    steps: int | None = None
    """Optimizer steps of each run; the rate falls along a cosine over them. 300 where `seconds` is not given either."""
    seconds: float | None = None
    """Training seconds of each run; with `steps` too, whichever ends first."""
    seed: int = 0
    """Seed of the model's first weights and of the order of the data."""
    seeds: int = 1
    """Number of seeds, counted up from `seed`; each plan is trained once with each."""
    control: bool = False
    """Whether `Causal() & Window(before=31)` is trained too: only where it loses can quality be told apart."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    dtype: str = "float32"
    """`float32` or `bfloat16` (autocast; parameters stay float32)."""
    model: str = "small"
    """Shape of the model, one of `MODEL_SHAPES`; or `FILE.py:FUNCTION` (`package.module:FUNCTION`), a function that is
    called with the number of token ids and returns a model of the user's own; or the folder of a Hugging Face
    checkpoint to `tune`; or a `config.json`, whose model begins with random weights."""
    tune: str | None = None
    """What of a checkpoint is trained: `all`, `attention` (the weights of its attention layers) or `lora` (low-rank
    adapters on these)."""
    metric: str | None = None
    """`FILE.py:FUNCTION` or `package.module:FUNCTION`, called with the model and its tokenizer, both of transformers;
    it returns a number, or numbers by name."""
    model_sha256: str | None = None
    """Digest of the file that the user's own model is in; the study fills it in."""
    metric_sha256: str | None = None
    """Digest of the file that `metric` is in; the study fills it in."""
    tokenizer_sha256: str | None = None
    """Digest of the tokenizer's file, where `tokenizer` names one; the study fills it in."""
    features_sha256: str | None = None
    """Digest of the file of `features`; the study fills it in."""
    warmup_steps: int = 20
    """Optimizer steps in which the rate rises to `lr`."""
    weight_decay: float = 0.1
    """Decay of matrices, times the learning rate; vectors are not decayed."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    eval_tokens: int = 262_144
    """Most held-out tokens that quality is measured on, in tokens."""
    eval_every: int | None = None
    """Optimizer steps between measurements of held-out quality on the way, on an eighth of `eval_tokens` (at least
    4,096 tokens); 0 for only at the end. `None` is at each eighth of the steps or of the seconds."""
    include: tuple[str, ...] = ()
    """Names of files to read, with `*` and `?`; all text files where empty."""
    exclude: tuple[str, ...] = ()
    """Names of files or directories to leave out, with `*` and `?`."""
    features: Path | None = None
    """GFF3 or BED file: flags on FASTA sequences, taken to be knowledge that is there before the first base."""
    max_bytes: int = 1 << 28
    """Most bytes of text to read, in bytes; files beyond it are left out, and the report says so."""
    checkpoint_seconds: float = 10.0
    """Seconds of training between checkpoints."""
    isolate: bool = True
    """Whether each run has a process of its own, so that its peak memory is its own."""
    watts: float | None = None
    """What the device draws while it trains, in watts; `None` for `measure.stated_power`."""
    gco2_per_kwh: float = 475.0
    """Grams of CO2e for each kWh of the region's electricity; the default is the world's average
    (`measure.WORLD_GCO2_PER_KWH`)."""
    pue: float = 1.0
    """All that the data centre draws over what its computers draw."""
    memory_gb: float | None = None
    """Memory that batches have to fit into, in GB (1e9 bytes); `None` for what the device has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", Path(self.data))
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "features", None if self.features is None else Path(self.features))
        if self.steps is None and self.seconds is None:
            object.__setattr__(self, "steps", 300)
        if not self.optimizer:
            object.__setattr__(self, "optimizer", "adamw" if self.tune else "muon")
        if not self.tokenizer:
            object.__setattr__(self, "tokenizer", "model" if self.tune else "bpe")
        if self.lr is None and self.optimizer in _LR:
            object.__setattr__(self, "lr", _TUNING_LR.get(self.tune or "", _LR[self.optimizer]))
        if self.matrix_lr is None and self.optimizer == "muon":
            object.__setattr__(self, "matrix_lr", _MATRIX_LR)
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):
                raise StudyError(f"{option(name)} must be {low} or more; got {value}.")
        for name in ("lr", "matrix_lr", "clip_norm", "seconds", "watts", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise StudyError(f"{option(name)} must be more than 0 and finite; got {value}.")
        if self.batch_size * self.seq_len > _MOST_TOKENS:
            raise StudyError(
                f"a step of --batch-size {self.batch_size} times --seq-len {self.seq_len} is "
                f"{self.batch_size * self.seq_len:,} tokens; at most {_MOST_TOKENS:,} are taken. Lower one of them."
            )
        if self.seed + self.seeds > 1 << 64:
            raise StudyError(f"--seed must be below 2^64, with room for --seeds {self.seeds}; got {self.seed}.")
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(value for value in allowed if value is not None)
                raise StudyError(f"{option(name)} must be one of {known}; got {getattr(self, name)!r}.")
        if self.matrix_lr is not None and self.optimizer != "muon":
            raise StudyError(
                f"--matrix-lr is the rate of Muon, but --optimizer is {self.optimizer}; leave it out, or set --lr."
            )
        if self.batch_size % self.accumulate:
            raise StudyError(
                f"--accumulate {self.accumulate} must divide --batch-size {self.batch_size}: a step's sequences are "
                "cut into so many equal parts."
            )
        self._check_model()
        self._check_measurements()
        names = [contender.name for contender in self.contenders]
        taken = {DENSE, *([CONTROL] if self.control else [])}
        for position, name in enumerate(names):
            if name in taken:
                what = "the baseline, which is always part of a study" if name in (DENSE, CONTROL) else "given twice"
                raise StudyError(f"plan {name!r} (number {position + 1}) is {what}; leave it out or name it otherwise.")
            taken.add(name)
        shape = MODEL_SHAPES.get(self.model)
        for contender in self.contenders:
            # a model of the user's own is asked when the study begins
            if contender.plan is not None and shape is not None:
                contender.plan.check(shape.num_layers, shape.q_heads)

    def _check_model(self) -> None:
        source = model_source(self.model)
        checkpoint = isinstance(source, CheckpointSource)
        if self.tune is not None and (not isinstance(source, CheckpointSource) or source.is_config):
            raise StudyError(
                f"--tune {self.tune} tunes a checkpoint: --model is its folder, with weights and tokenizer; got "
                f"{self.model!r}."
            )
        if self.metric is not None and function_source(self.metric) is None:
            raise StudyError(f"--metric is FILE.py:FUNCTION or package.module:FUNCTION; got {self.metric!r}.")
        if self.metric is not None and not checkpoint:
            raise StudyError(
                "--metric is called with a model and a tokenizer of transformers: --model is the folder of a "
                f"checkpoint, or a config.json; got {self.model!r}."
            )
        if self.tokenizer == "model" and not checkpoint:
            raise StudyError(f"--tokenizer model is that of a checkpoint, but --model is {self.model!r}.")
        if self.tokenizer != "model" and self.tune is not None:
            raise StudyError(
                f"--tokenizer {self.tokenizer}: a checkpoint is tuned with the tokenizer that it was trained with; "
                "leave the option out."
            )

    def _check_measurements(self) -> None:
        reading = [c for c in self.contenders if c.schedule is not None and c.schedule.reads_validation]
        unknown = self.eval_every is None and self.seconds is not None
        if reading and (self.eval_every == 0 or unknown):
            why = "when they come would depend on the clock" if unknown else "there are none"
            raise StudyError(
                f"the schedule of plan {reading[0].name!r} reads measurements of validation, and {why}: say "
                "--eval-every N, in steps."
            )

    @property
    def micro_batch_size(self) -> int:
        """Sequences that are computed at once."""
        return self.batch_size // self.accumulate

    @property
    def everyone(self) -> tuple[Contender, ...]:
        """All plans to train: the dense baseline first, the control last where it is wanted."""
        dense = Contender(name=DENSE, plan=Plan(default=Causal()))
        pattern = parse_pattern("Causal() & Window(before=31)")
        control = (Contender(name=CONTROL, plan=Plan(default=pattern)),) if self.control else ()
        others = [replace(entry, schedule=self.schedule_of(entry)) for entry in (*self.contenders, *control)]
        return (dense, *others)

    def schedule_of(self, contender: Contender) -> Schedule | None:
        """A plan's own schedule, or what `dense_steps` says; the dense baseline has none."""
        if contender.schedule is not None or not self.dense_steps or contender.name == DENSE:
            return contender.schedule
        return DenseThenSparse(steps=self.dense_steps)

    def num_eval_sequences(self, available: int) -> int:
        """Held-out sequences that quality is measured on, of those that there are."""
        return min(available, max(1, self.eval_tokens // self.seq_len))

    def num_curve_sequences(self, available: int) -> int:
        """Of those, the first ones, on which quality is measured on the way: whole batches."""
        total = self.num_eval_sequences(available)
        wanted = max(-(-_FEWEST_CURVE_TOKENS // self.seq_len), -(-total // _CURVE_SHARE))
        return min(total, -(-wanted // self.batch_size) * self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values; paths are absolute, so that it means the same from anywhere."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["data"], content["out"] = str(self.data.absolute()), str(self.out.absolute())
        content["features"] = None if self.features is None else str(self.features.absolute())
        content["contenders"] = [contender.to_dict() for contender in self.contenders]
        content["include"], content["exclude"] = list(self.include), list(self.exclude)
        if (path := Path(self.tokenizer)).suffix == ".json":
            content["tokenizer"] = str(path.absolute())
        if (source := model_source(self.model)) is not None:
            content["model"] = source.absolute
        if self.metric is not None and (metric := function_source(self.metric)) is not None:
            content["metric"] = metric.absolute
        for name in (*_DIGESTS, "tune", "metric"):
            if content[name] is None:
                # records from before there was one say the same
                del content[name]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StudyConfig:
        """The configuration that `to_dict` wrote."""
        values = dict(content)
        values["contenders"] = tuple(map(Contender.from_dict, content["contenders"]))
        values["include"], values["exclude"] = tuple(content["include"]), tuple(content["exclude"])
        return cls(**values)


_AT_LEAST = {
    "dense_steps": 0,
    "seq_len": 2,
    "batch_size": 1,
    "accumulate": 1,
    "steps": 1,
    "seeds": 1,
    "seed": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "eval_tokens": 1,
    "eval_every": 0,
    "max_bytes": 1,
    "checkpoint_seconds": 0,
    "gco2_per_kwh": 0,
    "pue": 1,
}
_ONE_OF = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "dtype": ("float32", "bfloat16"),
    "optimizer": OPTIMIZERS,
    "tune": (None, *TUNINGS),
}
_FREE = {"checkpoint_seconds", "isolate", "out", "watts", "gco2_per_kwh", "pue", "memory_gb"}
"""Fields that change nothing in the losses, so that a resumed study may change them."""
_DIGESTS = {
    "model_sha256": "model",
    "metric_sha256": "metric",
    "tokenizer_sha256": "tokenizer",
    "features_sha256": "features",
}
"""Digests of files, and the fields that name these; a record from before there was one does not know it."""


def option(name: str) -> str:
    """The command-line option of a field, as messages name it."""
    return {"contenders": "--pattern, --plan or --mask"}.get(name, "--" + name.replace("_", "-"))


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises a `StudyError` that names the options in which two `StudyConfig.to_dict()` differ, if they do."""
    unknown = _DIGESTS.keys() - old.keys()
    changed = [name for name in {**new, **old} if name not in _FREE | unknown and old.get(name) != new.get(name)]
    if not changed:
        return
    details = []
    for name in changed:
        before, after = (
            ", ".join(plan["name"] for plan in side[name]) if name == "contenders" and name in side else side.get(name)
            for side in (old, new)
        )
        if name in _DIGESTS:
            named = _DIGESTS[name]
            if named not in changed:
                details.append(f"{option(named)} (the file of {new[named]} has changed)")
        elif before == after:
            details.append(f"{option(name)} (another plan, mask or schedule under the same name)")
        else:
            details.append(f"{option(name)} (was {before}, now {after})")
    raise StudyError(
        f"{new['out']} holds a study with other options: {'; '.join(details)}. Repeat it as it was, start anew with "
        "--fresh, or name another --out."
    )


def with_digests(config: StudyConfig) -> StudyConfig:
    """The configuration with the digests that the user's own files have now: model, tokenizer, features and masks.

    Raises:
        StudyError: The file of the model cannot be read.
    """
    source = model_source(config.model)
    metric = None if config.metric is None else function_source(config.metric, "--metric")
    return replace(
        config,
        contenders=tuple(map(with_digest, config.contenders)),
        model_sha256=None if source is None else source.digest(),
        metric_sha256=None if metric is None else metric.digest(),
        tokenizer_sha256=file_digest(path) if (path := Path(config.tokenizer)).suffix == ".json" else None,
        features_sha256=None if config.features is None else file_digest(config.features),
    )


def with_contenders(config: StudyConfig, patterns: Sequence[str | Pattern | Plan]) -> StudyConfig:
    """The configuration with these plans added, each named by its text."""
    added = []
    for given in patterns:
        if isinstance(given, str):
            added.append(contender_from_text(given))
        else:
            plan = Plan.of(given)
            added.append(Contender(name=repr(given), plan=plan))
    return replace(config, contenders=(*config.contenders, *added))
