//! `bench storage`: the commit log alone on an executor of its own, without a network.

use anyhow::Result;

use crate::cli::StorageArgs;
use crate::report::Report;

pub(crate) fn measure(args: &StorageArgs) -> Result<Report> {
    anyhow::bail!("this build cannot measure the log alone: {args:?}")
}
