//! Signatures of messages: `t=<time>,v1=<signature>`, HMAC-SHA256 over `<time>.<body>` in hex, as
//! Stripe writes them.

use brigade_contracts::Refusal;
use ring::hmac::{HMAC_SHA256, Key, verify};

/// The time for which a signature is good, either way, in seconds: what somebody has overheard is of
/// no use later.
const TOLERANCE: u64 = 300;
/// The most signatures that are looked at: a gateway that changes its secret sends one of each.
const MAX_SIGNATURES: usize = 4;

/// Checks that a body was signed with one of these secrets, not too long before `now`, in seconds of
/// the Unix time. How long that takes tells nothing of a secret or of the right signature.
///
/// # Errors
/// `401 bad_signature`; `401 signature_expired` to whoever knows a secret.
pub(super) fn check(
    header: &str,
    body: &[u8],
    secrets: &[String],
    now: i64,
) -> Result<(), Refusal> {
    let (time, signatures) = parse(header).ok_or_else(bad_signature)?;
    let signed = [time.as_bytes(), b".", body].concat();
    let is_good = secrets.iter().any(|secret| {
        let key = Key::new(HMAC_SHA256, secret.as_bytes());
        signatures.iter().any(|signature| verify(&key, &signed, signature).is_ok())
    });
    if !is_good {
        return Err(bad_signature());
    }
    let at: i64 = time.parse().map_err(|_| bad_signature())?;
    if at.abs_diff(now) > TOLERANCE {
        let message =
            "this was signed more than 5 minutes ago, or the clock is wrong: sign it again";
        return Err(Refusal::new(401, "signature_expired", message));
    }
    Ok(())
}

/// Returns the time as it stands there, and the signatures. Other pieces are left alone.
fn parse(header: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    let pieces = header.split(',').filter_map(|piece| piece.trim().split_once('='));
    let mut times = pieces.clone().filter(|(name, _)| *name == "t").map(|(_, time)| time);
    let (time, None) = (times.next()?, times.next()) else { return None };
    let signatures = pieces.filter(|(name, _)| *name == "v1").take(MAX_SIGNATURES);
    let signatures = signatures.filter_map(|(_, signature)| hex::decode(signature).ok());
    Some((time, signatures.collect()))
}

fn bad_signature() -> Refusal {
    let message = "this is not signed with the secret of the gateway";
    Refusal::new(401, "bad_signature", message)
}

#[cfg(test)]
mod tests {
    use ring::hmac::sign;

    use super::*;

    const NOW: i64 = 1_790_000_000;
    const SECRET: &str = "whsec_of-a-test-and-nobody-else";
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn signature(secret: &str, time: &str, body: &[u8]) -> String {
        let key = Key::new(HMAC_SHA256, secret.as_bytes());
        hex::encode(sign(&key, &[time.as_bytes(), b".", body].concat()))
    }

    fn header(secret: &str, time: i64) -> String {
        format!("t={time},v1={}", signature(secret, &time.to_string(), BODY))
    }

    fn code(header: &str, body: &[u8], secrets: &[&str]) -> String {
        let secrets: Vec<String> = secrets.iter().map(ToString::to_string).collect();
        let checked = check(header, body, &secrets, NOW);
        checked.map_or_else(|refusal| refusal.code.into_owned(), |()| "ok".to_owned())
    }

    /// The example was computed by another program: `printf '1790000000.{"id":"evt_1"}' | openssl
    /// dgst -sha256 -hmac whsec_of-a-test-and-nobody-else`.
    #[test]
    fn the_signature_is_what_others_compute() {
        let known = "e8e719203403c9c23ead635330d6b5d5c06b5a9cb55225849290787cab122a2a";
        assert_eq!(code(&format!("t={NOW},v1={known},v0=ff"), BODY, &[SECRET]), "ok");
    }

    #[test]
    fn a_signature_is_good_for_five_minutes() {
        for (time, expected) in [
            (NOW, "ok"),
            (NOW - 300, "ok"),
            (NOW + 300, "ok"),
            (NOW - 301, "signature_expired"),
            (NOW + 301, "signature_expired"),
            (i64::MIN, "signature_expired"),
        ] {
            assert_eq!(code(&header(SECRET, time), BODY, &[SECRET]), expected, "{time}");
        }
    }

    #[test]
    fn any_of_the_secrets_and_of_the_signatures_will_do() {
        let other = "whsec_another-one";
        assert_eq!(code(&header(SECRET, NOW), BODY, &[other, SECRET]), "ok");
        let both = format!("{}, v1={}", header(other, NOW), &header(SECRET, NOW)[16..]);
        assert_eq!(code(&both, BODY, &[SECRET]), "ok");
        assert_eq!(code(&header(SECRET, NOW), BODY, &[other]), "bad_signature");
        assert_eq!(code(&header(SECRET, NOW), BODY, &[]), "bad_signature");
    }

    #[test]
    fn nothing_else_is_a_signature() {
        let good = header(SECRET, NOW);
        for (n, byte) in BODY.iter().enumerate() {
            let mut changed = BODY.to_vec();
            changed[n] = byte ^ 1;
            assert_eq!(code(&good, &changed, &[SECRET]), "bad_signature", "{n}");
        }
        let hex = signature(SECRET, &NOW.to_string(), BODY);
        for bad in [
            String::new(),
            "t".to_owned(),
            format!("t={NOW}"),
            format!("v1={hex}"),
            format!("t={NOW},v1="),
            format!("t={NOW},v0={hex}"),
            format!("t={NOW},v1={}", &hex[2..]),
            format!("t={NOW},v1={hex}00"),
            format!("t={},v1={hex}", NOW + 1),
            format!("t={NOW},t={NOW},v1={hex}"),
            format!("t={NOW}.0,v1={}", signature(SECRET, &format!("{NOW}.0"), BODY)),
            format!("t=,v1={}", signature(SECRET, "", BODY)),
        ] {
            assert_eq!(code(&bad, BODY, &[SECRET]), "bad_signature", "{bad}");
        }
    }
}
