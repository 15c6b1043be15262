"""Data sets that are known by name: where each lies below the data folder, its forms, and where it comes from.

Sizes and checksums are those that at least two independent public sources agree on; a file for which there are none has
none here, and is then checked by its length in transfer alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from surge_sweeps.errors import TrainingError, UnknownNameError
from surge_sweeps.training.data.places import DATA_VARIABLE, data_folder

Kind = Literal["images", "text"]


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        path: where it goes, below the data folder. url: where it comes from.
        size_bytes, checksum: None: not known. A checksum names its kind: `md5:...` or `sha256:...`.
    """

    path: str
    url: str
    size_bytes: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Form:
    """One way in which a data set may lie below the data folder: it is there if all these paths are.

    Attributes:
        train, held_out: files or folders, of images one each. The same for both: it holds both parts. held_out: empty:
            there is none, and a part of `train` is set aside.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(self.train + self.held_out))


@dataclass(frozen=True)
class KnownData:
    """A data set that is known by name.

    Attributes:
        kind: what it is data of. about: one sentence.
        files: what is fetched; they make the first of `forms`. forms: all that are read.
        is_converted_to_rgb: its images differ in colour, and all are made RGB.
    """

    name: str
    kind: Kind
    about: str
    files: tuple[RemoteFile, ...]
    forms: tuple[Form, ...]
    is_converted_to_rgb: bool = False


@dataclass(frozen=True)
class FoundData:
    """Where a data set lies. `held_out` is empty where it has no such part; see `Form`."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
_SHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data"
)
_WIKITEXT = (
    "https://huggingface.co/datasets/Salesforce/wikitext/resolve/b08601e04326c79dfdd32d625aee71d232d685c3"
)
_ELI5 = "https://jingshensn2.github.io/eli5c/datasets"
_REDPAJAMA = "https://huggingface.co/datasets/togethercomputer/RedPajama-Data-V2/resolve/19f2e7e7093d5b319ce66fd7ac69c43f87805bc7"
_REDPAJAMA_SHARDS = 10


def _fashion(name: str, size_bytes: int, md5: str) -> RemoteFile:
    return RemoteFile(f"fashion-mnist/{name}", f"{_FASHION}/{name}", size_bytes, f"md5:{md5}")


def _wikitext(part: str, size_bytes: int, sha256: str) -> RemoteFile:
    name = f"{part}-00000-of-00001.parquet"
    return RemoteFile(
        f"wikitext-2/{name}", f"{_WIKITEXT}/wikitext-2-raw-v1/{name}", size_bytes, f"sha256:{sha256}"
    )


def _eli5(part: str) -> RemoteFile:
    name = f"eli5-category-{part}.json.gz"
    return RemoteFile(f"eli5-category/{name}", f"{_ELI5}/{name}")


def _redpajama(shard: int) -> RemoteFile:
    return RemoteFile(
        f"redpajama-v2-sample/{shard:04d}-en_head.json.gz",
        f"{_REDPAJAMA}/sample/documents/2023-06/{shard:04d}/en_head.json.gz",
    )


def _by_name(sets: Iterable[KnownData]) -> dict[str, KnownData]:
    return {item.name: item for item in sets}


