"""Forms with files in them (multipart/form-data, RFC 7578): read strictly, and written anew.

No parser of the libraries at hand refuses what this one must: a field that stands twice, a header that means
something to one reader only, a form inside a form. What goes upstream is written from what was read, with a
boundary of ours and with file names of ours, so that nobody can read another request out of it. Knows no prices.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from addon.errors import InvalidParameter

MAX_PARTS: Final = 64
MAX_HEAD_BYTES: Final = 4 << 10
"""Of one part's headers."""
ANY_KIND: Final = "application/octet-stream"

_UTF8: Final = r'(?:[ \t]*;[ \t]*charset="?utf-8"?)?'
_TYPE: Final = re.compile(
    rf"multipart/form-data{_UTF8}[ \t]*;[ \t]*boundary="
    rf"""(?:"([\w'()+,./:=? -]{{0,69}}[\w'()+,./:=?-])"|([\w'()+./:=?-]{{1,70}})){_UTF8}""",
    re.IGNORECASE | re.ASCII,
)
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x1f\x7f]*)")
_HEADERS: Final = frozenset(("content-disposition", "content-type", "content-length", "content-transfer-encoding"))
_PARAMETER: Final = re.compile(r"""[ \t]*;[ \t]*([a-zA-Z]+\*?)=(?:"([^"\\]*)"|([^\s"\\;,]+))""")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:\[\])?")
_KIND: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,60}")
_TEXT_KIND: Final = re.compile(r'text/plain(?:[ \t]*;[ \t]*charset="?(?:utf-8|us-ascii)"?)?', re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_SWITCH: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class File:
    """A file that was sent: `kind` is its media type, without parameters; `suffix` the end of its name, by which
    servers tell formats apart (`.mp3`, or nothing). The name itself stays here."""

    kind: str
    suffix: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """What a family's forms hold beside texts: `files` (one of the `needed` at least), whole numbers, switches.

    A name that ends in `[]` is a list, and may stand several times; no other may.
    """

    files: frozenset[str]
    needed: frozenset[str]
    numbers: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()


def read(raw: bytes, content_type: str, form: Form) -> dict[str, Any]:
    """The fields of a form: texts, numbers, switches, files; lists of these. Raises InvalidParameter."""
    fields: dict[str, Any] = {}
    for head, content in _parts(raw, _boundary(content_type)):
        name, value = _field(head, content, form)
        if name.endswith("[]"):
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise _wrong(f"{name} stands twice in it")
        else:
            fields[name] = value
    if len({name.lower() for name in fields}) != len(fields):
        raise _wrong("a field stands twice in it, in different case")
    if not form.needed & fields.keys():
        raise InvalidParameter(f"The form must hold a file as {' or '.join(sorted(form.needed))}.")
    return fields


def files(fields: Mapping[str, Any], *names: str) -> list[File]:
    """The files under these names, those of lists among them."""
    found = (fields.get(name) for name in names)
    flat = (one for value in found for one in (value if isinstance(value, list) else (value,)))
    return [one for one in flat if isinstance(one, File)]


def new_boundary() -> str:
    """One that no content can hold by intent, nor by chance."""
    return f"routstr-{secrets.token_hex(16)}"


def content_type(boundary: str) -> str:
    """What the Content-Type header says of a form that is written."""
    return f"multipart/form-data; boundary={boundary}"


def written(fields: Mapping[str, Any], boundary: str) -> bytes:
    """The form as it is sent. File contents are the bytes that were read."""
    out: list[bytes] = []
    for name, value in fields.items():
        for one in value if isinstance(value, list) else (value,):
            out += (f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode(), *_content(one), b"\r\n")
    return b"".join((*out, f"--{boundary}--\r\n".encode()))


def _content(value: object) -> tuple[bytes, bytes]:
    if isinstance(value, File):
        return f'; filename="file{value.suffix}"\r\nContent-Type: {value.kind}\r\n\r\n'.encode(), value.content
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return b"\r\n\r\n", text.encode()


# --- reading ----------------------------------------------------------------------------------------


def _boundary(content_type: str) -> bytes:
    match = _TYPE.fullmatch(content_type)
    if match is None:
        raise InvalidParameter("The body must be a form: Content-Type: multipart/form-data; boundary=…")
    return (match[1] or match[2]).encode()


def _parts(raw: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The head and the content of each part. Nothing stands before the first, nothing behind the last."""
    line = b"--" + boundary
    first, *rest = raw.split(b"\r\n" + line, MAX_PARTS)
    if not first.startswith(line):
        raise _wrong("it does not begin with its boundary")
    if not rest or rest.pop() not in (b"--", b"--\r\n"):
        raise _wrong(f"it has no end, or more than {MAX_PARTS} parts, or something behind its end")
    for part in (first[len(line) :], *rest):
        at = part.find(b"\r\n\r\n", 2, MAX_HEAD_BYTES)
        if not part.startswith(b"\r\n") or at < 0:
            raise _wrong("a part of it has no headers, or too many, or a line behind a boundary is not empty")
        yield part[2:at], part[at + 4 :]


def _field(head: bytes, content: bytes, form: Form) -> tuple[str, Any]:
    headers = _headers(head)
    parameters = _parameters(headers.get("content-disposition", ""))
    name = parameters.get("name", "")
    if _NAME.fullmatch(name) is None:
        raise _wrong("a part of it has no name, or one that cannot be a field's")
    if headers.get("content-length", str(len(content))) != str(len(content)):
        raise _wrong(f"{name} is not as long as it says")
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise _wrong(f"{name} has a transfer encoding")
    if (name in form.files) is not (_file_name(parameters) is not None):
        raise _wrong(f"{name} must be a file" if name in form.files else f"{name} must be no file")
    if name in form.files:
        return name, _file(name, _file_name(parameters) or "", headers.get("content-type", ANY_KIND), content)
    return name, _value(name, _text(name, headers.get("content-type", "text/plain"), content), form)


def _headers(head: bytes) -> dict[str, str]:
    """By lower-case name; none folded, none twice, none but those that a part may have."""
    headers: dict[str, str] = {}
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise _wrong("a header in it is not UTF-8") from None
    for line in lines:
        match = _HEADER.fullmatch(line)
        name = "" if match is None else match[1].lower()
        if match is None or name not in _HEADERS or name in headers:
            raise _wrong("a part of it has a header twice, or one that does not belong there, or a control character")
        headers[name] = match[2].rstrip(" \t")
    return headers


def _parameters(disposition: str) -> dict[str, str]:
    """The name, and the file's name where there is one; .NET writes it twice, in two ways."""
    kind, _, _ = disposition.partition(";")
    found, at = {}, len(kind)
    while match := _PARAMETER.match(disposition, at):
        name, at = match[1].lower(), match.end()
        if name in found or name not in ("name", "filename", "filename*"):
            raise _wrong("a part's disposition says something twice, or what does not belong there")
        found[name] = match[3] if match[2] is None else match[2]
    if kind.strip(" \t").lower() != "form-data" or at != len(disposition):
        raise _wrong("a part's disposition cannot be read")
    return found


def _file_name(parameters: Mapping[str, str]) -> str | None:
    extended = parameters.get("filename*")
    return parameters.get("filename", None if extended is None else unquote(extended))


def _file(name: str, file_name: str, declared: str, content: bytes) -> File:
    kind = declared.partition(";")[0].strip(" \t").lower()
    if _KIND.fullmatch(kind) is None or kind.startswith(("multipart/", "message/")):
        raise _wrong(f"{name} has a content type that no file can have")
    if _CONTROL.search(file_name) is not None:
        raise _wrong(f"the file name of {name} holds a control character")
    suffix = _SUFFIX.search(file_name)
    return File(kind, "" if suffix is None else suffix[0], content)


def _text(name: str, kind: str, content: bytes) -> str:
    if _TEXT_KIND.fullmatch(kind) is None:
        raise _wrong(f"{name} must be plain text in UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong(f"{name} must be plain text in UTF-8") from None


def _value(name: str, text: str, form: Form) -> str | int | bool:
    """A text as what it stands for."""
    if name in form.switches:
        if text.lower() not in _SWITCH:
            raise InvalidParameter(f"{name} must be true or false.", param=name)
        return _SWITCH[text.lower()]
    if name in form.numbers:
        if re.fullmatch("[0-9]{1,9}", text, re.ASCII) is None:
            raise InvalidParameter(f"{name} must be a whole number.", param=name)
        return int(text)
    return text


def _wrong(why: str) -> InvalidParameter:
    return InvalidParameter(f"The form is not valid: {why}.")
