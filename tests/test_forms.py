"""Forms: read strictly, and written so that every other reader finds what was priced, and the same bytes of a file."""

from __future__ import annotations

import email.parser
import email.policy
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.formparser import MultiPartParser

from addon import forms
from addon.errors import InvalidParameter
from addon.forms import File, Form

FORM = Form(frozenset(("file", "image[]")), frozenset(("file",)), frozenset(("n",)), frozenset(("stream",)))
KIND = "multipart/form-data; boundary=XX"
SOUND = bytes(range(256)) + b"\r\n--X\r\n\r\n--routstr-\r\n"
NAME = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a b.mp3"'


def part(head: bytes, content: bytes) -> bytes:
    return b"--XX\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join((part(FILE, SOUND), *parts)) + b"--XX--\r\n"


def read(raw: bytes, kind: str = KIND) -> dict[str, Any]:
    return forms.read(raw, kind, FORM)


def test_texts_numbers_switches_lists_and_a_file_whose_name_stays_here() -> None:
    fields = read(
        form(
            part(NAME, "größer".encode()),
            part(b"content-disposition:form-data;name=n\r\nContent-Type: text/plain; charset=UTF-8", b"3"),
            part(b'Content-Disposition: form-data; name="stream"\r\nContent-Length: 4', b"True"),
            part(b'Content-Disposition: form-data; name="when[]"', b"word"),
            part(b'Content-Disposition: form-data; name="when[]"', b"segment"),
            part(b'Content-Disposition: form-data; name="image[]"; filename="C.png"\r\nContent-Type: image/png', b""),
        )
    )
    assert fields == {
        "file": File(forms.ANY_KIND, ".mp3", SOUND), "model": "größer", "n": 3, "stream": True,
        "when[]": ["word", "segment"], "image[]": [File("image/png", ".png", b"")],
    }  # fmt: skip
    assert len(forms.files(fields, "file", "image[]", "mask")) == 2
    assert b"a b" not in forms.written(fields, "b") and "a b" not in repr(fields)


def test_a_file_name_may_hold_what_a_mac_puts_into_it() -> None:
    head = FILE.replace(b"a b", "Screenshot at 1.23\u202fPM 👩\u200d🚀".encode())
    assert read(part(head, b"x") + b"--XX--")["file"].suffix == ".mp3"


def test_dot_net_writes_a_file_name_in_two_ways_and_some_only_in_one() -> None:
    both = b"Content-Disposition: form-data; name=file; filename=a.ogg; filename*=utf-8''a.ogg"
    one = b"Content-Disposition: form-data; name=file; filename*=utf-8''%C3%A4.ogg"
    for head in (both, one):
        assert read(part(head, b"x") + b"--XX--")["file"].suffix == ".ogg"


@pytest.mark.parametrize(
    "kind",
    ['Multipart/Form-Data; boundary="XX"', "multipart/form-data; charset=utf-8; boundary=XX", KIND + "; charset=UTF-8"],
)
def test_content_types_that_mean_the_same(kind: str) -> None:
    assert read(form(), kind)["file"].content == SOUND


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "",
            "application/json",
            "multipart/mixed; boundary=XX",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ),
        *(KIND + "; boundary=YY", "multipart/form-data; boundary=" + "X" * 71, "multipart/form-data; boundary=X\u00e4"),
    ],
)
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(InvalidParameter, match="multipart/form-data"):
        read(form(), kind)


