"""What was found wrong with the input of a zoo, and what was done about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

REPORT = "build_report.json"


@dataclass(frozen=True, order=True)
class Finding:
    """One defect of the input.

    Attributes:
        kind: what sort of defect, as one or two words with hyphens; the same for all of a sort.
        where: the file, trial or epoch.
        what: what is wrong and what was done, in a sentence.

    >>> found = [Finding("unreadable", "trial-1", "left out."), Finding("layout", "trial-2/epoch 0", "left out.")]
    >>> [finding.where for finding in sorted(found)]  # by kind, then by place
    ['trial-2/epoch 0', 'trial-1']
    """

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class Built:
    """What was (or, in a dry run, would be) built.

    >>> import tempfile
    >>> import phasezoo
    >>> from phasezoo.builders.build import build_zoo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raw = phasezoo.load("mlp-digits")[:2].export(f"{folder}/raw")
    ...     built = build_zoo(raw, f"{folder}/zoo", dry_run=True)
    >>> built.models, built.checkpoints, built.findings
    (2, 8, ())
    """

    models: int
    cells: int
    checkpoints: int
    nbytes: int
    findings: tuple[Finding, ...]


def to_json(findings: Iterable[Finding], counts: Mapping[str, int]) -> bytes:
    """Serialise a report: counts of what was built, counts of findings by kind, all findings sorted.

    >>> report = to_json([Finding("missing-model", "w2-b8-s0", "not in the file.")], {"models": 191})
    >>> json.loads(report)["findings_by_kind"]
    {'missing-model': 1}
    """
    ordered = sorted(set(findings))
    report = {
        "built": dict(counts),
        "findings_by_kind": dict(sorted(Counter(finding.kind for finding in ordered).items())),
        "findings": [asdict(finding) for finding in ordered],
    }
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
