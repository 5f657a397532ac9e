//! Lines on stdout, for a reader who may go away, as `brigade dlq ls | head` does.

use std::{
    error::Error,
    fmt,
    io::{ErrorKind, Write, stdout},
};

use anyhow::Result;

/// The end of a command whose reader has gone away.
#[derive(Debug)]
pub struct Unread;

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads what is printed")
    }
}

impl Error for Unread {}

/// Prints a line.
///
/// # Errors
/// [`Unread`] if the reader has gone away, which ends a command that only prints, and ends it well.
pub fn line(line: fmt::Arguments<'_>) -> Result<()> {
    writeln!(stdout(), "{line}").map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Unread.into(),
        _ => error.into(),
    })
}

/// Prints a line of a command that acts, and goes on acting without a reader.
///
/// # Errors
/// If stdout cannot be written for another reason.
pub fn progress(text: fmt::Arguments<'_>) -> Result<()> {
    line(text).or_else(|error| if error.is::<Unread>() { Ok(()) } else { Err(error) })
}
