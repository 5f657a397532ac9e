//! When certificates end.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use async_nats::rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::{Finding, Severity, clocks, fine};

/// One that ends sooner should be replaced.
const SOON_DAYS: i64 = 14;

pub(super) fn examine(files: &[PathBuf]) -> Vec<Finding> {
    files.iter().map(|file| of_file(file)).collect()
}

fn of_file(file: &Path) -> Finding {
    let subject = format!("certificate {}", file.display());
    match first_end(file) {
        Ok(ends) => judge(&subject, ends),
        Err(error) => {
            let mend = "put a certificate there as PEM, which this user may read";
            Finding::new(Severity::Error, subject, format!("{error:#}"), mend)
        }
    }
}

/// Judges by when it ends.
pub(super) fn judge(subject: &str, ends: OffsetDateTime) -> Finding {
    let days = (ends - clocks::now()).whole_days();
    let date = ends.date();
    let mend =
        "put a new one in its place; workers take it up by themselves, nats-server on reload";
    if ends <= clocks::now() {
        Finding::new(Severity::Error, subject, format!("it ended on {date}"), mend)
    } else if days < SOON_DAYS {
        let what = format!("it ends in {days} days, on {date}");
        Finding::new(Severity::Warning, subject, what, mend)
    } else {
        fine(subject, format!("it ends on {date}"))
    }
}

/// Returns when the first of the certificates of a file ends.
fn first_end(file: &Path) -> Result<OffsetDateTime> {
    let all = CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>()?;
    let ends = all.iter().map(|certificate| end(certificate).context("no certificate"));
    let ends = ends.collect::<Result<Vec<_>>>()?;
    ends.into_iter().min().context("it holds no certificate")
}

/// Returns the second time of the field `validity` of a certificate (RFC 5280, 4.1).
fn end(certificate: &[u8]) -> Option<OffsetDateTime> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    let (first, _, rest) = element(fields)?;
    if first == VERSION {
        fields = rest;
    }
    // The serial number, the algorithm and the issuer stand before.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (tag, validity, _) = element(fields)?;
    let (_, _, rest) = element(validity)?;
    let (kind, time, _) = element(rest)?;
    (tag == SEQUENCE).then_some(())?;
    time_of(kind, std::str::from_utf8(time).ok()?)
}

fn time_of(kind: u8, text: &str) -> Option<OffsetDateTime> {
    const UTC_TIME: u8 = 0x17;
    let format = format_description!("[year][month][day][hour][minute][second]Z");
    // Of two digits those from 50 on are of the last century.
    let century = match (kind, text.get(..2)?) {
        (UTC_TIME, year) if year >= "50" => "19",
        (UTC_TIME, _) => "20",
        _ => "",
    };
    let time = PrimitiveDateTime::parse(&format!("{century}{text}"), format).ok()?;
    Some(time.assume_utc())
}

/// Returns the tag and the content of the first element of DER, and what stands behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        // A certificate is not longer than four of them can tell.
        let length = (digits.len() <= 4)
            .then(|| digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)))?;
        (length, rest)
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_from_it() {
        for (year, severity) in
            [(2020, Severity::Error), (2049, Severity::Fine), (2999, Severity::Fine)]
        {
            let mut parameters = CertificateParams::new(vec!["brigade".into()]).unwrap();
            parameters.not_after = date_time_ymd(year, 3, 4);
            let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("cert.pem");
            std::fs::write(&file, certificate.pem()).unwrap();
            let ends = first_end(&file).unwrap();
            assert_eq!((ends.year(), ends.day()), (year, 4));
            assert_eq!(of_file(&file).severity, severity, "{year}");
            // Whatever is cut off is refused, and never read beyond its end.
            let der = certificate.der();
            assert!((0..der.len().min(200)).all(|length| end(&der[..length]).is_none()));
        }
        assert_eq!(of_file(Path::new("/no/such/file")).severity, Severity::Error);
    }
}
