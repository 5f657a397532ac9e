//! What is wrong, in words for an operator: what, and how it is mended.

use std::cmp::Reverse;

use serde::Serialize;

/// How bad it is. The number is the exit code of the command that found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Fine = 0,
    /// It works, and somebody should look.
    Warning = 1,
    /// Something is not done that should be, or may be lost.
    Error = 2,
    /// Nothing could be found out.
    Unreachable = 3,
}

impl Severity {
    /// Returns the worst of some findings.
    #[must_use]
    pub fn worst(findings: &[Finding]) -> Self {
        findings.iter().map(|finding| finding.severity).max().unwrap_or(Self::Fine)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Unreachable => "unreachable",
        }
    }

    #[must_use]
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The worker, the server or the setting that it is about.
    pub subject: String,
    pub what: String,
    /// What to do.
    pub mend: String,
    /// Of equal severity the higher rank comes first.
    #[serde(skip)]
    pub rank: u8,
}

impl Finding {
    #[must_use]
    pub fn new(
        severity: Severity,
        subject: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let (subject, what, mend) = (subject.into(), what.into(), mend.into());
        Self { severity, subject, what, mend, rank: 0 }
    }

    #[must_use]
    pub fn ranked(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

/// Sorts findings, the worst first.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| Reverse((finding.severity, finding.rank)));
}

/// Returns the finding that a server cannot be asked.
#[must_use]
pub fn unreachable(server: &str, error: &anyhow::Error) -> Finding {
    let variable = if server == "nats" { "BRIGADE_NATS_URL" } else { "BRIGADE_DATABASE_URL" };
    let mend = format!("see whether it runs, and whether {variable} is right");
    Finding::new(Severity::Unreachable, server, format!("{error:#}"), mend)
}
