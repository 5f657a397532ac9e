// A restaurant's backend that knows nothing of brigade but its contract, docs/reference.
//
//     npm ci && npx tsc
//     node producer.js TENANT PRODUCER_URL WATCHER_URL OTHER_TENANT OTHER_TENANTS_WATCHER_URL
//
// Needs two tenants, since it also tries what it must not reach: `brigade up --tenant demo --tenant
// other` prints their URLs under `tenants`.
//
// Prints a line for each thing that is as the contract says, and ends at the first that is not.

import { isDeepStrictEqual } from "node:util";
import { connect } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";
import {
  headers as newHeaders,
  nuid,
  PermissionViolationError,
  type Msg,
  type NatsConnection,
} from "@nats-io/nats-core";

if (process.argv.length !== 7) {
  console.error("usage: TENANT PRODUCER_URL WATCHER_URL OTHER_TENANT OTHER_TENANTS_WATCHER_URL");
  process.exit(1);
}
const [TENANT, PRODUCER_URL, WATCHER_URL, OTHER, OTHER_URL] = process.argv.slice(2) as [
  string, string, string, string, string,
];
const [CART, ORDER] = [`cart-${nuid.next()}`, `order-${nuid.next()}`];
const PATIENCE = 20_000; // milliseconds, for anything

type Headers = Record<string, string>;
type Reply = { status: number; etag: string | null; body: any };
type Outcome = {
  command_id: string; status: number; code: string; message: string; aggregate: string;
  id: string; version: number | null; etag: string | null; effects: string[]; data: any;
  retry_after_ms: number | null;
};

function check(condition: boolean, what: string, ...seen: unknown[]): asserts condition {
  if (!condition) throw new Error(`${what}; seen: ${JSON.stringify(seen)}`);
}

const proven = (what: string) => console.log(`ok  ${what}`);

const withHeaders = (entries: Headers) => {
  const all = newHeaders();
  for (const [name, value] of Object.entries(entries)) all.set(name, value);
  return all;
};

/** The next message of a subscription, as JSON. */
async function next(messages: AsyncIterator<Msg>): Promise<any> {
  const late = new Promise<never>((_, reject) => {
    setTimeout(() => reject(new Error("no message came where one was due")), PATIENCE).unref();
  });
  const { value } = await Promise.race([messages.next(), late]);
  check(value !== undefined, "the subscription ended");
  return value.json();
}

/** One connection with one credential. */
class Party {
  private constructor(readonly nc: NatsConnection) {}

  static async connect(url: string): Promise<Party> {
    const { username: user, password: pass, host: servers } = new URL(url);
    return new Party(await connect({ servers, user, pass, inboxPrefix: `_INBOX.${user}` }));
  }

  async ask(subject: string, payload: unknown = "", entries: Headers = {}): Promise<Reply> {
    const data = typeof payload === "string" ? payload : JSON.stringify(payload);
    const options = { timeout: PATIENCE, headers: withHeaders(entries) };
    const reply = await this.nc.request(subject, data, options);
    return {
      status: Number(reply.headers?.get("Brigade-Status")),
      etag: reply.headers?.get("ETag") || null,
      body: reply.data.length > 0 ? reply.json() : null,
    };
  }

  listen(subject: string, max?: number): AsyncIterator<Msg> {
    return this.nc.subscribe(subject, { max })[Symbol.asyncIterator]();
  }

  view = (what: string, entries: Headers = {}) =>
    this.ask(`q.${TENANT}.view.${what}`, "", entries);

  /** The request door: the reply is the outcome. */
  async request(what: string, payload: unknown, entries: Headers = {}): Promise<Outcome> {
    const all = { "Command-Id": nuid.next(), ...entries };
    const reply = await this.ask(`req.${TENANT}.${what}`, payload, all);
    check(reply.status === reply.body.status, "Brigade-Status is the outcome's status", reply);
    return reply.body;
  }

  /** The durable door: listen, publish, PubAck, and then the outcome. */
  async publish(what: string, payload: unknown, commandId = nuid.next()): Promise<Outcome> {
    const outcomes = this.listen(`outcome.${TENANT}.${commandId}`, 1);
    const headers = withHeaders({ "Command-Id": commandId });
    const data = JSON.stringify(payload);
    const ack = await jetstream(this.nc).publish(`cmd.${TENANT}.${what}`, data, { headers });
    check(ack.stream === "COMMANDS", "the PubAck is of COMMANDS", ack);
    const body = await next(outcomes);
    const asked = await this.ask(`q.${TENANT}.outcome.${commandId}`);
    check(asked.status === 200, "the outcome stays readable", asked);
    check(isDeepStrictEqual(asked.body, body), "and is the one that was published", asked, body);
    return body;
  }