KNOWN = _by_name(
    [
        KnownData(
            name="fashion-mnist",
            kind="images",
            about="60,000 and 10,000 grey images of clothes, 28 x 28, 10 classes (arXiv:1708.07747).",
            files=(
                _fashion("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                _fashion("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
                _fashion("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
                _fashion("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
            ),
            forms=(Form(("fashion-mnist",), ("fashion-mnist",)),),
        ),
        KnownData(
            name="cifar10",
            kind="images",
            about="50,000 and 10,000 photographs, 32 x 32 RGB, 10 classes (Krizhevsky 2009).",
            files=(
                RemoteFile(
                    "cifar10/cifar-10-binary.tar.gz",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    170_052_171,
                    "md5:c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            forms=(
                Form(("cifar10/cifar-10-binary.tar.gz",), ("cifar10/cifar-10-binary.tar.gz",)),
                Form(("cifar10/cifar10-train.zip",), ("cifar10/cifar10-test.zip",)),
                Form(("cifar10/train",), ("cifar10/test",)),
            ),
        ),
        KnownData(
            name="tiny-imagenet",
            kind="images",
            about="100,000 and 10,000 photographs, 64 x 64, 200 classes; the few grey ones are made RGB.",
            files=(
                RemoteFile(
                    "tiny-imagenet/tiny-imagenet-200.zip",
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    248_100_043,
                    "md5:90528d7ca1a48142e341f4ef8d21d0de",
                ),
            ),
            forms=(
                Form(("tiny-imagenet/tiny-imagenet-200.zip",), ("tiny-imagenet/tiny-imagenet-200.zip",)),
                Form(("tiny-imagenet-200",), ("tiny-imagenet-200",)),
            ),
            is_converted_to_rgb=True,
        ),
        KnownData(
            name="tinyshakespeare",
            kind="text",
            about="1.1 MB of Shakespeare's plays in one file (github.com/karpathy/char-rnn).",
            files=(
                RemoteFile(
                    "tinyshakespeare/input.txt",
                    f"{_SHAKESPEARE}/tinyshakespeare/input.txt",
                    1_115_394,
                    "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                ),
            ),
            forms=(
                Form(("tinyshakespeare/input.txt",)),
                Form(("tinyshakespeare.txt",)),
                Form(("text/tinyshakespeare.txt",)),
            ),
        ),
        KnownData(
            name="wikitext-2",
            kind="text",
            about="Wikipedia articles, WikiText-2 raw as Parquet (arXiv:1609.07843); held out: its validation part.",
            files=(
                _wikitext(
                    "train", 6_357_543, "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7"
                ),
                _wikitext(
                    "validation", 657_209, "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c"
                ),
            ),
            forms=(
                Form(
                    ("wikitext-2/train-00000-of-00001.parquet",),
                    ("wikitext-2/validation-00000-of-00001.parquet",),
                ),
            ),
        ),
        KnownData(
            name="eli5-category",
            kind="text",
            about="Questions and answers of r/explainlikeimfive, a JSON list a file; held out: validation-1.",
            files=(_eli5("train"), _eli5("validation-1")),
            forms=(
                Form(
                    ("eli5-category/eli5-category-train.json.gz",),
                    ("eli5-category/eli5-category-validation-1.json.gz",),
                ),
            ),
        ),
        KnownData(
            name="redpajama-v2-sample",
            kind="text",
            about="RedPajama-v2's sample (arXiv:2411.12372), English head of 2023-06; 9 shards and 1 held out.",
            files=tuple(_redpajama(shard) for shard in range(_REDPAJAMA_SHARDS)),
            forms=(
                Form(
                    tuple(_redpajama(shard).path for shard in range(_REDPAJAMA_SHARDS - 1)),
                    (_redpajama(_REDPAJAMA_SHARDS - 1).path,),
                ),
            ),
        ),
    ]
)


def known(name: str) -> KnownData:
    """The data set of that name.

    Raises:
        UnknownNameError: there is none; the message lists all.

    >>> known("cifar10").kind
    'images'
    """
    if name not in KNOWN:
        raise UnknownNameError("data set", name, KNOWN)
    return KNOWN[name]


def find_known(name: str, kind: Kind) -> FoundData:
    """Where a known data set lies on this machine.

    Raises:
        UnknownNameError: no such data set is known.
        TrainingError: it is of another kind, is not there, or is there in two forms.
    """
    data = known(name)
    if data.kind != kind:
        right = sorted(item.name for item in KNOWN.values() if item.kind == kind)
        raise TrainingError(
            f"the data set {name!r} is {data.kind}, and {kind} is needed."
            if kind == "text"
            else f"the data set {name!r} is {data.kind}, and {kind} are needed.",
            f"Known {kind}: {', '.join(right)}.",
        )
    forms = present_forms(data)
    if not forms:
        raise TrainingError(
            f"the data set {name!r} is not in {str(data_folder())!r}.",
            f"Fetch it with: surge-sweep data {name}   or set {DATA_VARIABLE} to the folder that holds it as"
            f" {' or as '.join(' and '.join(form.paths) for form in data.forms)}.",
        )
    if len(forms) > 1:
        # Forms may differ in their pixels, and a trial says no more than the name.
        both = " and as ".join(", ".join(form.paths) for form in forms)
        raise TrainingError(
            f"the data set {name!r} is in {str(data_folder())!r} more than once: as {both}.",
            "Take all but one away, or name the path of one as data.",
        )
    folder = data_folder()
    return FoundData(
        tuple(folder / path for path in forms[0].train), tuple(folder / path for path in forms[0].held_out)
    )


def present_forms(data: KnownData) -> tuple[Form, ...]:
    """Those of a data set's forms that are on this machine."""
    return tuple(form for form in data.forms if all(_is_there(data, path) for path in form.paths))


def _is_there(data: KnownData, path: str) -> bool:
    """A folder of fetched files must hold all of them; one that is packed may lie unpacked."""
    folder = data_folder()
    inside = [folder / file.path for file in data.files if Path(path) in Path(file.path).parents]
    return (folder / path).exists() and all(
        file.exists() or (file.suffix == ".gz" and file.with_suffix("").exists()) for file in inside
    )
