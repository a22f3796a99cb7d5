"""Data sets by name: from small files in the true formats, from the real ones where they are installed."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.errors import DataNotFoundError, DependencyError, FormatError
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.training.data import Convection, Data, Split, Text, convection, exact, generated, load_data, openwebtext
from phasezoo.training.data.idx import read_idx
from phasezoo.training.data.wordnet import TINYIMAGENET
from phasezoo.training.landscape.measure import measure
from phasezoo.training.landscape.protocols import MeasureProtocol
from tests.conftest import draft
from tests.data.make_datasets import (
    DOCUMENTS,
    KINDS,
    class_names,
    idx,
    write_byte_pairs,
    write_idx,
    write_images,
    write_text,
)
from tests.hub import Hub, hub

IDX = Path("/usr/share/datasets/fashion-mnist")
every_image_set = pytest.mark.parametrize("name", KINDS)

# As the recipes of the published zoos state them.
NORMALISATION = {
    "cifar10": ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    "tinyimagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data sets and caches of these tests only, and no network."""
    monkeypatch.setenv("PHASEZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PHASEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return tmp_path / "data"


def labels_of_the_zoos(name: str, labels: np.ndarray) -> list[int]:
    """Number the classes as the zoos do: TinyImageNet's by the order of wnids.txt."""
    if name != "tinyimagenet":
        return labels.tolist()
    alphabetical = class_names(name, 200)
    return [TINYIMAGENET.index(alphabetical[label]) for label in labels]


@every_image_set
def test_images_and_labels_are_those_of_the_files(name: str, places: Path) -> None:
    written = write_images(places, name)
    data = load_data(name)
    assert isinstance(data, Data)
    assert data.classes == KINDS[name].classes
    for split, (images, labels) in zip((data.train, data.test), written.values(), strict=True):
        assert split.x.dtype == torch.uint8
        assert np.array_equal(split.x.numpy(), images.transpose(0, 3, 1, 2))
        assert split.y.tolist() == labels_of_the_zoos(name, labels)
    assert (len(data.train), len(data.test)) == (6, 5)


@every_image_set
def test_batches_are_normalised_as_published(name: str, places: Path) -> None:
    images, labels = write_images(places, name)["train"]
    mean, std = NORMALISATION[name]
    x, y = load_data(name).train.batch([3, 1])
    expected = (images[[3, 1]] / 255 - mean) / std
    np.testing.assert_allclose(x.numpy().transpose(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-5)
    assert x.dtype == torch.float32
    assert y.tolist() == labels_of_the_zoos(name, labels[[3, 1]])


def from_the_hub(tmp_path: Path, server: Hub, code: str) -> str:
    """Run code in a process that knows no hub but this one, and return what it prints."""
    environment = {
        **os.environ,
        **server.environment(tmp_path / "home"),
        **{"PHASEZOO_DATA": str(tmp_path / "pairs"), "PHASEZOO_CACHE": str(tmp_path / "cache")},
    }
    hide = "from phasezoo.training import data\ndata.image_sets.local_folders = lambda *_: []\n"
    command = [sys.executable, "-c", hide + code]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_from_the_hub_come_the_files_that_are_needed_and_no_others(tmp_path: Path) -> None:
    repositories = {
        "cifar10": "uoft-cs/cifar10",
        "cifar100": "uoft-cs/cifar100",
        "svhn": "ufldl-stanford/svhn",
        "tinyimagenet": "zh-plus/tiny-imagenet",
        "fashion-mnist": "zalando-datasets/fashion_mnist",
    }
    code = (
        "import torch\n"
        f"loaded = {{name: data.load_data(name) for name in {list(repositories)}}}\n"
        "torch.save({name: [d.train.x, d.train.y, d.test.x, d.test.y] for name, d in loaded.items()}, 'loaded.pt')\n"
    )
    with hub() as server:
        expected = {}
        for name, repository in repositories.items():
            extra = {"splits": ("train", "test", "extra")} if name == "svhn" else {}
            expected[name] = write_images(tmp_path, name, **extra)
            server.seed(repository, tmp_path / name)
        from_the_hub(tmp_path, server, code)
        fetched = {str(path) for path in server.asked("GET .*parquet")}
    assert len(fetched) >= 2 * len(expected)
    assert not [path for path in fetched if "extra" in path], "SVHN has a third split of 1 GB"
    for name, tensors in torch.load(tmp_path / "loaded.pt").items():
        train, test, *_ = expected[name].values()
        for (images, labels), x, y in ((train, *tensors[:2]), (test, *tensors[2:])):
            assert np.array_equal(x.numpy(), images.transpose(0, 3, 1, 2))
            assert y.tolist() == labels_of_the_zoos(name, labels)


def test_from_the_hub_comes_as_much_text_as_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the reader of byte pairs in files")
    with hub() as server:
        write_text(tmp_path)
        server.seed("Skylion007/openwebtext", tmp_path / "openwebtext")
        write_byte_pairs(tmp_path / "pairs")
        assert from_the_hub(tmp_path, server, "print(len(data.openwebtext(tokens=40).train))").split() == ["39"]


def test_several_parquet_files_of_a_split_are_read_in_order_and_other_configurations_are_not(places: Path) -> None:
    first = write_images(places, "svhn", files="{config}/{split}-00000-of-00002.parquet")
    second = write_images(places, "svhn", files="{config}/{split}-00001-of-00002.parquet", seed=1)
    write_images(places, "svhn", config="full_numbers", seed=2)
    expected = first["train"][1].tolist() + second["train"][1].tolist()
    assert load_data("svhn").train.y.tolist() == expected


def test_plain_parquet_files_of_another_writer_are_read_too(places: Path) -> None:
    import pyarrow.parquet as pq

    written = write_images(places, "cifar10")
    for path in (places / "cifar10").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert load_data("cifar10").train.y.tolist() == written["train"][1].tolist()


def test_idx_files_are_read_as_debian_installs_them(places: Path) -> None:
    written = write_idx(places / "fashion-mnist")
    data = load_data("fashion-mnist")
    for split, (images, labels) in zip((data.train, data.test), written.values(), strict=True):
        assert np.array_equal(split.x.numpy(), images.transpose(0, 3, 1, 2))
        assert split.y.tolist() == labels.tolist()


@pytest.mark.skipif(not IDX.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_whole_and_its_normalisation_is_its_own() -> None:
    data = load_data("fashion-mnist")
    assert data.train.y.bincount().tolist() == [6000] * 10
    assert data.test.y.bincount().tolist() == [1000] * 10
    pixels = data.train.x.double() / 255
    assert data.train.mean == (pytest.approx(pixels.mean().item(), abs=5e-5),)
    assert data.train.std == (pytest.approx(pixels.std().item(), abs=5e-5),)


@pytest.mark.parametrize("damage", ["cut", "compressed and cut", "signed", "empty"])
def test_a_damaged_idx_file_is_refused(damage: str, tmp_path: Path) -> None:
    whole = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))
    path = tmp_path / "file"
    path.write_bytes(whole)
    assert read_idx(path).tolist() == np.arange(12).reshape(3, 4).tolist()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "compressed and cut": gzip.compress(whole)[:-9],
            "signed": whole[:2] + b"\x09" + whole[3:],
            "empty": b"",
        }[damage]
    )
    with pytest.raises(FormatError, match="Copy it again"):
        read_idx(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ("picture", "label")}, r"no column 'img', but picture, label.*uoft-cs/cifar10"),
        ({"shape": (32, 31, 3)}, r"image 0 of 'train' .* is 31x32 pixels; those of CIFAR-10 are 32x32"),
        ({"classes": 11}, r"from 0 to 10; CIFAR-10 has one label an image, from 0 to 9"),
    ],
)
def test_files_that_hold_something_else_are_refused(changes: dict, message: str, places: Path) -> None:
    write_images(places, "cifar10", **changes)
    with pytest.raises(FormatError, match=message):
        load_data("cifar10")


