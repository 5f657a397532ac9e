//! The secrets of carts. Whoever was given one joins a cart, or turns out to be its session.
//!
//! They are derived from a key that command-handler alone reads, so that a repeated command is
//! answered with the same one although none is kept: of a cart's secret there is a hash, of a
//! session's nothing.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Kind, Open, Verb};
use crate::{
    Body, Command, Door, Secret, Token, Via,
    verb::{Encode, encode_payload},
};

/// No `Serialize` of what holds a secret: only [`Encode`] writes it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub user: Token,
    /// The secret that `open` or `invite` gave to the cart's owner.
    pub secret: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub user: Token,
    /// The secret of the session, which `open` told to whoever opened a cart of it.
    pub session_secret: Option<Secret>,
}

impl Verb {
    /// Returns true if the secret of a cart, or of a session, stands in the payload.
    pub(crate) fn shows_secret(&self) -> bool {
        match self {
            Self::Join(join) => join.secret.is_some(),
            Self::Claim(claim) => claim.session_secret.is_some(),
            _ => false,
        }
    }
}

impl Encode for Join {
    fn encode(&self) -> Vec<u8> {
        with_secret(&self.user, "secret", self.secret.as_ref())
    }
}

impl Encode for Claim {
    fn encode(&self) -> Vec<u8> {
        with_secret(&self.user, "session_secret", self.session_secret.as_ref())
    }
}

fn with_secret(user: &Token, name: &str, secret: Option<&Secret>) -> Vec<u8> {
    let mut payload = json!({ "user": user });
    if let Some(secret) = secret {
        payload[name] = json!(secret.expose());
    }
    encode_payload(&payload)
}

/// The key from which the secrets of carts are derived.
#[derive(Clone, Default)]
pub struct SecretKey([u8; Self::LEN]);

impl SecretKey {
    pub const LEN: usize = 32;

    #[must_use]
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the secret of a cart that this command gives it.
    #[must_use]
    pub fn of_cart(&self, by: &Command) -> Secret {
        self.derive(["cart", by.tenant.as_str(), by.id(), &by.key().to_string()])
    }

    /// Returns the secret of a session.
    #[must_use]
    pub fn of_session(&self, tenant: &Token, session: &Token) -> Secret {
        self.derive(["session", tenant.as_str(), session.as_str(), ""])
    }

    /// Returns what the answer to a command that is done tells besides its outcome, each time: on
    /// the request door, to what comes by HTTP and to programs that ask for it. For all others an
    /// outcome is the same by whichever door, and when it is asked for later.
    #[must_use]
    pub fn told(&self, command: &Command) -> Vec<(&'static str, Value)> {
        let is_asked = command.via != Via::Nats || command.tell_secrets;
        if command.door != Door::Request || !is_asked {
            return Vec::new();
        }
        let verb = command.request.as_ref().map(|request| &request.body);
        let (is_of_team, session) = match verb {
            Ok(Body::Cart(Verb::Open(Open { kind, session, .. }))) => {
                (*kind == Kind::Team, session.as_ref())
            }
            Ok(Body::Cart(Verb::Invite(_))) => (true, None),
            _ => return Vec::new(),
        };
        let of_cart = is_of_team.then(|| ("secret", self.of_cart(command)));
        let of_session = session.map(|id| ("session_secret", self.of_session(&command.tenant, id)));
        let told = of_cart.into_iter().chain(of_session);
        told.map(|(name, secret)| (name, json!(secret.expose()))).collect()
    }

