//! What the callback of a producer is told: once per batch, since the messages of a batch share their fate.

use super::completion::{BatchReceipt, of_message};
use crate::{Receipt, SendError};

/// What became of messages that were sent with tokens: those of one batch, in the order in which they were taken.
///
/// To iterate gives each token with the message's own outcome; who needs less reads [`Outcomes::tokens`] and
/// [`Outcomes::error`], which cost nothing per message.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes<'a> {
    /// Index in the batch, and token.
    tokens: &'a [(u32, u64)],
    outcome: Result<&'a BatchReceipt, &'a SendError>,
}

impl<'a> Outcomes<'a> {
    pub(crate) fn new(tokens: &'a [(u32, u64)], outcome: &'a Result<BatchReceipt, SendError>) -> Self {
        Self { tokens, outcome: outcome.as_ref() }
    }

    /// The messages' tokens.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = u64> + use<'a> {
        self.tokens.iter().map(|(_, token)| *token)
    }

    /// Why none of them is acknowledged; `None`: all are.
    pub fn error(&self) -> Option<&'a SendError> {
        self.outcome.err()
    }

    /// Each token with its message's outcome.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, Result<Receipt, SendError>)> + use<'a> {
        let outcome = self.outcome;
        self.tokens.iter().map(move |(index, token)| (*token, of_message(outcome, *index)))
    }
}
