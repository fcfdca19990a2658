"""Rows as version 4c3b95d wrote them to DynamoDB, made by running that version. They must stay readable for ever."""

# ruff: noqa: E501
from typing import Any

Item = dict[str, Any]

FULL_MESSAGE: Item = {
    "pk": {"S": "M#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#4Njp3P0STMz2c02Q"},
    "state": {"S": "PARTIAL"},
    "attempt": {"S": "01JDA0000000000000000000A2"},
    "message_id": {"S": "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"},
    "updated_at": {"N": "1795348801500"},
    "owner": {"S": "rq_one"},
    "deadline": {"N": "1795348890000"},
    "expires_at": {"N": "1829908800"},
    "code": {"S": "partly_delivered"},
    "recipients": {"S": '[["ann@example.com"],["bob@example.com"],["eve@example.com"],[1,1,1]]'},
    "evidence": {
        "S": '{"status":200,"error_codes":[1001],"cf_ray":"ray-1","failure":"timeout","seen":"unclear","operation":"01JDA0000000000000000000O1"}'
    },
    "attempts": {"SS": ["01JDA0000000000000000000A1", "01JDA0000000000000000000A2"]},
    "refusals": {"N": "2"},
    "last_refused": {"S": "01JDA0000000000000000000A0"},
    "forced_over": {"S": "RELEASED"},
    "forced_after": {"N": "1795348740000"},
    "asks": {"SS": ["rq_one", "rq_two"]},
    "asks_uncounted": {"N": "3"},
    "largest_call": {"N": "10"},
    "guard": {"S": "overridden"},
    "disposition": {"S": "SPAM"},
    "confirmed_at": {"N": "1795348803000"},
    "operations": {"SS": ["01JDA0000000000000000000O1"]},
}
REVIEWED_MESSAGE: Item = {
    "pk": {"S": "M#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#4WtWkr6nlBz9sNH"},
    "state": {"S": "NEEDS_REVIEW"},
    "attempt": {"S": "01JDA0000000000000000000A3"},
    "message_id": {"S": "4WtWkr6nlBz9sNH"},
    "updated_at": {"N": "1795348800000"},
    "code": {"S": "unsettled"},
    "open_kind": {"S": "M#0"},
    "open_at": {"N": "1795348800000"},
}
CLOSED_REQUEST: Item = {
    "pk": {"S": "R#rq_one"},
    "client": {"S": "soar"},
    "account_id": {"S": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    "fingerprint": {"S": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
    "nonce": {"S": "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"},
    "ids": {"S": "4Njp3P0STMz2c02Q\n4WtWkr6nlBz9sNH\n<a@example.net>"},
    "created_at": {"N": "1795348800000"},
    "reason": {"S": "a false positive"},
    "ticket": {"S": "INC-1"},
    "requested_by": {"S": "Ann"},
    "force": {"BOOL": True},
    "fail_on": {"S": "partial"},
    "trace_id": {"S": "4bf92f3577b34da6a3ce929d0e0e4736"},
    "operation": {"S": "01JDA0000000000000000000O1"},
    "cancelled_at": {"N": "1795348802000"},
    "state": {"S": "CLOSED"},
    "letters": {"S": "PVD"},
    "closed_at": {"N": "1795348804000"},
    "expires_at": {"N": "1829908800"},
    "override": {"BOOL": True},
    "dry_run": {"BOOL": True},
    "confirm": {"BOOL": True},
    "narrowing": {"S": '["ann@example.com","example.org","2026-11-22T12:00:00+00:00",2]'},
    "policy": {"S": '{"strict":true,"dispositions":["SPAM"],"recipient_domains":["example.com"],"max_age_days":7}'},
    "notes": {"N": "2"},
    "resolved_2": {"S": "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"},
    "end_2": {
        "S": '["denied","disposition_not_allowed","Rule dispositions",[["4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678","2026-11-22T12:00:00+00:00","SPAM",true]],"MALICIOUS","passed"]'
    },
}
OPEN_REQUEST: Item = {
    "pk": {"S": "R#rq_two"},
    "client": {"S": "soar"},
    "account_id": {"S": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    "fingerprint": {"S": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"},
    "nonce": {"S": "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"},
    "ids": {"S": "4WtWkr6nlBz9sNH"},
    "created_at": {"N": "1795348800000"},
    "state": {"S": "OPEN"},
    "open_kind": {"S": "R#2"},
    "open_at": {"N": "1795348800000"},
}
ANSWERED_ATTEMPT: Item = {
    "pk": {"S": "T#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#01JDA0000000000000000000A2"},
    "wire_form": {"S": "object"},
    "targets": {
        "B": b'x\x9c\x8bV2\xf1\xcb*0\x0e0\x08\x0e\xf1\xad2J60\n\xd45202\xd150\xd450\r14\xb02\x00!]C#c\x13S3s\x0b%\x1d%\x93\xf0\x92\xf0\xec"\xb3\xbc\x1c\xa7*\xcbb?\x0f\xa5X\x00;\xc0\x11B'
    },
    "owners": {
        "B": b"x\x9c\xabV2\xf1\xcb*0\x0e0\x08\x0e\xf1\xad2J60\nT\xb2R**\x8c\xcf\xcfKU\xd2Q2\t/\t\xcf.2\xcb\xcbq\xaa\xb2,\xf6\xf3\x80H\x95\x94\xe7+\xd5\x02\x00\xe9Q\x11\xcf"
    },
    "sent_at": {"N": "1795348800000"},
    "deadline": {"N": "1795348890000"},
    "state": {"S": "ANSWERED"},
    "ended_at": {"N": "1795348801000"},
    "expires_at": {"N": "1829908800"},
    "evidence": {"S": '{"status":200,"error_codes":[],"cf_ray":"ray-1","failure":null,"seen":null}'},
    "verdicts": {
        "B": b"x\x9c]\x8e\xcb\x0e\x820\x14D\xff\xe5\xae[s[\xf1\xb9RW\x1a\xb5\xbe0,HC\x10\x1a\x83\x96J\x8aO\x8c\xffn\xd1\x1d\xc9YM2g\xe6\r\x9e8\x15\xed5\xee\xfce\xc5\x13\xe4\x1b\x18\x86\xb0\x1eo\xfd\xd9x\x01\x04\x8a\xd8^\xf5+J\x95\xce\xee\xca\xaa\xd4E\xcd\x02\xe5\xc8=\x8a\x8cb\xc7g8\xc4\x1a\xcax\xdb\xebt{} a\x08\xb11#\xf5\x8c\xf3B\xabVr\xc9A\x92\x10\x0e\x97C3s0\xc2\x08J)\xddJp\r\xce\xb6k\xf4\xa4\x1a\x94bZ\xbf\xda\x8b\xb9X\x05\xc2]\xc8\xb3\xb2\xcc\xcc1\xcaL\x14\x9b\xf2\xa1,\x10s\xd3\xdam\xfd5\x0e$\xf83}\xbe\xa0bD\x81"
    },
    "open_kind": {"S": "T#1"},
    "open_at": {"N": "1795348801000"},
}
OPEN_ATTEMPT: Item = {
    "pk": {"S": "T#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#01JDA0000000000000000000A3"},
    "wire_form": {"S": "array"},
    "targets": {"B": b"x\x9c\x8bV2\t/\t\xcf.2\xcb\xcbq\xaa\xb2,\xf6\xf3P\x8a\x05\x00>\x87\x06>"},
    "owners": {"B": b"x\x9c\xabV2\t/\t\xcf.2\xcb\xcbq\xaa\xb2,\xf6\xf3P\xb2R**\x8c/)\xcfW\xaa\x05\x00\x89\x18\t\x98"},
    "sent_at": {"N": "1795348800000"},
    "deadline": {"N": "1795348890000"},
    "state": {"S": "OPEN"},
    "open_kind": {"S": "T#3"},
    "open_at": {"N": "1795348890000"},
}
OPERATION: Item = {
    "pk": {"S": "O#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#01JDA0000000000000000000O1"},
    "kind": {"S": "settle"},
    "at": {"N": "1795348800000"},
    "by": {"S": "ann"},
    "reason": {"S": "seen"},
    "client": {"S": "soar"},
    "part": {"S": "4Njp3P0STMz2c02Q"},
    "settled_as": {"S": "RELEASED"},
    "redriven": {"S": "rq_one"},
    "request_id": {"S": "rq_two"},
}
ALIAS: Item = {
    "pk": {"S": "I#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#1f5087db919ced5c123c7f507d3fcce818cb0cf6e77c2f95a8a35e951e03fdb9"},
    "message_id": {"S": "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"},
    "expires_at": {"N": "1795435200"},
}
UNCLAIMED: Item = {
    "pk": {"S": "N#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa#4Njp3P0STMz2c02Q"},
    "expires_at": {"N": "1795435200"},
    "asks": {"SS": ["rq_one"]},
}
ACCOUNT_ROW: Item = {
    "pk": {"S": "A#aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    "switch": {
        "S": '{"stops":{"soar":["a wrong rule","ann",1795348800000,"01JDA0000000000000000000O2"]},"operations":["01JDA0000000000000000000O2"]}'
    },
    "calls_59844960": {"N": "1"},
    "resumed": {"N": "0"},
    "paused_until": {"N": "1795348830003"},
    "troubles": {"N": "1"},
}
