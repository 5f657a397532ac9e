//! The era that a value in KV is of.

use brigade_contracts::Era;
use bytes::Bytes;

/// The beginning of a value of a later era than the first.
const STAMP: &[u8] = br#"{"era":"#;

/// Returns a JSON object with its era as the first field; none in the first era.
pub(super) fn stamp(era: Era, value: &Bytes) -> Bytes {
    match value.strip_prefix(b"{") {
        Some(rest) if !era.is_first() => {
            [STAMP, era.to_string().as_bytes(), b",", rest].concat().into()
        }
        _ => value.clone(),
    }
}

/// Returns the era of a value, and the value without it.
#[must_use]
pub fn unstamp(value: &Bytes) -> (Era, Bytes) {
    let read = || {
        let rest = value.strip_prefix(STAMP)?;
        let end = rest.iter().position(|byte| *byte == b',')?;
        let era = str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        Some((Era::new(era), [b"{", &rest[end + 1..]].concat().into()))
    };
    read().unwrap_or_else(|| (Era::FIRST, value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_later_era_says_so_and_is_read_without_it() {
        let value = Bytes::from_static(br#"{"version":7,"at":"x"}"#);
        assert_eq!(stamp(Era::FIRST, &value), value);
        assert_eq!(unstamp(&value), (Era::FIRST, value.clone()));
        let stamped = stamp(Era::new(9), &value);
        assert_eq!(stamped, r#"{"era":9,"version":7,"at":"x"}"#);
        assert_eq!(unstamp(&stamped), (Era::new(9), value));
        for other in [&b""[..], br#"{"era":x,"version":1}"#, br#"{"era":9}"#, b"garbage"] {
            let other = Bytes::copy_from_slice(other);
            assert_eq!(unstamp(&other), (Era::FIRST, other.clone()));
        }
    }
}
