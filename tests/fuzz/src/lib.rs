//! Fuzz targets: what decodes bytes that come from outside, with what has to hold of them. None may
//! panic, and what was decoded is encoded to something that decodes to the same.
//!
//! The corpus (`corpus/<target>/`) keeps what was found and a few good inputs; `cargo test` runs all
//! of it, beside the golden messages of the contract. `just fuzz` looks for more.

mod commands;
mod texts;
mod values;
mod wire;

/// A target's name, which is its folder in the corpus, and what takes the bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 10] = [
    // What nats-server sends on a connection, cut anywhere.
    ("wire", wire::operations),
    // A message of a sender: subject, reply, header block, payload.
    ("message", wire::message),
    // A command with its headers, as command-handler decodes it.
    ("command", commands::command),
    // A payload, by aggregate and verb.
    ("payload", commands::payload),
    // A query's subject and headers.
    ("query", commands::query),
    // A message of a payment gateway: its signature, and what it says.
    ("gateway", texts::gateway),
    // `If-None-Match`.
    ("etag", texts::etag),
    // A position in the list of orders, as `Resume` and `Last-Event-ID` bring it.
    ("position", texts::position),
    // Tokens, times, addresses, ids of commands and what else is made of a line.
    ("text", texts::text),
    // Values of KV, payloads of events and timers, by their names in the golden messages.
    ("value", values::value),
];

/// Splits off the first line.
fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n');
    end.map_or((bytes, &[]), |end| (&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let read = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        entries.map(|entry| read(entry.unwrap())).collect()
    }

    #[test]
    fn each_target_bears_its_corpus() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, target) in TARGETS {
            let found = files(&here.join("corpus").join(name));
            assert!(!found.is_empty(), "{name} has no corpus");
            for (file, bytes) in found {
                println!("{name}: {file}");
                // Whole, and cut off everywhere.
                (0..=bytes.len().min(2000)).for_each(|end| target(&bytes[..end]));
                target(&bytes);
            }
        }
    }

    /// The golden messages are values that decode: the target is no empty one.
    #[test]
    fn golden_messages_are_values() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/golden/v1");
        let mut decoded = 0;
        for (file, bytes) in files(&golden) {
            let name = file.strip_suffix(".json").unwrap();
            if let Some(command) = name.strip_prefix("command.") {
                let input = [command.as_bytes(), b"\n", &bytes].concat();
                assert!(commands::decoded(&input).is_some(), "{name}");
            } else if values::is_known(name) {
                let input = [name.as_bytes(), b"\n", &bytes].concat();
                assert!(values::decoded(&input), "{name}");
                decoded += 1;
            }
        }
        assert!(decoded > 30, "{decoded} values");
    }
}
