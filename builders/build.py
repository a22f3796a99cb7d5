"""Build a zoo from whatever a source is: a Ray Tune folder, a zip or URL of one, or a summary CSV."""

from __future__ import annotations

from pathlib import Path

from phasezoo.builders.raytune import build_raytune
from phasezoo.builders.summary_csv import build_summary
from phasezoo.errors import FormatError
from phasezoo.report import Built
from phasezoo.source import is_directory, open_ranges
from phasezoo.source.archive import is_zip
from phasezoo.trials import looks_like_summary


def build_zoo(
    source: str | Path,
    out: str | Path,
    *,
    zoo: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    dry_run: bool = False,
) -> Built:
    """Build a zoo; what the source is shows in its content, not in its name.

    Args:
        source: directory, file or URL.
        out: directory that does not exist yet or is empty.
        zoo: name of the published zoo that this is.
        workers: processes that build at the same time.
        ray: address of a Ray cluster that builds instead.
        dry_run: only say what would be built.

    Raises:
        FormatError: the source is none of these.

    >>> import phasezoo, tempfile
    >>> few = phasezoo.load("mlp-digits").filter("width == 8 and lr >= 0.08")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raw = few.export(f"{folder}/digits")  # the folders of a Ray Tune experiment
    ...     built = build_zoo(raw, f"{folder}/zoo")
    ...     print(f"{built.checkpoints} checkpoints in", phasezoo.load(f"{folder}/zoo"))
    24 checkpoints in Zoo(digits: 6 models in 2 cells of width x lr, 65.5 kB of weights)
    """
    if is_directory(source):
        return build_raytune(source, out, zoo=zoo, workers=workers, ray=ray, dry_run=dry_run)
    file = open_ranges(str(source))
    if is_zip(file):
        return build_raytune(source, out, zoo=zoo, workers=workers, ray=ray, dry_run=dry_run)
    if looks_like_summary(file.read(0, min(file.size, 4096))):
        return build_summary(source, out, zoo=zoo, dry_run=dry_run)
    raise FormatError(
        f"{source} is neither a Ray Tune folder, a zip of one, nor a summary CSV. Give one of these, or a URL of one."
    )
