//! Commands as they come in through either door.

use std::net::IpAddr;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    Address, Aggregate, CommandKey, EraVersion, IdSpace, MAX_PAYLOAD, Refusal, Relation, Timestamp,
    Token, Via, WorkerName, cart,
    header::{self, CommandHeaders},
    order, payment,
    permissions::{check_sender, is_from_tenant},
    product, rebuild, subject, table, user,
    verb::{decode_payload, encode_payload},
};

/// The way a command came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// `cmd.…`, stored in the stream `COMMANDS`; the outcome follows on `outcome.…`.
    Durable,
    /// `req.…`, core request/reply; the reply is the outcome.
    Request,
}

impl Door {
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Durable => "cmd",
            Self::Request => "req",
        }
    }

    #[must_use]
    pub fn from_prefix(prefix: &str) -> Option<Self> {
        [Self::Durable, Self::Request].into_iter().find(|door| door.prefix() == prefix)
    }
}

/// A command that can carry an outcome: its tenant and its Command-Id are known. `request` tells if
/// it makes sense as well.
#[derive(Clone, Debug)]
pub struct Command {
    pub door: Door,
    pub tenant: Token,
    /// As its sender named it.
    pub command_id: Token,
    /// The name space of its Command-Id.
    pub space: IdSpace,
    pub via: Via,
    /// The subject without the door: `<tenant>.<aggregate>.<id>.<verb>`, as it came.
    pub target: String,
    /// SHA-256, of `register` without its password; of other verbs that carry a secret all zeros,
    /// since hashes are stored.
    pub payload_hash: [u8; 32],
    pub actor: Option<Token>,
    /// A worker sent it in its own name, by the request door. No tenant's program can: what comes
    /// from its account says so.
    pub is_of_worker: bool,
    pub traceparent: Option<String>,
    /// The sender's address, if it is known.
    pub source: Option<IpAddr>,
    /// The session of the actor, if it is sent in one.
    pub session: Option<Token>,
    /// The relation that the actor needs to the aggregate when it is decided; `None`: the sender is
    /// trusted.
    pub relation: Option<Relation>,
    /// The answer is to tell the secrets of the cart.
    pub tell_secrets: bool,
    pub request: Result<Request, Refusal>,
}

/// The well-formed rest of a command.
#[derive(Clone, Debug)]
pub struct Request {
    pub address: Address,
    pub deadline: Option<Timestamp>,
    pub expected_version: Option<EraVersion>,
    pub body: Body,
}

/// A verb with its payload, by the kind of aggregate.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Cart(cart::Verb),
    Payment(payment::Verb),
    Order(order::Verb),
    Table(table::Verb),
    User(user::Verb),
    Product(product::Verb),
    /// The verb of every kind of aggregate.
    Rebuild(Aggregate, rebuild::Rebuild),
}

impl Command {
    /// Reads a message of either door.
    ///
    /// # Errors
    /// A message that cannot carry an outcome: `400 missing_command_id`, or
    /// `400 bad_subject` where there is no tenant, `403 wrong_tenant` where it comes from another
    /// tenant's account. All else is in `request`.
    pub fn decode<'a>(
        subject: &str,
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
        payload: &[u8],
    ) -> Result<Self, Refusal> {
        let raw = subject::parse_command(subject).ok_or_else(bad_subject)?;
        let tenant = Token::new(raw.tenant).map_err(|_| bad_subject())?;
        check_sender(subject, headers.clone())?;
        let CommandKey { space, id: command_id } = header::command_key(headers.clone())?;
        // A stored message does not tell the account of its sender.
        let may_be_tenants = raw.door == Door::Durable || is_from_tenant(headers.clone());
        let via = match (&space, may_be_tenants) {
            (IdSpace::Nats, true) => Via::Nats,
            (IdSpace::Nats, false) => Via::Fleet,
            (IdSpace::User(_) | IdSpace::Stranger(_), false) => Via::Http,
            (IdSpace::User(_) | IdSpace::Stranger(_), true) => {
                return Err(header::missing_command_id());
            }
        };
        let headers = check_no_message_id(raw.door, headers.clone())
            .and_then(|()| CommandHeaders::parse(headers));
        let CommandHeaders { actor, traceparent, source, session, relation, tell_secrets, .. } =
            headers.as_ref().cloned().unwrap_or_default();
        let is_worker = |actor: &Token| actor.as_str().parse::<WorkerName>().is_ok();
        Ok(Self {
            door: raw.door,
            command_id,
            space,
            via,
            target: format!("{tenant}.{}.{}.{}", raw.aggregate, raw.id, raw.verb),
            payload_hash: payload_hash(&raw, payload),
            is_of_worker: via == Via::Fleet && actor.as_ref().is_some_and(is_worker),
            actor,
            traceparent,
            source,
            session,
            relation,
            tell_secrets,
            request: headers.and_then(|headers| Request::decode(&tenant, raw, headers, payload)),
            tenant,
        })
    }

    /// Returns the Command-Id with its name space, under which the inbox has the outcome.
    #[must_use]
    pub fn key(&self) -> CommandKey {
        CommandKey { space: self.space.clone(), id: self.command_id.clone() }
    }

    /// Returns true if a repetition is decided like the first: its answer holds tokens, of which
    /// nothing is kept that could be told again.
    #[must_use]
    pub fn is_decided_anew(&self) -> bool {
        let verb = self.target.split('.').nth(3);
        self.aggregate() == "user" && matches!(verb, Some("login" | "refresh"))
    }

    /// The aggregate's kind, as it came.
    #[must_use]
    pub fn aggregate(&self) -> &str {
        self.target.split('.').nth(1).unwrap_or_default()
    }

    /// The aggregate's id, as it came.
    #[must_use]
    pub fn id(&self) -> &str {
        self.target.split('.').nth(2).unwrap_or_default()
    }
}

