"""The messages between ``petlbench serve`` and its clients: arrays as safetensors with parameters in the metadata, texts and facts as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from petlbench.access.endpoint import ClassTexts, ModelFacts, Output
from petlbench.errors import ConfigError

PROTOCOL = 3
TOKEN_VARIABLE = "PETLBENCH_TOKEN"
UNKNOWN_TEXTS, UNKNOWN_IMAGES = "unknown_texts", "unknown_images"  # error codes; the client sends what was forgotten again

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
LONGEST_HEADER = 2**20  # bytes; a query may name as many uploads as fit
MOST_ARRAYS = 16  # in one document
LONGEST_CAPTION = 1000  # characters
Caption = Annotated[str, StringConstraints(max_length=LONGEST_CAPTION)]


class Refusal(Exception):
    """A query that the server does not answer: an HTTP status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServedModel(_Message):
    """``GET /v1/model``: the model, its limits per call, and the settings that decide its answers."""

    protocol: int = PROTOCOL
    facts: ModelFacts
    sha256: Digest  # of the weights, as records hold it
    parameters: int
    precision: Literal["fp32", "bf16"]
    max_body: int  # bytes
    text_sha256: Digest | None  # of an answer of the text tower

    @property
    def etag(self) -> str:
        """A hash of all fields: it differs when a restarted server serves anything else."""
        return f'"{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]}"'


class TextsMessage(_Message):
    """``POST /v1/texts``."""

    captions: Annotated[tuple[Annotated[tuple[Caption, ...], Field(min_length=1)], ...], Field(min_length=1)]  # per class
    context: Caption | None = None

    @classmethod
    def of(cls, texts: ClassTexts) -> TextsMessage:
        """Build the message. ConfigError when a caption is too long or not valid Unicode."""
        try:
            message = cls(captions=texts.captions, context=texts.context)
        except ValidationError:
            captions = [caption for captions in texts.captions for caption in captions]
            wrong = next(
                (caption for caption in captions if len(caption) > LONGEST_CAPTION or not _is_unicode(caption)), texts.context or ""
            )
            limit = f"a caption sent to a server must be valid Unicode of at most {LONGEST_CAPTION:,} characters"
            raise ConfigError(f"{limit}, got {len(wrong):,}: {wrong[:40]!r}") from None
        return message

    def texts(self) -> ClassTexts:
        return ClassTexts(self.captions, self.context)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


class ScoresWords(_Message):
    """The parameters of ``POST /v1/scores``."""

    texts: Digest
    output: Output
    k: Annotated[int, Field(ge=1)]


class ContextsWords(ScoresWords):
    """The parameters of ``POST /v1/contexts``."""

    stored: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}( |$))*$")] = ""  # digests of uploaded images instead of images


def token_from(text: str, where: str) -> str | None:
    """Return the token in the text of an environment variable or a file; None if empty. ConfigError, which hides the text, for an invalid token."""
    token = text.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{where} holds no token: expected printable ASCII characters without spaces, on one line")
    return token or None


def pack(tensors: Mapping[str, Tensor], **words: object) -> bytes:
    """Pack arrays and parameters into one safetensors document, the same bytes whenever they are the same: a repeated query is known by them."""
    document = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    if not words:  # safetensors reads no empty dictionary
        return document
    end = 8 + int.from_bytes(document[:8], "little")
    parameters = {"__metadata__": {name: str(words[name]) for name in sorted(words)}}  # safetensors would write them in any order
    header = json.dumps(parameters | json.loads(document[8:end]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(document)[end:]])


def unpack(document: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the arrays and the parameters. ValueError for anything but a complete safetensors document."""
    length = int.from_bytes(document[:8], "little")
    header = document[8 : 8 + min(length, LONGEST_HEADER)]
    if LONGEST_HEADER < length < len(document) or header.count(b"data_offsets") > MOST_ARRAYS:  # slow to read
        raise ValueError(f"no document of this protocol: more than {LONGEST_HEADER // 1024:,} KiB of header or {MOST_ARRAYS} arrays")
    try:
        tensors = load(document)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors document ({str(error)[:200]})") from None
    return tensors, json.loads(header).get("__metadata__", {})
