//! Tokens of sessions: `<user>.<43 characters base64url>`, 32 random bytes.
//!
//! All refresh tokens of a session begin with the same 20 of these characters (120 bits), which
//! name the session; the other 23 (136 bits) are new each time. So a token that was rotated away,
//! however long ago, is known for what it is, though nothing is kept of it. Access tokens have
//! nothing in common with each other.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{Secret, Token};

/// Bytes of a cryptographic generator; never used twice.
pub type Random = [u8; 32];

/// The characters after the dot.
const LEN: usize = 43;
/// The number of these characters that name the session of a refresh token.
const OF_SESSION: usize = 20;

/// An access token, or the first refresh token of a session.
///
/// # Panics
/// Never: it is neither empty nor too long for a secret.
#[must_use]
pub fn token(user: &Token, random: &Random) -> Secret {
    let text = format!("{user}.{}", URL_SAFE_NO_PAD.encode(random));
    Secret::new(text).expect("a token has at most 108 characters")
}

/// The refresh token of the same session that comes after `before`; `None`: `before` is no token.
#[must_use]
pub fn next_refresh_token(before: &Secret, random: &Random) -> Option<Secret> {
    let (user, session) = (user_of(before)?, session_of(before)?);
    let new = token(&user, random);
    let rest = new.expose().get(user.as_str().len() + 1 + OF_SESSION..)?;
    Secret::new(format!("{}{rest}", session.expose())).ok()
}

/// The part that all refresh tokens of a session have in common.
#[must_use]
pub fn session_of(token: &Secret) -> Option<Secret> {
    let user = user_of(token)?;
    let session = token.expose().get(..user.as_str().len() + 1 + OF_SESSION)?;
    Secret::new(session.to_owned()).ok()
}

/// Returns the user whom a token names; `None` if it is no token.
#[must_use]
pub fn user_of(token: &Secret) -> Option<Token> {
    let (user, random) = token.expose().split_once('.')?;
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let fits = random.len() == LEN && random.bytes().all(base64url);
    Token::new(user).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Token {
        Token::new("ada").unwrap()
    }

    #[test]
    fn a_token_names_its_user_and_holds_43_characters() {
        let token = token(&ada(), &[0xff; 32]);
        assert_eq!(token.expose(), format!("ada.{}8", "_".repeat(42)));
        assert_eq!(user_of(&token), Some(ada()));
        let longest = super::token(&Token::new(&"u".repeat(64)).unwrap(), &[0; 32]);
        assert_eq!(longest.expose().len(), 108);
    }

    #[test]
    fn refresh_tokens_of_a_session_share_its_name_and_nothing_else() {
        let first = token(&ada(), &[1; 32]);
        let second = next_refresh_token(&first, &[2; 32]).unwrap();
        let third = next_refresh_token(&second, &[3; 32]).unwrap();
        assert_eq!(session_of(&first), session_of(&third));
        assert_ne!(session_of(&first), session_of(&token(&ada(), &[2; 32])));
        let rest = |token: &Secret| token.expose()["ada.".len() + OF_SESSION..].to_owned();
        assert_eq!(rest(&third), rest(&token(&ada(), &[3; 32])));
        assert_eq!(user_of(&third), Some(ada()));
    }

    #[test]
    fn what_is_no_token_is_nobodys() {
        let long = format!("{}.{}", "u".repeat(65), "A".repeat(43));
        let short = format!("ada.{}", "A".repeat(42));
        let other = format!("ada.{}=", "A".repeat(42));
        let cut = "ada.AAAAAAAAAAAAAAAAAAA\u{e9}AAAAAAAAAAAAAAAAAAAAAA";
        for bad in ["ada", ".", "ada.", &long, &short, &other, cut] {
            let bad = Secret::new(bad.to_owned()).unwrap();
            assert_eq!((user_of(&bad), session_of(&bad)), (None, None), "{}", bad.expose());
            assert_eq!(next_refresh_token(&bad, &[0; 32]), None);
        }
    }
}
