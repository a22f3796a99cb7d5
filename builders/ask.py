"""Ask the Hub to change a data set, again where it may help, and say in a sentence what came in the way.

Requests that `huggingface_hub` gives up at the first 503 (commits, tags, what a revision is) are tried again here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from phasezoo.errors import AccessError, PhaseZooError, WriteError
from phasezoo.source.http import transport_error
from phasezoo.source.transfer import TRANSIENT, Result, Traffic, Transient, insist, retry_after


def ask(call: Callable[[], Result], *, what: str, repo_id: str, endpoint: str, token: str, traffic: Traffic) -> Result:
    """Call the Hub library, several times if need be.

    Args:
        call: what is to be done; it may have been done already by an earlier call whose answer was lost.
        what: the same in words, as they follow "may not": ``"commit to it"``.
        repo_id: ``owner/name``.
        endpoint: address of the Hub.
        token: what it was called with; no message shows it.
        traffic: counts the failures.

    Raises:
        AccessError: the Hub does not accept the token, or the token may not do it.
        WriteError: the Hub refuses for another reason.
        SourceError: it cannot be reached, or fails again and again.
    """

    def attempt() -> Result:
        try:
            return call()
        except PhaseZooError:
            raise
        except Exception as error:
            response = _response(error)
            if _passes(error):
                header = response.headers.get("Retry-After") if response is not None else None
                raise Transient(_said(error, token), wait=retry_after(header)) from None
            if response is None:
                raise
            raise _refusal(response.status_code, _said(error, token), what, repo_id, endpoint) from None

    return insist(
        attempt,
        what=f"push to {repo_id} ({what})",
        traffic=traffic,
        advice="What was uploaded is kept for a while; the same command goes on from there.",
    )


def _said(error: Exception, token: str) -> str:
    said = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    return str(said).splitlines()[0].replace(token, "***").rstrip(".")


def _refusal(status: int, said: str, what: str, repo_id: str, endpoint: str) -> Exception:
    if status == 401:
        return AccessError(
            f"cannot push to {repo_id}: the Hub does not accept the token ({said}). Make one with write "
            f"permission at {endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )
    if status == 403:
        return AccessError(
            f"cannot push to {repo_id}: the token may not {what} ({said}). It needs write permission for "
            f"{repo_id.split('/')[0]}: see {endpoint}/settings/tokens."
        )
    if status == 412:
        return WriteError(f"somebody else changed {repo_id} meanwhile, so nothing was committed. Push again.")
    return WriteError(f"cannot push to {repo_id}: the Hub refuses to {what} ({said}).")


def _response(error: BaseException | None) -> Any:
    """Return the answer of the server that an error is about; uploads wrap it in another error."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__cause__
    return None


def _passes(error: BaseException | None) -> bool:
    """Say whether a failure may pass: the server is busy or broken, or the network is."""
    response = _response(error)
    if response is not None:
        return response.status_code in TRANSIENT or response.status_code >= 500
    while error is not None:
        # A page of HTML in place of an answer is no JSON.
        if isinstance(error, (ConnectionError, TimeoutError, json.JSONDecodeError, transport_error())):
            return True
        error = error.__cause__
    return False
