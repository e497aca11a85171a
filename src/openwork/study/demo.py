"""The demo: four acts on source code that every machine has, on one page."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from openwork.errors import AnnotationWarning, StudyError
from openwork.layout import BlockLayout, compile_layout
from openwork.patterns import Annotations, parse_pattern
from openwork.runs import Lock, read_json, write_file, write_json
from openwork.study.acts.layer import has_transformers, measure_layer
from openwork.study.acts.reach import ReachConfig, ReachResult, measure_reach
from openwork.study.acts.scale import Scale, measure_scale
from openwork.study.acts.see import Seen, see
from openwork.study.conduct import run
from openwork.study.config import StudyConfig
from openwork.study.corpus import Corpus, read_corpus
from openwork.study.environment import environment, version_of
from openwork.study.notes import cut
from openwork.study.recipes import DEFINITIONS, WINDOW, live_study
from openwork.study.result import StudyResult
from openwork.study.tokenizer import TextTokenizer, load_tokenizer, require_tokenizers, train_bpe

__all__ = ["ACTS", "DemoConfig", "DemoResult", "run_demo"]

ACTS = {1: "see", 2: "reach", 3: "study", 4: "scale"}
"""The acts by number."""

_VOCABULARY = 2048
_BARE = 0.7
"""Share of act 4's bar for attention alone, before the layer around it."""

Report = Callable[[dict[str, Any]], None]
"""Told of progress: `act` begins one, `share` says how far it is; the study's own events come as they are."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Everything that decides what the demo does."""

    out: Path = Path("openwork-demo")
    """Directory for records and the page."""
    acts: tuple[int, ...] = tuple(ACTS)
    """Which acts, by number."""
    seconds: float = 60.0
    """Training seconds of each plan of act 3, in seconds."""
    seed: int = 0
    """Decides texts, first weights and order of acts 2 and 3."""
    scale_seconds: float = 30.0
    """Time after which act 4 begins no further round, in seconds."""
    lengths: tuple[int, ...] = (4096, 8192, 16384)
    """Tokens of act 4's layers."""
    reach: ReachConfig = field(default_factory=ReachConfig)
    """Sizes and steps of act 2."""
    study: StudyConfig | None = None
    """The study of act 3; `None` for the standard library's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        for act in self.acts:
            if act not in ACTS:
                raise StudyError(f"--act must be one of {', '.join(map(str, ACTS))}; got {act}.")
        object.__setattr__(self, "reach", replace(self.reach, seed=self.seed))
        object.__setattr__(self, "acts", tuple(sorted(set(self.acts))) or tuple(ACTS))

    @property
    def live(self) -> StudyConfig:
        """The study of act 3, in its own directory below `out`."""
        study = self.study or live_study(seconds=self.seconds)
        tokenizer = str(self.out / "tokenizer.json")
        return replace(study, out=self.out / "study", tokenizer=tokenizer, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the acts found; `None` for those that were not asked for."""

    config: DemoConfig
    """What was asked for."""
    seen: Seen | None
    """Act 1."""
    reach: ReachResult | None
    """Act 2."""
    study: StudyResult | None
    """Act 3."""
    scale: Scale | None
    """Act 4."""
    seconds: float
    """Time that this call took, in seconds."""

    @property
    def page(self) -> Path:
        """The report."""
        return self.config.out / "openwork-report.html"

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values."""
        return {
            "openwork_demo": 1,
            "see": self.seen and self.seen.result.to_dict(),
            "reach": self.reach and self.reach.to_dict(),
            "study": self.study and self.study.to_dict(),
            "scale": self.scale and self.scale.to_dict(),
        }


def run_demo(config: DemoConfig, *, fresh: bool = False, report: Report = lambda event: None) -> DemoResult:
    """Runs the acts that are asked for and writes their page.

    What an act found is kept in `config.out`: a demo that was stopped goes on with the act that it was in (the study
    where it was), and one that was done only writes its page anew.

    Args:
        config: What to do.
        fresh: Remove what an earlier demo left first.
        report: Told of progress.

    Raises:
        DataError: The code holds no text that an act could use.
        StudyError: `config.out` cannot be written or is in use, or a study cannot go on.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving.
    """
    from openwork.study.acts.page import write_demo

    require_tokenizers()
    started = time.monotonic()
    place = _Place(config.out)
    place.create()
    with Lock(config.out / "lock", holder=f"--out {config.out}"):
        if fresh:
            place.clear()
        live = config.live
        report({"event": "act", "act": 0, "what": "reading Python's standard library"})
        corpus = read_corpus(live.data, include=live.include, exclude=live.exclude, max_bytes=live.max_bytes)
        tokenizer = place.tokenizer(corpus)
        source = live.data if live.data.is_dir() else live.data.parent
        seen = reach = study = scale = None
        if 1 in config.acts:
            report({"event": "act", "act": 1, "what": "a pattern over a real file"})
            seen = see(source, tokenizer, parse_pattern(WINDOW), parse_pattern(DEFINITIONS))
        if 2 in config.acts:
            report({"event": "act", "act": 2, "what": "lookups that a mask allows or not"})
            reach = _reach(place, corpus, tokenizer, config.reach, report)
        if 3 in config.acts:
            report({"event": "act", "act": 3, "what": "dense and sparse, the same seconds"})
            study = run(live, fresh=fresh, report=report)
        if 4 in config.acts:
            report({"event": "act", "act": 4, "what": "one layer at growing lengths"})
            scale = _scale(place, corpus, tokenizer, config, report)
        result = DemoResult(
            config=config, seen=seen, reach=reach, study=study, scale=scale, seconds=time.monotonic() - started
        )
        write_demo(result)
    return result


class _Place:
    """The demo's directory."""

    _OURS = ("act-2.json", "act-4.json", "tokenizer.json", "openwork-report.html")

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(p.name for p in self.path.iterdir() if not p.name.startswith("."))
        except OSError as error:
            raise StudyError(
                f"--out {self.path} cannot be written: {error.strerror or error}. Name a directory that can."
            ) from None
        if strangers and not any(name in (*self._OURS, "lock", "study") for name in strangers):
            raise StudyError(
                f"--out {self.path} holds other files ({strangers[0]}, ...) and no demo; name an empty or a new "
                "directory."
            )

    def clear(self) -> None:
        """Removes what an earlier demo left, but its study, which clears itself."""
        for name in self._OURS:
            (self.path / name).unlink(missing_ok=True)

    def tokenizer(self, corpus: Corpus) -> TextTokenizer:
        path = self.path / "tokenizer.json"
        if not path.exists():
            write_file(path, train_bpe(corpus.texts(corpus.training), _VOCABULARY))
        return load_tokenizer(path)

    def kept(self, act: int, made_with: Any) -> dict[str, Any] | None:
        """What an act found before, where it was made in the same way."""
        content = read_json(self.path / f"act-{act}.json")
        if content is None or content.get("made_with") != self._digest(made_with):
            return None
        found: dict[str, Any] = content["found"]
        return found

    def keep(self, act: int, made_with: Any, found: dict[str, Any]) -> None:
        write_json(self.path / f"act-{act}.json", {"made_with": self._digest(made_with), "found": found})

    def _digest(self, made_with: Any) -> str:
        """Of what decides an act: what it was told, the tokenizer, the code and the machine."""
        known = {"made_with": made_with, "environment": environment("cpu")}
        text = json.dumps(known, sort_keys=True, default=str).encode()
        return hashlib.sha256(text + (self.path / "tokenizer.json").read_bytes()).hexdigest()