  /** The server refuses it: a permission error instead of an answer. */
  async refused(what: string, attempt: Promise<unknown>): Promise<void> {
    const end = await attempt.then((answer) => ({ answer }), (error: Error) => ({ error }));
    const error = "error" in end ? end.error : undefined;
    const told = [error, error?.cause].some((e) => e instanceof PermissionViolationError);
    check(told, `${what} is told as a violation`, end, String(error));
    proven(`refused by the server: ${what}`);
  }
}

async function carts(shop: Party): Promise<void> {
  const opening = { kind: "menu", owner: "ada", session: "s1", currency: "EUR" };
  const id = { "Command-Id": nuid.next() };
  const opened = await shop.request(`cart.${CART}.open`, opening, id);
  check(opened.status === 201 && opened.etag === '"1"', "open gives 201", opened);
  check(isDeepStrictEqual(opened.effects, [`cart.${CART}@1`]), "its effects", opened);
  proven("a cart is opened by the request door");
  for (const again of [
    await shop.request(`cart.${CART}.open`, opening, id),
    await shop.publish(`cart.${CART}.open`, opening, id["Command-Id"]),
  ]) {
    check(isDeepStrictEqual(again, opened), "the same Command-Id, the same outcome", again);
  }
  const reused = await shop.request(`cart.${CART}.abandon`, { reason: "x" }, id);
  check(reused.status === 409 && reused.code === "command_id_reused", "reused", reused);
  proven("repeated under its Command-Id it is the same outcome, another command is refused");

  const soup = { item_id: "i1", sku: "soup", name: "Soup", unit_price: 500, quantity: 1 };
  await shop.publish(`cart.${CART}.add_item`, soup);
  let { etag } = await shop.view(`cart.${CART}`);
  for (let quantity = 2; quantity <= 12; quantity += 1) {
    const change = { item_id: "i1", quantity };
    const outcome = quantity % 2 === 0
      ? await shop.publish(`cart.${CART}.set_item`, change)
      : await shop.request(`cart.${CART}.set_item`, change);
    const seen = await shop.view(`cart.${CART}`, { "If-None-Match": etag! });
    check(seen.status === 200, "never 304 right after a commit", seen, outcome);
    check(seen.etag === outcome.etag, "the view has the outcome's ETag", seen, outcome);
    check(seen.body.due === 500 * quantity, "and the new content", seen);
    const same = await shop.view(`cart.${CART}`, { "If-None-Match": seen.etag! });
    check(same.status === 304 && same.etag === seen.etag && same.body === null, "304", same);
    etag = seen.etag;
  }
  proven("right after a commit never 304, then 304 with the ETag repeated");

  const min = { "Min-Version": "14", "Wait-Ms": "50" };
  const late = await shop.view(`cart.${CART}`, min);
  check(late.status === 504 && late.body.version === 13, "504 with the version", late);
  const waiting = shop.view(`cart.${CART}`, { ...min, "Wait-Ms": "20000" });
  await shop.publish(`cart.${CART}.remove_item`, { item_id: "i1" });
  const reached = await waiting;
  check(reached.status === 200 && reached.body.version >= 14, "it waited", reached);
  proven("a query waits for a Min-Version, and says 504 where it does not come");
}

async function badInput(shop: Party): Promise<void> {
  const before = await shop.view(`cart.${CART}`);
  const soup = { item_id: "i1", sku: "soup", name: "Soup", unit_price: 500, quantity: 1 };
  const cases: [number, string, string, unknown, Headers][] = [
    [400, "unknown_field", "add_item", { ...soup, colour: "red" }, {}],
    [404, "unknown_verb", "explode", {}, {}],
    [404, "item_not_found", "remove_item", { item_id: "i9" }, {}],
    [422, "too_large", "add_item", { ...soup, name: "x".repeat(201) }, {}],
    [400, "bad_header", "add_item", soup, { Deadline: "tomorrow" }],
    [412, "version_mismatch", "add_item", soup, { "Expected-Version": "1" }],
    [504, "deadline_passed", "add_item", soup, { Deadline: "2020-01-01T00:00:00.000Z" }],
  ];
  for (const [status, code, verb, payload, entries] of cases) {
    const outcome = await shop.request(`cart.${CART}.${verb}`, payload, entries);
    const { status: s, code: c, effects } = outcome;
    check(s === status && c === code && effects.length === 0, `${status} ${code}`, outcome);
  }
  const malformed = await shop.ask(`req.${TENANT}.cart.${CART}.add_item`, "{", {
    "Command-Id": nuid.next(),
  });
  check(malformed.status === 400, "half a JSON object is 400", malformed);
  const nameless = await shop.ask(`req.${TENANT}.cart.${CART}.add_item`, soup);
  check(nameless.body.code === "missing_command_id", "a command without an id", nameless);
  const after = await shop.view(`cart.${CART}`);
  check(isDeepStrictEqual(after, before), "refusals change nothing", before, after);
  proven("bad input is refused as the contract says, and changes nothing");
}

