"""OpenWebText as tokens of GPT-2, streamed and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from phasezoo import settings
from phasezoo.cache import cache_directory
from phasezoo.errors import DataNotFoundError, DependencyError, FormatError
from phasezoo.progress import bar
from phasezoo.source import partial_name
from phasezoo.training.data.image_sets import local_folders, missing, parquet_files
from phasezoo.training.data.text import Text

REPOSITORY, COLUMN = "Skylion007/openwebtext", "text"
FOLDERS = ("plain_text", "data", ".")  # where its Parquet files may lie
TOKENIZER = "openai-community/gpt2"
SEPARATOR = "<|endoftext|>"
VOCAB = 50257
TOKENS = 100_000_000

Encode = Callable[[str], list[int]]


def openwebtext(*, tokens: int = TOKENS) -> Text:
    """Return the first tokens of OpenWebText; the first hundredth of them is held out for testing.

    Documents are streamed, encoded by GPT-2's byte pairs and closed by its end-of-text token, until there are enough;
    the result is kept in the cache. The whole corpus has about 9 billion tokens. The published recipe states neither
    how many were used nor what was held out.

    Looked for in the folder ``openwebtext`` of ``PHASEZOO_DATA`` (Parquet files as on the Hub), then on the Hub. The
    byte pairs come with tiktoken or transformers, which download them once, or from ``vocab.json`` and ``merges.txt``
    in the folder ``gpt2`` of ``PHASEZOO_DATA``, which transformers reads.

    Args:
        tokens: how many tokens; fewer if there are fewer.

    Raises:
        DataNotFoundError: the text or the byte pairs are neither here nor within reach.
        DependencyError: neither tiktoken nor transformers is installed, or the one that is needed.
        FormatError: the files hold no text.
    """
    folder = next(iter(local_folders("openwebtext")), None)
    paths = next((found for f in FOLDERS if folder and (found := parquet_files(folder / f, "train"))), [])
    files = [*(paths or [REPOSITORY]), *(_tokenizer_files() or [TOKENIZER])]
    origin = [(str(f), os.path.getsize(f), os.path.getmtime(f)) if os.path.isfile(f) else f for f in files]
    key = hashlib.sha256(json.dumps([origin, tokens]).encode()).hexdigest()[:16]
    kept = cache_directory() / "tokens" / f"openwebtext-{key}.safetensors"
    if not kept.is_file():
        encode, vocab = byte_pairs()
        try:
            text = _encoded(_documents(paths), encode, vocab=vocab, tokens=tokens)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, FormatError):
                raise
            tried = [f"{folder} has no Parquet files"] if folder else []
            raise DataNotFoundError(missing("openwebtext", "OpenWebText", REPOSITORY, tried, error)) from None
        _keep(text, kept)
    return _kept(kept)


def byte_pairs() -> tuple[Encode, int]:
    """Return what encodes a document by GPT-2's byte pairs, end-of-text token included, and the number of tokens.

    Raises:
        DataNotFoundError: the byte pairs are neither here nor within reach.
        DependencyError: the library that reads them is not installed.
    """
    files = _tokenizer_files()
    for load in (_transformers,) if files else (_tiktoken, _transformers):
        try:
            return load()
        except ImportError:
            continue
        except (OSError, ValueError) as error:
            raise DataNotFoundError(
                f"GPT-2's byte pairs cannot be read from {files[0].parent if files else 'the network'} "
                f"({str(error).splitlines()[0]}). Connect to the network, or copy vocab.json and merges.txt of the "
                f"Hub's {TOKENIZER} into a directory DIR/gpt2 and set PHASEZOO_DATA=DIR."
            ) from None
    if files:
        raise DependencyError(
            f"the byte pairs in {files[0].parent} are read by transformers: pip install transformers."
        )
    raise DependencyError("text is encoded by tiktoken or transformers: pip install 'phasezoo[text]'.")


def _tokenizer_files() -> tuple[Path, Path] | None:
    root = settings.data()
    files = [Path(root) / "gpt2" / name for name in ("vocab.json", "merges.txt")] if root else []
    return (files[0], files[1]) if files and all(path.is_file() for path in files) else None


def _tiktoken() -> tuple[Encode, int]:
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    return lambda document: [*encoding.encode_ordinary(document), encoding.eot_token], encoding.n_vocab


def _transformers() -> tuple[Encode, int]:
    from transformers import GPT2TokenizerFast

    files = _tokenizer_files()
    tokenizer = GPT2TokenizerFast.from_pretrained(str(files[0].parent) if files else TOKENIZER)
    end = tokenizer.convert_tokens_to_ids(SEPARATOR)
    # A document that spells the separator out does not end there.
    return lambda document: [*tokenizer(document, split_special_tokens=True)["input_ids"], end], len(tokenizer)


def _documents(paths: list[str]) -> Iterator[str]:
    import datasets

    rows: Any
    if paths:
        rows = datasets.load_dataset("parquet", data_files={"rows": paths}, split="rows", streaming=True)
    else:
        rows = datasets.load_dataset(REPOSITORY, split="train", streaming=True)
    for row in rows:
        if not isinstance(row.get(COLUMN), str):
            raise FormatError(f"the rows have no text in a column {COLUMN!r}, but columns {', '.join(row)}.")
        yield row[COLUMN]


def _encoded(documents: Iterator[str], encode: Encode, *, vocab: int, tokens: int) -> Text:
    numbers, digest = array("i"), hashlib.sha256()
    with bar("encoding OpenWebText", total=tokens, unit="token") as progress:
        for document in documents:
            found = encode(document)
            numbers.extend(found)
            digest.update(f"{document}{SEPARATOR}".encode())
            progress.update(min(len(found), tokens - progress.n))
            if len(numbers) >= tokens:
                break
    if not numbers:
        raise FormatError("the files of OpenWebText hold no document.")
    every = torch.frombuffer(numbers, dtype=torch.int32)[:tokens]
    cut = -(-len(every) // 100)
    return Text(every[cut:], every[:cut], vocab, digest.hexdigest())


def _keep(text: Text, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = partial_name(path)
    try:
        tensors = {"train": text.train.clone(), "test": text.test.clone()}
        save_file(tensors, unfinished, metadata={"vocab": str(text.vocab), "sha256": text.sha256})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _kept(path: Path) -> Text:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        notes = file.metadata()
        return Text(file.get_tensor("train"), file.get_tensor("test"), int(notes["vocab"]), notes["sha256"])
