"""Which worker owns a partition: fencing, former owners, transactions that they left open.

No records pass through here.
"""
