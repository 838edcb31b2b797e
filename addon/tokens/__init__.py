"""Cashu tokens and payment requests as bounded, plain data. No cryptography, no mint, no library."""

from addon.tokens.mints import accepted, canonical
from addon.tokens.request import payment_request
from addon.tokens.token import MAX_PROOFS, MAX_TEXT, Proof, Token, decode, encode

__all__ = ["MAX_PROOFS", "MAX_TEXT", "Proof", "Token", "accepted", "canonical", "decode", "encode", "payment_request"]
