"""What must hold of Lightning payments: each is booked once, at its own amount, and the coins agree (rule 3)."""

from __future__ import annotations

from typing import Final

PAYMENTS_ONCE: Final = (
    """
SELECT 'payment ' || p.id || ' (' || p.purpose || ', ' || p.state || ') of ' || p.amount || ' and at most ' || p.fee
    || ' msat is booked as ' || COALESCE(o.amount, 0) || ', fee ' || COALESCE(f.amount, 0)
    || ', back ' || COALESCE(b.amount, 0)
FROM payments p
    LEFT JOIN entries o ON o.ref = p.id AND o.kind = CASE p.purpose WHEN 'payout' THEN 'payout' ELSE 'refund' END
    LEFT JOIN entries f ON f.ref = p.id AND f.kind = 'melt_fee'
    LEFT JOIN entries b ON b.ref = p.id AND b.kind = 'adjustment'
WHERE COALESCE(o.amount, 0) <> CASE WHEN p.account IS NULL AND p.state <> 'paid' THEN 0 ELSE -p.amount END
    OR COALESCE(f.amount, 0) <> CASE WHEN p.account IS NOT NULL THEN -p.fee WHEN p.state = 'paid' THEN -p.fee_paid
        ELSE 0 END
    OR COALESCE(b.amount, 0) <> CASE WHEN p.account IS NULL OR p.state IN ('sent', 'pending') THEN 0
        WHEN p.state = 'paid' THEN MAX(0, p.fee - p.fee_paid) ELSE p.amount + p.fee END
    OR (o.id IS NOT NULL AND o.account IS NOT p.account) OR (f.id IS NOT NULL AND f.account IS NOT p.account)
    OR (b.id IS NOT NULL AND b.account IS NOT p.account)
""",
    """
SELECT 'payment ' || p.id || ' of ' || p.amount || ' msat cost ' || p.fee_paid || ', its coins were '
    || COALESCE(i.amount, 0) || ' ' || p.unit || ', ' || COALESCE(c.amount, 0) || ' came back'
FROM payments p
    LEFT JOIN (SELECT taken_by, SUM(amount) AS amount FROM proofs WHERE state = 'spent' GROUP BY taken_by) i
        ON i.taken_by = p.id
    LEFT JOIN (SELECT made_by, SUM(amount) AS amount FROM proofs GROUP BY made_by) c ON c.made_by = p.id
WHERE p.state = 'paid' AND p.amount + p.fee_paid <> (COALESCE(i.amount, 0) - COALESCE(c.amount, 0))
    * CASE p.unit WHEN 'sat' THEN 1000 ELSE 1 END
""",
    """
SELECT 'a ' || e.kind || ' of ' || e.amount || ' has no payment: ' || e.ref
FROM entries e LEFT JOIN payments p ON p.id = e.ref WHERE e.kind IN ('payout', 'melt_fee') AND p.id IS NULL
""",
)
"""Each row of their answers is a finding, in words."""