def test_tinyimagenet_without_the_names_of_its_classes_is_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.data.make_datasets.class_names", lambda *_: [str(i) for i in range(200)])
    write_images(places, "tinyimagenet")
    with pytest.raises(FormatError, match="do not name the 200 classes"):
        load_data("tinyimagenet")


def test_what_is_not_here_says_where_it_was_looked_for_and_how_to_get_it(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        load_data("cifar10")
    assert isinstance(caught.value, FileNotFoundError)
    for part in (
        f"{places / 'cifar10'} has neither Parquet nor idx files of its split 'train'",
        "the Hub's uoft-cs/cifar10 cannot be read",
        f"hf download --repo-type dataset uoft-cs/cifar10 --local-dir {places}/cifar10",
    ):
        assert part in str(caught.value)
    monkeypatch.delenv("PHASEZOO_DATA")
    with pytest.raises(DataNotFoundError, match=r"--local-dir DIR/svhn and set PHASEZOO_DATA=DIR"):
        load_data("svhn")


def test_an_unknown_name_lists_those_that_exist() -> None:
    for function in (load_data, generated):
        with pytest.raises(DataNotFoundError, match=r"no data set 'cifra10'.* Did you mean 'cifar10'\?.*convection"):
            function("cifra10")


def test_digits_come_flat_and_as_images() -> None:
    flat, square = load_data("digits"), load_data("digits-8x8")
    assert torch.equal(flat.train.x.view(-1, 1, 8, 8), square.train.x)
    assert torch.equal(flat.test.y, square.test.y)
    assert flat.train.x.mean().item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(flat.train.batch(slice(None))[0], flat.train.x)


def test_batches_are_a_sequence_that_can_be_read_again(places: Path) -> None:
    write_images(places, "cifar10")
    split = load_data("cifar10").train
    batches = split.batches(4)
    assert [len(y) for _, y in batches] == [4, 2] == [len(y) for _, y in batches]
    assert len(batches) == 2
    assert torch.equal(torch.cat([x for x, _ in batches]), split.batch(slice(None))[0])
    assert torch.equal(batches[-1][0], batches[1][0])
    assert len(batches[:1]) == 1
    with pytest.raises(IndexError):
        batches[2]


def test_taking_samples_and_moving_keep_what_normalises(places: Path) -> None:
    write_images(places, "cifar10")
    split = load_data("cifar10").train
    assert torch.equal(split.take([4, 2]).batch(slice(None))[0], split.batch([4, 2])[0])
    assert split.to("meta").mean == split.mean
    assert load_data("cifar10").to("meta").test.x.is_meta


def test_characters_are_numbered_by_code_point_and_the_last_tenth_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    words = "zebra älter €uro\n" * 20
    path.write_bytes(words.encode())
    text = load_data(str(path))
    assert isinstance(text, Text)
    symbols = sorted(set(words))
    assert "".join(symbols[i] for i in torch.cat([text.train, text.test])) == words
    assert (len(text.train), text.vocab) == (len(words) * 9 // 10, len(symbols))
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_topics_of_pydoc_are_those_of_this_python() -> None:
    from pydoc_data.topics import topics

    text = load_data("pydoc-topics")
    assert len(text.train) + len(text.test) == sum(map(len, topics.values())) + len(topics) - 1
    assert int(torch.cat([text.train, text.test]).max()) == text.vocab - 1
    assert text.sha256 == load_data("pydoc-topics").sha256


def test_windows_tile_the_text_and_share_its_memory() -> None:
    text = Text(torch.arange(100, dtype=torch.int32), torch.arange(23, dtype=torch.int32), vocab=100, sha256="")
    data = text.windows(8)
    assert (len(data.train), len(data.test), data.classes) == (12, 2, 100)
    assert data.train.x.flatten().tolist() == list(range(96))
    assert torch.equal(data.train.y, data.train.x + 1)
    assert data.train.x.data_ptr() == text.train.data_ptr()
    x, y = data.train.batch([0])
    assert x.dtype == y.dtype == torch.int64
    with pytest.raises(FormatError, match="windows of 23 tokens were asked, and a part of the text has 23"):
        text.windows(23)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", FormatError, "is empty"),
        (b"caf\xe9", FormatError, "not text in UTF-8"),
        (None, DataNotFoundError, "no file"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes | None, error: type, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_data(str(path))


def reference_tokens(places: Path) -> list[int]:
    """The documents by transformers' own tokenizer, each closed by the end-of-text token."""
    transformers = pytest.importorskip("transformers", reason="the reader of byte pairs in files")
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(places / "gpt2")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokens = []
    for document in DOCUMENTS:
        found = tokenizer(document, split_special_tokens=True)["input_ids"]
        assert end not in found, "a document that spells the token out does not end there"
        tokens += [*found, end]
    return tokens


def test_openwebtext_is_its_documents_in_byte_pairs_each_closed(places: Path) -> None:
    write_text(places)
    vocab = write_byte_pairs(places)
    expected = reference_tokens(places)
    text = load_data("openwebtext")
    assert torch.cat([text.test, text.train]).tolist() == expected
    assert len(text.test) == math.ceil(len(expected) / 100)
    assert text.vocab == vocab == max(expected) + 1
    joined = "".join(document + "<|endoftext|>" for document in DOCUMENTS)
    assert text.sha256 == hashlib.sha256(joined.encode()).hexdigest()


def test_openwebtext_stops_when_it_has_enough_and_is_encoded_once(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(places)
    write_byte_pairs(places)
    expected = reference_tokens(places)
    text = openwebtext(tokens=30)
    assert torch.cat([text.test, text.train]).tolist() == expected[:30]
    assert text.sha256 == hashlib.sha256("".join(d + "<|endoftext|>" for d in DOCUMENTS[:2]).encode()).hexdigest()
    monkeypatch.setattr("phasezoo.training.data.webtext.byte_pairs", lambda: pytest.fail("encoded again"))
    again = openwebtext(tokens=30)
    assert torch.equal(again.train, text.train)
    assert (again.vocab, again.sha256) == (text.vocab, text.sha256)


def test_tiktoken_and_transformers_encode_alike(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="the other reader of byte pairs")
    public = pytest.importorskip("tiktoken_ext.openai_public", reason="GPT-2's way to cut words")
    write_text(places)
    vocab = write_byte_pairs(places)
    expected = reference_tokens(places)
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    ranks = data_gym_to_mergeable_bpe_ranks(str(places / "gpt2" / "merges.txt"), str(places / "gpt2" / "vocab.json"))
    small = tiktoken.Encoding(
        "gpt2", pat_str=public.r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)}
    )
    (places / "gpt2" / "vocab.json").unlink()
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": small}.__getitem__)
    text = load_data("openwebtext")
    assert torch.cat([text.test, text.train]).tolist() == expected
    assert text.vocab == vocab


def test_text_without_byte_pairs_or_documents_says_how_to_get_them(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(places)

    def out_of_reach() -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("phasezoo.training.data.webtext._tiktoken", out_of_reach)
    with pytest.raises(DataNotFoundError, match=r"\(no network\).*copy vocab\.json and merges\.txt"):
        load_data("openwebtext")

    def not_installed() -> None:
        raise ImportError

    for reader in ("_tiktoken", "_transformers"):
        monkeypatch.setattr(f"phasezoo.training.data.webtext.{reader}", not_installed)
    with pytest.raises(DependencyError, match=r"pip install 'phasezoo\[text\]'"):
        load_data("openwebtext")


def test_openwebtext_that_is_not_here_says_so(places: Path) -> None:
    pytest.importorskip("transformers", reason="the reader of byte pairs in files")
    write_byte_pairs(places)
    with pytest.raises(
        DataNotFoundError, match=r"OpenWebText is not here: .*openwebtext has no Parquet files; the Hub's"
    ):
        load_data("openwebtext")


@pytest.mark.parametrize("beta", [0.0, 1.0, 30.0])
def test_the_solution_solves_convection_with_its_initial_and_boundary_values(beta: float) -> None:
    points = convection(collocation=50)
    xt = points.collocation.double().requires_grad_()
    (du,) = torch.autograd.grad(exact(xt, beta=beta).sum(), xt)
    torch.testing.assert_close(du[:, 1] + beta * du[:, 0], torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(exact(points.initial, beta=beta), points.initial[:, 0].sin())
    torch.testing.assert_close(exact(points.left, beta=beta), exact(points.right, beta=beta), atol=1e-5, rtol=0)


def test_points_of_convection_are_those_of_the_grid() -> None:
    points = load_data("convection")
    assert isinstance(points, Convection)
    assert (len(points.collocation), len(points.initial), len(points.left), len(points.grid)) == (1000, 256, 100, 25600)
    grid = points.grid.view(100, 256, 2)
    torch.testing.assert_close(grid[0], points.initial)
    torch.testing.assert_close(grid[:, 0], points.left)
    assert points.initial[:, 0].max().item() == pytest.approx(2 * math.pi * 255 / 256)
    assert points.right[:, 0].unique().tolist() == [pytest.approx(2 * math.pi)]
    assert grid[-1, :, 1].unique().tolist() == [1.0]
    inside = {tuple(point) for point in grid[1:, 1:].reshape(-1, 2).tolist()}
    drawn = {tuple(point) for point in points.collocation.tolist()}
    assert len(drawn) == 1000
    assert drawn <= inside
    assert torch.equal(convection(seed=3).collocation, convection(seed=3).collocation)
    assert not torch.equal(convection(seed=3).collocation, points.collocation)
    with pytest.raises(ValueError, match="the inside of the grid has 25245"):
        convection(collocation=25246)


def test_the_solution_takes_many_betas() -> None:
    points, beta = convection(collocation=10), torch.tensor([[1.0, 2.0, 30.0]])
    assert points.solution(beta).shape == (1, 3, 25600)
    torch.testing.assert_close(points.solution(beta)[0, 2], points.solution(30.0))


@pytest.mark.parametrize("name", [*KINDS, "digits", "digits-8x8"])
def test_generated_samples_are_like_real_ones(name: str, places: Path) -> None:
    if name in KINDS:
        write_images(places, name)
    real, made = load_data(name), generated(name, samples=40, seed=1)
    for split, like in ((made.train, real.train), (made.test, real.test)):
        assert (split.x.shape[1:], split.x.dtype, split.y.dtype) == (like.x.shape[1:], like.x.dtype, like.y.dtype)
        assert (split.mean, split.std, len(split)) == (like.mean, like.std, 40)
        assert 0 <= split.y.min() < split.y.max() < real.classes
    assert made.classes == real.classes
    assert not torch.equal(made.train.x, made.test.x)
    assert torch.equal(generated(name, samples=40, seed=1).train.x, made.train.x)
    assert not torch.equal(generated(name, samples=40, seed=2).train.x, made.train.x)


def test_generated_texts_and_points_are_like_real_ones() -> None:
    made, real = generated("openwebtext", samples=3), load_data("pydoc-topics")
    assert (made.train.dtype, made.vocab) == (real.train.dtype, 50257)
    assert len(made.windows(1024).train) == 3
    assert len(generated("convection", samples=5).collocation) == 5
    assert int(generated("pydoc-topics").train.max()) < generated("pydoc-topics").vocab


def test_a_split_of_floats_is_left_as_it_is() -> None:
    x = torch.randn(3, 4)
    assert Split(x, torch.zeros(3)).normalise(x) is x


def test_metrics_of_a_landscape_are_the_same_from_bytes_and_from_floats(tmp_path: Path) -> None:
    arguments = {"image_size": 4, "patch_size": 2, "embedding_dim": 4, "depth": 1, "heads": 1, "num_classes": 3}
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (24, 3, 4, 4), dtype=torch.uint8, generator=generator)
    pixels = Split(x, torch.arange(24) % 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    floats = Split(*pixels.batch(slice(None)))
    tables = []
    for i, split in enumerate((pixels, floats)):
        configs, runs = [], []
        for seed in (0, 1):
            torch.manual_seed(seed)
            state = build("vit", **arguments).state_dict()
            config = {"model_id": f"m{seed}", "cell_id": "c", "load": 4.0, "temperature": 0.1, "seed": seed}
            configs.append({**config, "architecture": "vit", "architecture_config": json.dumps(arguments)})
            runs.append(Run(f"m{seed}", "c", Layout.of_state_dict(state), (0,), {0: state}.__getitem__))
        results = [{"model_id": config["model_id"], "epoch": 0} for config in configs]
        tables_of = {"configs": pa.Table.from_pylist(configs), "results": pa.Table.from_pylist(results)}
        write_zoo(tmp_path / str(i), draft(), **tables_of, runs=runs)
        data = Data(split, split.take(slice(10)), classes=3)
        protocol = MeasureProtocol(name="short", curve_epochs=1, products=5, train_samples=8)
        table = measure(tmp_path / str(i), metrics=("hessian", "cka", "curves"), data=data, protocol=protocol)
        tables.append(table.to_pylist())
    assert tables[0] == tables[1]
    assert tables[0][0]["representation_similarity"] is not None
    assert tables[0][0]["hessian_trace_train"] is not None
    assert tables[0][0]["curve_mc_test_loss"] is not None
