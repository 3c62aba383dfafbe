//! How a command ends: which exit code, and what is said about it on stderr.
//!
//! Commands return `anyhow::Result`; the marker errors here, anywhere in the chain, choose the exit code:
//! 0 done, 1 failed, 2 wrong usage.

use std::io::Write as _;
use std::process::ExitCode;

use thiserror::Error;

/// The command line or a setting is wrong: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The command failed and has already said all there is to say: exit code 1 in silence.
#[derive(Debug, Error)]
#[error("failed")]
pub(crate) struct Told;

/// Whoever read our stdout has gone (`equeue ... | head`): no error, nothing more to do.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(crate) struct OutputClosed;

/// Says what went wrong, if anything did, and chooses the exit code.
pub(crate) fn conclude(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if error.chain().any(<dyn std::error::Error>::is::<OutputClosed>) {
        return ExitCode::SUCCESS;
    }
    if !error.chain().any(<dyn std::error::Error>::is::<Told>) {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "equeue: {}", in_one_line(&error));
    }
    if error.chain().any(<dyn std::error::Error>::is::<Usage>) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// The chain of causes, outermost first; a cause whose text its parent already shows is left out.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("cannot read a.toml: no such file");
        assert_eq!(in_one_line(&error), "cannot read a.toml: no such file");
        let error = anyhow::anyhow!("no such file").context("cannot read a.toml");
        assert_eq!(in_one_line(&error), "cannot read a.toml: no such file");
    }

    #[test]
    fn markers_choose_the_exit_code() {
        let code = |error: anyhow::Error| format!("{:?}", conclude(Err(error)));
        let is = |code: ExitCode| format!("{code:?}");
        assert_eq!(code(Usage("no".into()).into()), is(ExitCode::from(2)));
        assert_eq!(code(Told.into()), is(ExitCode::FAILURE));
        assert_eq!(code(anyhow::anyhow!("broken")), is(ExitCode::FAILURE));
        let closed = Err::<(), _>(OutputClosed).context("cannot print");
        assert_eq!(format!("{:?}", conclude(closed)), is(ExitCode::SUCCESS));
    }
}
