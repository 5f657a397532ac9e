//! Header names and the headers of a command.

use std::net::IpAddr;

use crate::{
    CommandKey, EraVersion, IdSpace, MAX_HEADER_BLOCK, MAX_HEADERS, Refusal, Relation, Timestamp,
    Token,
};

pub const COMMAND_ID: &str = "Command-Id";
pub const DEADLINE: &str = "Deadline";
pub const EXPECTED_VERSION: &str = "Expected-Version";
pub const ACTOR: &str = "Actor";
/// The relation to the aggregate that the actor needs when the command is decided: [`Relation`].
pub const RELATION: &str = "Actor-Relation";
/// `true` where the answer is to tell the secrets of the cart, see [`crate::cart::SecretKey::told`].
pub const TELL_SECRETS: &str = "Tell-Secrets";
/// Header of an event: the way by which its command came into the fleet, see [`crate::Via`].
pub const ACTOR_VIA: &str = "Actor-Via";
/// The address that a command came from, where it came from outside: failed logins are counted by
/// it.
pub const SOURCE: &str = "Source";
/// The session of the actor that a command is sent in, as the list of sessions names it. edge sets
/// it.
pub const SESSION: &str = "Session";
pub const TRACEPARENT: &str = "traceparent";

/// Status of an outcome or a query's reply. Not `Status`: stock clients read that one
/// as the server's own.
pub const STATUS: &str = "Brigade-Status";
/// Present as `kv` where a reply was confirmed by KV instead of SQL.
pub const CONFIRMED_BY: &str = "Brigade-Confirmed-By";
/// Present as `true` on an outcome that was stored before its command came this time.
pub const REPLAYED: &str = "Brigade-Replayed";
pub const ETAG: &str = "ETag";
pub const IF_NONE_MATCH: &str = "If-None-Match";
pub const CONFIRM: &str = "Confirm";
pub const MIN_VERSION: &str = "Min-Version";
pub const WAIT_MS: &str = "Wait-Ms";
pub const RESUME: &str = "Resume";
pub const LIMIT: &str = "Limit";
pub const BEFORE: &str = "Before";
/// The beginning of the next page of a list, as the page before it said.
pub const AFTER: &str = "After";
/// The first and the last moment of a day close; over HTTP parameters of the URL.
pub const FROM: &str = "From";
pub const TO: &str = "To";
/// The day of a list, as `2026-01-02` in UTC, or in the zone that stands behind it.
pub const DAY: &str = "Day";
/// The payment whose refund tasks are asked for.
pub const PAYMENT: &str = "Payment";

pub const AGGREGATE_VERSION: &str = "Aggregate-Version";
/// The era of the database in which an event was published; none in the first one.
pub const ERA: &str = "Brigade-Era";
pub const SCHEMA_VERSION: &str = "Schema-Version";

/// CloudEvents 1.0, binary mode.
pub const CE_ID: &str = "ce-id";
pub const CE_TYPE: &str = "ce-type";
pub const CE_SOURCE: &str = "ce-source";
pub const CE_SUBJECT: &str = "ce-subject";
pub const CE_TIME: &str = "ce-time";
pub const CE_SPECVERSION: &str = "ce-specversion";

/// The server's own: the account that a request through an import comes from, as JSON.
pub const REQUEST_INFO: &str = "Nats-Request-Info";
/// JetStream's own: what it recognises a repeated message by.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// JetStream's own: when a message schedule is due, as `@at <time>`, and where it goes then.
pub const SCHEDULE: &str = "Nats-Schedule";
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// JetStream's own: the atomic batch that a message belongs to, and its place in it from 1.
pub const BATCH_ID: &str = "Nats-Batch-Id";
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// JetStream's own: `1` on the last message of an atomic batch, which stores all of it.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// The headers of a command, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandHeaders {
    pub deadline: Option<Timestamp>,
    pub expected_version: Option<EraVersion>,
    pub actor: Option<Token>,
    pub traceparent: Option<String>,
    /// An IP address; an IPv4 one that is written as IPv6 is the same.
    pub source: Option<IpAddr>,
    pub session: Option<Token>,
    /// `None`: the sender is trusted.
    pub relation: Option<Relation>,
    pub tell_secrets: bool,
}

impl CommandHeaders {
    /// Reads all but `Command-Id`, for which see [`command_id`].
    ///
    /// # Errors
    /// `413 headers_too_large` above [`MAX_HEADERS`], what the server adds left out; `400
    /// bad_header` for one that is repeated or malformed. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let sent = headers.clone().filter(|(name, _)| *name != REQUEST_INFO);
        let size: usize = sent.map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_HEADERS {
            return Err(too_large());
        }
        let one = |name| once(headers.clone(), name);
        let parsed = |name: &'static str, ok: bool| if ok { Ok(()) } else { Err(bad(name)) };
        let deadline = one(DEADLINE)?.map(|v| Timestamp::parse(v).map_err(|_| bad(DEADLINE)));
        let version = one(EXPECTED_VERSION)?.map(|v| version(EXPECTED_VERSION, v));
        let actor = one(ACTOR)?.map(|v| Token::new(v).map_err(|_| bad(ACTOR)));
        let source = one(SOURCE)?.map(|v| v.parse::<IpAddr>().map_err(|_| bad(SOURCE)));
        let session = one(SESSION)?.map(|v| Token::new(v).map_err(|_| bad(SESSION)));
        let relation = one(RELATION)?.map(str::parse::<Relation>);
        let tell = one(TELL_SECRETS)?.map(|v| v.parse::<bool>().map_err(|_| bad(TELL_SECRETS)));
        let traceparent = one(TRACEPARENT)?;
        parsed(TRACEPARENT, traceparent.is_none_or(is_traceparent))?;
        Ok(Self {
            deadline: deadline.transpose()?,
            expected_version: version.transpose()?,
            actor: actor.transpose()?,
            traceparent: traceparent.map(str::to_owned),
            source: source.transpose()?.map(|source| source.to_canonical()),
            session: session.transpose()?,
            relation: relation.transpose()?,
            tell_secrets: tell.transpose()?.unwrap_or_default(),
        })
    }
}

