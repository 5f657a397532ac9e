"""A shop's program that retries as stock clients do, and knows nothing else of brigade.

    pip install --require-hashes -r requirements.txt
    retries.py API_URL TENANT

Locks a cart, and meanwhile adds to it: `urllib3`, by which `requests` retries as well, waits as long
as `Retry-After` says, and sends the same request under the same key until it is done. The API has to
trust whoever shows no token (`brigade up --open`).
"""

import json
import sys
import uuid

import urllib3

if len(sys.argv) != 3:
    sys.exit(__doc__)
API_URL, TENANT = sys.argv[1:]
CART = f"cart-{uuid.uuid4().hex}"
RETRIES = urllib3.Retry(
    total=20,
    allowed_methods=None,  # a POST under a key may be repeated
    status_forcelist=[423, 429, 503],
    respect_retry_after_header=True,
)
http = urllib3.PoolManager(retries=RETRIES)


def send(verb, payload, key=None):
    url = f"{API_URL}/v1/{TENANT}/cart/{CART}/{verb}"
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    answer = http.request("POST", url, json=payload, headers=headers)
    if answer.status not in (200, 201):
        sys.exit(f"{verb}: {answer.status} {answer.data.decode()}")
    return answer


def item(name):
    return {"item_id": name, "sku": name, "name": "Soup", "unit_price": 500, "quantity": 1}


send("open", {"kind": "menu", "owner": f"owner-{CART}", "currency": "EUR"})
send("add_item", item("i1"))
send("lock", {"transaction_id": uuid.uuid4().hex, "method": "card"})
key = uuid.uuid4().hex
added = send("add_item", item("i2"), key)
statuses = [attempt.status for attempt in added.retries.history]
if not statuses or set(statuses) != {423}:
    sys.exit(f"the cart was not locked: {statuses}")
if "Idempotency-Replayed" in added.headers:
    sys.exit("the outcome was stored before")
print(f"ok  done under the same key after {len(statuses)} times 423")
again = send("add_item", item("i2"), key)
if json.loads(again.data) != json.loads(added.data):
    sys.exit(f"another outcome: {again.data.decode()}")
if again.headers.get("Idempotency-Replayed") != "true":
    sys.exit("a repetition that is not marked")
print("ok  repeated: the same outcome, marked as replayed")
