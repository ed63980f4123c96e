"""The process of local models: embeds, chooses sentences, compares vectors. Only here numpy and the model are loaded.

It reads requests from its standard input, one at a time, and ends when that is closed. It reads two folders, that of
the model and that of a SQLite store, and nothing else; it has no network (`spool.sandbox`).
"""

import re
import sqlite3
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from spool.sandbox import Limits, confine, framed, pipes, read_message


class Embed(Struct, frozen=True, tag=True):
    """Vectors of these texts are wanted."""

    texts: tuple[str, ...]


class Extract(Struct, frozen=True, tag=True):
    """The most telling sentences of this call are wanted."""

    turns: tuple[tuple[str, str], ...]


class Nearest(Struct, frozen=True, tag=True):
    """The calls of a SQLite store whose vectors are nearest to this one are wanted."""

    path: str
    project: str
    model: str
    vector: bytes
    limit: int


class Vectors(Struct, frozen=True, tag=True):
    """Float32, little-endian, of length 1."""

    vectors: tuple[bytes, ...]


class Sentences(Struct, frozen=True, tag=True):
    """A summary; empty for a call in which nothing was said."""

    text: str


class Matches(Struct, frozen=True, tag=True):
    """Ids of calls and their similarity, the nearest first."""

    matches: tuple[tuple[str, float], ...]


class Failed(Struct, frozen=True, tag=True):
    """It could not; `reason` is for people."""

    reason: str


ToModels = Embed | Extract | Nearest
FromModels = Vectors | Sentences | Matches | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(ToModels).decode
decode_answer = msgspec.msgpack.Decoder(FromModels).decode

SENTENCES: Final = 4
"""In a summary."""
CHARACTERS: Final = 600
CALLER_BONUS: Final = 0.1
"""What the caller says tells more of what a call is about."""
SAME: Final = 0.85
"""Sentences that are nearer to each other say the same."""
_MOST_SENTENCES: Final = 1_000
_BLOCK: Final = 2_000
"""Vectors that are compared at once: 2 MB of 256 dimensions, 12 MB of 1,536."""
_SENTENCE: Final = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
_DATA_BYTES: Final = 2 << 30
_NEAREST: Final = "SELECT call_id, vector FROM call_vectors WHERE project = ? AND model = ?"


@cache
def _model() -> Any:  # Any: a library without types
    """The bundled model. Its `load` would look elsewhere, and on the network, were it not told where it lies."""
    import wordllama  # noqa: PLC0415  # 0.3 s and 60 MB

    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


def embed(texts: Sequence[str]) -> Any:  # Any: an array
    """A row of length 1 for each text; zeros for one without a word that the model knows."""
    import numpy  # noqa: PLC0415  # 20 MB

    vectors = numpy.asarray(_model().embed([text or " " for text in texts]), dtype=numpy.float32)
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    return numpy.divide(vectors, lengths, out=numpy.zeros_like(vectors), where=lengths > 0)


def extract(turns: Sequence[tuple[str, str]]) -> str:
    """Sentences of the call, in their order: those nearest to the middle of all, none that repeats another."""
    import numpy  # noqa: PLC0415  # as above

    found = [(role, said) for role, words in turns for said in _sentences(words)][:_MOST_SENTENCES]
    if not found:
        return ""
    vectors = embed([said for _, said in found])
    scores = vectors @ vectors.mean(axis=0)
    scores = scores + numpy.array([CALLER_BONUS if role == "caller" else 0.0 for role, _ in found])
    chosen: list[int] = []
    length = 0
    for at in numpy.argsort(-scores, kind="stable"):
        place = int(at)
        if any(float(vectors[place] @ vectors[other]) > SAME for other in chosen):
            continue
        if chosen and length + len(found[place][1]) > CHARACTERS:
            continue
        chosen.append(place)
        length += len(found[place][1])
        if len(chosen) == SENTENCES:
            break
    said: list[str] = []
    speaker = ""
    for place in sorted(chosen):
        role, sentence = found[place]
        said.append(sentence[:CHARACTERS] if role == speaker else f"{role.capitalize()}: {sentence[:CHARACTERS]}")
        speaker = role
    return " ".join(said)


def _sentences(words: str) -> Iterator[str]:
    """Those of at least three words: greetings tell nothing."""
    for found in _SENTENCE.findall(words):
        said = found.strip()
        if len(said.split()) >= 3 or (len(said) >= 8 and " " not in said and not said.isascii()):
            yield said


def nearest(asked: Nearest) -> tuple[tuple[str, float], ...]:
    """By cosine similarity, a block of rows at a time."""
    import numpy  # noqa: PLC0415  # as above

    wanted = numpy.frombuffer(asked.vector, dtype="<f4")
    ids: list[str] = []
    scores = numpy.zeros(0, dtype=numpy.float32)
    with closing(sqlite3.connect(f"file:{asked.path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(_NEAREST, (asked.project, asked.model))
        while block := rows.fetchmany(_BLOCK):
            data = [vector for _, vector in block if len(vector) == len(asked.vector)]
            ids += [call_id for call_id, vector in block if len(vector) == len(asked.vector)]
            here = numpy.frombuffer(b"".join(data), dtype="<f4").reshape(len(data), -1) @ wanted
            scores = numpy.concatenate([scores, here])
            if len(ids) > asked.limit:
                keep = numpy.argpartition(-scores, asked.limit)[: asked.limit]
                ids, scores = [ids[place] for place in keep], scores[keep]
    order = sorted(range(len(ids)), key=lambda place: (-float(scores[place]), ids[place]))
    return tuple([(ids[place], float(scores[place])) for place in order[: asked.limit]])


def answer_to(request: ToModels) -> FromModels:
    """Errors become an answer, so that the next request can follow."""
    try:
        match request:
            case Embed():
                return Vectors(tuple([row.astype("<f4").tobytes() for row in embed(request.texts)]))
            case Extract():
                return Sentences(extract(request.turns))
            case Nearest():
                return Matches(nearest(request))
    except ImportError as error:
        return Failed(f"a library is missing: {error}")
    except (sqlite3.Error, OSError) as error:
        return Failed(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001  # told to the gateway
        traceback.print_exc()
        return Failed(f"it failed unexpectedly: {type(error).__name__}")


def main() -> None:
    """Work until the gateway ends, or closes the pipe."""
    folder = Path(sys.argv[1])
    # The libraries are read from wherever Python has them; what calls say is in one folder.
    confine(Limits(data_bytes=_DATA_BYTES), folder, readable=_library_folders(), threads=True)
    requests, answers = pipes()
    while (message := read_message(requests)) is not None:
        answers.write(framed(encode(answer_to(decode_request(message)))))


def _library_folders() -> list[Path]:
    system = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/self", "/sys/devices/system/cpu", "/proc/cpuinfo")
    paths = {*sys.path, sys.prefix, sys.base_prefix, *system}
    return [Path(path) for path in paths if path and Path(path).exists()]


if __name__ == "__main__":
    main()