def _reach(place: _Place, corpus: Corpus, tokenizer: TextTokenizer, config: ReachConfig, report: Report) -> ReachResult:
    made_with = {"config": asdict(config), "data": corpus.fingerprint}
    known = place.kept(2, made_with)
    if known is not None:
        return ReachResult.from_dict(known)
    files = list(corpus.texts(corpus.training))
    tokens = (place.path / "tokenizer.json").read_text(encoding="utf-8")
    result = measure_reach(files, tokenizer, tokens, config, progress=_share(report))
    place.keep(2, made_with, result.to_dict())
    return result


def _scale(place: _Place, corpus: Corpus, tokenizer: TextTokenizer, config: DemoConfig, report: Report) -> Scale:
    made_with = {
        "lengths": config.lengths,
        "seconds": config.scale_seconds,
        "data": corpus.fingerprint,
        "transformers": version_of("transformers"),
    }
    known = place.kept(4, made_with)
    if known is not None:
        return Scale.from_dict(known)
    name, layouts, notes, compile_s = _long_layouts(corpus, tokenizer, config.lengths)
    share = _share(report)
    whole = has_transformers()
    result = measure_scale(
        layouts,
        pattern=DEFINITIONS,
        source=name,
        compile_s=compile_s,
        seconds=config.scale_seconds,
        progress=lambda done, total, what: share((_BARE if whole else 1.0) * done / total, what),
    )
    if whole:
        # one length: the layer around attention grows with it like everything else
        length = sorted(layouts)[len(layouts) // 2]
        with warnings.catch_warnings():
            # a short beginning may well define nothing
            warnings.simplefilter("ignore", AnnotationWarning)
            rows = measure_layer(
                parse_pattern(DEFINITIONS),
                cut(notes, 0, length),
                layouts[length],
                seconds=config.scale_seconds / 2,
                progress=lambda done, total, what: share(_BARE + (1 - _BARE) * done / total, what),
            )
        result = replace(result, layer=rows)
    place.keep(4, made_with, result.to_dict())
    return result


def _long_layouts(
    corpus: Corpus, tokenizer: TextTokenizer, lengths: Sequence[int]
) -> tuple[str, dict[int, BlockLayout], Annotations, dict[int, float]]:
    """Layouts of the first tokens of the longest file that is not too long, at each length, and their facts."""
    from openwork.annotate import python_source
    from openwork.study.corpus import read_text

    longest = max(lengths)
    documents = sorted(corpus.training, key=lambda document: (document.num_bytes, document.digest), reverse=True)
    for document in documents:
        text = read_text(corpus.root, document)
        offsets = tokenizer.offsets(text)[:longest]
        if len(offsets) == longest:
            break
    else:
        raise StudyError(f"no file of {corpus.root} has {longest} tokens; ask for shorter lengths.")
    notes = python_source(text[: int(offsets[-1, 1])], offsets)
    layouts, compile_s = {}, {}
    with warnings.catch_warnings():
        # a short beginning may well define nothing
        warnings.simplefilter("ignore", AnnotationWarning)
        for length in lengths:
            started = time.perf_counter()
            layouts[length] = compile_layout(
                parse_pattern(DEFINITIONS), q_len=length, kv_len=length, annotations=cut(notes, 0, length)
            )
            compile_s[length] = time.perf_counter() - started
    return document.name, layouts, notes, compile_s


def _share(report: Report) -> Callable[[float, str], None]:
    return lambda share, what: report({"event": "share", "share": share, "what": what})
