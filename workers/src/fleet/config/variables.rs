/// Every variable of `run` and of what an operator calls, for `--help`.
pub const VARIABLES: &str = "\
Environment of `run`, both required for each worker:
  BRIGADE_NATS_URL_<WORKER>        nats://user:password@host:port, of a cluster several with commas;
                                   the user is named like the worker (COMMAND_HANDLER, OUTBOX_RELAY,
                                   PAYMENT_PROJECTOR, USER_STATE_PROJECTOR, CART_LOCK_EXPIRY,
                                   TABLE_STATUS_RECONCILER, CACHE_VERIFIER, EDGE)
  BRIGADE_DATABASE_URL_<WORKER>    postgres://user:password@host:port/database; `migrate` gives its
                                   password to the worker's role
  BRIGADE_NATS_URL, BRIGADE_DATABASE_URL stand in where a worker has none of its own; a process
  with one worker may use them instead.
Environment of `provision` (NATS), `dlq`, `status`, `doctor` and `trace` (both), `migrate`, `locks`,
`tenants` and `security-log` (SQL), required:
  BRIGADE_NATS_URL                 of the user `operator`
  BRIGADE_DATABASE_URL             of the owner of the schema; of Postgres itself, not of a pooler
Each of these may be given as <NAME>_FILE, the file that holds it, in place of the value. The files
are read again: new connections use the user and the password that stand there by then.
Optional, of all connections to NATS; files too are read again for each connection:
  BRIGADE_NATS_CREDS               file with the JWT and the seed of the user; or
  BRIGADE_NATS_NKEY                file with the seed of the user's key; the URL then needs no user
  BRIGADE_NATS_CERT, _KEY          files with the client certificate and its key
                                   (each also with _<WORKER> at its end, for that worker alone)
  BRIGADE_NATS_CA                  file with the authorities to trust instead of the machine's
  BRIGADE_NATS_TLS_FIRST           1: TLS begins at once, as with `handshake_first: true`
  BRIGADE_NATS_JS_DOMAIN           the domain of JetStream, or
  BRIGADE_NATS_JS_API_PREFIX       the prefix of its API (default: $JS.API)
Optional:
  BRIGADE_NATS_MONITORING          http://host:port of nats-server's monitoring, for `doctor`, where it
                                   is not given --nats-monitoring
  BRIGADE_ALLOW_PLAINTEXT          1: connections to NATS and Postgres may leave this machine in
                                   clear text; else they are refused
  BRIGADE_ROLE_PREFIX              what the names of the Postgres roles begin with (default: nothing);
                                   for `migrate`, where two installations share a server
  BRIGADE_ADMIN_ADDR               where /livez, /readyz and /metrics are served, over HTTP (default:
                                   a free port of 127.0.0.1, which is logged)
  BRIGADE_HTTP_ADDR                where edge serves the API (default: the same)
  BRIGADE_HTTP_TLS_CERT, _KEY      files with the certificate (and those between) and the key, as
                                   PEM: HTTPS in place of HTTP; used again when they have changed
  BRIGADE_HTTP_OPEN                1: the API trusts whoever shows no token like a backend; only
                                   where BRIGADE_HTTP_ADDR is an address of loopback
  BRIGADE_HTTP_CORS_ORIGINS        origins whose pages may use the API, separated by commas, such
                                   as https://shop.example (default: none)
  BRIGADE_TRUSTED_PROXIES          networks, such as 10.0.0.0/8,2001:db8::1, whose hosts are believed
                                   what Forwarded or X-Forwarded-For tell (default: none)
  BRIGADE_HTTP_RATES               how many requests edge serves a second, and at once after a pause:
                                   off, or some of address=100/1000, login=5/100, user=50/200,
                                   tenant=2000/10000 (the default), each also =off
  BRIGADE_REPLICAS                 of each stream: 1 (default), or 3 on a cluster
  BRIGADE_LOCK_SECONDS_<METHOD>    how long a cart is locked for a payment by CARD, WALLET, QR or
                                   CASH: 1 to 1800 (default: 600); for command-handler and edge
                                   alike
  BRIGADE_IDLE_CART_HOURS          after how many hours without a change an open cart is abandoned,
                                   unless money is paid or being paid for it: 1 to 65535 (default:
                                   168, a week), or 0 for never; for cart-lock-expiry
  BRIGADE_RECONCILER_DRY_RUN       1: table-status-reconciler counts and logs, and sends nothing
  BRIGADE_EDGE_LIST_CACHE          on (default) or off: edge reads each row of a list from SQL
  BRIGADE_LOG                      filter of the log, such as brigade=debug
                                   (default: info, and of libraries less)
  BRIGADE_LOG_FORMAT               text (default) or json";