/// Refuses a stored command with an id of JetStream's. The stream knows these ids over all tenants,
/// so a command is not stored, and its sender hardly told so, where another tenant has just used
/// its id: a sender who relies on them shall learn at once that they are not for commands.
fn check_no_message_id<'a>(
    door: Door,
    mut headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), Refusal> {
    // Case matters: the server reads the header in this one only.
    if door == Door::Durable && headers.any(|(name, _)| name == header::MSG_ID) {
        let message = "no Nats-Msg-Id, which all tenants share: the Command-Id tells repetitions";
        return Err(Refusal::new(400, "bad_header", message));
    }
    Ok(())
}

/// A command with a secret under the Command-Id of another one is told from it by what stands beside
/// the secret, so that nobody is answered what was told to another user.
fn payload_hash(raw: &subject::RawCommandSubject<'_>, payload: &[u8]) -> [u8; 32] {
    if !subject::carries_secret(raw) {
        return Sha256::digest(payload).into();
    }
    match user::Verb::decode(raw.verb, payload) {
        Ok(Some(user::Verb::Register(user::Register { email, profile_id, .. }))) => {
            Sha256::digest(json!([email, profile_id]).to_string()).into()
        }
        Ok(Some(
            user::Verb::ChangeEmail(user::ChangeEmail { email, .. })
            | user::Verb::RequestPasswordReset(user::RequestPasswordReset { email, .. }),
        )) => Sha256::digest(json!([email]).to_string()).into(),
        _ => [0; 32],
    }
}

impl Request {
    fn decode(
        tenant: &Token,
        raw: subject::RawCommandSubject<'_>,
        headers: CommandHeaders,
        payload: &[u8],
    ) -> Result<Self, Refusal> {
        if payload.len() > MAX_PAYLOAD {
            let message = format!("the payload has more than {MAX_PAYLOAD} bytes");
            return Err(Refusal::new(413, "payload_too_large", message));
        }
        if raw.door == Door::Durable && subject::carries_secret(&raw) {
            let message = "a verb that carries a secret goes through the request door (req.…)";
            return Err(Refusal::new(400, "secret_on_durable_door", message));
        }
        let id = Token::new(raw.id).map_err(|_| bad_subject())?;
        let aggregate = Aggregate::parse(raw.aggregate).ok_or_else(unknown_verb)?;
        let body = Body::decode(aggregate, raw.verb, payload)?;
        let shows_secret = matches!(&body, Body::Cart(verb) if verb.shows_secret());
        if raw.door == Door::Durable && shows_secret {
            let message = "a command that shows a secret goes through the request door (req.…)";
            return Err(Refusal::new(400, "secret_on_durable_door", message));
        }
        Ok(Self {
            address: Address { tenant: tenant.clone(), aggregate, id },
            deadline: headers.deadline,
            expected_version: headers.expected_version,
            body,
        })
    }
}

impl Body {
    /// Reads a payload.
    ///
    /// # Errors
    /// `404 unknown_verb`; what the payload is refused with (400 malformed, 422 impossible).
    pub fn decode(aggregate: Aggregate, verb: &str, payload: &[u8]) -> Result<Self, Refusal> {
        let unknown = aggregate == Aggregate::Lock;
        if verb == rebuild::VERB && !unknown {
            return decode_payload(payload).map(|rebuild| Self::Rebuild(aggregate, rebuild));
        }
        match aggregate {
            Aggregate::Cart => cart::Verb::decode(verb, payload)?.map(Self::Cart),
            Aggregate::Payment => payment::Verb::decode(verb, payload)?.map(Self::Payment),
            Aggregate::Order => order::Verb::decode(verb, payload)?.map(Self::Order),
            Aggregate::Table => table::Verb::decode(verb, payload)?.map(Self::Table),
            Aggregate::User => {
                user::Verb::decode(verb, payload).map_err(user::unquoted)?.map(Self::User)
            }
            Aggregate::Product => product::Verb::decode(verb, payload)?.map(Self::Product),
            Aggregate::Lock => None,
        }
        .ok_or_else(unknown_verb)
    }

    #[must_use]
    pub fn aggregate(&self) -> Aggregate {
        match self {
            Self::Cart(_) => Aggregate::Cart,
            Self::Payment(_) => Aggregate::Payment,
            Self::Order(_) => Aggregate::Order,
            Self::Table(_) => Aggregate::Table,
            Self::User(_) => Aggregate::User,
            Self::Product(_) => Aggregate::Product,
            Self::Rebuild(aggregate, _) => *aggregate,
        }
    }

    /// The verb and the payload, for sending.
    #[must_use]
    pub fn encode(&self) -> (&'static str, Vec<u8>) {
        match self {
            Self::Cart(verb) => verb.encode(),
            Self::Payment(verb) => verb.encode(),
            Self::Order(verb) => verb.encode(),
            Self::Table(verb) => verb.encode(),
            Self::User(verb) => verb.encode(),
            Self::Product(verb) => verb.encode(),
            Self::Rebuild(_, rebuild) => (rebuild::VERB, encode_payload(rebuild)),
        }
    }
}

fn bad_subject() -> Refusal {
    let message = "expected <door>.<tenant>.<aggregate>.<id>.<verb>, each 1 to 64 characters of \
                   A-Z, a-z, 0-9, _ and -";
    Refusal::new(400, "bad_subject", message)
}

/// `404 unknown_verb`.
#[must_use]
pub fn unknown_verb() -> Refusal {
    Refusal::new(404, "unknown_verb", "there is no such aggregate or verb")
}
