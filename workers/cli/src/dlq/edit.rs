use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use brigade::{
    operations::dead_letters::{DeadLetters, Edit, EditedCommand},
    runtime::delivery::pairs,
};
use bytes::Bytes;

use super::args::EditArgs;
use crate::{
    output::{line, progress},
    printable::printable,
};

/// Sends a command as an operator has edited it.
pub(super) async fn run(letters: &DeadLetters, args: EditArgs) -> Result<()> {
    let by = args.by.name();
    let letter = letters.get(args.number).await?;
    let payload = letters.payload(args.number).await?;
    let set = args.header.into_iter().map(|(name, value)| (name, Some(value)));
    let edit = Edit {
        subject: args.subject,
        headers: args.without_header.into_iter().map(|name| (name, None)).chain(set).collect(),
        payload: args.payload.as_deref().map(read).transpose()?,
        command_id: args.command_id,
    };
    let edited = EditedCommand::new(&letter, &payload, edit).context("it cannot be sent so")?;
    let subject = printable(&edited.subject);
    if args.dry_run {
        letters.check_edited(&letter).await?;
        line(format_args!("would be sent: {subject}"))?;
        for (name, value) in pairs(Some(&edited.headers)) {
            line(format_args!("{}: {}", printable(name), printable(value)))?;
        }
        line(format_args!(""))?;
        return line(format_args!("{}", printable(&String::from_utf8_lossy(&edited.payload))));
    }
    letters.send_edited(&letter, &edited, &args.because, &by).await?;
    let id = &edited.command_id;
    progress(format_args!("replayed {} {subject} as {id}", letter.number))
}

fn read(file: &Path) -> Result<Bytes> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)?;
    } else {
        bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(bytes.into())
}
