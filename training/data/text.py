"""Text as tokens: any file by its characters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from phasezoo.errors import DataNotFoundError, FormatError
from phasezoo.training.data.split import Data, Split


@dataclass(frozen=True)
class Text:
    """A text as tokens.

    Attributes:
        train: tokens ``[n]`` (int32).
        test: tokens of the part that is held out ``[m]``.
        vocab: number of different tokens.
        sha256: hash of the text, in UTF-8.

    >>> text = characters("to be or not to be")
    >>> text.vocab, len(text.train), len(text.test)
    (7, 16, 2)
    >>> len(text.windows(1).train)
    15
    """

    train: torch.Tensor
    test: torch.Tensor
    vocab: int
    sha256: str

    def windows(self, length: int) -> Data:
        """View the text as samples: `length` tokens, labelled with the ones that follow each.

        Windows lie one after another and share the memory of the tokens; what is left at the end is not used.

        Raises:
            FormatError: a part has no window of that length.

        >>> data = Text(torch.arange(8), torch.arange(5), vocab=8, sha256="").windows(3)
        >>> data.train.x.tolist(), data.train.y.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
        """
        shortest = min(len(self.train), len(self.test))
        if not 0 < length < shortest:
            raise FormatError(
                f"windows of {length} tokens were asked, and a part of the text has {shortest}: it must have one more "
                "than a window. Ask for shorter ones, or take a longer text."
            )

        def split(tokens: torch.Tensor) -> Split:
            n = (len(tokens) - 1) // length * length
            return Split(tokens[:n].view(-1, length), tokens[1 : n + 1].view(-1, length))

        return Data(split(self.train), split(self.test), classes=self.vocab)

    def to(self, device: str | torch.device) -> Text:
        """Return the text with its tokens on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def characters(text: str) -> Text:
    """Return a text by its characters, numbered in the order of their code points; the last tenth is held out.

    >>> characters("abracadabra").train.tolist()
    [0, 1, 4, 0, 2, 0, 3, 0, 1]
    """
    number = {symbol: i for i, symbol in enumerate(sorted(set(text)))}
    tokens = torch.tensor([number[symbol] for symbol in text], dtype=torch.int32)
    cut = len(tokens) * 9 // 10
    return Text(tokens[:cut], tokens[cut:], len(number), hashlib.sha256(text.encode()).hexdigest())


def text_file(path: str | Path) -> Text:
    """Return a file of text (UTF-8) by its characters.

    Raises:
        DataNotFoundError: there is no such file.
        FormatError: it is empty or not in UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}.") from None
    except OSError as error:
        raise DataNotFoundError(f"cannot read the text {path}: {error.strerror}.") from None
    if not text:
        raise FormatError(f"{path} is empty: there is nothing to learn from.")
    return characters(text)


def pydoc_topics() -> Text:
    """Return the help texts of Python by their characters: English and code, some 460 kB.

    They come with Python and differ between its versions: `sha256` says which text it was. To keep to one, write it
    to a file and load that by its path.

    Source: the module `pydoc_data.topics` of Python's standard library.

    >>> text = pydoc_topics()
    >>> len(text.train) > 300_000, text.vocab > 90
    (True, True)
    """
    from pydoc_data.topics import topics

    return characters("\n".join(topics.values()))
