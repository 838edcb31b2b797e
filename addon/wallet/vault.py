"""The wallet's parts, put together once; and what each ask is answered by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from addon.errors import NoBalance, SettingsError
from addon.ledger import (
    FILE_NAME,
    WALLET_WAIT_MS,
    Invoices,
    Journal,
    Proofs,
    Refunds,
    Reports,
    Singles,
    Solvency,
    Store,
    solvency,
)
from addon.settings import Settings
from addon.tokens import canonical
from addon.treasury import (
    Ask,
    Change,
    Changed,
    Invoiced,
    LookAtInvoice,
    Looked,
    OrderInvoice,
    Recall,
    Receive,
    Received,
    RefundAccount,
    Refunded,
    Sent,
    Welcome,
    wallet_home,
)
from addon.wallet import identity
from addon.wallet.booking import Booking
from addon.wallet.change import Changer
from addon.wallet.coins import Coins
from addon.wallet.epochs import Epochs
from addon.wallet.minting import Minting
from addon.wallet.mints import Mints
from addon.wallet.outgoing import Outgoing
from addon.wallet.receive import Receiver
from addon.wallet.recovery import Recovery
from addon.wallet.refund import Refunder
from addon.wallet.seeds import Seeds
from addon.wallet.swap import Swaps
from addon.wallet.watch import Watch
from addon.wallet.wire import new_client


class Vault:
    """One ledger file, one node secret, and everything that moves coins between them and the mints."""

    def __init__(self, settings: Settings, state_dir: Path) -> None:
        """Opens the ledger. Raises SettingsError or InternalError, in words for the operator."""
        secret = identity.node_secret(settings.nsec.get_secret_value(), state_dir)
        self._npub = identity.npub(secret)
        identity.claim(wallet_home(state_dir), self._npub)
        self._store = Store.open(state_dir / FILE_NAME, wait_ms=WALLET_WAIT_MS, durable=True)
        seeds, accepted = Seeds(secret), _canonical(settings.cashu_mints)
        self._key_secret = seeds.key_secret.hex()
        journal, proofs, refunds = Journal(self._store), Proofs(self._store), Refunds(self._store)
        if not Coins(seeds).made_here(proofs.any_derived()):
            raise SettingsError(f"NSEC: the coins in {state_dir / FILE_NAME} were made with another one. Set that one.")
        reports = Reports(self._store)
        mints, epochs = Mints(new_client(), journal.keyset_mints()), Epochs(journal, seeds)
        coins = Coins(seeds)
        booking = Booking(journal, refunds, seeds, coins, epochs)
        swaps = Swaps(journal, proofs, seeds, coins, mints, booking)
        self._receiver = Receiver(settings.cashu_mints, journal, reports, mints, epochs, swaps)
        self._outgoing = Outgoing(settings, self._store, journal, seeds, coins, mints, epochs, swaps, self._solvency)
        self._refunder = Refunder(
            journal,
            proofs,
            refunds,
            reports,
            coins,
            mints,
            epochs,
            swaps,
            booking,
            self._solvency,
            self._outgoing.using,
        )
        self._changer = Changer(journal, proofs, refunds, Singles(self._store), coins, mints, swaps, booking)
        self._recovery = Recovery(accepted, journal, refunds, mints, epochs, swaps, self._refunder, self._changer)
        invoices = Invoices(self._store)
        self._watch = Watch(invoices, Minting(accepted, invoices, journal, reports, seeds, mints, epochs, swaps))
        self._recovered = 0

    def start(self) -> None:
        """Takes up what an earlier life left open. Needs the running loop."""
        self._recovered = self._recovery.start() + self._outgoing.start()
        self._watch.start()

    def welcome(self) -> Welcome:
        """What a proxy is told at its hello."""
        return Welcome(npub=self._npub, key_secret=self._key_secret, recovered=self._recovered)

    async def answer(self, ask: Ask) -> Received | Refunded | Sent | Changed | Invoiced | Looked:
        """Raises Failure."""
        match ask:
            case Receive():
                return await self._receiver.receive(ask)
            case RefundAccount():
                return await self._refunded(ask)
            case Change():
                return await self._changer.change(ask.account)
            case Recall():
                return await self._changer.recall(ask.token)
            case OrderInvoice():
                return await self._watch.order(ask)
            case LookAtInvoice():
                await self._watch.look(ask.id)
                return Looked()

    async def _refunded(self, ask: RefundAccount) -> Refunded | Sent:
        """To an address, or as a token. While a payment may still come back nobody hears that there is no balance."""
        sent = None if ask.to_token else await self._outgoing.refund(ask.account)
        try:
            return sent or await self._refunder.refund(ask.account)
        except NoBalance:
            if (on_its_way := self._outgoing.on_its_way(ask.account)) is None:
                raise
            return on_its_way

    def _solvency(self) -> list[Solvency]:
        return solvency(self._store.db)

    def close(self) -> None:
        """Closes the ledger."""
        self._store.close()


def _canonical(mints: Sequence[str]) -> list[str]:
    """The accepted mints as the ledger spells them. Raises SettingsError for one that is no plain address."""
    for url in mints:
        if canonical(url) is None:
            raise SettingsError(f"CASHU_MINTS: {url} must be a plain web address, without user, query or fragment.")
    return [found for url in mints if (found := canonical(url)) is not None]
