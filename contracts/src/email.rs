use serde::{Deserialize, Deserializer, Serialize};
use unicase::UniCase;

use crate::Refusal;

/// An address of e-mail, as it was given. Whether anybody reads it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Email(String);

impl Email {
    /// Longest address, in bytes (RFC 5321 with erratum 1690).
    pub const MAX_LEN: usize = 254;

    /// # Errors
    /// `422 bad_email` for anything but something on both sides of an `@`, without spaces and
    /// control characters, of at most [`Self::MAX_LEN`] bytes.
    pub fn new(text: String) -> Result<Self, Refusal> {
        let (name, host) = text.rsplit_once('@').unwrap_or_default();
        let unfit = |c: char| c.is_whitespace() || c.is_control();
        let parts = !name.is_empty() && !host.is_empty();
        if !parts || text.len() > Self::MAX_LEN || text.contains(unfit) {
            let message = "an email has a name, one @ and a host, at most 254 bytes, no spaces";
            return Err(Refusal::new(422, "bad_email", message));
        }
        Ok(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the address by Unicode's full case folding, which is unique in a tenant.
    #[must_use]
    pub fn folded(&self) -> String {
        UniCase::unicode(&self.0).to_folded_case()
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_may_be_an_address_and_nothing_else() {
        for good in ["a@b", "Ada.Lovelace+x@Example.org", "ünï@köln.de", "\"a@b\"@c"] {
            assert_eq!(Email::new(good.to_owned()).unwrap().as_str(), good);
        }
        let long = format!("{}@b", "a".repeat(253));
        for bad in ["", "a", "@", "a@", "@b", "a b@c", "a@b\n", "a@b\0", long.as_str()] {
            assert_eq!(Email::new(bad.to_owned()).unwrap_err().code, "bad_email", "{bad:?}");
        }
    }

    #[test]
    fn case_makes_no_difference_in_any_script() {
        let folded = |text: &str| Email::new(text.to_owned()).unwrap().folded();
        for (one, other) in
            [("Ada@X.org", "aDA@x.ORG"), ("ΌΣΟΣ@x", "όσος@x"), ("Straße@x", "STRASSE@x")]
        {
            assert_eq!(folded(one), folded(other));
        }
        assert_ne!(folded("ada@x"), folded("bob@x"));
    }
}
