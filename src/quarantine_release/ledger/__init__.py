"""The only DynamoDB user: one table, the trace and the lock in one.

=========  ==============================  =============================================================
item       `pk`                            holds
=========  ==============================  =============================================================
message    `M#<account>#<postfix part>`    state, last attempt, owner, its ids, recipients, evidence
attempt    `T#<account>#<ulid>`            the write-ahead intent of one Cloudflare call, then its outcome
request    `R#<request_id>`                who, why, which ids; at the end one outcome letter per id
alias      `I#<account>#<sha256>`          the message that a Message-ID was found to mean, and when
unclaimed  `N#<account>#<postfix part>`    who asked for a message without a claim, and what was read of it
operation  `O#<account>#<ulid>`            what a person has changed with the operations tool, who, why; never deleted
=========  ==============================  =============================================================

Open attempts and requests, and messages under review, carry `open_kind` and `open_at`, the keys of the sparse index
`open-index`. The account's row is `call_budget.py`'s, but for its switch. Every write to a message is conditional on
the state and the attempt that its writer saw, so that a stale writer changes nothing.
Each row carries the version of its schema, `v`; none passes a write of an older version.
Limits: a transaction takes 100 actions and 4 MB, an item 400 KB (DynamoDB developer guide, "Quotas").
"""