    fn derive(&self, names: [&str; 4]) -> Secret {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key may have any length");
        // No name has a line break, so no two lists of names are one text.
        let mac = mac.chain_update(names.join("\n")).finalize().into_bytes();
        Secret::new(URL_SAFE_NO_PAD.encode(mac)).expect("43 characters")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(subject: &str, id: &str, payload: &Value) -> Command {
        let headers = [("Command-Id", id)];
        Command::decode(subject, headers.into_iter(), payload.to_string().as_bytes()).unwrap()
    }

    fn told(key: &SecretKey, subject: &str, id: &str, payload: &Value) -> Value {
        let told = key.told(&command(subject, id, payload));
        told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Computed by python3's hmac and base64.
    #[test]
    fn a_secret_is_an_hmac_of_what_it_is_for() {
        let secret = SecretKey::new([7; 32])
            .of_session(&Token::new("t1").unwrap(), &Token::new("s1").unwrap());
        assert_eq!(secret.expose(), "rtHWf2CSdw021TzhtjXD-57tjBBVIDseN38r3aWltis");
    }

    #[test]
    fn what_is_told_depends_on_the_command_and_stays_the_same() {
        let key = SecretKey::new([7; 32]);
        let open = |kind: &str, session: Option<&str>| json!({"kind": kind, "owner": "ada", "session": session, "currency": "EUR"});
        let (opened, subject) = (open("team", None), "req.t1.cart.c1.open");
        let first = told(&key, subject, "k1", &opened);
        assert_eq!(first["secret"].as_str().map(str::len), Some(43));
        assert_eq!(told(&key, subject, "k1", &opened), first);
        // What is answered by the durable door is stored in a stream.
        assert_eq!(told(&key, "cmd.t1.cart.c1.open", "k1", &opened), json!({}));
        // Programs ask for it.
        for (asks, expected) in
            [(None, json!({})), (Some("false"), json!({})), (Some("true"), first)]
        {
            let mut by_program = command(subject, "k1", &opened);
            by_program.via = Via::Nats;
            by_program.tell_secrets = asks == Some("true");
            let told = key.told(&by_program);
            let told: Value =
                told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(told, expected, "{asks:?}");
        }
        let first = told(&key, subject, "k1", &opened);
        for other in [
            told(&key, subject, "k2", &opened),
            told(&key, subject, "ada.k1", &opened),
            told(&key, "req.t1.cart.c2.open", "k1", &opened),
            told(&key, "req.t2.cart.c1.open", "k1", &opened),
            told(&SecretKey::new([8; 32]), subject, "k1", &opened),
            told(&key, "req.t1.cart.c1.invite", "k3", &json!({})),
        ] {
            assert_eq!(other["secret"].as_str().map(str::len), Some(43));
            assert_ne!(other["secret"], first["secret"]);
        }
        assert_eq!(told(&key, subject, "k1", &open("menu", None)), json!({}));
        // A session has one, whichever cart it is told with.
        let of_session = told(&key, subject, "k1", &open("menu", Some("s1")));
        let other = told(&key, "req.t1.cart.c2.open", "k2", &open("team", Some("s1")));
        assert_eq!(of_session, json!({"session_secret": other["session_secret"]}));
        assert_ne!(other["secret"], other["session_secret"]);
        assert_eq!(told(&key, "req.t1.cart.c1.join", "k1", &json!({"user": "ada"})), json!({}));
    }

    #[test]
    fn a_secret_is_written_when_it_is_sent_and_only_then() {
        let payload = r#"{"secret":"x","user":"ada"}"#;
        let join = Verb::decode("join", payload.as_bytes()).unwrap().unwrap();
        assert_eq!(join.encode().1, payload.as_bytes());
        assert!(!format!("{join:?}").contains('x'), "{join:?}");
        let payload = r#"{"session_secret":"x","user":"ada"}"#;
        let claim = Verb::decode("claim", payload.as_bytes()).unwrap().unwrap();
        assert_eq!(claim.encode().1, payload.as_bytes());
        assert_eq!(format!("{:?}", SecretKey::new([1; 32])), "[secret]");
    }

    #[test]
    fn no_stream_stores_a_secret() {
        for (verb, payload) in [
            ("join", json!({"user": "ada", "secret": "x"})),
            ("claim", json!({"user": "ada", "session_secret": "x"})),
        ] {
            let code = |door: &str| {
                let command = command(&format!("{door}.t1.cart.c1.{verb}"), "k", &payload);
                command.request.err().map(|refusal| refusal.code)
            };
            assert_eq!(code("req"), None);
            assert_eq!(code("cmd"), Some("secret_on_durable_door".into()));
        }
    }
}