MODEL = part(NAME, b"small")
BAD = {
    "twice": form(MODEL, part(NAME, b"dear")),
    "twice in other case": form(MODEL, part(NAME.replace(b"model", b"Model"), b"dear")),
    "two files": form(part(FILE, b"y")),
    "no file": MODEL + b"--XX--\r\n",
    "file is a text": part(FILE.partition(b"; filename")[0], b"x") + b"--XX--\r\n",
    "text is a file": form(part(NAME + b'; filename="x"', b"small")),
    "nested": form(part(NAME + b"\r\nContent-Type: multipart/mixed; boundary=YY", b"--YY--")),
    "nested file": part(FILE + b"\r\nContent-Type: Multipart/Mixed; boundary=YY", b"--YY--") + b"--XX--\r\n",
    "odd header": form(part(NAME + b"\r\nX-Odd: 1", b"small")),
    "header twice": form(part(NAME + b"\r\n" + NAME.replace(b"model", b"n"), b"small")),
    "folded header": form(part(NAME.replace(b"; ", b";\r\n "), b"small")),
    "bare line feed": form(part(NAME.replace(b"; ", b";\n"), b"small")),
    "base64": form(part(NAME + b"\r\nContent-Transfer-Encoding: base64", b"c21hbGw=")),
    "wrong length": form(part(NAME + b"\r\nContent-Length: 2", b"small")),
    "other charset": form(part(NAME + b"\r\nContent-Type: text/plain; charset=utf-16", b"small")),
    "not UTF-8": form(part(NAME, b"\xff")),
    "control in the file's name": part(FILE.replace(b" b", b"\tb"), b"") + b"--XX--\r\n",
    "hidden control in it": part(FILE.replace(b'filename="a b', b"filename*=\"utf-8''%00"), b"") + b"--XX--\r\n",
    "quote in it": part(FILE.replace(b" b", b'\\"b'), b"") + b"--XX--\r\n",
    "name twice": form(part(NAME + b'; name="n"', b"1")),
    "no name": form(part(b"Content-Disposition: form-data", b"x")),
    "odd name": form(part(NAME.replace(b"model", b"mo%22del"), b"x")),
    "attachment": form(part(NAME.replace(b"form-data", b"attachment"), b"x")),
    "preamble": b"hello\r\n" + form(MODEL),
    "epilogue": form(MODEL) + b"more",
    "no end": form(MODEL)[:-6],
    "boundary goes on": form(MODEL).replace(b"small\r\n--XX--", b"small\r\n--XXY\r\n--XX--"),
    "padding": form(MODEL).replace(b"--XX\r\n" + NAME, b"--XX \r\n" + NAME),
    "empty": b"--XX--\r\n",
    "nothing": b"",
    "too many": form(*(part(NAME.replace(b"model", b"a[]"), b"x") for _ in range(forms.MAX_PARTS))),
    "too long a head": form(part(NAME + b"\r\nContent-Type: text/plain;" + b" " * forms.MAX_HEAD_BYTES, b"x")),
    "no number": form(part(NAME.replace(b"model", b"n"), "٣".encode())),
    "no switch": form(part(NAME.replace(b"model", b"stream"), b"1")),
}  # fmt: skip


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_what_two_readers_could_read_in_two_ways_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParameter):
        read(raw)


@given(cut=st.integers(0, len(form(MODEL))), put=st.sampled_from([b"", b"\r\n", b"\0", b"--XX", b'"', b"; name=n"]))
def test_no_bytes_are_an_error_of_ours(cut: int, put: bytes) -> None:
    raw = form(MODEL)
    for body in (raw[:cut] + put, raw[:cut] + put + raw[cut:]):
        try:
            assert read(body)["file"]
        except InvalidParameter:
            continue


NAMES = st.from_regex(r"[a-zA-Z0-9_.-]{1,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
FILES = st.builds(
    File,
    st.sampled_from(["audio/mpeg", forms.ANY_KIND]),
    st.sampled_from(["", ".mp3", ".WAV"]),
    st.binary(max_size=300),
)
FIELDS = st.dictionaries(NAMES, TEXTS | FILES, min_size=1, max_size=6)


@given(FIELDS)
def test_other_readers_find_in_what_is_sent_what_was_read(fields: dict[str, str | File]) -> None:
    boundary = forms.new_boundary()
    raw = forms.written(fields, boundary)
    texts, sent = MultiPartParser().parse(io.BytesIO(raw), boundary.encode(), len(raw))
    assert dict(texts) == {k: v for k, v in fields.items() if isinstance(v, str)}
    assert {k: v.read() for k, v in sent.items()} == {k: v.content for k, v in fields.items() if isinstance(v, File)}
    head = f"Content-Type: {forms.content_type(boundary)}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
    assert [p.get_param("name", header="content-disposition") for p in message.iter_parts()] == list(fields)
    held = Form(frozenset(k for k, v in fields.items() if isinstance(v, File)), frozenset(fields))
    if len({name.lower() for name in fields}) == len(fields):
        assert forms.read(raw, forms.content_type(boundary), held) == fields
