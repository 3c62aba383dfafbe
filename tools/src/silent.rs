//! Brokers that did not answer, beside those that did.

use equeue_client::BrokerResult;
use serde::Serialize;

use crate::output::Output;

/// A broker that did not answer.
#[derive(Serialize)]
pub(crate) struct Silent {
    broker: String,
    error: String,
}

/// What each broker answered, by its name, and those that did not.
pub(crate) fn sort_out<T>(answers: Vec<BrokerResult<T>>) -> (Vec<(String, T)>, Vec<Silent>) {
    let (mut known, mut silent) = (Vec::new(), Vec::new());
    for answer in answers {
        let broker = answer.broker.to_string();
        match answer.result {
            Ok(value) => known.push((broker, value)),
            Err(error) => silent.push(Silent { broker, error: error.to_string() }),
        }
    }
    (known, silent)
}

/// Tells of those that did not, for people.
pub(crate) fn tell_silent(output: &mut Output, silent: &[Silent]) -> anyhow::Result<()> {
    for Silent { broker, error } in silent {
        output.line(format!("broker {broker} did not answer: {error}"))?;
    }
    Ok(())
}
