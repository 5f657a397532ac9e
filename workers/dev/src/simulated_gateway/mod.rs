//! A payment gateway to play with, which speaks the format of Stripe and moves no money. `brigade up`
//! runs one beside the fleet; it knows nothing of brigade but the URL that it tells events to.
//!
//! | request | does |
//! |---|---|
//! | `POST /v1/payment_intents` with `tenant`, `payment`, `amount`, `currency` | makes a payment intent; its `id` is the transaction |
//! | `POST /v1/payment_intents/{id}/succeed`, `…/fail`, `…/cancel` | the guest pays, or does not |
//! | `POST /v1/payment_intents/{id}/refund`, with `amount` or without | money goes back |
//! | `GET /v1/payment_intents/{id}` | the payment intent |
//!
//! What happened is told as a signed event until it is taken, as real gateways do. Everything is
//! forgotten when it ends.

mod books;
mod event;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use brigade::runtime::http::{ApiOptions, HttpServer, MountedRouter, serve_api};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use self::books::{Books, Happened};
pub use self::event::{event, sign, signature};

/// The name under which brigade knows it.
pub const NAME: &str = "simulated";

/// The number of times that an event is told, with a pause that is doubled each time.
const TRIES: u32 = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A gateway that runs until it is dropped.
pub struct SimulatedGateway {
    server: HttpServer,
    _mounted: MountedRouter,
}

struct GatewayState {
    client: reqwest::Client,
    /// The address of brigade, `http://<address>`.
    brigade: String,
    secret: String,
    books: Mutex<Books>,
    /// The events that are being told.
    telling: Mutex<JoinSet<()>>,
}

impl SimulatedGateway {
    /// Listens on this address (port 0: any free one), and tells brigade of what happens, signed with
    /// this secret.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start(address: SocketAddr, brigade: String, secret: String) -> Result<Self> {
        let gateway = Arc::new(GatewayState {
            client: reqwest::Client::builder().no_proxy().build()?,
            brigade,
            secret,
            books: Mutex::default(),
            telling: Mutex::default(),
        });
        let options = ApiOptions::default();
        let router = Router::new()
            .route("/v1/payment_intents", post(create))
            .route("/v1/payment_intents/{id}", get(show))
            .route("/v1/payment_intents/{id}/{what}", post(happen))
            .with_state(gateway);
        let _mounted = options.mount.mount(router);
        Ok(Self { server: serve_api(address, None, &options).await?, _mounted })
    }

    /// Returns `http://<address>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }
}

async fn create(State(gateway): State<Arc<GatewayState>>, body: Bytes) -> Response {
    respond(gateway.books().create(&read(&body)))
}

async fn show(State(gateway): State<Arc<GatewayState>>, Path(id): Path<String>) -> Response {
    respond(gateway.books().get(&id))
}

async fn happen(
    State(gateway): State<Arc<GatewayState>>,
    Path((id, what)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let happened = gateway.books().happen(&id, &what, &read(&body));
    respond(happened.map(|Happened { tenant, kind, object, intent }| {
        let told = gateway.clone();
        let telling = async move { told.tell(&tenant, kind, &object).await };
        gateway.telling.lock().unwrap_or_else(PoisonError::into_inner).spawn(telling);
        intent
    }))
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

fn respond(result: Result<Value, String>) -> Response {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(message) => (StatusCode::BAD_REQUEST, json!({ "error": { "message": message } })),
    };
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl GatewayState {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of an event until that is taken.
    async fn tell(&self, tenant: &str, kind: &str, object: &Value) {
        let id = format!("evt_{}", uuid::Uuid::now_v7().simple());
        let body = event(&id, kind, now(), object).to_string();
        let url = format!("{}/v1/{tenant}/gateways/{NAME}", self.brigade);
        let mut pause = FIRST_PAUSE;
        for tried in 1..=TRIES {
            let sent = self
                .client
                .post(&url)
                .header("Stripe-Signature", signature(&self.secret, now(), body.as_bytes()))
                .header("Content-Type", "application/json")
                .body(body.clone())
                .send()
                .await;
            match sent {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => {
                    tracing::warn!(id, kind, tried, status = %answer.status(), "event not taken");
                }
                Err(error) => tracing::warn!(id, kind, tried, %error, "event not taken"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Returns the Unix time in seconds.
#[expect(clippy::disallowed_methods, reason = "a gateway has a clock of its own")]
fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}
