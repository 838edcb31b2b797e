"""The blind signatures of Cashu (NUT-00, NUT-02, NUT-12), typed. The only module that imports `cashu`.

Of the library only `cashu.core.crypto` is used: it touches no environment, no logger and no file. Points
and scalars travel as hex, as on the wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from cashu.core.crypto.b_dhke import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    alice_verify_dleq,
    hash_to_curve,
    step1_alice,
    step3_alice,
)
from cashu.core.crypto.keys import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    derive_keyset_id,
    derive_keyset_id_v2,
)
from cashu.core.crypto.secp import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
    PrivateKey,
    PublicKey,
)

ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""Of secp256k1: a secret key is a number from 1 to below it."""


def is_point(text: str) -> bool:
    """Whether this is a compressed point of the curve, in hex."""
    try:
        PublicKey(bytes.fromhex(text))
    except ValueError:
        return False
    return len(text) == 66


def point_of(secret: str) -> str:
    """`Y` of a secret: what the mint calls a coin by (NUT-07)."""
    return _hex(hash_to_curve(secret.encode()))


def blind(secret: str, factor: bytes) -> str:
    """`B_` = Y + r·G, what the mint is given to sign."""
    return _hex(step1_alice(secret, PrivateKey(factor))[0])


def unblind(signature: str, factor: bytes, key: str) -> str:
    """`C` = C_ − r·A, from the mint's answer and its key for that amount."""
    return _hex(step3_alice(_point(signature), PrivateKey(factor), _point(key)))


def is_signed_by(blinded: str, signature: str, e: str, s: str, key: str) -> bool:
    """Whether a DLEQ proof shows that `signature` on `blinded` was made with the secret key behind `key`."""
    try:
        e_key, s_key = PrivateKey(bytes.fromhex(e)), PrivateKey(bytes.fromhex(s))
        return bool(alice_verify_dleq(_point(blinded), _point(signature), e_key, s_key, _point(key)))
    except ValueError:
        return False


def keyset_id(keys: Mapping[int, str], *, version: str, unit: str, expiry: int | None, fee_ppk: int) -> str:
    """The id that a keyset of these public keys must have (`version` 00 or 01); '' if they make none."""
    try:
        points = {amount: _point(key) for amount, key in keys.items()}
    except ValueError:
        return ""
    if version == "00":
        return str(derive_keyset_id(points))
    if version == "01":
        return str(derive_keyset_id_v2(points, unit, expiry, fee_ppk))
    return ""


def public_key(secret: bytes) -> bytes:
    """The compressed public key of a secret key, 33 bytes. Raises ValueError for a number that is no key."""
    return bytes(PrivateKey(secret).public_key.format())


def schnorr(secret: bytes, digest: bytes) -> str:
    """A signature (BIP340, hex) of a secret key on 32 bytes."""
    return str(PrivateKey(secret).sign_schnorr(digest).hex())


def scalar(material: bytes) -> bytes:
    """A secret key from random or derived bytes: as they are, but for the one in 2**128 that is none."""
    while not 0 < int.from_bytes(material, "big") < ORDER:
        material = hashlib.sha256(material).digest()
    return material


def _point(text: str) -> Any:
    return PublicKey(bytes.fromhex(text))


def _hex(point: Any) -> str:
    return str(point.format().hex())
