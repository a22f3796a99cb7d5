"""The `phasezoo` command. Errors are one line; a user's mistake exits with 2, damage with 1."""

from __future__ import annotations

import sys
from typing import NoReturn

try:
    import typer
except ImportError:
    sys.exit("The phasezoo command needs typer: pip install 'phasezoo[cli]'")

import phasezoo.cli.browse  # these add their commands to the app
import phasezoo.cli.cache
import phasezoo.cli.check
import phasezoo.cli.make
import phasezoo.cli.share  # noqa: F401
from phasezoo.cli.app import app
from phasezoo.errors import IntegrityError, PhaseZooError


def main() -> None:
    """Run the command; the entry point."""
    try:
        code = app(standalone_mode=False)
    except IntegrityError as error:
        _fail(1, str(error))
    except (PhaseZooError, ValueError) as error:
        _fail(2, str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(130, "interrupted")
    except Exception as error:
        # typer brings its own copy of click or uses the installed one, by version: know its errors by their method.
        if not hasattr(error, "format_message"):
            raise
        if not sys.argv[1:]:
            error.show()  # type: ignore[attr-defined]  # the help text
            sys.exit(2)
        _fail(2, f"{error.format_message().rstrip('.')}. See `phasezoo --help`.")
    sys.exit(code or 0)


def _fail(code: int, message: str) -> NoReturn:
    typer.echo("phasezoo: " + " ".join(message.split()), err=True)
    sys.exit(code)
