"""A restaurant's backend that knows nothing of brigade but its contract, docs/reference.

    pip install --require-hashes -r requirements.txt
    producer.py TENANT PRODUCER_URL WATCHER_URL OTHER_TENANT OTHER_TENANTS_WATCHER_URL

Needs two tenants, since it also tries what it must not reach: `brigade up --tenant demo --tenant
other` prints their URLs under `tenants`.

Prints a line for each thing that is as the contract says, and ends at the first that is not.
"""

import asyncio
import json
import sys
import traceback
import uuid
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import nats
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import NoStreamResponseError

if len(sys.argv) != 6:
    sys.exit(__doc__)
TENANT, PRODUCER_URL, WATCHER_URL, OTHER, OTHER_URL = sys.argv[1:]
CART, ORDER = (f"{kind}-{uuid.uuid4().hex}" for kind in ("cart", "order"))
PATIENCE = 20  # seconds, for anything


class NotAsTheContractSays(Exception):
    pass


def check(condition, what, *seen):
    if not condition:
        raise NotAsTheContractSays(f"{what}; seen: {seen}")


def proven(what):
    print(f"ok  {what}", flush=True)


class Party:
    """One connection with one credential."""

    async def connect(self, url):
        self.violations = asyncio.Queue()
        user = urlsplit(url).username

        async def on_error(error):
            await self.violations.put(str(error))

        prefix = f"_INBOX.{user}".encode()
        self.nc = await nats.connect(url, inbox_prefix=prefix, error_cb=on_error)
        return self

    async def ask(self, subject, payload=b"", **headers):
        """Request and reply: the status, the body, the ETag."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.nc.request(subject, payload, timeout=PATIENCE, headers=headers or None)
        told = reply.headers or {}
        body = json.loads(reply.data) if reply.data else None
        return int(told["Brigade-Status"]), body, told.get("ETag")

    async def view(self, kind, id, **headers):
        return await self.ask(f"q.{TENANT}.view.{kind}.{id}", **headers)

    async def request(self, what, payload, command_id=None, **headers):
        """The request door: the reply is the outcome."""
        subject, data = f"req.{TENANT}.{what}", json.dumps(payload).encode()
        headers = {"Command_Id": command_id or uuid.uuid4().hex, **headers}
        status, outcome, _ = await self.ask(subject, data, **headers)
        check(status == outcome["status"], "Brigade-Status is the outcome's status", outcome)
        return outcome

    async def publish(self, what, payload, command_id=None):
        """The durable door: listen, publish, PubAck, outcome, or else ask for it."""
        command_id = command_id or uuid.uuid4().hex
        outcomes = await self.nc.subscribe(f"outcome.{TENANT}.{command_id}", max_msgs=1)
        ack = await self.nc.jetstream().publish(
            f"cmd.{TENANT}.{what}",
            json.dumps(payload).encode(),
            headers={"Command-Id": command_id},
        )
        check(ack.stream == "COMMANDS", "the PubAck is of COMMANDS", ack)
        try:
            return json.loads((await outcomes.next_msg(timeout=PATIENCE)).data)
        except NatsTimeout:
            asked = f"q.{TENANT}.outcome.{command_id}"
            status, outcome, _ = await self.ask(asked, Wait_Ms="10000")
            check(status == 200, "the outcome stays readable", status, outcome)
            return outcome

    async def refused(self, what, attempt):
        """The server refuses it: a permission error, and no answer."""
        while not self.violations.empty():
            self.violations.get_nowait()
        attempt = asyncio.create_task(attempt)
        told = await asyncio.wait_for(self.violations.get(), PATIENCE)
        check("permissions violation" in told.lower(), f"{what} is told as a violation", told)
        await self.nc.flush()
        check(not attempt.done() or attempt.exception(), f"{what} was answered", attempt)
        attempt.cancel()
        proven(f"refused by the server: {what}")


def item(id, price, quantity):
    of = {"item_id": id, "sku": f"sku-{id}", "name": f"Item {id}"}
    return {**of, "unit_price": price, "quantity": quantity}


async def cart(shop):
    opening = {"kind": "team", "owner": "ada", "currency": "EUR"}
    command_id = uuid.uuid4().hex
    opened = await shop.request(f"cart.{CART}.open", opening, command_id)
    check(opened["status"] == 201 and opened["version"] == 1, "open gives 201", opened)
    check(opened["command_id"] == command_id, "the outcome names its command", opened)
    check(opened["aggregate"] == "cart" and opened["id"] == CART, "and its cart", opened)
    check(opened["effects"] == [f"cart.{CART}@1"], "and its effects", opened)
    check(opened["etag"] == '"1"' and opened["retry_after_ms"] is None, "and its ETag", opened)
    check(opened["data"]["core"]["owner"] == "ada", "data holds the core", opened)
    proven("a cart is opened by the request door")
    for again in (
        await shop.request(f"cart.{CART}.open", opening, command_id),
        await shop.publish(f"cart.{CART}.open", opening, command_id),
    ):
        check(again == opened, "the same Command-Id gets the same outcome", opened, again)
    proven("repeated under its Command-Id, through both doors, it is the same outcome")
    other = await shop.request(f"cart.{CART}.join", {"user": "bob"}, command_id)
    check((other["status"], other["code"]) == (409, "command_id_reused"), "reused", other)
    proven("another command under that Command-Id is refused")
    joined = await shop.publish(f"cart.{CART}.join", {"user": "bob"})
    check((joined["status"], joined["version"]) == (200, 2), "join by the durable door", joined)
    added = await shop.publish(f"cart.{CART}.add_item", item("i1", 1250, 2))
    check((added["status"], added["version"]) == (200, 3), "add_item", added)
    proven("the durable door: PubAck, then the outcome")


async def never_stale(shop):
    """Ten commits, each followed at once by a query with the ETag from before it."""
    status, body, etag = await shop.view("cart", CART)
    check(status == 200 and etag == f'"{body["version"]}"', "a view and its ETag", status, etag)
    check(body["due"] == 2500 and body["payments"]["paid"] == 0, "its due", body)
    for quantity in range(3, 13):
        change = {"item_id": "i1", "quantity": quantity}
        send = shop.request if quantity % 2 else shop.publish
        outcome = await send(f"cart.{CART}.set_item", change)
        status, body, new = await shop.view("cart", CART, If_None_Match=etag)
        check(status == 200, "never 304 after a commit", status, outcome)
        check(body["version"] == outcome["version"], "the version of the outcome", body, outcome)
        check(body["core"]["items"][0]["quantity"] == quantity, "the new content", body)
        check(new == outcome["etag"], "the ETag of the outcome", new, outcome)
        status, body, same = await shop.view("cart", CART, If_None_Match=f'W/"0", {new}')
        check((status, body, same) == (304, None, new), "304 while nothing changes", status, body)
        etag = new
    proven("right after a commit never 304, then 304 with the ETag repeated")


async def waiting(shop):
    _, body, _ = await shop.view("cart", CART)
    next_version = str(body["version"] + 1)
    status, late, _ = await shop.view("cart", CART, Min_Version=next_version, Wait_Ms="50")
    check(status == 504 and late["version"] == body["version"], "504 with the version", late)
    query = asyncio.create_task(
        shop.view("cart", CART, Min_Version=next_version, Wait_Ms="20000")
    )
    await shop.request(f"cart.{CART}.commit_cod", {"user": "bob"})
    status, body, _ = await query
    check(status == 200 and str(body["version"]) == next_version, "it waited", status, body)
    check(body["payments"]["members"][1]["committed"] == "cod", "the commitment", body)
    proven("a query waits for a Min-Version, and says 504 where it does not come")
    missing = await shop.ask(f"q.{TENANT}.outcome.{uuid.uuid4().hex}")
    check((missing[0], missing[1]["code"]) == (404, "not_decided"), "not decided", missing)
    proven("an outcome that is not there is 404 not_decided")


async def bad_input(shop):
    past = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat(timespec="milliseconds")
    cases = [
        ((400, "unknown_field"), f"cart.{CART}.join", {"user": "eve", "x": 1}, {}),
        ((404, "unknown_verb"), f"cart.{CART}.explode", {}, {}),
        ((404, "unknown_verb"), f"spoon.{CART}.open", {}, {}),
        ((409, "already_member"), f"cart.{CART}.join", {"user": "bob"}, {}),
        ((409, "item_exists"), f"cart.{CART}.add_item", item("i1", 1, 1), {}),
        ((422, "not_a_member"), f"cart.{CART}.commit_cod", {"user": "eve"}, {}),
        ((422, "too_large"), f"cart.{CART}.add_item", {**item("i2", 1, 1), "name": "x" * 201}, {}),
        ((400, "bad_header"), f"cart.{CART}.join", {"user": "eve"}, {"Expected_Version": "x"}),
        ((412, "version_mismatch"), f"cart.{CART}.join", {"user": "e"}, {"Expected_Version": "1"}),
        ((504, "deadline_passed"), f"cart.{CART}.join", {"user": "eve"}, {"Deadline": past}),
    ]
    before = await shop.view("cart", CART)
    for (status, code), what, payload, headers in cases:
        outcome = await shop.request(what, payload, **headers)
        found = (outcome["status"], outcome["code"], outcome["effects"], outcome["data"])
        check(found == (status, code, [], {}), f"{what} {headers}: {status} {code}", outcome)
        if headers or what.endswith("explode") or what.startswith("spoon"):
            continue
        durable = await shop.publish(what, payload)
        found = (durable["status"], durable["code"])
        check(found == (status, code), f"{what} by the durable door", durable)
    for data in (b"{", b"[]", b'{"user":"a","user":"b"}', b"\xff"):
        answer = await shop.ask(f"req.{TENANT}.cart.{CART}.join", data, Command_Id=uuid.uuid4().hex)
        check(answer[0] == 400, f"{data} is malformed", answer)
    try:
        taken = await shop.publish(f"spoon.{CART}.open", {})
        raise NotAsTheContractSays(f"the stream took an unknown aggregate: {taken}")
    except NoStreamResponseError:
        pass
    large = b'{"user":"' + b"a" * 65536 + b'"}'
    answer = await shop.ask(f"req.{TENANT}.cart.{CART}.join", large, Command_Id=uuid.uuid4().hex)
    check(answer[0] == 413, "more than 64 KiB is 413", answer)
    nameless = await shop.ask(f"req.{TENANT}.cart.{CART}.join", b'{"user":"eve"}')
    check((nameless[0], nameless[1]["code"]) == (400, "missing_command_id"), "nameless", nameless)
    secret = await shop.ask(f"cmd.{TENANT}.user.u1.login", b"{}", Command_Id=uuid.uuid4().hex)
    check((secret[0], secret[1]["code"]) == (400, "secret_on_durable_door"), "a secret", secret)
    check(await shop.view("cart", CART) == before, "refusals change nothing")
    proven("bad input is refused as the contract says, and changes nothing")


async def order(shop, watcher):
    rows = await watcher.nc.subscribe(f"live.active_orders.{TENANT}.>")
    views = await watcher.nc.subscribe(f"live.views.{TENANT}.order.{ORDER}.*")
    await watcher.nc.flush()
    items = [{"sku": "pizza", "name": "Pizza", "unit_price": 1250, "quantity": 2, "note": "hot"}]
    placed = await shop.publish(f"order.{ORDER}.place", {"currency": "EUR", "items": items})
    check((placed["status"], placed["version"]) == (201, 1), "place gives 201", placed)
    kinds = []
    for step in ("accept", "prepare", "ready", "serve", "complete"):
        send = shop.request if step in ("accept", "ready") else shop.publish
        outcome = await send(f"order.{ORDER}.{step}", {})
        check(outcome["status"] == 200, step, outcome)
    back = await shop.request(f"order.{ORDER}.accept", {})
    check((back["status"], back["code"]) == (409, "illegal_step"), "no step back", back)
    proven("an order goes through the kitchen by both doors")
    while "removed" not in kinds:
        push = await rows.next_msg(timeout=PATIENCE)
        if push.subject == f"live.active_orders.{TENANT}.{ORDER}.core":
            row = json.loads(push.data)
            check(row["order"] == ORDER and row["total"] == 2500, "a row", row)
            kinds.append(row["change"]["kind"])
    check(kinds[0] == "added" and set(kinds[1:-1]) <= {"updated"}, "the changes", kinds)
    versions = {}
    while versions.get("core") != 6 or "payments" not in versions:
        push = await views.next_msg(timeout=PATIENCE)
        part, version = push.subject.rsplit(".", 1)[1], json.loads(push.data)["version"]
        check(version >= versions.get(part, 0), "a view never goes back", part, versions)
        versions[part] = version
    proven("a watcher is pushed every change of the order, in order")


async def permissions(shop, watcher):
    other = await Party().connect(OTHER_URL)
    opening = json.dumps({"kind": "team", "owner": "eve", "currency": "EUR"}).encode()
    ask = lambda party, subject, data=b"{}": party.nc.request(
        subject, data, timeout=PATIENCE, headers={"Command-Id": uuid.uuid4().hex}
    )
    theirs = f"{OTHER}.cart.{CART}"
    before = await shop.view("cart", CART)
    for door in ("req", "cmd"):
        await shop.refused(f"{door}, another tenant", ask(shop, f"{door}.{theirs}.open", opening))
        for verb in ("rebuild_cache", "expire_lock", "reconcile"):
            system = f"{door}.{TENANT}.cart.{CART}.{verb}"
            await shop.refused(f"{door}, {verb}", ask(shop, system))
        change = f"{door}.{TENANT}.cart.{CART}.abandon"
        await watcher.refused(f"{door}, a watcher", ask(watcher, change, b'{"reason":"x"}'))
    await shop.refused("a query of another tenant", ask(shop, f"q.{OTHER}.view.cart.{CART}"))
    for api in ("STREAM.NAMES", "STREAM.MSG.GET.KV_views", "STREAM.PURGE.COMMANDS"):
        await shop.refused(f"$JS.API.{api}", ask(shop, f"$JS.API.{api}"))
    for subject in (f"$KV.views.{TENANT}.cart.{CART}.core", f"evt.{TENANT}.cart.opened.00"):
        await shop.refused(f"a write to {subject.split('.')[0]}", ask(shop, subject))
    for subject in (f"live.*.{OTHER}.>", f"outcome.{OTHER}.>", "_INBOX.>", f"cmd.{TENANT}.>"):
        listening = await shop.nc.subscribe(subject)
        await shop.refused(f"listening to {subject}", listening.next_msg(timeout=PATIENCE))
    check(await shop.view("cart", CART) == before, "nothing happened to the cart")
    status, _, _ = await other.ask(f"q.{OTHER}.view.cart.{CART}")
    check(status == 404, "nothing happened at the other tenant", status)
    await other.nc.close()
    proven("what the credentials do not allow does not happen")


async def main():
    shop, watcher = await Party().connect(PRODUCER_URL), await Party().connect(WATCHER_URL)
    await cart(shop)
    await never_stale(shop)
    await waiting(shop)
    await bad_input(shop)
    await order(shop, watcher)
    await permissions(shop, watcher)
    await shop.nc.close()
    await watcher.nc.close()


try:
    asyncio.run(main())
except NotAsTheContractSays as broken:
    sys.exit(f"NOT AS THE CONTRACT SAYS: {broken}")
except (asyncio.TimeoutError, NatsTimeout):
    traceback.print_exc()
    sys.exit("NOT AS THE CONTRACT SAYS: no answer, push or violation where one was due")
