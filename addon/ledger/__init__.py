"""The ledger: one SQLite file that holds the books, the wallet's journal and its coins.

All SQL of this project is in this package; it knows no HTTP, no mint and no proxy.
"""

from addon.ledger.books import Books, Credential, End, Settled, Settlement
from addon.ledger.checkpoints import Checkpoints
from addon.ledger.folding import fold, fold_some
from addon.ledger.ids import new_id
from addon.ledger.invariants import INVARIANTS, Finding, Solvency, audit, solvency
from addon.ledger.invoices import INVOICE_STATES, Invoice, InvoicePurpose, Invoices
from addon.ledger.journal import SWAP_STATES, InputsTaken, Journal, NewSwap, Purpose, Swap
from addon.ledger.patience import patiently
from addon.ledger.payments import (
    PAYMENT_STATES,
    Due,
    InvoiceTaken,
    LightningPayment,
    NewPayment,
    PaymentPurpose,
    Payments,
    ProfitMoved,
)
from addon.ledger.profit import free_profit_msat
from addon.ledger.proofs import CoinsMoved, Proofs, Purse, StoredProof
from addon.ledger.rates import KeptRates, Rate
from addon.ledger.refunds import REFUND_STATES, REQUESTS_RUNNING, Payment, Refund, Refunds
from addon.ledger.reports import Account, Reports
from addon.ledger.singles import SINGLE_STATES, Single, Singles
from addon.ledger.store import FILE_NAME, PROXY_WAIT_MS, WALLET_WAIT_MS, Store
from addon.ledger.workers import Worker, bury_dead

__all__ = [
    "FILE_NAME", "INVARIANTS", "INVOICE_STATES", "PAYMENT_STATES", "PROXY_WAIT_MS", "REFUND_STATES",
    "REQUESTS_RUNNING", "SINGLE_STATES", "SWAP_STATES", "WALLET_WAIT_MS", "Account", "Books", "Checkpoints",
    "CoinsMoved", "Credential",
    "Due", "End", "Finding", "InputsTaken", "Invoice", "InvoicePurpose", "InvoiceTaken", "Invoices", "Journal",
    "KeptRates", "LightningPayment", "NewPayment", "NewSwap", "Payment", "PaymentPurpose", "Payments", "ProfitMoved",
    "Proofs", "Purpose", "Purse", "Rate", "Refund", "Refunds", "Reports",
    "Settled", "Settlement", "Single", "Singles", "Solvency", "Store", "StoredProof", "Swap", "Worker", "audit",
    "bury_dead", "fold", "fold_some", "free_profit_msat", "new_id", "patiently", "solvency",
]  # fmt: skip
