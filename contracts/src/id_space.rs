//! The name spaces of Command-Ids within a tenant: what is sent over NATS has one, each user over
//! HTTP has one of his own, so nobody uses up the id of another's command.

use std::fmt;

use crate::Token;

/// The senders among whom a Command-Id is unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdSpace {
    /// Both doors over NATS, and HTTP where it is trusted without a token.
    Nats,
    /// A user over HTTP.
    User(Token),
    /// Strangers over HTTP: they show no token yet, because they want one of this user.
    Stranger(Token),
}

/// A Command-Id within its name space. Its text form is the key of the inbox, and what edge sends
/// as the header `Command-Id`: `<id>`, `<user>.<id>` or `<user>..<id>`. A Token has no point, so
/// no two keys have the same form, and no id of the NATS doors reads as one of HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandKey {
    pub space: IdSpace,
    pub id: Token,
}

impl CommandKey {
    /// Longest text form, in bytes.
    pub const MAX_LEN: usize = 2 * Token::MAX_LEN + 2;

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let token = |text| Token::new(text).ok();
        let Some((space, id)) = text.rsplit_once('.') else {
            return Some(Self { space: IdSpace::Nats, id: token(text)? });
        };
        let space = match space.strip_suffix('.') {
            Some(user) => IdSpace::Stranger(token(user)?),
            None => IdSpace::User(token(space)?),
        };
        Some(Self { space, id: token(id)? })
    }
}

impl fmt::Display for CommandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            IdSpace::Nats => write!(f, "{}", self.id),
            IdSpace::User(user) => write!(f, "{user}.{}", self.id),
            IdSpace::Stranger(user) => write!(f, "{user}..{}", self.id),
        }
    }
}

/// The way of a command into the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Over HTTP: edge has confirmed the user's token, and names him as the actor.
    Http,
    /// From a tenant's programs: the actor is who they say.
    Nats,
    /// From within the fleet's account: a worker or an operator.
    Fleet,
}

impl Via {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Nats => "nats",
            Self::Fleet => "fleet",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Nats, Self::Fleet].into_iter().find(|via| via.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Command, header::REQUEST_INFO};

    /// Keys of each form, of ids that look like parts of others.
    fn keys() -> Vec<CommandKey> {
        let long = "x".repeat(Token::MAX_LEN);
        let texts = ["a", "aa", "b", "a-b", "a_b", "-", "_", "0", "ada", long.as_str()];
        let tokens = texts.map(|text| Token::new(text).unwrap());
        let spaces = tokens
            .iter()
            .flat_map(|user| [IdSpace::User(user.clone()), IdSpace::Stranger(user.clone())]);
        let key = |space: IdSpace| tokens.clone().map(|id| CommandKey { space: space.clone(), id });
        spaces.chain([IdSpace::Nats]).flat_map(key).collect()
    }

    #[test]
    fn no_two_keys_have_the_same_form_and_each_is_read_again() {
        let forms: BTreeMap<_, _> = keys().into_iter().map(|key| (key.to_string(), key)).collect();
        assert_eq!(forms.len(), keys().len());
        for (form, key) in &forms {
            assert_eq!(CommandKey::parse(form).as_ref(), Some(key), "{form}");
            assert!(form.len() <= CommandKey::MAX_LEN, "{form}");
        }
        assert_eq!(forms.keys().map(String::len).max(), Some(CommandKey::MAX_LEN));
    }

    #[test]
    fn an_id_of_the_nats_doors_is_no_key_of_http() {
        for key in keys() {
            let is_token = Token::new(&key.to_string()).is_ok();
            assert_eq!(is_token, key.space == IdSpace::Nats, "{key}");
        }
    }

    #[test]
    fn only_the_fleet_itself_names_an_id_of_http() {
        let of_tenant = (REQUEST_INFO, r#"{"acc":"T-t1"}"#);
        let decode = |door: &str, id: &str, headers: &[(&str, &str)]| {
            let subject = format!("{door}.t1.cart.c1.open");
            let headers = headers.iter().copied().chain([("Command-Id", id)]);
            let command = Command::decode(&subject, headers, b"{}");
            command.map(|c| (c.key().to_string(), c.via)).map_err(|refusal| refusal.code)
        };
        let ok = |key: &str, via| Ok((key.to_owned(), via));
        let refused = Err("missing_command_id".into());
        assert_eq!(decode("req", "k", &[]), ok("k", Via::Fleet));
        assert_eq!(decode("req", "k", &[of_tenant]), ok("k", Via::Nats));
        assert_eq!(decode("cmd", "k", &[]), ok("k", Via::Nats));
        for key in ["ada.k", "ada..k"] {
            assert_eq!(decode("req", key, &[]), ok(key, Via::Http));
            assert_eq!(decode("req", key, &[of_tenant]), refused);
            assert_eq!(decode("cmd", key, &[]), refused);
        }
        for bad in ["ada.", ".k", "ada.*.k", "a.b.k"] {
            assert_eq!(decode("req", bad, &[]), refused, "{bad}");
        }
    }

    #[test]
    fn nothing_else_is_a_key() {
        let long = format!("a.{}", "x".repeat(Token::MAX_LEN + 1));
        let bad = ["", ".", "..", "a.", ".a", "..a", "a..", "a...b", "a.b.c", "a b", "a.*", "ü.a"];
        for text in bad.into_iter().chain([long.as_str()]) {
            assert_eq!(CommandKey::parse(text), None, "{text}");
        }
    }
}