/// The `Command-Id`.
///
/// # Errors
/// `400 missing_command_id` where there is none that can be used: absent, repeated or
/// not a Token. Nothing can be stored under such a command.
pub fn command_id<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<Token, Refusal> {
    let key = command_key(headers)?;
    if key.space == IdSpace::Nats { Ok(key.id) } else { Err(missing_command_id()) }
}

/// The `Command-Id` with its name space, which edge alone may send.
///
/// # Errors
/// `400 missing_command_id` as of [`command_id`].
pub fn command_key<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<CommandKey, Refusal> {
    let value = once(headers, COMMAND_ID).ok().flatten();
    value.and_then(CommandKey::parse).ok_or_else(missing_command_id)
}

/// `400 missing_command_id`.
#[must_use]
pub fn missing_command_id() -> Refusal {
    let message = "a command needs one header Command-Id of 1 to 64 characters of A-Z, a-z, 0-9, \
                   _ and -";
    Refusal::new(400, "missing_command_id", message).of_param(COMMAND_ID)
}

/// The value of a header that may stand at most once.
///
/// # Errors
/// `400 bad_header` where it is repeated.
pub fn once<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let first = values.next();
    if values.next().is_some() { Err(bad(name)) } else { Ok(first) }
}

/// The refusal of headers beyond their bound.
#[must_use]
pub fn too_large() -> Refusal {
    let message = format!(
        "the headers take more than {MAX_HEADERS} bytes, or {MAX_HEADER_BLOCK} as they are written"
    );
    Refusal::new(413, "headers_too_large", message)
}

/// A decimal u64, digits only.
///
/// # Errors
/// `400 bad_header`.
pub fn number(name: &'static str, value: &str) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| bad(name))
}

/// A version, of a later era with that: `7`, `7-1732000000`.
///
/// # Errors
/// `400 bad_header`.
pub fn version(name: &'static str, value: &str) -> Result<EraVersion, Refusal> {
    value.parse().map_err(|_| bad(name))
}

#[must_use]
pub fn bad(name: &str) -> Refusal {
    let message = format!("the header {name} is repeated or malformed");
    Refusal::new(400, "bad_header", message).of_param(name.to_owned())
}

/// The form of W3C Trace Context: version, trace id, parent id and flags in lower-case hex.
#[must_use]
pub fn is_traceparent(value: &str) -> bool {
    let mut fields = value.splitn(5, '-');
    let mut hex = |len| {
        fields.next().is_some_and(|field| {
            field.len() == len
                && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    };
    hex(2) && hex(32) && hex(16) && hex(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Era;

    fn parse(headers: &[(&str, &str)]) -> Result<CommandHeaders, Refusal> {
        CommandHeaders::parse(headers.iter().copied())
    }

    #[test]
    fn reads_each_header_once_whatever_its_case() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = parse(&[
            ("deadline", "2026-01-02T03:04:05Z"),
            ("Expected-Version", "7"),
            ("ACTOR", "u1"),
            ("traceparent", trace),
            ("source", "::ffff:192.0.2.7"),
            ("actor-relation", "payer"),
            ("X-Other", "left alone"),
        ])
        .unwrap();
        assert_eq!(headers.expected_version, Some(Era::FIRST.at(7)));
        assert_eq!(headers.actor.unwrap().as_str(), "u1");
        assert_eq!(headers.traceparent.unwrap(), trace);
        assert_eq!(headers.relation, Some(Relation::Payer));
        assert_eq!(headers.source.unwrap().to_string(), "192.0.2.7");
        assert_eq!(headers.deadline.unwrap().to_string(), "2026-01-02T03:04:05.000Z");
    }

    #[test]
    fn refuses_what_is_repeated_malformed_or_too_large() {
        let bad: &[&[(&str, &str)]] = &[
            &[("Actor", "a"), ("actor", "b")],
            &[("Deadline", "soon")],
            &[("Expected-Version", "-1")],
            &[("Expected-Version", "+1")],
            &[("Expected-Version", "18446744073709551616")],
            &[("Actor", "a b")],
            &[("traceparent", "00-zz-b7-01")],
            &[("Source", "192.0.2.7:80")],
            &[("Session", "a b")],
            &[("Actor-Relation", "Owner")],
            &[("Actor-Relation", "owner"), ("Actor-Relation", "owner")],
            &[("Source", "192.0.2.7"), ("Source", "192.0.2.7")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
        let large = "x".repeat(MAX_HEADERS);
        assert_eq!(parse(&[("X", &large)]).unwrap_err().status, 413);
    }

    #[test]
    fn what_the_server_adds_takes_no_room_of_the_senders() {
        let most = "x".repeat(MAX_HEADERS - 1);
        let info = (REQUEST_INFO, r#"{"acc":"T-t1"}"#);
        parse(&[("X", &most), info]).unwrap();
        assert_eq!(parse(&[("X", &most), ("Y", "")]).unwrap_err().status, 413);
    }

    #[test]
    fn a_command_id_is_one_token() {
        let id = |headers: &[(&str, &str)]| command_id(headers.iter().copied());
        assert_eq!(id(&[("Command-Id", "k1")]).unwrap().as_str(), "k1");
        for bad in [&[][..], &[("Command-Id", "a b")], &[("Command-Id", "a"), ("Command-Id", "a")]]
        {
            assert_eq!(id(bad).unwrap_err().code, "missing_command_id");
        }
    }
}