async function order(shop: Party, watcher: Party): Promise<void> {
  const rows = watcher.listen(`live.active_orders.${TENANT}.${ORDER}.core`);
  const views = watcher.listen(`live.views.${TENANT}.order.${ORDER}.core`);
  await watcher.nc.flush();
  const items = [{ sku: "tea", name: "Tea", unit_price: 300, quantity: 3 }];
  const place = { currency: "EUR", items };
  const placed = await shop.publish(`order.${ORDER}.place`, place);
  check(placed.status === 201 && placed.data.core.total === 900, "place gives 201", placed);
  const accepted = await shop.request(`order.${ORDER}.accept`, {});
  check(accepted.status === 200 && accepted.version === 2, "accept", accepted);
  const served = await shop.publish(`order.${ORDER}.serve`, {});
  check(served.status === 409 && served.code === "illegal_step", "one step at a time", served);
  const cancelled = await shop.request(`order.${ORDER}.cancel`, { reason: "guest left" });
  check(cancelled.status === 200 && cancelled.version === 3, "cancel", cancelled);
  for (const [kind, status] of [
    ["added", "placed"], ["updated", "accepted"], ["removed", "cancelled"],
  ]) {
    const row = await next(rows);
    check(row.change.kind === kind && row.status === status, `a row is ${kind}`, row);
    const view = await next(views);
    check(view.status === status && view.version === row.version, "and its view", view);
  }
  proven("an order goes through both doors, and a watcher is pushed every change, in order");
}

async function permissions(shop: Party, watcher: Party): Promise<void> {
  const opening = { kind: "menu", owner: "eve", currency: "EUR" };
  const id = () => ({ "Command-Id": nuid.next() });
  const before = await shop.view(`cart.${CART}`);
  for (const door of ["req", "cmd"]) {
    const theirs = `${door}.${OTHER}.cart.${CART}.open`;
    await shop.refused(theirs, shop.ask(theirs, opening, id()));
    for (const verb of ["rebuild_cache", "expire_lock", "reconcile"]) {
      const system = `${door}.${TENANT}.cart.${CART}.${verb}`;
      await shop.refused(system, shop.ask(system, {}, id()));
    }
    const own = `${door}.${TENANT}.cart.${CART}.abandon`;
    await watcher.refused(`${own} of a watcher`, watcher.ask(own, { reason: "x" }, id()));
  }
  for (const subject of [
    `q.${OTHER}.view.cart.${CART}`, "$JS.API.STREAM.NAMES", "$JS.API.STREAM.DELETE.EVENTS",
    `$KV.views.${TENANT}.cart.${CART}.core`, `outcome.${TENANT}.x`,
  ]) {
    await shop.refused(subject, shop.ask(subject, {}));
  }
  for (const subject of [`live.*.${OTHER}.>`, `outcome.${OTHER}.>`, "_INBOX.>", "evt.>"]) {
    await shop.refused(`listening to ${subject}`, next(shop.listen(subject)));
  }
  check(isDeepStrictEqual(await shop.view(`cart.${CART}`), before), "nothing happened here");
  const other = await Party.connect(OTHER_URL);
  const theirs = await other.ask(`q.${OTHER}.view.cart.${CART}`);
  check(theirs.status === 404, "nothing happened at the other tenant", theirs);
  await other.nc.close();
  proven("what the credentials do not allow does not happen");
}

try {
  const [shop, watcher] = await Promise.all([PRODUCER_URL, WATCHER_URL].map(Party.connect));
  await carts(shop!);
  await badInput(shop!);
  await order(shop!, watcher!);
  await permissions(shop!, watcher!);
  await Promise.all([shop!.nc.close(), watcher!.nc.close()]);
} catch (broken) {
  console.error("NOT AS THE CONTRACT SAYS:", broken);
  process.exit(1);
}
