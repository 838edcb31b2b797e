"""What mints answer, as far as it is read (NUT-01, 02, 03, 04, 06, 07, 09, 12). Anything else is no answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from addon.wallet.wire import Unknown

Amount = Annotated[int, Field(strict=True, gt=0, lt=1 << 63)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{2,132}$")]
Point = Annotated[str, Field(pattern=r"^0[23][0-9a-f]{64}$")]
ProofState = Literal["UNSPENT", "PENDING", "SPENT"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Feature(_Answer):
    supported: bool = False


class Info(_Answer):
    nuts: dict[str, Any]

    def offers(self, nut: int) -> bool:
        """Whether the mint says that it supports a NUT with an on/off switch."""
        try:
            return Feature.model_validate(self.nuts.get(str(nut))).supported
        except ValidationError:
            return False


class KeysetRow(_Answer):
    id: str
    unit: str
    active: bool
    input_fee_ppk: int | None = Field(default=None, ge=0, le=1_000_000)
    final_expiry: int | None = None


class KeysetRows(_Answer):
    keysets: list[KeysetRow] = Field(max_length=1000)


class KeysetKeys(_Answer):
    id: str
    keys: dict[Annotated[int, Field(gt=0)], Point] = Field(max_length=200)


class KeysOfSets(_Answer):
    keysets: list[KeysetKeys] = Field(max_length=1000)


class Dleq(_Answer):
    e: Hex
    s: Hex


class Signature(_Answer):
    """A blind signature. `C_` is not yet the coin's `C`."""

    amount: Amount
    id: str
    C_: Point
    dleq: Dleq | None = None


class Signatures(_Answer):
    signatures: list[Signature]


class Blinded(_Answer):
    B_: Point


class Restored(_Answer):
    """`outputs[i]` was signed by `signatures[i]`; what is not named was never signed."""

    outputs: list[Blinded]
    signatures: list[Signature]


class MintQuote(_Answer):
    """A quote for minting (NUT-04). `request`: the invoice."""

    quote: str = Field(min_length=1, max_length=256)
    request: str
    state: Literal["UNPAID", "PAID", "PENDING", "ISSUED"]
    expiry: int | None = None


class StateOfProof(_Answer):
    Y: Point
    state: ProofState


class States(_Answer):
    states: list[StateOfProof]


class MeltState(_Answer):
    """Where a Lightning payment stands (NUT-05)."""

    state: Literal["UNPAID", "PENDING", "PAID"]


class MeltQuote(MeltState):
    """What paying an invoice would cost, in the unit that was asked about."""

    quote: str
    amount: Amount
    fee_reserve: int = Field(strict=True, ge=0, lt=1 << 63)


Shape = TypeVar("Shape", bound=_Answer)


def read(shape: type[Shape], answer: Any) -> Shape:
    """An answer in this shape. Raises Unknown when it is of another: absent is not empty."""
    try:
        return shape.model_validate(answer)
    except ValidationError:
        raise Unknown(f"the answer is no {shape.__name__}") from None
