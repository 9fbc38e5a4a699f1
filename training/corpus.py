"""Text to train on: the Python standard library's own source, split so that nothing is shared.

Every machine that can run this program carries this text, so nothing is downloaded. It is cut into
one part for the base model and one *domain* per tenant; each domain is cut again into a part to
train on and a held-out part. A paragraph occurs at most once in the whole corpus, so no held-out
text can be met in training, whichever part it would have come from.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# A record is what a language model trains on at once and, under differential privacy, the unit
# that is protected.
RECORD_CHARACTERS = 240
_BASE_RECORD_CHARACTERS = 960
_HELD_OUT_EVERY = 12  # one block of records in twelve is held out
_BLOCK_RECORDS = 4  # a held-out text is a run of records, so that its words have a context

_MAIL = ("email", "imaplib.py", "mailbox.py", "nntplib.py", "poplib.py", "smtpd.py", "smtplib.py")
_MANUAL = "pydoc_data/topics.py"
# Neither generated tables nor what distributions leave out or split into packages of their own.
_LEFT_OUT = frozenset(
    {
        "__pycache__",
        "config",
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
        "venv",
    }
)


class CorpusError(Exception):
    """The standard library's source is not there to be read."""


@dataclass(frozen=True)
class Domain:
    """One tenant's text: what it is about, records to train on, texts never trained on."""

    subject: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Records for the base model and two domains disjoint from it and from each other."""

    base: tuple[str, ...]
    dialogues: tuple[tuple[str, str], ...]  # a documented signature, and the body that was written
    mail: Domain
    manual: Domain

    @property
    def digest(self) -> str:
        """SHA-256 over every record: another Python release has another text."""
        hasher = hashlib.sha256()
        for part in (self.base, *(p for d in self.domains for p in (d.train, d.held_out))):
            for record in (*part, "\x00part"):
                hasher.update(record.encode() + b"\x00")
        return hasher.hexdigest()

    @property
    def domains(self) -> tuple[Domain, Domain]:
        """Both domains: source code of mail modules, prose of the language manual."""
        return (self.mail, self.manual)


def load_corpus(stdlib: Path | None = None) -> Corpus:
    """Read the corpus from `stdlib` (default: that of the running Python); takes about a second.

    Raises `CorpusError` when the folder lacks the files that a complete installation has.
    """
    root = stdlib or Path(sysconfig.get_path("stdlib"))
    mail_files = sorted(_under(root, _MAIL))
    base_files = sorted(_python_files(root).difference(mail_files))
    if len(mail_files) < 20 or len(base_files) < 100:
        raise CorpusError(
            f"expected the Python standard library's source in {root}, found {len(base_files)} "
            "modules; install the full package (on Debian: apt install libpython3-stdlib)"
        )
    seen: set[bytes] = set()
    manual = _domain("the Python language reference", _records([_manual_text(root)], seen))
    mail = _domain("source code of mail modules", _records(map(_read, mail_files), seen))
    return Corpus(
        base=tuple(_records(map(_read, base_files), seen, limit=_BASE_RECORD_CHARACTERS)),
        dialogues=tuple(d for path in base_files[::4] for d in _dialogues(_read(path))),
        mail=mail,
        manual=manual,
    )


def _under(root: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        path = root / name
        if path.is_dir():
            yield from (p for p in path.rglob("*.py") if _LEFT_OUT.isdisjoint(p.parts))
        elif path.is_file():
            yield path


def _python_files(root: Path) -> set[Path]:
    return {
        path
        for path in root.rglob("*.py")
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _manual_text(root: Path) -> str:
    """The manual's topics as prose; parsed, never executed."""
    path = root / _MANUAL
    if not path.is_file():
        raise CorpusError(
            f"expected the language manual in {path}; install the full standard library "
            "(on Debian: apt install libpython3-stdlib)"
        )
    tables = [
        ast.literal_eval(node.value)
        for node in ast.parse(_read(path)).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]
    return "\n\n".join(text for table in tables for _, text in sorted(table.items()))


def _records(
    texts: Iterable[str], seen: set[bytes], *, limit: int = RECORD_CHARACTERS
) -> Iterator[str]:
    """Cut texts at paragraphs into records, leaving out every paragraph that `seen` contains."""
    for text in texts:
        record = ""
        for piece in _pieces(text, seen, limit=limit):
            if record and len(record) + len(piece) > limit:
                yield record
                record = ""
            record += piece
        if len(record) > limit // 4:
            yield record


def _pieces(text: str, seen: set[bytes], *, limit: int) -> Iterator[str]:
    """Paragraphs met for the first time, the long ones cut at line ends where they have any."""
    for paragraph in text.split("\n\n"):
        key = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=16).digest()
        if not paragraph.strip() or key in seen:
            continue
        seen.add(key)
        piece = ""
        for line in (paragraph + "\n\n").splitlines(keepends=True):
            if piece and len(piece) + len(line) > limit:
                yield piece
                piece = ""
            piece += line[:limit]
        yield piece


def _dialogues(source: str) -> Iterator[tuple[str, str]]:
    """Short documented functions as question (signature and docstring) and answer (body)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates and examples that are wrong on purpose
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            question = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.body[0].end_lineno]))
            body = lines[node.body[1].lineno - 1 : node.end_lineno]
            answer = "\n".join(line[node.col_offset :] for line in body)
            if len(question) + len(answer) <= 2 * RECORD_CHARACTERS:
                yield question, answer


def _domain(subject: str, records: Iterable[str]) -> Domain:
    train: list[str] = []
    blocks: dict[int, str] = {}
    for index, record in enumerate(records):
        block = index // _BLOCK_RECORDS
        if block % _HELD_OUT_EVERY == 0:
            blocks[block] = blocks.get(block, "") + record
        else:
            train.append(record)
    return Domain(subject=subject, train=tuple(train), held_out=tuple(blocks.values()))
